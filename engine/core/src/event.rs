//! What happens in a run, as facts. The run's log is a list of these; its state is their fold.
//!
//! One type feeds the log, replay, the terminal and the page. That an instance became ready is not
//! an event: it follows from the outputs of its inputs.

use std::collections::BTreeMap;

use headstart_protocol::Progress;
use headstart_protocol::task::{Released, Usage};
use headstart_protocol::{ArtifactRef, Digest, Failure};
use serde::{Deserialize, Serialize};

/// Something that happened in a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// When, in milliseconds since 1970-01-01 UTC, by the engine's clock.
    pub at_ms: u64,
    /// What happened.
    #[serde(flatten)]
    pub kind: EventKind,
}

impl Event {
    /// An event at a time.
    pub fn new(at_ms: u64, kind: EventKind) -> Self {
        Self { at_ms, kind }
    }
}

/// Released parts of a private output, by field path joined with `.`; `""` is the whole.
pub type ReleasedParts = BTreeMap<String, Released>;

/// What happened.
///
/// From stages that are private to a device, only opaque references, released parts, seconds and
/// classes of failure appear here; never progress, counters or messages of the stage.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum EventKind {
    /// The run began. The first event of every log.
    RunStarted {
        /// The run's identifier.
        run: String,
        /// The name for people: a file or a schedule.
        pipeline: String,
        /// Digest of the plan.
        plan: Digest,
        /// Instances in the plan.
        instances: u32,
    },
    /// The engine was started again and resumed the run where its log ends. A run that was cancelled is live
    /// again.
    RunResumed {},
    /// A device announced itself while the run was waiting or running.
    DeviceJoined {
        /// Its name.
        device: String,
        /// Version of its runner.
        version: String,
    },
    /// The output was found in the stage cache.
    CacheHit {
        /// The instance.
        instance: u32,
        /// Its cache key.
        key: Digest,
        /// The output.
        output: ArtifactRef,
        /// Released parts, where the output is private.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        released: ReleasedParts,
        /// Seconds that the attempt took which made it.
        #[serde(default)]
        saved_seconds: f64,
    },
    /// A runner began an attempt.
    AttemptStarted {
        /// The instance.
        instance: u32,
        /// 1 for the first.
        attempt: u32,
        /// The attempt's fence; higher than every earlier one of the workspace.
        fence: u64,
        /// Who runs it: `local`, or the device's name.
        runner: String,
        /// The cache key, for kinds that have one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        key: Option<Digest>,
        /// When the lease ends unless renewed. Absent for the engine's own threads, which cannot
        /// outlive it. Renewals are not recorded.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        lease_until_ms: Option<u64>,
    },
    /// How far an attempt is. Only a sample of these is in the log.
    Progress {
        /// The instance.
        instance: u32,
        /// The attempt's fence.
        fence: u64,
        /// How far.
        progress: Progress,
    },
    /// The attempt was lost: it ended without an outcome, or its lease was not renewed. A commit under this
    /// fence still counts as long as no other attempt has started.
    LeaseExpired {
        /// The instance.
        instance: u32,
        /// The attempt's fence.
        fence: u64,
        /// Who lost it. Absent from logs of earlier versions.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        cause: Option<LossCause>,
    },
    /// The attempt has saved progress from which the next one resumes. Recorded before the event that ends the
    /// attempt.
    Checkpointed {
        /// The instance.
        instance: u32,
        /// The attempt's fence.
        fence: u64,
    },
    /// The attempt's output counts. At most one for an instance, unless it is invalidated.
    Committed {
        /// The instance.
        instance: u32,
        /// The attempt's fence.
        fence: u64,
        /// The output.
        output: ArtifactRef,
        /// Released parts, where the output is private.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        released: ReleasedParts,
        /// What the attempt used.
        usage: Usage,
    },
    /// A late attempt handed in an outcome that does not count.
    Superseded {
        /// The instance.
        instance: u32,
        /// The late attempt's fence.
        fence: u64,
    },
    /// `when` was false: the output is absent.
    Skipped {
        /// The instance.
        instance: u32,
        /// The attempt's fence, where a device resolved the condition.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        fence: Option<u64>,
    },
    /// An attempt failed, or the instance cannot be attempted.
    Failed {
        /// The instance.
        instance: u32,
        /// The attempt's fence; absent where there was no attempt.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        fence: Option<u64>,
        /// Why.
        failure: Failure,
        /// When it will be tried again; absent if it will not.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        retry_at_ms: Option<u64>,
    },
    /// Runners were lost on it so often that it is not tried again.
    Quarantined {
        /// The instance.
        instance: u32,
        /// How many attempts were lost.
        lost: u32,
    },
    /// It cannot run because something that it needs failed. Follows from the failure; recorded
    /// for readers that do not fold.
    Blocked {
        /// The instance.
        instance: u32,
        /// The instance that failed.
        because: u32,
    },
    /// Its output is gone from where it was; it will run again.
    Invalidated {
        /// The instance.
        instance: u32,
    },
    /// A person has an instance tried again that failed or was quarantined. A run that had ended because of it
    /// has not any more.
    RetryRequested {
        /// The instance.
        instance: u32,
    },
    /// The run was asked to stop.
    CancelRequested {},
    /// The run ended. The last event of a log, unless the run is resumed.
    RunFinished {
        /// How.
        outcome: RunOutcome,
    },
}

/// Who lost an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LossCause {
    /// The stage can have caused it: its process was killed, or its lease ran out while its device was in
    /// contact. Losses of this cause alone quarantine a stage.
    Stage,
    /// The engine ended, or gave the attempt up.
    Engine,
    /// The device went away, was revoked, or was started again.
    Device,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunOutcome {
    /// Everything that was to run did.
    Succeeded,
    /// Something failed.
    Failed,
    /// It was cancelled.
    Cancelled,
}

impl EventKind {
    /// The instance that it is about, if it is about one.
    pub fn instance(&self) -> Option<u32> {
        match self {
            Self::CacheHit { instance, .. }
            | Self::AttemptStarted { instance, .. }
            | Self::Progress { instance, .. }
            | Self::LeaseExpired { instance, .. }
            | Self::Committed { instance, .. }
            | Self::Superseded { instance, .. }
            | Self::Skipped { instance, .. }
            | Self::Failed { instance, .. }
            | Self::Quarantined { instance, .. }
            | Self::Blocked { instance, .. }
            | Self::Checkpointed { instance, .. }
            | Self::RetryRequested { instance }
            | Self::Invalidated { instance } => Some(*instance),
            Self::RunStarted { .. }
            | Self::RunResumed {}
            | Self::DeviceJoined { .. }
            | Self::CancelRequested {}
            | Self::RunFinished { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_flat_json_objects() {
        let e = Event::new(7, EventKind::LeaseExpired { instance: 3, fence: 9, cause: None });
        let text = serde_json::to_string(&e).expect("events serialize");
        assert_eq!(
            text, r#"{"at_ms":7,"event":"lease_expired","instance":3,"fence":9}"#,
            "as version 0.1 has it"
        );
        assert_eq!(serde_json::from_str::<Event>(&text).expect("own text"), e);
        let lost = EventKind::LeaseExpired { instance: 3, fence: 9, cause: Some(LossCause::Device) };
        let text = serde_json::to_string(&lost).expect("events serialize");
        assert!(text.contains(r#""cause":"device""#), "{text}");
        let e = Event::new(8, EventKind::CancelRequested {});
        let text = serde_json::to_string(&e).expect("events serialize");
        assert_eq!(serde_json::from_str::<Event>(&text).expect("own text"), e);
    }
}
