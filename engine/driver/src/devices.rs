//! The devices of a workspace: who is invited, who waits for approval, who is approved.
//!
//! The files are read when they are needed, and changed under a lock, so that `headstart devices` works
//! beside an engine that is serving.
//!
//! # Layout
//! - this file: [`Devices`]: what people change and list.
//! - `registry`: the file `devices.json`.
//! - `pending`: the file `devices.pending.json`: strangers that asked to join.
//! - `admit`: what becomes of a join.

mod admit;
mod pending;
mod registry;

use std::path::PathBuf;

use headstart_core::PlaceFacts;
use headstart_env::{Env, Random};
use headstart_protocol::wire::WireError;
use headstart_store::Workspace;
use headstart_transport::{Identity, Invitation, PublicKey};
use serde::Serialize;

pub(crate) use admit::check_facts;
use pending::PendingFile;
use registry::{Invited, RegistryFile};

use crate::error::EngineError;
use crate::refusal::{codes, wire};

/// Longest name of a device, in bytes.
const LONGEST_NAME: usize = 64;
/// Longest label, in bytes.
const LONGEST_LABEL: usize = 200;
/// Invitations that are open at once, at most.
const MOST_INVITATIONS: usize = 256;

/// What is wrong with a change to the devices.
#[derive(Debug, thiserror::Error)]
pub enum DevicesError {
    /// Not a name of a device.
    #[error(
        "{0:?} is not a device's name: 1 to 64 letters, digits, `-`, `_` and `.`, not `.` or `-` first, and not \
         the form of a key"
    )]
    Name(String),
    /// A label that is too long, or holds control characters.
    #[error("a label has at most {LONGEST_LABEL} bytes and no control characters")]
    Label,
    /// No device of this name.
    #[error("cannot find a device `{0}`")]
    Unknown(String),
    /// No key waits under this name.
    #[error("no device `{0}` waits for approval")]
    NotPending(String),
    /// Several keys wait under this name, or one of them was revoked.
    #[error("several devices are meant by `{name}`: {}", fingerprints.join(", "))]
    Ambiguous {
        /// The name.
        name: String,
        /// Their fingerprints.
        fingerprints: Vec<String>,
    },
    /// The name belongs to another device.
    #[error("`{name}` is the device with the key {fingerprint}")]
    Taken {
        /// The name.
        name: String,
        /// The fingerprint of its key.
        fingerprint: String,
    },
    /// Too many invitations are open.
    #[error("{MOST_INVITATIONS} invitations are open; wait until some have expired")]
    Full,
    /// An address that devices cannot use.
    #[error("{0:?} is not an address of an engine, such as https://192.168.1.20:7878")]
    Address(String),
    /// The workspace could not be read or written.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

impl DevicesError {
    /// What to do about it, if anything.
    pub fn help(&self) -> Option<String> {
        Some(match self {
            Self::Unknown(_) | Self::NotPending(_) => "`headstart devices list` shows all devices".to_owned(),
            Self::Ambiguous { .. } => {
                "compare with the key that the device shows, and approve that: headstart devices approve KEY"
                    .to_owned()
            }
            Self::Taken { name, .. } => format!(
                "choose another name with `--name`, or give the name free: headstart devices revoke {name}"
            ),
            _ => return None,
        })
    }
}

/// State of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DeviceState {
    /// An invitation is open under its name.
    Invited,
    /// It has asked to join and waits for approval.
    Pending,
    /// It may join and is given work.
    Approved,
    /// It may not join any more.
    Revoked,
}

impl DeviceState {
    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Invited => "invited",
            Self::Pending => "pending",
            Self::Approved => "approved",
            Self::Revoked => "revoked",
        }
    }
}

/// A device, for a list.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DeviceRecord {
    /// Its name.
    pub name: String,
    /// Its state.
    pub state: DeviceState,
    /// Its key; absent while it is only invited.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<PublicKey>,
    /// The fingerprint of its key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<String>,
    /// What its owner or the engine's calls it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub label: String,
    /// Version of its runner.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub version: String,
    /// When it was last heard of, in Unix milliseconds, to a quarter of an hour.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_seen_ms: Option<u64>,
    /// When the invitation expires, in Unix milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_ms: Option<u64>,
    /// It joined an earlier version of Headstart, and must pair again.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub must_pair_again: bool,
}

