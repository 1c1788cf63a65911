//! The list of runs: each is read once, and again when it has changed.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use headstart_core::{Counts, EventKind};
use headstart_history::Recorded;
use headstart_store::{RunInfo, Workspace};

/// A run in the list.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) id: String,
    pub(crate) pipeline: String,
    pub(crate) started_ms: u64,
    pub(crate) seconds: f64,
    pub(crate) outcome: &'static str,
    pub(crate) counts: Counts,
    /// Seconds that stages taken from the cache had taken when they were computed.
    pub(crate) saved_seconds: f64,
    pub(crate) params: BTreeMap<String, String>,
    /// Whether it has a catalog among its outputs.
    pub(crate) has_catalog: bool,
    /// Why it cannot be read, where it cannot.
    pub(crate) problem: Option<String>,
}

/// What says whether a run has changed.
type Stamp = (SystemTime, u64, bool);

/// All runs of a workspace.
pub(crate) struct Index {
    ws: Workspace,
    known: Mutex<HashMap<String, (Stamp, Arc<Row>)>>,
}

impl Index {
    pub(crate) fn new(ws: Workspace) -> Self {
        Self { ws, known: Mutex::default() }
    }

    /// The newest runs, newest first, at most so many, and how many there are in all.
    pub(crate) fn newest(&self, most: usize) -> (Vec<Arc<Row>>, usize) {
        let infos = self.ws.runs();
        let count = infos.len();
        (infos.iter().rev().take(most).map(|info| self.row(info)).collect(), count)
    }

    fn row(&self, info: &RunInfo) -> Arc<Row> {
        let stamp = (info.changed, info.log_bytes, info.live);
        {
            let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some((at, row)) = known.get(&info.id)
                && *at == stamp
            {
                return Arc::clone(row);
            }
        }
        let row = Arc::new(match headstart_history::read(&self.ws, &info.id) {
            Ok(run) => Row::of(&run),
            Err(e) => Row::unreadable(info, e.to_string()),
        });
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.insert(info.id.clone(), (stamp, Arc::clone(&row)));
        row
    }
}

impl Row {
    pub(crate) fn of(run: &Recorded) -> Self {
        let saved = |kind: &EventKind| match kind {
            EventKind::CacheHit { saved_seconds, .. } => *saved_seconds,
            _ => 0.0,
        };
        Self {
            id: run.id.clone(),
            pipeline: run.pipeline.clone(),
            started_ms: run.started_ms(),
            seconds: run.seconds(),
            outcome: run.outcome(),
            counts: run.state.counts(),
            saved_seconds: run.events.iter().map(|e| saved(&e.kind)).sum(),
            params: run.plan.params.clone(),
            has_catalog: run.plan.items.iter().any(|i| i.kind == "decompose"),
            problem: None,
        }
    }

    fn unreadable(info: &RunInfo, problem: String) -> Self {
        let started = info.created.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Self {
            id: info.id.clone(),
            pipeline: String::new(),
            started_ms: u64::try_from(started.as_millis()).unwrap_or(u64::MAX),
            seconds: 0.0,
            outcome: "unreadable",
            counts: Counts::default(),
            saved_seconds: 0.0,
            params: BTreeMap::new(),
            has_catalog: false,
            problem: Some(problem),
        }
    }
}
