//! A stage whose attempts run in worker processes, and how an attempt's context is served to one.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use headstart_protocol::kinds::Role;
use headstart_protocol::release::{Number, RowBound};
use headstart_protocol::{Args, Context, Failure, FailureClass, Numerics, Output, Stage, kinds};

use crate::link::{Broken, Link, Watch};
use crate::memory::{self, ALLOWANCE, Gauge};
use crate::pool::Pool;
use crate::process::{self, Worker};
use crate::wire::{FromWorker, Made, Task, ToWorker, Vectors, WirePath};

/// How often it is looked whether an attempt without a worker may go on.
const PAUSE_INTERVAL: Duration = Duration::from_millis(20);
/// Bytes that an idle worker may keep; one that keeps more is ended.
const KEPT: u64 = 128 << 20;
/// Bytes that are remembered of what a worker printed.
const LAST_OUTPUT: usize = 2000;

/// A stage whose attempts run in worker processes.
pub struct Isolated {
    inner: Box<dyn Stage>,
    pool: Arc<Pool>,
    /// Whether its arguments name paths outside of the runner's folders.
    paths: bool,
}

impl Isolated {
    pub(crate) fn new(inner: Box<dyn Stage>, pool: Arc<Pool>) -> Self {
        // What reads a path depends on more than its arguments; a source reads where its models are kept.
        let paths = kinds::find(inner.kind()).is_none_or(|kind| !kind.cacheable || kind.role != Role::Stage);
        Self { inner, pool, paths }
    }
}

impl std::fmt::Debug for Isolated {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.debug_tuple("Isolated").field(&self.inner.kind()).finish()
    }
}

impl Stage for Isolated {
    fn kind(&self) -> &str {
        self.inner.kind()
    }

    fn numerics(&self) -> Option<Numerics> {
        self.inner.numerics()
    }

    fn metrics(&self) -> Vec<Number> {
        self.inner.metrics()
    }

    fn rows(&self) -> Vec<RowBound> {
        self.inner.rows()
    }

    fn run(&self, args: &Args, ctx: &dyn Context) -> Result<Output, Failure> {
        loop {
            match self.attempt(args, ctx) {
                Attempted::Over(result) => return result,
                // Its worker is gone, with all that it held.
                Attempted::HeldForLong => await_end_of_pause(ctx)?,
            }
        }
    }
}

/// What became of a worker's attempt.
enum Attempted {
    /// It ended.
    Over(Result<Output, Failure>),
    /// It was held for longer than a worker may be.
    HeldForLong,
}

/// Waits until an attempt may go on, and empties its folder: it begins again.
fn await_end_of_pause(ctx: &dyn Context) -> Result<(), Failure> {
    while ctx.paused() {
        if ctx.cancelled() {
            return Err(Failure::new(FailureClass::Cancelled, "stopped"));
        }
        std::thread::sleep(PAUSE_INTERVAL);
    }
    let (disk, scratch) = (ctx.disk(), ctx.scratch());
    // The folder itself stays: workers are confined to it.
    let empty = || -> std::io::Result<()> {
        for entry in std::fs::read_dir(scratch)? {
            let entry = entry?;
            let is_folder = entry.file_type()?.is_dir();
            if is_folder { disk.remove_dir_all(&entry.path())? } else { disk.remove_file(&entry.path())? }
        }
        Ok(())
    };
    empty().map_err(|e| Failure::io(scratch, &e))
}

impl Isolated {
    fn attempt(&self, args: &Args, ctx: &dyn Context) -> Attempted {
        let kind = self.kind();
        let workers = self.pool.workers();
        let sort = workers.sort(ctx.is_private(), self.paths);
        let mut worker = match self.pool.take(sort) {
            Ok(worker) => worker,
            Err(e) => return Attempted::Over(Err(process::not_started(kind, &e))),
        };
        worker.tasks += 1;
        let most = ctx.memory().or_else(memory::share_of_machine);
        let task = Task {
            number: worker.tasks,
            kind: kind.to_owned(),
            args: args.0.clone(),
            threads: ctx.threads(),
            memory: ctx.memory(),
            // Drivers of accelerators reserve addresses without end.
            most: most.filter(|_| workers.backend == "cpu"),
            private: ctx.is_private(),
            least_rows: ctx.least_rows(),
        };
        let mut watch = Attempt {
            kind,
            ctx,
            gauge: Arc::clone(&worker.gauge),
            task: worker.tasks,
            most,
            baseline: worker.held,
            told: None,
            paused: None,
            longest_pause: workers.longest_pause,
            held_for_long: false,
            pid: worker.pid(),
            grace: workers.grace,
            last: VecDeque::new(),
            line: Vec::new(),
        };
        let served = serve(&mut worker.link, task, &mut watch);
        if watch.held_for_long {
            return Attempted::HeldForLong;
        }
        watch.pause(false);
        Attempted::Over(self.ended(served, worker, &mut watch))
    }

    /// The result of an attempt; its worker is kept, where it may do another one.
    fn ended(
        &self,
        served: Result<Result<Made, Failure>, Broken>,
        mut worker: Worker,
        watch: &mut Attempt<'_>,
    ) -> Result<Output, Failure> {
        match served {
            Ok(result) => {
                worker.link.print(watch);
                let result = result.map(Output::from);
                if is_usable(&mut worker, &result) {
                    self.pool.give(worker);
                }
                result
            }
            Err(broken) => Err(failure(broken, &mut worker, watch)),
        }
    }
}

/// Whether a worker whose attempt ended this way may do another one.
fn is_usable(worker: &mut Worker, result: &Result<Output, Failure>) -> bool {
    if matches!(result, Err(f) if matches!(f.class, FailureClass::Internal | FailureClass::Memory)) {
        return false;
    }
    let Some(holds) = worker.gauge.held() else { return true };
    worker.held = holds;
    holds <= KEPT
}

