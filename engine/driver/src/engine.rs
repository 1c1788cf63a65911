//! The engine: a workspace, its stages, threads to run them, and the runs.

use std::path::Path;
use std::sync::mpsc::channel;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use headstart_core::{Event, EventKind, RunOutcome, RunState};
use headstart_dsl::plan::{Place, Plan};
use headstart_env::Env;
use headstart_protocol::declared::CustomStages;
use headstart_protocol::{Digest, Stage};
use headstart_runner::StageRegistry;
use headstart_store::{RunLog, Workspace};
use tokio::sync::watch;

use crate::conductor::{Conductor, Parts, StageWait};
use crate::error::EngineError;
use crate::fence::Fences;
use crate::hub::Hub;
use crate::journal::{Feed, Journal};
use crate::local::Executor;
use crate::manifest_cache::ManifestCache;
use crate::pool::Pool;
use crate::preview::{self, Preview};
use crate::run::{RunHandle, RunHeader, RunOptions};
use crate::shared::{EngineOptions, Shared, StageWaits};

/// Progress that no attempt has resumed for this long is deleted.
const ABANDONED: Duration = Duration::from_secs(30 * 24 * 3600);

/// An engine over a workspace. Clones share everything.
#[derive(Clone)]
pub struct Engine {
    pub(crate) shared: Arc<Shared>,
}

impl Engine {
    /// An engine with the default options.
    ///
    /// # Errors
    /// If the workspace cannot be written, or no threads can be started.
    pub fn open(ws: Workspace, stages: Vec<Box<dyn Stage>>) -> Result<Self, EngineError> {
        Self::with(ws, stages, EngineOptions::default())
    }

    /// An engine. Where two stages are of one kind, the later counts.
    ///
    /// # Errors
    /// If the workspace cannot be written, or no threads can be started.
    pub fn with(
        ws: Workspace,
        stages: Vec<Box<dyn Stage>>,
        options: EngineOptions,
    ) -> Result<Self, EngineError> {
        Self::with_env(ws, stages, options, Env::system())
    }

