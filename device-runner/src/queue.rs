//! Private tasks that the device took over and has not worked on yet.
//!
//! Where nothing may leave, the engine learns the same of a private task whatever comes of it: a handle that
//! follows from the task. So it is told at once, and the task is kept here until the device comes to it. A file
//! for each, named by its fence, so that they are in the order in which they were taken over.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use headstart_disk::{Disk, files, read};
use headstart_protocol::Digest;
use headstart_protocol::task::Task;
use serde::{Deserialize, Serialize};

use crate::error::DeviceError;
use crate::state::{State, write_durably};

/// Tasks that wait at most. One that comes when so many do is delivered like any other, and not run: how fast
/// the device works its queue off is nothing that the engine may learn.
pub(crate) const MOST_WAITING: usize = 1000;
/// Bytes of all that wait at most.
const MOST_BYTES: u64 = 256 << 20;

/// A task that waits.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Queued {
    /// What to do.
    pub task: Task,
    /// The handle that was promised for its result.
    pub handle: Digest,
    /// When it was taken over, in UTC.
    pub since: jiff::Timestamp,
    /// Models that were downloaded for it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub models: Vec<Digest>,
}

/// The queue of a device.
pub struct Queue {
    dir: PathBuf,
    disk: Arc<dyn Disk>,
}

impl Queue {
    /// The queue inside a state folder.
    pub fn new(state: &State) -> Self {
        Self { dir: state.at("queue"), disk: Arc::clone(state.disk()) }
    }

    fn at(&self, fence: u64) -> PathBuf {
        self.dir.join(format!("{fence:020}.json"))
    }

    /// Puts a task in; it is on disk when this returns. False where there is no room for it.
    ///
    /// # Errors
    /// [`DeviceError::State`].
    pub fn put(&self, queued: &Queued) -> Result<bool, DeviceError> {
        let json = serde_json::to_vec(queued).map_err(|e| DeviceError::Internal(format!("queue: {e}")))?;
        let (bytes, waiting) = files::usage(&self.dir);
        if waiting >= MOST_WAITING as u64 || bytes + json.len() as u64 > MOST_BYTES {
            return Ok(false);
        }
        write_durably(&*self.disk, &self.at(queued.task.fence), &json)?;
        Ok(true)
    }

    /// The files of the queue, in order.
    fn files(&self) -> Result<Vec<PathBuf>, DeviceError> {
        let entries = match std::fs::read_dir(&self.dir) {
            Ok(entries) => entries,
            // A folder of an earlier version, looked at by a command.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(DeviceError::state(&self.dir, e)),
        };
        let mut files: Vec<PathBuf> = entries
            .filter_map(|e| Some(e.ok()?.path()))
            .filter(|p| p.extension().is_some_and(|x| x == "json"))
            .collect();
        files.sort();
        Ok(files)
    }

    /// How many tasks wait.
    ///
    /// # Errors
    /// [`DeviceError::State`].
    pub fn len(&self) -> Result<usize, DeviceError> {
        Ok(self.files()?.len())
    }

    /// The task that is next. One that cannot be read is set aside.
    ///
    /// # Errors
    /// [`DeviceError::State`].
    pub fn first(&self) -> Result<Option<Queued>, DeviceError> {
        for file in self.files()? {
            if let Some(queued) = self.read(&file)? {
                return Ok(Some(queued));
            }
            let _ = self.disk.rename(&file, &file.with_extension("damaged"));
        }
        Ok(None)
    }

    /// All that wait, in order, as far as they can be read.
    ///
    /// # Errors
    /// [`DeviceError::State`].
    pub fn all(&self) -> Result<Vec<Queued>, DeviceError> {
        let mut out = Vec::new();
        for file in self.files()? {
            out.extend(self.read(&file)?);
        }
        Ok(out)
    }

    fn read(&self, file: &Path) -> Result<Option<Queued>, DeviceError> {
        let text = match read::whole(file, read::FACTS) {
            Ok(text) => text,
            // It was done meanwhile.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(DeviceError::state(file, e)),
        };
        let queued = serde_json::from_slice(&text);
        Ok(queued.inspect_err(|e| tracing::error!("{}: not readable: {e}", file.display())).ok())
    }

    /// Takes a task out.
    ///
    /// # Errors
    /// [`DeviceError::State`].
    pub fn done(&self, fence: u64) -> Result<(), DeviceError> {
        let at = self.at(fence);
        match self.disk.remove_file(&at) {
            // Its owner removed it meanwhile.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
            done => done.map_err(|e| DeviceError::state(&at, e)),
        }
    }
}

#[cfg(test)]
mod tests {
    use headstart_protocol::Type;
    use serde_json::json;

    use super::*;

    #[test]
    fn tasks_come_out_in_the_order_of_their_fences_also_after_a_restart() {
        let dir = tempfile::tempdir().expect("tempdir");
        let state = State::open(dir.path(), Arc::new(headstart_disk::SystemDisk)).expect("opens");
        let queue = Queue::new(&state);
        let task = |fence: u64| Queued {
            task: serde_json::from_value(json!({
                "run": "r", "instance": 0, "name": "x", "attempt": 1, "fence": fence, "kind": "probe",
                "version": 1, "ty": Type::Responses, "private": true, "args": {},
            }))
            .expect("a task"),
            handle: Digest::of(b"h"),
            since: jiff::Timestamp::UNIX_EPOCH,
            models: vec![],
        };
        // A full queue takes no more, and says so to the device alone.
        for i in 0..MOST_WAITING {
            std::fs::write(state.at(format!("queue/full-{i}")), "{}").expect("writes");
        }
        assert!(!queue.put(&task(8)).expect("reads"));
        for i in 0..MOST_WAITING {
            std::fs::remove_file(state.at(format!("queue/full-{i}"))).expect("removes");
        }
        [100, 9, 10].into_iter().for_each(|fence| assert!(queue.put(&task(fence)).expect("writes")));
        std::fs::write(state.at("queue/00000000000000000001.json"), "{\"task").expect("torn");
        assert_eq!(queue.len().expect("reads"), 4);
        let mut order = Vec::new();
        let again = Queue::new(&state);
        while let Some(next) = again.first().expect("reads") {
            order.push(next.task.fence);
            again.done(next.task.fence).expect("removes");
        }
        assert_eq!(order, [9, 10, 100]);
        assert!(state.at("queue/00000000000000000001.damaged").exists(), "kept for its owner");
    }
}
