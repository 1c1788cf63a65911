//! What is kept of where a private result comes from.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

/// What is known of where a private result comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lineage {
    /// Different rows at most behind its files; none where nothing private was read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows: Option<u64>,
    /// Of rows that it holds, how many at most are different and have a response.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answered: Option<u64>,
    /// Different rows at most behind each number that its stage declares.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub numbers: BTreeMap<String, u64>,
    /// Files of the data folder, and what else of the owner's, that it was made from.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub sources: BTreeSet<String>,
}

impl Lineage {
    /// Rows at most behind a number; what is not declared may be any of them.
    pub(crate) fn number(&self, name: &str) -> Option<u64> {
        self.numbers.get(name).copied().or_else(|| self.all())
    }

    /// Rows at most behind everything in it.
    pub(crate) fn all(&self) -> Option<u64> {
        self.numbers.values().copied().chain(self.rows).min()
    }
}

/// The smaller of two counts, where there are two.
pub(crate) fn fewest(a: Option<u64>, b: Option<u64>) -> Option<u64> {
    a.into_iter().chain(b).min()
}

/// The learning curve of a pLLM has behind it what this one of its numbers has.
pub(crate) const CURVE: &str = "loss";
