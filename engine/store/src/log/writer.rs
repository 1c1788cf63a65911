//! Appending to a log.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use fs4::fs_std::FileExt;
use headstart_disk::{Disk, DiskError, DiskFile, Open};
use serde::Serialize;

use crate::error::StoreError;
use crate::log::frame;
use crate::log::ticket::{Settle, Shared, Ticket};

/// A record holds at most this many events, unless they were appended in one call …
const GROUP_EVENTS: u32 = 1024;
/// … and about this many bytes.
const GROUP_BYTES: usize = 1 << 20;
/// How long events that nobody waits for may be kept back.
const LAZY: Duration = Duration::from_millis(50);
/// Appends that may wait for the writer before callers are held up.
const QUEUE: usize = 4096;

/// The log of a run, open for appending. Clones append to the same log; the last one to go waits
/// until everything is on disk.
///
/// A separate thread writes: it takes everything that was appended while the previous group was
/// being synced, writes it as one record and syncs once. So a single event costs one sync, and
/// under load the price of a sync is shared by hundreds of events.
#[derive(Clone)]
pub struct RunLog {
    inner: Arc<Inner>,
}

/// Makes durable what events may speak of, before a record of them is written.
pub(crate) type Before = Box<dyn Fn() -> Result<(), String> + Send>;

struct Inner {
    id: Arc<str>,
    queue: Option<SyncSender<Append>>,
    writer: Option<JoinHandle<()>>,
    broken: Arc<Mutex<Option<String>>>,
    _lock: Lock,
}

struct Append {
    lines: Vec<u8>,
    events: u32,
    /// Absent where nobody waits.
    ticket: Option<Settle>,
}

