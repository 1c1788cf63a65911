//! The file `devices.json`: devices that may join, or may not any more, and invitations.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use fs4::fs_std::FileExt;
use headstart_content::read_bounded;
use headstart_disk::{Disk, Mode, Open, files};
use headstart_protocol::Numerics;
use headstart_store::{StoreError, Workspace};
use headstart_transport::PublicKey;
use serde::{Deserialize, Serialize};

use super::{DeviceRecord, DeviceState, DevicesError};
use crate::error::EngineError;

/// Bytes of a file of devices at most.
const LARGEST: u64 = 64 << 20;
/// The format that this version writes. Before it the file was a map from names to secrets' digests.
const FORMAT: u32 = 2;
/// A used or expired invitation is remembered this long, so that it is refused for what it is.
const REMEMBERED_MS: u64 = 24 * 3600 * 1000;

/// A device that has been approved.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Device {
    pub key: PublicKey,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub revoked: bool,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub label: String,
    /// When it was paired.
    pub paired_ms: u64,
    /// When it was last heard of; written now and then only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_seen_ms: Option<u64>,
    /// Version of its runner at its latest join.
    #[serde(default)]
    pub version: String,
    /// Stage kinds that it can run.
    #[serde(default)]
    pub kinds: Vec<String>,
    /// What its stages compute numbers with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub numerics: Option<Numerics>,
    /// How often its owner had asked for everything to be tried again.
    #[serde(default)]
    pub generation: u64,
}

impl Device {
    pub(super) fn record(&self, name: &str) -> DeviceRecord {
        let state = if self.revoked { DeviceState::Revoked } else { DeviceState::Approved };
        DeviceRecord {
            label: self.label.clone(),
            version: self.version.clone(),
            last_seen_ms: self.last_seen_ms,
            ..DeviceRecord::new(name, state).with_key(self.key)
        }
    }
}

/// An invitation, without its token.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Invited {
    pub device: String,
    /// The public half of the key that the token gives. It proves nothing by itself.
    pub key: PublicKey,
    pub created_ms: u64,
    pub expires_ms: u64,
    /// The key that used it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used: Option<PublicKey>,
}

impl Invited {
    pub(super) fn is_open(&self, now: u64) -> bool {
        self.used.is_none() && self.expires_ms > now
    }

    pub(super) fn record(&self) -> DeviceRecord {
        let record = DeviceRecord::new(&self.device, DeviceState::Invited);
        DeviceRecord { expires_ms: Some(self.expires_ms), ..record }
    }
}

/// What the file holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Registry {
    format: u32,
    #[serde(default)]
    pub devices: BTreeMap<String, Device>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub invitations: Vec<Invited>,
    /// Names under which invited devices reach the engine, beside addresses of numbers.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub hosts: BTreeSet<String>,
    /// Devices that joined an earlier version, by a secret, and must pair again.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub earlier: BTreeSet<String>,
}

impl Default for Registry {
    fn default() -> Self {
        Self {
            format: FORMAT,
            devices: BTreeMap::new(),
            invitations: Vec::new(),
            hosts: BTreeSet::new(),
            earlier: BTreeSet::new(),
        }
    }
}

impl Registry {
    /// The name of a key, also of one that was revoked.
    pub(super) fn name_of(&self, key: &PublicKey) -> Option<&str> {
        self.devices.iter().find(|(_, d)| d.key == *key).map(|(name, _)| name.as_str())
    }

    /// A key is the device of a name from now on.
    pub(super) fn pair(&mut self, name: &str, key: PublicKey, now: u64) {
        let device = Device {
            key,
            revoked: false,
            label: String::new(),
            paired_ms: now,
            last_seen_ms: None,
            version: String::new(),
            kinds: Vec::new(),
            numerics: None,
            generation: 0,
        };
        self.devices.insert(name.to_owned(), device);
        self.earlier.remove(name);
    }

