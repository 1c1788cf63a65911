//! Puts that are not in the database yet, and the thread that writes them there.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::batch::Batch;
use super::db::{self, Db};
use super::stage_index::StageIndex;
use super::write::write;

/// How long puts are gathered before they are written …
const GATHER: Duration = Duration::from_millis(100);
/// … unless they come to this many bytes.
const FLUSH_BYTES: usize = 8 << 20;
/// Puts that are held up until something was written, so that memory stays bounded.
const MAX_PENDING_BYTES: usize = 64 << 20;

#[derive(Default)]
pub(crate) struct State {
    /// Not yet being written.
    pub(crate) next: Batch,
    /// Being written.
    pub(crate) writing: Arc<Batch>,
    busy: bool,
    hurry: bool,
    stop: bool,
    writer: Option<JoinHandle<()>>,
    warmer: Option<JoinHandle<()>>,
}

/// What all clones of a cache share.
pub(crate) struct Shared {
    path: PathBuf,
    db: OnceLock<Option<Db>>,
    state: Mutex<State>,
    changed: Condvar,
    stages: Mutex<StageIndex>,
}

impl Shared {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self {
            path,
            db: OnceLock::new(),
            state: Mutex::default(),
            changed: Condvar::new(),
            stages: Mutex::default(),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn db(&self) -> Option<&Db> {
        self.db.get_or_init(|| Db::open(&self.path)).as_ref()
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The newest results of stages, loaded.
    pub(crate) fn stages(&self) -> MutexGuard<'_, StageIndex> {
        let mut index = self.stages.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(why) = index.load(|| self.db()) {
            self.complain("load the stage cache", &why);
        }
        index
    }

    /// Empties the entries in memory.
    pub(crate) fn forget_stages(&self) {
        self.stages.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Opens the database and loads the stage cache on a thread, once.
    pub(crate) fn warm(self: &Arc<Self>) {
        let mut state = self.state();
        if state.warmer.is_none() && !state.stop {
            let shared = Arc::clone(self);
            let warmer = std::thread::Builder::new().name("cache warm-up".to_owned());
            // Without the thread it will be opened at first use.
            state.warmer = warmer.spawn(move || drop(shared.stages())).ok();
        }
    }

    /// Adds to the next batch. `add` returns about how many bytes it added.
    pub(crate) fn put(self: &Arc<Self>, add: impl FnOnce(&mut Batch) -> usize) {
        let mut state = self.state();
        while state.next.bytes > MAX_PENDING_BYTES && state.writer.is_some() {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let added = add(&mut state.next);
        state.next.bytes += added;
        if state.writer.is_none() && !state.stop {
            let shared = Arc::clone(self);
            let writer = std::thread::Builder::new().name("cache writer".to_owned());
            state.writer = writer.spawn(move || shared.write_behind()).ok();
        }
        self.changed.notify_all();
    }

    /// Waits until everything that was put before is written.
    pub(crate) fn flush(&self) {
        let mut state = self.state();
        while state.writer.is_some() && (state.busy || !state.next.is_empty()) {
            state.hurry = true;
            self.changed.notify_all();
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Writes the rest and ends the threads; nothing keeps the database open then.
    pub(crate) fn stop(&self) {
        let mut state = self.state();
        state.stop = true;
        self.changed.notify_all();
        let threads = [state.writer.take(), state.warmer.take()];
        drop(state);
        for thread in threads.into_iter().flatten() {
            // If it panicked, rows are lost, which a cache may do.
            let _ = thread.join();
        }
    }

    fn write_behind(self: Arc<Self>) {
        loop {
            let mut state = self.state();
            while state.next.is_empty() {
                state.hurry = false;
                if state.stop {
                    return;
                }
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            let gathering = |s: &mut State| !s.hurry && !s.stop && s.next.bytes < FLUSH_BYTES;
            let waited = self.changed.wait_timeout_while(state, GATHER, gathering);
            (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
            let batch = Arc::new(std::mem::take(&mut state.next));
            state.writing = Arc::clone(&batch);
            state.busy = true;
            drop(state);
            self.changed.notify_all();
            if let Some(db) = self.db().filter(|db| db.home != db::Home::ReadOnly)
                && let Err(why) = write(db, &batch)
            {
                self.complain("write", &why);
            }
            let mut state = self.state();
            state.writing = Arc::default();
            state.busy = false;
            drop(state);
            self.changed.notify_all();
        }
    }

    /// Logs a failure. A database that turns out damaged is set aside for the next process; this
    /// one continues with what it has in memory.
    pub(crate) fn complain(&self, doing: &str, why: &str) {
        tracing::warn!("the cache {} could not {doing}: {why}", self.path.display());
        let lower = why.to_lowercase();
        let damaged = ["corrupt", "checksum", "invalidated"].iter().any(|w| lower.contains(w));
        if damaged && self.path.exists() && self.db().is_some_and(|db| db.home == db::Home::File) {
            // Where it cannot be renamed, the next process will try again.
            let _ = db::set_aside(&self.path, why);
        }
    }
}
