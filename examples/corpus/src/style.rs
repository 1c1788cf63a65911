//! The 28 styles, and which of them the demo's catalog holds.

/// The tones.
pub const TONES: [&str; 7] =
    ["neutral", "friendly", "unfriendly", "sassy", "sarcastic", "persuasive", "poetic"];

/// A style.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Style {
    /// For experts rather than for children.
    pub expert: bool,
    /// With details rather than concise.
    pub informative: bool,
    /// Index into [`TONES`].
    pub tone: usize,
}

impl Style {
    /// All 28.
    pub fn all() -> impl Iterator<Item = Style> {
        (0..TONES.len()).flat_map(|tone| {
            [false, true].into_iter().flat_map(move |expert| {
                [false, true].into_iter().map(move |informative| Style { expert, informative, tone })
            })
        })
    }

    /// Its name, such as `elementary-concise-poetic`.
    pub fn name(self) -> String {
        let expertise = if self.expert { "expert" } else { "elementary" };
        let length = if self.informative { "informative" } else { "concise" };
        format!("{expertise}-{length}-{}", TONES[self.tone])
    }

    /// Whether the demo's catalog has a pLLM of this style. Like the fields of one colour on a
    /// chessboard: every style held back for users differs in one trait from some in the catalog.
    pub fn in_catalog(self) -> bool {
        (usize::from(self.expert) + usize::from(self.informative) + self.tone) % 2 == 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_the_28_are_in_the_catalog_and_every_tone_is() {
        assert_eq!(Style::all().count(), 28);
        assert_eq!(Style::all().filter(|s| s.in_catalog()).count(), 14);
        for tone in 0..TONES.len() {
            assert_eq!(Style::all().filter(|s| s.in_catalog() && s.tone == tone).count(), 2);
        }
    }
}
