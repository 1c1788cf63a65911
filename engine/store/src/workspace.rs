//! The folder in which everything lies.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use headstart_content::{Artifacts, Blobs, ContentStore, read_bounded};
use headstart_disk::files::{self, TempDir};
use headstart_disk::{Disk, Mode, SystemDisk, read};
use headstart_protocol::Digest;
use headstart_protocol::text::safe_file_name;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::cache::Cache;
use crate::error::StoreError;
use crate::in_use::Users;
use crate::log::{self, Lock, LogTail, RunLog};

/// Version of the layout.
const FORMAT: u32 = 1;
/// The file that makes a folder a workspace.
const FORMAT_FILE: &str = "workspace.json";
/// Bytes of it at most.
const LARGEST_FORMAT: u64 = 4096;

/// A workspace. Clones share everything.
#[derive(Clone)]
pub struct Workspace {
    inner: Arc<Inner>,
}

struct Inner {
    dir: PathBuf,
    disk: Arc<dyn Disk>,
    contents: ContentStore,
    cache: Cache,
    users: Arc<Users>,
    /// Deleted at the end, after everything that lies in it is closed.
    _temporary: Option<tempfile::TempDir>,
}

#[derive(Serialize, Deserialize)]
struct Format {
    format: u32,
}

/// What can be said of a run without reading its events.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RunInfo {
    /// Its id.
    pub id: String,
    /// Its folder.
    pub dir: PathBuf,
    /// When it was created.
    pub created: SystemTime,
    /// When its log was last written.
    pub changed: SystemTime,
    /// Size of its log in bytes.
    pub log_bytes: u64,
    /// Whether an engine is executing it.
    pub live: bool,
}

/// Progress of an attempt that a later one resumes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// When it was saved.
    pub saved: SystemTime,
    /// How long its files are together.
    pub bytes: u64,
}

/// What a workspace takes up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Size {
    /// Number of blobs.
    pub blobs: u64,
    /// Bytes of blobs.
    pub blob_bytes: u64,
    /// Number of manifests.
    pub manifests: u64,
    /// Number of runs.
    pub runs: u64,
    /// Bytes of plans and event logs.
    pub run_bytes: u64,
    /// Bytes of the cache: segments, and the database.
    pub cache_bytes: u64,
    /// Bytes of scratch folders.
    pub scratch_bytes: u64,
}

