//! Offers, sessions and grants.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::mpsc::Sender;

use headstart_core::LossCause;
use headstart_env::Clock;
use headstart_protocol::task::Task;
use headstart_protocol::wire::{Committed, Facts, Held, Join, WireError};
use headstart_protocol::{ArtifactRef, Digest, Manifest};
use headstart_transport::PublicKey;
use tokio::sync::Notify;

use super::device::{Device, Offer, Turn};
use super::uploads::Uploads;
use super::{DeviceWait, WaitReason, codes, wire};
use crate::message::{Lease, LeaseSignal, Message};

/// Outcomes that are remembered after their run, for commits that are repeated late.
const REMEMBERED: usize = 10_000;

/// A session that was not used for this long has ended.
const SESSION_IDLE_MS: u64 = 24 * 3600 * 1000;
/// Sessions that a device may have at once: the latest, and earlier ones that it still answers under.
const SESSIONS_OF_A_DEVICE: usize = 8;

/// A device that joined, and has proven again that it is the one: by its key, at every call.
#[derive(Clone, Debug)]
pub struct Session {
    /// The device's name.
    pub(crate) device: String,
    /// Rises with every join of any device.
    pub(crate) number: u64,
    pub(crate) key: PublicKey,
    used_ms: u64,
}

impl Session {
    /// The device's name.
    pub fn device(&self) -> &str {
        &self.device
    }
}

/// Whether a device can take an offer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Presence {
    /// It waits for work, or works.
    Present,
    /// It was not heard of lately.
    Absent { last_seen_ms: Option<u64> },
    /// It is there, but its owner has to approve the proposal of this digest.
    Unapproved(Digest),
    /// It will never qualify.
    Unfit(String),
}

/// An attempt that a device holds, or held.
pub(crate) struct Granted {
    pub device: String,
    pub run: String,
    pub conductor: Sender<Message>,
    pub lease: Arc<Lease>,
    /// The join under which the device was last heard of about it; 0 before this engine's time.
    pub session: u64,
    pub instance: u32,
    pub private: bool,
    pub name: String,
    /// Absent if it could not be worked out again after a restart.
    pub task: Option<Task>,
    /// What a repeated commit is answered.
    pub answer: Option<Committed>,
    /// The device does not hold it any more, and its run was told so.
    pub given_up: bool,
}

impl Granted {
    pub(crate) fn new(
        device: &str,
        run: &str,
        conductor: &Sender<Message>,
        lease: Arc<Lease>,
        session: u64,
        task: Option<Task>,
    ) -> Self {
        Self {
            device: device.to_owned(),
            run: run.to_owned(),
            conductor: conductor.clone(),
            lease,
            session,
            instance: 0,
            // Nothing is passed on for unknown attempts.
            private: task.as_ref().is_none_or(|t| t.private),
            name: task.as_ref().map_or_else(String::new, |t| t.name.clone()),
            task,
            answer: None,
            given_up: false,
        }
    }
}

/// What the hub keeps in memory.
pub(crate) struct LeaseTable {
    clock: Arc<dyn Clock>,
    devices: BTreeMap<String, Device>,
    /// By token.
    sessions: HashMap<String, Session>,
    joins: u64,
    grants: BTreeMap<u64, Granted>,
    watchers: BTreeMap<String, (Vec<String>, Sender<Message>)>,
    past: BTreeMap<u64, (String, Committed)>,
    /// Files that commits wait for.
    pub(super) uploads: Uploads,
}

