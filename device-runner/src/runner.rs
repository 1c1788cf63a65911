//! The device's life: join, claim work, run it, commit the outcome.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use headstart_env::Env;
use headstart_host::Allowlist;
use headstart_protocol::task::Task;
use headstart_protocol::text::counted;
use headstart_protocol::wire::{CommitResult, Committed, Grant};
use headstart_protocol::{Failure, FailureClass, Stage};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::attempt::{Attempt, Finished};
use crate::background::Background;
use crate::budget::Ledger;
use crate::client::{CallError, Client, is_missing_blob};
use crate::device::Device;
use crate::error::DeviceError;
use crate::gate::Gate;
use crate::history;
use crate::journal::Journal;
use crate::link::{JoinError, Link};
use crate::options::{Options, Summary, Until};
use crate::outbox::{MOST_PENDING, Outbox, PendingCommit};
use crate::pairing;
use crate::reconnect::{Reconnect, resend_pauses};
use crate::release::Upload;
use crate::state::State;
use crate::store::{Parts, PrivateRoom};

/// How long a call for work waits at the engine.
const LONG_POLL: Duration = Duration::from_secs(25);
/// An engine that has no work and answers at once is asked again after this long.
const SHORTEST_POLL: Duration = Duration::from_millis(200);
/// Pause after an answer that does not count.
const UNPROVEN: Duration = Duration::from_millis(200);
/// How often a device that waits for approval asks again.
const PENDING: Duration = Duration::from_secs(2);
/// How soon a result is sent again that the engine cannot take now.
const INTERRUPTED: Duration = Duration::from_secs(10);

/// Joins an engine and works for it until told to stop.
///
/// # Errors
/// [`DeviceError::Input`] for unusable options, a device that is paired with no engine, or one that the
/// engine refuses; [`DeviceError::KeyChanged`]; and [`DeviceError::Run`] where the engine was not reached in time or
/// results are left that it has not acknowledged.
pub async fn run(
    options: Options,
    stages: Vec<Box<dyn Stage>>,
    stop: CancellationToken,
) -> Result<Summary, DeviceError> {
    run_in(options, stages, stop, Env::system()).await
}

/// As [`run`], with time, chance and disk from `env`.
///
/// # Errors
/// As [`run`].
pub async fn run_in(
    options: Options,
    stages: Vec<Box<dyn Stage>>,
    stop: CancellationToken,
    env: Env,
) -> Result<Summary, DeviceError> {
    let state = State::open(&options.state, Arc::clone(&env.disk))?;
    // Before anything private is worked on.
    let parts = Parts::settle(&state, Parts::new(options.disk_quota, options.private_quota))?;
    let journal =
        Journal::open(&env.disk, &state.at("sent.jsonl"))?.with_reserve(PrivateRoom::new(&state, parts));
    let (pairing, invitation) = pairing::resolve(&state, &options.target)?;
    let client = Client::new(&pairing, state.identity(), options.insecure_plaintext, journal, &env)?;
    if client.is_plaintext() {
        tracing::warn!("{}: anybody on the way can read what crosses", client.url());
    }
    let outbox = Outbox::new(&state);
    let release = options.limits;
    let limits = (options.threads, options.memory);
    let programs = programs(options.stages.as_deref())?;
    let device = Device::new(&pairing.name, &options.data, state, stages, options.allowed, limits)?;
    let device = device
        .with_custom_stages(Arc::new(programs))
        .with_release_limits(release)
        .with_parts(parts)
        .with_gate(Gate::new(pairing.key, options.approval, options.pin_adapters));
    let until = options.until;
    let Options { holds, threads, memory, .. } = options;
    let busy = env.clock.elapsed();
    let reconnect = Reconnect::new(&env);
    let device = Arc::new(device);
    let (halt, leave, wake) = (stop.child_token(), CancellationToken::new(), Arc::new(Notify::new()));
    let background = Background {
        device: Arc::clone(&device),
        env: env.clone(),
        stop: halt.clone(),
        leave: leave.clone(),
        wake: Arc::clone(&wake),
    };
    // On a thread of its own: what it reads and writes holds up nothing that the engine waits for. It ends with
    // this call, also where that is given up.
    let _halted = halt.clone().drop_guard();
    let runtime = tokio::runtime::Handle::current();
    let background = tokio::task::spawn_blocking(move || runtime.block_on(background.live()));
    let (device_too, joining) = (Arc::clone(&device), Default::default());
    let link =
        Arc::new(Link { device: device_too, client, env, invitation, holds, threads, memory, joining });
    let (waiting, summary, handled) = Default::default();
    let mut runner = Runner { link, until, outbox, waiting, stop, busy, reconnect, summary, handled, wake };
    let lived = runner.live().await;
    let mut summary = runner.summary;
    // The engine sees that the device has gone now, and not when it has worked its queue off.
    drop(runner);
    match &lived {
        Ok(()) => say_what_waits(&device, halt.is_cancelled()),
        Err(_) => halt.cancel(),
    }
    leave.cancel();
    let worked = background.await.map_err(|e| DeviceError::Internal(format!("background work: {e}")));
    lived?;
    let worked = worked??;
    summary.done += worked.done;
    summary.failed += worked.failed;
    Ok(summary)
}