impl Workspace {
    /// Opens the workspace in `dir`; makes one where there is none.
    ///
    /// # Errors
    /// If the folder cannot be written, or holds a workspace of a newer format.
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        Self::open_on(dir, Arc::new(SystemDisk))
    }

    /// The same on this disk, through which everything in the workspace is written but the database.
    ///
    /// # Errors
    /// As [`Workspace::open`].
    pub fn open_on(dir: &Path, disk: Arc<dyn Disk>) -> Result<Self, StoreError> {
        Self::open_as(dir, disk, None)
    }

    /// A workspace in the system's temporary folder, deleted with the returned value. It refers to files
    /// that are stored instead of copying them.
    ///
    /// # Errors
    /// If there is no room for it.
    pub fn temporary() -> Result<Self, StoreError> {
        let temp = tempfile::Builder::new().prefix("headstart-").tempdir();
        let temp = temp.map_err(StoreError::io("create a folder in", std::env::temp_dir()))?;
        let dir = temp.path().to_owned();
        Self::open_as(&dir, Arc::new(SystemDisk), Some(temp))
    }

    fn open_as(
        dir: &Path,
        disk: Arc<dyn Disk>,
        temporary: Option<tempfile::TempDir>,
    ) -> Result<Self, StoreError> {
        let fresh = temporary.is_some() || !dir.exists();
        // Its owner may keep a workspace elsewhere, behind a link; somebody else's link is to no workspace.
        if dir.is_symlink() && !dir.join(FORMAT_FILE).is_file() {
            return Err(StoreError::Link(dir.to_owned()));
        }
        files::create_dir(&*disk, dir)?;
        let dir = dir.canonicalize().map_err(StoreError::io("open", dir))?;
        check_format(&dir, &*disk)?;
        refuse_links(&dir)?;
        protect(&dir, &*disk, fresh)?;
        let contents = ContentStore::open(&dir, Arc::clone(&disk))?;
        let contents = if temporary.is_some() { contents.linking() } else { contents };
        let cache = Cache::new(&dir, Arc::clone(&disk));
        let users = Arc::new(Users::new(&dir, Arc::clone(&disk)));
        Ok(Self { inner: Arc::new(Inner { dir, disk, contents, cache, users, _temporary: temporary }) })
    }

    /// Its folder, absolute.
    pub fn dir(&self) -> &Path {
        &self.inner.dir
    }

    /// The disk that it lies on.
    pub fn disk(&self) -> &Arc<dyn Disk> {
        &self.inner.disk
    }

    /// Content by digest.
    pub fn blobs(&self) -> &Blobs {
        self.inner.contents.blobs()
    }

    /// Artifacts.
    pub fn artifacts(&self) -> &Artifacts {
        self.inner.contents.artifacts()
    }

    /// The cache. Opens its files when it is first used.
    pub fn cache(&self) -> &Cache {
        &self.inner.cache
    }

    /// Makes all contents durable that were stored so far. Appending to a run's log does so too.
    ///
    /// # Errors
    /// [`StoreError`] where a file cannot be synced.
    pub fn sync(&self) -> Result<(), StoreError> {
        Ok(self.inner.contents.sync()?)
    }

    /// A fresh folder below `scratch/`, deleted with the returned value.
    ///
    /// # Errors
    /// [`StoreError`] where the folder cannot be made.
    pub fn scratch(&self, prefix: &str) -> Result<TempDir, StoreError> {
        let dir = self.inner.dir.join("scratch");
        files::create_dir(&*self.inner.disk, &dir)?;
        Ok(TempDir::in_dir(&self.inner.disk, &dir, &format!("{}-", safe_file_name(prefix)))?)
    }

    /// Where stages keep the progress of what has this cache key, so that they resume after a crash. Made by the stage, when it has something to keep.
    pub fn resume_dir(&self, key: &Digest) -> PathBuf {
        self.inner.dir.join("resume").join(key.to_string())
    }

    /// What tells the latest progress of what has this cache key from earlier ones; `None` if there is none.
    pub fn checkpoint_of(&self, key: &Digest) -> Option<Checkpoint> {
        let files = fs::read_dir(self.resume_dir(key)).ok()?;
        files.flatten().filter_map(|file| file.metadata().ok()).fold(None, |latest, facts| {
            let saved = facts.modified().ok()?;
            let (other, bytes) = latest.map_or((saved, 0), |c: Checkpoint| (c.saved, c.bytes));
            Some(Checkpoint { saved: saved.max(other), bytes: bytes + facts.len() })
        })
    }

    /// Deletes the progress of what has this key: it is done.
    pub fn forget_resume(&self, key: &Digest) {
        let dir = self.resume_dir(key);
        match self.inner.disk.remove_dir_all(&dir) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                tracing::warn!("{}: {e}; it only takes up room", dir.display());
            }
            _ => {}
        }
    }

    /// Deletes progress that no attempt has resumed for this long.
    pub fn sweep_resume(&self, older: std::time::Duration) {
        let Ok(entries) = fs::read_dir(self.inner.dir.join("resume")) else { return };
        for entry in entries.flatten() {
            let age = entry.metadata().and_then(|m| m.modified()).ok().and_then(|t| t.elapsed().ok());
            if age.is_some_and(|age| age >= older) {
                let _ = self.inner.disk.remove_dir_all(&entry.path());
            }
        }
    }

    /// Creates a run: its folder with `header` as `plan.json` and an empty log appear at once.
    ///
    /// # Errors
    /// [`StoreError::RunExists`], and others for an invalid id or where files cannot be written.
    pub fn create_run(&self, id: &str, header: &impl Serialize) -> Result<RunLog, StoreError> {
        check_run_id(id)?;
        let runs = self.inner.dir.join("runs");
        let disk = &self.inner.disk;
        files::create_dir(&**disk, &runs)?;
        let target = runs.join(id);
        if target.exists() {
            return Err(StoreError::RunExists(id.to_owned()));
        }
        let json = serde_json::to_vec(header)
            .map_err(|source| StoreError::Encode { what: "the header of a run", source })?;
        let lock = files::create_dir_atomic(
            &**disk,
            &target,
            |_| false,
            |temp| -> Result<Lock, StoreError> {
                files::write_atomic(&**disk, &temp.join("plan.json"), &json, Mode::Normal)?;
                files::write_atomic(&**disk, &temp.join("log/events"), &log::file_header(), Mode::Normal)?;
                let lock = Lock::take(&**disk, &temp.join("lock"), id)?;
                files::sync_dir(&**disk, temp)?;
                Ok(lock)
            },
        )?;
        let lock = lock.ok_or_else(|| StoreError::RunExists(id.to_owned()))?;
        files::sync_dir(&**disk, &runs)?;
        self.open_log(id, &target, lock)
    }

    /// Opens a run's log for appending, to resume it. A torn tail is cut off.
    ///
    /// # Errors
    /// If there is no such run, another engine executes it, or its log is damaged.
    pub fn open_run(&self, id: &str) -> Result<RunLog, StoreError> {
        let dir = self.run_dir(id)?;
        let lock = Lock::take(&*self.inner.disk, &dir.join("lock"), id)?;
        self.open_log(id, &dir, lock)
    }

    fn open_log(&self, id: &str, run: &Path, lock: Lock) -> Result<RunLog, StoreError> {
        let contents = Arc::clone(self.inner.contents.unsynced());
        let cache = self.inner.cache.clone();
        // What a run's events speak of is on disk before they are, and so is what the cache knows of it.
        let before = move || {
            contents.sync().map_err(|e| e.to_string())?;
            cache.sync().map_err(|e| e.to_string())
        };
        RunLog::open(id, &run.join("log/events"), &*self.inner.disk, lock, Box::new(before))
    }

    /// What a run was created with.
    ///
    /// # Errors
    /// [`StoreError`] where there is no such run or its header cannot be read.
    pub fn read_header<H: DeserializeOwned>(&self, id: &str) -> Result<H, StoreError> {
        let path = self.run_dir(id)?.join("plan.json");
        let bytes = read::whole(&path, read::FACTS).map_err(StoreError::io("read", &path))?;
        serde_json::from_slice(&bytes).map_err(|e| StoreError::damaged(&path, format!("not understood: {e}")))
    }

    /// All events of a run so far; an unfinished last record is left out.
    ///
    /// # Errors
    /// [`StoreError`] where there is no such run or its log is damaged.
    pub fn read_run<E: DeserializeOwned>(&self, id: &str) -> Result<Vec<E>, StoreError> {
        log::read_all(&self.run_dir(id)?.join("log/events"))
    }

    /// The events of a run, to be read as they come.
    ///
    /// # Errors
    /// [`StoreError`] where there is no such run.
    pub fn follow_run(&self, id: &str) -> Result<LogTail, StoreError> {
        Ok(LogTail::new(self.run_dir(id)?.join("log/events")))
    }

    /// The last event of a run so far; `None` where it has none.
    ///
    /// # Errors
    /// [`StoreError`] where there is no such run or its log is damaged.
    pub fn last_event<E: DeserializeOwned>(&self, id: &str) -> Result<Option<E>, StoreError> {
        log::read_last(&self.run_dir(id)?.join("log/events"))
    }

    /// Whether a run was created with exactly these bytes as its header.
    pub fn has_header(&self, id: &str, header: &[u8]) -> bool {
        let Ok(path) = self.run_dir(id).map(|dir| dir.join("plan.json")) else { return false };
        let same_size = fs::metadata(&path).is_ok_and(|facts| facts.len() == header.len() as u64);
        same_size && read::whole(&path, read::FACTS).is_ok_and(|bytes| bytes == header)
    }

    /// The digest of what a run was created with: two runs of the same have the same.
    ///
    /// # Errors
    /// [`StoreError`] where there is no such run or it cannot be read.
    pub fn header_digest(&self, id: &str) -> Result<Digest, StoreError> {
        let path = self.run_dir(id)?.join("plan.json");
        let bytes = read::whole(&path, read::FACTS).map_err(StoreError::io("read", &path))?;
        Ok(Digest::of(&bytes))
    }

    /// All runs, oldest first.
    pub fn runs(&self) -> Vec<RunInfo> {
        let Ok(entries) = fs::read_dir(self.inner.dir.join("runs")) else { return Vec::new() };
        let mut runs: Vec<RunInfo> = entries.flatten().filter_map(|e| run_info(&e.path())).collect();
        runs.sort_by(|a, b| (a.created, &a.id).cmp(&(b.created, &b.id)));
        runs
    }

    /// Whether there is a run of this id.
    pub fn has_run(&self, id: &str) -> bool {
        self.run_dir(id).is_ok()
    }

    /// Whether an engine is executing a run.
    pub fn is_live(&self, id: &str) -> bool {
        self.run_dir(id).is_ok_and(|dir| log::is_live(&dir.join("lock")))
    }

    /// A secret of this workspace: made at random when first asked for, then always the same,
    /// readable only by the owner.
    ///
    /// # Errors
    /// [`StoreError`] where it cannot be read or written.
    pub fn secret(&self, name: &str) -> Result<[u8; 32], StoreError> {
        crate::secrets::secret(&*self.inner.disk, &self.inner.dir.join("keys"), name)
    }

    /// What it takes up. Reads every folder.
    pub fn size(&self) -> Size {
        let dir = |name: &str| files::usage(&self.inner.dir.join(name));
        let (blob_bytes, blobs) = dir("blobs");
        let cache_file = |name: &str| fs::metadata(self.inner.dir.join(name)).map_or(0, |m| m.len());
        Size {
            blobs,
            blob_bytes,
            manifests: dir("manifests").1,
            runs: self.runs().len() as u64,
            run_bytes: dir("runs").0,
            cache_bytes: cache_file("cache.duckdb") + cache_file("cache.duckdb.wal") + dir("cache").0,
            scratch_bytes: dir("scratch").0,
        }
    }

    pub(crate) fn users(&self) -> &Arc<Users> {
        &self.inner.users
    }

    pub(crate) fn run_dir(&self, id: &str) -> Result<PathBuf, StoreError> {
        check_run_id(id)?;
        let dir = self.inner.dir.join("runs").join(id);
        if dir.is_dir() { Ok(dir) } else { Err(StoreError::NoRun(id.to_owned())) }
    }
}

