//! What threads and devices tell the conductor of a run.

use std::any::Any;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use headstart_core::LossCause;
use headstart_protocol::Progress;
use headstart_protocol::declared::Program;
use headstart_protocol::task::{Outcome, Task, Usage};
use headstart_protocol::wire::Committed;
use headstart_protocol::{Args, ArtifactRef, Digest, Failure, Type};
use headstart_store::gc::InUse;
use tokio::sync::oneshot;

/// Something for the conductor to do.
pub(crate) enum Message {
    /// A worker is free to run an instance that was queued. Dropping `reply` refuses.
    StartLocal { instance: u32, reply: SyncSender<LocalTask> },
    /// A device claims an instance that was offered to it. Dropping `reply` refuses. The answer
    /// comes when the attempt is on disk and known to the hub.
    StartDevice { instance: u32, claimant: Claimant, lease: Arc<Lease>, reply: oneshot::Sender<Box<Task>> },
    /// A worker's attempt ended. Its output is in use until an event names it.
    Finished { instance: u32, fence: u64, result: Result<(ArtifactRef, InUse), Failure>, usage: Usage },
    /// How far an attempt is.
    Progress { instance: u32, fence: u64, progress: Progress },
    /// Whether a commit under this fence would count.
    Accepts { instance: u32, fence: u64, reply: oneshot::Sender<bool> },
    /// A device's checked outcome; the answer comes when it is on disk.
    Commit { instance: u32, fence: u64, outcome: Box<Outcome>, reply: oneshot::Sender<Committed> },
    /// An attempt is lost.
    LeaseLost { instance: u32, fence: u64, cause: LossCause },
    /// A device joined.
    DeviceJoined { device: String, version: String },
    /// Stop.
    Cancel,
    /// A simulated clock was moved: what waits for a time is to be looked at.
    Tick,
    /// The log cannot be written.
    LogBroken(String),
}

/// Who claims.
pub(crate) struct Claimant {
    pub device: String,
    /// The number of its session.
    pub session: u64,
    /// Whether it says with each claim what it holds, so that a grant that it did not get is given again.
    pub says_held: bool,
}

/// An attempt for a worker.
pub(crate) struct LocalTask {
    pub instance: u32,
    pub fence: u64,
    pub name: String,
    pub kind: String,
    /// The program of a custom stage.
    pub program: Option<Program>,
    pub ty: Type,
    pub args: Args,
    pub memory: Option<u64>,
    /// Threads that it may use.
    pub threads: usize,
    pub timeout: Option<Duration>,
    pub source_dir: PathBuf,
    /// Key of what it makes, where that depends on its arguments alone.
    pub key: Option<Digest>,
    /// Where lines go that a program writes beside the attempt.
    pub log: PathBuf,
    pub control: Arc<Control>,
}

/// What the conductor tells a worker meanwhile.
#[derive(Default)]
pub(crate) struct Control {
    /// Stop soon.
    pub cancel: AtomicBool,
    /// The stage keeps its progress, which a commit makes worthless.
    pub keeps: AtomicBool,
    /// The attempt does not count any more; another thread has replaced the worker.
    pub abandoned: AtomicBool,
    /// What it takes up of the machine.
    held: Mutex<Option<Box<dyn Any + Send>>>,
}

impl Control {
    /// Keeps what the attempt takes up until it is given back.
    pub(crate) fn hold(&self, held: impl Any + Send) {
        let mut place = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        // Given up between its start and now.
        if !self.abandoned.load(Ordering::Acquire) {
            *place = Some(Box::new(held));
        }
    }

    /// Gives it back; for what was given back nothing happens.
    pub(crate) fn give_back(&self) {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(held);
    }
}

/// A device's lease on an attempt, shared between the hub, which renews it, and the conductor,
/// which ends it.
#[derive(Debug)]
pub(crate) struct Lease {
    until_ms: AtomicU64,
    signal: AtomicU8,
}

/// The answer to a device that renews.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum LeaseSignal {
    Continue = 0,
    Cancel = 1,
    Superseded = 2,
}

impl Lease {
    pub(crate) fn new(until_ms: u64) -> Self {
        Self { until_ms: AtomicU64::new(until_ms), signal: AtomicU8::new(LeaseSignal::Continue as u8) }
    }

    pub(crate) fn until_ms(&self) -> u64 {
        self.until_ms.load(Ordering::Acquire)
    }

    pub(crate) fn extend(&self, until_ms: u64) {
        self.until_ms.fetch_max(until_ms, Ordering::AcqRel);
    }

    pub(crate) fn send(&self, signal: LeaseSignal) {
        self.signal.fetch_max(signal as u8, Ordering::AcqRel);
    }

    pub(crate) fn signal(&self) -> LeaseSignal {
        match self.signal.load(Ordering::Acquire) {
            0 => LeaseSignal::Continue,
            1 => LeaseSignal::Cancel,
            _ => LeaseSignal::Superseded,
        }
    }
}

/// Lets something happen at most once in a while.
pub(crate) struct Throttle {
    every: Duration,
    last: Option<Duration>,
}

impl Throttle {
    pub(crate) fn new(every: Duration) -> Self {
        Self { every, last: None }
    }

    /// Whether it may happen at this time of a [`headstart_env::Clock`]; then it has.
    pub(crate) fn pass(&mut self, now: Duration) -> bool {
        if self.last.is_some_and(|last| now.saturating_sub(last) < self.every) {
            return false;
        }
        self.last = Some(now);
        true
    }
}
