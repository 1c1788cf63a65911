//! A run, read from its log.

use std::path::PathBuf;
use std::sync::Arc;

use headstart_core::{ApplyError, Event, EventKind, RunOutcome, RunState, Status};
use headstart_driver::RunHeader;
use headstart_dsl::plan::Plan;
use headstart_report::{FailureView, StageState};
use headstart_store::{StoreError, Workspace};

/// Why a run cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// Its plan or its log cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Its log holds an event that cannot follow the ones before it.
    #[error("the log of run {run} contradicts itself: {source}")]
    Contradicts {
        /// The run.
        run: String,
        /// What is wrong.
        source: ApplyError,
    },
}

/// A run, read from its log.
pub struct Recorded {
    /// Its id.
    pub id: String,
    /// What was run, for people: the pipeline file, or the file and the schedule.
    pub pipeline: String,
    /// The folder that the file's path is relative to.
    pub source_dir: PathBuf,
    /// Its plan.
    pub plan: Arc<Plan>,
    /// Its events.
    pub events: Vec<Event>,
    /// The fold of the events.
    pub state: RunState,
    /// Whether an engine is executing it.
    pub live: bool,
}

impl Recorded {
    /// How it ended, or where it is: `succeeded`, `failed`, `cancelled`, `running` or `interrupted`.
    pub fn outcome(&self) -> &'static str {
        match self.state.outcome() {
            Some(RunOutcome::Succeeded) => "succeeded",
            Some(RunOutcome::Failed) => "failed",
            Some(RunOutcome::Cancelled) => "cancelled",
            None if self.live => "running",
            None => "interrupted",
        }
    }

    /// Where an instance is. What a run that is over never came to is as the run is.
    pub fn stage_state(&self, instance: u32, status: &Status) -> StageState {
        let over = self.state.outcome().is_some();
        match status {
            Status::Done(d) if d.is_cached() => StageState::Cached,
            Status::Done(d) if d.is_private() => StageState::Delivered,
            Status::Done(_) => StageState::Succeeded,
            Status::Skipped => StageState::Skipped,
            Status::Failed(_) if self.quarantined(instance) => StageState::Quarantined,
            Status::Failed(_) => StageState::Failed,
            Status::Blocked { .. } => StageState::Blocked,
            Status::Waiting | Status::Ready { .. } | Status::Running(_) if over => StageState::Cancelled,
            Status::Running(_) if self.live => StageState::Running,
            Status::Running(_) => StageState::Interrupted,
            Status::Ready { .. } => StageState::Ready,
            Status::Waiting => StageState::Waiting,
        }
    }

    /// Stage instances by state, for people: `3 succeeded, 2 cached`.
    pub fn tally(&self) -> String {
        let mut counts = [0u32; StageState::ALL.len()];
        for (i, status) in self.state.statuses() {
            let state = self.stage_state(i, status);
            counts[StageState::ALL.iter().position(|s| *s == state).unwrap_or_default()] += 1;
        }
        let always =
            |s: StageState| matches!(s, StageState::Succeeded | StageState::Cached | StageState::Skipped);
        let shown = StageState::ALL.iter().zip(counts).filter(|(s, n)| *n > 0 || always(**s));
        shown.map(|(s, n)| format!("{n} {}", s.word())).collect::<Vec<_>>().join(", ")
    }

    /// What failed for good, and why.
    pub fn failures(&self) -> Vec<FailureView> {
        let blocked = |i: u32| {
            let by = |s: &Status| matches!(s, Status::Blocked { because } if *because == i);
            self.state.statuses().filter(|(_, s)| by(s)).count()
        };
        let failed = self.state.statuses().filter_map(|(i, status)| match status {
            Status::Failed(f) => Some(FailureView {
                name: self.plan.instances[i as usize].name.clone(),
                state: self.stage_state(i, status),
                message: f.message.clone(),
                help: f.help.clone(),
                blocks: blocked(i),
            }),
            _ => None,
        });
        failed.collect()
    }

    /// When it began, in milliseconds since 1970.
    pub fn started_ms(&self) -> u64 {
        self.events.first().map_or(0, |e| e.at_ms)
    }

    /// Seconds between its first and its last event.
    pub fn seconds(&self) -> f64 {
        match (self.events.first(), self.events.last()) {
            (Some(a), Some(b)) => b.at_ms.saturating_sub(a.at_ms) as f64 / 1000.0,
            _ => 0.0,
        }
    }

    fn quarantined(&self, instance: u32) -> bool {
        let is = |e: &Event| matches!(e.kind, EventKind::Quarantined { instance: i, .. } if i == instance);
        self.events.iter().any(is)
    }
}

/// Reads a run; a run that is live is read as far as it is.
///
/// # Errors
/// If its plan or its log cannot be read.
pub fn read(ws: &Workspace, id: &str) -> Result<Recorded, HistoryError> {
    let RunHeader { pipeline, source_dir, plan, .. } = headstart_driver::read_header(ws, id)?;
    let plan: Arc<Plan> = Arc::new(plan);
    let events: Vec<Event> = ws.read_run(id)?;
    let state = RunState::replay(plan.clone(), &events)
        .map_err(|source| HistoryError::Contradicts { run: id.to_owned(), source })?;
    Ok(Recorded { id: id.to_owned(), pipeline, source_dir, plan, events, state, live: ws.is_live(id) })
}
