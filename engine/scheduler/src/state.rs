//! All that is known of a schedule.

use std::collections::{BTreeMap, VecDeque};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::fire::{Entry, Fire, Happened};
use crate::policy::Policy;

/// What is kept of the past.
const HISTORY: usize = 500;
/// The version of the form of a state on disk.
pub(crate) const SCHEMA: u32 = 1;

/// What a server is to do. A state holds what was decided before it is done, so that a restart does it again: starting
/// a run that exists is resuming it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Start a run of this id for this fire.
    Start {
        /// The fire.
        fire: Fire,
        /// The run's id.
        run: String,
    },
    /// Go on with a run that an ended server left behind, or start it if it does not exist yet.
    Resume {
        /// The fire.
        fire: Fire,
        /// The run's id.
        run: String,
    },
    /// Cancel a run.
    Cancel {
        /// The run's id.
        run: String,
    },
}

/// A run that has not ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Running {
    /// What it is for.
    pub fire: Fire,
    /// Its id.
    pub run: String,
}

/// All that is known of a schedule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// The version of this form.
    pub(crate) schema: u32,
    /// The identity of the schedule: its file and its name.
    pub schedule: String,
    /// The pipeline file.
    pub file: String,
    /// Its name.
    pub name: String,
    /// What the file said when it was read last; none where it does not have the schedule any more.
    pub policy: Option<Policy>,
    /// Fires up to this instant were started, skipped, or wait.
    pub(crate) handled: Option<Timestamp>,
    /// Whether somebody paused it.
    pub paused: bool,
    /// Fires that wait, oldest first.
    pub waiting: VecDeque<Fire>,
    /// Runs that have not ended.
    pub running: Vec<Running>,
    /// What was there at the last look for each pattern of `when_changed`, as a digest.
    #[serde(default)]
    pub(crate) seen: BTreeMap<String, String>,
    /// What was found at the last look where that was not the same as before: files may still be written.
    #[serde(skip)]
    pub(crate) settling: BTreeMap<String, String>,
    /// Requests that were taken lately, by id.
    #[serde(default)]
    pub(crate) taken: VecDeque<String>,
    /// What happened lately, oldest first.
    pub history: VecDeque<Entry>,
    /// Whether something was decided that a restart would not decide again. That times without a fire have passed
    /// is no such thing: they pass again.
    #[serde(skip)]
    pub(crate) unsaved: bool,
}

impl State {
    /// A schedule of which nothing is known. `handled`: up to when an earlier version had handled its fires.
    pub fn new(schedule: &str, file: &str, name: &str, handled: Option<Timestamp>) -> Self {
        Self {
            schema: SCHEMA,
            schedule: schedule.to_owned(),
            file: file.to_owned(),
            name: name.to_owned(),
            policy: None,
            handled,
            paused: false,
            waiting: VecDeque::new(),
            running: Vec::new(),
            seen: BTreeMap::new(),
            settling: BTreeMap::new(),
            taken: VecDeque::new(),
            history: VecDeque::new(),
            unsaved: false,
        }
    }

    /// In one word, where it is.
    pub fn word(&self) -> &'static str {
        match self.policy {
            None => "removed",
            _ if self.paused => "paused",
            _ if !self.running.is_empty() => "running",
            _ => "waiting",
        }
    }

    /// The latest end of a run: when, the run, and how.
    pub fn last_ended(&self) -> Option<(Timestamp, &str, &str)> {
        self.history.iter().rev().find_map(|entry| match &entry.happened {
            Happened::Ended { run, outcome, .. } => Some((entry.at, run.as_str(), outcome.as_str())),
            _ => None,
        })
    }

    /// When a run of it succeeded last, as far as the history goes back.
    pub fn last_success(&self) -> Option<Timestamp> {
        let succeeded =
            |e: &&Entry| matches!(&e.happened, Happened::Ended { outcome, .. } if outcome == "succeeded");
        self.history.iter().rev().find(succeeded).map(|e| e.at)
    }

    /// How many fires were skipped, as far as the history goes back.
    pub fn skipped(&self) -> u64 {
        let count = |entry: &Entry| match &entry.happened {
            Happened::Skipped { count, .. } => *count,
            _ => 0,
        };
        self.history.iter().map(count).sum()
    }

    pub(crate) fn note(&mut self, at: Timestamp, happened: Happened) {
        self.unsaved = true;
        self.history.push_back(Entry { at, happened });
        while self.history.len() > HISTORY {
            self.history.pop_front();
        }
    }

    pub(crate) fn skip(&mut self, at: Timestamp, first: Fire, count: u64, why: impl Into<String>) {
        self.note(at, Happened::Skipped { first, count, why: why.into() });
    }

    /// Whether a fire of a time was dealt with already, as far as the history goes back.
    pub(crate) fn knows(&self, fire: &Fire) -> bool {
        let past = |entry: &Entry| match &entry.happened {
            Happened::Started { fire: f, .. } | Happened::Ended { fire: f, .. } => f.is(fire),
            _ => false,
        };
        self.waiting.iter().any(|f| f.is(fire))
            || self.running.iter().any(|r| r.fire.is(fire))
            || self.history.iter().any(past)
    }
}
