//! What an engine shares with its runs.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use headstart_core::RunState;
use headstart_dsl::plan::Place;
use headstart_env::Env;
use headstart_protocol::Numerics;
use headstart_runner::StageRegistry;
use headstart_store::Workspace;

use crate::conductor::StageWait;
use crate::fence::Fences;
use crate::hub::Hub;
use crate::manifest_cache::ManifestCache;
use crate::pool::Pool;

/// How an engine uses its machine.
#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// Stages that run at once. Stages use all processors themselves, so more is rarely faster.
    pub slots: usize,
    /// Sources (which read files and folders) that run at once, beside the slots.
    pub source_slots: usize,
    /// Threads that a stage may use; left out, the machine's processors divided by the slots.
    pub threads: Option<usize>,
    /// How long a device holds an attempt without renewing.
    pub device_lease: Duration,
    /// How long stages that were told to stop may take to do so.
    pub grace: Duration,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self {
            slots: 1,
            source_slots: 4,
            threads: None,
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

impl Shared {
    /// What the place that runs an instance computes numbers with, as far as it is known: a device as
    /// of its last join. `None` for kinds that compute nothing.
    pub(crate) fn numerics_of(&self, state: &RunState, instance: u32) -> Option<Numerics> {
        let inst = state.instance(instance);
        if !state.plan().is_numeric(&inst.kind) {
            return None;
        }
        match &inst.place {
            Place::Server => self.stages.numerics(&inst.kind),
            Place::Device(name) => self.hub.numerics(name),
        }
    }

    /// How often the owner of the device that keeps an instance's output asked for everything to be tried
    /// again, as far as it is known; 0 for public ones.
    pub(crate) fn generation_of(&self, state: &RunState, instance: u32) -> u64 {
        state.instance(instance).private_to.as_ref().map_or(0, |device| self.hub.generation(device))
    }
}
