//! Models, rows and spaces.

use serde::{Deserialize, Serialize};

use super::Artifact;

/// Facts of a model.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelFacts {
    /// The type that its configuration states, such as `llama`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model_type: Option<String>,
    /// Numbers in its tensors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parameters: Option<u64>,
}

impl Artifact for ModelFacts {
    const WHAT: &'static str = "a model";
}

/// Facts of a dataset, or of the answers of a model.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rows {
    /// Rows in it.
    #[serde(default, alias = "n")]
    pub rows: usize,
    /// Of answers: tokens of an answer at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<usize>,
    /// Of answers: the temperature that they were sampled with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f64>,
    /// Of answers: the seed that they were sampled with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
}

impl Artifact for Rows {
    const WHAT: &'static str = "rows";
}

impl Rows {
    /// A dataset of so many rows.
    pub fn dataset(rows: usize) -> Self {
        Self { rows, ..Self::default() }
    }
}

/// What a space is. Its model lies in the artifact itself or is what the artifact uses as `model`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SpaceFacts {
    /// Its kind.
    pub kind: SpaceKind,
    /// Of a summarizer: the orders in which two answers are shown.
    #[serde(default, skip_serializing_if = "Orders::is_both")]
    pub orders: Orders,
}

impl Artifact for SpaceFacts {
    const WHAT: &'static str = "a space";
}

impl SpaceFacts {
    /// A space of a kind.
    pub fn new(kind: SpaceKind) -> Self {
        Self { kind, orders: Orders::Both }
    }
}

/// The kinds of space.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SpaceKind {
    /// A sentence encoder's vector of each answer, subtracted.
    Sentence,
    /// A causal model's mean hidden state over each answer, subtracted.
    Pooled,
    /// The published method: what would follow the question which style is more characteristic.
    Summarizer,
}

impl SpaceKind {
    /// As a pipeline file and an artifact spell it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sentence => "sentence",
            Self::Pooled => "pooled",
            Self::Summarizer => "summarizer",
        }
    }
}

/// Orders in which a summarizer is shown two answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Orders {
    /// Both, halved and subtracted.
    #[default]
    Both,
    /// The described answer first.
    Forth,
}

impl Orders {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
    fn is_both(&self) -> bool {
        *self == Self::Both
    }
}
