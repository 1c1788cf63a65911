//! Idle workers. An attempt takes one, or has one started, and gives it back.

use std::io;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use crate::Workers;
use crate::process::{Sort, Worker};

/// How long a worker may be idle.
const IDLE: Duration = Duration::from_secs(60);

/// Idle workers of a runner.
pub(crate) struct Pool {
    workers: Workers,
    idle: Mutex<Vec<(Worker, Instant)>>,
    /// To the thread that starts workers, from the first on.
    starter: Mutex<Option<Sender<Request>>>,
}

/// A worker to start.
struct Request {
    sort: Sort,
    reply: Sender<io::Result<Worker>>,
}

impl Pool {
    pub(crate) fn new(workers: Workers) -> Arc<Self> {
        Arc::new(Self { workers, idle: Mutex::default(), starter: Mutex::default() })
    }

    pub(crate) fn workers(&self) -> &Workers {
        &self.workers
    }

    fn idle(&self) -> MutexGuard<'_, Vec<(Worker, Instant)>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A worker of a sort. Those that are idle and may read what this one must not are ended, and the reverse.
    ///
    /// # Errors
    /// Why none can be started.
    pub(crate) fn take(self: &Arc<Self>, sort: Sort) -> io::Result<Worker> {
        let mut over = Vec::new();
        let found = {
            let mut idle = self.idle();
            let (same, others): (Vec<_>, Vec<_>) =
                idle.drain(..).partition(|(worker, _)| worker.sort.private == sort.private);
            over.extend(others);
            *idle = same;
            loop {
                let Some(at) = idle.iter().rposition(|(worker, _)| worker.sort == sort) else { break None };
                let (worker, since) = idle.swap_remove(at);
                if !worker.link.is_disturbed() {
                    break Some(worker);
                }
                over.push((worker, since));
            }
        };
        // Outside of the lock: ending a worker waits for it.
        drop(over);
        match found {
            Some(worker) => Ok(worker),
            None => self.start(sort),
        }
    }

    /// Takes a worker back whose attempt ended well.
    pub(crate) fn give(&self, worker: Worker) {
        self.idle().push((worker, Instant::now()));
    }

    /// Starts a worker, from a thread that lives as long as the pool: on Linux a worker ends with the thread
    /// that started it.
    fn start(self: &Arc<Self>, sort: Sort) -> io::Result<Worker> {
        let starter = {
            let mut starter = self.starter.lock().unwrap_or_else(PoisonError::into_inner);
            match &*starter {
                Some(known) => known.clone(),
                None => {
                    let (send, receive) = channel();
                    let pool = Arc::downgrade(self);
                    let workers = self.workers.clone();
                    std::thread::Builder::new()
                        .name("workers".into())
                        .spawn(move || run(&workers, &pool, &receive))?;
                    starter.insert(send).clone()
                }
            }
        };
        let (reply, answer) = channel();
        let gone = || io::Error::other("the thread that starts workers ended");
        starter.send(Request { sort, reply }).map_err(|_| gone())?;
        drop(starter);
        answer.recv().map_err(|_| gone())?
    }

    fn end_idle(&self) {
        let mut over = Vec::new();
        let mut idle = self.idle();
        let (old, rest): (Vec<_>, Vec<_>) = idle.drain(..).partition(|(_, since)| since.elapsed() >= IDLE);
        over.extend(old);
        *idle = rest;
        drop(idle);
        drop(over);
    }
}

/// Starts workers that are asked for, and ends those that are idle for long.
fn run(workers: &Workers, pool: &Weak<Pool>, requests: &Receiver<Request>) {
    loop {
        match requests.recv_timeout(IDLE / 2) {
            Ok(Request { sort, reply }) => {
                // An attempt that is gone needs no worker: the answer's drop ends it.
                let _ = reply.send(Worker::start(workers, sort));
            }
            Err(RecvTimeoutError::Timeout) => match pool.upgrade() {
                Some(pool) => pool.end_idle(),
                None => return,
            },
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}
