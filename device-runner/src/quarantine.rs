//! Tasks that keep failing. They are not run again until the owner says so.
//!
//! The engine does not learn that a private task failed, so it cannot stop asking for one that always
//! does: the device counts.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use headstart_content::read_bounded;
use headstart_disk::Disk;
use headstart_protocol::{Digest, Failure};
use serde::{Deserialize, Serialize};

use crate::error::DeviceError;
use crate::state::{State, hold, write_durably};

/// Failed attempts after which a task is quarantined.
pub const LIMIT: u32 = 3;
/// Bytes of the file at most.
const LARGEST: u64 = 64 << 20;

/// A task that failed lately.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Failing {
    /// Its name, as in the pipeline.
    pub name: String,
    /// The run in which it failed last.
    pub run: String,
    /// Failed attempts, since it succeeded last or its owner cleared it.
    pub attempts: u32,
    /// When it failed last, in UTC.
    pub time: jiff::Timestamp,
    /// Why it failed last.
    pub failure: Failure,
}

impl Failing {
    /// Whether it is not run any more.
    pub fn is_quarantined(&self) -> bool {
        self.attempts >= LIMIT
    }
}

/// The failing tasks of a device, in a file that its owner's commands may change while it runs.
pub struct Quarantine {
    at: PathBuf,
    lock: PathBuf,
    disk: Arc<dyn Disk>,
}

impl Quarantine {
    /// The failing tasks in a state folder.
    pub fn new(state: &State) -> Self {
        Self {
            at: state.at("quarantine.json"),
            lock: state.at("quarantine.lock"),
            disk: Arc::clone(state.disk()),
        }
    }

    /// All of them, by the digest of the task.
    ///
    /// # Errors
    /// [`DeviceError::State`] where the file cannot be read or is damaged.
    pub fn all(&self) -> Result<BTreeMap<Digest, Failing>, DeviceError> {
        let Some(bytes) = read_bounded(&self.at, LARGEST)? else { return Ok(BTreeMap::new()) };
        serde_json::from_slice(&bytes).map_err(|e| {
            DeviceError::state(&self.at, std::io::Error::new(std::io::ErrorKind::InvalidData, e))
        })
    }

    /// Notes that a task failed; how it stands now.
    ///
    /// # Errors
    /// [`DeviceError::State`].
    pub fn failed(
        &self,
        task: Digest,
        name: &str,
        run: &str,
        failure: &Failure,
    ) -> Result<Failing, DeviceError> {
        self.change(|all| {
            let attempts = all.get(&task).map_or(0, |f| f.attempts).saturating_add(1);
            let time = jiff::Timestamp::now();
            let (name, run) = (name.to_owned(), run.to_owned());
            let failing = Failing { name, run, attempts, time, failure: failure.clone() };
            all.insert(task, failing.clone());
            failing
        })
    }

    /// Notes that a task succeeded.
    ///
    /// # Errors
    /// [`DeviceError::State`].
    pub fn succeeded(&self, task: &Digest) -> Result<(), DeviceError> {
        if self.all()?.contains_key(task) { self.change(|all| drop(all.remove(task))) } else { Ok(()) }
    }

    /// Forgets the failures of the tasks of this name, or of all; gives their names.
    ///
    /// # Errors
    /// [`DeviceError::State`].
    pub fn clear(&self, name: Option<&str>) -> Result<Vec<String>, DeviceError> {
        self.change(|all| {
            let cleared = |f: &Failing| name.is_none_or(|n| n == f.name);
            let mut names: Vec<String> =
                all.values().filter(|f| cleared(f)).map(|f| f.name.clone()).collect();
            all.retain(|_, f| !cleared(f));
            names.sort();
            names.dedup();
            names
        })
    }

    fn change<T>(&self, f: impl FnOnce(&mut BTreeMap<Digest, Failing>) -> T) -> Result<T, DeviceError> {
        let _held = hold(&*self.disk, &self.lock)?;
        let mut all = self.all()?;
        let before = all.clone();
        let out = f(&mut all);
        if all != before {
            let json = serde_json::to_vec_pretty(&all).map_err(|e| DeviceError::Internal(e.to_string()))?;
            write_durably(&*self.disk, &self.at, &json)?;
        }
        Ok(out)
    }
}

/// Has the private tasks of this name, or all, run again that failed on the device of a state folder; gives
/// their names. The engine does not know that they failed, so it is told only that it is to ask for everything
/// again that was made here.
///
/// # Errors
/// [`DeviceError::Input`] where `state` is not a device's folder, or nothing of this name failed.
pub fn retry(state: &Path, name: Option<&str>) -> Result<Vec<String>, DeviceError> {
    let state = State::look(state)?;
    let cleared = Quarantine::new(&state).clear(name)?;
    if let (Some(name), []) = (name, &cleared[..]) {
        return Err(DeviceError::Input(format!("no failed stage is called `{name}`")));
    }
    state.next_generation()?;
    Ok(cleared)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_is_quarantined_by_failures_in_a_row_and_freed_by_its_owner() {
        let dir = tempfile::tempdir().expect("tempdir");
        let state = State::open(dir.path(), Arc::new(headstart_disk::SystemDisk)).expect("opens");
        let quarantine = Quarantine::new(&state);
        let (one, other) = (Digest::of(b"one"), Digest::of(b"other"));
        let fail = |task| {
            let failing = quarantine.failed(task, "tuned", "r", &Failure::input("no rows")).expect("noted");
            failing.is_quarantined()
        };
        assert_eq!([fail(one), fail(one)], [false, false]);
        quarantine.succeeded(&one).expect("noted");
        assert_eq!([fail(one), fail(one), fail(one), fail(other)], [false, false, true, false]);
        // Kept for the next start, and for commands beside it.
        let again = Quarantine::new(&state);
        assert!(again.all().expect("reads")[&one].is_quarantined());
        assert_eq!(again.clear(Some("another")).expect("clears"), Vec::<String>::new());
        assert_eq!(again.clear(Some("tuned")).expect("clears"), ["tuned"]);
        assert_eq!(quarantine.all().expect("reads"), BTreeMap::new());
        assert!(!fail(one), "counted from the start");
    }
}
