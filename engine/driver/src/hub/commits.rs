//! What devices hand in: commits and uploads.
//!
//! The device decides what may leave it. The engine checks the same rule once more, so that even a
//! broken or curious device cannot put into the workspace what should not be there: of a private
//! stage, an opaque reference, seconds, released parts, and the class of a failure.

use std::collections::{BTreeMap, BTreeSet};

use headstart_content::check_file_names;
use headstart_protocol::contract::{NOT_APPROVED, Proposal};
use headstart_protocol::task::{Outcome, Released, Task, Usage};
use headstart_protocol::wire::{Commit, CommitResult, Committed, WireError};
use headstart_protocol::{ArtifactRef, ArtifactType, Digest, Failure, FailureClass, Manifest, Type};
use serde_json::Value as Json;
use tokio::sync::oneshot;

use super::upload::waiting_room;
use super::{Hub, Session, WaitReason, codes, internal, uploads, wire};
use crate::message::Message;

/// Longest name or word that a released value may hold, in bytes.
const LONGEST_WORD: usize = 64;
/// Most bytes of a released value, as JSON.
const LARGEST_VALUE: usize = 1 << 20;

/// Takes a commit of a run that this process executes, or has executed; see [`Hub::commit`].
pub(super) async fn commit(hub: &Hub, session: &Session, commit: Commit) -> Result<CommitResult, WireError> {
    let taken = |counts| Ok(CommitResult::Taken { counts });
    let fence = commit.fence;
    let device = session.device.as_str();
    let (found, past) = {
        let mut leases = hub.leases();
        let past = leases.past(fence);
        let found = leases.granted(fence, device)?.map(|granted| {
            granted.session = session.number;
            (granted.instance, granted.conductor.clone(), granted.task.clone(), granted.answer)
        });
        (found, past)
    };
    let (instance, conductor, task, answered) = match (found, past) {
        (Some(found), _) => found,
        (None, Some(answer)) => return taken(answer),
        (None, None) => return taken(Committed::Superseded),
    };
    if let Some(answer) = answered {
        return taken(answer);
    }
    let Some(task) = task else {
        return Err(wire(
            codes::INTERNAL,
            format!("the task of attempt {fence} could not be worked out after a restart"),
        ));
    };
    // What it refers to, and what is stored now, is not collected until an event names it.
    let ws = hub.inner.ws.clone();
    let entered = tokio::task::spawn_blocking(move || ws.in_use()).await;
    let _in_use = entered.map_err(internal)?.map_err(internal)?;
    let outcome = check(hub, device, &task, commit)?;
    if let Outcome::Failed { failure } = &outcome.outcome
        && failure.message == NOT_APPROVED
        && let Some(proposal) = &task.proposal
    {
        hub.leases().refused(device, &task.run, task.instance, proposal.digest());
    }

    let (reply, counts) = oneshot::channel();
    // A run that has ended drops the question.
    let _ = conductor.send(Message::Accepts { instance, fence, reply });
    if counts.await == Ok(true) {
        let Checked { outcome, manifests } = outcome;
        keep(hub, device, fence, manifests).await?;
        let (reply, answer) = oneshot::channel();
        let message = Message::Commit { instance, fence, outcome: Box::new(outcome), reply };
        // A run that has ended drops the question.
        let _ = conductor.send(message);
        if let Ok(answer) = answer.await {
            return taken(answer);
        }
    }
    hub.answered(fence, Committed::Superseded);
    taken(Committed::Superseded)
}

/// An outcome that may be recorded, and the artifacts that come with it.
pub(super) struct Checked {
    pub(super) outcome: Outcome,
    pub(super) manifests: BTreeMap<Digest, Manifest>,
}

