//! What is told.

use std::path::PathBuf;

use headstart_protocol::Digest;
use serde::{Deserialize, Serialize};

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// A run did not succeed.
    Failed,
    /// A run succeeded, and the one of its schedule before had not.
    Recovered,
    /// A run made another catalog than the one of its schedule before.
    NewCatalog,
}

impl Event {
    /// Its word, the same as in JSON.
    pub fn word(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::Recovered => "recovered",
            Self::NewCatalog => "new_catalog",
        }
    }
}

/// Something that somebody wants to know. Receivers get it as JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notice {
    /// What happened.
    pub event: Event,
    /// When, in milliseconds since 1970.
    pub at_ms: u64,
    /// The pipeline file.
    pub file: String,
    /// The schedule.
    pub schedule: String,
    /// The run.
    pub run: String,
    /// How the run ended.
    pub outcome: String,
    /// Why, where it did not succeed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// The catalog, where it is about one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub catalog: Option<Digest>,
}

impl Notice {
    /// The same whenever and however often it is told: receivers tell repetitions by it.
    pub fn id(&self) -> String {
        let what = format!("{}\0{}\0{}\0{}", self.event.word(), self.file, self.schedule, self.run);
        format!("notice_{}", &Digest::of(what.as_bytes()).to_string()[..32])
    }
}

/// A receiver.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum To {
    /// An address to which it is posted.
    Url(String),
    /// A program that gets it on standard input.
    Command(PathBuf),
}
