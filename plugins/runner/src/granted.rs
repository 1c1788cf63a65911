//! A context that remembers which folders and files it gave to a stage.

use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use headstart_disk::Disk;
use headstart_protocol::{ArtifactRef, Context, Failure, Manifest, Progress, RowCache};

/// Passes everything on, and remembers what the stage may put into its output.
pub(crate) struct Granted<'a> {
    inner: &'a dyn Context,
    given: Mutex<Vec<PathBuf>>,
    scratch_used: AtomicBool,
    resume_used: AtomicBool,
}

impl<'a> Granted<'a> {
    pub(crate) fn new(inner: &'a dyn Context) -> Self {
        let unused = || AtomicBool::new(false);
        Self { inner, given: Mutex::default(), scratch_used: unused(), resume_used: unused() }
    }

    /// Whether a file, or what it is a link to, lies in a folder that was given. Links inside such a
    /// folder belong to the caller.
    pub(crate) fn is_given(&self, at: &Path, real: &Path) -> bool {
        let given = self.given.lock().unwrap_or_else(PoisonError::into_inner);
        let inside = |g: &Path| {
            let below = at.strip_prefix(g);
            below.is_ok_and(|rest| rest.components().all(|part| matches!(part, Component::Normal(_))))
        };
        given.iter().any(|g| inside(g) || g.canonicalize().is_ok_and(|g| real.starts_with(g)))
    }

    /// The folders that the stage can write, of those that it asked for: contexts make them only then.
    pub(crate) fn written(&self) -> Vec<PathBuf> {
        let used = |flag: &AtomicBool| flag.load(Ordering::Acquire);
        let scratch = used(&self.scratch_used).then(|| self.inner.scratch().to_owned());
        let resume = used(&self.resume_used).then(|| self.inner.resume_dir()).flatten();
        scratch.into_iter().chain(resume).collect()
    }

    fn give(&self, at: PathBuf) -> PathBuf {
        self.given.lock().unwrap_or_else(PoisonError::into_inner).push(at.clone());
        at
    }
}

impl Context for Granted<'_> {
    fn manifest(&self, artifact: &ArtifactRef) -> Result<Manifest, Failure> {
        self.inner.manifest(artifact)
    }

    fn open(&self, artifact: &ArtifactRef) -> Result<PathBuf, Failure> {
        self.inner.open(artifact).map(|at| self.give(at))
    }

    fn disk(&self) -> &dyn Disk {
        self.inner.disk()
    }

    fn scratch(&self) -> &Path {
        self.scratch_used.store(true, Ordering::Release);
        self.inner.scratch()
    }

    fn resume_dir(&self) -> Option<PathBuf> {
        self.resume_used.store(true, Ordering::Release);
        self.inner.resume_dir()
    }

    fn path(&self, path: &str) -> PathBuf {
        self.give(self.inner.path(path))
    }

    fn rows(&self) -> &dyn RowCache {
        self.inner.rows()
    }

    fn progress(&self, progress: Progress) {
        self.inner.progress(progress);
    }

    fn count(&self, counter: &str, n: u64) {
        self.inner.count(counter, n);
    }

    fn log(&self, line: &str) {
        self.inner.log(line);
    }

    fn paused(&self) -> bool {
        self.inner.paused()
    }

    fn cancelled(&self) -> bool {
        self.inner.cancelled()
    }

    fn threads(&self) -> usize {
        self.inner.threads()
    }

    fn memory(&self) -> Option<u64> {
        self.inner.memory()
    }

    fn is_private(&self) -> bool {
        self.inner.is_private()
    }

    fn least_rows(&self) -> usize {
        self.inner.least_rows()
    }
}
