//! Decisions over private values in a task: what they are, and what they cost.
//!
//! Whether a `when` held, which branch an `or` took and how long an `until` lasted shows in how long the task took.
//! So each decision is part of what the owner approves, and counts as a number that leaves, before a private value
//! is looked at.

use std::collections::BTreeMap;

use headstart_protocol::contract::{Source, Sources, StageCondition, asked_conditions, stage_name};
use headstart_protocol::task::Task;
use headstart_protocol::{ArtifactRef, Failure};

use crate::budget::{Charge, Ledger};
use crate::device::Device;
use crate::gate::{not_approved, unresolved};
use crate::residency::reads_paths;
use crate::store::Private;

/// Names private artifacts by the stage that made them here.
struct Makers<'a>(&'a Private);

impl Sources for Makers<'_> {
    fn artifact(&self, artifact: &ArtifactRef) -> Source {
        let ty = format!("{:?}", artifact.ty);
        if artifact.private_to.is_none() {
            return Source::Public(ty);
        }
        // What an earlier version kept does not say.
        Source::Private(self.0.get(&artifact.id).and_then(|held| held.maker).unwrap_or(ty))
    }
}

impl Device {
    /// The decisions over private values that a task makes: all of them.
    ///
    /// # Errors
    /// [`headstart_protocol::FailureClass::Input`] for a task that cannot be judged, see [`Device::check`].
    pub(crate) fn decisions(&self, task: &Task) -> Result<Vec<StageCondition>, Failure> {
        let of = stage_name(&task.kind, task.program.as_ref());
        let makers = Makers(&self.store.private);
        asked_conditions(&of, &task.args, task.when.as_ref(), &makers).map_err(|e| unresolved(&e))
    }

    /// Counts the decisions of a task against the budget. Those of the same task count once: what it names by
    /// handles does not change.
    ///
    /// # Errors
    /// [`headstart_protocol::FailureClass::Denied`] where the budget does not suffice: like any refusal that
    /// depends on the task and on what left before.
    pub(crate) fn charge_decisions(&self, task: &Task, decisions: &[StageCondition]) -> Result<(), Failure> {
        if decisions.is_empty() {
            return Ok(());
        }
        // A file may be another one by now.
        let which = if reads_paths(task) { format!("decides {}", task.fence) } else { "decides".to_owned() };
        let handle = self.handle(task, &which);
        let mut times: BTreeMap<String, u32> = BTreeMap::new();
        let charge = |decision: &StageCondition| {
            let number = format!("time of `{} {}`", decision.at, decision.rule);
            let n = times.entry(number.clone()).or_default();
            *n += 1;
            let number = if *n == 1 { number } else { format!("{number} ({n})") };
            Charge { handle, number, name: task.name.clone(), run: task.run.clone() }
        };
        let wanted = decisions.iter().map(charge).collect();
        let budget = self.limits.budget;
        match Ledger::new(&self.state).spend(&self.data, budget, wanted) {
            Ok(true) => Ok(()),
            Ok(false) => Err(not_approved(&format!(
                "the time of this task tells what its conditions come to, and the budget of {budget} numbers is \
                 spent; `headstart-device budget` shows on what, `headstart-device budget --reset` starts over"
            ))),
            Err(e) => Err(not_approved(&e.to_string())),
        }
    }
}
