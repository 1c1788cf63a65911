//! Results that are gone or damaged: they are made again.

use std::collections::BTreeSet;
use std::sync::Arc;

use headstart_core::{EventKind, Status, prepare};
use headstart_protocol::Digest;
use headstart_protocol::expr::Expr;
use headstart_protocol::task::Released;

use super::Conductor;
use crate::manifest_cache::artifacts_in;

/// How often an output that is gone is made again.
const MAX_INVALIDATED: u32 = 3;

impl Conductor {
    /// Looks for inputs of an instance that are gone, and has them made again. False if none is
    /// gone, or making them again did not help before.
    pub(super) fn rebuild_missing_inputs(&mut self, instance: u32) -> bool {
        let plan = Arc::clone(self.state.plan());
        let inst = &plan.instances[instance as usize];
        let exprs: Vec<Expr> =
            inst.args.values().chain(&inst.when).filter_map(|e| self.state.substitute(e)).collect();
        let Some(gone) = self.gone(&exprs) else { return false };
        let mut makers: Vec<u32> = self.state.graph().ancestors(&[instance]);
        makers.retain(|i| *i != instance);
        makers.retain(|i| match self.state.status(*i) {
            // The engine cannot look; the device said that something is gone.
            Status::Done(done) if done.output.private_to.is_some() && gone.is_empty() => {
                self.state.graph().inputs(instance).contains(i)
            }
            _ => self.made_one_of(*i, &gone),
        });
        self.make_again(&makers)
    }

    /// Reads what the pipeline puts out, and has made again what is gone or damaged. False if everything is
    /// intact, or making it again did not help before.
    pub(super) fn rebuild_damaged_outputs(&mut self) -> bool {
        let plan = Arc::clone(self.state.plan());
        let exprs: Vec<Expr> = plan.outputs.iter().filter_map(|o| self.state.substitute(&o.value)).collect();
        let Some(mut gone) = self.gone(&exprs) else { return false };
        let manifests = &self.engine.manifests;
        let values = plan.outputs.iter().map(|o| prepare::output_value(&self.state, &o.value, manifests));
        for value in values.filter_map(|value| value.ok().flatten()) {
            value.each_artifact(&mut |a| {
                if a.private_to.is_none() && !manifests.is_intact(&a.id) {
                    gone.insert(a.id);
                }
            });
        }
        if gone.is_empty() {
            return false;
        }
        let mut roots = Vec::new();
        plan.outputs.iter().for_each(|o| o.value.each_output(&mut |i| roots.push(i)));
        let mut makers = self.state.graph().ancestors(&roots);
        makers.retain(|i| self.made_one_of(*i, &gone));
        self.make_again(&makers)
    }

    /// The public artifacts that can be reached from expressions and are not here; `None` if that cannot
    /// be found out.
    fn gone(&self, exprs: &[Expr]) -> Option<BTreeSet<Digest>> {
        let reach = self.engine.manifests.reach(artifacts_in(exprs)).ok()?;
        Some(reach.keys().map(|a| a.id).filter(|id| !self.engine.manifests.has(id)).collect())
    }

    /// Whether an instance made one of these artifacts, or released it.
    fn made_one_of(&self, instance: u32, gone: &BTreeSet<Digest>) -> bool {
        let Status::Done(done) = self.state.status(instance) else { return false };
        let released = done.released.values().any(|r| match r {
            Released::Artifact(a) => gone.contains(&a.id),
            Released::Json(_) => false,
        });
        released || done.output.private_to.is_none() && gone.contains(&done.output.id)
    }

    /// Has instances run again, but none for ever. False if there is nothing to do.
    fn make_again(&mut self, makers: &[u32]) -> bool {
        let makers: Vec<u32> =
            makers.iter().copied().filter(|i| self.state.invalidated(*i) < MAX_INVALIDATED).collect();
        for maker in &makers {
            if let Some(key) = self.state.key(*maker) {
                self.engine.ws.cache().stage_forget(&key);
            }
            self.record(EventKind::Invalidated { instance: *maker });
        }
        !makers.is_empty()
    }
}
