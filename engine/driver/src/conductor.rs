//! One run: a thread that takes messages, decides, records, and lets things happen.
//!
//! Nothing else changes the run's state, so every decision sees all that were made before it.
//!
//! # Layout
//! - this file: the loop, recording, the end.
//! - `ready`: what becomes of an instance that is ready: skipped, found in the cache, queued, offered.
//! - `attempts`: how attempts start and end, on threads and devices.
//! - `claims`: stages that another run computes.
//! - `proposal`: what a device's owner is asked to approve.
//! - `rebuild`: results that are gone or damaged and are made again.
//! - `time`: leases, limits, retries, waits for devices.

mod attempts;
mod claims;
mod proposal;
mod ready;
mod rebuild;
mod time;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::mpsc::{Receiver, Sender};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use headstart_core::{ApplyError, Event, EventKind, RunOutcome, RunState, Status, prepare};
use headstart_protocol::Digest;
use headstart_store::Checkpoint;
use headstart_store::cache::Claim;
use headstart_store::gc::InUse;
use tokio::sync::watch;

use crate::error::EngineError;
use crate::index;
use crate::journal::Journal;
use crate::message::{Control, Lease, Message, Throttle};
use crate::run::{Ending, InstanceFailure, OnFailure, RunOptions, RunOutput, RunResult};
use crate::shared::Shared;
use claims::Claims;
pub use claims::StageWait;
use proposal::GivenTo;

/// Messages that are handled before their events are handed to the log together.
const BATCH: usize = 256;

/// What a conductor is made of.
pub(crate) struct Parts {
    pub id: String,
    pub engine: Arc<Shared>,
    pub state: RunState,
    pub journal: Journal,
    pub options: RunOptions,
    pub inbox: Receiver<Message>,
    pub me: Sender<Message>,
    pub end: watch::Sender<Option<Ending>>,
    /// Keeps the outputs for those who have a handle of the run.
    pub outputs: Weak<OnceLock<InUse>>,
    pub begun: Duration,
    /// Told when the attempts of devices are known to the hub.
    pub readopted: Sender<()>,
}

/// A live attempt.
struct Live {
    instance: u32,
    /// Cache key and its pre-image.
    key: Option<(Digest, String)>,
    runner: Runner,
    /// So that no other run computes the same.
    claim: Option<Claim>,
    /// Progress is logged at most this often.
    logged: Throttle,
    /// What it resumes from, if it resumes from something.
    checkpoint: Option<Checkpoint>,
}

enum Runner {
    /// A worker. `overdue_ms`: when to give it up for hung.
    Local {
        control: Arc<Control>,
        overdue_ms: Option<u64>,
    },
    Device {
        lease: Arc<Lease>,
    },
}

/// Why nothing new starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stopping {
    Cancelled,
    AfterFailure,
}

pub(crate) struct Conductor {
    id: String,
    /// The id, for what is shared with threads.
    name: Arc<str>,
    engine: Arc<Shared>,
    state: RunState,
    journal: Journal,
    options: RunOptions,
    inbox: Receiver<Message>,
    me: Sender<Message>,
    end: watch::Sender<Option<Ending>>,
    kept_outputs: Weak<OnceLock<InUse>>,
    begun: Duration,
    last_ms: u64,
    /// Became ready and was not looked at yet.
    fresh: Vec<u32>,
    /// Pauses before a retry: until when, and which instance.
    retries: BTreeSet<(u64, u32)>,
    /// Live attempts by fence.
    live: BTreeMap<u64, Live>,
    /// Waiting to be claimed by a device.
    offered: BTreeSet<u32>,
    /// Private, and waiting until what their device is given is there.
    held: BTreeSet<u32>,
    /// Waiting for what other runs compute.
    claims: Claims,
    given: GivenTo,
    stopping: Option<Stopping>,
    /// When what was told to stop is given up.
    stop_deadline_ms: Option<u64>,
    broken: Option<EngineError>,
    readopted: Sender<()>,
}

impl Conductor {
    pub(crate) fn new(parts: Parts) -> Self {
        let Parts { id, engine, state, journal, options, inbox, me, end, outputs, begun, readopted } = parts;
        Self {
            name: id.as_str().into(),
            id,
            engine,
            state,
            journal,
            options,
            inbox,
            me,
            end,
            kept_outputs: outputs,
            begun,
            last_ms: 0,
            fresh: Vec::new(),
            retries: BTreeSet::new(),
            live: BTreeMap::new(),
            offered: BTreeSet::new(),
            held: BTreeSet::new(),
            claims: Claims::default(),
            given: GivenTo::new(),
            stopping: None,
            stop_deadline_ms: None,
            broken: None,
            readopted,
        }
    }

