//! Devices: who joined, what is offered to them, what they may read and what they may hand in.
//!
//! An HTTP layer maps each method to the call of the same name in [`headstart_protocol::wire`].
//! Codes of [`WireError`] and the status that suits them: see [`codes`].
//!
//! # Layout
//! - this file: [`Hub`], joining, claiming, renewing, reading.
//! - `roster`: all devices that have joined, with the digest of each one's secret; kept on disk.
//! - `lease_table`: offers, sessions and grants, in memory.
//! - `commits`: outcomes and uploads: what may leave a device, checked again on this side.

mod commits;
mod lease_table;
mod roster;
mod waits;

use std::path::{Path, PathBuf};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use data_encoding::HEXLOWER;
use ed25519_dalek::{Signer, SigningKey};
use headstart_disk::Disk;
use headstart_env::{Env, Random};
use headstart_protocol::task::Task;
use headstart_protocol::wire::{Claim, Commit, Committed, Grant, Join, Joined, Renew, Renewed, WireError};
use headstart_protocol::{Digest, Manifest, Numerics, PROTOCOL_VERSION};
use headstart_store::Workspace;
use tokio::sync::oneshot;

use crate::error::EngineError;
use crate::manifest_cache::{ManifestCache, artifacts_in};
use crate::message::{Lease, LeaseSignal, Message};
use lease_table::LeaseTable;
pub(crate) use lease_table::{Granted, Offer, Presence};
use roster::Roster;
pub use waits::{DeviceWait, WaitReason};

/// Stable codes of the errors that [`Hub`] gives.
pub mod codes {
    /// The token is not known, also after a restart of the engine: join again. HTTP 401.
    pub const UNKNOWN_TOKEN: &str = "unknown_token";
    /// A device of this name joined before with another secret. HTTP 403.
    pub const WRONG_SECRET: &str = "wrong_secret";
    /// The device speaks another version of the protocol. HTTP 426.
    pub const PROTOCOL: &str = "protocol_mismatch";
    /// The attempt was not granted to this device, or the artifact is none of its business. HTTP 404.
    pub const NOT_FOUND: &str = "not_found";
    /// The commit or upload carries what may not leave the device. HTTP 422.
    pub const RESIDENCY: &str = "residency";
    /// The request contradicts itself or the task: a digest that does not fit. HTTP 422.
    pub const INVALID: &str = "invalid";
    /// A file that the commit refers to was not uploaded; the message lists digests. HTTP 409.
    pub const MISSING_BLOB: &str = "missing_blob";
    /// The engine failed. HTTP 500.
    pub const INTERNAL: &str = "internal";
}

/// A claim waits for work at most this long, whatever it asks for.
const LONGEST_WAIT: Duration = Duration::from_secs(120);

pub(crate) fn wire(code: &str, message: impl Into<String>) -> WireError {
    WireError { code: code.to_owned(), message: message.into() }
}

fn internal(e: impl std::fmt::Display) -> WireError {
    wire(codes::INTERNAL, e.to_string())
}

/// The engine's side of all devices. Clones share one state.
#[derive(Clone)]
pub struct Hub {
    inner: Arc<Inner>,
}

struct Inner {
    ws: Workspace,
    manifests: ManifestCache,
    key: SigningKey,
    lease: Duration,
    env: Env,
    roster: Roster,
    leases: Mutex<LeaseTable>,
}

/// The state of a device, for people.
#[derive(Clone, Debug, serde::Serialize)]
pub struct DeviceInfo {
    /// Its name.
    pub name: String,
    /// Version of its runner.
    pub version: String,
    /// Stage kinds that it can run.
    pub kinds: Vec<String>,
    /// When it was last heard of, in milliseconds since 1970; absent if not since the engine started.
    pub last_seen_ms: Option<u64>,
    /// Names of the instances that it is running.
    pub running: Vec<String>,
    /// Whether it is waiting for work now.
    pub waiting: bool,
}

impl Hub {
    /// The hub of a workspace.
    pub(crate) fn open(
        ws: Workspace,
        manifests: ManifestCache,
        lease: Duration,
        env: Env,
    ) -> Result<Self, EngineError> {
        let key = SigningKey::from_bytes(&ws.secret("engine-signing")?);
        let roster = Roster::open(ws.dir(), Arc::clone(ws.disk()))?;
        let leases = Mutex::new(LeaseTable::new(Arc::clone(&env.clock)));
        Ok(Self { inner: Arc::new(Inner { ws, manifests, key, lease, env, roster, leases }) })
    }

