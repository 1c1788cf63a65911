//! What a stage may do while it runs on a device.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use headstart_disk::Disk;
use headstart_env::Clock;
use headstart_protocol::expr::{Manifests, ResolveError};
use headstart_protocol::{
    ArtifactRef, Context, Digest, Failure, FailureClass, Manifest, NumericRows, Progress, RowCache,
};

use crate::gate::{Admitted, Gate};
use crate::store::{Store, missing};

/// How soon a pause notices that the attempt is cancelled.
const NOTICE: Duration = Duration::from_millis(100);

/// What the runner and a running attempt tell each other.
#[derive(Default)]
pub struct Control {
    cancelled: AtomicBool,
    public: AtomicBool,
    phase: Mutex<Phase>,
    admitted: OnceLock<Admitted>,
    progress: Mutex<Option<Progress>>,
    /// The handle that was promised for the result of a task that was taken over.
    promised: Option<Digest>,
}

/// How far an attempt came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Nothing private was looked at yet: how it ends here depends on the task, on what the engine sends
    /// and on what the owner allows.
    #[default]
    Checking,
    /// Its arguments are being resolved. From here on how it ends may depend on private values.
    Resolving,
    /// It was not run, because an input failed.
    Blocked,
    /// It was not run, because it failed too often before.
    Quarantined,
    /// It was taken over: the device works on it later.
    TakenOver,
    /// The stage ran.
    Running,
}

impl Control {
    /// That of a task that was taken over.
    pub(crate) fn taken_over(promised: Digest) -> Self {
        Self { promised: Some(promised), ..Self::default() }
    }

    /// The handle of whatever comes of the attempt, where that was promised.
    pub(crate) fn promised(&self) -> Option<Digest> {
        self.promised
    }

    /// Asks the attempt to stop soon.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }

    /// Whether the attempt was asked to stop.
    pub fn cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }

    /// How far the attempt came.
    pub fn phase(&self) -> Phase {
        *self.phase.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn enter(&self, phase: Phase) {
        *self.phase.lock().unwrap_or_else(PoisonError::into_inner) = phase;
    }

    /// The attempt needs no more than its device's owner approved.
    pub(crate) fn admit(&self, admitted: Admitted) {
        // Decided once.
        let _ = self.admitted.set(admitted);
    }

    pub(crate) fn admitted(&self) -> Option<&Admitted> {
        self.admitted.get()
    }

    /// Whether everything that the attempt depends on was proven to be public. Until then it is treated
    /// as private.
    pub fn is_public(&self) -> bool {
        self.public.load(Ordering::Acquire)
    }

    pub(crate) fn proven_public(&self) {
        self.public.store(true, Ordering::Release);
    }

    /// How far the attempt said it is, in so far as the engine may know: nothing of one that is not
    /// proven public.
    pub fn public_progress(&self) -> Option<Progress> {
        let progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner).clone();
        progress.filter(|_| self.is_public())
    }

    /// Waits, but not once the attempt is cancelled.
    pub(crate) async fn pause(&self, clock: &dyn Clock, mut left: Duration) {
        while !left.is_zero() && !self.cancelled() {
            let step = left.min(NOTICE);
            clock.sleep(step).await;
            left -= step;
        }
    }

    fn report(&self, progress: Progress) {
        *self.progress.lock().unwrap_or_else(PoisonError::into_inner) = Some(progress);
    }
}

/// The [`Context`] of one attempt on a device.
pub struct DeviceContext<'a> {
    /// Where its artifacts are.
    pub store: &'a Store,
    /// The folder that paths of the pipeline lie in; nothing outside it can be named.
    pub data: &'a Path,
    /// The state folder, which no path may name even where it lies inside `data`.
    pub state: &'a Path,
    /// Whether the attempt may touch what is private.
    pub private: bool,
    /// What guards private data; none where the owner runs a task by hand.
    pub(crate) gate: Option<&'a Gate>,
    /// An empty folder of this attempt.
    pub scratch: PathBuf,
    /// Where it keeps its progress for a later attempt at the same thing.
    pub resume: PathBuf,
    /// The row cache.
    pub rows: NumericRows<'a>,
    /// The link to the runner.
    pub control: &'a Control,
    /// Threads that the stage may use.
    pub threads: usize,
    /// Bytes of memory that the stage may use.
    pub memory: Option<u64>,
    /// Rows below which no number leaves the device.
    pub least_rows: usize,
    /// What the stage counted.
    pub counters: Mutex<BTreeMap<String, u64>>,
    /// The first thing that the stage tried and may not do. It fails the attempt, whatever the
    /// stage makes of it.
    pub refused: Mutex<Option<Failure>>,
    /// Public attempts that run beside it.
    pub(crate) public_work: &'a AtomicUsize,
}