    /// Drives the run to its end.
    pub(crate) fn conduct(mut self, first: EventKind) {
        let resumed = matches!(first, EventKind::RunResumed {});
        self.engine.hub.watch(&self.id, self.state.plan().devices(), &self.me);
        let me = self.me.clone();
        // A run that has ended has no time to keep.
        self.engine.env.clock.on_advance(Box::new(move || drop(me.send(Message::Tick))));
        self.record(first);
        if resumed {
            self.readopt();
        }
        // The caller may have gone.
        let _ = self.readopted.send(());
        let outcome = loop {
            self.process_ready();
            self.offer_held();
            self.process_timers();
            if let Err(e) = self.journal.commit() {
                self.broken.get_or_insert(e);
            }
            if self.broken.is_some() {
                break None;
            }
            if let Some(outcome) = self.over() {
                let exported = outcome == RunOutcome::Succeeded && self.options.exports;
                if exported && self.rebuild_damaged_outputs() {
                    continue;
                }
                break Some(outcome);
            }
            let pause = self.pause();
            if let Some(message) = self.receive(pause) {
                self.handle(message);
                for _ in 1..BATCH {
                    let Ok(message) = self.inbox.try_recv() else { break };
                    self.handle(message);
                }
            }
        };
        self.finish(outcome);
    }

    /// The next message, if one comes within `pause`.
    fn receive(&self, pause: Duration) -> Option<Message> {
        // The conductor holds a sender itself, so the inbox is never closed.
        match self.engine.env.clock.thread_wait(pause) {
            Some(pause) => self.inbox.recv_timeout(pause).ok(),
            None => self.inbox.recv().ok(),
        }
    }

    fn handle(&mut self, message: Message) {
        match message {
            Message::StartLocal { instance, reply } => self.start_local(instance, &reply),
            Message::StartDevice { instance, claimant, lease, reply } => {
                self.start_device(instance, claimant, lease, reply);
            }
            Message::Finished { instance, fence, result, usage } => {
                self.finished(instance, fence, result, usage);
            }
            Message::Progress { instance, fence, progress } => self.progress(instance, fence, progress),
            Message::Accepts { instance, fence, reply } => {
                let counts = self.state.accepts(instance, fence);
                if !counts {
                    self.record(EventKind::Superseded { instance, fence });
                }
                // The caller may have gone.
                let _ = reply.send(counts);
            }
            Message::Commit { instance, fence, outcome, reply } => {
                self.committed(instance, fence, *outcome, reply);
            }
            Message::LeaseLost { instance, fence, cause } => self.lease_lost(instance, fence, cause),
            Message::DeviceJoined { device, version } => {
                self.record(EventKind::DeviceJoined { device, version });
            }
            Message::Cancel => self.stop(Stopping::Cancelled),
            Message::Tick => {}
            Message::LogBroken(why) => {
                self.broken.get_or_insert(EngineError::LogBroken { run: self.id.clone(), why });
            }
        }
    }

    /// The engine's clock, which never goes back within a run.
    fn now(&mut self) -> u64 {
        self.last_ms = self.last_ms.max(self.engine.env.clock.now_ms());
        self.last_ms
    }

    /// Folds an event in and adds it to the journal. False, and nothing happens, if it cannot
    /// happen: that is a defect of the conductor, and the state machine keeps it out of the log.
    fn record(&mut self, kind: EventKind) -> bool {
        let event = Event::new(self.now(), kind);
        let changes = match self.state.apply(&event) {
            Ok(changes) => changes,
            Err(ApplyError::Superseded { .. }) => return false,
            Err(e) => {
                tracing::error!(run = self.id, event = ?event.kind, error = %e, "an event that cannot happen");
                return false;
            }
        };
        self.journal.push(event);
        self.fresh.extend(changes.ready);
        for instance in changes.blocked {
            if let Status::Blocked { because } = *self.state.status(instance) {
                let at = self.last_ms;
                let event = Event::new(at, EventKind::Blocked { instance, because });
                if self.state.apply(&event).is_ok() {
                    self.journal.push(event);
                }
            }
        }
        if self.journal.len() >= BATCH
            && let Err(e) = self.journal.commit()
        {
            self.broken.get_or_insert(e);
        }
        true
    }