    fn leases(&self) -> MutexGuard<'_, LeaseTable> {
        self.inner.leases.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lease_until(&self) -> u64 {
        let now = self.inner.env.clock.now_ms();
        now.saturating_add(u64::try_from(self.inner.lease.as_millis()).unwrap_or(u64::MAX))
    }

    /// The engine's Ed25519 public key, hexadecimal.
    pub fn public_key(&self) -> String {
        HEXLOWER.encode(self.inner.key.verifying_key().as_bytes())
    }

    /// Admits a device. The first join under a name pins its secret; the device's earlier tokens
    /// stay valid, so that an outbox is still accepted.
    ///
    /// # Errors
    /// [`codes::PROTOCOL`], [`codes::WRONG_SECRET`], [`codes::INVALID`] for an unusable name.
    pub fn join(&self, join: Join) -> Result<Joined, WireError> {
        if join.protocol != PROTOCOL_VERSION {
            let older = if join.protocol < PROTOCOL_VERSION { "device" } else { "engine" };
            return Err(wire(
                codes::PROTOCOL,
                format!(
                    "device `{}` speaks protocol {}, this engine {PROTOCOL_VERSION}; update the {older}",
                    join.device, join.protocol
                ),
            ));
        }
        self.inner.roster.admit(&join)?;
        let token = token(&*self.inner.env.random).map_err(internal)?;
        let listeners = self.leases().joined(&join, &token);
        for run in listeners {
            let (device, version) = (join.device.clone(), join.version.clone());
            // A run that just ended does not mind.
            let _ = run.send(Message::DeviceJoined { device, version });
        }
        Ok(Joined { token, key: self.public_key(), protocol: PROTOCOL_VERSION })
    }

    /// Waits up to `claim.wait_ms` for work that the device qualifies for. `None` where there is
    /// none (HTTP 204). Dropping the future gives the claim up.
    ///
    /// A device that claims holds nothing from before its latest join: such attempts are offered
    /// again.
    ///
    /// # Errors
    /// [`codes::UNKNOWN_TOKEN`].
    pub async fn claim(&self, token: &str, claim: Claim) -> Result<Option<Grant>, WireError> {
        let wait = Duration::from_millis(claim.wait_ms).min(LONGEST_WAIT);
        let clock = Arc::clone(&self.inner.env.clock);
        let until = clock.elapsed() + wait;
        let (device, lost) = {
            let mut leases = self.leases();
            let (device, session) = leases.session(token)?;
            leases.facts(&device, claim.facts);
            let lost = leases.left_behind(&device, session);
            (device, lost)
        };
        for (run, message) in lost {
            // A run that just ended does not mind.
            let _ = run.send(message);
        }
        let _waiting = Waiting::begin(self, &device);
        loop {
            // Listening begins before looking, so that no offer is missed in between.
            let bell = self.leases().bell(&device);
            let rung = bell.notified();
            tokio::pin!(rung);
            rung.as_mut().enable();
            loop {
                // A separate statement: the leases must be free again before anything is awaited.
                let offer = self.leases().take_offer(&device);
                let Some(offer) = offer else { break };
                if let Some(grant) = self.grant(token, &device, &offer).await? {
                    return Ok(Some(grant));
                }
            }
            let left = until.saturating_sub(clock.elapsed());
            if headstart_env::timeout(&*clock, left, rung).await.is_none() {
                return Ok(None);
            }
        }
    }

    /// Has the run begin the attempt, and signs its task. `None` if the run refuses.
    async fn grant(&self, token: &str, device: &str, offer: &Offer) -> Result<Option<Grant>, WireError> {
        let lease = Arc::new(Lease::new(self.lease_until()));
        let (reply, answer) = oneshot::channel();
        let start = Message::StartDevice {
            instance: offer.instance,
            device: device.to_owned(),
            lease: Arc::clone(&lease),
            reply,
        };
        if offer.conductor.send(start).is_err() {
            return Ok(None);
        }
        let Ok(task) = answer.await else { return Ok(None) };
        self.open_to(device, &task)?;
        let text = serde_json::to_string(&*task).map_err(internal)?;
        let signature = HEXLOWER.encode(&self.inner.key.sign(text.as_bytes()).to_bytes());
        let fence = task.fence;
        let session = {
            let mut leases = self.leases();
            let session = leases.session(token).map_or(0, |(_, session)| session);
            let granted = Granted::new(device, &offer.run, &offer.conductor, lease, session, Some(*task));
            leases.grant(fence, offer.instance, granted);
            session
        };
        tracing::debug!(device, fence, session, "granted");
        let lease_ms = u64::try_from(self.inner.lease.as_millis()).unwrap_or(u64::MAX);
        Ok(Some(Grant { task: text, signature, lease_ms }))
    }