impl RunLog {
    /// Opens the log at `path` for appending; a torn tail is cut off.
    pub(crate) fn open(
        id: &str,
        path: &Path,
        disk: &dyn Disk,
        lock: Lock,
        before: Before,
    ) -> Result<Self, StoreError> {
        let (file, chain) = recover(disk, path)?;
        let (queue, incoming) = mpsc::sync_channel(QUEUE);
        let broken = Arc::new(Mutex::new(None));
        let (path, at) = (path.to_owned(), path);
        let writer = Writer { file, path, chain, before, broken: Arc::clone(&broken), record: Vec::new() };
        let writer = std::thread::Builder::new()
            .name(format!("log {id}"))
            .spawn(move || writer.work(&incoming))
            .map_err(StoreError::io("start a thread to write", at))?;
        let inner = Inner { id: id.into(), queue: Some(queue), writer: Some(writer), broken, _lock: lock };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The run's id.
    pub fn id(&self) -> &str {
        &self.inner.id
    }

    /// Appends events, all or none of which survive a crash, and returns when they are durable.
    ///
    /// # Errors
    /// [`StoreError::LogBroken`] where the log cannot be written; nothing can be appended after that.
    pub fn append<E: Serialize>(&self, events: &[E]) -> Result<(), StoreError> {
        if events.is_empty() {
            return Ok(());
        }
        self.submit(events)?.wait()
    }

    /// Appends events without waiting; the ticket tells when they are durable. Events become
    /// durable in the order in which they were submitted.
    ///
    /// # Errors
    /// [`StoreError::LogBroken`] where an earlier write failed, [`StoreError::Encode`] where an event does not
    /// serialize.
    pub fn submit<E: Serialize>(&self, events: &[E]) -> Result<Ticket, StoreError> {
        let shared = Arc::new(Shared::default());
        if events.is_empty() {
            shared.settle(Ok(()));
        } else {
            self.send(events, Some(Settle(Arc::clone(&shared))))?;
        }
        Ok(Ticket { run: Arc::clone(&self.inner.id), shared })
    }

    /// Appends events that may be lost in a crash, such as progress. They keep their place among
    /// the others and are written within 50 ms.
    ///
    /// # Errors
    /// As [`RunLog::submit`].
    pub fn append_lazy<E: Serialize>(&self, events: &[E]) -> Result<(), StoreError> {
        if events.is_empty() { Ok(()) } else { self.send(events, None) }
    }

    fn send<E: Serialize>(&self, events: &[E], ticket: Option<Settle>) -> Result<(), StoreError> {
        if let Some(why) = self.inner.broken.lock().unwrap_or_else(PoisonError::into_inner).clone() {
            return Err(self.broken(why));
        }
        let mut lines = Vec::with_capacity(128 * events.len());
        for event in events {
            serde_json::to_writer(&mut lines, event)
                .map_err(|source| StoreError::Encode { what: "an event", source })?;
            lines.push(b'\n');
        }
        let append = Append { lines, events: u32::try_from(events.len()).unwrap_or(u32::MAX), ticket };
        let queue = self.inner.queue.as_ref().expect("the queue is closed only when the log is dropped");
        queue.send(append).map_err(|_| self.broken("its writer has stopped".to_owned()))
    }

    fn broken(&self, why: String) -> StoreError {
        StoreError::LogBroken { id: self.inner.id.to_string(), why }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        drop(self.queue.take());
        if let Some(writer) = self.writer.take() {
            // A writer that panicked has left its callers an error already.
            let _ = writer.join();
        }
    }
}

/// Opens a file to read and write, as it is or empty.
fn open(disk: &dyn Disk, path: &Path) -> Result<Box<dyn DiskFile>, StoreError> {
    disk.open(path, Open::Update).map_err(StoreError::io("open", path))
}

/// Finds the end of the intact part, cuts the torn part, and returns the chain value there.
fn recover(disk: &dyn Disk, path: &Path) -> Result<(Box<dyn DiskFile>, u32), StoreError> {
    let mut file = open(disk, path)?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).map_err(StoreError::io("read", path))?;
    let (at, chain) = frame::records(path, &bytes, |_, _, _| Ok(()))?;
    let cut = bytes.len() - at;
    let mut repair = || -> io::Result<()> {
        if cut > 0 {
            file.set_len(at as u64)?;
        }
        file.seek(SeekFrom::Start(at as u64))?;
        if at == 0 {
            file.write_all(&frame::file_header())?;
        }
        if cut > 0 || at == 0 { file.sync() } else { Ok(()) }
    };
    repair().map_err(StoreError::io("write", path))?;
    if cut > 0 && at > 0 {
        tracing::warn!(path = %path.display(), bytes = cut, "cut an unfinished record off the event log");
    }
    Ok((file, chain))
}

struct Writer {
    file: Box<dyn DiskFile>,
    path: PathBuf,
    chain: u32,
    before: Before,
    broken: Arc<Mutex<Option<String>>>,
    record: Vec<u8>,
}

#[derive(Default)]
struct Group {
    lines: Vec<u8>,
    events: u32,
    tickets: Vec<Settle>,
    since: Option<Instant>,
}

impl Group {
    fn add(&mut self, append: Append) {
        self.lines.extend_from_slice(&append.lines);
        self.events = self.events.saturating_add(append.events);
        self.tickets.extend(append.ticket);
        self.since.get_or_insert_with(Instant::now);
    }

    fn full(&self) -> bool {
        self.events >= GROUP_EVENTS || self.lines.len() >= GROUP_BYTES
    }
}

impl Writer {
    fn work(mut self, incoming: &Receiver<Append>) {
        let mut group = Group::default();
        let mut open = true;
        while open {
            match group.since {
                None => match incoming.recv() {
                    Ok(append) => group.add(append),
                    Err(_) => return,
                },
                // Only events that nobody waits for: give them company.
                Some(since) => match incoming.recv_timeout(LAZY.saturating_sub(since.elapsed())) {
                    Ok(append) => group.add(append),
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => open = false,
                },
            }
            while !group.full()
                && let Ok(append) = incoming.try_recv()
            {
                group.add(append);
            }
            let overdue = group.since.is_some_and(|s| s.elapsed() >= LAZY);
            if !group.tickets.is_empty() || group.full() || overdue || !open {
                self.commit(&mut group);
            }
        }
    }

