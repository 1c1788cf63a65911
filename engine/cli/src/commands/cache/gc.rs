//! `headstart cache gc`: removing results that nothing needs.

use headstart_console::color::{Ink, paint};
use headstart_console::{errln, outln};
use headstart_driver::collect::collect;
use headstart_driver::{KeepRules, Survey, survey};
use headstart_env::Clock;
use headstart_protocol::text::{bytes, counted};
use headstart_store::gc::{Collection, choose};
use headstart_store::{StoreError, Workspace};
use serde_json::json;

use crate::Volume;
use crate::args::{Format, Gc};
use crate::exit::CommandError;

/// Runs the command.
///
/// # Errors
/// If a run cannot be read, or something cannot be removed.
pub fn run(ws: &Workspace, args: &Gc, volume: Volume) -> Result<(), CommandError> {
    // Nothing is relied on meanwhile that is not in a log, and nothing is stored.
    let locked = match args.dry_run {
        true => None,
        false => Some(ws.exclusive(|| {
            if !volume.quiet {
                errln!("waiting for another headstart, which is storing results or collecting");
            }
        })?),
    };
    let survey = survey(ws, rules(args), headstart_env::SystemClock::new().now_ms()).map_err(unreadable)?;
    let collected = ws.collected()?;
    let found = choose(&ws.inventory()?, &survey.named(), &collected, args.max_size);
    if let Some(locked) = &locked {
        collect(ws, locked, &survey, &found)?;
        ws.cache().flush();
    }
    drop(locked);
    match args.format {
        Format::Json => outln!("{}", as_json(&found, &survey, args))?,
        Format::Text => show(&found, &survey, args, volume)?,
    }
    Ok(())
}

fn rules(args: &Gc) -> KeepRules {
    let any = args.keep_runs.is_some() || args.keep_days.is_some() || args.max_size.is_some();
    KeepRules { runs: args.keep_runs, days: args.keep_days, others_go: any }
}

/// What a run names that cannot be read is not known, so that anything may be needed.
fn unreadable(e: StoreError) -> CommandError {
    CommandError::from(e).help(
        "nothing was removed, because what this run needs is not known: `headstart repair` repairs it, \
         `headstart runs rm` removes it",
    )
}

fn show(found: &Collection, survey: &Survey, args: &Gc, volume: Volume) -> Result<(), CommandError> {
    for run in survey.runs.iter().filter(|run| found.runs.contains(&run.run)) {
        let verb = if args.dry_run { "would lose" } else { "lost" };
        outln!("run {} {verb} results  {}", run.run, run.pipeline)?;
    }
    let verb = if args.dry_run { "would remove" } else { "removed" };
    outln!(
        "{verb} {} and {}, {}; {} left",
        counted(found.artifacts.len(), "artifact"),
        counted(found.blobs.len(), "file"),
        bytes(found.freed),
        bytes(found.left)
    )?;
    if volume.verbose {
        for run in survey.runs.iter().filter(|run| !run.kept.is_empty()) {
            let why: Vec<&str> = run.kept.iter().map(|why| why.reason()).collect();
            errln!("run {} keeps its results: {}", run.run, why.join("; "));
        }
    }
    if let Some(most) = args.max_size.filter(|most| found.left > *most) {
        errln!(
            "{}: {} are left, more than {}: the rest is kept; `-v` says why",
            paint(Ink::Warning, "warning"),
            bytes(found.left),
            bytes(most)
        );
    }
    Ok(())
}

fn as_json(found: &Collection, survey: &Survey, args: &Gc) -> serde_json::Value {
    let kept = survey.runs.iter().filter(|run| !run.kept.is_empty());
    let kept = kept.map(|run| {
        let why: Vec<&str> = run.kept.iter().map(|why| why.word()).collect();
        json!({ "run": run.run, "why": why })
    });
    json!({
        "dry_run": args.dry_run, "artifacts": found.artifacts.len(), "files": found.blobs.len(),
        "freed_bytes": found.freed, "left_bytes": found.left, "runs": found.runs,
        "kept": kept.collect::<Vec<_>>(),
    })
}