/// Whether a name is known, for what waits for its device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    Unknown,
    Earlier,
    Invited,
    Pending(Vec<String>),
    Approved,
    Revoked,
}

/// The devices of a workspace.
pub struct Devices {
    registry: RegistryFile,
    pending: PendingFile,
    env: Env,
}

impl Devices {
    /// The devices of a workspace.
    ///
    /// # Errors
    /// [`EngineError`] if the file of devices cannot be read.
    pub fn open(ws: &Workspace, env: Env) -> Result<Self, EngineError> {
        let devices = Self { registry: RegistryFile::new(ws), pending: PendingFile::new(ws), env };
        devices.registry.read()?;
        Ok(devices)
    }

    fn now(&self) -> u64 {
        self.env.clock.now_ms()
    }

    /// Writes a one-time invitation for a device that is to have this name.
    ///
    /// # Errors
    /// [`DevicesError`] if the name is taken by a device that may join.
    pub fn invite(
        &self,
        engine: PublicKey,
        device: &str,
        url: &str,
        expires: std::time::Duration,
    ) -> Result<Invitation, DevicesError> {
        check_name(device)?;
        let host = host_of(url).ok_or_else(|| DevicesError::Address(url.to_owned()))?;
        let now = self.now();
        let expires_ms = now.saturating_add(u64::try_from(expires.as_millis()).unwrap_or(u64::MAX));
        let token = random(&*self.env.random)?;
        let invitation = Invitation {
            engine,
            url: url.trim_end_matches('/').to_owned(),
            device: device.to_owned(),
            token,
            expires_ms,
        };
        let key = invitation.token_key().public();
        self.registry.change(|r| {
            r.forget_old_invitations(now);
            if let Some(d) = r.devices.get(device).filter(|d| !d.revoked) {
                return Err(DevicesError::Taken {
                    name: device.to_owned(),
                    fingerprint: d.key.fingerprint(),
                });
            }
            if r.invitations.iter().filter(|i| i.is_open(now)).count() >= MOST_INVITATIONS {
                return Err(DevicesError::Full);
            }
            let device = device.to_owned();
            r.invitations.push(Invited { device, key, created_ms: now, expires_ms, used: None });
            if let Some(name) = host {
                r.hosts.insert(name);
            }
            Ok(())
        })?;
        Ok(invitation)
    }

    /// Approves a device that waits, or one that was revoked: by its name, its fingerprint, or the first digits
    /// of its key. A name is enough where it means one key alone. The device gets the name that it asked for,
    /// or `name`. Gives its record.
    ///
    /// # Errors
    /// [`DevicesError`].
    pub fn approve(&self, which: &str, name: Option<&str>) -> Result<DeviceRecord, DevicesError> {
        let now = self.now();
        let known = self.pending.read(now)?;
        self.registry.change(|r| {
            // What has the form of a key is never taken for a name, which anybody may choose.
            let means = |n: &str, key: &PublicKey| match PublicKey::may_be_meant_by(which) {
                true => key.is_meant_by(which),
                false => n == which,
            };
            let revoked: Vec<String> = r
                .devices
                .iter()
                .filter(|(n, d)| d.revoked && means(n, &d.key))
                .map(|(n, _)| n.clone())
                .collect();
            let waiting: Vec<_> =
                known.iter().filter(|p| means(&p.name, &p.key) && r.name_of(&p.key).is_none()).collect();
            let asked = match (&revoked[..], &waiting[..]) {
                ([], [one]) => *one,
                ([one], []) => return r.restore(one, name),
                ([], []) => return Err(DevicesError::NotPending(which.to_owned())),
                _ => {
                    let lost = revoked.iter().filter_map(|n| Some(r.devices.get(n)?.key.fingerprint()));
                    let lost = lost.map(|fingerprint| format!("{fingerprint} (revoked)"));
                    let waiting = waiting.iter().map(|p| p.key.fingerprint());
                    let fingerprints = waiting.chain(lost).collect();
                    return Err(DevicesError::Ambiguous { name: which.to_owned(), fingerprints });
                }
            };
            let name = name.unwrap_or(&asked.name);
            check_name(name)?;
            // The name of a device that was revoked is free, as it is for an invitation.
            if let Some(d) = r.devices.get(name).filter(|d| !d.revoked) {
                return Err(DevicesError::Taken { name: name.to_owned(), fingerprint: d.key.fingerprint() });
            }
            r.pair(name, asked.key, now);
            let device = r.devices.get_mut(name).ok_or_else(|| DevicesError::Unknown(name.to_owned()))?;
            device.version.clone_from(&asked.version);
            device.last_seen_ms = Some(asked.last_seen_ms);
            Ok(device.record(name))
        })
    }

