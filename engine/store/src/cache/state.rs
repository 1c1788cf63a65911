//! What all clones of a cache share: the segments, and what is to be folded into the database.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use headstart_disk::{Disk, DiskError, DiskFile, files};
use headstart_protocol::Digest;

use super::claims::Claims;
use super::records::Record;
use super::segment::entry::{self, Hash};
use super::segment::frame::Kind;
use super::segment::own::Own;
use super::segment::set::{Segment, Set, later};

/// How long what was found may be used before what other processes wrote is looked at. What is not found is
/// always looked for again.
const FRESH: Duration = Duration::from_millis(100);

/// What all clones share.
pub(crate) struct Shared {
    /// The database.
    pub(crate) database: PathBuf,
    /// The folder of the segments.
    pub(crate) dir: PathBuf,
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) claims: Arc<Claims>,
    /// Set once the entries of a cache of an earlier version are taken over.
    imported: OnceLock<()>,
    entries: Mutex<Entries>,
    /// Held while syncing, so that later calls wait for what was taken before.
    syncing: Mutex<()>,
    /// Rows of the index that are not in the database.
    pub(crate) records: Mutex<Vec<Record>>,
    warmer: Mutex<Option<JoinHandle<()>>>,
}

/// The entries of the cache, as this process sees them.
pub(crate) struct Entries {
    dir: PathBuf,
    disk: Arc<dyn Disk>,
    ready: bool,
    pub(crate) set: Set,
    pub(crate) own: Option<Own>,
    /// Stages that could not be written.
    unsaved: BTreeMap<Digest, (Kind, Vec<u8>)>,
    /// Segments with entries that are not on disk.
    unsynced: Vec<Arc<dyn DiskFile>>,
    /// Whether names in the folder are not on disk.
    unnamed: bool,
    refreshed: Option<Instant>,
    /// Whether entries were put since the last fold.
    pub(crate) unfolded: bool,
    /// Whether it was said that entries cannot be written.
    said: bool,
}

impl Shared {
    pub(crate) fn new(workspace: &Path, disk: Arc<dyn Disk>) -> Self {
        let dir = workspace.join("cache");
        let entries = Entries {
            dir: dir.clone(),
            disk: Arc::clone(&disk),
            ready: false,
            set: Set::new(dir.clone()),
            own: None,
            unsaved: BTreeMap::new(),
            unsynced: Vec::new(),
            unnamed: false,
            refreshed: None,
            unfolded: false,
            said: false,
        };
        Self {
            database: workspace.join("cache.duckdb"),
            claims: Arc::new(Claims::new(workspace, Arc::clone(&disk))),
            dir,
            disk,
            imported: OnceLock::new(),
            entries: Mutex::new(entries),
            syncing: Mutex::default(),
            records: Mutex::default(),
            warmer: Mutex::default(),
        }
    }

    /// The entries. Those of a cache of an earlier version are taken over first.
    pub(crate) fn entries(&self) -> MutexGuard<'_, Entries> {
        self.imported.get_or_init(|| self.import_earlier());
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        if !std::mem::replace(&mut entries.ready, true) {
            entries.refresh();
        }
        entries
    }

    /// Opens the segments on a thread, once.
    pub(crate) fn warm(self: &Arc<Self>) {
        let mut warmer = self.warmer.lock().unwrap_or_else(PoisonError::into_inner);
        if warmer.is_none() {
            let shared = Arc::clone(self);
            let thread = std::thread::Builder::new().name("cache warm-up".to_owned());
            // Without the thread they are opened at first use.
            *warmer = thread.spawn(move || drop(shared.entries())).ok();
        }
    }

    /// Makes everything durable that was put before the call.
    ///
    /// # Errors
    /// If the disk cannot take it; what was put is then tried again with the next call.
    pub(crate) fn sync(&self) -> Result<(), DiskError> {
        let _one_at_a_time = self.syncing.lock().unwrap_or_else(PoisonError::into_inner);
        let (files, unnamed) = {
            let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
            entries.save_unsaved()?;
            (std::mem::take(&mut entries.unsynced), std::mem::take(&mut entries.unnamed))
        };
        let sync = || -> Result<(), DiskError> {
            files.iter().try_for_each(|f| f.sync_data()).map_err(DiskError::at("write", &self.dir))?;
            if unnamed {
                files::sync_dir(&*self.disk, &self.dir)?;
                files::sync_dir(&*self.disk, files::folder_of(&self.dir))?;
            }
            Ok(())
        };
        let outcome = sync();
        if outcome.is_err() {
            let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
            entries.unsynced.extend(files);
            entries.unnamed |= unnamed;
        }
        outcome
    }

    /// Syncs, and seals what this process appended to.
    pub(crate) fn stop(&self) {
        let warmer = self.warmer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = warmer {
            // If it panicked, what it would have opened is opened by the next process.
            let _ = thread.join();
        }
        if let Err(e) = self.sync() {
            tracing::warn!("{e}; entries of the cache may be lost if the system stops now");
        }
        self.entries.lock().unwrap_or_else(PoisonError::into_inner).seal();
    }
}

impl Entries {
    /// Takes in what other processes wrote.
    pub(crate) fn refresh(&mut self) {
        let own = self.own.as_ref().map(|own| own.segment.name().to_owned());
        self.set.refresh(own.as_deref());
        self.refreshed = Some(Instant::now());
    }