    /// Starts nothing more, and tells what runs to stop.
    fn stop(&mut self, why: Stopping) {
        if self.stopping.is_some() {
            return;
        }
        if why == Stopping::Cancelled && !self.record(EventKind::CancelRequested {}) {
            return;
        }
        self.stopping = Some(why);
        let grace = u64::try_from(self.engine.options.grace.as_millis()).unwrap_or(u64::MAX);
        self.stop_deadline_ms = Some(self.now().saturating_add(grace));
        self.engine.hub.withdraw(&self.id);
        self.offered.clear();
        self.held.clear();
        self.forget_claims();
        for live in self.live.values() {
            live.request_stop();
        }
    }

    /// How the run ends, if nothing is left to do.
    fn over(&self) -> Option<RunOutcome> {
        match self.stopping {
            Some(Stopping::AfterFailure) if self.live.is_empty() => Some(RunOutcome::Failed),
            _ => self.state.conclusion(),
        }
    }

    /// After a failure for good.
    fn after_failure(&mut self) {
        if self.options.on_failure == OnFailure::Stop {
            self.stop(Stopping::AfterFailure);
        }
    }

    fn finish(mut self, outcome: Option<RunOutcome>) {
        self.engine.hub.withdraw(&self.id);
        self.forget_claims();
        for live in self.live.values() {
            live.request_stop();
        }
        let result = match outcome {
            Some(outcome) => {
                self.keep_outputs();
                index::record(&self.engine.ws, &self.state, &self.options.name, outcome, self.last_ms);
                let outputs = self.outputs();
                self.record(EventKind::RunFinished { outcome });
                match self.journal.commit() {
                    Err(e) => Err(e),
                    Ok(()) => outputs.map(|outputs| self.result(outcome, outputs)),
                }
            }
            None => Err(self.broken.take().unwrap_or_else(|| EngineError::Lost(self.id.clone()))),
        };
        self.journal.close();
        // A process that ends after its run must not lose what it remembers.
        self.engine.ws.cache().flush();
        // Only now is every commit answered.
        self.engine.hub.forget_run(&self.id);
        // The log may have broken on its last group.
        let broken = self.inbox.try_iter().find_map(|m| match m {
            Message::LogBroken(why) => Some(EngineError::LogBroken { run: self.id.clone(), why }),
            _ => None,
        });
        let ending = match broken {
            Some(e) => Err(e),
            None => result,
        };
        self.end.send_replace(Some(ending.map(Arc::new).map_err(Arc::new)));
    }

    /// Before the run is over, and no longer counts as live.
    fn keep_outputs(&self) {
        if let Some(kept) = self.kept_outputs.upgrade() {
            match self.engine.ws.in_use() {
                Ok(in_use) => drop(kept.set(in_use)),
                Err(e) => tracing::warn!("{e}; outputs may be collected before they are read"),
            }
        }
    }

    fn outputs(&self) -> Result<Vec<RunOutput>, EngineError> {
        let plan = Arc::clone(self.state.plan());
        let output = |o: &headstart_dsl::plan::Output| {
            let value = prepare::output_value(&self.state, &o.value, &self.engine.manifests)
                .map_err(|source| EngineError::Output { name: o.name.clone(), source })?;
            Ok(RunOutput { name: o.name.clone(), doc: o.doc.clone(), ty: o.ty.clone(), value })
        };
        plan.outputs.iter().map(output).collect()
    }

    fn result(&self, outcome: RunOutcome, outputs: Vec<RunOutput>) -> RunResult {
        let mut blocks: BTreeMap<u32, u32> = BTreeMap::new();
        for (_, status) in self.state.statuses() {
            if let Status::Blocked { because } = status {
                *blocks.entry(*because).or_default() += 1;
            }
        }
        let failures = self.state.statuses().filter_map(|(instance, status)| match status {
            Status::Failed(failure) => Some(InstanceFailure {
                instance,
                name: self.state.instance(instance).name.clone(),
                failure: (**failure).clone(),
                blocks: blocks.get(&instance).copied().unwrap_or(0),
            }),
            _ => None,
        });
        RunResult {
            run: self.id.clone(),
            outcome,
            outputs,
            counts: self.state.counts(),
            failures: failures.collect(),
            seconds: self.engine.env.clock.elapsed().saturating_sub(self.begun).as_secs_f64(),
        }
    }
}
