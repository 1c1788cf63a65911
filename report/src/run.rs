//! What a report is made from.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A finished run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RunReport {
    /// The run's identity.
    pub run: String,
    /// The pipeline's name.
    pub pipeline: String,
    /// When it began, as text for people; empty where unknown.
    #[serde(default)]
    pub started: String,
    /// Wall-clock seconds from start to end.
    pub seconds: f64,
    /// Counters over all stages, such as `forward_passes`.
    #[serde(default)]
    pub counters: BTreeMap<String, u64>,
    /// Stage instances, in the plan's order.
    #[serde(default)]
    pub stages: Vec<StageBar>,
    /// The pipeline's outputs, in its order.
    #[serde(default)]
    pub outputs: Vec<Output>,
}

/// A stage instance on the time line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StageBar {
    /// The instance's name, such as `said["friendly"]`.
    pub name: String,
    /// The stage kind.
    pub kind: String,
    /// Where it ran: `server`, or a device's name.
    pub place: String,
    /// Seconds from the run's start to the stage's.
    pub start: f64,
    /// Wall-clock seconds.
    pub seconds: f64,
    /// What became of it.
    pub state: StageState,
}

/// What became of a stage instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StageState {
    /// It ran.
    Done,
    /// Its output was known already.
    Cached,
    /// Its `when` was false.
    Skipped,
    /// It failed.
    Failed,
    /// It never came to run.
    NotRun,
}

impl StageState {
    /// The state in a word or two.
    pub fn word(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Cached => "cached",
            Self::Skipped => "skipped",
            Self::Failed => "failed",
            Self::NotRun => "not run",
        }
    }
}

/// An output of the pipeline.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Output {
    /// Its name.
    pub name: String,
    /// Its documentation in the pipeline file; may be empty.
    #[serde(default)]
    pub doc: String,
    /// What it is.
    pub view: OutputView,
}

/// What an output is, by type. A value is the artifact's value, or the part of it that was released.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case")]
pub enum OutputView {
    /// `{"pllms": {name: {"words": [{"word", "coefficient", "low", "high"}], "explained"}}}`, with
    /// `"coordinates": {name: [x, y]}` where the plane is laid out already, and
    /// `"samples": {name: {"prompt", "answer", "base"}}` where answers may be seen.
    Catalog {
        /// The catalog's value.
        value: Value,
    },
    /// `{"pllm_name", "is_mix", "abstained", "confidence", "mix", "distances", "user", "sentence"}`.
    Selection {
        /// The selection's value.
        value: Value,
    },
    /// `{"format", "metrics": {"loss", "start_loss", "steps", "seconds"}, "curve": [[step, loss]]}`.
    Pllm {
        /// The pLLM's value.
        value: Value,
    },
    /// A flat object of numbers.
    Metrics {
        /// The numbers.
        value: Value,
        /// Answers that go with them, where this place may see them.
        #[serde(default)]
        samples: Vec<Sample>,
    },
    /// Anything else, as text.
    Text {
        /// The text.
        value: String,
    },
}

/// What a model answered to a prompt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    /// The prompt.
    pub prompt: String,
    /// What the data says; may be empty.
    #[serde(default)]
    pub reference: String,
    /// What the model said.
    pub answer: String,
}
