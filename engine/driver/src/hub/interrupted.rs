//! Commits of runs that nobody executes now.
//!
//! A device may hand in what it did for a run whose engine was killed. It must not wait for somebody to resume
//! that run: the outcome is checked like any other, its files are stored, and it is written into the run's log,
//! under the lock that a resuming engine would take. So it is durable before it is acknowledged, nothing but
//! the log has to be read when the run is resumed, and there is at most one such record for each attempt that
//! was ever granted.

use std::sync::PoisonError;

use headstart_core::prepare::{Decision, Prepared, prepare};
use headstart_core::{Event, EventKind, RunState, Status};
use headstart_protocol::Digest;
use headstart_protocol::contract::Proposal;
use headstart_protocol::task::Outcome;
use headstart_protocol::wire::{Commit, CommitResult, Committed, WireError};
use headstart_store::{CacheEntry, StoreError};

use super::commits::{self, Checked};
use super::{Hub, codes, internal, wire};
use crate::retry::retry_at;
use crate::run::RunHeader;

/// Takes a commit under a fence that no run of this process knows.
///
/// # Errors
/// As [`Hub::commit`].
pub(super) async fn commit(hub: &Hub, device: &str, commit: Commit) -> Result<CommitResult, WireError> {
    let (hub, device) = (hub.clone(), device.to_owned());
    let taken = tokio::task::spawn_blocking(move || take(&hub, &device, commit)).await;
    taken.map_err(internal)?
}

fn take(hub: &Hub, device: &str, commit: Commit) -> Result<CommitResult, WireError> {
    let fence = commit.fence;
    let taken = |counts| Ok(CommitResult::Taken { counts });
    let mut attempts = hub.inner.attempts.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(found) = attempts.find(&hub.inner.ws, fence) else { return taken(Committed::Superseded) };
    if found.runner != device {
        return Err(wire(codes::NOT_FOUND, format!("attempt {fence} was not granted to `{device}`")));
    }
    if let Some(answer) = found.answer {
        return taken(answer);
    }
    let waits = || Ok(CommitResult::Waits { run: found.run.clone() });
    // While somebody executes it, its log grows, and with it what is known of the attempt.
    if hub.inner.ws.is_live(&found.run) {
        return waits();
    }
    let run = attempts.worked_out(fence, &found, || Attempt::in_run(hub, &found.run, fence));
    drop(attempts);
    let Some(run) = run else { return taken(Committed::Superseded) };
    if let Some(answer) = run.settled() {
        return taken(answer);
    }
    let Some(prepared) = run.prepared(hub) else {
        tracing::error!(run = run.id, fence, "the task of an attempt could not be worked out again");
        return waits();
    };
    let _in_use = hub.inner.ws.in_use().map_err(internal)?;
    let attempt = run.state.attempts(run.instance);
    let task = prepared.task(&run.state, run.instance, attempt, fence, Vec::new(), Proposal::default());
    let Checked { outcome, manifests } = commits::check(hub, device, &task, commit)?;
    let missing = commits::store(hub, device, fence, &manifests)?;
    if !missing.is_empty() {
        let list: Vec<String> = missing.keys().map(Digest::to_string).collect();
        return Err(wire(codes::MISSING_BLOB, list.join(" ")));
    }
    match run.record(hub, &prepared, outcome) {
        Ok(counts) => taken(counts),
        // Somebody resumes it just now, and will know the attempt.
        Err(StoreError::RunBusy { .. }) => waits(),
        Err(e) => Err(internal(e)),
    }
}

/// An attempt of a run that is not executed here.
pub(super) struct Attempt {
    id: String,
    events: Vec<Event>,
    state: RunState,
    instance: u32,
    fence: u64,
    runner: String,
}

impl Attempt {
    fn in_run(hub: &Hub, id: &str, fence: u64) -> Option<Self> {
        let events: Vec<Event> = hub.inner.ws.read_run(id).ok()?;
        let (instance, runner) = events.iter().find_map(|e| match &e.kind {
            EventKind::AttemptStarted { instance, fence: f, runner, .. } if *f == fence => {
                Some((*instance, runner.clone()))
            }
            _ => None,
        })?;
        let header: RunHeader = hub.inner.ws.read_header(id).ok()?;
        let state = RunState::replay(header.plan.into(), &events).ok()?;
        Some(Self { id: id.to_owned(), events, state, instance, fence, runner })
    }