/// Tells the owner that there is work left which the engine has been told is delivered.
fn say_what_waits(device: &Device, stopped: bool) {
    let waiting = device.queue.len();
    if waiting > 0 {
        let tasks = counted(waiting, "task");
        match stopped {
            true => tracing::info!("{tasks} of delivered work left: the next `join` goes on with them"),
            false => tracing::info!("left the engine; {tasks} of delivered work left to do"),
        }
    }
}

/// The programs that the device's owner allows, which are said aloud.
fn programs(folder: Option<&Path>) -> Result<Allowlist, DeviceError> {
    let Some(folder) = folder else { return Ok(Allowlist::default()) };
    let programs = Allowlist::in_folder(folder).map_err(|f| DeviceError::Input(f.message))?;
    for program in programs.programs() {
        tracing::info!("allowed to run: {}", program.display());
    }
    Ok(programs)
}

struct Runner {
    link: Arc<Link>,
    until: Until,
    outbox: Outbox,
    /// Results that the engine cannot take now, by fence: when to send them again.
    waiting: BTreeMap<u64, Duration>,
    stop: CancellationToken,
    /// When there was something to do last, by the clock.
    busy: Duration,
    reconnect: Reconnect,
    summary: Summary,
    /// Tasks that were claimed and came to an end here, or were taken over.
    handled: usize,
    /// Wakes what works on tasks that were taken over.
    wake: Arc<Notify>,
}

impl Runner {
    async fn live(&mut self) -> Result<(), DeviceError> {
        if !self.join_with_retry().await? {
            return Ok(());
        }
        while !self.stop.is_cancelled() {
            let url = self.link.client.url().to_owned();
            match self.step().await {
                Ok(step) => {
                    self.reconnect.answered(&url);
                    match step {
                        Step::Worked => self.busy = self.link.env.clock.elapsed(),
                        Step::Nothing => {}
                        Step::OldGrant => self.pause(UNPROVEN).await,
                    }
                }
                Err(CallError::Journal(e)) => return Err(e),
                Err(CallError::UnknownSession) => {
                    if !self.join_with_retry().await? {
                        break;
                    }
                }
                Err(e @ CallError::Unproven(_)) => {
                    tracing::error!("{url}: {e}");
                    self.pause(UNPROVEN).await;
                    // A join tells the device the engine's time again.
                    if !self.join_with_retry().await? {
                        break;
                    }
                }
                Err(CallError::Refused { error, .. }) if error.code == "revoked" => {
                    return Err(DeviceError::Input(format!("{url}: {}", error.message)));
                }
                Err(e) => {
                    let pause = self.reconnect.failed(&url, &e.reason());
                    self.pause(pause).await;
                }
            }
            let pending = self.outbox.pending()?;
            let waiting = pending.iter().any(|p| !self.waiting.contains_key(&p.commit.fence));
            if self.is_over(waiting) {
                break;
            }
        }
        match self.outbox.pending()?.len() {
            0 => Ok(()),
            n => Err(DeviceError::Run(format!(
                "{} {} not acknowledged by the engine yet, kept and sent at the next join",
                counted(n, "result"),
                if n == 1 { "is" } else { "are" }
            ))),
        }
    }

    fn is_over(&self, waiting: bool) -> bool {
        match self.until {
            Until::Stopped => false,
            Until::Once => self.handled > 0 && !waiting,
            Until::Idle(limit) => self.idle() >= limit,
        }
    }

    /// How long there was nothing to do.
    fn idle(&self) -> Duration {
        self.link.env.clock.elapsed().saturating_sub(self.busy)
    }

    async fn pause(&self, pause: Duration) {
        tokio::select! {
            () = self.link.env.clock.sleep(pause) => {}
            () = self.stop.cancelled() => {}
        }
    }

