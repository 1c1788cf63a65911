//! How attempts begin and end.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::SyncSender;
use std::time::Duration;

use headstart_core::prepare::catalogs_behind;
use headstart_core::{Event, EventKind, LossCause, ReleasedParts, Status};
use headstart_dsl::plan::Place;
use headstart_protocol::Progress;
use headstart_protocol::task::{Outcome, Task, Usage};
use headstart_protocol::wire::Committed;
use headstart_protocol::{ArtifactRef, Digest, Failure, FailureClass};
use headstart_store::gc::InUse;
use headstart_store::{CacheEntry, Workspace};
use tokio::sync::oneshot;

use super::ready::Planned;
use super::{Conductor, Live, Runner, Stopping};
use crate::error::EngineError;
use crate::hub::Granted;
use crate::local::local_task;
use crate::message::{Claimant, Control, Lease, LeaseSignal, LocalTask, Message, Throttle};
use crate::retry::retry_at;

/// How long a stage may take to notice that its time is over before it counts as hung.
const HUNG_MS: u64 = 30_000;
/// Progress is written to the log at most this often for an attempt.
const LOGGED: Duration = Duration::from_secs(1);

impl Live {
    pub(super) fn request_stop(&self) {
        match &self.runner {
            Runner::Local { control, .. } => control.cancel.store(true, Ordering::Release),
            Runner::Device { lease } => lease.send(LeaseSignal::Cancel),
        }
    }
}

impl Conductor {
    /// Whether an instance may start now, and if so how.
    fn startable(&mut self, instance: u32) -> Option<Planned> {
        let ready = matches!(self.state.status(instance), Status::Ready { .. });
        if self.stopping.is_some() || !ready { None } else { self.plan_attempt(instance) }
    }

    /// Records the beginning of an attempt; its fence and number.
    fn begin(
        &mut self,
        instance: u32,
        runner: &str,
        planned: &Planned,
        lease_until_ms: Option<u64>,
    ) -> Option<(u64, u32)> {
        let fence = match self.engine.fences.next() {
            Ok(fence) => fence,
            Err(e) => {
                self.broken.get_or_insert(e);
                return None;
            }
        };
        let attempt = self.state.attempts(instance) + 1;
        let begun = self.record(EventKind::AttemptStarted {
            instance,
            attempt,
            fence,
            runner: runner.to_owned(),
            key: planned.key.as_ref().map(|(key, _)| *key),
            lease_until_ms,
        });
        begun.then_some((fence, attempt))
    }

    /// A worker is free. It starts at once: until its commit is on disk, nothing of the attempt
    /// leaves this process, and if the process dies, so does the attempt.
    pub(super) fn start_local(&mut self, instance: u32, reply: &SyncSender<LocalTask>) {
        let Some(planned) = self.startable(instance) else { return };
        let Some(claim) = self.claim(instance, &planned) else { return };
        let Some((fence, _)) = self.begin(instance, "local", &planned, None) else { return };
        let control = Arc::new(Control::default());
        let source_dir = self.options.source_dir.clone();
        let threads = self.engine.need(&self.state, instance).threads;
        let log = self.engine.ws.dir().join("runs").join(&self.id).join(format!("logs/{fence}.log"));
        let task = LocalTask {
            log,
            key: planned.key.as_ref().map(|(key, _)| *key),
            control: Arc::clone(&control),
            ..local_task(&self.state, instance, fence, &planned.prepared, threads, source_dir)
        };
        let timeout = self.state.instance(instance).policy.timeout_ms;
        let overdue_ms = timeout.map(|t| self.now().saturating_add(t).saturating_add(HUNG_MS));
        let runner = Runner::Local { control, overdue_ms };
        let checkpoint = planned.key.as_ref().and_then(|(key, _)| self.engine.ws.checkpoint_of(key));
        let logged = Throttle::new(LOGGED);
        self.live.insert(fence, Live { instance, key: planned.key, runner, claim, logged, checkpoint });
        if reply.send(task).is_err() {
            self.lease_lost(instance, fence, LossCause::Engine);
        }
    }

