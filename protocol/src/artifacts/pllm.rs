//! Facts of a pLLM.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use super::{Artifact, Metrics};
use crate::digest::Digest;

/// Facts of a pLLM; the weights are in its files, and it uses its `base`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pllm {
    /// What its files hold.
    #[serde(default)]
    pub format: Format,
    /// What training or merging reported.
    #[serde(default)]
    pub metrics: Metrics,
    /// The learning curve: (step, held-back loss).
    #[serde(default, skip_serializing_if = "Vec::is_empty", serialize_with = "whole_steps")]
    pub curve: Vec<(f64, f64)>,
    /// What people say about it, as its folder's `headstart.json` has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub about: Option<Json>,
    /// Of a merge of adapters: what became of each module, by its path.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub modules: BTreeMap<String, MergedModule>,
    /// Of a merge: what it was merged from.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lineage: Vec<Parent>,
}

impl Artifact for Pllm {
    const WHAT: &'static str = "a pLLM";
}

impl Pllm {
    /// A pLLM of which nothing else is known.
    pub fn new(format: Format) -> Self {
        Self {
            format,
            metrics: Metrics::default(),
            curve: Vec::new(),
            about: None,
            modules: BTreeMap::new(),
            lineage: Vec::new(),
        }
    }

    /// How it was trained, where that is known.
    pub fn training(&self) -> Option<Training> {
        Training::of(&self.metrics)
    }
}

/// Steps are whole numbers, and are written as such.
fn whole_steps<S: serde::Serializer>(curve: &[(f64, f64)], to: S) -> Result<S::Ok, S::Error> {
    let whole = |step: f64| if step.fract() == 0.0 { Json::from(step as i64) } else { Json::from(step) };
    to.collect_seq(curve.iter().map(|(step, loss)| (whole(*step), loss)))
}

/// What a pLLM's files hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// An adapter in PEFT's format.
    Lora,
    /// A whole model.
    #[default]
    Full,
}

/// What became of a module in a merge of adapters.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MergedModule {
    /// Rank of the merged product.
    pub rank: usize,
    /// Frobenius norm of what was cut off over that of the exact product; 0 if exact.
    pub error: f64,
}

/// A term of a merge.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Parent {
    /// Its name in the mix.
    pub name: String,
    /// Its weight.
    pub weight: f64,
    /// The pLLM.
    pub id: Digest,
}

/// What a training reports. Losses are in nats a token.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Training {
    /// Held-back loss at the end.
    pub loss: Option<f64>,
    /// Held-back loss at the start.
    pub start_loss: Option<f64>,
    /// Loss of the rows that were trained on, at the end.
    pub train_loss: Option<f64>,
    /// Steps taken.
    pub steps: f64,
    /// Seconds of training.
    pub seconds: Option<f64>,
    /// Tokens put through the model.
    pub tokens: Option<f64>,
    /// Whether the target of `until` was reached; none where there was no target.
    pub reached: Option<bool>,
    /// Numbers that were trained.
    pub trainable: Option<f64>,
    /// Peak learning rate.
    pub learning_rate: Option<f64>,
    /// Rows a step.
    pub batch: Option<f64>,
    /// Rows that were trained on.
    pub rows: Option<f64>,
    /// Rows that were held back.
    pub eval_rows: Option<f64>,
}

impl Training {
    /// Reads the metrics of a pLLM; none where they say nothing of a training.
    pub fn of(m: &Metrics) -> Option<Self> {
        Some(Self {
            steps: m.get("steps")?,
            loss: m.get("loss"),
            start_loss: m.get("start_loss"),
            train_loss: m.get("train_loss"),
            seconds: m.get("seconds"),
            tokens: m.get("tokens"),
            reached: m.get("reached").map(|x| x > 0.0),
            trainable: m.get("trainable"),
            learning_rate: m.get("learning_rate"),
            batch: m.get("batch"),
            rows: m.get("rows"),
            eval_rows: m.get("eval_rows"),
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn facts_of_version_0_1_are_read() {
        let trained = json!({
            "format": "lora", "curve": [[0, 2.5], [10, 1.5]],
            "metrics": { "loss": 1.5, "start_loss": 2.5, "steps": 10, "reached": 0, "seconds": 1.25 },
        });
        let read = Pllm::read(&trained).expect("a trained pLLM");
        let training = read.training().expect("steps");
        assert_eq!((training.steps, training.loss, training.reached), (10.0, Some(1.5), Some(false)));
        assert_eq!((read.format, read.curve[1]), (Format::Lora, (10.0, 1.5)));
        let merged = json!({
            "format": "lora", "metrics": { "error": 0.0 }, "modules": { "q": { "rank": 4, "error": 0.0 } },
            "lineage": [{ "name": "a", "weight": 0.5, "id": "00".repeat(32) }],
        });
        let read = Pllm::read(&merged).expect("a merged pLLM");
        assert_eq!((read.modules["q"].rank, read.training()), (4, None));
        assert!(Pllm::read(&json!({ "format": "zip" })).expect_err("unknown").to_string().contains("format"));
    }
}