    /// Joins, waiting for the engine to come up and for its owner to approve the device. `false` when told
    /// to stop before.
    async fn join_with_retry(&mut self) -> Result<bool, DeviceError> {
        let mut asked = false;
        loop {
            let url = self.link.client.url().to_owned();
            let (pause, why) = match self.link.join().await {
                Ok(()) => {
                    self.reconnect.answered(&url);
                    tracing::info!("joined {url} as {:?}", self.link.device.name);
                    // It may have resumed what was interrupted.
                    self.waiting.clear();
                    return Ok(true);
                }
                Err(JoinError::Never(e)) => return Err(e),
                Err(JoinError::Pending(why)) => {
                    self.reconnect.answered(&url);
                    if !std::mem::replace(&mut asked, true) {
                        tracing::warn!("{url}: {why}");
                    }
                    (PENDING, why)
                }
                Err(JoinError::Unreachable(why)) => (self.reconnect.failed(&url, &why), why),
            };
            let mut pause = pause;
            if let Until::Idle(limit) = self.until {
                if self.idle() >= limit {
                    let m = format!("no engine at {url} for {} s ({why})", limit.as_secs());
                    return Err(DeviceError::Run(m));
                }
                pause = pause.min(limit.saturating_sub(self.idle()));
            }
            self.pause(pause).await;
            if self.stop.is_cancelled() {
                return Ok(false);
            }
        }
    }

    /// Sends what is in the outbox; what the engine cannot take now, only now and then. That one result does not
    /// get through keeps no other back.
    async fn send_outbox(&mut self) -> Result<(), CallError> {
        let mut failed = Ok(());
        for pending in self.outbox.pending()? {
            let now = self.link.env.clock.elapsed();
            if self.waiting.get(&pending.commit.fence).is_some_and(|again| now < *again) {
                continue;
            }
            // A device that was killed in between has put it in and not charged it.
            self.charge(&pending)?;
            match self.deliver(&pending).await {
                Ok(()) if self.waiting.contains_key(&pending.commit.fence) => {}
                Ok(()) => self.busy = self.link.env.clock.elapsed(),
                Err(e) if e.may_pass() => failed = Err(e),
                Err(e) => return Err(e),
            }
        }
        failed
    }

    /// Sends the outbox beside other work: whether something is left that the engine did not take.
    async fn send_beside(&mut self) -> Result<bool, CallError> {
        match self.send_outbox().await {
            Ok(()) => Ok(false),
            Err(e) if e.may_pass() => Ok(true),
            Err(e) => Err(e),
        }
    }

    /// Sends what is in the outbox, and beside that asks for work and does it.
    async fn step(&mut self) -> Result<Step, CallError> {
        if self.until == Until::Once && self.handled > 0 {
            self.send_outbox().await?;
            return Ok(Step::Nothing);
        }
        let mut unsent = self.send_beside().await?;
        if self.outbox.fences()?.len() >= MOST_PENDING {
            self.pause(INTERRUPTED).await;
            return Ok(Step::Nothing);
        }
        let clock = Arc::clone(&self.link.env.clock);
        let wait = match self.until {
            Until::Idle(limit) => limit.saturating_sub(self.idle()).min(LONG_POLL),
            _ => LONG_POLL,
        };
        let link = self.link.clone();
        let claim = link.claim(&self.outbox, wait)?;
        let asked = clock.elapsed();
        let (claimed, approvals) = (link.client.claim(&claim), link.approvals_change(claim.facts.approvals));
        tokio::pin!(claimed, approvals);
        let mut pauses = resend_pauses(&link.env);
        let grant = loop {
            let pause = pauses.next().unwrap_or(LONG_POLL);
            tokio::select! {
                grant = &mut claimed => break grant?,
                // The engine is told at once that it may offer again what was refused.
                () = &mut approvals => return Ok(Step::Nothing),
                () = self.stop.cancelled() => return Ok(Step::Nothing),
                () = clock.sleep(pause), if unsent => unsent = self.send_beside().await?,
            }
        };
        let Some(grant) = grant else {
            // An engine that answers at once is not asked in a tight loop.
            let took = clock.elapsed().saturating_sub(asked);
            self.pause(wait.min(SHORTEST_POLL).saturating_sub(took)).await;
            return Ok(Step::Nothing);
        };
        let (Grant { task, lease_ms }, stub) = grant;
        // On disk before anything is done: a grant that somebody recorded never runs twice.
        let Device { state, store, .. } = &*self.link.device;
        let taken = store.private_room.with_reserve(DeviceError::is_full, || state.take_fence(&stub))?;
        if !taken {
            tracing::error!("{}: a grant is not newer than those before: not run", task.name);
            return Ok(Step::OldGrant);
        }
        self.attempt(task, Duration::from_millis(lease_ms)).await?;
        Ok(Step::Worked)
    }