    /// A device claims. It learns of its task when the attempt is on disk. From then on the hub gives the
    /// grant again to a device that did not get it.
    pub(super) fn start_device(
        &mut self,
        instance: u32,
        claimant: Claimant,
        lease: Arc<Lease>,
        reply: oneshot::Sender<Box<Task>>,
    ) {
        let Claimant { device, session, says_held } = claimant;
        self.offered.remove(&instance);
        let Some(planned) = self.startable(instance) else { return };
        let prefetch = match self.prefetch(instance) {
            Ok(prefetch) => prefetch,
            Err(failure) => return self.fail_unattempted(instance, failure),
        };
        let proposal = match self.proposal(&device) {
            Ok(proposal) => proposal,
            Err(failure) => return self.fail_unattempted(instance, failure),
        };
        let Some((fence, attempt)) = self.begin(instance, &device, &planned, Some(lease.until_ms())) else {
            return;
        };
        let task = planned.prepared.task(&self.state, instance, attempt, fence, prefetch, proposal);
        let (run, me, hub) = (self.id.clone(), self.me.clone(), self.engine.hub.clone());
        let granted = Granted::new(&device, &run, &me, Arc::clone(&lease), session, Some(task.clone()));
        let runner = Runner::Device { lease };
        let logged = Throttle::new(LOGGED);
        self.live.insert(
            fence,
            Live { instance, key: planned.key, runner, claim: None, logged, checkpoint: None },
        );
        self.journal.then(move || {
            hub.granted(fence, instance, granted);
            if reply.send(Box::new(task)).is_err() && !says_held {
                // The device went away while it was waiting, and will not say that it got nothing.
                let _ = me.send(Message::LeaseLost { instance, fence, cause: LossCause::Device });
            }
        });
    }

    /// All pLLMs that a private choice of the instance may be, and what they are made of.
    fn prefetch(&self, instance: u32) -> Result<Vec<ArtifactRef>, Failure> {
        let failed = |e: headstart_store::ContentError| crate::local::store_failure(e);
        let mut listed = BTreeSet::new();
        for catalog in catalogs_behind(&self.state, instance) {
            let Status::Done(done) = self.state.status(catalog) else { continue };
            if let Some(manifest) = self.engine.manifests.get(&done.output.id).map_err(failed)? {
                let pllms = manifest.uses.iter().filter(|(name, _)| name.starts_with("pllm:"));
                listed.extend(pllms.map(|(_, a)| a.clone()));
            }
        }
        Ok(self.engine.manifests.reach(listed).map_err(failed)?.into_keys().collect())
    }

    /// The task of an attempt that was granted before the engine was started again.
    pub(super) fn granted_task(&mut self, instance: u32, fence: u64) -> Option<Task> {
        let Place::Device(device) = self.state.instance(instance).place.clone() else { return None };
        let proposal = self.proposal(&device).ok()?;
        let planned = self.plan_running(instance)?;
        let attempt = self.state.attempts(instance);
        let prefetch = self.prefetch(instance).ok()?;
        Some(planned.prepared.task(&self.state, instance, attempt, fence, prefetch, proposal))
    }

    /// The cache key of a running attempt, and its pre-image.
    pub(super) fn preimage_of(&self, instance: u32) -> Option<(Digest, String)> {
        self.plan_running(instance)?.key
    }

    /// A worker's attempt ended.
    pub(super) fn finished(
        &mut self,
        instance: u32,
        fence: u64,
        result: Result<(ArtifactRef, InUse), Failure>,
        usage: Usage,
    ) {
        if !self.state.accepts(instance, fence) {
            self.record(EventKind::Superseded { instance, fence });
            return;
        }
        match result {
            Ok((output, in_use)) => {
                self.accept(instance, fence, output, ReleasedParts::new(), usage);
                self.journal.then(move || drop(in_use));
            }
            Err(failure) => self.failed(instance, fence, failure),
        }
    }

    fn accept(
        &mut self,
        instance: u32,
        fence: u64,
        output: ArtifactRef,
        released: ReleasedParts,
        usage: Usage,
    ) {
        let (key, keeps, claim) = match self.live.remove(&fence) {
            Some(live) => {
                live.supersede();
                let keeps = live.keeps_progress();
                (live.key, keeps, live.claim)
            }
            // The lease had expired. The inputs may have changed since; then there is no key.
            None => {
                let begun = self.state.key(instance);
                let key = begun.and_then(|key| self.preimage_of(instance).filter(|(again, _)| *again == key));
                (key, false, None)
            }
        };
        self.offered.remove(&instance);
        let seconds = usage.seconds;
        let event = EventKind::Committed {
            instance,
            fence,
            output: output.clone(),
            released: released.clone(),
            usage,
        };
        if let Some((key, preimage)) = &key {
            // Before the event: what the log calls committed is in the cache, whenever the system stops.
            let entry = CacheEntry { output: output.clone(), released, seconds };
            self.engine.ws.cache().stage_put(key, preimage, &entry);
        }
        if !self.record(event) {
            return;
        }
        index_catalog(self, &output);
        if let Some((key, _)) = key.filter(|_| keeps) {
            let engine = Arc::clone(&self.engine);
            self.journal.then(move || engine.ws.forget_resume(&key));
        }
        // Runs that wait for the result take it when it is on disk.
        self.journal.then(move || drop(claim));
    }

