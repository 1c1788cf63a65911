//! The engine's own threads for stages.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Sender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::capacity::{Machine, Need, Place, Queue};
use crate::error::EngineError;
use crate::local::Executor;
use crate::message::Message;

/// Stack of a worker. Stages recurse over models of many layers.
const STACK: usize = 16 << 20;

/// An instance that waits for a thread.
pub(crate) struct Job {
    pub run: Arc<str>,
    pub conductor: Sender<Message>,
    pub instance: u32,
}

/// Takes up what a stage needs of the machine; gives it back when it is dropped.
pub(crate) struct Held {
    shared: Arc<Shared>,
    place: Place,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.shared.queues().heavy.end(&self.place);
        // Several may fit into the place of one.
        self.shared.heavy.notify_all();
    }
}

/// How much of the machine a job takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Weight {
    /// It computes.
    Heavy(Need),
    /// It mostly waits for the disk.
    Light,
}

struct Queues {
    heavy: Queue<Job>,
    light: VecDeque<Job>,
    closed: bool,
}

struct Shared {
    queues: Mutex<Queues>,
    heavy: Condvar,
    light: Condvar,
    executor: Executor,
}

impl Shared {
    fn queues(&self) -> MutexGuard<'_, Queues> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Worker threads, shared by all runs of an engine. They end when the last handle is dropped.
pub(crate) struct Pool {
    shared: Arc<Shared>,
}

impl Pool {
    /// Starts the threads: one for each job of the machine, and some for what is light.
    pub(crate) fn new(executor: Executor, machine: Machine, light: usize) -> Result<Self, EngineError> {
        let queues = Queues { heavy: Queue::new(machine), light: VecDeque::new(), closed: false };
        let shared = Arc::new(Shared {
            queues: Mutex::new(queues),
            heavy: Condvar::new(),
            light: Condvar::new(),
            executor,
        });
        let pool = Self { shared };
        (0..machine.jobs.max(1)).try_for_each(|_| pool.add_worker(true))?;
        (0..light.max(1)).try_for_each(|_| pool.add_worker(false))?;
        Ok(pool)
    }

    /// Runs attempts; here, on the caller's own thread.
    pub(crate) fn executor(&self) -> &Executor {
        &self.shared.executor
    }

    /// Queues a job.
    pub(crate) fn submit(&self, job: Job, weight: Weight) {
        let mut queues = self.shared.queues();
        match weight {
            Weight::Heavy(need) => {
                let run = Arc::clone(&job.run);
                queues.heavy.push(&run, need, job);
                self.shared.heavy.notify_one();
            }
            Weight::Light => {
                queues.light.push_back(job);
                self.shared.light.notify_one();
            }
        }
    }

    /// Starts a thread more, to take the place of one that hangs.
    pub(crate) fn add_worker(&self, heavy: bool) -> Result<(), EngineError> {
        let shared = Arc::clone(&self.shared);
        std::thread::Builder::new()
            .name("stage".to_owned())
            .stack_size(STACK)
            .spawn(move || work(&shared, heavy))
            .map(drop)
            .map_err(EngineError::io("start a thread for", "stages"))
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.queues().closed = true;
        self.shared.heavy.notify_all();
        self.shared.light.notify_all();
    }
}

fn work(shared: &Arc<Shared>, heavy: bool) {
    while let Some((job, held)) = next(shared, heavy) {
        let (reply, answer) = sync_channel(1);
        let start = Message::StartLocal { instance: job.instance, reply };
        if job.conductor.send(start).is_err() {
            continue;
        }
        // Refused: the run is being stopped, or the instance is no longer ready.
        let Ok(task) = answer.recv() else { continue };
        let control = Arc::clone(&task.control);
        // Whoever gives the attempt up for hung gives back what it holds.
        control.hold(held);
        shared.executor.run(task, &job.conductor);
        control.give_back();
        if control.abandoned.load(Ordering::Acquire) {
            return;
        }
    }
}

fn next(shared: &Arc<Shared>, heavy: bool) -> Option<(Job, Option<Held>)> {
    let mut queues = shared.queues();
    loop {
        if queues.closed {
            return None;
        }
        if heavy {
            if let Some((place, job)) = queues.heavy.start() {
                return Some((job, Some(Held { shared: Arc::clone(shared), place })));
            }
        } else if let Some(job) = queues.light.pop_front() {
            return Some((job, None));
        }
        let bell = if heavy { &shared.heavy } else { &shared.light };
        queues = bell.wait(queues).unwrap_or_else(PoisonError::into_inner);
    }
}
