//! The device's life: join, ask for work, do it, hand it in.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use data_encoding::HEXLOWER_PERMISSIVE;
use ed25519_dalek::{Signature, VerifyingKey};
use headstart_host::Allowlist;
use headstart_protocol::task::Task;
use headstart_protocol::wire::{Claim, Committed, Facts, Grant, Join, Joined};
use headstart_protocol::{PROTOCOL_VERSION, Stage};
use tokio_util::sync::CancellationToken;

use crate::attempt::{Attempt, Finished};
use crate::client::{CallError, Client};
use crate::device::Device;
use crate::error::DeviceError;
use crate::facts::facts;
use crate::history;
use crate::journal::Journal;
use crate::outbox::{Outbox, PendingCommit};
use crate::residency::Allowed;
use crate::state::State;

/// How long a call for work waits at the engine.
const LONG_POLL: Duration = Duration::from_secs(25);

/// How a device joins and works.
#[derive(Clone, Debug)]
pub struct Options {
    /// The engine's address.
    pub url: String,
    /// The device's name, as in `device("phone")`.
    pub name: String,
    /// The folder with its own data.
    pub data: PathBuf,
    /// Its state folder.
    pub state: PathBuf,
    /// When to stop.
    pub until: Until,
    /// Conditions that its owner vouches for: `charging`, `unmetered`, `idle`.
    pub holds: Vec<String>,
    /// What its owner lets out.
    pub allowed: Allowed,
    /// The folder with users' own programs that it may run; none, if not given.
    pub stages: Option<PathBuf>,
    /// Bytes of memory that it offers.
    pub memory: Option<u64>,
    /// Threads that it offers.
    pub threads: usize,
}

/// When a device stops by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// Never.
    Stopped,
    /// After one task.
    Once,
    /// When there was nothing to do for this long.
    Idle(Duration),
}

/// What a device did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Attempts that made their output.
    pub done: usize,
    /// Attempts that failed.
    pub failed: usize,
}

