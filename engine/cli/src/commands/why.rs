//! `headstart why`: what changed since the run before, from the stored pre-images of cache keys.

use std::collections::BTreeSet;
use std::path::PathBuf;

use headstart_console::outln;
use headstart_core::{KeyPreimage, Status};
use headstart_protocol::Digest;
use headstart_report::text::seconds;
use headstart_store::Workspace;

use crate::args::Why;
use crate::commands::changes;
use crate::exit::CommandError;
use crate::recorded::{self, Recorded};

/// Runs the command.
///
/// # Errors
/// If no run has the stage.
pub fn run(ws: &Workspace, args: &Why) -> Result<(), CommandError> {
    let now = subject(ws, args)?;
    for i in instances(&now, &args.stage) {
        let (first, rest) = explain(ws, &now, i, args.against.as_deref())?;
        outln!("{first}")?;
        rest.iter().try_for_each(|line| outln!("  {line}"))?;
    }
    Ok(())
}

/// What became of an instance of a run, and why: a line, and what explains it.
///
/// # Errors
/// If the run to compare with cannot be read.
pub fn explain(
    ws: &Workspace,
    now: &Recorded,
    i: u32,
    against: Option<&str>,
) -> Result<(String, Vec<String>), CommandError> {
    let name = &now.state.instance(i).name;
    let status = now.state.status(i);
    let first =
        format!("{name}: {} in run {} ({})", describe(now, i, status), now.id, recorded::started(now));
    let mut lines = Vec::new();
    if let Status::Failed(f) = status {
        lines.push(f.message.clone());
        lines.extend(f.help.iter().map(|help| format!("help: {help}")));
    }
    match now.state.key(i) {
        None => lines.push(keyless(now, i, status)),
        Some(key) => match before(ws, against, now, name)? {
            None => lines.push("no earlier run has this stage".to_owned()),
            Some(earlier) => lines.extend(compare(ws, now, i, &earlier, &key)),
        },
    }
    Ok((first, lines))
}

/// The run to explain: the one that is named, else the latest that has the stage.
fn subject(ws: &Workspace, args: &Why) -> Result<Recorded, CommandError> {
    if let Some(prefix) = &args.run {
        let run = recorded::read(ws, &recorded::find(ws, Some(prefix))?.id)?;
        return if instances(&run, &args.stage).is_empty() {
            Err(unknown(&run, &args.stage))
        } else {
            Ok(run)
        };
    }
    let mut names: BTreeSet<String> = BTreeSet::new();
    for run in recorded::readable(ws, ws.runs().into_iter().rev()) {
        if !instances(&run, &args.stage).is_empty() {
            return Ok(run);
        }
        names.extend(run.plan.items.iter().map(|i| i.name.clone()));
    }
    Err(if names.is_empty() {
        CommandError::input("this workspace has no runs").help("`headstart run FILE` makes one")
    } else {
        let names = names.iter().map(String::as_str);
        CommandError::input(format!("no run has a stage `{}`", args.stage))
            .help(headstart_console::suggest::help(&args.stage, "their stages", names))
    })
}

fn unknown(run: &Recorded, stage: &str) -> CommandError {
    let names = run.plan.items.iter().map(|i| i.name.as_str());
    CommandError::input(format!("run {} has no stage `{stage}`", run.id))
        .help(headstart_console::suggest::help(stage, "its stages", names))
}

fn describe(run: &Recorded, i: u32, status: &Status) -> String {
    let word = run.stage_state(i, status).word();
    match status {
        Status::Done(d) if !d.is_cached() => format!("{word} in {}", seconds(d.usage.seconds)),
        Status::Blocked { because } => {
            format!("{word} by `{}`, which failed,", run.state.instance(*because).name)
        }
        _ => word.to_owned(),
    }
}

/// Why an instance has no key.
fn keyless(run: &Recorded, i: u32, status: &Status) -> String {
    let ran = matches!(status, Status::Done(_));
    match (ran, status) {
        (true, Status::Done(d)) if d.usage.unchanged => {
            "an input: it is read in every run, and did not change".into()
        }
        (true, _) if run.plan.inputs(i as usize).is_empty() => "an input: it is read in every run".into(),
        (true, _) => "it runs every time: its output depends on more than its arguments".into(),
        _ => "it was not started, so there is nothing to compare".into(),
    }
}

/// The instances of this name: one, or all of an item.
fn instances(run: &Recorded, stage: &str) -> Vec<u32> {
    let fits = |i: &u32| {
        let inst = run.state.instance(*i);
        inst.is_called(stage) || run.plan.items[inst.item as usize].name == stage
    };
    (0..run.plan.instances.len() as u32).filter(fits).collect()
}

/// The stage in another run.
struct Earlier {
    run: Recorded,
    instance: u32,
    key: Digest,
}

/// The stage of this name in the run to compare with: the one that is named, else the last one before of
/// the same pipeline, else the last one before of any.
fn before(
    ws: &Workspace,
    against: Option<&str>,
    now: &Recorded,
    name: &str,
) -> Result<Option<Earlier>, CommandError> {
    let of = |run: Recorded| {
        let instance = u32::try_from(run.plan.instances.iter().position(|i| i.name == name)?).ok()?;
        let key = run.state.key(instance)?;
        Some(Earlier { run, instance, key })
    };
    if let Some(prefix) = against {
        return Ok(of(recorded::read(ws, &recorded::find(ws, Some(prefix))?.id)?));
    }
    let infos = ws.runs().into_iter().rev().skip_while(|r| r.id != now.id).skip(1);
    let mut other = None;
    for earlier in recorded::readable(ws, infos).filter_map(of) {
        if pipeline(&earlier.run) == pipeline(now) {
            return Ok(Some(earlier));
        }
        other.get_or_insert(earlier);
    }
    Ok(other)
}

/// The pipeline file of a run. A schedule's run is one of its file.
fn pipeline(run: &Recorded) -> PathBuf {
    let file = run.pipeline.split(" (").next().unwrap_or(&run.pipeline);
    run.source_dir.join(file).components().collect()
}

fn compare(ws: &Workspace, now: &Recorded, i: u32, earlier: &Earlier, key: &Digest) -> Vec<String> {
    let run = &earlier.run;
    let of = if pipeline(run) == pipeline(now) {
        String::new()
    } else {
        format!(" of another pipeline, {}", run.pipeline)
    };
    if earlier.key == *key {
        let why = match now.state.status(i) {
            Status::Done(d) if !d.is_cached() => "; its result was no longer in the cache",
            _ => "",
        };
        return vec![format!("nothing changed since run {}{of}{why}", run.id)];
    }
    let preimage = |key: &Digest| -> Option<KeyPreimage> {
        ws.cache().preimage(key).and_then(|json| serde_json::from_str(&json).ok())
    };
    let (Some(before), Some(after)) = (preimage(&earlier.key), preimage(key)) else {
        return vec![format!(
            "changed since run {}{of}; the cache no longer has the arguments of that run",
            run.id
        )];
    };
    let args = &now.plan.instances[i as usize].args;
    let before_args = &run.plan.instances[earlier.instance as usize].args;
    let changed = after.since(&before);
    let changed = changed.iter().flat_map(|d| changes::lines(ws, &now.plan, args, before_args, d));
    let mut lines = vec![format!("changed since run {}{of}:", run.id)];
    lines.extend(changed.map(|line| format!("  {line}")));
    lines
}
