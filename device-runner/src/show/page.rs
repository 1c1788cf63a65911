//! The owner's page as HTML.

use std::path::Path;

use headstart_disk::read;
use headstart_protocol::Type;
use headstart_report::{
    Fate, Output, OutputView, OwnerReport, RunReport, Sample, Sent, StageBar, StageState,
};

use super::{Known, fate, known, messages};
use crate::error::DeviceError;
use crate::history::Ended;
use crate::journal;
use crate::state::State;
use crate::store::Store;

/// The owner's page of everything that ran here, or of one run: one HTML file that loads nothing.
///
/// # Errors
/// [`DeviceError::Input`] where `state` is not a device's folder, or knows no such run.
pub fn page(state: &Path, run: Option<&str>) -> Result<String, DeviceError> {
    let opened = State::look(state)?;
    let store = Store::open(&opened)?;
    let known = known(&opened, &store, run)?;
    let device = opened.name().unwrap_or_default();
    let begun = |k: &Known| k.entry.time - jiff::SignedDuration::from_secs_f64(k.entry.seconds.max(0.0));
    let origin = known.iter().map(begun).min().unwrap_or_default();
    let end = known.iter().map(|k| k.entry.time).max().unwrap_or_default();
    let bars = known.iter().map(|k| StageBar {
        name: k.entry.name.clone(),
        kind: k.entry.kind.clone(),
        place: if device.is_empty() { "here".to_owned() } else { device.clone() },
        start: begun(k).duration_since(origin).as_secs_f64(),
        seconds: k.entry.seconds,
        state: match k.entry.ended {
            Ended::Failed => StageState::Failed,
            Ended::Quarantined => StageState::Quarantined,
            Ended::Blocked => StageState::Blocked,
            Ended::Skipped => StageState::Skipped,
            _ => StageState::Succeeded,
        },
    });
    let mut outputs: Vec<Output> = catalog(&store).into_iter().collect();
    outputs.extend(known.iter().filter_map(|k| output(&store, k)));
    let report = RunReport {
        run: known.last().map(|k| k.entry.run.clone()).unwrap_or_default(),
        pipeline: String::new(),
        started: origin.strftime("%Y-%m-%d %H:%M UTC").to_string(),
        seconds: end.duration_since(origin).as_secs_f64(),
        stages: bars.collect(),
        outputs,
        ..RunReport::default()
    };
    let fates = known.iter().map(|k| {
        let (left, what) = fate(k);
        Fate { left, what }
    });
    let owner = OwnerReport {
        fates: fates.collect(),
        sent: sent(&journal::read(&opened.at("sent.jsonl"))?),
        device,
        report,
    };
    Ok(headstart_report::owner_html(&owner))
}

/// The newest catalog that was downloaded. It is public; where the owner stands in it is not.
fn catalog(store: &Store) -> Option<Output> {
    let manifest = store.public.newest(&Type::Catalog)?;
    let view = OutputView::of(&Type::Catalog, &manifest.value);
    Some(Output { name: "catalog".to_owned(), doc: String::new(), view })
}

/// What an attempt made, where that is still here and there is a picture for it.
fn output(store: &Store, known: &Known) -> Option<Output> {
    let manifest = known.manifest.as_ref()?;
    if !matches!(manifest.ty, Type::Selection | Type::Pllm | Type::Metrics) {
        return None;
    }
    let mut view = OutputView::of(&manifest.ty, &manifest.value);
    if let OutputView::Metrics { samples: found, .. } = &mut view {
        let folder = known.entry.artifact.map(|id| store.private.files(&id));
        *found = folder.map(|f| samples(&f)).unwrap_or_default();
    }
    Some(Output { name: known.entry.name.clone(), doc: String::new(), view })
}

/// The sample answers of an evaluation; none where it kept none.
pub(super) fn samples(folder: &Path) -> Vec<Sample> {
    let text = read::text(&folder.join("samples.jsonl"), read::FACTS).unwrap_or_default();
    text.lines().filter_map(|l| serde_json::from_str(l).ok()).collect()
}

/// Messages by kind, in the order in which the kinds first appear.
fn sent(lines: &[journal::Sent]) -> Vec<Sent> {
    let mut out: Vec<Sent> = Vec::new();
    for line in lines {
        let what = meaning(&line.call);
        let at = out.iter().position(|s| s.what == what).unwrap_or_else(|| {
            out.push(Sent { what: what.to_owned(), messages: 0, bytes: 0 });
            out.len() - 1
        });
        let n = messages(std::slice::from_ref(line));
        out[at].messages += n;
        out[at].bytes += n * line.bytes;
    }
    out
}

/// What the messages of a call say.
fn meaning(call: &str) -> &str {
    let (method, path) = call.split_once("/v1/").unwrap_or((call, ""));
    match (method.trim(), path.split('/').next().unwrap_or_default()) {
        ("POST", "join") => "joined: name, threads, memory, conditions that hold",
        ("POST", "claim") => "asked for work",
        ("POST", "renew") => "a stage is running",
        ("POST", "commit") => "a stage ended: its handle, and what was released",
        ("GET", "artifacts") => "asked for a public artifact",
        ("GET", "blobs") => "asked for a file of a public artifact",
        ("PUT", "blobs") => "uploaded a file that was released",
        _ => call,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use headstart_protocol::Digest;

    #[test]
    fn messages_are_counted_by_what_they_say() {
        let line = |call: &str, bytes, repeats| journal::Sent {
            time: jiff::Timestamp::UNIX_EPOCH,
            call: call.to_owned(),
            bytes,
            digest: Digest::of(b""),
            what: String::new(),
            repeats,
        };
        let lines = [
            line("POST /v1/join", 90, 0),
            line("POST /v1/claim", 10, 0),
            line("GET /v1/blobs/ab", 0, 3),
            line("GET /v1/blobs/cd", 0, 0),
        ];
        let found = sent(&lines);
        let counts: Vec<_> = found.iter().map(|s| (s.messages, s.bytes)).collect();
        assert_eq!(counts, [(1, 90), (1, 10), (5, 0)]);
        assert!(found.iter().all(|s| !s.what.contains("/v1/")), "every call has words: {found:?}");
    }
}
