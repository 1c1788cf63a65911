//! Runs, read from their logs.

use std::path::PathBuf;
use std::sync::Arc;

use headstart_console::color::{Ink, paint};
use headstart_console::errln;
use headstart_core::{Event, EventKind, RunOutcome, RunState, Status};
use headstart_driver::RunHeader;
use headstart_dsl::plan::Plan;
use headstart_protocol::text::similar;
use headstart_report::{FailureView, StageState};
use headstart_store::{RunInfo, Workspace};

use crate::exit::CommandError;

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

    /// When it began, in UTC.
    pub fn started(&self) -> String {
        time(self.events.first().map_or(0, |e| e.at_ms))
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
pub fn read(ws: &Workspace, id: &str) -> Result<Recorded, CommandError> {
    let RunHeader { pipeline, source_dir, plan, .. } = headstart_driver::read_header(ws, id)?;
    let plan: Arc<Plan> = Arc::new(plan);
    let events: Vec<Event> = ws.read_run(id)?;
    let state = RunState::replay(plan.clone(), &events)
        .map_err(|e| CommandError::internal(format!("the log of run {id} contradicts itself: {e}")))?;
    Ok(Recorded { id: id.to_owned(), pipeline, source_dir, plan, events, state, live: ws.is_live(id) })
}

/// The runs of these, as far as they can be read. One that cannot be read is named in a warning and
/// hides no other.
pub fn readable<'a>(
    ws: &'a Workspace,
    infos: impl IntoIterator<Item = RunInfo> + 'a,
) -> impl Iterator<Item = Recorded> + 'a {
    infos.into_iter().filter_map(|info| match read(ws, &info.id) {
        Ok(run) => Some(run),
        Err(e) => {
            warn_unreadable(&info.id, &e);
            None
        }
    })
}

/// Warns of a run that cannot be read.
pub fn warn_unreadable(id: &str, e: &CommandError) {
    errln!("{}: run {id} cannot be read: {}", paint(Ink::Warning, "warning"), e.message());
}

/// The run of this prefix; without one, the latest.
///
/// # Errors
/// If there is no such run, or several.
pub fn find(ws: &Workspace, prefix: Option<&str>) -> Result<RunInfo, CommandError> {
    let mut runs = ws.runs();
    let Some(prefix) = prefix else {
        return runs.pop().ok_or_else(|| {
            CommandError::input("this workspace has no runs").help("`headstart run FILE` makes one")
        });
    };
    let ids: Vec<String> = runs.iter().map(|r| r.id.clone()).collect();
    let mut matching: Vec<RunInfo> = runs.into_iter().filter(|r| r.id.starts_with(prefix)).collect();
    if let Some(exact) = matching.iter().position(|r| r.id == prefix) {
        return Ok(matching.swap_remove(exact));
    }
    match matching.len() {
        0 => {
            let help = similar(prefix, ids.iter().map(String::as_str));
            let help =
                help.map_or("`headstart runs` lists them".to_owned(), |c| format!("did you mean `{c}`?"));
            Err(CommandError::input(format!("no run begins with `{prefix}`")).help(help))
        }
        1 => Ok(matching.swap_remove(0)),
        n => {
            let some: Vec<&str> = matching.iter().take(5).map(|r| r.id.as_str()).collect();
            Err(CommandError::input(format!("{n} runs begin with `{prefix}`"))
                .help(format!("such as {}", some.join(", "))))
        }
    }
}

/// Unix milliseconds, for people.
pub fn time(ms: u64) -> String {
    let stamp = jiff::Timestamp::from_millisecond(i64::try_from(ms).unwrap_or(0)).unwrap_or_default();
    stamp.strftime("%Y-%m-%d %H:%M UTC").to_string()
}
