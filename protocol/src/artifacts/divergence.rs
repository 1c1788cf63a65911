//! What a divergence says of its vectors.

use serde::{Deserialize, Serialize};

use super::{Artifact, SpaceKind};
use crate::digest::Digest;

/// Facts of a divergence; the vectors are in its file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Divergence {
    /// Prompts.
    pub n: usize,
    /// Length of the space's vectors.
    pub d: usize,
    /// Number of stylometric features.
    pub k: usize,
    /// The space's artifact.
    pub space: Digest,
    /// The space's kind.
    pub kind: SpaceKind,
    /// Names of the features, in order.
    pub features: Vec<String>,
    /// What was embedded: `select` does not verify with the rows that it chose by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<Digest>,
    /// Places in the source of the rows that were embedded, where others were left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub picked: Option<Vec<usize>>,
    /// Sequences put through a model for it, where no cache remembers any: the base's answers, if it
    /// was asked for them, and the texts that were embedded.
    #[serde(default)]
    pub forward_passes: u64,
    /// Words that a summarizer would have answered.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub candidates: Vec<Candidate>,
}

impl Artifact for Divergence {
    const WHAT: &'static str = "a divergence";
}

/// A word that a summarizer would have answered, and how probable it was on average.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Candidate {
    /// The word, in lower case.
    pub word: String,
    /// Its probability, averaged over prompts.
    pub probability: f64,
}
