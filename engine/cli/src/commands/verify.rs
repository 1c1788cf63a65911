//! `headstart verify` and `headstart repair`: damage to the workspace.

use std::process::ExitCode;
use std::time::Duration;

use headstart_console::color::{Ink, paint};
use headstart_console::{errln, outln};
use headstart_driver::{Gone, complete_index, gone};
use headstart_protocol::text::{bytes, counted};
use headstart_store::cache::DamagedCache;
use headstart_store::{Incomplete, Repairs, Report, Workspace};
use indicatif::ProgressBar;
use serde_json::json;

use crate::Volume;
use crate::args::{Format, Verify};
use crate::exit::{CommandError, FAILED, SUCCESS};

/// Artifacts without content that are listed by name.
const LISTED: usize = 10;

/// Runs `headstart verify`.
///
/// # Errors
/// If a folder of the workspace cannot be read.
pub fn verify(ws: &Workspace, args: &Verify, volume: Volume) -> Result<ExitCode, CommandError> {
    let report = read(ws, volume)?;
    let gone = gone(ws)?;
    match args.format {
        Format::Json => outln!("{:#}", report_json(&report, &gone))?,
        Format::Text => {
            show(&report, &gone)?;
            if !report.is_intact() {
                errln!("{}: `headstart repair` repairs what can be repaired", paint(Ink::Help, "help"));
            }
        }
    }
    Ok(ExitCode::from(if report.is_intact() { SUCCESS } else { FAILED }))
}

/// Runs `headstart repair`.
///
/// # Errors
/// If a folder cannot be read, something cannot be removed or written, or an engine is executing a run
/// whose log is damaged.
pub fn repair(ws: &Workspace, args: &Verify, volume: Volume) -> Result<ExitCode, CommandError> {
    let report = read(ws, volume)?;
    let gone = gone(ws)?;
    if args.format == Format::Text {
        show(&report, &gone)?;
    }
    let repairs = ws.repair(&report)?;
    if !report.cache.is_empty() {
        complete_index(ws).map_err(CommandError::input)?;
    }
    match args.format {
        Format::Json => outln!(
            "{:#}",
            json!({ "found": report_json(&report, &gone), "repairs": repairs_json(&repairs) })
        )?,
        Format::Text => show_repairs(&repairs)?,
    }
    let all = repairs.left.is_empty() && repairs.cache.left.is_empty();
    Ok(ExitCode::from(if all { SUCCESS } else { FAILED }))
}

fn read(ws: &Workspace, volume: Volume) -> Result<Report, CommandError> {
    let bar = if volume.quiet { ProgressBar::hidden() } else { ProgressBar::new_spinner() };
    bar.enable_steady_tick(Duration::from_millis(200));
    let report = ws.verify(|read| bar.set_message(format!("{} read", counted(read, "file"))));
    bar.finish_and_clear();
    Ok(report?)
}

fn show(report: &Report, gone: &Gone) -> Result<(), CommandError> {
    let contents = &report.contents;
    outln!(
        "read {} ({}), {}, {}",
        counted(contents.contents, "content"),
        bytes(contents.bytes),
        counted(contents.artifacts, "artifact"),
        counted(report.runs, "run"),
    )?;
    for damaged in report.damaged() {
        outln!("{} {}: {}", paint(Ink::Error, "damaged"), damaged.path.display(), damaged.why)?;
    }
    for run in &report.damaged_runs {
        outln!("{} run {}: {}: {}", paint(Ink::Error, "damaged"), run.id, run.path.display(), run.why)?;
    }
    for damaged in &report.cache {
        outln!("{} the cache: {}: {}", paint(Ink::Error, "damaged"), damaged.path.display(), damaged.why)?;
    }
    let collected = gone.collected.len();
    if collected > 0 {
        let verb = if collected == 1 { "was" } else { "were" };
        outln!("{} that runs name {verb} removed by `headstart cache gc`", counted(collected, "result"))?;
    }
    // Those of which a part is here are named below.
    let incomplete: Vec<&Incomplete> =
        report.incomplete().iter().filter(|a| !gone.collected.contains(&a.id)).collect();
    let missing = gone.missing.iter().filter(|id| !incomplete.iter().any(|a| a.id == **id));
    for id in missing.clone().take(LISTED) {
        outln!("{} {}: a result that a run names", paint(Ink::Warning, "missing"), id.short())?;
    }
    let missing = missing.count();
    if missing > LISTED {
        outln!("… and {} more", counted(missing - LISTED, "result"))?;
    }
    for a in incomplete.iter().take(LISTED) {
        outln!("{} {} {}: the content of {}", paint(Ink::Warning, "missing"), a.ty, a.id.short(), a.file)?;
    }
    if incomplete.len() > LISTED {
        outln!("… and of {} more", counted(incomplete.len() - LISTED, "artifact"))?;
    }
    if !incomplete.is_empty() || missing + collected > 0 {
        outln!("what is missing is made again by the next run that needs it")?;
    }
    if report.is_intact() {
        outln!("nothing is damaged")?;
    }
    Ok(())
}

