//! `headstart cache pin` and `unpin`: outputs that no collection removes.

use std::collections::BTreeSet;

use headstart_console::color::{Ink, paint};
use headstart_console::{errln, outln, suggest};
use headstart_core::prepare::output_value;
use headstart_dsl::plan::Output;
use headstart_env::Clock;
use headstart_protocol::Digest;
use headstart_protocol::text::{bytes, quoted};
use headstart_store::Workspace;
use headstart_store::gc::{Exclusive, Pin};

use crate::Volume;
use crate::args::{self, Format};
use crate::exit::CommandError;
use crate::manifests::Store;
use crate::recorded::{self, Recorded};

/// Runs `headstart cache pin`.
///
/// # Errors
/// If the run has no such output, or it is not in the workspace any more.
pub fn pin(ws: &Workspace, args: &args::Pin, volume: Volume) -> Result<(), CommandError> {
    let Some(prefix) = &args.run else { return list(ws, args.format) };
    let run = recorded::read(ws, &recorded::find(ws, Some(prefix))?.id)?;
    let locked = lock(ws, volume)?;
    let new = pins_of(ws, &run, &args.outputs)?;
    ws.change_pins(&locked, |pins| {
        let is_new = |pin: &Pin| new.iter().any(|n| (&n.run, &n.output) == (&pin.run, &pin.output));
        pins.retain(|pin| !is_new(pin));
        pins.extend(new.iter().cloned());
    })?;
    if !volume.quiet {
        let names = quoted(new.iter().map(|pin| &pin.output), 5);
        errln!("pinned {names} of run {}", run.id);
    }
    Ok(())
}

/// Runs `headstart cache unpin`.
///
/// # Errors
/// If nothing like that is pinned.
pub fn unpin(ws: &Workspace, args: &args::Unpin, volume: Volume) -> Result<(), CommandError> {
    let locked = lock(ws, volume)?;
    let pins = ws.pins()?;
    let runs: BTreeSet<&str> =
        pins.iter().map(|pin| pin.run.as_str()).filter(|run| run.starts_with(&args.run)).collect();
    let run = match runs.len() {
        0 => {
            let known = pins.iter().map(|pin| pin.run.as_str());
            return Err(CommandError::input(format!("nothing of run `{}` is pinned", args.run))
                .help(suggest::help(&args.run, "pinned are outputs of", known)));
        }
        1 => runs.first().map(|run| (*run).to_owned()).unwrap_or_default(),
        n => {
            return Err(CommandError::input(format!(
                "outputs of {n} runs that begin with `{}` are pinned",
                args.run
            )));
        }
    };
    let of_run: BTreeSet<&str> =
        pins.iter().filter(|pin| pin.run == run).map(|pin| pin.output.as_str()).collect();
    if let Some(other) = args.outputs.iter().find(|output| !of_run.contains(output.as_str())) {
        return Err(CommandError::input(format!("output `{other}` of run {run} is not pinned"))
            .help(suggest::help(other, "pinned are", of_run.iter().copied())));
    }
    let goes = |pin: &Pin| pin.run == run && (args.outputs.is_empty() || args.outputs.contains(&pin.output));
    ws.change_pins(&locked, |pins| pins.retain(|pin| !goes(pin)))?;
    if !volume.quiet {
        let names = quoted(pins.iter().filter(|pin| goes(pin)).map(|pin| &pin.output), 5);
        errln!("unpinned {names} of run {run}");
    }
    Ok(())
}

/// Nothing may be collected between looking for an output and pinning it, and of two who pin each is to count.
fn lock(ws: &Workspace, volume: Volume) -> Result<Exclusive, CommandError> {
    Ok(ws.exclusive(|| {
        if !volume.quiet {
            errln!("waiting for another headstart, which is storing results or collecting");
        }
    })?)
}

fn list(ws: &Workspace, format: Format) -> Result<(), CommandError> {
    let pins = ws.pins()?;
    let stored = ws.inventory()?;
    let size = |pin: &Pin| stored.bytes_of(&stored.reach(pin.artifacts.iter().copied()));
    if format == Format::Json {
        let rows = pins.iter().map(|pin| {
            serde_json::json!({
                "run": pin.run, "output": pin.output, "pipeline": pin.pipeline, "artifacts": pin.artifacts,
                "pinned": recorded::time(pin.pinned_ms), "bytes": size(pin),
            })
        });
        return Ok(outln!("{}", serde_json::Value::Array(rows.collect()))?);
    }
    if pins.is_empty() {
        errln!("nothing is pinned");
    }
    for pin in &pins {
        let line = format!(
            "{}  {}  {:>9}  {}",
            pin.run,
            recorded::time(pin.pinned_ms),
            bytes(size(pin)),
            pin.output
        );
        outln!("{line}  {}", paint(Ink::Quiet, &pin.pipeline))?;
    }
    Ok(())
}

fn pins_of(ws: &Workspace, run: &Recorded, names: &[String]) -> Result<Vec<Pin>, CommandError> {
    let known = || run.plan.outputs.iter().map(|o| o.name.as_str());
    if let Some(other) = names.iter().find(|name| !known().any(|k| k == *name)) {
        return Err(CommandError::input(format!("run {} has no output `{other}`", run.id))
            .help(suggest::help(other, "it has", known())));
    }
    let pinned_ms = headstart_env::SystemClock::new().now_ms();
    let mut pins = Vec::new();
    for output in run.plan.outputs.iter().filter(|o| names.is_empty() || names.contains(&o.name)) {
        let artifacts = artifacts_of(ws, run, output)?;
        if artifacts.is_empty() && names.is_empty() {
            // A number, or what stays on a device.
            continue;
        }
        if artifacts.is_empty() {
            let why = format!("output `{}` of run {} has no result in this workspace", output.name, run.id);
            return Err(CommandError::input(why));
        }
        pins.push(Pin {
            run: run.id.clone(),
            output: output.name.clone(),
            pipeline: run.pipeline.clone(),
            artifacts,
            pinned_ms,
        });
    }
    if pins.is_empty() {
        return Err(CommandError::input(format!("run {} has no output that could be pinned", run.id)));
    }
    Ok(pins)
}

/// The artifacts of an output.
fn artifacts_of(ws: &Workspace, run: &Recorded, output: &Output) -> Result<BTreeSet<Digest>, CommandError> {
    let gone = |why: &str| {
        CommandError::input(format!("output `{}` of run {} cannot be pinned: {why}", output.name, run.id))
            .help("run the pipeline again: what is missing is made again")
    };
    let value = output_value(&run.state, &output.value, &Store(ws)).map_err(|e| gone(&e.to_string()))?;
    let mut artifacts = BTreeSet::new();
    if let Some(value) = value {
        value.each_artifact(&mut |a| {
            if a.private_to.is_none() {
                artifacts.insert(a.id);
            }
        });
    }
    let stored = ws.inventory()?;
    for id in &artifacts {
        let uses = stored.reach([*id]);
        if !ws.artifacts().has(id) || !uses.iter().all(|used| ws.artifacts().has(used)) {
            return Err(gone("some of it is no longer in the workspace"));
        }
    }
    Ok(artifacts)
}
