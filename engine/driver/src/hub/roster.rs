//! Devices that ever joined, and what each is known by.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use headstart_content::read_bounded;
use headstart_disk::{Disk, Mode, files};
use headstart_protocol::wire::{Join, WireError};
use headstart_protocol::{Digest, Numerics};
use headstart_store::StoreError;
use serde::{Deserialize, Serialize};

use super::{codes, internal, wire};
use crate::error::EngineError;

/// Bytes of the file at most.
const LARGEST: u64 = 64 << 20;
/// Longest name of a device, in bytes.
const LONGEST_NAME: usize = 64;
/// Shortest secret that cannot be guessed, in bytes of text.
const SHORTEST_SECRET: usize = 16;

/// A device, as the file `devices.json` of the workspace knows it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Known {
    /// Digest of the secret; the secret itself is not kept.
    pub secret: Digest,
    /// Version of its runner at its latest join.
    pub version: String,
    /// Stage kinds that it can run.
    pub kinds: Vec<String>,
    /// What its stages compute numbers with; absent for devices of version 0.1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub numerics: Option<Numerics>,
    /// How often its owner had asked for everything to be tried again.
    #[serde(default)]
    pub generation: u64,
}

pub(crate) struct Roster {
    path: PathBuf,
    disk: Arc<dyn Disk>,
    known: Mutex<BTreeMap<String, Known>>,
}

impl Roster {
    pub(crate) fn open(workspace: &Path, disk: Arc<dyn Disk>) -> Result<Self, EngineError> {
        let path = workspace.join("devices.json");
        let known = match read_bounded(&path, LARGEST).map_err(StoreError::from)? {
            Some(bytes) => serde_json::from_slice(&bytes)
                .map_err(|e| EngineError::io("understand", &path)(std::io::Error::other(e)))?,
            None => BTreeMap::new(),
        };
        Ok(Self { path, disk, known: Mutex::new(known) })
    }

    /// Pins the secret of a new device, and compares that of one that is known.
    pub(crate) fn admit(&self, join: &Join) -> Result<(), WireError> {
        let name = &join.device;
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if name.is_empty() || name.len() > LONGEST_NAME || name.starts_with('.') || !name.chars().all(plain) {
            let message =
                "a device's name has 1 to 64 letters, digits, `-`, `_` and `.`, and begins with none of `.`";
            return Err(wire(codes::INVALID, message));
        }
        if join.secret.len() < SHORTEST_SECRET {
            return Err(wire(
                codes::INVALID,
                format!("a device's secret has {SHORTEST_SECRET} characters at least"),
            ));
        }
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let secret = Digest::of(join.secret.as_bytes());
        if let Some(k) = known.get(name)
            // Compared in constant time.
            && blake3::Hash::from_bytes(k.secret.0) != blake3::Hash::from_bytes(secret.0)
        {
            return Err(wire(
                codes::WRONG_SECRET,
                format!(
                    "another device joined as `{name}` before; choose another name, or, if it was replaced, \
                     remove it from {}",
                    self.path.display()
                ),
            ));
        }
        let now = Known {
            secret,
            version: join.version.clone(),
            kinds: join.kinds.clone(),
            numerics: join.numerics.clone(),
            generation: join.facts.generation,
        };
        if known.get(name) != Some(&now) {
            let mut next = known.clone();
            next.insert(name.clone(), now);
            let json = serde_json::to_vec_pretty(&next).map_err(internal)?;
            files::write_atomic(&*self.disk, &self.path, &json, Mode::Secret).map_err(internal)?;
            *known = next;
        }
        Ok(())
    }

    /// What a device computes numbers with, as it said when it last joined.
    pub(crate) fn numerics(&self, device: &str) -> Option<Numerics> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).get(device)?.numerics.clone()
    }

    /// How often a device's owner had asked for everything to be tried again when it last joined.
    pub(crate) fn generation(&self, device: &str) -> u64 {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).get(device).map_or(0, |k| k.generation)
    }

    pub(crate) fn all(&self) -> BTreeMap<String, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
