//! `headstart why`: what changed since the run before, from the stored pre-images of cache keys.

use headstart_core::KeyPreimage;
use headstart_core::state::Status;
use headstart_protocol::Digest;
use headstart_store::Workspace;

use crate::args::Why;
use crate::commands::runs::{self, Recorded};
use crate::exit::CommandError;

/// Runs the command.
pub fn run(ws: &Workspace, args: &Why) -> Result<(), CommandError> {
    let info = runs::find(ws, args.run.as_deref())?;
    let now = runs::read(ws, &info.id)?;
    let instances = instances(&now, &args.stage)?;
    for i in instances {
        let name = &now.state.instance(i).name;
        let status = now.state.status(i);
        println!("{name}: {} in run {}", describe(status), now.id);
        let Some(key) = now.state.key(i) else {
            println!(
                "  it has no cache key: what it makes depends on more than its arguments, or it never ran"
            );
            continue;
        };
        println!("  key {}", key.short());
        match before(ws, args, &now, name)? {
            None => println!("  no earlier run has this stage: it was new"),
            Some((run, earlier)) if earlier == key => println!("  nothing changed since run {run}"),
            Some((run, earlier)) => differences(ws, &run, &earlier, &key),
        }
    }
    Ok(())
}

fn describe(status: &Status) -> String {
    match status {
        Status::Done(d) if d.fence.is_none() => "taken from the cache".into(),
        Status::Done(d) => format!("ran for {:.1} s", d.usage.seconds),
        Status::Failed(f) => format!("failed ({})", f.message),
        other => other.name().into(),
    }
}

/// The instance of this name, or all instances of the item of this name.
fn instances(run: &Recorded, stage: &str) -> Result<Vec<u32>, CommandError> {
    let fits = |i: &u32| {
        let inst = run.state.instance(*i);
        inst.name == stage || run.plan.items[inst.item as usize].name == stage
    };
    let found: Vec<u32> = (0..run.plan.instances.len() as u32).filter(fits).collect();
    if found.is_empty() {
        let names: Vec<&str> = run.plan.items.iter().map(|i| i.name.as_str()).collect();
        return Err(CommandError::input(format!("run {} has no stage `{stage}`", run.id))
            .help(format!("its stages: {}", names.join(", "))));
    }
    Ok(found)
}

/// The key of the stage of this name in the run to compare with.
fn before(
    ws: &Workspace,
    args: &Why,
    now: &Recorded,
    name: &str,
) -> Result<Option<(String, Digest)>, CommandError> {
    let candidates: Vec<String> = match &args.against {
        Some(prefix) => vec![runs::find(ws, Some(prefix))?.id],
        None => ws.runs().into_iter().rev().map(|r| r.id).skip_while(|id| *id != now.id).skip(1).collect(),
    };
    for id in candidates {
        let run = runs::read(ws, &id)?;
        let found = run.plan.instances.iter().position(|i| i.name == name);
        if let Some(key) = found.and_then(|i| run.state.key(i as u32)) {
            return Ok(Some((id, key)));
        }
    }
    Ok(None)
}

fn differences(ws: &Workspace, run: &str, before: &Digest, after: &Digest) {
    let preimage = |key: &Digest| -> Option<KeyPreimage> {
        ws.cache().preimage(key).and_then(|json| serde_json::from_str(&json).ok())
    };
    match (preimage(before), preimage(after)) {
        (Some(before), Some(after)) => {
            println!("  changed since run {run}:");
            for d in after.since(&before) {
                let show = |v: &Option<serde_json::Value>| v.as_ref().map_or("(nothing)".into(), shorten);
                println!("    {}\n      was {}\n      is  {}", d.what, show(&d.before), show(&d.after));
            }
        }
        _ => println!(
            "  its key changed since run {run}; the cache no longer holds what the old key stands for"
        ),
    }
}

/// JSON for people: digests and long texts are cut.
fn shorten(value: &serde_json::Value) -> String {
    let mut value = value.clone();
    fn cut(v: &mut serde_json::Value) {
        match v {
            serde_json::Value::String(s) if s.chars().count() > 60 => {
                *s = s.chars().take(12).chain("…".chars()).collect();
            }
            serde_json::Value::Array(a) => a.iter_mut().for_each(cut),
            serde_json::Value::Object(o) => o.values_mut().for_each(cut),
            _ => {}
        }
    }
    cut(&mut value);
    value.to_string()
}
