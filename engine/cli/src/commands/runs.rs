//! `headstart runs`: list, show and replay.

use std::sync::{Arc, Mutex, PoisonError};

use headstart_console::color::{Ink, paint, safe};
use headstart_console::{divert, errln, outln, print};
use headstart_core::Status;
use headstart_dsl::plan::Place;
use headstart_protocol::text::bytes;
use headstart_store::{Inventory, Workspace};
use serde_json::json;

use crate::Volume;
use crate::args::{Format, Runs, RunsCommand};
use crate::display::Display;
use crate::exit::CommandError;
use crate::recorded::{Recorded, find, read, started, warn_unreadable};
use crate::summary;

/// Runs the command.
///
/// # Errors
/// If the run cannot be found or read, or something cannot be written.
pub fn run(ws: &Workspace, args: &Runs, volume: Volume) -> Result<(), CommandError> {
    if let Some(RunsCommand::Rm { runs }) = &args.command {
        return remove(ws, runs, volume);
    }
    let Some(prefix) = &args.run else { return list(ws, args.format) };
    let info = find(ws, Some(prefix))?;
    if !args.retry.is_empty() {
        return retry(ws, &info.id, &args.retry);
    }
    let run = read(ws, &info.id)?;
    if let Some(path) = &args.report {
        summary::write_html(ws, &run, path)?;
        if !volume.quiet {
            errln!("wrote the report {}", path.display());
        }
    }
    if args.replay {
        return replay(&run, volume);
    }
    match args.format {
        Format::Json => print_json(&run),
        Format::Text => Ok(print(&summary::terminal(ws, &run)?)?),
    }
}

/// Removes runs: all that are named, or none where one cannot be found.
fn remove(ws: &Workspace, prefixes: &[String], volume: Volume) -> Result<(), CommandError> {
    let found = prefixes.iter().map(|prefix| find(ws, Some(prefix))).collect::<Result<Vec<_>, _>>()?;
    if let Some(live) = found.iter().find(|run| run.live) {
        return Err(CommandError::input(format!("run {} is running, so nothing was removed", live.id))
            .help("stop it with Ctrl-C first, or wait for its end"));
    }
    let ids: std::collections::BTreeSet<&str> = found.iter().map(|run| run.id.as_str()).collect();
    for id in &ids {
        ws.remove_run(id)?;
        if !volume.quiet {
            errln!("removed run {id}");
        }
    }
    // The tables that people query lose it too.
    ws.cache().flush();
    if !volume.quiet {
        errln!(
            "{}: `headstart cache gc` removes results that no run names any more",
            paint(Ink::Help, "note")
        );
    }
    Ok(())
}

/// Has stages tried again when the run is resumed.
fn retry(ws: &Workspace, id: &str, stages: &[String]) -> Result<(), CommandError> {
    let now_ms = headstart_env::Clock::now_ms(&headstart_env::SystemClock::new());
    for stage in stages {
        for name in headstart_driver::request_retry(ws, id, stage, now_ms)? {
            outln!("{name}: tried again when run {id} is resumed")?;
        }
    }
    let pipeline = headstart_driver::read_header(ws, id)?.pipeline;
    errln!("{}: resume it: headstart run {pipeline} --resume {id}", paint(Ink::Help, "help"));
    Ok(())
}

/// Prints what the display of the run said. Here it is the result, so it goes to standard output.
fn replay(run: &Recorded, volume: Volume) -> Result<(), CommandError> {
    let lines = Arc::new(Mutex::new(String::new()));
    let sink = Arc::clone(&lines);
    divert(Some(Box::new(move |line: &str| {
        let mut lines = sink.lock().unwrap_or_else(PoisonError::into_inner);
        lines.push_str(line);
        lines.push('\n');
    })));
    let mut display = Display::recorded(
        &run.plan,
        Volume { quiet: false, ..volume },
        Arc::new(headstart_env::SystemClock::new()),
    );
    run.events.iter().for_each(|e| display.event(e));
    drop(display);
    divert(None);
    let lines = lines.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(print(&lines)?)
}

/// Columns of a run's parameters in the list, at most.
const PARAMS: usize = 80;

fn list(ws: &Workspace, format: Format) -> Result<(), CommandError> {
    let mut rows = Vec::new();
    let mut lines = Vec::new();
    let stored = ws.inventory()?;
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
            let mut row = row_json(&run);
            row["log_bytes"] = info.log_bytes.into();
            row["result_bytes"] = size(&stored, &run).into();
            rows.push(row);
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
            "{:<13}  {}  {outcome}  {took:>11}  {:>9}  {}  {}",
            run.id,
            started(&run),
            bytes(size(&stored, &run)),
            run.pipeline,
            paint(Ink::Quiet, &params)
        );
        lines.push(if params.is_empty() { safe(&line, false).trim_end().to_owned() } else { line });
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

/// Bytes of all results that a run names, and that are in the workspace; those of other runs among them.
fn size(stored: &Inventory, run: &Recorded) -> u64 {
    let outputs = run.state.statuses().filter_map(|(_, status)| match status {
        Status::Done(done) if done.output.private_to.is_none() => Some(done.output.id),
        _ => None,
    });
    stored.bytes_of(&stored.reach(outputs))
}

fn row_json(run: &Recorded) -> serde_json::Value {
    let c = run.state.counts();
    json!({
        "run": run.id, "pipeline": run.pipeline, "started": started(run), "params": run.plan.params,
        "outcome": run.outcome(), "seconds": run.seconds(), "instances": c.total(), "succeeded": c.succeeded,
        "delivered": c.delivered,
        "cached": c.cached, "skipped": c.skipped, "failed": c.failed, "blocked": c.blocked,
    })
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