/// The failure of an attempt whose worker does not answer any more.
fn failure(broken: Broken, worker: &mut Worker, watch: &mut Attempt<'_>) -> Failure {
    match broken {
        Broken::Over(failure) => failure,
        Broken::Protocol(what) => {
            let m = format!("stage `{}`: its worker process {what}", watch.kind);
            Failure::new(FailureClass::Internal, m).help("this is a defect in Headstart; please report it")
        }
        Broken::Closed => {
            // It may still be ending: a moment for its status.
            let status = worker.end_after_closing();
            worker.link.print(watch);
            process::ended(watch.kind, status, &watch.last_output(), watch.most)
        }
    }
}

/// Serves an attempt's context until it ends.
fn serve(link: &mut Link, task: Task, watch: &mut Attempt<'_>) -> Result<Result<Made, Failure>, Broken> {
    link.send(&ToWorker::Task(Box::new(task)), watch)?;
    let ctx = watch.ctx;
    loop {
        let answer = match link.next(watch)? {
            FromWorker::Ended { result, counters } => {
                counters.iter().for_each(|(counter, n)| ctx.count(counter, *n));
                return Ok(result);
            }
            FromWorker::Progress(progress) => {
                ctx.progress(progress);
                continue;
            }
            FromWorker::Log(line) => {
                ctx.log(&line);
                continue;
            }
            FromWorker::PutEmbeddings { space, texts, vectors } => {
                let wrong = || Broken::Protocol("sent vectors that do not fit".into());
                let vectors = vectors.all().and_then(|all| all.into_iter().collect::<Option<Vec<_>>>());
                let vectors = vectors.filter(|all| all.len() == texts.len()).ok_or_else(wrong)?;
                let rows: Vec<_> = texts.into_iter().zip(vectors).collect();
                ctx.rows().put_embeddings(&space, &rows);
                continue;
            }
            FromWorker::PutResponses { model, settings, rows } => {
                ctx.rows().put_responses(&model, &settings, &rows);
                continue;
            }
            FromWorker::Manifest(artifact) => ToWorker::Manifest(ctx.manifest(&artifact)),
            FromWorker::Open(artifact) => ToWorker::Opened(ctx.open(&artifact).map(WirePath)),
            FromWorker::Path(path) => ToWorker::Path(WirePath(ctx.path(&path))),
            FromWorker::Scratch => ToWorker::Path(ctx.scratch().into()),
            FromWorker::Resume => ToWorker::Folder(ctx.resume_dir().map(WirePath)),
            FromWorker::Embeddings { space, texts } => {
                let known = ctx.rows().embeddings(&space, &texts);
                ToWorker::Embeddings(Vectors::of(known.iter().map(Option::as_deref)))
            }
            FromWorker::Responses { model, settings, prompts } => {
                ToWorker::Responses(ctx.rows().responses(&model, &settings, &prompts))
            }
        };
        link.send(&answer, watch)?;
    }
}

/// An attempt, watched.
struct Attempt<'a> {
    kind: &'a str,
    ctx: &'a dyn Context,
    gauge: Arc<Gauge>,
    task: u64,
    /// Bytes that it may use.
    most: Option<u64>,
    /// Bytes that its worker held before.
    baseline: u64,
    /// When it was told to stop.
    told: Option<Instant>,
    /// Since when it is held where it is.
    paused: Option<Instant>,
    longest_pause: Duration,
    /// Whether that was for longer than a worker may be held.
    held_for_long: bool,
    pid: u32,
    grace: Duration,
    last: VecDeque<u8>,
    line: Vec<u8>,
}

impl Watch for Attempt<'_> {
    fn look(&mut self, link: &Link) -> Result<(), Failure> {
        self.pause(self.ctx.paused() && !self.ctx.cancelled());
        if self.paused.is_some_and(|since| since.elapsed() >= self.longest_pause) {
            self.held_for_long = true;
            return Err(Failure::new(FailureClass::Cancelled, "held for long"));
        }
        match self.told {
            None if self.ctx.cancelled() => {
                self.told = Some(Instant::now());
                link.cancel(self.task);
            }
            Some(told) if told.elapsed() >= self.grace => {
                let m = format!(
                    "stage `{}` was told to stop, did not within {} s, and was killed",
                    self.kind,
                    self.grace.as_secs()
                );
                return Err(Failure::new(FailureClass::Cancelled, m));
            }
            _ => {}
        }
        let most = self.most.map(|most| most.saturating_add(self.baseline).saturating_add(ALLOWANCE));
        match (self.gauge.held(), most) {
            (Some(holds), Some(most)) if holds > most => {
                Err(process::too_much(self.kind, Some(holds), self.most))
            }
            _ => Ok(()),
        }
    }

    fn printed(&mut self, bytes: &[u8]) {
        self.last.extend(bytes);
        let over = self.last.len().saturating_sub(LAST_OUTPUT);
        self.last.drain(..over);
        for byte in bytes {
            if *byte != b'\n' && self.line.len() < LAST_OUTPUT {
                self.line.push(*byte);
            } else if !self.line.is_empty() {
                self.ctx.log(&String::from_utf8_lossy(&self.line));
                self.line.clear();
            }
        }
    }
}

impl Attempt<'_> {
    /// Holds the worker where it is, or lets it go on.
    fn pause(&mut self, paused: bool) {
        if paused != self.paused.is_some() {
            // A worker that has ended is noticed elsewhere.
            process::hold(self.pid, paused);
            self.paused = paused.then(Instant::now);
        }
    }

    fn last_output(&self) -> String {
        let (a, b) = self.last.as_slices();
        String::from_utf8_lossy(&[a, b].concat()).into_owned()
    }
}
