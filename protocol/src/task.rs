//! One attempt of one stage instance, and what became of it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::artifact::ArtifactRef;
use crate::contract::Proposal;
use crate::digest::Digest;
use crate::expr::Expr;
use crate::failure::Failure;
use crate::types::Type;

/// What a runner is asked to do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Task {
    /// The run.
    #[serde(deserialize_with = "crate::capped::name")]
    pub run: String,
    /// The instance's number in the plan.
    pub instance: u32,
    /// Its name, such as `said["friendly"]`.
    #[serde(deserialize_with = "crate::capped::name")]
    pub name: String,
    /// 1 for the first attempt.
    pub attempt: u32,
    /// Globally monotone; a commit with an older fence than the current is superseded.
    pub fence: u64,
    /// The stage kind.
    #[serde(deserialize_with = "crate::capped::name")]
    pub kind: String,
    /// Digest of the program of a custom stage; the stage is the last part of
    /// `kind`. A device runs it only if its owner has allowed a program of this digest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub program: Option<Digest>,
    /// The kind's version.
    pub version: u32,
    /// The type of the output.
    pub ty: Type,
    /// The arguments; no [`Expr::Output`] among them.
    pub args: BTreeMap<String, Expr>,
    /// Run only if this resolves to true; otherwise the output is absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when: Option<Expr>,
    /// Memory limit in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<u64>,
    /// Time limit of the attempt in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
    /// Whether the output is private to the device that runs it.
    pub private: bool,
    /// Parts of a private output that the pipeline releases: field paths; `[]` is the whole.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub release: Vec<Vec<String>>,
    /// Public artifacts to download beforehand, all of them, so that which one is used stays
    /// unknown to the server.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub prefetch: Vec<ArtifactRef>,
    /// All that the run places on this device, for its owner to approve at once. The device does not rely
    /// on it: it finds out by itself what this task needs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proposal: Option<Proposal>,
}

/// A finished attempt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Outcome {
    /// It made its output. `done` in version 0.1.
    #[serde(alias = "done")]
    Succeeded {
        /// The output.
        output: ArtifactRef,
        /// Released parts of a private output, by field path joined with `.` (`""` is the whole).
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        released: BTreeMap<String, Released>,
        /// What it used.
        #[serde(default)]
        usage: Usage,
    },
    /// `when` was false, and may be known to be so.
    Skipped,
    /// It failed. From a private stage only the class and a general message arrive.
    Failed {
        /// Why.
        failure: Failure,
    },
}

/// A part of a private value that was allowed to leave its device.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "is", content = "value", rename_all = "snake_case")]
pub enum Released {
    /// Numbers and truth values, by name.
    Json(serde_json::Value),
    /// An artifact, uploaded whole.
    Artifact(ArtifactRef),
}

/// What an attempt used. From private stages only `seconds` is sent.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Usage {
    /// Wall-clock seconds.
    #[serde(default)]
    pub seconds: f64,
    /// Counters, such as `forward_passes`, `tokens`, `rows_cached`.
    #[serde(
        default,
        skip_serializing_if = "BTreeMap::is_empty",
        deserialize_with = "crate::capped::by_name"
    )]
    pub counters: BTreeMap<String, u64>,
    /// The attempt read an input that is the same as one read before: nothing was computed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unchanged: bool,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_outcome_of_version_0_1_is_read() {
        let output = ArtifactRef { id: Digest::of(b"x"), ty: crate::ArtifactType::Metrics, private_to: None };
        let mut value = json!({ "outcome": "done", "output": output });
        let old: Outcome = serde_json::from_value(value.clone()).expect("an outcome");
        assert!(matches!(&old, Outcome::Succeeded { output: o, .. } if *o == output), "{old:?}");
        let now = serde_json::to_value(&old).expect("JSON");
        assert_eq!(now["outcome"], "succeeded");
        value["outcome"] = json!("succeeded");
        assert_eq!(serde_json::from_value::<Outcome>(value).expect("an outcome"), old);
    }
}