/// What may be recorded of a commit.
///
/// # Errors
/// What must not be handed in.
pub(super) fn check(hub: &Hub, device: &str, task: &Task, commit: Commit) -> Result<Checked, WireError> {
    let mut manifests = read_manifests(commit.manifests)?;
    let none = |m: &BTreeMap<Digest, Manifest>| match m.keys().next() {
        None => Ok(()),
        Some(id) => {
            let message = format!("manifest {} is not part of the outcome", id.short());
            Err(wire(codes::RESIDENCY, message))
        }
    };
    let outcome = match commit.outcome {
        Outcome::Skipped => Outcome::Skipped,
        Outcome::Failed { failure } if task.private => {
            Outcome::Failed { failure: general(&failure, device, task) }
        }
        Outcome::Failed { failure } => Outcome::Failed { failure },
        Outcome::Succeeded { output, released, usage } if task.private => {
            return private_output(hub, device, task, output, released, &usage, manifests);
        }
        Outcome::Succeeded { output, released, usage } => {
            if output.private_to.is_some() {
                none(&manifests)?;
                return Ok(Checked { outcome: kept_private(task, device), manifests });
            }
            if !released.is_empty() {
                return Err(wire(codes::INVALID, "a public output has no released parts"));
            }
            let kept = artifact(hub, &output, &mut manifests)?;
            if kept.as_ref().is_some_and(|m| m.ty != task.ty) {
                return Err(wire(codes::INVALID, format!("the output should be a {}", task.ty)));
            }
            none(&manifests)?;
            let outcome = Outcome::Succeeded { output: output.clone(), released, usage };
            let manifests = kept.map(|m| (output.id, m)).into_iter().collect();
            return Ok(Checked { outcome, manifests });
        }
    };
    none(&manifests)?;
    Ok(Checked { outcome, manifests })
}

fn read_manifests(given: BTreeMap<String, Manifest>) -> Result<BTreeMap<Digest, Manifest>, WireError> {
    let read = |(id, manifest): (String, Manifest)| {
        let id: Digest = id.parse().map_err(|e| wire(codes::INVALID, format!("{e}")))?;
        if manifest.id() != id {
            return Err(wire(codes::INVALID, format!("the manifest given as {} is another", id.short())));
        }
        check_file_names(manifest.files.keys().map(String::as_str))
            .map_err(|e| wire(codes::INVALID, e.to_string()))?;
        Ok((id, manifest))
    };
    given.into_iter().map(read).collect()
}

/// The output of a private stage: an opaque reference, and released parts.
fn private_output(
    hub: &Hub,
    device: &str,
    task: &Task,
    output: ArtifactRef,
    released: BTreeMap<String, Released>,
    usage: &Usage,
    mut manifests: BTreeMap<Digest, Manifest>,
) -> Result<Checked, WireError> {
    if output.private_to.as_deref() != Some(device) {
        let message = format!("`{}` is private to `{device}`, so its output must be too", task.name);
        return Err(wire(codes::RESIDENCY, message));
    }
    let expected = ArtifactType::of(&task.ty);
    if output.ty != ArtifactType::Absent && expected != Some(output.ty) {
        return Err(wire(codes::INVALID, format!("the output should be a {}", task.ty)));
    }
    let asked: BTreeSet<String> = task.release.iter().map(|path| path.join(".")).collect();
    let mut kept = BTreeMap::new();
    for (path, part) in &released {
        if !asked.contains(path) {
            let message = format!("the pipeline does not release `{path}` of `{}`", task.name);
            return Err(wire(codes::RESIDENCY, message));
        }
        match part {
            Released::Json(value) => check_value(value, task, task.ty.present() == &Type::Selection)?,
            Released::Artifact(a) => {
                let brought = manifests.contains_key(&a.id);
                check_artifact(task, path, a, brought)?;
                if let Some(m) = artifact(hub, a, &mut manifests)? {
                    check_value(&m.value, task, true)?;
                    kept.insert(a.id, m);
                }
            }
        }
    }
    if let Some(id) = manifests.keys().next() {
        return Err(wire(codes::RESIDENCY, format!("manifest {} was not released", id.short())));
    }
    let usage = Usage { seconds: usage.seconds, ..Usage::default() };
    Ok(Checked { outcome: Outcome::Succeeded { output, released, usage }, manifests: kept })
}

