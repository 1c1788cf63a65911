//! Private tasks that the device took over and has not worked on yet.
//!
//! Where nothing may leave, the engine learns the same of a private task whatever comes of it: a handle that
//! follows from the task. So it is told at once, and the task is kept here until the device comes to it. A file
//! for each, named by its fence, so that they are in the order in which they were taken over.

use headstart_disk::files;
use headstart_protocol::Digest;
use headstart_protocol::task::Task;
use serde::{Deserialize, Serialize};

use crate::by_fence::ByFence;
use crate::error::DeviceError;
use crate::state::State;

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
pub struct Queue(ByFence<Queued>);

impl Queue {
    /// The queue inside a state folder.
    pub fn new(state: &State) -> Self {
        Self(ByFence::new(state, "queue"))
    }

    /// Puts a task in; it is on disk when this returns. False where there is no room for it.
    ///
    /// # Errors
    /// [`DeviceError::State`].
    pub fn put(&self, queued: &Queued) -> Result<bool, DeviceError> {
        let (bytes, waiting) = files::usage(self.0.dir());
        let fits = |size| waiting < MOST_WAITING as u64 && bytes + size <= MOST_BYTES;
        self.0.put_if(queued.task.fence, queued, fits)
    }

    /// How many tasks wait.
    ///
    /// # Errors
    /// [`DeviceError::State`].
    pub fn len(&self) -> Result<usize, DeviceError> {
        Ok(self.0.fences()?.len())
    }

    /// The task that is next. One that cannot be read is set aside.
    ///
    /// # Errors
    /// [`DeviceError::State`].
    pub fn first(&self) -> Result<Option<Queued>, DeviceError> {
        let found = self.0.fences()?.into_iter().map(|fence| self.0.get_or_set_aside(fence));
        found.filter_map(Result::transpose).next().transpose()
    }

    /// All that wait, in order, as far as they can be read.
    ///
    /// # Errors
    /// [`DeviceError::State`].
    pub fn all(&self) -> Result<Vec<Queued>, DeviceError> {
        let found = self.0.fences()?.into_iter().map(|fence| self.0.get(fence));
        found.filter_map(Result::transpose).collect()
    }

    /// Takes a task out.
    ///
    /// # Errors
    /// [`DeviceError::State`].
    pub fn done(&self, fence: u64) -> Result<(), DeviceError> {
        self.0.remove(fence)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

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
