//! What the owner of a device is asked to approve: everything that the run places there, and the models that it is
//! given, as far as they exist.
//!
//! The first private task of a device waits until all that is only read or declared is there, so that one approval
//! covers the run; what the run makes later itself needs another, if it is a model.

use std::collections::{BTreeMap, BTreeSet};

use headstart_core::Status;
use headstart_core::prepare::catalogs_behind;
use headstart_dsl::plan::Place;
use headstart_protocol::contract::{Proposal, Role, is_part, is_source};
use headstart_protocol::{ArtifactRef, ArtifactType, Digest, Failure, Type};
use headstart_store::ContentError;

use super::Conductor;

/// What a device is given in a run.
pub(super) struct Given {
    /// What the plan places there.
    placed: Proposal,
    /// Public instances that make models, spaces and catalogs which its stages may be given.
    makers: Vec<u32>,
    /// What has to be over before anything private is offered to it; those that are go.
    sources: Vec<u32>,
}

impl Conductor {
    /// Everything that a device's owner is asked to approve.
    pub(super) fn proposal(&mut self, device: &str) -> Result<Proposal, Failure> {
        let given = self.given.remove(device).unwrap_or_else(|| self.find_given(device));
        let models = self.models_of(&given.makers).map_err(crate::local::store_failure);
        let proposal = Proposal { models: models?, ..given.placed.clone() };
        self.given.insert(device.to_owned(), given);
        Ok(proposal)
    }

    /// Whether an instance has to wait until what its device is given is there.
    pub(super) fn waits_for_sources(&mut self, instance: u32) -> bool {
        let inst = self.state.instance(instance);
        let Place::Device(device) = &inst.place else { return false };
        if inst.private_to.is_none() {
            return false;
        }
        let device = device.clone();
        let mut given = self.given.remove(&device).unwrap_or_else(|| self.find_given(&device));
        while given.sources.last().is_some_and(|i| self.is_over(*i)) {
            given.sources.pop();
        }
        let waits = !given.sources.is_empty();
        self.given.insert(device, given);
        waits
    }

    fn is_over(&self, instance: u32) -> bool {
        matches!(
            self.state.status(instance),
            Status::Done(_) | Status::Skipped | Status::Failed(_) | Status::Blocked { .. }
        )
    }

    /// Offers what was held back, once nothing is missing any more.
    pub(super) fn offer_held(&mut self) {
        for instance in std::mem::take(&mut self.held) {
            if matches!(self.state.status(instance), Status::Ready { .. }) {
                self.queue(instance);
            }
        }
    }

    fn find_given(&self, device: &str) -> Given {
        let plan = self.state.plan();
        let graph = self.state.graph();
        let ty = |i: u32| plan.items[plan.instances[i as usize].item as usize].ty.present().clone();
        let public = |i: &u32| plan.instances[*i as usize].private_to.is_none();
        let (mut makers, mut catalogs) = (BTreeSet::new(), BTreeSet::new());
        for (i, inst) in plan.instances.iter().enumerate() {
            if matches!(&inst.place, Place::Device(d) if d == device) {
                let i = i as u32;
                makers.extend(graph.inputs(i).iter().copied().filter(public));
                catalogs.extend(catalogs_behind(&self.state, i));
            }
        }
        // A catalog's pLLMs, before it lists them.
        let catalogs: Vec<u32> = catalogs.into_iter().collect();
        let pllms = graph.ancestors(&catalogs).into_iter().filter(|i| public(i) && ty(*i) == Type::Pllm);
        makers.extend(pllms);
        makers.extend(&catalogs);
        // What an adapter is for is found out by its manifest, once it is there.
        let mut sources = makers.clone();
        let all: Vec<u32> = makers.iter().copied().collect();
        sources.extend(graph.ancestors(&all));
        let on_engine = |i: &u32| {
            let inst = &plan.instances[*i as usize];
            let gives = matches!(ty(*i), Type::Model | Type::Space | Type::Pllm);
            inst.place == Place::Server && public(i) && gives && is_source(&inst.kind)
        };
        Given {
            placed: plan.proposal(device),
            makers: all,
            sources: sources.into_iter().filter(on_engine).collect(),
        }
    }

    /// The models that the results of instances are, or are for.
    fn models_of(&self, makers: &[u32]) -> Result<BTreeSet<Digest>, ContentError> {
        let outputs = makers.iter().filter_map(|i| match self.state.status(*i) {
            Status::Done(done) if done.output.private_to.is_none() => Some(done.output.clone()),
            _ => None,
        });
        let mut todo: Vec<ArtifactRef> = outputs.collect();
        let (mut models, mut seen) = (BTreeSet::new(), BTreeSet::new());
        while let Some(artifact) = todo.pop() {
            if !seen.insert(artifact.id) {
                continue;
            }
            let Some(manifest) = self.engine.manifests.get(&artifact.id)? else { continue };
            match Role::of(&manifest) {
                Role::Adapter { base } => todo.push(base),
                Role::Model => {
                    models.insert(artifact.id);
                    let parts = manifest.uses.iter().filter(|(name, _)| is_part(artifact.ty, name));
                    todo.extend(parts.map(|(_, used)| used.clone()));
                }
                Role::Data if artifact.ty == ArtifactType::Catalog => {
                    let pllms = manifest.uses.iter().filter(|(name, _)| name.starts_with("pllm:"));
                    todo.extend(pllms.map(|(_, used)| used.clone()));
                }
                Role::Data => {}
            }
        }
        Ok(models)
    }
}

/// What every device is given, found out when it is first asked for.
pub(super) type GivenTo = BTreeMap<String, Given>;