    /// An attempt failed: again, or for good.
    pub(super) fn failed(&mut self, instance: u32, fence: u64, failure: Failure) {
        let live = self.live.remove(&fence);
        if let Some(live) = &live {
            live.supersede();
        }
        let saved_progress = live.as_ref().is_some_and(|live| live.saved_progress(&self.engine.ws));
        if failure.class.is_environment()
            && live.is_some_and(|live| matches!(live.runner, Runner::Local { .. }))
        {
            // Nothing is recorded: no other stage would fare better, and a run that is resumed treats the attempt
            // as one that a crash ended.
            let (run, instance) = (self.id.clone(), self.state.instance(instance).name.clone());
            self.broken.get_or_insert(EngineError::Environment { run, instance, failure });
            return;
        }
        let now = self.now();
        let missing = failure.class == FailureClass::MissingArtifact;
        let retry_at_ms = match failure.class {
            // It was told to stop, so it is neither failed nor done.
            FailureClass::Cancelled if self.stopping.is_some() => Some(now),
            _ => retry_at(&self.state, instance, &failure, now, &*self.engine.env.random),
        };
        if failure.class == FailureClass::Lost && saved_progress {
            self.record(EventKind::Checkpointed { instance, fence });
        }
        let message = failure.message.clone();
        self.record(EventKind::Failed { instance, fence: Some(fence), failure, retry_at_ms });
        if missing && retry_at_ms.is_some() && !self.rebuild_missing_inputs(instance) {
            // Nothing is gone that could be made again: trying once more would not help.
            self.fail_unattempted(instance, Failure::new(FailureClass::MissingArtifact, message));
        } else if retry_at_ms.is_none() {
            self.after_failure();
        }
    }

    /// A device hands in an outcome, which the hub has checked.
    pub(super) fn committed(
        &mut self,
        instance: u32,
        fence: u64,
        outcome: Outcome,
        reply: oneshot::Sender<Committed>,
    ) {
        let answer = if self.state.accepts(instance, fence) {
            match outcome {
                Outcome::Succeeded { output, released, usage } => {
                    self.accept(instance, fence, output, released, usage);
                }
                Outcome::Skipped => {
                    if let Some(live) = self.live.remove(&fence) {
                        live.supersede();
                    }
                    self.record(EventKind::Skipped { instance, fence: Some(fence) });
                }
                Outcome::Failed { failure } => self.failed(instance, fence, failure),
            }
            Committed::Accepted
        } else {
            self.record(EventKind::Superseded { instance, fence });
            Committed::Superseded
        };
        let engine = Arc::clone(&self.engine);
        self.journal.then(move || {
            engine.hub.answered(fence, answer);
            // A device that went away asks again.
            let _ = reply.send(answer);
        });
    }

    /// An attempt ended without an outcome.
    pub(super) fn lease_lost(&mut self, instance: u32, fence: u64, cause: LossCause) {
        if self.live.remove(&fence).is_some() {
            self.record(EventKind::LeaseExpired { instance, fence, cause: Some(cause) });
            if self.stopping == Some(Stopping::AfterFailure) {
                self.fresh.clear();
            }
        }
    }

    /// How far an attempt is. From private stages the hub lets none through.
    pub(super) fn progress(&mut self, instance: u32, fence: u64, progress: Progress) {
        let kind = EventKind::Progress { instance, fence, progress };
        let event = Event::new(self.now(), kind);
        let Some(live) = self.live.get_mut(&fence) else { return };
        let log = live.logged.pass(self.engine.env.clock.elapsed());
        if self.state.apply(&event).is_ok()
            && let Err(e) = self.journal.pass(event, log)
        {
            self.broken.get_or_insert(e);
        }
    }
}

impl Live {
    /// Whether it saved progress that the next attempt resumes from.
    fn saved_progress(&self, ws: &Workspace) -> bool {
        let now = self.key.as_ref().and_then(|(key, _)| ws.checkpoint_of(key));
        now.is_some() && now != self.checkpoint
    }

    /// Whether its stage keeps progress for a later attempt.
    fn keeps_progress(&self) -> bool {
        matches!(&self.runner, Runner::Local { control, .. } if control.keeps.load(Ordering::Acquire))
    }

    /// Nothing more is expected of the attempt.
    fn supersede(&self) {
        if let Runner::Device { lease } = &self.runner {
            lease.send(LeaseSignal::Superseded);
        }
    }
}

/// Puts a public catalog into the index that people query.
fn index_catalog(conductor: &Conductor, output: &ArtifactRef) {
    if output.ty == headstart_protocol::ArtifactType::Catalog
        && output.private_to.is_none()
        && let Ok(Some(manifest)) = conductor.engine.manifests.get(&output.id)
    {
        crate::index::record_catalog(&conductor.engine.ws, &output.id, &manifest);
    }
}