fn show_repairs(repairs: &Repairs) -> Result<(), CommandError> {
    if !repairs.removed.is_empty() {
        let n = counted(repairs.removed.len(), "damaged file");
        outln!("removed {n}; the next run that needs them makes them again")?;
    }
    for cut in &repairs.cut {
        outln!(
            "run {}: kept {} of its event log and cut {} that cannot be trusted; the log as it was: {}",
            cut.id,
            bytes(cut.kept),
            bytes(cut.lost),
            cut.copy.display()
        )?;
    }
    for (path, aside) in &repairs.cache.repaired {
        match aside {
            Some(aside) => outln!("made {} again; as it was: {}", path.display(), aside.display())?,
            None => outln!("made {} again", path.display())?,
        }
    }
    for left in &repairs.cache.left {
        outln!("{} the cache: {}: {}", paint(Ink::Error, "not repaired"), left.path.display(), left.why)?;
    }
    for run in &repairs.left {
        outln!("{} run {}: {}: {}", paint(Ink::Error, "not repaired"), run.id, run.path.display(), run.why)?;
    }
    Ok(())
}

fn report_json(report: &Report, gone: &Gone) -> serde_json::Value {
    let damaged = report.damaged().iter().map(|d| json!({ "path": d.path, "why": d.why }));
    let runs = report.damaged_runs.iter();
    let runs = runs.map(|r| json!({ "run": r.id, "path": r.path, "why": r.why, "offset": r.offset }));
    let incomplete = report.incomplete().iter();
    let incomplete = incomplete.map(|a| json!({ "artifact": a.id, "type": a.ty, "file": a.file }));
    json!({
        "contents": report.contents.contents, "bytes": report.contents.bytes,
        "artifacts": report.contents.artifacts, "runs": report.runs, "intact": report.is_intact(),
        "damaged": damaged.collect::<Vec<_>>(), "damaged_runs": runs.collect::<Vec<_>>(),
        "incomplete": incomplete.collect::<Vec<_>>(), "cache": damaged_cache(&report.cache),
        "collected": gone.collected.len(), "missing": gone.missing.len(),
    })
}

fn repairs_json(repairs: &Repairs) -> serde_json::Value {
    let cut = repairs.cut.iter();
    let cut = cut.map(|c| json!({ "run": c.id, "kept": c.kept, "cut": c.lost, "copy": c.copy }));
    let cache = repairs.cache.repaired.iter();
    let cache = cache.map(|(path, copy)| json!({ "path": path, "copy": copy }));
    let left = repairs.left.iter().map(|r| json!({ "run": r.id, "path": r.path, "why": r.why }));
    json!({
        "removed": repairs.removed, "cut": cut.collect::<Vec<_>>(), "left": left.collect::<Vec<_>>(),
        "cache": cache.collect::<Vec<_>>(), "cache_left": damaged_cache(&repairs.cache.left),
    })
}

fn damaged_cache(damaged: &[DamagedCache]) -> Vec<serde_json::Value> {
    damaged.iter().map(|d| json!({ "path": d.path, "why": d.why })).collect()
}