    /// Lets a device read what a task reaches.
    fn open_to(&self, device: &str, task: &Task) -> Result<(), WireError> {
        let named = artifacts_in(task.args.values().chain(&task.when));
        let reach = self.inner.manifests.reach(named.into_iter().chain(task.prefetch.iter().cloned()));
        let reach = reach.map_err(internal)?;
        self.leases().open_to(device, &reach);
        Ok(())
    }

    /// Extends the lease of an attempt and passes its progress on.
    ///
    /// # Errors
    /// [`codes::UNKNOWN_TOKEN`]; [`codes::NOT_FOUND`] for an attempt of another device.
    pub fn renew(&self, token: &str, renew: Renew) -> Result<Renewed, WireError> {
        let mut leases = self.leases();
        let (device, session) = leases.session(token)?;
        let past = leases.past(renew.fence);
        let Some(granted) = leases.granted(renew.fence, &device)? else {
            // Of a run that has ended; or of one that was not resumed since the engine started, and
            // may still be: its commit will tell.
            return Ok(if past.is_some() { Renewed::Superseded } else { Renewed::Ok });
        };
        granted.session = session;
        Ok(match granted.lease.signal() {
            LeaseSignal::Superseded => Renewed::Superseded,
            LeaseSignal::Cancel => {
                granted.lease.extend(self.lease_until());
                Renewed::Cancel
            }
            LeaseSignal::Continue => {
                granted.lease.extend(self.lease_until());
                if let Some(progress) = renew.progress
                    && !granted.private
                {
                    let (instance, fence) = (granted.instance, renew.fence);
                    // A run that just ended does not mind.
                    let _ = granted.conductor.send(Message::Progress { instance, fence, progress });
                }
                Renewed::Ok
            }
        })
    }

    /// Takes an attempt's outcome. Returns when it is on disk. Committing again under the same
    /// fence gives the same answer.
    ///
    /// # Errors
    /// [`codes::RESIDENCY`] and [`codes::INVALID`] for what must not be handed in, and nothing of
    /// it is kept; [`codes::MISSING_BLOB`] if files must be uploaded first: then
    /// [`Hub::put_blob`] takes them, and the commit is to be repeated.
    pub async fn commit(&self, token: &str, commit: Commit) -> Result<Committed, WireError> {
        commits::commit(self, token, commit).await
    }

    /// The manifest of a public artifact that one of the device's tasks reaches.
    ///
    /// # Errors
    /// [`codes::UNKNOWN_TOKEN`], [`codes::NOT_FOUND`].
    pub fn manifest(&self, token: &str, id: &Digest) -> Result<Manifest, WireError> {
        {
            let mut leases = self.leases();
            let (device, _) = leases.session(token)?;
            leases.may_read_manifest(&device, id)?;
        }
        match self.inner.manifests.get(id).map_err(internal)? {
            Some(manifest) => Ok((*manifest).clone()),
            None => Err(wire(codes::NOT_FOUND, format!("artifact {} is not here", id.short()))),
        }
    }

    /// Where a file of such an artifact lies, to be sent (whole or by range).
    ///
    /// # Errors
    /// [`codes::UNKNOWN_TOKEN`], [`codes::NOT_FOUND`].
    pub fn blob(&self, token: &str, digest: &Digest) -> Result<PathBuf, WireError> {
        {
            let mut leases = self.leases();
            let (device, _) = leases.session(token)?;
            leases.may_read_blob(&device, digest)?;
        }
        let gone = || wire(codes::NOT_FOUND, format!("content {} is not here", digest.short()));
        self.inner.ws.blobs().path(digest).ok_or_else(gone)
    }

    /// Takes an upload that was written to the file `uploaded`, which is moved or removed. Kept
    /// only if a released artifact of an accepted commit refers to it.
    ///
    /// # Errors
    /// As [`Hub::may_put_blob`]; [`codes::INVALID`] if the content has another digest.
    pub fn put_blob(&self, token: &str, digest: &Digest, uploaded: &Path) -> Result<(), WireError> {
        let taken = commits::put_blob(self, token, digest, uploaded);
        if taken.is_err() {
            // Nothing that was not asked for stays here.
            let _ = self.inner.ws.disk().remove_file(uploaded);
        }
        taken
    }

