//! Private tasks that the device took over and has not worked on yet.
//!
//! Where nothing may leave, the engine learns the same of a private task whatever comes of it: a handle that
//! follows from the task. So it is told at once, and the task is kept here until the device comes to it. A file
//! for each, named by its fence, so that they are in the order in which they were taken over.
//!
//! How many wait depends on how fast private work goes, so nothing that is done before the engine is told may take
//! longer for it: what waits is counted in memory, and a task for which there is no room is a file too, a small one.

use std::sync::{Mutex, MutexGuard, PoisonError};

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
/// Bytes of all that wait at most. The disk has room for them beside the parts of public and private work.
const MOST_BYTES: u64 = 256 << 20;
/// Tasks that wait at most with those that are not run; of any more nothing is kept but the promise.
const MOST_FILES: u64 = 10_000;

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
    /// Whether it is not run, because too many waited when it came; then its arguments are not kept.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dropped: bool,
}

impl Queued {
    /// What is kept of a task that is not run.
    fn as_dropped(&self) -> Self {
        let Self { task, handle, since, .. } = self;
        let task = Task { args: Default::default(), when: None, prefetch: Vec::new(), ..task.clone() };
        Self { task, handle: *handle, since: *since, models: Vec::new(), dropped: true }
    }
}

/// The queue of a device.
pub struct Queue {
    files: ByFence<Queued>,
    waiting: Mutex<Waiting>,
}

/// What lies in the folder.
#[derive(Clone, Copy, Default)]
struct Waiting {
    bytes: u64,
    files: u64,
}

impl Queue {
    /// The queue inside a state folder.
    pub fn new(state: &State) -> Self {
        let files = ByFence::new(state, "queue");
        let (bytes, number) = files::usage(files.dir());
        Self { files, waiting: Mutex::new(Waiting { bytes, files: number }) }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a task in; it is on disk when this returns. Where there is no room for it, it is put in as one that is
    /// not run.
    ///
    /// # Errors
    /// [`DeviceError::State`].
    pub fn put(&self, queued: &Queued) -> Result<(), DeviceError> {
        let whole = self.files.text(queued)?;
        let now = *self.waiting();
        let size = whole.len() as u64;
        let fits = now.files < MOST_WAITING as u64 && now.bytes.saturating_add(size) <= MOST_BYTES;
        let text = if fits { whole } else { self.files.text(&queued.as_dropped())? };
        if now.files >= MOST_FILES {
            tracing::error!("{}: not run: {MOST_FILES} tasks wait", queued.task.name);
            return Ok(());
        }
        self.files.put_text(queued.task.fence, &text)?;
        let mut waiting = self.waiting();
        (waiting.bytes, waiting.files) = (waiting.bytes + text.len() as u64, waiting.files + 1);
        Ok(())
    }

    /// How many tasks wait.
    pub fn len(&self) -> usize {
        usize::try_from(self.waiting().files).unwrap_or(usize::MAX)
    }

    /// The task that is next. One that cannot be read is set aside.
    ///
    /// # Errors
    /// [`DeviceError::State`].
    pub fn first(&self) -> Result<Option<Queued>, DeviceError> {
        let found = self.files.fences()?.into_iter().map(|fence| self.files.get_or_set_aside(fence));
        found.filter_map(Result::transpose).next().transpose()
    }

    /// All that wait, in order, as far as they can be read.
    ///
    /// # Errors
    /// [`DeviceError::State`].
    pub fn all(&self) -> Result<Vec<Queued>, DeviceError> {
        let found = self.files.fences()?.into_iter().map(|fence| self.files.get(fence));
        found.filter_map(Result::transpose).collect()
    }

    /// Takes a task out.
    ///
    /// # Errors
    /// [`DeviceError::State`].
    pub fn done(&self, fence: u64) -> Result<(), DeviceError> {
        let size = self.files.size(fence);
        self.files.remove(fence)?;
        if let Some(size) = size {
            let mut waiting = self.waiting();
            waiting.bytes = waiting.bytes.saturating_sub(size);
            waiting.files = waiting.files.saturating_sub(1);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use headstart_protocol::Type;
    use headstart_protocol::expr::{Expr, Value};
    use serde_json::json;

    use super::*;

    fn open(dir: &std::path::Path) -> State {
        State::open(dir, Arc::new(headstart_disk::SystemDisk)).expect("opens")
    }

    fn task(fence: u64) -> Queued {
        Queued {
            task: serde_json::from_value(json!({
                "run": "r", "instance": 0, "name": "x", "attempt": 1, "fence": fence, "kind": "probe",
                "version": 1, "ty": Type::Responses, "private": true, "args": {},
            }))
            .expect("a task"),
            handle: Digest::of(b"h"),
            since: jiff::Timestamp::UNIX_EPOCH,
            models: vec![],
            dropped: false,
        }
    }

    #[test]
    fn tasks_come_out_in_the_order_of_their_fences_also_after_a_restart() {
        let dir = tempfile::tempdir().expect("tempdir");
        let state = open(dir.path());
        let queue = Queue::new(&state);
        [100, 9, 10].into_iter().for_each(|fence| queue.put(&task(fence)).expect("writes"));
        std::fs::write(state.at("queue/00000000000000000001.json"), "{\"task").expect("torn");
        let again = Queue::new(&state);
        assert_eq!((queue.len(), again.len()), (3, 4));
        let mut order = Vec::new();
        while let Some(next) = again.first().expect("reads") {
            order.push(next.task.fence);
            again.done(next.task.fence).expect("removes");
        }
        assert_eq!(order, [9, 10, 100]);
        assert!(state.at("queue/00000000000000000001.damaged").exists(), "kept for its owner");
    }

    #[test]
    fn a_full_queue_takes_tasks_that_are_not_run() {
        let dir = tempfile::tempdir().expect("tempdir");
        let state = open(dir.path());
        for i in 0..MOST_WAITING - 1 {
            std::fs::write(state.at(format!("queue/full-{i}")), "{}").expect("writes");
        }
        let queue = Queue::new(&state);
        let mut big = task(8);
        big.task.args.insert("text".into(), Expr::value(Value::Text("long".repeat(1000))));
        queue.put(&big).expect("writes");
        queue.put(&Queued { task: Task { fence: 9, ..big.task.clone() }, ..big.clone() }).expect("writes");
        let waits = queue.all().expect("reads");
        assert_eq!(waits[0], big);
        assert!(waits[1].dropped && waits[1].task.args.is_empty() && waits[1].task.name == "x");
        // As many bytes are as full.
        for i in 0..MOST_WAITING - 1 {
            std::fs::remove_file(state.at(format!("queue/full-{i}"))).expect("removes");
        }
        let sparse = std::fs::File::create(state.at("queue/full")).expect("creates");
        sparse.set_len(MOST_BYTES - 2000).expect("a sparse file");
        let queue = Queue::new(&state);
        queue.put(&Queued { task: Task { fence: 10, ..big.task.clone() }, ..big }).expect("writes");
        assert!(queue.all().expect("reads")[2].dropped);
    }
}
