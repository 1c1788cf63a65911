//! What becomes of an instance that is ready.

use std::sync::Arc;

use headstart_core::prepare::{Decision, Prepared, prepare};
use headstart_core::{EventKind, Status};
use headstart_dsl::plan::Place;
use headstart_protocol::expr::ResolveError;
use headstart_protocol::kinds::{self, Role};
use headstart_protocol::{Digest, Failure, FailureClass};
use headstart_store::CacheEntry;
use headstart_store::gc::InUse;

use super::Conductor;
use crate::hub::Offer;
use crate::pool::{Job, Weight};
use crate::reuse;

/// An instance, ready to be attempted.
pub(super) struct Planned {
    pub prepared: Prepared,
    pub key: Option<(Digest, String)>,
}

impl Conductor {
    /// Deals with everything that became ready, and with what becomes ready by that.
    pub(super) fn process_ready(&mut self) {
        while !self.fresh.is_empty() && self.broken.is_none() {
            let mut fresh = std::mem::take(&mut self.fresh);
            if self.stopping.is_some() {
                return;
            }
            fresh.sort_unstable();
            fresh.dedup();
            let mut keyed = Vec::new();
            for instance in fresh {
                let Status::Ready { not_before_ms, .. } = *self.state.status(instance) else { continue };
                let lost = self.state.stage_losses(instance);
                if lost >= self.state.instance(instance).policy.losses {
                    // It ends whatever runs it.
                    self.record(EventKind::Quarantined { instance, lost });
                    self.after_failure();
                } else if not_before_ms > self.now() {
                    self.retries.insert((not_before_ms, instance));
                } else if let Some(planned) = self.plan_attempt(instance) {
                    match planned.key {
                        Some((key, _)) => keyed.push((instance, key)),
                        None => self.queue(instance),
                    }
                }
            }
            self.look_up(&keyed);
        }
    }

    /// Prepares a ready instance. `None` if that settled it: skipped, failed, or waiting for an
    /// input that is made again.
    pub(super) fn plan_attempt(&mut self, instance: u32) -> Option<Planned> {
        match prepare(&self.state, instance, &self.engine.manifests) {
            Ok(Decision::Skip) => {
                self.record(EventKind::Skipped { instance, fence: None });
                None
            }
            Ok(Decision::Run(prepared)) => {
                if self.state.instance(instance).place == Place::Server && prepared.is_private() {
                    let name = &self.state.instance(instance).name;
                    let message = format!("`{name}` would take a private value off its device");
                    self.fail_unattempted(instance, Failure::new(FailureClass::Internal, message));
                    return None;
                }
                let key = self.key_of(&prepared, instance);
                Some(Planned { prepared, key })
            }
            Err(ResolveError::Manifest(why)) => {
                if !self.rebuild_missing_inputs(instance) {
                    self.fail_unattempted(instance, Failure::new(FailureClass::MissingArtifact, why));
                }
                None
            }
            Err(e) => {
                let name = &self.state.instance(instance).name;
                self.fail_unattempted(instance, Failure::input(format!("the arguments of `{name}`: {e}")));
                None
            }
        }
    }

    /// How a running attempt was planned; `None` if that cannot be worked out any more.
    pub(super) fn plan_running(&self, instance: u32) -> Option<Planned> {
        match prepare(&self.state, instance, &self.engine.manifests) {
            Ok(Decision::Run(prepared)) => {
                let key = self.key_of(&prepared, instance);
                Some(Planned { prepared, key })
            }
            _ => None,
        }
    }

    /// The cache key of a prepared instance and its pre-image, for kinds that have one.
    fn key_of(&self, prepared: &Prepared, instance: u32) -> Option<(Digest, String)> {
        let facts = self.engine.place_facts(&self.state, instance);
        prepared.preimage(&self.state, instance, &facts).map(|preimage| preimage.key())
    }

    pub(super) fn fail_unattempted(&mut self, instance: u32, failure: Failure) {
        self.record(EventKind::Failed { instance, fence: None, failure, retry_at_ms: None });
        self.after_failure();
    }

    fn look_up(&mut self, keyed: &[(u32, Digest)]) {
        if keyed.is_empty() {
            return;
        }
        let Some(in_use) = self.uses_results() else { return };
        let keys: Vec<Digest> = keyed.iter().map(|(_, k)| *k).collect();
        let found = self.engine.ws.cache().stage_get_many(&keys);
        for ((instance, key), entry) in keyed.iter().zip(found) {
            if !self.reuse(*instance, *key, entry) {
                self.queue(*instance);
            }
        }
        self.journal.then(move || drop(in_use));
    }

    /// Keeps results from being collected, until the events are on disk that name them. `None` where the lock cannot
    /// be had, which stops the run.
    pub(super) fn uses_results(&mut self) -> Option<InUse> {
        match self.engine.ws.in_use() {
            Ok(in_use) => Some(in_use),
            Err(e) => {
                self.broken.get_or_insert(e.into());
                None
            }
        }
    }

    /// Takes a result that the cache remembers, if it serves the instance.
    pub(super) fn reuse(&mut self, instance: u32, key: Digest, entry: Option<CacheEntry>) -> bool {
        let entry = entry.and_then(|e| reuse::usable(&self.engine.manifests, &self.state, instance, e));
        let Some(CacheEntry { output, released, seconds }) = entry else { return false };
        self.record(EventKind::CacheHit { instance, key, output, released, saved_seconds: seconds })
    }

    pub(super) fn queue(&mut self, instance: u32) {
        if self.waits_for_sources(instance) {
            self.held.insert(instance);
            return;
        }
        let inst = self.state.instance(instance);
        match &inst.place {
            Place::Server => {
                let job = Job { run: Arc::clone(&self.name), conductor: self.me.clone(), instance };
                let weight = match is_light(&inst.kind) {
                    true => Weight::Light,
                    false => Weight::Heavy(self.engine.need(&self.state, instance)),
                };
                self.engine.pool.submit(job, weight);
            }
            Place::Device(device) => {
                self.engine.hub.offer(
                    device,
                    Offer {
                        run: self.id.clone(),
                        conductor: self.me.clone(),
                        instance,
                        name: inst.name.clone(),
                        kind: inst.kind.clone(),
                        program: self.state.plan().program(&inst.kind).map(|(p, _)| p.digest),
                        memory: inst.policy.memory,
                        only_when: inst.policy.only_when.clone(),
                    },
                );
                self.offered.insert(instance);
            }
        }
    }
}

/// What reads a file or folder mostly waits for the disk; stages compute.
pub(super) fn is_light(kind: &str) -> bool {
    kinds::find(kind).is_some_and(|k| k.role != Role::Stage || !k.cacheable)
}
