//! A folder with a durable file for each value, named by the fence of its attempt, so that values come out in
//! the order in which their attempts were granted.

use std::io::ErrorKind;
use std::marker::PhantomData;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use headstart_disk::{Disk, read};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::DeviceError;
use crate::state::{State, write_durably};

/// What a file is called that cannot be read, after its fence.
const DAMAGED: &str = "damaged";

/// Values by fence.
pub(crate) struct ByFence<T> {
    dir: PathBuf,
    disk: Arc<dyn Disk>,
    value: PhantomData<fn() -> T>,
}

impl<T: Serialize + DeserializeOwned> ByFence<T> {
    /// The values in the folder `name` of a state folder.
    pub(crate) fn new(state: &State, name: &str) -> Self {
        Self { dir: state.at(name), disk: Arc::clone(state.disk()), value: PhantomData }
    }

    /// The folder.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    fn at(&self, fence: u64) -> PathBuf {
        self.dir.join(format!("{fence:020}.json"))
    }

    /// A value as it is written.
    ///
    /// # Errors
    /// [`DeviceError::Internal`].
    pub(crate) fn text(&self, value: &T) -> Result<Vec<u8>, DeviceError> {
        serde_json::to_vec(value).map_err(|e| DeviceError::Internal(format!("{}: {e}", self.dir.display())))
    }

    /// Puts a value in; it is on disk when this returns.
    ///
    /// # Errors
    /// [`DeviceError::State`].
    pub(crate) fn put(&self, fence: u64, value: &T) -> Result<(), DeviceError> {
        self.put_text(fence, &self.text(value)?)
    }

    /// The same for a value as [`Self::text`] writes it.
    ///
    /// # Errors
    /// [`DeviceError::State`].
    pub(crate) fn put_text(&self, fence: u64, text: &[u8]) -> Result<(), DeviceError> {
        write_durably(&*self.disk, &self.at(fence), text)
    }

    /// The fences of all values, in order.
    ///
    /// # Errors
    /// [`DeviceError::State`].
    pub(crate) fn fences(&self) -> Result<Vec<u64>, DeviceError> {
        let entries = match std::fs::read_dir(&self.dir) {
            Ok(entries) => entries,
            // A folder of an earlier version, looked at by a command.
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(DeviceError::state(&self.dir, e)),
        };
        let fence = |name: std::ffi::OsString| name.to_str()?.strip_suffix(".json")?.parse().ok();
        let mut fences: Vec<u64> = entries.filter_map(|e| fence(e.ok()?.file_name())).collect();
        fences.sort_unstable();
        Ok(fences)
    }

    /// The value with a fence; none where it was removed meanwhile, or cannot be read, which is logged.
    ///
    /// # Errors
    /// [`DeviceError::State`] where the system does not let it be read.
    pub(crate) fn get(&self, fence: u64) -> Result<Option<T>, DeviceError> {
        let at = self.at(fence);
        let text = match read::whole(&at, read::FACTS) {
            Ok(text) => text,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(DeviceError::state(&at, e)),
        };
        let value = serde_json::from_slice(&text);
        Ok(value.inspect_err(|e| tracing::error!("{}: not readable: {e}", at.display())).ok())
    }

    /// The same; one that cannot be read is set aside for the owner, and does not come again.
    ///
    /// # Errors
    /// As [`ByFence::get`].
    pub(crate) fn get_or_set_aside(&self, fence: u64) -> Result<Option<T>, DeviceError> {
        let value = self.get(fence)?;
        if value.is_none() {
            // One that was removed meanwhile cannot be set aside.
            let _ = self.set_aside(fence, DAMAGED);
        }
        Ok(value)
    }

    /// Bytes of the file of a fence; none where there is none.
    pub(crate) fn size(&self, fence: u64) -> Option<u64> {
        std::fs::metadata(self.at(fence)).ok().map(|facts| facts.len())
    }

    /// Takes a value out.
    ///
    /// # Errors
    /// [`DeviceError::State`].
    pub(crate) fn remove(&self, fence: u64) -> Result<(), DeviceError> {
        let at = self.at(fence);
        match self.disk.remove_file(&at) {
            // Its owner removed it meanwhile.
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
            done => done.map_err(|e| DeviceError::state(&at, e)),
        }
    }

    /// Removes the oldest of the files that were set aside under an extension, but for so many.
    ///
    /// # Errors
    /// [`DeviceError::State`].
    pub(crate) fn keep_newest(&self, extension: &str, most: usize) -> Result<(), DeviceError> {
        let entries = std::fs::read_dir(&self.dir).map_err(|e| DeviceError::state(&self.dir, e))?;
        let all = entries.flatten().map(|entry| entry.path());
        let mut aside: Vec<PathBuf> =
            all.filter(|at| at.extension().is_some_and(|found| found == extension)).collect();
        aside.sort_unstable();
        let over = aside.len().saturating_sub(most);
        for at in &aside[..over] {
            self.disk.remove_file(at).map_err(|e| DeviceError::state(at, e))?;
        }
        Ok(())
    }

    /// Takes a value out and keeps its file under another name; which.
    ///
    /// # Errors
    /// [`DeviceError::State`].
    pub(crate) fn set_aside(&self, fence: u64, extension: &str) -> Result<PathBuf, DeviceError> {
        let at = self.at(fence);
        let aside = at.with_extension(extension);
        self.disk.rename(&at, &aside).map_err(|e| DeviceError::state(&at, e))?;
        Ok(aside)
    }
}

#[cfg(test)]
mod tests {
    use headstart_disk::SystemDisk;

    use super::*;

    #[test]
    fn the_newest_of_what_was_set_aside_are_kept() {
        let dir = tempfile::tempdir().expect("tempdir");
        let state = State::open(dir.path(), Arc::new(SystemDisk)).expect("opens");
        let values = ByFence::<u64>::new(&state, "outbox");
        for fence in [3, 20, 100, 7] {
            values.put(fence, &fence).expect("writes");
        }
        for fence in [20, 3, 100] {
            values.set_aside(fence, "refused").expect("renames");
            values.keep_newest("refused", 2).expect("removes");
        }
        assert_eq!(values.fences().expect("reads"), [7]);
        let aside = |fence: u64| values.at(fence).with_extension("refused").exists();
        assert_eq!([3, 20, 100].map(aside), [false, true, true]);
    }
}
