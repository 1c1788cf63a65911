//! The summary of a catalog. The catalog itself is in its files.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Artifact, Explanation, SpaceKind};
use crate::digest::Digest;

/// What a catalog says of itself, for people.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Catalog {
    /// Styles by the pLLM's name.
    pub pllms: BTreeMap<String, Explanation>,
    /// Words of the lexicon.
    pub words: usize,
    /// How coefficients were found.
    pub method: String,
    /// The space.
    pub space: Digest,
    /// The space's kind.
    pub kind: SpaceKind,
}

impl Artifact for Catalog {
    const WHAT: &'static str = "a catalog";
}

impl Catalog {
    /// All words of all styles, those with the most weight in all first.
    pub fn by_weight(&self) -> Vec<String> {
        let mut weights: BTreeMap<&str, f64> = BTreeMap::new();
        for w in self.pllms.values().flat_map(|s| &s.words) {
            *weights.entry(&w.word).or_default() += w.coefficient.abs();
        }
        let mut words: Vec<_> = weights.into_iter().collect();
        words.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(b.0)));
        words.into_iter().map(|(w, _)| w.to_owned()).collect()
    }
}