    /// Bars a device from joining, and takes back invitations under its name.
    ///
    /// # Errors
    /// [`DevicesError`].
    pub fn revoke(&self, name: &str) -> Result<(), DevicesError> {
        self.registry.change(|r| {
            let invited = r.invitations.len();
            r.invitations.retain(|i| i.device != name || i.used.is_some());
            let invited = invited > r.invitations.len();
            match r.devices.get_mut(name) {
                Some(device) => device.revoked = true,
                None if invited => {}
                None => return Err(DevicesError::Unknown(name.to_owned())),
            }
            Ok(())
        })
    }

    /// Gives a device another name.
    ///
    /// # Errors
    /// [`DevicesError`].
    pub fn rename(&self, name: &str, to: &str) -> Result<(), DevicesError> {
        check_name(to)?;
        self.registry.change(|r| {
            if let Some(other) = r.devices.get(to) {
                return Err(DevicesError::Taken {
                    name: to.to_owned(),
                    fingerprint: other.key.fingerprint(),
                });
            }
            let device = r.devices.remove(name).ok_or_else(|| DevicesError::Unknown(name.to_owned()))?;
            r.devices.insert(to.to_owned(), device);
            r.earlier.remove(to);
            Ok(())
        })
    }

    /// Sets a device's label; an empty one removes it.
    ///
    /// # Errors
    /// [`DevicesError`].
    pub fn label(&self, name: &str, label: &str) -> Result<(), DevicesError> {
        if label.len() > LONGEST_LABEL || label.chars().any(char::is_control) {
            return Err(DevicesError::Label);
        }
        self.registry.change(|r| {
            let device = r.devices.get_mut(name).ok_or_else(|| DevicesError::Unknown(name.to_owned()))?;
            label.clone_into(&mut device.label);
            Ok(())
        })
    }

    /// All devices, by name.
    ///
    /// # Errors
    /// [`EngineError`] if a file cannot be read.
    pub fn list(&self) -> Result<Vec<DeviceRecord>, EngineError> {
        let now = self.now();
        let r = self.registry.read()?;
        let mut all: Vec<DeviceRecord> = r.devices.iter().map(|(name, d)| d.record(name)).collect();
        all.extend(r.invitations.iter().filter(|i| i.is_open(now)).map(Invited::record));
        all.extend(
            self.pending.read(now)?.iter().filter(|p| r.name_of(&p.key).is_none()).map(|p| p.record()),
        );
        let lost = r.earlier.iter().filter(|n| !r.devices.contains_key(*n));
        all.extend(lost.map(|name| DeviceRecord {
            must_pair_again: true,
            ..DeviceRecord::new(name, DeviceState::Revoked)
        }));
        all.sort_by(|a, b| (&a.name, a.state, a.key).cmp(&(&b.name, b.state, b.key)));
        Ok(all)
    }

    /// What is known of a name.
    pub(crate) fn standing(&self, name: &str) -> Result<Standing, EngineError> {
        let now = self.now();
        let r = self.registry.read()?;
        if r.devices.get(name).is_some_and(|d| !d.revoked) {
            return Ok(Standing::Approved);
        }
        let waiting = self.pending.read(now)?;
        let waiting = waiting.iter().filter(|p| p.name == name && r.name_of(&p.key).is_none());
        let waiting: Vec<String> = waiting.map(|p| p.key.fingerprint()).collect();
        Ok(match r.devices.get(name) {
            _ if !waiting.is_empty() => Standing::Pending(waiting),
            _ if r.invitations.iter().any(|i| i.device == name && i.is_open(now)) => Standing::Invited,
            Some(_) => Standing::Revoked,
            None if r.earlier.contains(name) => Standing::Earlier,
            None => Standing::Unknown,
        })
    }

    /// The name of a key that may join. An error of the disk reads as none.
    pub(crate) fn approved(&self, key: &PublicKey) -> Option<String> {
        let registry = self.registry.read().inspect_err(|e| tracing::error!("{e}")).ok()?;
        let (name, device) = registry.devices.iter().find(|(_, d)| d.key == *key)?;
        (!device.revoked).then(|| name.clone())
    }

