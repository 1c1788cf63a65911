//! What an engine shares with its runs.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use headstart_core::{PlaceFacts, RunState};
use headstart_dsl::plan::Place;
use headstart_env::Env;
use headstart_runner::StageRegistry;
use headstart_store::Workspace;

use crate::capacity::{Machine, Need};
use crate::conductor::StageWait;
use crate::fence::Fences;
use crate::hub::Hub;
use crate::manifest_cache::ManifestCache;
use crate::pool::Pool;

/// How an engine uses its machine.
#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// Stages that run at once, as far as threads and memory allow; left out, one for each processor and GiB of memory.
    pub jobs: Option<usize>,
    /// Sources (which read files and folders) that run at once, beside the jobs.
    pub source_slots: usize,
    /// Threads that stages may use together; left out, one for each processor.
    pub threads: Option<usize>,
    /// Bytes that stages may use together by their settings; left out, they are not bounded.
    pub memory: Option<u64>,
    /// How long a device holds an attempt without renewing.
    pub device_lease: Duration,
    /// How long stages that were told to stop may take to do so.
    pub grace: Duration,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self {
            jobs: None,
            source_slots: 4,
            threads: None,
            memory: None,
            device_lease: Duration::from_secs(60),
            grace: Duration::from_secs(30),
        }
    }
}

/// What an engine shares with its runs.
pub(crate) struct Shared {
    pub(crate) ws: Workspace,
    pub(crate) stages: StageRegistry,
    pub(crate) manifests: ManifestCache,
    pub(crate) fences: Arc<Fences>,
    pub(crate) pool: Pool,
    pub(crate) hub: Hub,
    pub(crate) stage_waits: StageWaits,
    pub(crate) options: EngineOptions,
    pub(crate) machine: Machine,
    pub(crate) env: Env,
}

/// What the runs of an engine wait for that other runs compute.
#[derive(Default)]
pub(crate) struct StageWaits(Mutex<BTreeMap<String, Vec<StageWait>>>);

impl StageWaits {
    pub(crate) fn set(&self, run: &str, waits: Vec<StageWait>) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if waits.is_empty() {
            all.remove(run);
        } else {
            all.insert(run.to_owned(), waits);
        }
    }

    pub(crate) fn of(&self, run: &str) -> Vec<StageWait> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(run).cloned().unwrap_or_default()
    }
}

/// Memory for which one job is started, unless it is said how many are.
const MEMORY_OF_JOB: u64 = 1 << 30;

impl EngineOptions {
    /// What there is on this machine.
    pub(crate) fn machine(&self) -> Machine {
        let processors = || std::thread::available_parallelism().map_or(1, usize::from);
        let threads = self.threads.unwrap_or_else(processors).max(1);
        let by_memory = self.memory.map(|bytes| usize::try_from(bytes / MEMORY_OF_JOB).unwrap_or(usize::MAX));
        let jobs = self.jobs.unwrap_or_else(|| by_memory.map_or(threads, |most| threads.min(most)));
        let threads = u32::try_from(threads).unwrap_or(u32::MAX);
        Machine { jobs: jobs.max(1), threads, memory: self.memory }
    }
}

impl Shared {
    /// What an instance needs while it runs here: what its settings say. A built-in stage uses all processors, and a
    /// stage of a program one, unless they say otherwise.
    pub(crate) fn need(&self, state: &RunState, instance: u32) -> Need {
        let inst = state.instance(instance);
        let all = self.machine.threads;
        let usual = if state.plan().program(&inst.kind).is_some() { 1 } else { all };
        Need {
            threads: inst.policy.threads.unwrap_or(usual).min(all),
            memory: inst.policy.memory.unwrap_or(0),
            group: inst.policy.limit.clone(),
        }
    }

    /// What is known of the place that runs an instance: of a device, as of its last join.
    pub(crate) fn place_facts(&self, state: &RunState, instance: u32) -> PlaceFacts {
        let inst = state.instance(instance);
        match &inst.place {
            Place::Server => {
                PlaceFacts { numerics: self.stages.numerics(&inst.kind), ..PlaceFacts::default() }
            }
            Place::Device(name) => self.hub.place_facts(name, inst.private_to.is_some()),
        }
    }
}
