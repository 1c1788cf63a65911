//! Contents that are in place but not yet on disk.
//!
//! Syncing each small file costs milliseconds; a run commits thousands. So contents get their
//! names at once and are made durable together, at the latest before an event is that could speak
//! of them: every log syncs them before it writes a record. A power failure may therefore leave
//! wrong contents under a name, but none that an event speaks of. To find those, a process that
//! has anything unsynced keeps a marker file with the id of the system's boot; a process that opens the
//! store and finds a marker of a process that is gone, and of another boot, checks everything
//! that is newer than the marker. (If only the process died, the system still has its writes.)

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use fs4::fs_std::FileExt;
use headstart_disk::files::{self, NewFile};
use headstart_disk::{Disk, DiskFile, Open};
use headstart_protocol::Digest;

use crate::error::ContentError;
use crate::hash::hash_file;

/// Up to this many files are synced one by one; beyond, the whole file system at once is cheaper.
const FEW: usize = 4;
/// Files older than this have been synced, by their process or by the system.
const RECENT: Duration = Duration::from_secs(300);
/// How much older than the marker a file may look and still be checked, for clocks that were set.
const SLACK: Duration = Duration::from_secs(3600);

/// What of a store is not on disk yet.
#[derive(Debug)]
pub struct Unsynced {
    dir: PathBuf,
    disk: Arc<dyn Disk>,
    state: Mutex<State>,
    /// Held while syncing, so that later calls wait for what was taken before.
    syncing: Mutex<()>,
    /// Whether the store goes with its command, so that nothing of it need ever be on disk.
    fleeting: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    marker: Option<(Box<dyn DiskFile>, PathBuf)>,
    files: BTreeSet<PathBuf>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Unsynced {
    /// Of the store in `dir` on `disk`.
    pub fn new(dir: PathBuf, disk: Arc<dyn Disk>) -> Self {
        Self { dir, disk, state: Mutex::default(), syncing: Mutex::default(), fleeting: false.into() }
    }

    /// Makes nothing durable from now on: the store goes with its command.
    pub(crate) fn never_sync(&self) {
        self.fleeting.store(true, Ordering::Relaxed);
    }

    /// The disk that the store lies on.
    pub(crate) fn disk(&self) -> &dyn Disk {
        &*self.disk
    }

    /// Gives a temporary file its name.
    pub(crate) fn place(&self, mut temp: NewFile<'_>, path: &Path) -> Result<(), ContentError> {
        let dir = path.parent().expect("contents lie in folders of the store");
        files::create_dir(self.disk(), dir)?;
        if cfg!(not(unix)) {
            // Files that are only open for reading cannot be synced there.
            temp.file().sync().map_err(ContentError::io("write", path))?;
        }
        if self.fleeting.load(Ordering::Relaxed) {
            temp.persist(path)?;
            return Ok(());
        }
        let mut state = lock(&self.state);
        if state.marker.is_none() {
            state.marker = Some(self.mark()?);
        }
        temp.persist(path)?;
        state.files.insert(path.to_owned());
        Ok(())
    }

    /// Takes care of a file that was there already: if it is new, another process may have placed
    /// it and not synced it yet.
    pub(crate) fn adopt(&self, path: &Path) {
        let age = fs::metadata(path).and_then(|m| m.modified()).map(|t| t.elapsed().unwrap_or_default());
        if age.is_ok_and(|age| age < RECENT) && !self.fleeting.load(Ordering::Relaxed) {
            lock(&self.state).files.insert(path.to_owned());
        }
    }

    /// Makes everything durable that was placed before the call.
    ///
    /// # Errors
    /// [`ContentError::Disk`]; what was placed is then tried again with the next call.
    pub fn sync(&self) -> Result<(), ContentError> {
        let _one_at_a_time = lock(&self.syncing);
        let taken = std::mem::take(&mut lock(&self.state).files);
        if taken.is_empty() {
            return Ok(());
        }
        let outcome = self.sync_files(&taken);
        if outcome.is_err() {
            lock(&self.state).files.extend(taken);
        }
        outcome
    }

    fn sync_files(&self, paths: &BTreeSet<PathBuf>) -> Result<(), ContentError> {
        if paths.len() > FEW
            && self.disk.sync_file_system(&self.dir).map_err(ContentError::io("sync", &self.dir))?
        {
            return Ok(());
        }
        let mut dirs = BTreeSet::new();
        for path in paths {
            if cfg!(unix) {
                match self.disk.sync_file(path) {
                    Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                        return Err(ContentError::io("sync", path)(e));
                    }
                    _ => {}
                }
            }
            // The folder may be new as well.
            dirs.extend(path.ancestors().skip(1).take(2));
        }
        Ok(dirs.into_iter().try_for_each(|dir| files::sync_dir(self.disk(), dir))?)
    }

