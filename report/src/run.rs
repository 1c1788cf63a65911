//! What a report is made from.

use std::collections::BTreeMap;

use headstart_protocol::Type;
use headstart_protocol::artifacts::{Artifact, Catalog, Metrics, ModelFacts, Pllm, Selection};
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
    /// How it ended, in one word; empty where unknown.
    #[serde(default)]
    pub outcome: String,
    /// Values of the pipeline's parameters.
    #[serde(default)]
    pub params: BTreeMap<String, String>,
    /// What failed, and why, in the plan's order.
    #[serde(default)]
    pub failures: Vec<FailureView>,
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

/// Where a stage instance is. One vocabulary for the terminal, JSON and the pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StageState {
    /// It ran, and its output counts.
    Succeeded,
    /// Its device handed in a handle, and alone knows what came of it.
    Delivered,
    /// Its output was known already.
    Cached,
    /// Its `when` was false.
    Skipped,
    /// It failed for good.
    Failed,
    /// Runners were lost on it so often that it is not tried again.
    Quarantined,
    /// Something that it needs failed.
    Blocked,
    /// The run was cancelled before it ended.
    Cancelled,
    /// The engine ended before it did; resuming the run continues it.
    Interrupted,
    /// It is running.
    Running,
    /// It could run, and waits for a runner.
    Ready,
    /// It waits for inputs.
    Waiting,
}

impl StageState {
    /// All states, in the order in which they are listed.
    pub const ALL: [Self; 12] = [
        Self::Succeeded,
        Self::Delivered,
        Self::Cached,
        Self::Skipped,
        Self::Failed,
        Self::Quarantined,
        Self::Blocked,
        Self::Cancelled,
        Self::Interrupted,
        Self::Running,
        Self::Ready,
        Self::Waiting,
    ];

    /// The state in one word, the same as in JSON.
    pub fn word(self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::Delivered => "delivered",
            Self::Cached => "cached",
            Self::Skipped => "skipped",
            Self::Failed => "failed",
            Self::Quarantined => "quarantined",
            Self::Blocked => "blocked",
            Self::Cancelled => "cancelled",
            Self::Interrupted => "interrupted",
            Self::Running => "running",
            Self::Ready => "ready",
            Self::Waiting => "waiting",
        }
    }

    /// Whether it failed for good.
    pub fn is_failure(self) -> bool {
        matches!(self, Self::Failed | Self::Quarantined)
    }
}

/// A stage instance that failed for good.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FailureView {
    /// Its name.
    pub name: String,
    /// How: failed, or quarantined.
    pub state: StageState,
    /// What happened.
    pub message: String,
    /// What to do about it.
    #[serde(default)]
    pub help: Option<String>,
    /// Instances that it blocks.
    #[serde(default)]
    pub blocks: usize,
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
    /// A catalog.
    Catalog {
        /// What it says of itself.
        value: Catalog,
        /// Where each pLLM lies in the plane, where it is laid out already.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        coordinates: BTreeMap<String, (f64, f64)>,
        /// An answer in which each pLLM shows its style, where answers may be seen; the reference is the
        /// base's answer.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        samples: BTreeMap<String, Sample>,
    },
    /// A selection.
    Selection {
        /// What was chosen.
        value: Box<Selection>,
    },
    /// A pLLM.
    Pllm {
        /// What is known of it.
        value: Box<Pllm>,
    },
    /// Named numbers.
    Metrics {
        /// The numbers.
        value: Metrics,
        /// Answers that go with them, where this place may see them.
        #[serde(default)]
        samples: Vec<Sample>,
    },
    /// Rows of a dataset, or answers to the prompts of one.
    Rows {
        /// How many there are.
        rows: u64,
        /// The first of them.
        samples: Vec<Sample>,
    },
    /// Anything else, as text.
    Text {
        /// The text.
        value: String,
    },
}

impl OutputView {
    /// The view of a value of type `ty`. One that cannot be read is shown as the text that says why.
    pub fn of(ty: &Type, value: &Value) -> Self {
        let view = match ty.present() {
            Type::Catalog => Catalog::read(value).map(|value| Self::Catalog {
                value,
                coordinates: BTreeMap::new(),
                samples: BTreeMap::new(),
            }),
            Type::Selection => Selection::read(value).map(|s| Self::Selection { value: Box::new(s) }),
            Type::Pllm => Pllm::read(value).map(|p| Self::Pllm { value: Box::new(p) }),
            Type::Metrics => Metrics::read(value).map(|value| Self::Metrics { value, samples: Vec::new() }),
            Type::Model => ModelFacts::read(value).map(|m| {
                let numbers =
                    m.parameters.into_iter().fold(Metrics::default(), |n, x| n.with("parameters", x));
                Self::Metrics { value: numbers, samples: Vec::new() }
            }),
            _ => return Self::Text { value: value.to_string() },
        };
        view.unwrap_or_else(|e| Self::Text { value: e.to_string() })
    }
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