    /// The same, if it was not done just now.
    pub(crate) fn refresh_if_old(&mut self) {
        if self.refreshed.is_none_or(|at| at.elapsed() > FRESH) {
            self.refresh();
        }
    }

    /// Segments were made or removed: they are to be looked at again.
    pub(crate) fn changed(&mut self) {
        self.set.changed();
        self.refreshed = None;
    }

    /// Calls `each` with every entry of a hash until it breaks.
    pub(crate) fn each(
        &mut self,
        hash: &Hash,
        buffer: &mut Vec<u8>,
        mut each: impl FnMut(Kind, &[u8]) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        if let Some(own) = &mut self.own
            && let Some(kind) = own.segment.read(hash, buffer)
        {
            each(kind, buffer)?;
        }
        self.set.each(hash, buffer, each)
    }

    /// The newest frame about a stage.
    pub(crate) fn stage(&mut self, key: &Digest, buffer: &mut Vec<u8>) -> Option<(Kind, Vec<u8>)> {
        if let Some(unsaved) = self.unsaved.get(key) {
            return Some(unsaved.clone());
        }
        let mut newest: Option<(Kind, Vec<u8>)> = None;
        let _all = self.each(&entry::stage_hash(key), buffer, |kind, body| {
            if body.starts_with(&key.0) && later(kind, body, newest.as_ref()) {
                newest = Some((kind, body.to_vec()));
            }
            ControlFlow::Continue(())
        });
        newest
    }

    /// A time for a new entry about a stage: now, and later than what is known about it.
    pub(crate) fn time_for(&mut self, key: &Digest) -> i64 {
        let micros = std::time::UNIX_EPOCH.elapsed().map_or(0, |d| d.as_micros());
        let now = i64::try_from(micros).unwrap_or(i64::MAX);
        let known = self.stage(key, &mut Vec::new()).and_then(|(kind, body)| entry::added_of(kind, &body));
        known.map_or(now, |known| now.max(known.saturating_add(1)))
    }

    /// Puts an entry about a stage. Where it cannot be written, it is kept in memory, and tried again when the
    /// cache is synced.
    pub(crate) fn put_stage(&mut self, key: &Digest, kind: Kind, body: Vec<u8>) {
        self.unsaved.remove(key);
        let frame = [(kind, body)];
        if let Err(e) = self.append(&frame) {
            self.complain(&e);
            let [frame] = frame;
            self.unsaved.insert(*key, frame);
        }
    }

    /// Puts rows. Where they cannot be written, they are computed again when they are needed.
    pub(crate) fn put_rows(&mut self, rows: &[(Kind, Vec<u8>)]) {
        if let Err(e) = self.append(rows) {
            self.complain(&e);
        }
    }

    fn complain(&mut self, why: &DiskError) {
        if !std::mem::replace(&mut self.said, true) {
            tracing::warn!("{why}; the cache does not keep what is computed now");
        }
    }

    fn save_unsaved(&mut self) -> Result<(), DiskError> {
        while let Some((key, frame)) = self.unsaved.pop_first() {
            let frame = [frame];
            if let Err(e) = self.append(&frame) {
                let [frame] = frame;
                self.unsaved.insert(key, frame);
                return Err(e);
            }
        }
        Ok(())
    }

    /// Appends entries to this process's segment; where that fails, to a new one.
    fn append(&mut self, frames: &[(Kind, Vec<u8>)]) -> Result<(), DiskError> {
        if let Some(own) = &mut self.own {
            match own.append(frames) {
                Ok(()) => {
                    self.appended();
                    return Ok(());
                }
                // What is in it stays; nobody knows what follows.
                Err(e) => {
                    tracing::debug!("{e}; a new segment is begun");
                    self.retire();
                }
            }
        }
        let disk = Arc::clone(&self.disk);
        files::create_dir(&*disk, &self.dir)?;
        let mut own = Own::create(&*disk, &self.dir)?;
        self.unnamed = true;
        let appended = own.append(frames);
        self.own = Some(own);
        match appended {
            Ok(()) => self.appended(),
            Err(_) => self.retire(),
        }
        appended
    }

    fn appended(&mut self) {
        self.unfolded = true;
        let Some(own) = &self.own else { return };
        if !self.unsynced.iter().any(|f| Arc::ptr_eq(f, own.file())) {
            self.unsynced.push(Arc::clone(own.file()));
        }
        if own.is_long() {
            self.seal();
        }
    }

    /// Ends this process's segment with the index beside it.
    pub(crate) fn seal(&mut self) {
        let Some(own) = self.own.take() else { return };
        let path = own.segment.path().to_owned();
        let disk = Arc::clone(&self.disk);
        match own.seal(&*disk) {
            Ok(segment) => self.set.segments().push(segment),
            Err(e) => {
                tracing::debug!("{e}; another process seals it");
                self.set.segments().extend(Segment::open(&path).ok().flatten());
            }
        }
    }

    /// Appends to this process's segment no more. It stays locked until what is in it is synced.
    fn retire(&mut self) {
        if let Some(own) = self.own.take() {
            self.set.segments().push(own.segment);
        }
    }
}
