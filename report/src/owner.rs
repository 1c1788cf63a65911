//! What a page for the owner of a device is made from.

use serde::{Deserialize, Serialize};

use crate::run::RunReport;

/// What only a device knows, for its owner.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct OwnerReport {
    /// The device's name.
    pub device: String,
    /// What ran on it, and what that made: the selection, pLLMs and metrics with their samples under
    /// the names of the stages that made them.
    pub report: RunReport,
    /// What became of each stage's result, in the order of the report's stages.
    #[serde(default)]
    pub fates: Vec<Fate>,
    /// Everything that left the device, by kind.
    #[serde(default)]
    pub sent: Vec<Sent>,
}

/// What became of a stage's result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fate {
    /// Whether anything of it left the device.
    pub left: bool,
    /// What became of it, in words.
    pub what: String,
}

/// Messages of one kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sent {
    /// What they say.
    pub what: String,
    /// How many.
    pub messages: u64,
    /// Bytes of all of them together.
    pub bytes: u64,
}

impl OwnerReport {
    /// Messages and bytes that left in all.
    pub fn total(&self) -> (u64, u64) {
        self.sent.iter().fold((0, 0), |(n, b), s| (n + s.messages, b + s.bytes))
    }
}
