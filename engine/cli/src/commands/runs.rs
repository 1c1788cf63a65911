//! `headstart runs`: list, show and replay.

use std::path::PathBuf;
use std::sync::Arc;

use headstart_console::color::{Ink, paint, plain};
use headstart_console::{errln, outln, print, suggest};
use headstart_core::event::{Event, EventKind, RunOutcome};
use headstart_core::state::{RunState, Status};
use headstart_driver::run::RunHeader;
use headstart_dsl::plan::{Place, Plan};
use headstart_report::{FailureView, StageState};
use headstart_store::{RunInfo, Workspace};
use serde_json::json;

use crate::Volume;
use crate::args::{Format, Runs};
use crate::display::Display;
use crate::exit::CommandError;
use crate::summary;

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
    let RunHeader { pipeline, source_dir, plan, .. } = headstart_driver::run::read_header(ws, id)?;
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

fn warn_unreadable(id: &str, e: &CommandError) {
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
            let help = suggest::closest(prefix, ids.iter().map(String::as_str));
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

/// Runs the command.
///
/// # Errors
/// If the run cannot be found or read, or something cannot be written.
pub fn run(ws: &Workspace, args: &Runs, volume: Volume) -> Result<(), CommandError> {
    let Some(prefix) = &args.run else { return list(ws, args.format) };
    let info = find(ws, Some(prefix))?;
    let run = read(ws, &info.id)?;
    if let Some(path) = &args.report {
        summary::write_html(ws, &run, path)?;
        if !volume.quiet {
            errln!("wrote the report {}", path.display());
        }
    }
    if args.replay {
        let mut display = Display::new(&run.plan, volume);
        run.events.iter().for_each(|e| display.event(e));
        return Ok(());
    }
    match args.format {
        Format::Json => print_json(&run),
        Format::Text => Ok(print(&summary::terminal(ws, &run)?)?),
    }
}

/// Columns of a run's parameters in the list, at most.
const PARAMS: usize = 80;

fn list(ws: &Workspace, format: Format) -> Result<(), CommandError> {
    let mut rows = Vec::new();
    let mut lines = Vec::new();
    for info in ws.runs() {
        let run = match read(ws, &info.id) {
            Ok(run) => run,
            Err(e) => {
                warn_unreadable(&info.id, &e);
                rows.push(json!({ "run": info.id, "error": e.message() }));
                continue;
            }
        };
        if format == Format::Json {
            rows.push(row_json(&run));
            continue;
        }
        let params: Vec<String> = run.plan.params.iter().map(|(k, v)| format!("{k}={v}")).collect();
        let params = headstart_report::text::cut(&params.join(" "), PARAMS);
        let ink = match run.outcome() {
            "succeeded" => Ink::Good,
            "failed" => Ink::Error,
            _ => Ink::Warning,
        };
        let outcome = paint(ink, &format!("{:<11}", run.outcome()));
        let took = headstart_report::text::seconds(run.seconds());
        let line = format!(
            "{:<13}  {}  {outcome}  {took:>11}  {}  {}",
            run.id,
            run.started(),
            run.pipeline,
            paint(Ink::Quiet, &params)
        );
        lines.push(if params.is_empty() { plain(&line).trim_end().to_owned() } else { line });
    }
    if format == Format::Json {
        return Ok(outln!("{}", serde_json::Value::Array(rows))?);
    }
    if lines.is_empty() {
        errln!("this workspace has no runs that can be read");
        return Ok(());
    }
    Ok(lines.iter().try_for_each(|line| outln!("{line}"))?)
}

fn row_json(run: &Recorded) -> serde_json::Value {
    let c = run.state.counts();
    json!({
        "run": run.id, "pipeline": run.pipeline, "started": run.started(), "params": run.plan.params,
        "outcome": run.outcome(), "seconds": run.seconds(), "instances": c.total(), "succeeded": c.succeeded,
        "cached": c.cached, "skipped": c.skipped, "failed": c.failed, "blocked": c.blocked,
    })
}

/// Unix milliseconds, for people.
pub fn time(ms: u64) -> String {
    let stamp = jiff::Timestamp::from_millisecond(i64::try_from(ms).unwrap_or(0)).unwrap_or_default();
    stamp.strftime("%Y-%m-%d %H:%M UTC").to_string()
}

fn print_json(run: &Recorded) -> Result<(), CommandError> {
    let instances: Vec<_> = run
        .state
        .statuses()
        .map(|(i, status)| {
            let inst = run.state.instance(i);
            let place = match &inst.place {
                Place::Server => "server".to_owned(),
                Place::Device(d) => format!("device {d}"),
            };
            let (seconds, counters) = match status {
                Status::Done(d) => (d.usage.seconds, Some(&d.usage.counters)),
                _ => (0.0, None),
            };
            let (failure, because) = match status {
                Status::Failed(f) => (Some(f), None),
                Status::Blocked { because } => (None, Some(&run.plan.instances[*because as usize].name)),
                _ => (None, None),
            };
            json!({
                "name": inst.name, "kind": inst.kind, "place": place, "private": inst.private_to.is_some(),
                "state": run.stage_state(i, status).word(), "seconds": seconds, "counters": counters,
                "key": run.state.key(i), "output": run.state.output(i), "failure": failure,
                "blocked_by": because,
            })
        })
        .collect();
    let mut all = row_json(run);
    all["failures"] = json!(run.failures());
    all["instances"] = instances.into();
    Ok(outln!("{all}")?)
}