    fn commit(&mut self, group: &mut Group) {
        let already_broken = self.broken.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let result = match already_broken {
            Some(why) => Err(why),
            None => (self.before)().and_then(|()| self.write(group)),
        };
        if let Err(why) = &result {
            // After a failed write or sync nobody knows what is on disk, so nothing may follow.
            let mut broken = self.broken.lock().unwrap_or_else(PoisonError::into_inner);
            if broken.is_none() {
                tracing::error!(%why, "the event log cannot be written");
                *broken = Some(why.clone());
            }
        }
        for ticket in group.tickets.drain(..) {
            ticket.0.settle(result.clone());
        }
        group.lines.clear();
        group.events = 0;
        group.since = None;
    }

    fn write(&mut self, group: &Group) -> Result<(), String> {
        self.record.clear();
        let next = frame::encode(&mut self.record, &group.lines, group.events, self.chain);
        let written = self.file.write_all(&self.record).and_then(|()| self.file.sync_data());
        written.map_err(|e| DiskError::at("write", &self.path)(e).to_string())?;
        self.chain = next;
        Ok(())
    }
}

/// The right to append to a run, held by one process at a time and freed when it ends, however it
/// ends.
pub(crate) struct Lock {
    _file: Box<dyn DiskFile>,
}

impl Lock {
    /// Takes the lock at `path`, or says whose it is.
    pub(crate) fn take(disk: &dyn Disk, path: &Path, id: &str) -> Result<Self, StoreError> {
        let mut file = open(disk, path)?;
        // Readers that look whether a run is live hold the lock for a moment.
        let mut locked = false;
        for pause in [0, 1, 5, 20, 50] {
            std::thread::sleep(Duration::from_millis(pause));
            locked = FileExt::try_lock_exclusive(file.system()).map_err(StoreError::io("lock", path))?;
            if locked {
                break;
            }
        }
        if !locked {
            let pid = fs::read_to_string(path).ok().and_then(|s| s.trim().parse().ok());
            return Err(StoreError::RunBusy { id: id.to_owned(), pid });
        }
        file.set_len(0)
            .and_then(|()| file.write_all(std::process::id().to_string().as_bytes()))
            .map_err(StoreError::io("write", path))?;
        Ok(Self { _file: file })
    }
}

/// Whether a process holds the lock at `path`.
pub(crate) fn is_live(path: &Path) -> bool {
    let Ok(file) = File::open(path) else { return false };
    matches!(FileExt::try_lock_shared(&file), Ok(false))
}

#[cfg(test)]
mod tests {
    use headstart_disk::simulated::{Fault, SimulatedDisk};

    use super::*;

    #[test]
    fn after_a_failed_write_nothing_is_appended_any_more() {
        let dir = tempfile::tempdir().expect("a folder");
        let (path, disk) = (dir.path().join("events"), SimulatedDisk::new());
        let lock = Lock::take(&disk, &dir.path().join("lock"), "r").expect("locks");
        let log = RunLog::open("r", &path, &disk, lock, Box::new(|| Ok(()))).expect("opens");
        log.append(&[1]).expect("written");
        disk.fail_once(disk.writes() + 1, Fault::Full);
        let failed = log.append(&[2]).expect_err("cannot be written");
        let StoreError::LogBroken { why, .. } = &failed else { panic!("{failed}") };
        assert_eq!(*why, format!("cannot write {}: the disk is full", path.display()));
        // There is room again, but nobody knows what of the second event is on disk.
        assert!(matches!(log.append(&[3]), Err(StoreError::LogBroken { .. })));
        assert!(matches!(log.append_lazy(&[4]), Err(StoreError::LogBroken { .. })));
        drop(log);
        let (_, _) = recover(&disk, &path).expect("the torn tail is cut");
        let left: Vec<i32> = crate::log::read_all(&path).expect("intact");
        assert_eq!(left, [1]);
    }
}
