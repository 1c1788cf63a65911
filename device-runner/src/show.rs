//! What only this device knows, in a form for its owner. Reads the state folder; sends nothing.

pub(crate) mod contract;
mod page;
mod parts;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

use headstart_protocol::artifacts::{Artifact, Metrics, Pllm, Selection};
use headstart_protocol::task::Released;
use headstart_protocol::text::{bytes, counted};
use headstart_protocol::{Manifest, Type};

use crate::budget::Ledger;
use crate::error::DeviceError;
use crate::history::{self, Ended, Entry};
use crate::journal;
use crate::queue::{Queue, Queued};
use crate::state::State;
use crate::store::Store;

pub use page::page;

/// Everything that left the device, a line a message.
///
/// # Errors
/// [`DeviceError::Input`] where `state` is not a device's folder.
pub fn sent(state: &Path) -> Result<String, DeviceError> {
    let state = State::look(state)?;
    let lines = journal::read(&state.at("sent.jsonl"))?;
    let mut out = String::new();
    for line in &lines {
        if line.repeats > 0 {
            let _ = writeln!(out, "{:>20}  … repeated {} more", "", counted(line.repeats, "time"));
        }
        let method = line.call.split_once("/v1/").map_or(line.call.clone(), |(method, path)| {
            format!("{method}{}", path.split('/').next().unwrap_or_default())
        });
        let time = line.time.strftime("%Y-%m-%d %H:%M:%SZ");
        let digest = if line.bytes == 0 { String::from("-") } else { line.digest.short() };
        let _ = writeln!(out, "{time}  {method:<13} {:>9} B  {digest:<8}  {}", line.bytes, line.what);
    }
    let total: u64 = lines.iter().map(|l| l.bytes * (1 + l.repeats)).sum();
    let _ = writeln!(out, "\n{}, {} in all", counted(messages(&lines), "message"), bytes(total));
    Ok(out)
}

/// What was spent of the budget of each data folder, and on what.
///
/// # Errors
/// [`DeviceError::Input`] where `state` is not a device's folder.
pub fn budget(state: &Path) -> Result<String, DeviceError> {
    let all = Ledger::new(&State::look(state)?).all()?;
    let mut out = String::new();
    for (folder, spent) in &all {
        let n = spent.charges.len() as u64;
        let _ = writeln!(
            out,
            "{}: {n} of {} left this device",
            folder.display(),
            counted(spent.budget, "number")
        );
        let mut by_result: BTreeMap<(&str, &str), Vec<&str>> = BTreeMap::new();
        for c in &spent.charges {
            by_result.entry((c.run.as_str(), c.name.as_str())).or_default().push(&c.number);
        }
        for ((run, name), numbers) in by_result {
            parts::wrapped(&mut out, "  ", &format!("{name} ({run}): {}", numbers.join(", ")));
        }
    }
    if all.is_empty() {
        out.push_str("no number left this device\n");
    }
    Ok(out)
}

/// What may run over private data, and what waits for approval.
///
/// # Errors
/// [`DeviceError::Input`] where `state` is not the folder of a paired device, or a file is damaged.
pub fn approvals(state: &Path) -> Result<String, DeviceError> {
    Ok(contract::Shown::read(state)?.text())
}

fn messages(lines: &[journal::Sent]) -> u64 {
    lines.iter().map(|l| 1 + l.repeats).sum()
}

/// An instance's newest attempt, and what it made, where that is still here.
struct Known {
    entry: Entry,
    manifest: Option<Manifest>,
}

/// The owner's page: the newest result of everything that ran here, or of one run.
///
/// # Errors
/// [`DeviceError::Input`] where `state` is not a device's folder, or knows no such run.
pub fn summary(state: &Path, run: Option<&str>) -> Result<String, DeviceError> {
    let opened = State::look(state)?;
    let store = Store::open(&opened)?;
    let waiting = Queue::new(&opened).all()?;
    let known = match known(&opened, &store, run) {
        // It came only just now.
        Err(DeviceError::Input(_)) if run.is_none() && !waiting.is_empty() => Vec::new(),
        known => known?,
    };
    let of = |ty: Type| {
        known
            .iter()
            .filter_map(move |k| Some((k.entry.name.as_str(), k.manifest.as_ref().filter(|m| m.ty == ty)?)))
    };
    let mut out = String::from(
        "What only this device knows\n===========================\n\
         Nothing on this page was sent anywhere, except where it says so.\n",
    );
    for (name, m) in of(Type::Selection) {
        match Selection::of(m) {
            Ok(selection) => {
                parts::style(&mut out, name, &selection.user);
                parts::choice(&mut out, name, &selection);
            }
            Err(e) => parts::unreadable(&mut out, name, &e),
        }
    }
    for (name, m) in of(Type::Pllm) {
        match Pllm::of(m) {
            Ok(pllm) => parts::training(&mut out, name, &pllm),
            Err(e) => parts::unreadable(&mut out, name, &e),
        }
    }
    let mut metrics = Vec::new();
    for (name, m) in of(Type::Metrics) {
        match Metrics::of(m) {
            Ok(found) => metrics.push((name, found)),
            Err(e) => parts::unreadable(&mut out, name, &e),
        }
    }
    parts::measurements(&mut out, &metrics);
    let samples = |k: &Known| {
        let folder = store.private.files(&k.entry.artifact?);
        let measured = k.manifest.as_ref().is_some_and(|m| m.ty == Type::Metrics);
        measured.then(|| (k.entry.name.clone(), page::samples(&folder)))
    };
    parts::answers(&mut out, &known.iter().filter_map(samples).collect::<Vec<_>>());
    stages(&mut out, &known);
    waits(&mut out, &waiting);
    let lines = journal::read(&opened.at("sent.jsonl"))?;
    let total: u64 = lines.iter().map(|l| l.bytes * (1 + l.repeats)).sum();
    let _ = writeln!(
        out,
        "\n{}, this device sent {}, {} in all.\n\
         `headstart-device show --sent` lists them.",
        lines.first().map_or("So far".to_owned(), |first| format!(
            "Since {}",
            first.time.strftime("%Y-%m-%d %H:%M:%SZ")
        )),
        counted(messages(&lines), "message"),
        bytes(total)
    );
    Ok(out)
}

