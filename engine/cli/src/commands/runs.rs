//! `headstart runs`: list, show and replay.

use std::sync::Arc;

use headstart_core::event::Event;
use headstart_core::state::{RunState, Status};
use headstart_dsl::plan::{Place, Plan};
use headstart_store::{RunInfo, Workspace};

use crate::args::{Format, Runs};
use crate::display::Display;
use crate::exit::CommandError;
use crate::summary;

/// A run, read from its log.
pub struct Recorded {
    /// Its id.
    pub id: String,
    /// Its plan.
    pub plan: Arc<Plan>,
    /// Its events.
    pub events: Vec<Event>,
    /// The fold of the events.
    pub state: RunState,
}

/// Reads a run; a run that is live is read as far as it is.
pub fn read(ws: &Workspace, id: &str) -> Result<Recorded, CommandError> {
    let plan: Arc<Plan> = Arc::new(headstart_driver::run::read_plan(ws, id)?);
    let events: Vec<Event> = ws.read_run(id)?;
    let state = RunState::replay(plan.clone(), &events)
        .map_err(|e| CommandError::internal(format!("the log of run {id} contradicts itself: {e}")))?;
    Ok(Recorded { id: id.to_owned(), plan, events, state })
}

/// The run of this prefix; without one, the latest.
pub fn find(ws: &Workspace, prefix: Option<&str>) -> Result<RunInfo, CommandError> {
    let mut runs = ws.runs();
    let Some(prefix) = prefix else {
        return runs.pop().ok_or_else(|| {
            CommandError::input("this workspace has no runs").help("headstart run FILE makes one")
        });
    };
    let mut fitting: Vec<RunInfo> = runs.into_iter().filter(|r| r.id.starts_with(prefix)).collect();
    match fitting.len() {
        0 => {
            Err(CommandError::input(format!("no run begins with `{prefix}`"))
                .help("headstart runs lists them"))
        }
        1 => Ok(fitting.remove(0)),
        n => Err(CommandError::input(format!("{n} runs begin with `{prefix}`"))),
    }
}

/// Runs the command.
pub fn run(ws: &Workspace, args: &Runs) -> Result<(), CommandError> {
    let Some(prefix) = &args.run else { return list(ws, args.format) };
    let info = find(ws, Some(prefix))?;
    let run = read(ws, &info.id)?;
    if let Some(path) = &args.report {
        summary::write_html(ws, &run, path)?;
    }
    if args.replay {
        let mut display = Display::new(&run.plan);
        run.events.iter().for_each(|e| display.event(e));
        return Ok(());
    }
    match args.format {
        Format::Json => print_json(&run),
        Format::Text => {
            print!("{}", summary::terminal(ws, &run)?);
            Ok(())
        }
    }
}

fn list(ws: &Workspace, format: Format) -> Result<(), CommandError> {
    let mut rows = Vec::new();
    for info in ws.runs() {
        let run = read(ws, &info.id)?;
        let c = run.state.counts();
        let outcome = match (run.state.outcome(), info.live) {
            (Some(o), _) => format!("{o:?}").to_lowercase(),
            (None, true) => "running".to_owned(),
            (None, false) => "interrupted".to_owned(),
        };
        let seconds = seconds(&run.events);
        if format == Format::Json {
            rows.push(serde_json::json!({
                "run": info.id, "outcome": outcome, "seconds": seconds, "instances": c.total(),
                "ran": c.ran, "cached": c.cached, "skipped": c.skipped, "failed": c.failed, "blocked": c.blocked,
            }));
        } else {
            println!(
                "{:<28} {outcome:<12} {seconds:>8.1} s  {:>5} ran  {:>5} cached  {:>3} failed",
                info.id, c.ran, c.cached, c.failed
            );
        }
    }
    if format == Format::Json {
        println!("{}", serde_json::Value::Array(rows));
    }
    Ok(())
}

/// Seconds between the first and the last event.
pub fn seconds(events: &[Event]) -> f64 {
    match (events.first(), events.last()) {
        (Some(a), Some(b)) => b.at_ms.saturating_sub(a.at_ms) as f64 / 1000.0,
        _ => 0.0,
    }
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
            serde_json::json!({
                "name": inst.name, "kind": inst.kind, "place": place, "private": inst.private_to.is_some(),
                "state": status.name(), "seconds": seconds, "counters": counters,
                "key": run.state.key(i), "output": run.state.output(i),
            })
        })
        .collect();
    let outcome = run.state.outcome();
    println!("{}", serde_json::json!({"run": run.id, "outcome": outcome, "instances": instances}));
    Ok(())
}
