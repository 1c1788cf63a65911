//! From places of a text that was mended to places of the text as it is written.

/// An edit of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Edit {
    /// First byte of what is replaced.
    pub start: usize,
    /// One past its last byte.
    pub end: usize,
    /// What stands there afterwards.
    pub text: String,
    /// Whether it says what was meant. If not it only lets the parse go on.
    pub sure: bool,
}

impl Edit {
    /// An edit that says what was meant.
    pub fn sure(start: usize, end: usize, text: impl Into<String>) -> Self {
        Self { start, end, text: text.into(), sure: true }
    }

    /// An edit that lets the parse go on.
    pub fn guess(start: usize, end: usize, text: impl Into<String>) -> Self {
        Self { start, end, text: text.into(), sure: false }
    }

    /// The text after the edit.
    pub fn apply(&self, text: &str) -> String {
        [&text[..self.start], &self.text, &text[self.end..]].concat()
    }
}

/// Edits of a text, each behind those before it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Places {
    /// Where in the mended text, how long there, how long as written.
    edits: Vec<(usize, usize, usize)>,
}

impl Places {
    /// Notes an edit of the text as mended so far. False where it is not behind the last one.
    pub fn edited(&mut self, e: &Edit) -> bool {
        let behind = self.edits.last().is_none_or(|(at, len, _)| e.start >= at + len);
        if behind {
            self.edits.push((e.start, e.text.len(), e.end - e.start));
        }
        behind
    }

    /// The place in the text as written.
    pub fn written(&self, pos: usize) -> usize {
        // Lengths of what was put in and of what was taken out, before the place.
        let (mut new, mut old) = (0, 0);
        for (at, len, was) in &self.edits {
            if pos < at + len {
                let inside = pos.saturating_sub(*at).min(*was);
                return pos.min(*at) + old - new + inside;
            }
            new += len;
            old += was;
        }
        pos + old - new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_lead_back() {
        let text = "ab = 'cd' ef";
        let mut places = Places::default();
        let first = Edit::sure(3, 4, "::");
        assert!(places.edited(&first));
        let text = first.apply(text);
        let second = Edit::sure(6, 10, "x");
        assert!(places.edited(&second));
        assert_eq!(second.apply(&text), "ab :: x ef");
        let back: Vec<usize> = [0, 3, 4, 5, 6, 7, 8].map(|p| places.written(p)).to_vec();
        assert_eq!(back, [0, 3, 4, 4, 5, 9, 10]);
        assert!(!places.edited(&Edit::sure(2, 3, "")));
    }
}
