//! Outcomes that the engine has not acknowledged yet. An outcome is on disk before it is sent, and
//! stays until the engine has answered, so that a kill at any moment loses nothing but the attempt
//! that is running.

use std::path::PathBuf;
use std::sync::Arc;

use headstart_disk::{Disk, read};
use headstart_protocol::wire::Commit;
use serde::{Deserialize, Serialize};

use crate::budget::Charge;
use crate::error::DeviceError;
use crate::release::Upload;
use crate::state::{State, write_durably};

/// An outcome on its way.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PendingCommit {
    /// The message.
    pub commit: Commit,
    /// Files that it refers to, sent first.
    pub uploads: Vec<Upload>,
    /// What it says, for the journal.
    pub what: String,
    /// The numbers in it that count against the budget.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub charges: Vec<Charge>,
}

/// The outbox of a device.
pub struct Outbox {
    dir: PathBuf,
    disk: Arc<dyn Disk>,
}

impl Outbox {
    /// The outbox inside a state folder.
    pub fn new(state: &State) -> Self {
        Self { dir: state.at("outbox"), disk: Arc::clone(state.disk()) }
    }

    fn at(&self, fence: u64) -> PathBuf {
        self.dir.join(format!("{fence:020}.json"))
    }

    /// Puts an outcome in; it is on disk when this returns.
    ///
    /// # Errors
    /// [`DeviceError::State`].
    pub fn put(&self, pending: &PendingCommit) -> Result<(), DeviceError> {
        let json = serde_json::to_vec(pending).map_err(|e| DeviceError::Internal(format!("outbox: {e}")))?;
        write_durably(&*self.disk, &self.at(pending.commit.fence), &json)
    }

    /// All outcomes in the outbox, oldest first. One that cannot be read is set aside.
    ///
    /// # Errors
    /// [`DeviceError::State`].
    pub fn pending(&self) -> Result<Vec<PendingCommit>, DeviceError> {
        let entries = std::fs::read_dir(&self.dir).map_err(|e| DeviceError::state(&self.dir, e))?;
        let mut files: Vec<PathBuf> = entries
            .filter_map(|e| Some(e.ok()?.path()))
            .filter(|p| p.extension().is_some_and(|x| x == "json"))
            .collect();
        files.sort();
        let mut out = Vec::new();
        for file in files {
            let text = read::whole(&file, read::FACTS).map_err(|e| DeviceError::state(&file, e))?;
            match serde_json::from_slice(&text) {
                Ok(pending) => out.push(pending),
                Err(e) => {
                    tracing::error!("{}: not readable, set aside: {e}", file.display());
                    let _ = self.disk.rename(&file, &file.with_extension("damaged"));
                }
            }
        }
        Ok(out)
    }

    /// The fences of all outcomes in the outbox.
    ///
    /// # Errors
    /// [`DeviceError::State`].
    pub fn fences(&self) -> Result<Vec<u64>, DeviceError> {
        let entries = std::fs::read_dir(&self.dir).map_err(|e| DeviceError::state(&self.dir, e))?;
        let fence = |name: std::ffi::OsString| name.to_str()?.strip_suffix(".json")?.parse().ok();
        let mut fences: Vec<u64> = entries.filter_map(|e| fence(e.ok()?.file_name())).collect();
        fences.sort_unstable();
        Ok(fences)
    }

    /// Takes an outcome out that the engine has answered.
    ///
    /// # Errors
    /// [`DeviceError::State`].
    pub fn done(&self, fence: u64) -> Result<(), DeviceError> {
        let at = self.at(fence);
        self.disk.remove_file(&at).map_err(|e| DeviceError::state(&at, e))
    }

    /// Sets an outcome aside that the engine will not take, ever.
    ///
    /// # Errors
    /// [`DeviceError::State`].
    pub fn set_aside(&self, fence: u64) -> Result<PathBuf, DeviceError> {
        let at = self.at(fence);
        let aside = at.with_extension("refused");
        self.disk.rename(&at, &aside).map_err(|e| DeviceError::state(&at, e))?;
        Ok(aside)
    }
}