    /// The answer to its commit, if that is decided: it was recorded already, or it comes too late.
    fn settled(&self) -> Option<Committed> {
        let ended_it = |e: &Event| match &e.kind {
            EventKind::Committed { fence, .. } => *fence == self.fence,
            EventKind::Skipped { fence, .. } | EventKind::Failed { fence, .. } => *fence == Some(self.fence),
            _ => false,
        };
        if self.events.iter().any(ended_it) {
            return Some(Committed::Accepted);
        }
        let open = self.state.outcome().is_none() && self.state.accepts(self.instance, self.fence);
        (!open).then_some(Committed::Superseded)
    }

    fn prepared(&self, hub: &Hub) -> Option<Prepared> {
        match prepare(&self.state, self.instance, &hub.inner.manifests) {
            Ok(Decision::Run(prepared)) => Some(prepared),
            _ => None,
        }
    }

    /// Writes the outcome into the run's log, if it still counts.
    fn record(&self, hub: &Hub, prepared: &Prepared, outcome: Outcome) -> Result<Committed, StoreError> {
        let log = hub.inner.ws.open_run(&self.id)?;
        // Under the lock: somebody may have resumed the run, and left it again.
        let Some(now) = Self::in_run(hub, &self.id, self.fence) else { return Ok(Committed::Superseded) };
        if let Some(answer) = now.settled() {
            return Ok(answer);
        }
        let mut state = now.state.clone();
        let last_ms = now.events.last().map_or(0, |e| e.at_ms);
        let at_ms = hub.inner.env.clock.now_ms().max(last_ms);
        let kind = now.event(hub, outcome.clone(), at_ms);
        let event = Event::new(at_ms, kind);
        let Ok(changes) = state.apply(&event) else { return Ok(Committed::Superseded) };
        let blocked = changes.blocked.into_iter().filter_map(|instance| match *state.status(instance) {
            Status::Blocked { because } => Some(Event::new(at_ms, EventKind::Blocked { instance, because })),
            _ => None,
        });
        let events: Vec<Event> = std::iter::once(event).chain(blocked).collect();
        log.append(&events)?;
        drop(log);
        tracing::info!(
            run = self.id,
            fence = self.fence,
            "took the outcome of an attempt of an interrupted run"
        );
        if let Outcome::Succeeded { output, released, usage } = outcome
            && let Some((key, preimage)) = self.key(hub, prepared)
        {
            let entry = CacheEntry { output, released, seconds: usage.seconds };
            hub.inner.ws.cache().stage_put(&key, &preimage, &entry);
        }
        Ok(Committed::Accepted)
    }

    fn event(&self, hub: &Hub, outcome: Outcome, now: u64) -> EventKind {
        let (instance, fence) = (self.instance, self.fence);
        match outcome {
            Outcome::Succeeded { output, released, usage } => {
                EventKind::Committed { instance, fence, output, released, usage }
            }
            Outcome::Skipped => EventKind::Skipped { instance, fence: Some(fence) },
            Outcome::Failed { failure } => {
                let retry_at_ms = retry_at(&self.state, instance, &failure, now, &*hub.inner.env.random);
                EventKind::Failed { instance, fence: Some(fence), failure, retry_at_ms }
            }
        }
    }

    /// The key under which other runs find the output: the one that the attempt began with, if it is still the
    /// same.
    fn key(&self, hub: &Hub, prepared: &Prepared) -> Option<(Digest, String)> {
        let inst = self.state.instance(self.instance);
        let facts = hub.place_facts(&self.runner, inst.private_to.is_some());
        let found = prepared.preimage(&self.state, self.instance, &facts)?.key();
        self.state.key(self.instance).filter(|key| *key == found.0).map(|_| found)
    }
}
