//! Devices: who joined, what is offered to them, what they may read and what they may hand in.
//!
//! An HTTP layer maps each method to the call of the same name in [`headstart_protocol::wire`]. It says by
//! which key a caller has proven to be who it is; [`Hub::authenticate`] makes a [`Session`] of it, and
//! without one nothing but [`Hub::hello`] and [`Hub::join`] can be called.
//! Codes of [`WireError`] and the status that suits them: see [`codes`].
//!
//! # Layout
//! - this file: [`Hub`], claiming, renewing, reading.
//! - `join`: hello and join; [`crate::devices`] decides who may.
//! - `lease_table`: sessions and grants, in memory; `device`: what is known of a device, and its offers.
//! - `conductors`: what runs tell the hub, and ask it.
//! - `commits`: outcomes and uploads: what may leave a device, checked again on this side.
//! - `interrupted`: commits of runs that nobody executes.
//! - `attempts`: in which run's log an attempt is.
//! - `uploads`: how much devices may upload; `upload`: one that is under way.
//! - `waits`: what a run waits for on its devices.

mod attempts;
mod commits;
mod conductors;
mod device;
mod interrupted;
mod join;
mod lease_table;
mod upload;
mod uploads;
mod waits;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use headstart_disk::Disk;
use headstart_env::Env;
use headstart_protocol::task::Task;
use headstart_protocol::wire::{
    Claim, Commit, CommitAnswer, CommitResult, Grant, Renew, Renewal, Renewed, Signed, WireError,
};
use headstart_protocol::{Digest, Manifest};
use headstart_store::{StoreError, Workspace};
use headstart_transport::signed::{self, Kind, Stamp};
use headstart_transport::{Identity, PublicKey};
use serde::Serialize;
use tokio::sync::oneshot;

use crate::devices::{self, Devices, Standing};
use crate::error::EngineError;
use crate::fence::Fences;
use crate::manifest_cache::{ManifestCache, artifacts_in};
use crate::message::{Claimant, Lease, LeaseSignal, Message};
pub use crate::refusal::codes;
pub(crate) use crate::refusal::wire;
use attempts::AttemptIndex;
pub(crate) use device::Offer;
use lease_table::LeaseTable;
pub use lease_table::Session;
pub(crate) use lease_table::{Granted, Presence};
pub use upload::Upload;
use upload::UploadDir;
pub use waits::{DeviceWait, WaitReason};

/// A claim waits for work at most this long, whatever it asks for.
const LONGEST_WAIT: Duration = Duration::from_secs(120);
/// A signed message is taken for this long; a grant for as long as its lease, if that is longer.
const MESSAGE_LASTS: Duration = Duration::from_secs(120);

/// A failure of the engine. The cause is for its log: it may name folders of the engine's machine.
fn internal(e: impl std::fmt::Display) -> WireError {
    tracing::error!("{e}");
    wire(codes::INTERNAL, "the engine failed; its log says why")
}

/// The engine's side of all devices. Clones share one state.
#[derive(Clone)]
pub struct Hub {
    inner: Arc<Inner>,
}