    async fn attempt(&mut self, task: Task, lease: Duration) -> Result<(), CallError> {
        tracing::info!("{}: started ({}, attempt {})", task.name, task.kind, task.attempt);
        let attempt = Attempt { link: self.link.clone(), task, lease, stop: self.stop.clone() };
        let name = attempt.task.name.clone();
        let Finished { pending, entry, hidden } = attempt.run().await;
        self.handled += 1;
        let Some(entry) = entry else { return self.taken_over(&name, pending).await };
        let full = |f: &&Failure| f.class == FailureClass::DiskFull && !hidden;
        if let Some(failure) = entry.failure.as_ref().filter(full) {
            // Neither kept nor told: what a device has no room for says nothing about the stage.
            let (instance, why) = (entry.name.clone(), failure.message.clone());
            return Err(CallError::Journal(DeviceError::DiskFull { instance, why }));
        }
        match (&entry.failure, entry.ended) {
            (Some(f), _) => {
                self.summary.failed += 1;
                let help = f.help.as_ref().map(|h| format!(" ({h})")).unwrap_or_default();
                tracing::error!("{}: failed: {}{help}", entry.name, f.message);
            }
            (None, history::Ended::Superseded) => tracing::info!("{}: superseded", entry.name),
            (None, _) => {
                self.summary.done += 1;
                let word = if entry.private { "delivered" } else { "succeeded" };
                tracing::info!("{}: {word} in {:.1} s", entry.name, entry.seconds);
            }
        }
        // The outcome first: without it the history would tell of what never counted.
        if let Some(pending) = &pending {
            self.put(pending, hidden)?;
            self.charge(pending)?;
        }
        self.link.device.remember(&entry);
        if let Some(pending) = &pending {
            self.deliver(pending).await?;
        }
        Ok(())
    }

    /// Puts an outcome into the outbox. For that of a private stage there is room in any case.
    fn put(&self, pending: &PendingCommit, private: bool) -> Result<(), DeviceError> {
        let room = &self.link.device.store.private_room;
        room.with_reserve(|e: &DeviceError| private && e.is_full(), || self.outbox.put(pending))
    }

    /// A task was taken over: the engine is told that it is delivered, and the work begins.
    async fn taken_over(&mut self, name: &str, pending: Option<PendingCommit>) -> Result<(), CallError> {
        let waiting = self.link.device.queue.len();
        tracing::info!("{name}: delivered; {} to work on here", counted(waiting, "task"));
        if let Some(pending) = &pending {
            self.put(pending, true)?;
        }
        self.wake.notify_one();
        match &pending {
            Some(pending) => self.deliver(pending).await,
            None => Ok(()),
        }
    }

    /// Writes down which numbers an outcome takes out of the device, before any is sent.
    fn charge(&self, pending: &PendingCommit) -> Result<(), DeviceError> {
        let device = &self.link.device;
        if pending.charges.is_empty() {
            return Ok(());
        }
        Ledger::new(&device.state).charge(&device.data, device.limits.budget, &pending.charges)
    }

    /// Commits an outcome. The commit goes first: only while it is open does the engine take the
    /// files that it refers to, and it says which of them it lacks.
    async fn deliver(&mut self, pending: &PendingCommit) -> Result<(), CallError> {
        let fence = pending.commit.fence;
        for _ in 0..3 {
            match self.link.client.commit(&pending.commit, &pending.what).await {
                Ok(CommitResult::Taken { counts }) => {
                    if counts == Committed::Superseded {
                        tracing::info!("another attempt counts instead: {}", pending.what);
                    }
                    self.waiting.remove(&fence);
                    return Ok(self.outbox.done(fence)?);
                }
                Ok(CommitResult::Waits { run }) => {
                    let again = self.link.env.clock.elapsed() + INTERRUPTED;
                    if self.waiting.insert(fence, again).is_none() {
                        tracing::info!(
                            "the engine cannot take a result of run {run} now: kept and sent again: {}",
                            pending.what
                        );
                    }
                    return Ok(());
                }
                Ok(CommitResult::Refused { error }) => return Ok(self.set_aside(pending, &error)?),
                Err(CallError::Refused { error, .. }) if error.code == "revoked" => {
                    return Err(CallError::Refused { status: 403, error });
                }
                Err(e) if is_missing_blob(&e) => {
                    let listed = |u: &Upload| e.to_string().contains(&u.digest.to_string());
                    let any = pending.uploads.iter().any(listed);
                    for upload in pending.uploads.iter().filter(|u| !any || listed(u)) {
                        self.link.client.upload(upload, &upload.at).await?;
                    }
                }
                Err(CallError::Refused { error, .. }) => return Ok(self.set_aside(pending, &error)?),
                Err(e) => return Err(e),
            }
        }
        Err(CallError::Unreachable("it keeps asking for files that it was sent".into()))
    }

    /// Keeps a result that the engine will never take, where its owner finds it.
    fn set_aside(&self, pending: &PendingCommit, why: &dyn std::fmt::Display) -> Result<(), DeviceError> {
        let aside = self.outbox.set_aside(pending.commit.fence)?;
        tracing::error!(
            "the engine refuses: {why}; the result is kept in {}: {}",
            aside.display(),
            pending.what
        );
        Ok(())
    }
}

enum Step {
    Worked,
    Nothing,
    OldGrant,
}
