//! Which run the same command resumes, and having a stage of a past run tried again.

use std::sync::Arc;

use headstart_core::prepare::{Decision, prepare};
use headstart_core::{Event, EventKind, RunOutcome, RunState, Status};
use headstart_dsl::plan::{Place, Plan};
use headstart_protocol::kinds;
use headstart_store::{RunInfo, Workspace};
use serde::Serialize;

use crate::engine::Engine;
use crate::error::EngineError;
use crate::preview;
use crate::run::{OnFailure, RunHeader, RunOptions};

/// A run that was interrupted or cancelled, and that the same command resumes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resumable {
    /// Its id.
    pub run: String,
    /// Stage instances that it has finished.
    pub finished: u32,
    /// Stage instances in all.
    pub instances: u32,
}

/// [`RunHeader`] over somebody else's plan: the same bytes.
#[derive(Serialize)]
struct HeaderOf<'a> {
    pipeline: &'a str,
    source_dir: &'a std::path::Path,
    on_failure: OnFailure,
    plan: &'a Plan,
}

impl Engine {
    /// The run that a command with this plan and these options resumes: the latest that was begun with the same,
    /// has been interrupted or cancelled, is not executed by any process, and whose sources read the same as
    /// then. `None` once a later run of the same has succeeded or failed.
    pub fn resumable(&self, plan: &Plan, options: &RunOptions) -> Option<Resumable> {
        let (pipeline, source_dir, on_failure) = (&*options.name, &*options.source_dir, options.on_failure);
        let header = serde_json::to_vec(&HeaderOf { pipeline, source_dir, on_failure, plan }).ok()?;
        let ws = self.workspace();
        for run in ws.runs().iter().rev().filter(|run| ws.has_header(&run.id, &header)) {
            match self.candidate(run, plan, options) {
                Candidate::Resumable(found) => return Some(found),
                Candidate::Ended => return None,
                Candidate::Other => {}
            }
        }
        None
    }

    fn candidate(&self, run: &RunInfo, plan: &Plan, options: &RunOptions) -> Candidate {
        let ws = self.workspace();
        let last = ws.last_event::<Event>(&run.id).ok().flatten();
        match last.map(|e| e.kind) {
            Some(EventKind::RunFinished { outcome: RunOutcome::Cancelled }) => {}
            Some(EventKind::RunFinished { .. }) => return Candidate::Ended,
            _ => {}
        }
        if ws.is_live(&run.id) {
            return Candidate::Other;
        }
        let state = ws.read_run::<Event>(&run.id).map_err(EngineError::from).and_then(|events| {
            RunState::replay(Arc::new(plan.clone()), &events)
                .map_err(|source| EngineError::Log { run: run.id.clone(), source })
        });
        let state = match state {
            Ok(state) => state,
            Err(e) => {
                tracing::warn!("run {} was interrupted and cannot be resumed: {e}", run.id);
                return Candidate::Other;
            }
        };
        if !self.sources_read_the_same(&state, options) {
            tracing::info!("run {} was interrupted; its sources have changed since", run.id);
            return Candidate::Other;
        }
        let c = state.counts();
        Candidate::Resumable(Resumable {
            run: run.id.clone(),
            finished: c.succeeded + c.delivered + c.cached + c.skipped,
            instances: c.total(),
        })
    }

    /// Whether what a run has read of files and folders on this machine is still there.
    fn sources_read_the_same(&self, state: &RunState, options: &RunOptions) -> bool {
        state.statuses().all(|(instance, status)| {
            let inst = state.instance(instance);
            let is_source = kinds::find(&inst.kind).is_some_and(|kind| !kind.cacheable);
            let Status::Done(done) = status else { return true };
            if inst.place != Place::Server || !is_source {
                return true;
            }
            let Ok(Decision::Run(prepared)) = prepare(state, instance, &self.shared.manifests) else {
                return false;
            };
            let read = preview::read_source(&self.shared, state, instance, &prepared, &options.source_dir);
            read.is_ok_and(|output| output == done.output)
        })
    }
}

enum Candidate {
    Resumable(Resumable),
    /// It has ended, so that nothing before it is wanted any more.
    Ended,
    /// It cannot be resumed now.
    Other,
}

/// Has the failed and quarantined instances of a stage tried again when the run is resumed: what counts against
/// them is forgotten, and a run that had ended because of them is open again. Their names.
///
/// # Errors
/// If no such instance has failed, the run is being executed, or its log cannot be read or written.
pub fn request_retry(ws: &Workspace, id: &str, stage: &str, now_ms: u64) -> Result<Vec<String>, EngineError> {
    let header: RunHeader = ws.read_header(id)?;
    let log = ws.open_run(id)?;
    let events: Vec<Event> = ws.read_run(id)?;
    let mut state = RunState::replay(Arc::new(header.plan), &events)
        .map_err(|source| EngineError::Log { run: id.to_owned(), source })?;
    let plan = Arc::clone(state.plan());
    let failed = state.statuses().filter(|(_, status)| matches!(status, Status::Failed(_)));
    let failed: Vec<u32> = failed.map(|(instance, _)| instance).collect();
    let is_meant = |i: &u32| {
        let inst = &plan.instances[*i as usize];
        inst.is_called(stage) || plan.items[inst.item as usize].name == stage
    };
    let meant: Vec<u32> = failed.iter().copied().filter(is_meant).collect();
    let name = |i: &u32| plan.instances[*i as usize].name.clone();
    if meant.is_empty() {
        let (run, stage) = (id.to_owned(), stage.to_owned());
        return Err(EngineError::NotFailed { run, stage, failed: failed.iter().map(name).collect() });
    }
    let at_ms = now_ms.max(events.last().map_or(0, |e| e.at_ms));
    let mut asked = Vec::new();
    for instance in &meant {
        let event = Event::new(at_ms, EventKind::RetryRequested { instance: *instance });
        let changes =
            state.apply(&event).map_err(|source| EngineError::Log { run: id.to_owned(), source })?;
        asked.push(event);
        asked.extend(changes.blocked.into_iter().filter_map(|instance| match *state.status(instance) {
            Status::Blocked { because } => Some(Event::new(at_ms, EventKind::Blocked { instance, because })),
            _ => None,
        }));
    }
    log.append(&asked)?;
    Ok(meant.iter().map(name).collect())
}