/// A public artifact of an outcome: its manifest if it came along, or `None` if it is here already.
fn artifact(
    hub: &Hub,
    a: &ArtifactRef,
    manifests: &mut BTreeMap<Digest, Manifest>,
) -> Result<Option<Manifest>, WireError> {
    if a.private_to.is_some() {
        return Err(wire(codes::RESIDENCY, "a private artifact cannot be released as it is"));
    }
    let Some(manifest) = manifests.remove(&a.id) else {
        return if hub.inner.manifests.has(&a.id) {
            Ok(None)
        } else {
            Err(wire(codes::INVALID, format!("artifact {} came without its manifest", a.id.short())))
        };
    };
    if ArtifactType::of(&manifest.ty) != Some(a.ty) {
        return Err(wire(codes::INVALID, format!("artifact {} is a {}", a.id.short(), manifest.ty)));
    }
    for (name, used) in &manifest.uses {
        if used.private_to.is_some() {
            let message = format!("the released artifact's `{name}` is private");
            return Err(wire(codes::RESIDENCY, message));
        }
        if !hub.inner.manifests.has(&used.id) && !manifests.contains_key(&used.id) {
            let message = format!("the released artifact's `{name}`, {}, is not here", used.id.short());
            return Err(wire(codes::INVALID, message));
        }
    }
    Ok(Some(manifest))
}

/// Of the artifacts of a private stage, only models leave: a public one by its name, as a choice; a
/// private one only where the pipeline releases a pLLM at this very path. Everything else that is
/// released is numbers.
fn check_artifact(task: &Task, path: &str, a: &ArtifactRef, brought: bool) -> Result<(), WireError> {
    let mut names = path.split('.').filter(|name| !name.is_empty());
    let ty = names.try_fold(task.ty.present().clone(), |ty, name| Some(ty.field(name)?.present().clone()));
    let is_model = matches!(a.ty, ArtifactType::Pllm | ArtifactType::Model);
    let fits = match (&ty, brought) {
        (Some(Type::Pllm), true) => a.ty == ArtifactType::Pllm,
        // Where no pLLM helps, the choice is the base.
        (Some(Type::Pllm | Type::Model), false) => is_model,
        _ => false,
    };
    if fits {
        return Ok(());
    }
    let message = format!("what the pipeline releases at `{path}` of `{}` is not a {:?}", task.name, a.ty);
    Err(wire(codes::RESIDENCY, message))
}

/// Numbers and truth values, nothing large; and `words`, short ones: a choice comes with names out of
/// the public catalog, an adapter with those of its format.
fn check_value(value: &Json, task: &Task, words: bool) -> Result<(), WireError> {
    let refuse = |why: String| Err(wire(codes::RESIDENCY, format!("what `{}` releases {why}", task.name)));
    let size = value.to_string().len();
    if size > LARGEST_VALUE {
        return refuse(format!("is {size} bytes long; at most {LARGEST_VALUE} may be"));
    }
    if holds_text(value, words) { refuse("holds text".to_owned()) } else { Ok(()) }
}

fn holds_text(value: &Json, words: bool) -> bool {
    let long = |s: &str| s.len() > LONGEST_WORD;
    match value {
        Json::Null | Json::Bool(_) | Json::Number(_) => false,
        Json::String(s) => !words || long(s),
        Json::Array(items) => items.iter().any(|v| holds_text(v, words)),
        Json::Object(fields) => fields.iter().any(|(k, v)| long(k) || holds_text(v, words)),
    }
}

/// A failure of a private stage, without anything that the stage said.
fn general(failure: &Failure, device: &str, task: &Task) -> Failure {
    let what = match failure.class {
        FailureClass::Denied if failure.message == NOT_APPROVED => return not_approved(device, task),
        FailureClass::Denied => return denied(device, task),
        FailureClass::Input => "the stage's input is wrong",
        FailureClass::Transient => "something outside the stage went wrong",
        FailureClass::DiskFull => "its disk is full",
        FailureClass::Environment => "the device does not give what the stage needs",
        FailureClass::Memory => "the stage needs more memory than there is",
        FailureClass::Cancelled => "the stage was stopped",
        FailureClass::Timeout => "the stage ran past its time limit",
        FailureClass::Lost => "the stage's runner was lost",
        FailureClass::MissingArtifact => "an artifact that the stage needs is gone",
        FailureClass::Internal => "the stage failed through a defect",
    };
    Failure::new(failure.class, format!("on device `{device}`: {what}"))
        .help("what the stage said stays on the device: run `headstart-device show` there")
}

