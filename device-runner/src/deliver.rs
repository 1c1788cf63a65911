//! What becomes of a private task: its result is kept here under a handle, and the engine gets the handle,
//! whether there is a result, a `when` was false, or the stage failed. Of a task that was taken over, it has
//! the handle already.

use std::collections::BTreeMap;
use std::path::Path;

use headstart_protocol::release::count;
use headstart_protocol::task::{Outcome, Released, Task, Usage};
use headstart_protocol::{
    Args, ArtifactRef, ArtifactType, Digest, Failure, FailureClass, Output, canonical_json,
};

use crate::budget::{Charge, Ledger};
use crate::device::{Device, Made};
use crate::lineage::Attempted;
use crate::release::{Leaving, Releaser, known_names};
use crate::store::{Held, gather};

impl Device {
    /// Keeps what a private task made, and takes what it releases.
    ///
    /// # Errors
    /// Why it could not be kept.
    pub(crate) fn keep(
        &self,
        task: &Task,
        args: &Args,
        (output, counters): (Output, BTreeMap<String, u64>),
        fetched: &[ArtifactRef],
        scratch: &Path,
        promised: Option<Digest>,
    ) -> Result<Made, Failure> {
        let (public, resume) = (self.store.public.root(), self.state.at("resume"));
        let within = [scratch, public, self.store.private.root(), &resume, &self.data];
        let gathered = gather(output, &within)?;
        // What lies in the attempt's own folder takes up its room already.
        let copied = gathered.files.iter().filter(|(_, at)| !at.starts_with(scratch));
        let copied = copied.filter_map(|(name, _)| gathered.manifest.files.get(name)).map(|f| f.size);
        self.store.private_room.check(copied.fold(0, u64::saturating_add))?;
        let manifest = gathered.manifest.clone();
        let handle = promised.unwrap_or_else(|| self.handle(task, &manifest.id().to_string()));
        let attempted = Attempted { args: Some(args), made: Some(&gathered), counters: &counters };
        let held = Held { manifest: Some(manifest), ..self.held(task, &attempted) };
        self.store.private.keep(&handle, &held, Some(&gathered), scratch)?;
        let local = ArtifactRef { id: handle, ty: held.ty(), private_to: Some(self.name.clone()) };
        let leaving = if task.release.is_empty() {
            Leaving::default()
        } else {
            let known = known_names(&self.store, fetched)?;
            let numbers = self.stage(task)?.stage().metrics();
            let lineage = held.lineage.unwrap_or_default();
            let (store, allowed, min_rows) = (&self.store, self.allowed, self.limits.min_rows);
            let releaser =
                Releaser { store, allowed, known: &known, numbers: &numbers, lineage: &lineage, min_rows };
            releaser.take(task, &local)
        };
        self.delivered(task, handle, leaving)
    }

    /// A private task whose `when` was false.
    ///
    /// # Errors
    /// Why that could not be kept.
    pub(crate) fn absent(&self, task: &Task, promised: Option<Digest>) -> Result<Made, Failure> {
        let handle = promised.unwrap_or_else(|| self.handle(task, "absent"));
        self.store.private.keep(&handle, &self.held(task, &Attempted::NOTHING), None, Path::new(""))?;
        Ok(Made { absent: true, ..self.delivered(task, handle, nothing_of(task))? })
    }

    /// A private task that failed. The failure stays here: the engine gets a handle, as for any other, and
    /// a later task that reads it is told here that its input failed.
    ///
    /// # Errors
    /// [`FailureClass::Internal`] for a task whose output can be no artifact.
    pub(crate) fn failed(
        &self,
        task: &Task,
        failure: Failure,
        promised: Option<Digest>,
    ) -> Result<Made, Failure> {
        let handle = promised.unwrap_or_else(|| self.handle(task, "failed"));
        let held = Held { failure: Some(failure.clone()), ..self.held(task, &Attempted::NOTHING) };
        if let Err(e) = self.store.private.keep(&handle, &held, None, Path::new("")) {
            // A later task that reads it will find nothing.
            tracing::error!("{}: that it failed could not be kept: {e}", task.name);
        }
        Ok(Made { failure: Some(failure), ..self.delivered(task, handle, nothing_of(task))? })
    }