/// Runs tell what a pipeline does, and `keys/` and `devices.json` who may join: they are their owner's.
fn protect(dir: &Path, disk: &dyn Disk, fresh: bool) -> Result<(), StoreError> {
    let secrets = [dir.join("keys"), dir.join("devices.json"), dir.join("devices.pending.json")];
    let keys = fs::read_dir(dir.join("keys")).into_iter().flatten().flatten();
    // A lock is no secret.
    let keys = keys.filter(|e| !e.file_name().to_string_lossy().starts_with('.')).map(|e| e.path());
    let inside: Vec<PathBuf> = secrets.into_iter().chain(keys).filter(|p| p.exists()).collect();
    let mut open = files::protect(disk, dir)? && !fresh;
    for path in &inside {
        open |= files::protect(disk, path)?;
    }
    if open {
        tracing::warn!("{}: other users could read it; now only its owner can", dir.display());
    }
    Ok(())
}

/// A workspace is made in an empty folder only, but for what was made of one before the power went: much in it is
/// removed by name.
fn refuse_foreign(dir: &Path) -> Result<(), StoreError> {
    let entries = fs::read_dir(dir).map_err(StoreError::io("list", dir))?;
    let names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    let ours = |name: &String| name == ".gitignore" || name.starts_with(".tmp-");
    match names.into_iter().find(|name| !ours(name)) {
        Some(inside) => Err(StoreError::Foreign { path: dir.to_owned(), inside }),
        None => Ok(()),
    }
}