impl DeviceContext<'_> {
    fn refuse(&self, failure: Failure) -> Failure {
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        refused.get_or_insert(failure).clone()
    }

    fn check(&self, artifact: &ArtifactRef) -> Result<(), Failure> {
        if artifact.private_to.is_none() || self.private {
            return Ok(());
        }
        Err(self
            .refuse(Failure::input("a stage that the engine calls public may not read a private artifact")))
    }

    fn inside_data(&self, path: &str) -> Result<PathBuf, Failure> {
        if !self.private {
            let m =
                format!("{path:?}: a stage that the engine calls public may not read this device's files");
            return Err(Failure::input(m));
        }
        inside(self.data, self.state, path)
    }
}

impl Context for DeviceContext<'_> {
    fn manifest(&self, artifact: &ArtifactRef) -> Result<Manifest, Failure> {
        self.check(artifact)?;
        self.store.manifest(artifact)
    }

    fn open(&self, artifact: &ArtifactRef) -> Result<PathBuf, Failure> {
        self.check(artifact)?;
        let guarded = self.gate.zip(self.control.admitted()).filter(|_| self.private);
        let Some((gate, admitted)) = guarded else { return self.store.materialize(artifact) };
        let manifest = self.store.manifest(artifact)?;
        if artifact.private_to.is_none() {
            let opens = gate.opens(admitted, &self.store.public, artifact, &manifest);
            opens.map_err(|failure| self.refuse(failure))?;
            return self.store.materialize(artifact);
        }
        let folder = self.store.materialize(artifact)?;
        gate.opens_own(admitted, &folder, &manifest).map_err(|failure| self.refuse(failure))?;
        Ok(folder)
    }

    fn scratch(&self) -> &Path {
        &self.scratch
    }

    fn resume_dir(&self) -> Option<PathBuf> {
        Some(self.resume.clone())
    }

    fn disk(&self) -> &dyn Disk {
        self.store.disk()
    }

    fn path(&self, path: &str) -> PathBuf {
        self.inside_data(path).unwrap_or_else(|failure| {
            self.refuse(failure);
            self.scratch.join("refused-path")
        })
    }

    fn rows(&self) -> &dyn RowCache {
        &self.rows
    }

    fn progress(&self, progress: Progress) {
        self.control.report(progress);
    }

    fn count(&self, counter: &str, n: u64) {
        let mut counters = self.counters.lock().unwrap_or_else(PoisonError::into_inner);
        *counters.entry(counter.to_owned()).or_default() += n;
    }

    fn log(&self, line: &str) {
        tracing::info!(target: "program", "{line}");
    }

    fn cancelled(&self) -> bool {
        self.control.cancelled()
    }

    fn paused(&self) -> bool {
        self.control.promised.is_some() && self.public_work.load(Ordering::Acquire) > 0
    }

    fn threads(&self) -> usize {
        self.threads
    }

    fn memory(&self) -> Option<u64> {
        self.memory
    }

    fn is_private(&self) -> bool {
        self.private
    }

    fn least_rows(&self) -> usize {
        self.least_rows
    }
}

/// Where a path of a pipeline lies: below the data folder, and not in the state folder.
///
/// # Errors
/// [`headstart_protocol::FailureClass::Input`] where it leads elsewhere.
pub fn inside(data: &Path, state: &Path, path: &str) -> Result<PathBuf, Failure> {
    let outside = |why: &str| {
        Failure::input(format!("{path:?} {why}, and stages may read only what lies in the data folder"))
            .help("name the file relative to the folder given with --data")
    };
    let mut plain = PathBuf::new();
    for part in Path::new(path).components() {
        match part {
            Component::Normal(p) => plain.push(p),
            Component::CurDir => {}
            Component::ParentDir if plain.pop() => {}
            Component::ParentDir => return Err(outside("leads out of the data folder")),
            Component::RootDir | Component::Prefix(_) => return Err(outside("is an absolute path")),
        }
    }
    let at = data.join(plain);
    // Symbolic links are followed here; of a file that is not there, the folder is checked.
    let real = at.ancestors().find_map(|a| a.canonicalize().ok()).unwrap_or_default();
    if !real.starts_with(data) {
        return Err(outside("leads out of the data folder through a symbolic link"));
    }
    if real.starts_with(state) {
        return Err(outside("lies in this device's state folder"));
    }
    Ok(at)
}

/// Gives artifacts on this device to [`headstart_protocol::expr::resolve`].
pub struct LocalManifests<'a> {
    /// The artifacts.
    pub store: &'a Store,
    /// The device's name: what is private to another one is not here.
    pub device: &'a str,
}

