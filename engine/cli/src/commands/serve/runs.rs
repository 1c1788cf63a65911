//! Runs of schedules: started or gone on with, shown, and waited for.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use headstart_console::errln;
use headstart_core::RunOutcome;
use headstart_driver::{Engine, EngineError, RunHandle, RunOptions};
use headstart_dsl::plan::Plan;
use tokio::sync::mpsc::UnboundedSender;

use crate::Volume;
use crate::display::Display;
use crate::{hub_models, recorded};

/// That a run ended.
pub(super) struct Ended {
    /// The run.
    pub run: String,
    /// How it ended, in one word.
    pub outcome: &'static str,
    /// Why it could not be run, where it could not.
    pub problem: Option<String>,
}

/// Runs by id. One whose models are still downloaded has no handle yet.
type Handles = Arc<Mutex<HashMap<String, Option<RunHandle>>>>;

/// How a run could not be begun, in one word, and why.
type NotBegun = (&'static str, Option<String>);

/// The runs of this process.
#[derive(Clone)]
pub(super) struct Runs {
    engine: Engine,
    /// Where devices join.
    url: Option<String>,
    source_dir: PathBuf,
    volume: Volume,
    handles: Handles,
    ended: UnboundedSender<Ended>,
}

impl Runs {
    pub fn new(
        engine: Engine,
        url: Option<String>,
        source_dir: PathBuf,
        volume: Volume,
        ended: UnboundedSender<Ended>,
    ) -> Self {
        Self { engine, url, source_dir, volume, handles: Handles::default(), ended }
    }

    /// Starts a run, or goes on with it where it exists: a server that ended may have started it. That it ends is
    /// sent, however it ends.
    pub fn start(&self, run: &str, title: &str, plan: impl FnOnce() -> Result<Plan, String>) {
        let mut options = RunOptions::new(title, &self.source_dir);
        options.id = Some(run.to_owned());
        options.device_wait = None;
        options.address.clone_from(&self.url);
        let exists = self.engine.workspace().has_run(run);
        let say = |what: &str| {
            if !self.volume.quiet {
                errln!("{title}: {what} run {run}");
            }
        };
        if !exists {
            say("starting");
        }
        let started = if exists {
            match self.engine.resume(run, options) {
                Ok(handle) => {
                    say("resuming");
                    Ok(handle)
                }
                Err(e) => Err(self.not_resumed(run, &e)),
            }
        } else {
            match plan() {
                Ok(plan) if hub_models::are_named(&plan) => {
                    self.handles().insert(run.to_owned(), None);
                    tokio::spawn(self.clone().fetch_and_begin(run.to_owned(), plan, options));
                    return;
                }
                Ok(plan) => self.begin(plan, options),
                Err(problem) => Err(("failed", Some(problem))),
            }
        };
        self.follow(run, started);
    }

    fn handles(&self) -> MutexGuard<'_, HashMap<String, Option<RunHandle>>> {
        self.handles.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(&self, plan: Plan, options: RunOptions) -> Result<RunHandle, NotBegun> {
        self.engine.run(plan, options).map_err(|e| ("failed", Some(e.to_string())))
    }

    /// Begins a run once the models of the hub that it names are here; other schedules go on meanwhile.
    async fn fetch_and_begin(self, run: String, mut plan: Plan, options: RunOptions) {
        let volume = self.volume;
        let fetched =
            tokio::task::spawn_blocking(move || hub_models::fetch(&mut plan, volume).map(|()| plan));
        let fetched = match fetched.await {
            Ok(fetched) => fetched.map_err(|e| ("failed", Some(e.message().to_owned()))),
            Err(e) => Err(("failed", Some(e.to_string()))),
        };
        // Cancelled meanwhile.
        let wanted = self.handles().contains_key(&run);
        let started = match fetched {
            Ok(plan) if wanted => self.begin(plan, options),
            Ok(_) => Err(("cancelled", None)),
            Err(failed) => Err(failed),
        };
        self.follow(&run, started);
    }

    /// Shows a run that was begun until it ends, and sends that it ended.
    fn follow(&self, run: &str, started: Result<RunHandle, NotBegun>) {
        match started {
            Ok(handle) => {
                self.handles().insert(run.to_owned(), Some(handle.clone()));
                tokio::spawn(watch(self.engine.clone(), handle, self.volume, self.ended.clone()));
            }
            Err((outcome, problem)) => {
                // Nobody listens when the server has ended, and then the next one is told.
                let _ = self.ended.send(Ended { run: run.to_owned(), outcome, problem });
            }
        }
    }

    /// What became of a run that exists and cannot be gone on with.
    fn not_resumed(&self, run: &str, e: &EngineError) -> NotBegun {
        match e {
            EngineError::Ended(_) => match recorded::read(self.engine.workspace(), run) {
                Ok(recorded) => (recorded.outcome(), None),
                Err(e) => ("failed", Some(e.message().to_owned())),
            },
            e => ("failed", Some(e.to_string())),
        }
    }

    /// Cancels a run of this process.
    pub fn cancel(&self, run: &str) {
        let mut handles = self.handles();
        match handles.get(run) {
            Some(Some(handle)) => handle.cancel(),
            Some(None) => drop(handles.remove(run)),
            None => {}
        }
    }

    /// Forgets a run that ended.
    pub fn forget(&self, run: &str) {
        self.handles().remove(run);
    }
}

/// Shows a run until it ends, and says how.
async fn watch(engine: Engine, handle: RunHandle, volume: Volume, ended: UnboundedSender<Ended>) {
    let run = handle.id().to_owned();
    if let Ok(plan) = headstart_driver::read_plan(engine.workspace(), &run) {
        let mut events = handle.subscribe();
        // Lines only: several runs may be shown at once.
        let mut display = Display::recorded(&plan, volume, engine.env().clock.clone());
        while let Some(event) = events.recv().await {
            display.event(&event);
        }
    }
    let (outcome, problem) = match handle.wait().await {
        Ok(result) => {
            let failed = result.failures.first().map(|f| format!("{}: {}", f.name, f.failure.message));
            match result.outcome {
                RunOutcome::Succeeded => ("succeeded", None),
                RunOutcome::Failed => ("failed", failed),
                RunOutcome::Cancelled => ("cancelled", None),
            }
        }
        Err(e) => ("failed", Some(e.to_string())),
    };
    let _ = ended.send(Ended { run, outcome, problem });
}