/// The device's owner does not allow what the pipeline releases. Says so in the pipeline's own words.
fn denied(device: &str, task: &Task) -> Failure {
    let part = |path: &Vec<String>| match path.join(".") {
        whole if whole.is_empty() => format!("`{}`", task.name),
        path => format!("`{path}` of `{}`", task.name),
    };
    let parts: Vec<String> = task.release.iter().map(part).collect();
    let message = format!("the release of {} is denied by device `{device}`", parts.join(", "));
    Failure::new(FailureClass::Denied, message)
        .help("the device's owner allows releases with `headstart-device join --allow-release`")
}

/// The device's owner has not approved what the run places there.
fn not_approved(device: &str, task: &Task) -> Failure {
    let digest = task.proposal.as_ref().map(Proposal::digest);
    let help =
        WaitReason::Contract(digest.unwrap_or_else(|| Proposal::default().digest())).help(device, None);
    Failure::new(FailureClass::Denied, NOT_APPROVED).help(help)
}

/// The pipeline counts on a public output, and the device keeps it.
fn kept_private(task: &Task, device: &str) -> Outcome {
    let message = format!(
        "device `{device}` keeps the output of `{}` to itself, because the stage reads the device's own data",
        task.name
    );
    let help = "declare the dataset that it reads as `private`, so that its results stay there too";
    Outcome::Failed { failure: Failure::input(message).help(help) }
}

/// Moves the files of an accepted commit into the store, then writes its manifests.
async fn keep(
    hub: &Hub,
    device: &str,
    fence: u64,
    manifests: BTreeMap<Digest, Manifest>,
) -> Result<(), WireError> {
    if manifests.is_empty() {
        return Ok(());
    }
    let (hub, device) = (hub.clone(), device.to_owned());
    let moved = tokio::task::spawn_blocking(move || store(&hub, &device, fence, &manifests)).await;
    match moved.map_err(internal)?? {
        missing if missing.is_empty() => Ok(()),
        missing => {
            let list: Vec<String> = missing.keys().map(Digest::to_string).collect();
            Err(wire(codes::MISSING_BLOB, list.join(" ")))
        }
    }
}

/// Stores everything, or stores nothing and returns what is missing: that may be uploaded then.
///
/// # Errors
/// As [`uploads::check_size`] and [`uploads::Uploads::open`]; [`codes::INTERNAL`] where something cannot be written.
pub(super) fn store(
    hub: &Hub,
    device: &str,
    fence: u64,
    manifests: &BTreeMap<Digest, Manifest>,
) -> Result<BTreeMap<Digest, u64>, WireError> {
    let files: BTreeMap<Digest, u64> =
        manifests.values().flat_map(|m| m.files.values().map(|f| (f.digest, f.size))).collect();
    let ws = &hub.inner.ws;
    if files.is_empty() {
        return put_manifests(hub, device, fence, manifests);
    }
    let dir = hub.upload_dir().map_err(internal)?;
    let waiting = waiting_room(&dir, device);
    let here = |d: &Digest| ws.blobs().has(d) || waiting.join(d.to_string()).is_file();
    let missing: BTreeMap<Digest, u64> =
        files.iter().filter(|(d, _)| !here(d)).map(|(d, size)| (*d, *size)).collect();
    if !missing.is_empty() {
        let sum = |sizes: &BTreeMap<Digest, u64>| sizes.values().copied().fold(0, u64::saturating_add);
        uploads::check_size(sum(&files))?;
        let (free, now) = (ws.disk().free_space(&dir).ok(), hub.inner.env.clock.now_ms());
        hub.leases().uploads.open(device, fence, missing.clone(), free, now)?;
        return Ok(missing);
    }
    for digest in files.keys() {
        let at = waiting.join(digest.to_string());
        if !ws.blobs().has(digest) {
            ws.blobs().take_file(&at).map_err(internal)?;
        }
    }
    let stored = put_manifests(hub, device, fence, manifests);
    // What else was uploaded for this commit has no use any more.
    let _ = ws.disk().remove_dir_all(&waiting);
    stored
}

fn put_manifests(
    hub: &Hub,
    device: &str,
    fence: u64,
    manifests: &BTreeMap<Digest, Manifest>,
) -> Result<BTreeMap<Digest, u64>, WireError> {
    for manifest in manifests.values() {
        hub.inner.ws.artifacts().put_manifest(manifest).map_err(internal)?;
    }
    hub.leases().uploads.close(device, fence);
    Ok(BTreeMap::new())
}
