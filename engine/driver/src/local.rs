//! Runs an attempt on the engine's machine: the stage's view of the world, and what its end means.

use std::any::Any;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use headstart_core::{Prepared, RunState};
use headstart_protocol::declared::Programs;
use headstart_protocol::expr::{Expr, Value};
use headstart_protocol::stage::Progress;
use headstart_protocol::task::Usage;
use headstart_protocol::{Args, ArtifactRef, Context, Failure, FailureClass, Manifest, RowCache, Stage};
use headstart_store::{Cache, StoreError, Workspace};

use crate::attempt_log::AttemptLog;
use crate::message::{LocalTask, Message, Throttle};
use crate::shelf::Shelf;

/// Progress is passed on at most this often.
const PROGRESS: Duration = Duration::from_millis(100);

/// Stages by kind.
pub(crate) type Registry = BTreeMap<String, Box<dyn Stage>>;

/// The attempt of an instance for a worker, without a key and a log. Nothing in its arguments is
/// private, so everything in them was resolved.
pub(crate) fn local_task(
    state: &RunState,
    instance: u32,
    fence: u64,
    prepared: &Prepared,
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
    pub shelf: Shelf,
    pub stages: Arc<Registry>,
    /// Runs stages of users' own programs, where the engine does.
    pub programs: Arc<OnceLock<Arc<dyn Programs>>>,
    /// Threads that a stage may use.
    pub threads: usize,
}

impl Executor {
    /// Runs an attempt to its end and tells the conductor.
    pub(crate) fn run(&self, task: LocalTask, conductor: &Sender<Message>) {
        let begun = Instant::now();
        let (instance, fence) = (task.instance, task.fence);
        let context = LocalContext {
            executor: self,
            task: &task,
            deadline: task.timeout.map(|t| begun + t),
            scratch: OnceLock::new(),
            counters: Mutex::default(),
            throttle: Mutex::new(Throttle::new(PROGRESS)),
            conductor: Mutex::new(conductor.clone()),
            log: Mutex::new(AttemptLog::new(task.log.clone())),
        };
        let result = self.attempt(&context);
        let counters = std::mem::take(&mut *context.counters.lock().unwrap_or_else(PoisonError::into_inner));
        drop(context);
        let usage = Usage { seconds: begun.elapsed().as_secs_f64(), counters };
        // A conductor that is gone has nothing to commit to.
        let _ = conductor.send(Message::Finished { instance, fence, result, usage });
    }

    fn attempt(&self, context: &LocalContext) -> Result<ArtifactRef, Failure> {
        let task = context.task;
        let of_program = self.of_program(task)?;
        let built_in = || self.stages.get(task.kind.as_str()).map(AsRef::as_ref);
        let Some(stage) = of_program.as_deref().or_else(built_in) else {
            let message = format!("no stage of kind `{}` is built in", task.kind);
            return Err(Failure::new(FailureClass::Internal, message));
        };
        let ran = catch_unwind(AssertUnwindSafe(|| stage.run(&task.args, context)));
        let output = match ran {
            Ok(Ok(output)) => output,
            Ok(Err(failure)) => return Err(context.explain(failure)),
            Err(panic) => {
                let message = format!("stage `{}` panicked: {}", task.kind, panic_message(&*panic));
                return Err(Failure::new(FailureClass::Internal, message)
                    .help("this is a defect in Headstart; please report it"));
            }
        };
        if output.ty != task.ty {
            let message = format!("stage `{}` made a {}, but promised a {}", task.kind, output.ty, task.ty);
            return Err(Failure::new(FailureClass::Internal, message));
        }
        self.ws.artifacts().import(&output).map(|(_, reference)| reference).map_err(store_failure)
    }
}

impl Executor {
    fn of_program(&self, task: &LocalTask) -> Result<Option<Box<dyn Stage>>, Failure> {
        let (Some(program), Some(programs)) = (&task.program, self.programs.get()) else { return Ok(None) };
        let stage = task.kind.rsplit('.').next().unwrap_or(&task.kind);
        programs.stage(program, stage, &task.source_dir).map(Some)
    }
}

fn panic_message(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("without a message")
}

/// What a failure of the store means for an attempt.
pub(crate) fn store_failure(e: StoreError) -> Failure {
    let class = match &e {
        StoreError::MissingBlob { .. } | StoreError::MissingArtifact(_) => FailureClass::MissingArtifact,
        StoreError::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
            FailureClass::Internal
        }
        StoreError::Io { .. } => FailureClass::Transient,
        _ => FailureClass::Internal,
    };
    Failure::new(class, e.to_string())
}

struct LocalContext<'a> {
    executor: &'a Executor,
    task: &'a LocalTask,
    deadline: Option<Instant>,
    /// Made when first asked for: many stages need none.
    scratch: OnceLock<Scratch>,
    counters: Mutex<BTreeMap<String, u64>>,
    throttle: Mutex<Throttle>,
    conductor: Mutex<Sender<Message>>,
    log: Mutex<AttemptLog>,
}

enum Scratch {
    Folder(tempfile::TempDir),
    /// It could not be made; writing into it tells the stage so.
    Nowhere(PathBuf),
}

impl LocalContext<'_> {
    fn overdue(&self) -> bool {
        self.deadline.is_some_and(|d| Instant::now() >= d)
    }

    /// A stage that was told to stop because of its time limit reports a cancellation.
    fn explain(&self, failure: Failure) -> Failure {
        let asked = self.task.control.cancel.load(Ordering::Acquire);
        if failure.class != FailureClass::Cancelled || asked || !self.overdue() {
            return failure;
        }
        let limit = self.task.timeout.unwrap_or_default();
        let message = format!("`{}` ran past its time limit of {limit:?}", self.task.name);
        Failure::new(FailureClass::Timeout, message).help("raise `timeout:` in its settings block")
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
        match self.executor.shelf.get(&artifact.id).map_err(store_failure)? {
            Some(m) => Ok((*m).clone()),
            None => Err(store_failure(StoreError::MissingArtifact(artifact.id))),
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

    fn path(&self, path: &str) -> PathBuf {
        self.task.source_dir.join(path)
    }

    fn rows(&self) -> &dyn RowCache {
        let cache: &Cache = self.executor.ws.cache();
        cache
    }

    fn progress(&self, progress: Progress) {
        let last = progress.total == Some(progress.done);
        let due = self.throttle.lock().unwrap_or_else(PoisonError::into_inner).pass();
        if due || last {
            let message =
                Message::Progress { instance: self.task.instance, fence: self.task.fence, progress };
            // Progress is for whoever still listens.
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
        self.task.control.cancel.load(Ordering::Acquire) || self.overdue()
    }

    fn threads(&self) -> usize {
        self.executor.threads
    }

    fn memory(&self) -> Option<u64> {
        self.task.memory
    }
}