impl Manifests for LocalManifests<'_> {
    fn manifest(&self, artifact: &ArtifactRef) -> Result<Manifest, ResolveError> {
        Ok(self.store.manifest(artifact)?)
    }

    /// With the real type of a private artifact: only here an absent one is told apart.
    fn local(&self, artifact: &ArtifactRef) -> Result<ArtifactRef, ResolveError> {
        let Some(owner) = &artifact.private_to else { return Ok(artifact.clone()) };
        if owner != self.device {
            return Err(foreign(owner).into());
        }
        let held = self.store.private.get(&artifact.id).ok_or_else(|| missing(artifact))?;
        match &held.failure {
            Some(failure) => Err(ResolveError::InputFailed(blocked(&held.name, failure))),
            None if held.waits => Err(ResolveError::InputFailed(never_made(&held.name))),
            None => Ok(ArtifactRef { ty: held.ty(), ..artifact.clone() }),
        }
    }
}

/// The task reads what is private to another device.
pub fn foreign(owner: &str) -> Failure {
    Failure::input(format!("the task reads what is private to device {owner:?}"))
}

/// A result whose task was taken over before, and left the queue without one.
fn never_made(name: &str) -> Failure {
    let m = format!("{INPUT_FAILED}`{name}`: its task was interrupted, or its result could not be kept");
    Failure::new(FailureClass::MissingArtifact, m)
        .help("`headstart-device retry` has the engine ask for it again")
}

/// What is told of a task whose input failed: the first cause, however far back.
fn blocked(name: &str, failure: &Failure) -> Failure {
    let message = match failure.message.strip_prefix(INPUT_FAILED) {
        Some(first) => format!("{INPUT_FAILED}{first}"),
        None => format!("{INPUT_FAILED}`{name}`: {}", failure.message),
    };
    Failure { message, ..failure.clone() }
}

const INPUT_FAILED: &str = "not run, because an input failed: ";

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use headstart_disk::SystemDisk;

    use super::*;
    use crate::rows::{RowView, Rows};
    use crate::state::State;

    fn try_path(data: &Path, private: bool, path: &str) -> Result<PathBuf, Failure> {
        let state = tempfile::tempdir().expect("tempdir");
        let opened = State::open(state.path(), Arc::new(SystemDisk)).expect("opens");
        let rows = Rows::new(state.path().join("rows"), Arc::new(SystemDisk));
        let view = RowView { public: &rows, private: None };
        let ctx = DeviceContext {
            store: &Store::open(&opened).expect("opens"),
            data,
            state: &data.join(".headstart-device"),
            private,
            gate: None,
            scratch: state.path().to_owned(),
            resume: state.path().join("resume"),
            rows: NumericRows::new(&view, None),
            control: &Control::default(),
            threads: 1,
            memory: None,
            least_rows: 0,
            counters: Mutex::default(),
            refused: Mutex::default(),
            public_work: &AtomicUsize::new(0),
        };
        let at = ctx.path(path);
        match ctx.refused.into_inner().expect("not poisoned") {
            None => Ok(at),
            Some(failure) => {
                assert!(!at.starts_with(data) && !at.exists(), "a refused path names nothing");
                Err(failure)
            }
        }
    }

    #[test]
    fn paths_stay_inside_the_data_folder() {
        let dir = tempfile::tempdir().expect("tempdir");
        let data = dir.path().canonicalize().expect("real").join("data");
        std::fs::create_dir_all(data.join("sub")).expect("folders");
        std::fs::create_dir_all(data.join(".headstart-device")).expect("folders");
        std::fs::write(data.join("me.jsonl"), "{}").expect("writes");
        std::fs::write(dir.path().join("other.txt"), "secret").expect("writes");
        for good in ["me.jsonl", "./me.jsonl", "sub/../me.jsonl", "sub/not-yet.jsonl", "."] {
            assert!(try_path(&data, true, good).expect(good).starts_with(&data), "{good}");
        }
        let mut bad = vec!["../other.txt", "sub/../../other.txt", "/etc/passwd", ".headstart-device/secret"];
        #[cfg(unix)]
        {
            std::os::unix::fs::symlink(dir.path(), data.join("link")).expect("link");
            bad.extend(["link/other.txt", "link/data/../not-there.txt"]);
        }
        for bad in bad {
            let failure = try_path(&data, true, bad).expect_err(bad);
            assert!(failure.message.contains(bad), "{}", failure.message);
        }
        assert!(try_path(&data, false, "me.jsonl").is_err(), "a public stage reads no files");
    }
}