struct Inner {
    ws: Workspace,
    manifests: ManifestCache,
    key: Identity,
    lease: Duration,
    env: Env,
    devices: Devices,
    fences: Arc<Fences>,
    /// Of the challenges of this process.
    challenge_key: [u8; 32],
    leases: Mutex<LeaseTable>,
    upload_dir: Mutex<Option<UploadDir>>,
    attempts: Mutex<AttemptIndex>,
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
        ws: &Workspace,
        manifests: ManifestCache,
        fences: Arc<Fences>,
        lease: Duration,
        env: Env,
    ) -> Result<Self, EngineError> {
        let key = devices::engine_identity(ws)?;
        let devices = Devices::open(ws, env.clone())?;
        let mut challenge_key = [0; 32];
        env.random
            .fill(&mut challenge_key)
            .map_err(EngineError::io("get random numbers for", "challenges"))?;
        let leases = Mutex::new(LeaseTable::new(Arc::clone(&env.clock)));
        let ws = ws.clone();
        let (upload_dir, attempts) = Default::default();
        let inner = Inner {
            ws,
            manifests,
            key,
            lease,
            env,
            devices,
            fences,
            challenge_key,
            leases,
            upload_dir,
            attempts,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    fn leases(&self) -> MutexGuard<'_, LeaseTable> {
        self.inner.leases.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lease_until(&self) -> u64 {
        let now = self.inner.env.clock.now_ms();
        now.saturating_add(u64::try_from(self.inner.lease.as_millis()).unwrap_or(u64::MAX))
    }

    /// The engine's identity, for TLS.
    pub fn identity(&self) -> &Identity {
        &self.inner.key
    }

    /// The devices of the workspace: who may join.
    pub fn registry(&self) -> &Devices {
        &self.inner.devices
    }

    /// Signs a message for a device.
    fn sign<T: Serialize>(
        &self,
        to: &PublicKey,
        kind: Kind,
        fence: u64,
        body: &T,
    ) -> Result<Signed, WireError> {
        let issued_ms = self.inner.env.clock.now_ms();
        let lasts = if kind == Kind::Grant { self.inner.lease.max(MESSAGE_LASTS) } else { MESSAGE_LASTS };
        let lasts = u64::try_from(lasts.as_millis()).unwrap_or(u64::MAX);
        let stamp = Stamp { fence, issued_ms, expires_ms: issued_ms.saturating_add(lasts) };
        signed::sign(&self.inner.key, to, kind, stamp, body).map_err(internal)
    }

    /// The session that a caller names, who has proven to hold `key`. To be asked at every call, before its
    /// body is read.
    ///
    /// # Errors
    /// [`codes::UNKNOWN_SESSION`], also for a session of another key; [`codes::REVOKED`].
    pub fn authenticate(&self, key: &PublicKey, token: &str) -> Result<Session, WireError> {
        match self.inner.devices.approved(key) {
            Some(name) => self.leases().session(token, key, &name),
            None => Err(self.inner.devices.stranger(key)),
        }
    }

    /// Waits up to `claim.wait_ms` for work that the device qualifies for. `None` where there is
    /// none (HTTP 204). Dropping the future gives the claim up.
    ///
    /// A claim can be repeated: a grant above the highest fence that the device took did not reach it, and is
    /// given again. What the device took and does not hold any more is offered again.
    ///
    /// # Errors
    /// [`codes::REVOKED`] where the device was revoked while it waited; [`codes::INVALID`].
    pub async fn claim(&self, session: &Session, claim: Claim) -> Result<Option<Signed>, WireError> {
        if !devices::check_facts(&claim.facts) {
            return Err(wire(codes::INVALID, "what the device says of itself is too long"));
        }
        let wait = Duration::from_millis(claim.wait_ms).min(LONGEST_WAIT);
        let clock = Arc::clone(&self.inner.env.clock);
        let until = clock.elapsed() + wait;
        let device = session.device.as_str();
        let lost = {
            let mut leases = self.leases();
            leases.facts(device, claim.facts);
            leases.left_behind(device, session.number, claim.held.as_ref())
        };
        for (run, message) in lost {
            // A run that just ended does not mind.
            let _ = run.send(message);
        }
        let _waiting = Waiting::begin(self, device);
        let turn = self.leases().turn(device);
        loop {
            // Listening begins before looking, so that no offer is missed in between.
            let bell = self.leases().bell(device);
            let rung = bell.notified();
            tokio::pin!(rung);
            rung.as_mut().enable();
            loop {
                let _turn = turn.lock().await;
                if let Some(held) = &claim.held
                    && let Some(grant) = self.grant_again(session, held.highest)?
                {
                    return Ok(Some(grant));
                }
                // A separate statement: the leases must be free again before anything is awaited.
                let offer = self.leases().take_offer(device);
                let Some(offer) = offer else { break };
                if self.inner.devices.approved(&session.key).as_deref() != Some(device) {
                    self.leases().offer(device, offer);
                    return Err(self.inner.devices.stranger(&session.key));
                }
                if let Some(grant) = self.grant(session, &offer, claim.held.is_some()).await? {
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
    async fn grant(
        &self,
        session: &Session,
        offer: &Offer,
        says_held: bool,
    ) -> Result<Option<Signed>, WireError> {
        let lease = Arc::new(Lease::new(self.lease_until()));
        let (reply, answer) = oneshot::channel();
        let claimant = Claimant { device: session.device.clone(), session: session.number, says_held };
        let start = Message::StartDevice { instance: offer.instance, claimant, lease, reply };
        if offer.conductor.send(start).is_err() {
            return Ok(None);
        }
        let Ok(task) = answer.await else { return Ok(None) };
        self.sign_grant(session, *task).map(Some)
    }

    /// A grant that never reached the device. It cannot make a task run twice: it has the fence that it had, and
    /// a device takes each fence once.
    fn grant_again(&self, session: &Session, highest: u64) -> Result<Option<Signed>, WireError> {
        let task = self.leases().unreceived(session, highest, self.lease_until());
        task.map(|task| self.sign_grant(session, task)).transpose()
    }

    fn sign_grant(&self, session: &Session, task: Task) -> Result<Signed, WireError> {
        let device = session.device.as_str();
        self.open_to(device, &task)?;
        let (fence, session_number) = (task.fence, session.number);
        let lease_ms = u64::try_from(self.inner.lease.as_millis()).unwrap_or(u64::MAX);
        let signed = self.sign(&session.key, Kind::Grant, fence, &Grant { task, lease_ms })?;
        tracing::debug!(device, fence, session = session_number, "granted");
        Ok(signed)
    }

    /// Lets a device read what a task reaches.
    fn open_to(&self, device: &str, task: &Task) -> Result<(), WireError> {
        let named = artifacts_in(task.args.values().chain(&task.when));
        let reach = self.inner.manifests.reach(named.into_iter().chain(task.prefetch.iter().cloned()));
        let reach = reach.map_err(internal)?;
        self.leases().open_to(device, &reach);
        // The owner is shown the models of the proposal before the device is given them.
        for id in task.proposal.iter().flat_map(|p| &p.models) {
            if let Some(manifest) = self.inner.manifests.get(id).map_err(internal)? {
                self.leases().open_model_to(device, id, &manifest);
            }
        }
        Ok(())
    }

    /// Extends the lease of an attempt and passes its progress on.
    ///
    /// # Errors
    /// [`codes::NOT_FOUND`] for an attempt of another device.
    pub fn renew(&self, session: &Session, renew: Renew) -> Result<Signed, WireError> {
        let fence = renew.fence;
        let answer = self.renewed(session, renew)?;
        self.sign(&session.key, Kind::Renewal, fence, &Renewal { answer })
    }

    fn renewed(&self, session: &Session, renew: Renew) -> Result<Renewed, WireError> {
        let mut leases = self.leases();
        let past = leases.past(renew.fence);
        let Some(granted) = leases.granted(renew.fence, &session.device)? else {
            // Of a run that has ended; or of one that was not resumed since the engine started, and
            // may still be: its commit will tell.
            return Ok(if past.is_some() { Renewed::Superseded } else { Renewed::Ok });
        };
        granted.session = session.number;
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

    /// Takes an attempt's outcome, whose message had the digest `digest`. Returns when it is on disk.
    /// Committing again under the same fence gives the same answer. Also what must not be handed in gets a
    /// signed answer, [`CommitResult::Refused`], and nothing of it is kept.
    ///
    /// # Errors
    /// [`codes::MISSING_BLOB`] if files must be uploaded first: then [`Hub::begin_upload`] takes them, and the
    /// commit is to be repeated. [`codes::INTERNAL`]: also to be repeated.
    pub async fn commit(
        &self,
        session: &Session,
        commit: Commit,
        digest: Digest,
    ) -> Result<(Signed, CommitResult), WireError> {
        let fence = commit.fence;
        let known = self.leases().knows(fence);
        let answer = if known {
            commits::commit(self, session, commit).await
        } else {
            interrupted::commit(self, &session.device, commit).await
        };
        let answer = match answer {
            Ok(answer) => answer,
            // Not the last word on this commit, so it is not signed.
            Err(error)
                if matches!(error.code.as_str(), codes::MISSING_BLOB | codes::NO_ROOM | codes::INTERNAL) =>
            {
                return Err(error);
            }
            Err(error) => CommitResult::Refused { error },
        };
        let message = CommitAnswer { commit: digest, answer };
        Ok((self.sign(&session.key, Kind::Commit, fence, &message)?, message.answer))
    }

    /// The manifest of a public artifact that one of the device's tasks reaches.
    ///
    /// # Errors
    /// [`codes::NOT_FOUND`].
    pub fn manifest(&self, session: &Session, id: &Digest) -> Result<Manifest, WireError> {
        self.leases().may_read_manifest(&session.device, id)?;
        match self.inner.manifests.get(id).map_err(internal)? {
            Some(manifest) => Ok((*manifest).clone()),
            None => Err(wire(codes::NOT_FOUND, format!("artifact {} is not here", id.short()))),
        }
    }

    /// Where a file of such an artifact lies, to be sent (whole or by range).
    ///
    /// # Errors
    /// [`codes::NOT_FOUND`].
    pub fn blob(&self, session: &Session, digest: &Digest) -> Result<PathBuf, WireError> {
        self.leases().may_read_blob(&session.device, digest)?;
        let gone = || wire(codes::NOT_FOUND, format!("content {} is not here", digest.short()));
        self.inner.ws.blobs().intact(digest).map_err(internal)?.ok_or_else(gone)
    }

    /// Begins the upload of a file; asked before its body is read.
    ///
    /// # Errors
    /// [`codes::RESIDENCY`] unless a commit of this device waits for the file, [`codes::BUSY`] while it is on its
    /// way, [`codes::NO_ROOM`] where the disk was filled since the commit.
    pub fn begin_upload(&self, session: &Session, digest: &Digest) -> Result<Upload, WireError> {
        Upload::begin(self, session, digest)
    }

    /// The workspace's disk, which uploads are written to.
    pub fn disk(&self) -> &Arc<dyn Disk> {
        self.inner.ws.disk()
    }

    /// Folder for uploads, on the same file system as the store; made when it is first needed.
    fn upload_dir(&self) -> Result<PathBuf, StoreError> {
        let mut made = self.inner.upload_dir.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(dir) = &*made {
            return Ok(dir.path().to_owned());
        }
        let dir = UploadDir::make(&self.inner.ws)?;
        Ok(made.insert(dir).path().to_owned())
    }

    /// All devices that may join, by name.
    pub fn devices(&self) -> Vec<DeviceInfo> {
        let leases = self.leases();
        let known = self.inner.devices.known().into_iter();
        known
            .map(|(name, version, kinds)| DeviceInfo {
                last_seen_ms: leases.last_seen_ms(&name),
                running: leases.running(&name),
                waiting: leases.is_waiting(&name),
                name,
                version,
                kinds,
            })
            .collect()
    }
}

impl Hub {
    /// What a run waits for on its devices.
    pub fn device_waits(&self, run: &str) -> Vec<DeviceWait> {
        let mut waits = self.leases().device_waits(run);
        for wait in &mut waits {
            if let Some(why) = self.unpaired(&wait.device) {
                wait.why = why;
            }
        }
        waits
    }

    /// What is missing before a device may join at all; `None` if nothing.
    pub(crate) fn unpaired(&self, device: &str) -> Option<WaitReason> {
        match self.inner.devices.standing(device).inspect_err(|e| tracing::error!("{e}")).ok()? {
            Standing::Approved => None,
            Standing::Invited => Some(WaitReason::Invited),
            Standing::Pending(fingerprints) => Some(WaitReason::Approval(fingerprints)),
            Standing::Earlier => Some(WaitReason::PairAgain),
            Standing::Unknown => Some(WaitReason::Pairing),
            Standing::Revoked => Some(WaitReason::Revoked),
        }
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
