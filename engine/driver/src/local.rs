//! Runs an attempt on the engine's machine: the stage's view of the world, and what its end means.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use headstart_core::{Prepared, RunState};
use headstart_disk::files::TempDir;
use headstart_disk::{Disk, FULL_HELP, REFUSED_HELP, is_full, is_refused};
use headstart_env::Env;
use headstart_protocol::declared::ProgramRef;
use headstart_protocol::expr::{Expr, Value};
use headstart_protocol::task::Usage;
use headstart_protocol::{
    Args, ArtifactRef, Context, Failure, FailureClass, Manifest, NumericRows, Progress, RowCache, kinds,
};
use headstart_runner::{Call, StageRegistry, TimeLimit};
use headstart_store::gc::InUse;
use headstart_store::{ContentError, StoreError, Workspace};

use crate::attempt_log::AttemptLog;
use crate::manifest_cache::ManifestCache;
use crate::message::{LocalTask, Message, Throttle};

/// Progress is passed on at most this often.
const PROGRESS: Duration = Duration::from_millis(100);

/// The attempt of an instance for a worker, without a key and a log. Nothing in its arguments is
/// private, so everything in them was resolved.
pub(crate) fn local_task(
    state: &RunState,
    instance: u32,
    fence: u64,
    prepared: &Prepared,
    threads: u32,
    source_dir: PathBuf,
) -> LocalTask {
    let value = |e: &Expr| match e {
        Expr::Value { value } => value.clone(),
        _ => Value::Absent,
    };
    let args = prepared.args.iter().map(|(name, e)| (name.clone(), value(e))).collect();
    let inst = state.instance(instance);
    LocalTask {
        instance,
        fence,
        name: inst.name.clone(),
        kind: inst.kind.clone(),
        program: state.plan().program(&inst.kind).map(|(p, _)| p.clone()),
        ty: state.plan().items[inst.item as usize].ty.clone(),
        args: Args(args),
        memory: inst.policy.memory,
        threads: threads as usize,
        timeout: inst.policy.timeout_ms.map(Duration::from_millis),
        source_dir,
        log: PathBuf::new(),
        key: None,
        control: Arc::default(),
    }
}

/// What a worker needs.
pub(crate) struct Executor {
    pub ws: Workspace,
    pub manifests: ManifestCache,
    pub stages: StageRegistry,
    pub env: Env,
}

impl Executor {
    /// Runs an attempt to its end and tells the conductor.
    pub(crate) fn run(&self, task: LocalTask, conductor: &Sender<Message>) {
        let clock = Arc::clone(&self.env.clock);
        let begun = clock.elapsed();
        let (instance, fence) = (task.instance, task.fence);
        let context = LocalContext {
            executor: self,
            task: &task,
            rows: NumericRows::new(self.ws.cache(), self.stages.numerics(&task.kind)),
            limit: TimeLimit::new(begun, task.timeout),
            scratch: OnceLock::new(),
            counters: Mutex::default(),
            throttle: Mutex::new(Throttle::new(PROGRESS)),
            conductor: Mutex::new(conductor.clone()),
            log: Mutex::new(AttemptLog::new(task.log.clone(), Arc::clone(self.ws.disk()))),
        };
        let (result, unchanged) = match self.attempt(&context) {
            // A source is read in every run; what it gives may be known.
            Ok((output, known, in_use)) => (Ok((output, in_use)), known && is_source(context.task)),
            Err(failure) => (Err(failure), false),
        };
        let counters = std::mem::take(&mut *context.counters.lock().unwrap_or_else(PoisonError::into_inner));
        drop(context);
        let usage =
            Usage { seconds: clock.elapsed().saturating_sub(begun).as_secs_f64(), counters, unchanged };
        // A conductor that is gone has nothing to commit to.
        let _ = conductor.send(Message::Finished { instance, fence, result, usage });
    }

    /// What the stage made, and whether the same was in the workspace before.
    fn attempt(&self, context: &LocalContext) -> Result<(ArtifactRef, bool, InUse), Failure> {
        let task = context.task;
        let program = task.program.as_ref().map(|p| ProgramRef::Planned(p, &task.source_dir));
        let found = self.stages.find(&task.kind, program)?;
        let call = Call { kind: &task.kind, ty: &task.ty, args: &task.args };
        let output = headstart_runner::run(found.stage(), call, context).map_err(|f| context.explain(f))?;
        let in_use = self.ws.in_use().map_err(store_failure)?;
        let imported = self.ws.artifacts().import_known(&output).map_err(store_failure)?;
        let (_, reference, known) = imported;
        Ok((reference, known, in_use))
    }
}

/// Whether an attempt reads what lies outside of the workspace, so that it is made in every run.
fn is_source(task: &LocalTask) -> bool {
    task.program.is_none() && kinds::find(&task.kind).is_some_and(|k| !k.cacheable)
}

