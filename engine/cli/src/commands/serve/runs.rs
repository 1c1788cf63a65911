//! Runs of schedules: started or gone on with, shown, and waited for.

use std::collections::HashMap;
use std::path::PathBuf;

use headstart_console::errln;
use headstart_core::RunOutcome;
use headstart_driver::{Engine, EngineError, RunHandle, RunOptions};
use headstart_dsl::plan::Plan;
use tokio::sync::mpsc::UnboundedSender;

use crate::Volume;
use crate::display::Display;
use crate::recorded;

/// That a run ended.
pub(super) struct Ended {
    /// The run.
    pub run: String,
    /// How it ended, in one word.
    pub outcome: &'static str,
    /// Why it could not be run, where it could not.
    pub problem: Option<String>,
}

/// The runs of this process.
pub(super) struct Runs {
    engine: Engine,
    /// Where devices join.
    url: Option<String>,
    source_dir: PathBuf,
    volume: Volume,
    handles: HashMap<String, RunHandle>,
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
        Self { engine, url, source_dir, volume, handles: HashMap::new(), ended }
    }

    /// Starts a run, or goes on with it where it exists: a server that ended may have started it. That it ends is
    /// sent, however it ends.
    pub fn start(&mut self, run: &str, title: &str, plan: impl FnOnce() -> Result<Plan, String>) {
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
        let started = match exists {
            true => match self.engine.resume(run, options) {
                Ok(handle) => {
                    say("resuming");
                    Ok(handle)
                }
                Err(e) => Err(self.not_resumed(run, &e)),
            },
            false => plan()
                .and_then(|plan| self.engine.run(plan, options).map_err(|e| e.to_string()))
                .map_err(|problem| ("failed", Some(problem))),
        };
        match started {
            Ok(handle) => {
                self.handles.insert(run.to_owned(), handle.clone());
                tokio::spawn(watch(self.engine.clone(), handle, self.volume, self.ended.clone()));
            }
            Err((outcome, problem)) => {
                // Nobody listens when the server has ended, and then the next one is told.
                let _ = self.ended.send(Ended { run: run.to_owned(), outcome, problem });
            }
        }
    }

    /// What became of a run that exists and cannot be gone on with.
    fn not_resumed(&self, run: &str, e: &EngineError) -> (&'static str, Option<String>) {
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
        if let Some(handle) = self.handles.get(run) {
            handle.cancel();
        }
    }

    /// Forgets a run that ended.
    pub fn forget(&mut self, run: &str) {
        self.handles.remove(run);
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