/// Joins an engine and works for it until told to stop.
///
/// # Errors
/// [`DeviceError::Input`] for unusable options or a device or engine that refuses the other,
/// [`DeviceError::KeyChanged`], and [`DeviceError::Run`] where the engine was not reached in time or
/// results are left that it has not acknowledged.
pub async fn run(
    options: Options,
    stages: Vec<Box<dyn Stage>>,
    stop: CancellationToken,
) -> Result<Summary, DeviceError> {
    let state = State::open(&options.state)?;
    let journal = Journal::open(&state.at("sent.jsonl"))?;
    let client = Client::new(&options.url, journal)?;
    let outbox = Outbox::new(&state);
    let limits = (options.threads, options.memory);
    let programs = programs(options.stages.as_deref())?;
    let device = Device::new(&options.name, &options.data, state, stages, options.allowed, limits)?;
    let device = device.with_custom_stages(Arc::new(programs));
    let link = Arc::new(Link { device: Arc::new(device), client, options });
    let mut runner = Runner { link, outbox, stop, busy: Instant::now(), summary: Summary::default() };
    runner.live().await?;
    Ok(runner.summary)
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

/// The device and its engine.
pub(crate) struct Link {
    pub(crate) device: Arc<Device>,
    pub(crate) client: Client,
    pub(crate) options: Options,
}

impl Link {
    pub(crate) fn facts(&self) -> Facts {
        facts(self.options.threads, self.options.memory, &self.options.holds)
    }

    /// Joins once; checks the engine's key.
    pub(crate) async fn join(&self) -> Result<VerifyingKey, JoinError> {
        let join = Join {
            device: self.device.name.clone(),
            protocol: PROTOCOL_VERSION,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            kinds: self.device.kinds(),
            facts: self.facts(),
            secret: self.device.state.join_secret().to_owned(),
        };
        let url = self.client.url();
        let Joined { token, key, protocol } = self.client.join(&join).await.map_err(|e| match e {
            CallError::Unreachable(why) => JoinError::Unreachable(why),
            CallError::Journal(e) => JoinError::Never(e),
            other => JoinError::Never(DeviceError::Input(format!("{url}: {other}"))),
        })?;
        if protocol != PROTOCOL_VERSION {
            return Err(JoinError::Never(DeviceError::Input(format!(
                "{url} speaks version {protocol} of the protocol, this device version {PROTOCOL_VERSION}; \
                 run the same version of Headstart on both"
            ))));
        }
        let key = self.device.state.pin(url, &key).map_err(JoinError::Never)?;
        self.device.state.keep_name(&self.device.name).map_err(JoinError::Never)?;
        self.client.set_token(token);
        Ok(key)
    }
}

/// Why a join did not succeed.
pub(crate) enum JoinError {
    /// The engine is not up, or not yet.
    Unreachable(String),
    /// Trying again cannot help.
    Never(DeviceError),
}

/// Pauses that grow, with jitter: short for a while, because an engine is often only restarted, and
/// seconds at last, because it may be away for days.
struct Pauses(u32);

impl Pauses {
    fn next(&mut self) -> Duration {
        let top = 100u64 << (self.0 / 8).min(6);
        self.0 += 1;
        Duration::from_millis(top / 2 + rand::random_range(0..=top / 2))
    }
}

struct Runner {
    link: Arc<Link>,
    outbox: Outbox,
    stop: CancellationToken,
    /// When there was something to do last.
    busy: Instant,
    summary: Summary,
}

impl Runner {
    async fn live(&mut self) -> Result<(), DeviceError> {
        let Some(mut key) = self.join_with_retry().await? else { return Ok(()) };
        let mut pauses = Pauses(0);
        while !self.stop.is_cancelled() {
            let step = self.step(&key).await;
            match step {
                Ok(Step::Worked) => {
                    self.busy = Instant::now();
                    pauses = Pauses(0);
                }
                Ok(Step::Nothing) => pauses = Pauses(0),
                Ok(Step::BadGrant) => self.pause(&mut pauses).await,
                Err(CallError::Journal(e)) => return Err(e),
                Err(CallError::UnknownToken) => {
                    self.pause(&mut pauses).await;
                    let Some(new) = self.join_with_retry().await? else { break };
                    key = new;
                }
                Err(e) => {
                    tracing::info!("{e}; trying again");
                    self.pause(&mut pauses).await;
                }
            }
            let waiting = !self.outbox.pending()?.is_empty();
            if self.is_over(waiting) {
                break;
            }
        }
        match self.outbox.pending()?.len() {
            0 => Ok(()),
            n => Err(DeviceError::Run(format!(
                "{n} results are not acknowledged by the engine yet; they are kept and sent at the next join"
            ))),
        }
    }

    fn is_over(&self, waiting: bool) -> bool {
        match self.link.options.until {
            Until::Stopped => false,
            Until::Once => self.summary != Summary::default() && !waiting,
            Until::Idle(limit) => self.busy.elapsed() >= limit,
        }
    }

    async fn pause(&self, pauses: &mut Pauses) {
        let pause = pauses.next();
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = self.stop.cancelled() => {}
        }
    }

    /// Joins, waiting for the engine to come up. `None` when told to stop before.
    async fn join_with_retry(&mut self) -> Result<Option<VerifyingKey>, DeviceError> {
        let mut pauses = Pauses(0);
        let mut said = false;
        loop {
            match self.link.join().await {
                Ok(key) => {
                    tracing::info!("joined {} as {:?}", self.link.client.url(), self.link.device.name);
                    return Ok(Some(key));
                }
                Err(JoinError::Never(e)) => return Err(e),
                Err(JoinError::Unreachable(why)) => {
                    let url = self.link.client.url();
                    if !std::mem::replace(&mut said, true) {
                        tracing::info!("waiting for the engine at {url} ({why})");
                    }
                    if let Until::Idle(limit) = self.link.options.until
                        && self.busy.elapsed() >= limit
                    {
                        let m = format!("no engine at {url} for {} s ({why})", limit.as_secs());
                        return Err(DeviceError::Run(m));
                    }
                    self.pause(&mut pauses).await;
                }
            }
            if self.stop.is_cancelled() {
                return Ok(None);
            }
        }
    }

    /// Sends what waits in the outbox, then asks for work and does it.
    async fn step(&mut self, key: &VerifyingKey) -> Result<Step, CallError> {
        for pending in self.outbox.pending()? {
            self.deliver(&pending).await?;
            self.busy = Instant::now();
        }
        if self.link.options.until == Until::Once && self.summary != Summary::default() {
            return Ok(Step::Nothing);
        }
        let wait = match self.link.options.until {
            Until::Idle(limit) => limit.saturating_sub(self.busy.elapsed()).min(LONG_POLL),
            _ => LONG_POLL,
        };
        let wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
        let claim = Claim { facts: self.link.facts(), wait_ms };
        let asked = Instant::now();
        let grant = tokio::select! {
            grant = self.link.client.claim(&claim) => grant?,
            () = self.stop.cancelled() => return Ok(Step::Nothing),
        };
        let Some(grant) = grant else {
            // An engine that answers at once is not asked in a tight loop.
            let rest = wait.min(Duration::from_millis(200)).saturating_sub(asked.elapsed());
            tokio::time::sleep(rest).await;
            return Ok(Step::Nothing);
        };
        let Some(task) = verified(&grant, key) else {
            tracing::error!("a grant does not bear the engine's signature: not run");
            return Ok(Step::BadGrant);
        };
        if !self.outbox.has(task.fence) {
            self.attempt(task, Duration::from_millis(grant.lease_ms)).await?;
        }
        Ok(Step::Worked)
    }

    async fn attempt(&mut self, task: Task, lease: Duration) -> Result<(), CallError> {
        tracing::info!("{}: started ({}, attempt {})", task.name, task.kind, task.attempt);
        let attempt = Attempt { link: self.link.clone(), task, lease, stop: self.stop.clone() };
        let Finished { pending, entry } = attempt.run().await;
        match (&entry.failure, entry.ended) {
            (Some(f), _) => {
                self.summary.failed += 1;
                let help = f.help.as_ref().map(|h| format!(" ({h})")).unwrap_or_default();
                tracing::error!("{}: failed: {}{help}", entry.name, f.message);
            }
            (None, history::Ended::Superseded) => tracing::info!("{}: superseded", entry.name),
            (None, _) => {
                self.summary.done += 1;
                tracing::info!("{}: done in {:.1} s", entry.name, entry.seconds);
            }
        }
        // The outcome first: without it the history would tell of what never counted.
        if let Some(pending) = &pending {
            self.outbox.put(pending)?;
        }
        history::append(&self.link.device.state.at("history.jsonl"), &entry)?;
        if let Some(pending) = &pending {
            self.deliver(pending).await?;
        }
        Ok(())
    }

    /// Hands in an outcome. The commit goes first: only while it is open does the engine take the
    /// files it refers to, and it says which of them it lacks.
    async fn deliver(&self, pending: &PendingCommit) -> Result<(), CallError> {
        let fence = pending.commit.fence;
        for _ in 0..3 {
            match self.link.client.commit(&pending.commit, &pending.what).await {
                Ok(answer) => {
                    if answer == Committed::Superseded {
                        tracing::info!("another attempt counts instead: {}", pending.what);
                    }
                    return Ok(self.outbox.done(fence)?);
                }
                Err(CallError::Refused { error, .. }) if error.code == "missing_blob" => {
                    let listed =
                        pending.uploads.iter().any(|u| error.message.contains(&u.digest.to_string()));
                    for upload in &pending.uploads {
                        if !listed || error.message.contains(&upload.digest.to_string()) {
                            self.link.client.upload(upload, &upload.at).await?;
                        }
                    }
                }
                Err(e @ (CallError::Refused { .. } | CallError::Garbled(_))) => {
                    let aside = self.outbox.set_aside(fence)?;
                    tracing::error!("{e}; the result is kept in {}: {}", aside.display(), pending.what);
                    return Ok(());
                }
                Err(e) => return Err(e),
            }
        }
        Err(CallError::Unreachable("it keeps asking for files that it was sent".into()))
    }
}

enum Step {
    Worked,
    Nothing,
    BadGrant,
}

/// The task of a grant, if the engine signed it.
fn verified(grant: &Grant, key: &VerifyingKey) -> Option<Task> {
    let bytes = HEXLOWER_PERMISSIVE.decode(grant.signature.as_bytes()).ok()?;
    let signature = Signature::from_slice(&bytes).ok()?;
    key.verify_strict(grant.task.as_bytes(), &signature).ok()?;
    grant.task().inspect_err(|e| tracing::error!("a signed task cannot be read: {e}")).ok()
}
