//! From places of a repaired text to places of the text as written.

/// An edit of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Edit {
    /// First byte of the replaced text.
    pub start: usize,
    /// One past its last byte.
    pub end: usize,
    /// The new text.
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

/// A replaced part of a text.
#[derive(Clone, Debug)]
struct Replaced {
    /// Where in the repaired text.
    at: usize,
    /// How long there.
    len: usize,
    /// How long as written.
    was: usize,
    /// How far into the new text the old one begins, where it is part of it, as in `(a)` for `a`.
    kept: Option<usize>,
}

/// Edits of a text, each behind those before it.
#[derive(Clone, Debug, Default)]
pub(super) struct Places {
    edits: Vec<Replaced>,
}

impl Places {
    /// Records an edit of `text`, which is the text as repaired so far. False where it is not behind the
    /// last one.
    pub fn edited(&mut self, e: &Edit, text: &str) -> bool {
        let behind = self.edits.last().is_none_or(|last| e.start >= last.at + last.len);
        if behind {
            let was = &text[e.start..e.end];
            let kept = e.text.find(was);
            self.edits.push(Replaced { at: e.start, len: e.text.len(), was: was.len(), kept });
        }
        behind
    }

    /// The place in the text as written. Places within inserted text map to its start or end.
    pub fn written(&self, pos: usize) -> usize {
        // Lengths of what was put in and of what was taken out, before the place.
        let (mut new, mut old) = (0, 0);
        for Replaced { at, len, was, kept } in &self.edits {
            if pos < at + len {
                let inside = match kept {
                    Some(lead) => pos.saturating_sub(at + lead).min(*was),
                    None if pos <= *at => 0,
                    None => *was,
                };
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
        assert!(places.edited(&first, text));
        let text = first.apply(text);
        let second = Edit::sure(6, 10, "x");
        assert!(places.edited(&second, &text));
        assert_eq!(second.apply(&text), "ab :: x ef");
        let back: Vec<usize> = [0, 3, 4, 5, 6, 7, 8].map(|p| places.written(p)).to_vec();
        assert_eq!(back, [0, 3, 4, 4, 5, 9, 10]);
        // Kept text inside of an edit maps to where it was.
        let mut wrapped = Places::default();
        assert!(wrapped.edited(&Edit::sure(1, 4, "(éa)"), "xéa"));
        let back: Vec<usize> = [1, 2, 4, 5, 6].map(|p| wrapped.written(p)).to_vec();
        assert_eq!(back, [1, 1, 3, 4, 4]);
        assert!(!places.edited(&Edit::sure(2, 3, ""), &text));
    }
}
