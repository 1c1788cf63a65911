//! Reads a whole workspace and says what of it is damaged; repairs what can be repaired.

use std::path::{Path, PathBuf};

use headstart_content::{Damaged, Incomplete, Verification};
use headstart_disk::Mode;
use headstart_disk::{files, read};

use crate::cache::{CacheRepairs, DamagedCache};
use crate::error::StoreError;
use crate::log;
use crate::workspace::Workspace;

/// What reading a workspace found.
#[derive(Clone, Debug)]
pub struct Report {
    /// Contents and artifacts.
    pub contents: Verification,
    /// Runs that were read.
    pub runs: u64,
    /// Runs of which something is damaged.
    pub damaged_runs: Vec<DamagedRun>,
    /// Files of the cache that are damaged.
    pub cache: Vec<DamagedCache>,
}

/// A run of which something is damaged.
#[derive(Clone, Debug, PartialEq)]
pub struct DamagedRun {
    /// The run.
    pub id: String,
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub why: String,
    /// The offset at which an event log is damaged; everything before it is intact.
    pub offset: Option<u64>,
}

/// What was done about damage.
#[derive(Clone, Debug, Default)]
pub struct Repairs {
    /// Files that were removed, so that they are made again where they are needed.
    pub removed: Vec<PathBuf>,
    /// Event logs that were cut, and where the damaged ones are kept.
    pub cut: Vec<Cut>,
    /// What was done about the cache.
    pub cache: CacheRepairs,
    /// What cannot be repaired.
    pub left: Vec<DamagedRun>,
}

/// An event log that was cut.
#[derive(Clone, Debug)]
pub struct Cut {
    /// The run.
    pub id: String,
    /// Bytes that are left.
    pub kept: u64,
    /// Bytes that were cut off.
    pub lost: u64,
    /// A copy of the log as it was.
    pub copy: PathBuf,
}

impl Report {
    /// Whether everything is as it should be. Content that is missing is not: where it is needed, it is made
    /// again.
    pub fn is_intact(&self) -> bool {
        self.contents.damaged.is_empty() && self.damaged_runs.is_empty() && self.cache.is_empty()
    }

    /// Contents and manifests that are damaged.
    pub fn damaged(&self) -> &[Damaged] {
        &self.contents.damaged
    }

    /// Artifacts of which content is missing.
    pub fn incomplete(&self) -> &[Incomplete] {
        &self.contents.incomplete
    }
}

impl Workspace {
    /// Reads everything: contents, artifacts, runs and the cache. `each` is told how
    /// many files were read. A run that an engine is executing is read as far as it is.
    ///
    /// # Errors
    /// [`StoreError`] where a folder cannot be read.
    pub fn verify(&self, each: impl FnMut(u64)) -> Result<Report, StoreError> {
        let contents = self.artifacts().verify(each)?;
        let runs = self.runs();
        let damaged_runs = runs.iter().flat_map(|run| damage_of(&run.id, &run.dir)).collect();
        let cache = self.cache().damage();
        Ok(Report { contents, runs: runs.len() as u64, damaged_runs, cache })
    }

    /// Repairs what a report names: removes damaged contents, cuts damaged event logs after their last intact
    /// record and keeps a copy of each, and makes damaged files of the cache again: the database from the
    /// segments, and segments from what is intact in them and in the database.
    ///
    /// # Errors
    /// [`StoreError`] where something cannot be removed or written, or an engine is executing a run whose log
    /// is damaged.
    pub fn repair(&self, report: &Report) -> Result<Repairs, StoreError> {
        let mut repairs = Repairs::default();
        self.artifacts().remove_damaged(report.damaged())?;
        repairs.removed.extend(report.damaged().iter().map(|d| d.path.clone()));
        for run in &report.damaged_runs {
            match run.offset {
                Some(offset) => repairs.cut.push(self.cut(run, offset)?),
                None => repairs.left.push(run.clone()),
            }
        }
        let failed = |why| StoreError::damaged(self.cache().path(), why);
        repairs.cache = self.cache().repair(&report.cache).map_err(failed)?;
        Ok(repairs)
    }

    fn cut(&self, run: &DamagedRun, offset: u64) -> Result<Cut, StoreError> {
        let disk = &**self.disk();
        let _ours = log::Lock::take(disk, &self.run_dir(&run.id)?.join("lock"), &run.id)?;
        let bytes = log::bytes(&run.path)?;
        let kept = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
        let copy = free_name(&run.path);
        files::write_atomic(disk, &copy, &bytes, Mode::Normal)?;
        files::write_atomic(disk, &run.path, &bytes[..kept], Mode::Normal)?;
        let lost = (bytes.len() - kept) as u64;
        Ok(Cut { id: run.id.clone(), kept: kept as u64, lost, copy })
    }
}

/// A name beside the log that nothing has.
fn free_name(path: &Path) -> PathBuf {
    let names = (1..).map(|n| path.with_file_name(format!("events.damaged-{n}")));
    names.into_iter().find(|p| !p.exists()).expect("numbers do not end")
}

/// What of a run is damaged.
fn damage_of(id: &str, dir: &Path) -> Vec<DamagedRun> {
    let mut found = Vec::new();
    let mut damaged = |path: &Path, why: String, offset| {
        found.push(DamagedRun { id: id.to_owned(), path: path.to_owned(), why, offset });
    };
    let plan = dir.join("plan.json");
    match read::whole(&plan, read::FACTS).map(|bytes| serde_json::from_slice::<serde::de::IgnoredAny>(&bytes))
    {
        Err(e) => damaged(&plan, format!("cannot be read: {e}"), None),
        Ok(Err(e)) => damaged(&plan, format!("not understood: {e}"), None),
        Ok(Ok(_)) => {}
    }
    let events = dir.join("log/events");
    match log::check(&events) {
        Ok(()) => {}
        // Before the first record there is nothing to keep.
        Err(StoreError::CorruptLog { offset, why, .. }) if offset > 0 => {
            damaged(&events, format!("damaged at byte {offset}: {why}"), Some(offset));
        }
        Err(StoreError::CorruptLog { why, .. }) => damaged(&events, why, None),
        Err(e) => damaged(&events, e.to_string(), None),
    }
    found
}