    /// Whether a key is that of a device that may join.
    pub fn is_approved(&self, key: &PublicKey) -> bool {
        self.approved(key).is_some()
    }

    /// What a key is told that may not join.
    pub(crate) fn stranger(&self, key: &PublicKey) -> WireError {
        let registry = self.registry.read();
        match registry.as_ref().ok().and_then(|r| r.name_of(key)) {
            Some(name) => admit::revoked(name),
            None => wire(codes::UNKNOWN_SESSION, "the engine does not know this device; join again"),
        }
    }

    /// Names of hosts under which invited devices reach the engine.
    pub(crate) fn is_host(&self, name: &str) -> bool {
        self.registry.read().is_ok_and(|r| r.hosts.contains(name))
    }

    /// What a device computes numbers with, as it said when it last joined, and its key. One that was revoked is
    /// no device: what it made is found by nobody.
    pub(crate) fn place_facts(&self, device: &str) -> PlaceFacts {
        let registry = self.registry.read();
        let known = registry.as_ref().ok().and_then(|r| r.devices.get(device));
        let Some(known) = known.filter(|d| !d.revoked) else {
            return PlaceFacts::default();
        };
        PlaceFacts {
            numerics: known.numerics.clone(),
            device_key: Some(known.key.to_string()),
            generation: known.generation,
        }
    }

    /// How often a device's owner had asked for everything to be tried again when it last joined.
    pub(crate) fn generation(&self, device: &str) -> u64 {
        self.registry.read().ok().and_then(|r| Some(r.devices.get(device)?.generation)).unwrap_or(0)
    }

    /// Devices that may join, by name: version and kinds.
    pub(crate) fn known(&self) -> Vec<(String, String, Vec<String>)> {
        let Ok(registry) = self.registry.read() else { return Vec::new() };
        let known = registry.devices.iter().filter(|(_, d)| !d.revoked);
        known.map(|(name, d)| (name.clone(), d.version.clone(), d.kinds.clone())).collect()
    }
}

impl DeviceRecord {
    fn new(name: &str, state: DeviceState) -> Self {
        Self {
            name: name.to_owned(),
            state,
            key: None,
            fingerprint: None,
            label: String::new(),
            version: String::new(),
            last_seen_ms: None,
            expires_ms: None,
            must_pair_again: false,
        }
    }

    fn with_key(self, key: PublicKey) -> Self {
        Self { key: Some(key), fingerprint: Some(key.fingerprint()), ..self }
    }
}

/// Names of devices are names of folders too, and stand in commands.
pub(crate) fn check_name(name: &str) -> Result<(), DevicesError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let fits = !name.is_empty() && name.len() <= LONGEST_NAME && !name.starts_with(['.', '-']);
    if fits && name.chars().all(plain) && !PublicKey::may_be_meant_by(name) {
        Ok(())
    } else {
        Err(DevicesError::Name(name.chars().take(80).collect()))
    }
}

/// The host of an engine's address, if it is a name and no number; `None` if it is no address.
#[expect(clippy::option_option, reason = "no address, an address of numbers, a name")]
fn host_of(url: &str) -> Option<Option<String>> {
    let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"))?;
    let authority = rest.strip_suffix('/').unwrap_or(rest);
    if authority.len() > 255 || authority.contains(['/', '@', '?', '#', '\\']) {
        return None;
    }
    let host = crate::hosts::host_name(authority)?;
    Some(host.parse::<std::net::IpAddr>().is_err().then_some(host))
}

/// Where the signing secret of a workspace's engine is kept.
pub(crate) const ENGINE_SECRET: &str = "engine-signing";

/// The identity of a workspace's engine: made when it is first asked for.
///
/// # Errors
/// If the workspace cannot be read or written.
pub fn engine_identity(workspace: &Workspace) -> Result<Identity, EngineError> {
    Ok(Identity::from_secret(&workspace.secret(ENGINE_SECRET)?))
}

fn random<const N: usize>(random: &dyn Random) -> Result<[u8; N], EngineError> {
    let mut bytes = [0; N];
    random
        .fill(&mut bytes)
        .map_err(EngineError::io("get random numbers for", PathBuf::from("an invitation")))?;
    Ok(bytes)
}