    /// A handle for the outcome of a task. The same task with the same outcome has the same handle,
    /// so that results can be reused; equal outcomes of different tasks have different ones, so
    /// that the engine learns nothing by comparing them. Limits and what is downloaded are part of the task
    /// here: one that is tried under other limits, or without one of the pLLMs that may be chosen, could
    /// otherwise tell by its handle which limit it exceeded, or which pLLM it wanted.
    pub(crate) fn handle(&self, task: &Task, outcome: &str) -> Digest {
        let kind = match &task.program {
            Some(program) => format!("{}@{program}", task.kind.rsplit('.').next().unwrap_or_default()),
            None => task.kind.clone(),
        };
        let what = (&kind, task.version, &task.ty, &task.args, &task.when, outcome);
        let limits = (task.memory, task.timeout_ms);
        let mut downloads: Vec<_> = task.prefetch.iter().map(|a| a.id).collect();
        downloads.sort_unstable();
        downloads.dedup();
        let text = match (limits, downloads.is_empty()) {
            ((None, None), true) => canonical_json(&what),
            (limits, true) => canonical_json(&(what, limits)),
            (limits, false) => canonical_json(&(what, limits, downloads)),
        };
        self.state.handle(text.as_bytes())
    }

    /// The outcome as the engine sees it: a handle whose type is the declared one, whatever it stands for.
    fn delivered(&self, task: &Task, handle: Digest, leaving: Leaving) -> Result<Made, Failure> {
        let ty = ArtifactType::of(&task.ty).ok_or_else(|| {
            Failure::new(FailureClass::Internal, format!("a {} cannot be a stage's output", task.ty))
        })?;
        let output = ArtifactRef { id: handle, ty, private_to: Some(self.name.clone()) };
        let (leaving, charges) = self.charged(task, handle, leaving);
        let Leaving { released, manifests, uploads, withheld, few: _ } = leaving;
        let outcome = Outcome::Succeeded { output, released, usage: Usage::default() };
        Ok(Made { manifests, uploads, withheld, charges, ..Made::of(outcome) })
    }

    /// What leaves within the budget, and what that costs. A part that it does not suffice for stays. Weights
    /// are not counted: they hold far more than numbers could, and leave only by the owner's own word.
    fn charged(&self, task: &Task, handle: Digest, mut leaving: Leaving) -> (Leaving, Vec<Charge>) {
        let ledger = Ledger::new(&self.state);
        let mut charges: Vec<Charge> = Vec::new();
        for path in &task.release {
            let part = path.join(".");
            let mut numbers = match leaving.released.get(&part) {
                Some(Released::Json(value)) => count(&task.ty, path, value),
                // Which public model was chosen.
                Some(Released::Artifact(a)) if !leaving.manifests.contains_key(&a.id.to_string()) => {
                    vec![format!("{part} (name)")]
                }
                _ => continue,
            };
            // That a number stays, because too few rows are behind it, is a number too.
            numbers.extend(leaving.few.get(&part).into_iter().flatten().map(|name| format!("{name} (none)")));
            let charge = |number| Charge { handle, number, name: task.name.clone(), run: task.run.clone() };
            let wanted = numbers.into_iter().map(charge).collect();
            let budget = self.limits.budget;
            match ledger.affords(&self.data, budget, &charges, wanted) {
                Ok(Some(new)) => charges.extend(new),
                refused => {
                    let why = match refused {
                        Err(e) => e.to_string(),
                        Ok(_) => format!(
                            "the budget of {budget} numbers is spent; `headstart-device budget` shows on what"
                        ),
                    };
                    tracing::warn!("{}: {part:?} is not released: {why}", task.name);
                    leaving.withheld.insert(part.clone(), why);
                    leaving.released.insert(part, Released::Json(serde_json::Value::Null));
                }
            }
        }
        (leaving, charges)
    }
}

/// The released parts of a task that made nothing.
fn nothing_of(task: &Task) -> Leaving {
    let null = || Released::Json(serde_json::Value::Null);
    Leaving {
        released: task.release.iter().map(|path| (path.join("."), null())).collect(),
        ..Leaving::default()
    }
}
