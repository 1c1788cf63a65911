//! Claims on stages, so that of several runs that need the same result only one computes it.
//!
//! Each process lists in a file of its own below `claims/` what its runs compute, and holds a lock on that file as
//! long as it lives: the system frees it when the process ends, however that ends. Whoever claims a stage looks
//! into the files of the others that live, under `claims/lock`. (A file for each claim would be simpler; to
//! create and remove thousands of files one after the other is slow on ext4.)

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use fs4::fs_std::FileExt;
use headstart_disk::{Disk, DiskError, DiskFile, Open, files, read};
use headstart_protocol::Digest;
use serde::{Deserialize, Serialize};

use super::Cache;

/// Bytes of a process's file at most.
const LARGEST: u64 = 16 << 20;

/// Who computes a stage.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Holder {
    /// The run.
    pub run: String,
    /// The process.
    pub process: u32,
}

/// What became of an attempt to claim a stage.
#[derive(Debug)]
pub enum Claimed {
    /// It is ours.
    Ours(Claim),
    /// Another run computes it.
    Held(Holder),
}

/// The right to compute a stage, until it is dropped.
#[derive(Debug)]
pub struct Claim {
    claims: Weak<Claims>,
    key: Digest,
}

impl Drop for Claim {
    fn drop(&mut self) {
        if let Some(claims) = self.claims.upgrade() {
            claims.free(&self.key);
        }
    }
}

/// What a process computes, as its file says it.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Listed {
    process: u32,
    /// Keys, with the runs that compute them.
    claims: BTreeMap<Digest, String>,
}

/// The claims of this process.
#[derive(Debug)]
pub(crate) struct Claims {
    dir: PathBuf,
    disk: Arc<dyn Disk>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    listed: Listed,
    files: Option<Files>,
}

/// The files of this process, open as long as it claims anything.
#[derive(Debug)]
struct Files {
    /// Locked while claims are looked at and changed.
    lock: Box<dyn DiskFile>,
    /// Locked as long as the process lives.
    own: Box<dyn DiskFile>,
    path: PathBuf,
}

impl Claims {
    pub(crate) fn new(workspace: &Path, disk: Arc<dyn Disk>) -> Self {
        Self { dir: workspace.join("claims"), disk, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open(&self) -> Result<Files, DiskError> {
        let disk = &*self.disk;
        files::create_dir(disk, &self.dir)?;
        let at = self.dir.join("lock");
        let lock = disk.open(&at, Open::Update).map_err(DiskError::at("create", &at))?;
        // Under the lock, so that nobody takes a file for abandoned that is locked a moment later.
        FileExt::lock_exclusive(lock.system()).map_err(DiskError::at("lock", &at))?;
        // A process may have the workspace open more than once, one after the other.
        let names = (0u32..).map(|n| self.dir.join(format!("{:x}-{n}", std::process::id())));
        let path = names.into_iter().find(|path| !path.exists()).expect("numbers do not end");
        let own = disk.open(&path, Open::New).map_err(DiskError::at("create", &path))?;
        let locked = FileExt::try_lock_exclusive(own.system()).map_err(DiskError::at("lock", &path));
        FileExt::unlock(lock.system()).map_err(DiskError::at("unlock", &at))?;
        locked.map(|_| Files { lock, own, path })
    }

    fn claim(self: &Arc<Self>, key: &Digest, run: &str) -> Result<Claimed, DiskError> {
        let mut state = self.state();
        let process = std::process::id();
        if let Some(run) = state.listed.claims.get(key) {
            return Ok(Claimed::Held(Holder { run: run.clone(), process }));
        }
        let State { listed, files } = &mut *state;
        let files = match files {
            Some(files) => files,
            None => files.insert(self.open()?),
        };
        let _locked = Locked::take(&*files.lock).map_err(DiskError::at("lock", &files.path))?;
        if let Some(holder) = self.other(key, Some(&files.path)) {
            return Ok(Claimed::Held(holder));
        }
        listed.process = process;
        listed.claims.insert(*key, run.to_owned());
        if let Err(e) = files.write(listed) {
            listed.claims.remove(key);
            return Err(e);
        }
        Ok(Claimed::Ours(Claim { claims: Arc::downgrade(self), key: *key }))
    }

    fn free(&self, key: &Digest) {
        let mut state = self.state();
        let State { listed, files } = &mut *state;
        listed.claims.remove(key);
        let Some(files) = files else { return };
        let locked = Locked::take(&*files.lock);
        if locked.is_ok()
            && let Err(e) = files.write(listed)
        {
            // Others wait until this process ends.
            tracing::warn!("{e}; other processes take a stage for one that is still being computed");
        }
    }

    /// Which other process that lives has claimed a key. To be called under the lock.
    fn other(&self, key: &Digest, own: Option<&Path>) -> Option<Holder> {
        for entry in fs::read_dir(&self.dir).into_iter().flatten().flatten() {
            let path = entry.path();
            if own == Some(&path) || path.ends_with("lock") {
                continue;
            }
            let Ok(file) = read::open(&path) else { continue };
            if !matches!(FileExt::try_lock_shared(&file), Ok(false)) {
                // Its process is gone.
                let _ = self.disk.remove_file(&path);
                continue;
            }
            let listed =
                read::whole(&path, LARGEST).ok().and_then(|t| serde_json::from_slice::<Listed>(&t).ok());
            let Listed { process, mut claims } = listed.unwrap_or_default();
            if let Some(run) = claims.remove(key) {
                return Some(Holder { run, process });
            }
        }
        None
    }

    fn holder(&self, key: &Digest) -> Option<Holder> {
        let state = self.state();
        if let Some(run) = state.listed.claims.get(key) {
            return Some(Holder { run: run.clone(), process: std::process::id() });
        }
        let own = state.files.as_ref().map(|files| files.path.clone());
        match &state.files {
            Some(files) => {
                let _locked = Locked::take(&*files.lock).ok()?;
                self.other(key, own.as_deref())
            }
            None => {
                let lock = read::open(&self.dir.join("lock")).ok()?;
                FileExt::lock_exclusive(&lock).ok()?;
                self.other(key, None)
            }
        }
    }
}

impl Drop for Claims {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some(files) = &state.files {
            // One that stays is removed by the next process that claims something.
            let _ = self.disk.remove_file(&files.path);
        }
    }
}

impl Files {
    fn write(&self, listed: &Listed) -> Result<(), DiskError> {
        let text = serde_json::to_vec(listed).unwrap_or_default();
        let length = text.len() as u64;
        let written = self.own.write_all_at(&text, 0).and_then(|()| self.own.set_len(length));
        written.map_err(DiskError::at("write", &self.path))
    }
}

/// A file's lock, as long as this is.
struct Locked<'a>(&'a dyn DiskFile);

impl<'a> Locked<'a> {
    fn take(file: &'a dyn DiskFile) -> io::Result<Self> {
        FileExt::lock_exclusive(file.system()).map(|()| Self(file))
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        // It goes with the file at the latest.
        let _ = FileExt::unlock(self.0.system());
    }
}

impl Cache {
    /// Claims the stage of this key for a run.
    ///
    /// # Errors
    /// If the disk does not allow it.
    pub fn claim(&self, key: &Digest, run: &str) -> Result<Claimed, DiskError> {
        self.shared().claims.claim(key, run)
    }

    /// Who computes the stage of this key; `None` if nobody does.
    pub fn claim_holder(&self, key: &Digest) -> Option<Holder> {
        self.shared().claims.holder(key)
    }
}