    fn mark(&self) -> Result<(Box<dyn DiskFile>, PathBuf), ContentError> {
        let dir = self.dir.join("unsynced");
        files::create_dir(self.disk(), &dir)?;
        let mut temp = NewFile::in_dir(self.disk(), &dir, "process-")?;
        let path = temp.path().to_owned();
        // Locked before it can be found under its name by others that take it for abandoned.
        let boot = self.disk.boot_id().unwrap_or_default();
        let file = temp.file();
        FileExt::try_lock_exclusive(file.system())
            .and_then(|_| file.write_all(boot.as_bytes()))
            .and_then(|()| file.sync())
            .map_err(ContentError::io("write", &path))?;
        files::sync_dir(self.disk(), &dir)?;
        files::sync_dir(self.disk(), &self.dir)?;
        Ok(temp.keep())
    }
}

impl Drop for Unsynced {
    fn drop(&mut self) {
        match self.sync() {
            Ok(()) => {
                if let Some((_, path)) = lock(&self.state).marker.take() {
                    // A marker that stays only causes a check.
                    let _ = self.disk.remove_file(&path);
                }
            }
            Err(why) => tracing::warn!(%why, "some contents could not be synced to disk"),
        }
    }
}

/// Removes what a power failure may have left in the store at `dir`.
pub(crate) fn recover(dir: &Path, disk: &dyn Disk) -> Result<(), ContentError> {
    let markers = dir.join("unsynced");
    let Ok(entries) = fs::read_dir(&markers) else { return Ok(()) };
    let found: Vec<PathBuf> = entries.flatten().map(|e| e.path()).filter(|p| p.is_file()).collect();
    if found.iter().all(|p| p.ends_with("lock")) {
        return Ok(());
    }
    let lock_path = markers.join("lock");
    let guard = disk.open(&lock_path, Open::Update).map_err(ContentError::io("create", &lock_path))?;
    FileExt::lock_exclusive(guard.system()).map_err(ContentError::io("lock", &lock_path))?;
    for path in found.iter().filter(|p| !p.ends_with("lock")) {
        // It may be gone by now, or belong to a process that lives.
        let Ok(marker) = File::open(path) else { continue };
        if !matches!(FileExt::try_lock_exclusive(&marker), Ok(true)) {
            continue;
        }
        let boot = fs::read_to_string(path).unwrap_or_default();
        if disk.boot_id().is_none_or(|now| now != boot) {
            let since = marker.metadata().and_then(|m| m.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
            check_newer(dir, disk, since.checked_sub(SLACK).unwrap_or(SystemTime::UNIX_EPOCH))?;
        }
        match disk.remove_file(path) {
            // Its process removed it itself, between the look at it and now.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            done => done.map_err(ContentError::io("remove", path))?,
        }
    }
    Ok(())
}

/// Removes contents that are not what their names say, among those changed after `since`, and all
/// materialized folders, whose links may be incomplete.
fn check_newer(dir: &Path, disk: &dyn Disk, since: SystemTime) -> Result<(), ContentError> {
    let open = dir.join("open");
    if open.is_dir() {
        disk.remove_dir_all(&open).map_err(ContentError::io("remove", &open))?;
    }
    let (mut checked, mut removed) = (0, 0);
    for kind in ["blobs", "manifests"] {
        for shard in fs::read_dir(dir.join(kind)).into_iter().flatten().flatten() {
            for entry in fs::read_dir(shard.path()).into_iter().flatten().flatten() {
                let path = entry.path();
                let name = path.file_stem().and_then(|n| n.to_str()).unwrap_or_default();
                let Ok(digest) = name.parse::<Digest>() else { continue };
                if entry.metadata().and_then(|m| m.modified()).is_ok_and(|t| t < since) {
                    continue;
                }
                checked += 1;
                if hash_file(&path)?.digest != digest {
                    removed += 1;
                    disk.remove_file(&path).map_err(ContentError::io("remove damaged", &path))?;
                }
            }
        }
    }
    tracing::warn!(
        checked,
        removed,
        "the system stopped while contents were being written; checked the newest"
    );
    Ok(())
}
