//! The file `devices.pending.json`: strangers that asked to join, for somebody to approve.
//!
//! Strangers are many and free of charge, so: they are few in number and short, they expire, and the file
//! is written at most once in a while, however many of them there are.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use headstart_content::read_bounded;
use headstart_disk::{Disk, Mode, files};
use headstart_store::{StoreError, Workspace};
use headstart_transport::PublicKey;
use serde::{Deserialize, Serialize};

use super::{DeviceRecord, DeviceState};
use crate::error::EngineError;

/// Strangers at once.
pub(super) const MOST: usize = 64;
/// A stranger that has not asked again for this long is forgotten.
const EXPIRES_MS: u64 = 30 * 60 * 1000;
/// The file is written at most once in this time.
const WRITE_EVERY_MS: u64 = 1000;
/// That a stranger asked again is written down after this long.
const REFRESH_MS: u64 = 5 * 60 * 1000;
/// Bytes of the file at most; 64 strangers take a fifth of it.
const LARGEST: u64 = 128 << 10;

/// A stranger.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Stranger {
    /// The name that it asks for.
    pub name: String,
    pub key: PublicKey,
    pub version: String,
    pub last_seen_ms: u64,
}

impl Stranger {
    pub(super) fn record(&self) -> DeviceRecord {
        DeviceRecord {
            version: self.version.clone(),
            last_seen_ms: Some(self.last_seen_ms),
            ..DeviceRecord::new(&self.name, DeviceState::Pending).with_key(self.key)
        }
    }
}

#[derive(Default)]
struct Memory {
    strangers: Vec<Stranger>,
    unwritten: bool,
    written_ms: Option<u64>,
}

/// The file, and what is not in it yet.
pub(super) struct PendingFile {
    path: PathBuf,
    disk: Arc<dyn Disk>,
    memory: Mutex<Memory>,
}

impl PendingFile {
    pub(super) fn new(ws: &Workspace) -> Self {
        Self {
            path: ws.dir().join("devices.pending.json"),
            disk: Arc::clone(ws.disk()),
            memory: Mutex::default(),
        }
    }

    /// All strangers, those of the file and those that this process knows of.
    pub(super) fn read(&self, now: u64) -> Result<Vec<Stranger>, EngineError> {
        let memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        self.merged(&memory.strangers, now)
    }

    fn merged(&self, mine: &[Stranger], now: u64) -> Result<Vec<Stranger>, EngineError> {
        let mut all = mine.to_vec();
        if let Some(bytes) = read_bounded(&self.path, LARGEST).map_err(StoreError::from)? {
            // A damaged list of strangers is worth nothing; they ask again.
            let written: Vec<Stranger> = serde_json::from_slice(&bytes).unwrap_or_default();
            for s in written {
                if !all.iter().any(|known| known.key == s.key) {
                    all.push(s);
                }
            }
        }
        all.retain(|s| s.last_seen_ms.saturating_add(EXPIRES_MS) > now);
        all.truncate(MOST);
        Ok(all)
    }

    /// A stranger asks. `false` if there are too many already.
    pub(super) fn ask(&self, stranger: Stranger) -> Result<bool, EngineError> {
        let now = stranger.last_seen_ms;
        let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        memory.strangers.retain(|s| s.last_seen_ms.saturating_add(EXPIRES_MS) > now);
        match memory.strangers.iter().position(|s| s.key == stranger.key) {
            Some(at) => {
                let known = &mut memory.strangers[at];
                let same = known.name == stranger.name && known.version == stranger.version;
                if !same || now.saturating_sub(known.last_seen_ms) >= REFRESH_MS {
                    *known = stranger;
                    memory.unwritten = true;
                }
            }
            None if memory.strangers.len() >= MOST => return Ok(false),
            None => {
                memory.strangers.push(stranger);
                memory.unwritten = true;
            }
        }
        let due = memory.written_ms.is_none_or(|at| now.saturating_sub(at) >= WRITE_EVERY_MS);
        if memory.unwritten && due {
            let all = self.merged(&memory.strangers, now)?;
            let json =
                serde_json::to_vec(&all).map_err(|e| EngineError::io("write", &self.path)(e.into()))?;
            files::write_atomic(&*self.disk, &self.path, &json, Mode::Secret).map_err(StoreError::from)?;
            (memory.unwritten, memory.written_ms) = (false, Some(now));
        }
        Ok(true)
    }

    /// A stranger was approved, or has become known otherwise.
    pub(super) fn forget(&self, key: &PublicKey) {
        let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        memory.strangers.retain(|s| s.key != *key);
    }
}