    /// Whether an upload of this digest would be taken now; asked before its body is read.
    ///
    /// # Errors
    /// [`codes::RESIDENCY`] unless a commit of this device is open that needs the file.
    pub fn may_put_blob(&self, token: &str, digest: &Digest) -> Result<(), WireError> {
        let mut leases = self.leases();
        let (device, _) = leases.session(token)?;
        leases.may_upload(&device, digest)
    }

    /// The workspace's disk, which uploads are written to.
    pub fn disk(&self) -> &Arc<dyn Disk> {
        self.inner.ws.disk()
    }

    /// Folder for uploads in progress, on the same file system as the store.
    pub fn upload_dir(&self) -> PathBuf {
        self.inner.ws.dir().join("scratch")
    }

    /// All devices that ever joined, by name.
    pub fn devices(&self) -> Vec<DeviceInfo> {
        let leases = self.leases();
        let known = self.inner.roster.all().into_iter();
        known
            .map(|(name, known)| DeviceInfo {
                last_seen_ms: leases.last_seen_ms(&name),
                running: leases.running(&name),
                waiting: leases.is_waiting(&name),
                name,
                version: known.version,
                kinds: known.kinds,
            })
            .collect()
    }
}

impl Hub {
    /// What a run waits for on its devices.
    pub fn device_waits(&self, run: &str) -> Vec<DeviceWait> {
        self.leases().device_waits(run)
    }
}

/// What conductors tell the hub.
impl Hub {
    /// Tells a run when one of its devices joins.
    pub(crate) fn watch(&self, run: &str, devices: Vec<String>, conductor: &Sender<Message>) {
        self.leases().watch(run, devices, conductor);
    }

    /// Offers an instance to its device.
    pub(crate) fn offer(&self, device: &str, offer: Offer) {
        self.leases().offer(device, offer);
    }

    /// Takes back what a run offers.
    pub(crate) fn withdraw(&self, run: &str) {
        self.leases().withdraw(|o| o.run == run);
    }

    /// Takes back one offer.
    pub(crate) fn withdraw_one(&self, run: &str, instance: u32) {
        self.leases().withdraw(|o| o.run == run && o.instance == instance);
    }

    /// Remembers how a commit was answered, for when it is repeated; the first answer stays.
    pub(crate) fn answered(&self, fence: u64, answer: Committed) {
        self.leases().answered(fence, answer);
    }

    /// Forgets a run that has ended, but for the fences that late commits come under.
    pub(crate) fn forget_run(&self, run: &str) {
        self.leases().forget_run(run);
    }

    /// What a device computes numbers with, as it said when it last joined.
    pub(crate) fn numerics(&self, device: &str) -> Option<Numerics> {
        self.inner.roster.numerics(device)
    }

    /// How often a device's owner asked for everything to be tried again.
    pub(crate) fn generation(&self, device: &str) -> u64 {
        self.leases().generation(device).max(self.inner.roster.generation(device))
    }

    /// Whether a device can take an offer that waits for it.
    pub(crate) fn presence(&self, run: &str, instance: u32, device: &str) -> Presence {
        self.leases().presence(run, instance, device)
    }

    /// Conditions of an offer that do not hold on its device.
    pub(crate) fn unmet_conditions(&self, run: &str, instance: u32, device: &str) -> Vec<String> {
        self.leases().unmet_conditions(run, instance, device)
    }

    /// Takes an attempt over that was granted before the engine was started again.
    pub(crate) fn adopt(&self, fence: u64, instance: u32, granted: Granted) {
        if let Some(task) = &granted.task
            && let Err(e) = self.open_to(&granted.device, task)
        {
            let device = &granted.device;
            tracing::warn!(device, error = %e, "what an attempt reads could not be worked out again");
        }
        self.leases().grant(fence, instance, granted);
    }
}

/// A claim that waits: its device is present.
struct Waiting<'a> {
    hub: &'a Hub,
    device: String,
}

impl<'a> Waiting<'a> {
    fn begin(hub: &'a Hub, device: &str) -> Self {
        hub.leases().waits(device, 1);
        Self { hub, device: device.to_owned() }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.hub.leases().waits(&self.device, -1);
    }
}

fn token(random: &dyn Random) -> std::io::Result<String> {
    let mut bytes = [0; 32];
    random.fill(&mut bytes)?;
    Ok(HEXLOWER.encode(&bytes))
}