    /// A device that was revoked may join again; under another name, if one is given.
    pub(super) fn restore(&mut self, device: &str, name: Option<&str>) -> Result<DeviceRecord, DevicesError> {
        let name = name.unwrap_or(device);
        if name != device {
            super::check_name(name)?;
            if let Some(other) = self.devices.get(name) {
                let fingerprint = other.key.fingerprint();
                return Err(DevicesError::Taken { name: name.to_owned(), fingerprint });
            }
        }
        let mut found =
            self.devices.remove(device).ok_or_else(|| DevicesError::Unknown(device.to_owned()))?;
        found.revoked = false;
        let record = found.record(name);
        self.devices.insert(name.to_owned(), found);
        self.earlier.remove(name);
        Ok(record)
    }

    pub(super) fn forget_old_invitations(&mut self, now: u64) {
        self.invitations.retain(|i| i.expires_ms.saturating_add(REMEMBERED_MS) > now);
    }

    fn parse(bytes: &[u8]) -> Result<Self, String> {
        let value: serde_json::Value = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
        match value.get("format").and_then(serde_json::Value::as_u64) {
            Some(format) if format == u64::from(FORMAT) => {
                serde_json::from_value(value).map_err(|e| e.to_string())
            }
            Some(later) => Err(format!("it has format {later}, which a later version of Headstart writes")),
            None => {
                let earlier: BTreeMap<String, serde_json::Value> =
                    serde_json::from_value(value).map_err(|e| e.to_string())?;
                Ok(Self { earlier: earlier.into_keys().collect(), ..Self::default() })
            }
        }
    }
}

/// What tells a file from the one that it replaced.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Stamp {
    modified: Option<SystemTime>,
    length: u64,
    inode: u64,
}

impl Stamp {
    fn of(path: &Path) -> Option<Self> {
        let meta = std::fs::metadata(path).ok()?;
        #[cfg(unix)]
        let inode = std::os::unix::fs::MetadataExt::ino(&meta);
        #[cfg(not(unix))]
        let inode = 0;
        Some(Self { modified: meta.modified().ok(), length: meta.len(), inode })
    }
}

/// The file, and what it held when it was last read.
pub(super) struct RegistryFile {
    path: PathBuf,
    lock: PathBuf,
    disk: Arc<dyn Disk>,
    read: Mutex<Option<(Option<Stamp>, Arc<Registry>)>>,
}

impl RegistryFile {
    pub(super) fn new(ws: &Workspace) -> Self {
        Self {
            path: ws.dir().join("devices.json"),
            lock: ws.dir().join("devices.lock"),
            disk: Arc::clone(ws.disk()),
            read: Mutex::new(None),
        }
    }

    /// What the file holds now.
    pub(super) fn read(&self) -> Result<Arc<Registry>, EngineError> {
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        let stamp = Stamp::of(&self.path);
        if let Some((known, registry)) = &*read
            && *known == stamp
        {
            return Ok(Arc::clone(registry));
        }
        let registry = Arc::new(self.load()?);
        *read = Some((stamp, Arc::clone(&registry)));
        Ok(registry)
    }

    fn load(&self) -> Result<Registry, EngineError> {
        let Some(bytes) = read_bounded(&self.path, LARGEST).map_err(StoreError::from)? else {
            return Ok(Registry::default());
        };
        let understood = Registry::parse(&bytes);
        understood.map_err(|e| EngineError::io("understand", &self.path)(std::io::Error::other(e)))
    }

    /// Changes the file: under a lock that all processes share, from what it holds then. It is written
    /// only if something changed.
    pub(super) fn change<T, E: From<EngineError>>(
        &self,
        change: impl FnOnce(&mut Registry) -> Result<T, E>,
    ) -> Result<T, E> {
        let lock = self.disk.open(&self.lock, Open::Update).map_err(EngineError::io("create", &self.lock))?;
        lock.system().lock_exclusive().map_err(EngineError::io("lock", &self.lock))?;
        let before = self.load()?;
        let mut after = before.clone();
        let done = change(&mut after)?;
        if after != before {
            let json = serde_json::to_vec_pretty(&after)
                .map_err(|e| EngineError::io("write", &self.path)(e.into()))?;
            files::write_atomic(&*self.disk, &self.path, &json, Mode::Secret)
                .map_err(|e| EngineError::from(StoreError::from(e)))?;
        }
        Ok(done)
    }
}
