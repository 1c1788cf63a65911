//! Those who rely on artifacts, and those who remove some: a lock between processes.
//!
//! Each process that relies on something holds `gc/lock` shared, once for all of its [`InUse`]. Whoever collects holds
//! it exclusively, and `gc/turn` while it waits for it: who begins to rely on something goes through `gc/turn` first,
//! so that a collection is not held up by processes that take turns. Within a process that already relies on
//! something, more never waits, because what there is may end only after that.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fs4::fs_std::FileExt;
use headstart_disk::{Disk, DiskError, DiskFile, Open, files};

use crate::error::StoreError;

/// The folder of the lock, and of what collections remember.
pub(crate) const DIR: &str = "gc";

/// The users of a workspace in this process.
#[derive(Debug)]
pub(crate) struct Users {
    dir: PathBuf,
    disk: Arc<dyn Disk>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    count: usize,
    /// Held shared as long as the count is not 0.
    lock: Option<Box<dyn DiskFile>>,
}

/// As long as this is, nothing is removed from the workspace; see [`crate::Workspace::in_use`].
#[derive(Debug)]
pub struct InUse {
    users: Arc<Users>,
}

/// As long as this is, nobody relies on an artifact that no event log names; see [`crate::Workspace::exclusive`].
#[derive(Debug)]
pub struct Exclusive {
    _lock: Box<dyn DiskFile>,
    _turn: Box<dyn DiskFile>,
}

impl Users {
    pub(crate) fn new(workspace: &Path, disk: Arc<dyn Disk>) -> Self {
        Self { dir: workspace.join(DIR), disk, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open(&self, name: &str) -> Result<(Box<dyn DiskFile>, PathBuf), DiskError> {
        files::create_dir(&*self.disk, &self.dir)?;
        let path = self.dir.join(name);
        let file = self.disk.open(&path, Open::Update).map_err(DiskError::at("create", &path))?;
        Ok((file, path))
    }

    pub(crate) fn enter(self: &Arc<Self>) -> Result<InUse, StoreError> {
        let mut state = self.state();
        if state.count == 0 {
            let (turn, at) = self.open("turn")?;
            FileExt::lock_shared(turn.system()).map_err(DiskError::at("lock", &at))?;
            let (lock, at) = self.open("lock")?;
            FileExt::lock_shared(lock.system()).map_err(DiskError::at("lock", &at))?;
            state.lock = Some(lock);
        }
        state.count += 1;
        Ok(InUse { users: Arc::clone(self) })
    }

    pub(crate) fn exclusive(&self, wait: impl FnOnce()) -> Result<Exclusive, StoreError> {
        let (turn, at) = self.open("turn")?;
        let mut wait = Some(wait);
        let mut take = |file: &dyn DiskFile, at: &Path| {
            if FileExt::try_lock_exclusive(file.system()).map_err(DiskError::at("lock", at))? {
                return Ok(());
            }
            if let Some(wait) = wait.take() {
                wait();
            }
            FileExt::lock_exclusive(file.system()).map_err(DiskError::at("lock", at))
        };
        take(&*turn, &at)?;
        let (lock, at) = self.open("lock")?;
        take(&*lock, &at)?;
        Ok(Exclusive { _lock: lock, _turn: turn })
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        let mut state = self.users.state();
        state.count -= 1;
        if state.count == 0
            && let Some(lock) = state.lock.take()
        {
            // It goes with the file at the latest.
            let _ = FileExt::unlock(lock.system());
        }
    }
}