/// A workspace may have come with somebody's files, such as a repository: a link in it would let a collection,
/// or the removal of old progress, delete what lies elsewhere.
fn refuse_links(dir: &Path) -> Result<(), StoreError> {
    let entries = fs::read_dir(dir).map_err(StoreError::io("list", dir))?;
    let inside = ContentStore::unfinished(dir).into_iter();
    for path in entries.flatten().map(|entry| entry.path()).chain(inside) {
        if fs::symlink_metadata(&path).is_ok_and(|facts| facts.is_symlink()) {
            return Err(StoreError::Link(path));
        }
    }
    Ok(())
}

fn check_format(dir: &Path, disk: &dyn Disk) -> Result<(), StoreError> {
    let path = dir.join(FORMAT_FILE);
    let Some(bytes) = read_bounded(&path, LARGEST_FORMAT)? else {
        refuse_foreign(dir)?;
        // A workspace does not belong into version control.
        files::write_atomic(disk, &dir.join(".gitignore"), b"*\n", Mode::Normal)?;
        let json = serde_json::to_vec(&Format { format: FORMAT }).expect("a number is JSON");
        return Ok(files::write_atomic(disk, &path, &json, Mode::Normal)?);
    };
    let found: Format = serde_json::from_slice(&bytes).map_err(|e| {
        StoreError::damaged(&path, format!("not understood: {e}; it should be {{\"format\":{FORMAT}}}"))
    })?;
    if found.format > FORMAT {
        return Err(StoreError::Newer { path: dir.to_owned(), found: found.format, ours: FORMAT });
    }
    Ok(())
}

fn check_run_id(id: &str) -> Result<(), StoreError> {
    let bad = |why| Err(StoreError::BadName { name: id.to_owned(), what: "the id of a run", why });
    if id.is_empty() || id.len() > 128 {
        return bad("ids have 1 to 128 characters");
    }
    if id.starts_with('.') || !id.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c)) {
        return bad("ids consist of letters, digits, `-`, `_` and `.`, and do not begin with `.`");
    }
    Ok(())
}

fn run_info(dir: &Path) -> Option<RunInfo> {
    let id = dir.file_name()?.to_str()?.to_owned();
    if check_run_id(&id).is_err() {
        return None;
    }
    // A run of which something is missing is listed too, so that reading it says what is.
    let folder = fs::metadata(dir).ok().filter(fs::Metadata::is_dir)?;
    let log = fs::metadata(dir.join("log/events")).ok();
    let header = fs::metadata(dir.join("plan.json")).ok();
    Some(RunInfo {
        id,
        created: header.as_ref().unwrap_or(&folder).modified().ok()?,
        changed: log.as_ref().unwrap_or(&folder).modified().ok()?,
        log_bytes: log.map_or(0, |l| l.len()),
        live: log::is_live(&dir.join("lock")),
        dir: dir.to_owned(),
    })
}