    /// An engine that takes time and chance from `env`; it writes to its workspace's disk.
    ///
    /// # Errors
    /// If the workspace cannot be written, or no threads can be started.
    pub fn with_env(
        ws: Workspace,
        stages: Vec<Box<dyn Stage>>,
        options: EngineOptions,
        env: Env,
    ) -> Result<Self, EngineError> {
        let stages = StageRegistry::new(stages);
        ws.sweep_resume(ABANDONED);
        let manifests = ManifestCache::new(ws.clone());
        let machine = options.machine();
        let executor = Executor {
            ws: ws.clone(),
            manifests: manifests.clone(),
            stages: stages.clone(),
            env: env.clone(),
        };
        let pool = Pool::new(executor, machine, options.source_slots)?;
        let fences = Arc::new(Fences::open(ws.dir(), Arc::clone(ws.disk()))?);
        let hub = Hub::open(&ws, manifests.clone(), Arc::clone(&fences), options.device_lease, env.clone())?;
        let stage_waits = StageWaits::default();
        let shared = Shared { ws, stages, manifests, fences, pool, hub, stage_waits, options, machine, env };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// The same engine, which also runs custom stages. Call it before the first run.
    pub fn with_custom_stages(self, custom: Arc<dyn CustomStages>) -> Self {
        self.shared.stages.set_custom(custom);
        self
    }

    /// The workspace.
    pub fn workspace(&self) -> &Workspace {
        &self.shared.ws
    }

    /// Where it takes time and chance from.
    pub fn env(&self) -> &Env {
        &self.shared.env
    }

    /// The devices.
    pub fn hub(&self) -> &Hub {
        &self.shared.hub
    }

    /// What stages of a run wait for that other runs compute.
    pub fn stage_waits(&self, run: &str) -> Vec<StageWait> {
        self.shared.stage_waits.of(run)
    }

    /// Begins a run.
    ///
    /// # Errors
    /// If the run cannot be recorded, or the plan places a kind on this machine that is not built
    /// in: then nothing has happened.
    pub fn run(&self, plan: Plan, options: RunOptions) -> Result<RunHandle, EngineError> {
        self.check_kinds(&plan)?;
        let id = options.id.clone().unwrap_or_else(|| fresh_id(&self.shared.env));
        let header = RunHeader {
            pipeline: options.name.clone(),
            source_dir: options.source_dir.clone(),
            on_failure: options.on_failure,
            plan,
        };
        let log = self.shared.ws.create_run(&id, &header)?;
        let plan = Arc::new(header.plan);
        let first = EventKind::RunStarted {
            run: id.clone(),
            pipeline: options.name.clone(),
            plan: plan_digest(&plan),
            instances: u32::try_from(plan.instances.len()).unwrap_or(u32::MAX),
        };
        self.conduct(id, RunState::new(plan), first, log, options)
    }

    /// Resumes a run whose engine ended before it did, or that was cancelled. Of `options`, the address and the
    /// patience with devices count; the rest is as the run was created.
    ///
    /// # Errors
    /// If the run has ended, another engine executes it, or its log is damaged.
    pub fn resume(&self, id: &str, options: RunOptions) -> Result<RunHandle, EngineError> {
        let header: RunHeader = self.shared.ws.read_header(id)?;
        self.check_kinds(&header.plan)?;
        let log = self.shared.ws.open_run(id)?;
        let events: Vec<Event> = self.shared.ws.read_run(id)?;
        let plan = Arc::new(header.plan);
        let state = RunState::replay(Arc::clone(&plan), &events)
            .map_err(|source| EngineError::Log { run: id.to_owned(), source })?;
        if state.outcome().is_some_and(|outcome| outcome != RunOutcome::Cancelled) {
            return Err(EngineError::Ended(id.to_owned()));
        }
        let first = if events.is_empty() {
            EventKind::RunStarted {
                run: id.to_owned(),
                pipeline: header.pipeline.clone(),
                plan: plan_digest(&plan),
                instances: u32::try_from(plan.instances.len()).unwrap_or(u32::MAX),
            }
        } else {
            EventKind::RunResumed {}
        };
        let options = RunOptions {
            name: header.pipeline,
            source_dir: header.source_dir,
            on_failure: header.on_failure,
            ..options
        };
        let handle = self.conduct(id.to_owned(), state, first, log, options)?;
        handle.feed.publish_before(events);
        Ok(handle)
    }

    /// What a run of the plan would do, by instance: relative paths are relative to `source_dir`.
    /// Sources are read (and what they give is stored); nothing else is run.
    ///
    /// # Errors
    /// If the plan places a kind on this machine that is not built in.
    pub fn preview(&self, plan: &Plan, source_dir: &Path) -> Result<Vec<Preview>, EngineError> {
        self.check_kinds(plan)?;
        preview::look(&self.shared, plan.clone(), source_dir, self.shared.ws.clone())
    }

    fn conduct(
        &self,
        id: String,
        state: RunState,
        first: EventKind,
        log: RunLog,
        options: RunOptions,
    ) -> Result<RunHandle, EngineError> {
        let feed = Arc::new(Feed::default());
        let (me, inbox) = channel();
        let (end, ending) = watch::channel(None);
        let journal = Journal::new(log, Arc::clone(&feed), me.clone())?;
        let outputs = Arc::new(OnceLock::new());
        let kept = Arc::downgrade(&outputs);
        let handle = RunHandle { id: id.clone(), feed, inbox: me.clone(), ending, _outputs: outputs };
        let engine = Arc::clone(&self.shared);
        let begun = self.shared.env.clock.elapsed();
        let (readopted, up) = channel();
        let parts = Parts {
            id: id.clone(),
            engine,
            state,
            journal,
            options,
            inbox,
            me,
            end,
            outputs: kept,
            begun,
            readopted,
        };
        std::thread::Builder::new()
            .name(format!("run {id}"))
            .spawn(move || Conductor::new(parts).conduct(first))
            .map_err(EngineError::io("start a thread for", id))?;
        // So that the server knows the attempts that devices hold before it serves them. The
        // conductor that ends before says so by dropping its end.
        let _ = up.recv();
        Ok(handle)
    }

    pub(crate) fn check_kinds(&self, plan: &Plan) -> Result<(), EngineError> {
        let here = plan.instances.iter().filter(|i| i.place == Place::Server);
        for instance in here {
            let is_custom = plan.program(&instance.kind).is_some();
            if !self.shared.stages.has(&instance.kind, is_custom) {
                let known: Vec<&str> = self.shared.stages.kinds().collect();
                return Err(EngineError::NoStage {
                    instance: instance.name.clone(),
                    kind: instance.kind.clone(),
                    known: known.join(", "),
                });
            }
        }
        Ok(())
    }
}

/// Works out what a run of `plan` would do, by instance. What sources give is kept in `ws`, which may be a
/// temporary one. Results are looked up in `known`, where there is one.
///
/// # Errors
/// If the plan places a kind on this machine that is not built in.
pub fn preview(
    plan: &Plan,
    source_dir: &Path,
    ws: Workspace,
    stages: Vec<Box<dyn Stage>>,
    custom: Arc<dyn CustomStages>,
    known: Option<Workspace>,
) -> Result<Vec<Preview>, EngineError> {
    let engine = Engine::open(ws, stages)?.with_custom_stages(custom);
    engine.check_kinds(plan)?;
    let known = known.unwrap_or_else(|| engine.shared.ws.clone());
    preview::look(&engine.shared, plan.clone(), source_dir, known)
}

/// Digest of a plan, for telling two apart.
fn plan_digest(plan: &Plan) -> Digest {
    // Not the canonical form: that would build every argument twice, and the plan's own order is
    // fixed as it is.
    Digest::of(&serde_json::to_vec(plan).expect("a plan is made of types that serialize"))
}

/// An id that sorts by time: milliseconds since 1970 as nine digits of base 32, and four random
/// ones, so that two engines do not meet.
fn fresh_id(env: &Env) -> String {
    const DIGITS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
    let digit = |n: u64| char::from(DIGITS[(n & 31) as usize]);
    let (now, chance) = (env.clock.now_ms(), env.random.spread());
    let time = (0..9).rev().map(|i| digit(now >> (5 * i)));
    let random = (0..4).map(|i| digit(chance >> (5 * i)));
    time.chain(random).collect()
}

#[cfg(test)]
mod tests {
    use headstart_env::simulated::SimulatedClock;

    use super::*;

    #[test]
    fn ids_sort_by_time() {
        let clock = SimulatedClock::new();
        let env = Env::simulated(&clock, 1);
        let a = fresh_id(&env);
        clock.advance(Duration::from_millis(3));
        let b = fresh_id(&env);
        assert!(a < b, "{a} {b}");
        assert_eq!(a.len(), 13);
    }
}
