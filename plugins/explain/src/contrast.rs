//! Two answers to a prompt, and how their wording differs.

use crate::stylometry::features;

/// Two answers to a prompt.
#[derive(Clone, Copy, Debug)]
pub struct Contrast<'a> {
    /// The prompt.
    pub prompt: &'a str,
    /// The answer whose style is described.
    pub answer: &'a str,
    /// The answer that it is compared with.
    pub plain: &'a str,
}

/// Features of the answer minus features of the plain answer.
pub fn feature_difference(pair: &Contrast<'_>) -> Vec<f32> {
    let (a, b) = (features(pair.answer), features(pair.plain));
    a.iter().zip(&b).map(|(a, b)| a - b).collect()
}
