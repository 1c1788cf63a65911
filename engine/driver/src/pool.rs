//! The engine's own threads for stages.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Sender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use crate::error::EngineError;
use crate::local::Executor;
use crate::message::Message;

/// Stack of a worker. Stages recurse over models of many layers.
const STACK: usize = 16 << 20;

/// An instance that waits for a thread.
pub(crate) struct Job {
    pub conductor: Sender<Message>,
    pub instance: u32,
}

/// How much of the machine a job takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Weight {
    /// It uses all processors itself.
    Heavy,
    /// It mostly waits for the disk.
    Light,
}

#[derive(Default)]
struct Queues {
    heavy: VecDeque<Job>,
    light: VecDeque<Job>,
    closed: bool,
}

impl Queues {
    fn of(&mut self, weight: Weight) -> &mut VecDeque<Job> {
        match weight {
            Weight::Heavy => &mut self.heavy,
            Weight::Light => &mut self.light,
        }
    }
}

struct Shared {
    queues: Mutex<Queues>,
    heavy: Condvar,
    light: Condvar,
    executor: Executor,
}

impl Shared {
    fn bell(&self, weight: Weight) -> &Condvar {
        match weight {
            Weight::Heavy => &self.heavy,
            Weight::Light => &self.light,
        }
    }
}

/// Worker threads, shared by all runs of an engine. They end when the last handle is dropped.
pub(crate) struct Pool {
    shared: Arc<Shared>,
}

impl Pool {
    /// Starts the threads.
    pub(crate) fn new(executor: Executor, heavy: usize, light: usize) -> Result<Self, EngineError> {
        let shared = Arc::new(Shared {
            queues: Mutex::default(),
            heavy: Condvar::new(),
            light: Condvar::new(),
            executor,
        });
        let pool = Self { shared };
        (0..heavy.max(1)).try_for_each(|_| pool.add_worker(Weight::Heavy))?;
        (0..light.max(1)).try_for_each(|_| pool.add_worker(Weight::Light))?;
        Ok(pool)
    }

    /// Runs attempts; here, on the caller's own thread.
    pub(crate) fn executor(&self) -> &Executor {
        &self.shared.executor
    }

    /// Queues a job.
    pub(crate) fn submit(&self, job: Job, weight: Weight) {
        self.shared.queues.lock().unwrap_or_else(PoisonError::into_inner).of(weight).push_back(job);
        self.shared.bell(weight).notify_one();
    }

    /// Starts a thread more, to take the place of one that hangs.
    pub(crate) fn add_worker(&self, weight: Weight) -> Result<(), EngineError> {
        let shared = Arc::clone(&self.shared);
        std::thread::Builder::new()
            .name("stage".to_owned())
            .stack_size(STACK)
            .spawn(move || work(&shared, weight))
            .map(drop)
            .map_err(EngineError::io("start a thread for", "stages"))
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.queues.lock().unwrap_or_else(PoisonError::into_inner).closed = true;
        self.shared.heavy.notify_all();
        self.shared.light.notify_all();
    }
}

fn work(shared: &Shared, weight: Weight) {
    while let Some(job) = next(shared, weight) {
        let (reply, answer) = sync_channel(1);
        let start = Message::StartLocal { instance: job.instance, reply };
        if job.conductor.send(start).is_err() {
            continue;
        }
        // Refused: the run is being stopped, or the instance is no longer ready.
        let Ok(task) = answer.recv() else { continue };
        let control = Arc::clone(&task.control);
        shared.executor.run(task, &job.conductor);
        if control.abandoned.load(Ordering::Acquire) {
            return;
        }
    }
}

fn next(shared: &Shared, weight: Weight) -> Option<Job> {
    let mut queues = shared.queues.lock().unwrap_or_else(PoisonError::into_inner);
    loop {
        if queues.closed {
            return None;
        }
        if let Some(job) = queues.of(weight).pop_front() {
            return Some(job);
        }
        queues = shared.bell(weight).wait(queues).unwrap_or_else(PoisonError::into_inner);
    }
}