/// What a failure of the store means for an attempt.
pub(crate) fn store_failure(e: impl Into<StoreError>) -> Failure {
    let e = e.into();
    if let Some(disk) = e.disk_error().filter(|e| e.source.kind() != std::io::ErrorKind::NotFound) {
        let message = e.to_string();
        return match &disk.source {
            full if is_full(full) => Failure::new(FailureClass::DiskFull, message).help(FULL_HELP),
            refused if is_refused(refused) => {
                Failure::new(FailureClass::Environment, message).help(REFUSED_HELP)
            }
            _ => Failure::new(FailureClass::Transient, message),
        };
    }
    let (class, help) = match &e {
        // What is damaged is as good as gone.
        StoreError::Content(
            ContentError::MissingBlob { .. }
            | ContentError::MissingArtifact(_)
            | ContentError::Damaged { .. },
        ) => (FailureClass::MissingArtifact, Some("run the stage that made it again")),
        _ => (FailureClass::Internal, None),
    };
    let failure = Failure::new(class, e.to_string());
    match help {
        Some(help) => failure.help(help),
        None => failure,
    }
}

struct LocalContext<'a> {
    executor: &'a Executor,
    task: &'a LocalTask,
    rows: NumericRows<'a>,
    limit: TimeLimit,
    /// Made when first asked for: many stages need none.
    scratch: OnceLock<Scratch>,
    counters: Mutex<BTreeMap<String, u64>>,
    throttle: Mutex<Throttle>,
    conductor: Mutex<Sender<Message>>,
    log: Mutex<AttemptLog>,
}

enum Scratch {
    Folder(TempDir),
    /// It could not be made; writing into it tells the stage so.
    Nowhere(PathBuf),
}

impl LocalContext<'_> {
    fn explain(&self, failure: Failure) -> Failure {
        let asked = self.task.control.cancel.load(Ordering::Acquire);
        self.limit.explain(&self.task.name, failure, asked, self.executor.env.clock.elapsed())
    }

    fn refuse_private(&self, artifact: &ArtifactRef) -> Result<(), Failure> {
        match &artifact.private_to {
            None => Ok(()),
            Some(device) => Err(Failure::new(
                FailureClass::Internal,
                format!(
                    "`{}` asked the engine for an artifact that is private to `{device}`",
                    self.task.name
                ),
            )),
        }
    }
}

impl Context for LocalContext<'_> {
    fn manifest(&self, artifact: &ArtifactRef) -> Result<Manifest, Failure> {
        self.refuse_private(artifact)?;
        match self.executor.manifests.get(&artifact.id).map_err(store_failure)? {
            Some(m) => Ok((*m).clone()),
            None => Err(store_failure(ContentError::MissingArtifact(artifact.id))),
        }
    }

    fn open(&self, artifact: &ArtifactRef) -> Result<PathBuf, Failure> {
        self.refuse_private(artifact)?;
        self.executor.ws.artifacts().materialize(&artifact.id).map_err(store_failure)
    }

    fn scratch(&self) -> &Path {
        let made = self.scratch.get_or_init(|| match self.executor.ws.scratch(&self.task.name) {
            Ok(dir) => Scratch::Folder(dir),
            Err(e) => {
                tracing::error!(stage = self.task.name, error = %e, "no scratch folder");
                Scratch::Nowhere(self.executor.ws.dir().join("scratch").join("could-not-be-created"))
            }
        });
        match made {
            Scratch::Folder(dir) => dir.path(),
            Scratch::Nowhere(path) => path,
        }
    }

    fn resume_dir(&self) -> Option<PathBuf> {
        let key = self.task.key?;
        self.task.control.keeps.store(true, Ordering::Release);
        Some(self.executor.ws.resume_dir(&key))
    }

    fn disk(&self) -> &dyn Disk {
        &**self.executor.ws.disk()
    }

    fn path(&self, path: &str) -> PathBuf {
        self.task.source_dir.join(path)
    }

    fn rows(&self) -> &dyn RowCache {
        &self.rows
    }

    fn progress(&self, progress: Progress) {
        let last = progress.total == Some(progress.done);
        let due = self
            .throttle
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pass(self.executor.env.clock.elapsed());
        if due || last {
            let message =
                Message::Progress { instance: self.task.instance, fence: self.task.fence, progress };
            // Nobody may be listening to progress any more.
            let _ = self.conductor.lock().unwrap_or_else(PoisonError::into_inner).send(message);
        }
    }

    fn count(&self, counter: &str, n: u64) {
        let mut counters = self.counters.lock().unwrap_or_else(PoisonError::into_inner);
        match counters.get_mut(counter) {
            Some(known) => *known += n,
            None => drop(counters.insert(counter.to_owned(), n)),
        }
    }

    fn log(&self, line: &str) {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).line(line);
    }

    fn cancelled(&self) -> bool {
        self.task.control.cancel.load(Ordering::Acquire)
            || self.limit.passed(self.executor.env.clock.elapsed())
    }

    fn threads(&self) -> usize {
        self.task.threads
    }

    fn memory(&self) -> Option<u64> {
        self.task.memory
    }
}