/// The newest attempt of every instance, of one run or of all.
fn known(state: &State, store: &Store, run: Option<&str>) -> Result<Vec<Known>, DeviceError> {
    let known = newest(history::read(&state.at("history.jsonl"))?, store, run);
    if known.is_empty() {
        return Err(DeviceError::Input(match run {
            Some(run) => format!("nothing of run {run:?} ran on this device"),
            None => "nothing has run on this device yet".to_owned(),
        }));
    }
    Ok(known)
}

fn newest(entries: Vec<Entry>, store: &Store, run: Option<&str>) -> Vec<Known> {
    let mut latest: BTreeMap<String, (usize, Entry)> = BTreeMap::new();
    for (at, entry) in entries.into_iter().enumerate() {
        if run.is_none_or(|r| r == entry.run) && entry.ended != Ended::Superseded {
            latest.insert(entry.name.clone(), (at, entry));
        }
    }
    let mut latest: Vec<_> = latest.into_values().collect();
    latest.sort_by_key(|(at, _)| *at);
    let known = latest.into_iter().map(|(_, entry)| {
        let id = entry.artifact.filter(|_| entry.private);
        let manifest = id.and_then(|id| store.private.get(&id)).and_then(|held| held.manifest);
        Known { entry, manifest }
    });
    known.collect()
}

/// What became of an attempt's result, and whether any of it left.
fn fate(Known { entry: e, manifest }: &Known) -> (bool, String) {
    match e.ended {
        Ended::Skipped => (false, "skipped; the engine cannot tell".to_owned()),
        // The engine is told less: see what was sent.
        Ended::Failed => (false, "failed".to_owned()),
        Ended::Blocked => (false, "blocked: an input failed".to_owned()),
        Ended::Quarantined => (false, "quarantined: it failed too often and is not run".to_owned()),
        _ if !e.private => (true, "made from public data only; sent whole".to_owned()),
        _ if e.released.keys().any(|path| !e.withheld.contains_key(path)) => {
            let left = e.released.iter().filter(|(path, _)| !e.withheld.contains_key(*path));
            let parts = left.map(|(path, part)| match part {
                _ if !path.is_empty() => path.clone(),
                Released::Json(_) => "its numbers and names".to_owned(),
                Released::Artifact(_) => "ALL OF IT".to_owned(),
            });
            (true, format!("stays here; released: {}", parts.collect::<Vec<_>>().join(", ")))
        }
        _ if manifest.is_none() => (false, "its result is no longer on this device".to_owned()),
        _ => (false, "stays here".to_owned()),
    }
}

/// What the engine was told is delivered, and is yet to be worked on.
fn waits(out: &mut String, waiting: &[Queued]) {
    if waiting.is_empty() {
        return;
    }
    out.push_str("\nWaits to be worked on here\n");
    for q in waiting {
        let since = q.since.strftime("%Y-%m-%d %H:%M:%SZ");
        let _ = writeln!(out, "  {}  {}, since {since}", q.task.name, q.task.ty);
    }
    out.push_str("  The engine has been told that all of it is delivered, as of everything private.\n");
}

fn stages(out: &mut String, known: &[Known]) {
    let width = known.iter().map(|k| k.entry.name.chars().count()).max().unwrap_or(0);
    out.push_str("\nWhat ran here\n");
    for k in known {
        let e = &k.entry;
        let (ty, (_, fate)) = (e.ty.to_string(), fate(k));
        let _ = writeln!(out, "  {:width$}  {ty:<11} {:>7.1} s  {fate}", e.name, e.seconds);
        if let Some(f) = &e.failure {
            parts::wrapped(out, "      ", &f.message);
            f.help.iter().for_each(|h| parts::wrapped(out, "      → ", h));
        }
        for (part, why) in &e.withheld {
            let part = if part.is_empty() { "its numbers" } else { part };
            parts::wrapped(out, "      ", &format!("{part} did not leave: {why}"));
        }
    }
}
