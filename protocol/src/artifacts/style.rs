//! Styles in words.

use serde::{Deserialize, Serialize};

/// A style word with its coefficient.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Coefficient {
    /// The word.
    pub word: String,
    /// How strongly, 1 as in the lexicon's examples; negative is the opposite.
    pub coefficient: f64,
    /// Lower end of the 95% interval, over prompts and, where the method is sparse, over the examples that
    /// the word's atom was averaged from.
    pub low: f64,
    /// Its upper end.
    pub high: f64,
}

impl Coefficient {
    /// How strong the word is at least, as far as the interval tells: its end that is nearer to zero.
    pub fn surely(&self) -> f64 {
        if self.coefficient < 0.0 { -self.high } else { self.low }
    }

    /// The word as it is meant: `less formal` where the coefficient is negative.
    pub fn said(&self) -> String {
        if self.coefficient < 0.0 { format!("less {}", self.word) } else { self.word.clone() }
    }
}

/// A style in words.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Explanation {
    /// The words, the surest first; with other methods than the sparse one, the strongest first.
    pub words: Vec<Coefficient>,
    /// Share of the divergence's squared length that the words explain, 0 to 1.
    pub explained: f64,
}

impl Explanation {
    /// The coefficient of a word; 0 where the style lacks it.
    pub fn coefficient(&self, word: &str) -> f64 {
        self.words.iter().find(|w| w.word == word).map_or(0.0, |w| w.coefficient)
    }
}