impl LeaseTable {
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            clock,
            devices: BTreeMap::new(),
            sessions: HashMap::new(),
            joins: 0,
            grants: BTreeMap::new(),
            watchers: BTreeMap::new(),
            past: BTreeMap::new(),
            uploads: Uploads::default(),
        }
    }

    fn device(&mut self, name: &str) -> &mut Device {
        self.devices.entry(name.to_owned()).or_default()
    }

    /// A device joined; the runs that want to know.
    pub(crate) fn joined(
        &mut self,
        name: &str,
        key: PublicKey,
        join: &Join,
        token: &str,
    ) -> Vec<Sender<Message>> {
        self.joins += 1;
        let number = self.joins;
        let now = self.clock.now_ms();
        self.sessions.retain(|_, s| now.saturating_sub(s.used_ms) < SESSION_IDLE_MS);
        self.drop_oldest_session_of(&key);
        let session = Session { device: name.to_owned(), number, key, used_ms: now };
        self.sessions.insert(token.to_owned(), session);
        let device = self.device(name);
        device.session = number;
        device.kinds = join.kinds.iter().cloned().collect();
        device.facts = join.facts.clone();
        device.seen_ms = Some(now);
        device.bell.notify_waiters();
        let wants = |(devices, tx): &(Vec<String>, Sender<Message>)| {
            devices.iter().any(|d| d == name).then(|| tx.clone())
        };
        self.watchers.values().filter_map(wants).collect()
    }

    /// Makes room for another session of a key.
    fn drop_oldest_session_of(&mut self, key: &PublicKey) {
        let mine = || self.sessions.iter().filter(|(_, s)| s.key == *key);
        if mine().count() >= SESSIONS_OF_A_DEVICE
            && let Some(oldest) = mine().min_by_key(|(_, s)| s.number).map(|(token, _)| token.clone())
        {
            self.sessions.remove(&oldest);
        }
    }

    /// The session of a token, if it belongs to this key under this name.
    pub(crate) fn session(&mut self, token: &str, key: &PublicKey, name: &str) -> Result<Session, WireError> {
        let now = self.clock.now_ms();
        let known = self.sessions.get_mut(token);
        let known = known
            .filter(|s| s.key == *key && s.device == name && now.saturating_sub(s.used_ms) < SESSION_IDLE_MS);
        let Some(session) = known else {
            return Err(wire(codes::UNKNOWN_SESSION, "this engine does not know the session; join again"));
        };
        session.used_ms = now;
        let session = session.clone();
        self.device(name).seen_ms = Some(now);
        Ok(session)
    }

    pub(crate) fn facts(&mut self, device: &str, facts: Facts) {
        self.device(device).facts = facts;
    }

    pub(crate) fn generation(&self, device: &str) -> u64 {
        self.devices.get(device).map_or(0, |d| d.facts.generation)
    }

    pub(crate) fn bell(&mut self, device: &str) -> Arc<Notify> {
        Arc::clone(&self.device(device).bell)
    }

    pub(crate) fn waits(&mut self, device: &str, change: isize) {
        let now = self.clock.now_ms();
        let device = self.device(device);
        device.waiting = device.waiting.saturating_add_signed(change);
        device.seen_ms = Some(now);
    }

    /// Attempts that the device took and does not hold any more. Of one that does not say what it holds: those
    /// from before its latest join that it has said nothing about since.
    pub(crate) fn left_behind(
        &mut self,
        device: &str,
        session: u64,
        held: Option<&Held>,
    ) -> Vec<(Sender<Message>, Message)> {
        let is_left = |fence: u64, g: &Granted| match held {
            Some(held) => fence <= held.highest && !held.fences.contains(&fence),
            None => g.session < session,
        };
        let lost = self
            .grants
            .iter_mut()
            .filter(|(fence, g)| g.device == device && g.is_open() && !g.given_up && is_left(**fence, g));
        lost.map(|(fence, g)| {
            // Said once.
            g.given_up = true;
            let cause = LossCause::Device;
            (g.conductor.clone(), Message::LeaseLost { instance: g.instance, fence: *fence, cause })
        })
        .collect()
    }

    /// The oldest grant of a device that never reached it: above the highest fence that it took. Its lease
    /// begins again.
    pub(crate) fn unreceived(&mut self, session: &Session, highest: u64, until_ms: u64) -> Option<Task> {
        let now = self.clock.now_ms();
        let mut above = self.grants.range_mut(highest.saturating_add(1)..);
        let (_, granted) = above.find(|(_, g)| {
            g.device == session.device && g.is_live(now) && g.lease.signal() == LeaseSignal::Continue
        })?;
        let task = granted.task.clone()?;
        granted.session = session.number;
        granted.lease.extend(until_ms);
        Some(task)
    }

    /// Whether the device of an attempt was heard of since a time, and has not joined again since it was
    /// granted.
    pub(crate) fn is_heard_since(&self, fence: u64, since_ms: u64) -> bool {
        let Some(granted) = self.grants.get(&fence) else { return false };
        let Some(device) = self.devices.get(&granted.device) else { return false };
        granted.session == device.session && device.seen_ms.is_some_and(|seen| seen > since_ms)
    }

    /// Lets one claim of a device be answered at a time.
    pub(crate) fn turn(&mut self, device: &str) -> Arc<Turn> {
        Arc::clone(&self.device(device).turn)
    }

    pub(crate) fn offer(&mut self, device: &str, offer: Offer) {
        let device = self.device(device);
        device.offers.retain(|o| o.run != offer.run || o.instance != offer.instance);
        device.offers.push_back(offer);
        device.bell.notify_waiters();
    }

    /// The first offer that the device qualifies for.
    pub(crate) fn take_offer(&mut self, device: &str) -> Option<Offer> {
        let device = self.device(device);
        let at = device.offers.iter().position(|o| device.qualifies(o))?;
        device.offers.remove(at)
    }

    /// A device's owner has not approved what an instance's run proposes.
    pub(crate) fn refused(&mut self, device: &str, run: &str, instance: u32, proposal: Digest) {
        let device = self.device(device);
        device.refused.insert((run.to_owned(), instance), (proposal, device.facts.approvals));
    }

    pub(crate) fn withdraw(&mut self, which: impl Fn(&Offer) -> bool) {
        for device in self.devices.values_mut() {
            device.offers.retain(|o| !which(o));
        }
    }

    pub(crate) fn presence(&self, run: &str, instance: u32, device: &str) -> Presence {
        let Some(d) = self.devices.get(device) else { return Presence::Absent { last_seen_ms: None } };
        if d.session > 0
            && let Some(offer) = d.offers.iter().find(|o| o.run == run && o.instance == instance)
            && let Some(why) = d.unfit(offer)
        {
            return Presence::Unfit(why);
        }
        let now = self.clock.now_ms();
        let works = || self.grants.values().any(|g| g.device == device && g.is_live(now));
        if d.waiting > 0 || works() {
            d.unapproved(run, instance).map_or(Presence::Present, Presence::Unapproved)
        } else {
            Presence::Absent { last_seen_ms: d.seen_ms }
        }
    }

    /// Conditions of an offer that do not hold on its device.
    pub(crate) fn unmet_conditions(&self, run: &str, instance: u32, device: &str) -> Vec<String> {
        let Some(d) = self.devices.get(device) else { return Vec::new() };
        let offer = d.offers.iter().find(|o| o.run == run && o.instance == instance);
        offer.map(|offer| d.unmet(offer)).unwrap_or_default()
    }

    pub(crate) fn is_waiting(&self, device: &str) -> bool {
        self.devices.get(device).is_some_and(|d| d.waiting > 0)
    }

    /// What a run's offers wait for; those that their device will take at once are left out.
    pub(crate) fn device_waits(&self, run: &str) -> Vec<DeviceWait> {
        let mut out: Vec<DeviceWait> = Vec::new();
        for (name, device) in &self.devices {
            for offer in device.offers.iter().filter(|o| o.run == run) {
                let why = match self.presence(run, offer.instance, name) {
                    Presence::Absent { last_seen_ms: None } => WaitReason::Join,
                    Presence::Absent { last_seen_ms: Some(ms) } => WaitReason::Contact { last_seen_ms: ms },
                    Presence::Unfit(why) => WaitReason::Unfit(why),
                    Presence::Unapproved(digest) => WaitReason::Contract(digest),
                    Presence::Present => match device.unmet(offer) {
                        met if met.is_empty() => continue,
                        missing => WaitReason::Conditions(missing),
                    },
                };
                match out.iter_mut().find(|a| a.device == *name && a.why == why) {
                    Some(known) => known.stages.push(offer.name.clone()),
                    None => {
                        out.push(DeviceWait { device: name.clone(), stages: vec![offer.name.clone()], why });
                    }
                }
            }
        }
        out
    }

    pub(crate) fn grant(&mut self, fence: u64, instance: u32, granted: Granted) {
        for (old, g) in &self.grants {
            if *old < fence && g.instance == instance && g.run == granted.run {
                g.lease.send(LeaseSignal::Superseded);
            }
        }
        self.grants.insert(fence, Granted { instance, ..granted });
    }

    /// The attempt of a fence; `None` if its run has ended.
    pub(crate) fn granted(&mut self, fence: u64, device: &str) -> Result<Option<&mut Granted>, WireError> {
        let theirs = || wire(codes::NOT_FOUND, format!("attempt {fence} was not granted to `{device}`"));
        if self.past.get(&fence).is_some_and(|(d, _)| d != device) {
            return Err(theirs());
        }
        match self.grants.get_mut(&fence) {
            Some(g) if g.device != device => Err(theirs()),
            found => Ok(found),
        }
    }

    /// Whether an attempt was granted by this process, or taken over by it.
    pub(crate) fn knows(&self, fence: u64) -> bool {
        self.grants.contains_key(&fence) || self.past.contains_key(&fence)
    }

    pub(crate) fn answered(&mut self, fence: u64, answer: Committed) {
        if let Some(granted) = self.grants.get_mut(&fence) {
            granted.answer.get_or_insert(answer);
            self.uploads.close(&granted.device, fence);
        }
    }

    /// How an attempt of a past run was answered.
    pub(crate) fn past(&self, fence: u64) -> Option<Committed> {
        self.past.get(&fence).map(|(_, answer)| *answer)
    }

    pub(crate) fn open_to(&mut self, device: &str, reach: &BTreeMap<ArtifactRef, Option<Arc<Manifest>>>) {
        let device = self.device(device);
        for (artifact, manifest) in reach {
            device.manifests.insert(artifact.id);
            if let Some(m) = manifest {
                device.blobs.extend(m.files.values().map(|f| f.digest));
            }
        }
    }

    pub(crate) fn open_model_to(&mut self, device: &str, id: &Digest, manifest: &Manifest) {
        let device = self.device(device);
        device.manifests.insert(*id);
        device.blobs.extend(manifest.files.values().map(|f| f.digest));
    }

    pub(crate) fn may_read_manifest(&mut self, device: &str, id: &Digest) -> Result<(), WireError> {
        if self.device(device).manifests.contains(id) { Ok(()) } else { Err(no_business("artifact", id)) }
    }

    pub(crate) fn may_read_blob(&mut self, device: &str, digest: &Digest) -> Result<(), WireError> {
        if self.device(device).blobs.contains(digest) { Ok(()) } else { Err(no_business("content", digest)) }
    }

    pub(crate) fn watch(&mut self, run: &str, devices: Vec<String>, conductor: &Sender<Message>) {
        if !devices.is_empty() {
            self.watchers.insert(run.to_owned(), (devices, conductor.clone()));
        }
    }

    pub(crate) fn forget_run(&mut self, run: &str) {
        self.watchers.remove(run);
        self.withdraw(|o| o.run == run);
        for device in self.devices.values_mut() {
            device.refused.retain(|(of, _), _| of != run);
        }
        let over: Vec<u64> = self.grants.iter().filter(|(_, g)| g.run == run).map(|(f, _)| *f).collect();
        for fence in over {
            if let Some(g) = self.grants.remove(&fence) {
                self.uploads.close(&g.device, fence);
                self.past.insert(fence, (g.device, g.answer.unwrap_or(Committed::Superseded)));
            }
        }
        while self.past.len() > REMEMBERED {
            self.past.pop_first();
        }
    }

    pub(crate) fn last_seen_ms(&self, device: &str) -> Option<u64> {
        self.devices.get(device)?.seen_ms
    }

    pub(crate) fn running(&self, device: &str) -> Vec<String> {
        let now = self.clock.now_ms();
        let live = self.grants.values().filter(|g| g.device == device && g.is_live(now));
        live.map(|g| g.name.clone()).collect()
    }
}

impl Granted {
    fn is_open(&self) -> bool {
        self.answer.is_none() && self.lease.signal() != LeaseSignal::Superseded
    }

    fn is_live(&self, now: u64) -> bool {
        self.is_open() && !self.given_up && self.lease.until_ms() > now
    }
}

fn no_business(what: &str, digest: &Digest) -> WireError {
    let message = format!("{what} {} is not part of any task of this device", digest.short());
    wire(codes::NOT_FOUND, message)
}
