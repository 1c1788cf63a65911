//! What happens because time passes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use headstart_core::{EventKind, LossCause, Status};
use headstart_dsl::plan::Place;
use headstart_protocol::{Failure, FailureClass};

use super::ready::is_light;
use super::{Conductor, Live, Runner};
use crate::hub::{Granted, Presence, WaitReason};
use crate::message::{Lease, Throttle};

/// How often leases and waits are checked: they change without a message.
const POLL_INTERVAL: Duration = Duration::from_millis(500);

impl Conductor {
    /// How long nothing can happen without a message.
    pub(super) fn pause(&mut self) -> Duration {
        if !self.fresh.is_empty() {
            return Duration::ZERO;
        }
        let now = self.now();
        let retry = self.retries.first().map(|(at, _)| *at);
        let lease = self.live.values().filter_map(Live::ends_ms).min();
        let next = [retry, lease, self.stop_deadline_ms].into_iter().flatten().min();
        let next = next.map_or(Duration::from_secs(3600), |at| Duration::from_millis(at.saturating_sub(now)));
        let next = self.claims_pause(next);
        if self.offered.is_empty() { next } else { next.min(POLL_INTERVAL) }
    }

    /// Ends leases, limits and pauses whose time has come.
    pub(super) fn process_timers(&mut self) {
        let now = self.now();
        while let Some((at, instance)) = self.retries.first().copied()
            && at <= now
        {
            self.retries.remove(&(at, instance));
            self.fresh.push(instance);
        }
        let over: Vec<u64> = self
            .live
            .iter()
            .filter(|(_, l)| l.ends_ms().is_some_and(|e| e <= now))
            .map(|(f, _)| *f)
            .collect();
        for fence in over {
            self.end_overdue(fence);
        }
        if self.stop_deadline_ms.is_some_and(|at| at <= now) {
            let rest: Vec<u64> = self.live.keys().copied().collect();
            for fence in rest {
                self.abandon(fence);
            }
        }
        self.expire_waits(now);
        self.process_claims(now);
    }

    fn end_overdue(&mut self, fence: u64) {
        let Some(live) = self.live.get(&fence) else { return };
        let instance = live.instance;
        match &live.runner {
            Runner::Device { lease } => {
                let lease_ms =
                    u64::try_from(self.engine.options.device_lease.as_millis()).unwrap_or(u64::MAX);
                let renewed_ms = lease.until_ms().saturating_sub(lease_ms);
                // A device that is heard of, but not about this attempt, has lost it by what the stage does.
                let stage = self.engine.hub.is_heard_since(fence, renewed_ms);
                let cause = if stage { LossCause::Stage } else { LossCause::Device };
                self.lease_lost(instance, fence, cause);
            }
            Runner::Local { .. } => {
                self.replace_worker(fence);
                let name = self.state.instance(instance).name.clone();
                let message = format!("`{name}` ran past its time limit and does not react");
                self.failed(instance, fence, Failure::new(FailureClass::Timeout, message));
            }
        }
    }

    /// Gives up on an attempt that was told to stop.
    fn abandon(&mut self, fence: u64) {
        self.replace_worker(fence);
        if let Some(live) = self.live.get(&fence) {
            self.lease_lost(live.instance, fence, LossCause::Engine);
        }
    }

    /// Starts a worker in the place of one that hangs; that one ends when its stage returns.
    fn replace_worker(&self, fence: u64) {
        let Some(Live { instance, runner: Runner::Local { control, .. }, .. }) = self.live.get(&fence) else {
            return;
        };
        let light = is_light(&self.state.instance(*instance).kind);
        control.cancel.store(true, Ordering::Release);
        if !control.abandoned.swap(true, Ordering::AcqRel) {
            control.give_back();
            if let Err(e) = self.engine.pool.add_worker(!light) {
                tracing::error!(error = %e, "no worker in the place of one that hangs");
            }
        }
    }

    /// Fails what waits too long for a device.
    fn expire_waits(&mut self, now: u64) {
        if self.offered.is_empty() || self.stopping.is_some() {
            return;
        }
        let mut late: BTreeMap<String, Vec<(u32, String)>> = BTreeMap::new();
        for instance in self.offered.iter().copied() {
            let inst = self.state.instance(instance);
            let (Place::Device(device), Status::Ready { since_ms, .. }) =
                (&inst.place, self.state.status(instance))
            else {
                continue;
            };
            if let Some(why) = self.wait_expired(instance, device, *since_ms, now) {
                late.entry(device.clone()).or_default().push((instance, why));
            }
        }
        for (device, waiting) in late {
            let names: Vec<String> =
                waiting.iter().map(|(i, _)| format!("`{}`", self.state.instance(*i).name)).collect();
            for (instance, why) in waiting {
                let message = format!("{why}; waiting for it: {}", names.join(", "));
                let help = match self.engine.hub.unmet_conditions(&self.id, instance, &device) {
                    unmet if unmet.is_empty() => {
                        let unapproved = match self.engine.hub.presence(&self.id, instance, &device) {
                            Presence::Unapproved(digest) => Some(WaitReason::Contract(digest)),
                            _ => None,
                        };
                        let unpaired = || self.engine.hub.unpaired(&device);
                        let why = unapproved.or_else(unpaired).unwrap_or(WaitReason::Join);
                        why.help(&device, self.options.address.as_deref())
                    }
                    unmet => format!(
                        "the device reports conditions with `--holds {}`; `wait:` in the stage's settings says how \
                         long it waits",
                        unmet.join(",")
                    ),
                };
                self.offered.remove(&instance);
                self.engine.hub.withdraw_one(&self.id, instance);
                // The runner is lost before it was found: retrying within this run would only wait
                // again.
                self.fail_unattempted(instance, Failure::new(FailureClass::Lost, message).help(help));
            }
        }
    }

    /// Why an instance has waited too long for its device; `None` if it has not.
    fn wait_expired(&self, instance: u32, device: &str, since: u64, now: u64) -> Option<String> {
        let limit = self.state.instance(instance).policy.wait_ms;
        if let Some(limit) = limit
            && now.saturating_sub(since) > limit
        {
            let within = Duration::from_millis(limit);
            let why = match self.engine.hub.unmet_conditions(&self.id, instance, device) {
                unmet if unmet.is_empty() => String::new(),
                unmet => format!(": `only_when: {}` does not hold there", unmet.join(", ")),
            };
            return Some(format!("device `{device}` did not take the stage within {within:?}{why}"));
        }
        let patience = self.options.device_wait?;
        let waited = |from: u64| Duration::from_millis(now.saturating_sub(from)) > patience;
        match self.engine.hub.presence(&self.id, instance, device) {
            Presence::Present => None,
            Presence::Absent { last_seen_ms: None } => {
                waited(since).then(|| format!("device `{device}` did not join within {patience:?}"))
            }
            Presence::Absent { last_seen_ms: Some(seen) } => {
                waited(since.max(seen)).then(|| format!("device `{device}` was silent for {patience:?}"))
            }
            Presence::Unapproved(_) => waited(since)
                .then(|| format!("the owner of device `{device}` has not approved what the run needs")),
            Presence::Unfit(why) => {
                waited(since).then(|| format!("device `{device}` cannot run the stage: {why}"))
            }
        }
    }

    /// Readopts a run whose engine ended: its own attempts ended with it, those of devices may still
    /// run.
    pub(super) fn readopt(&mut self) {
        let live: Vec<(u64, u32)> = self.state.running().collect();
        let lease_ms = u64::try_from(self.engine.options.device_lease.as_millis()).unwrap_or(u64::MAX);
        for (fence, instance) in live {
            let key = self.state.key(instance);
            match self.state.instance(instance).place.clone() {
                Place::Device(device) => {
                    let lease = Arc::new(Lease::new(self.last_ms.saturating_add(lease_ms)));
                    let task = self.granted_task(instance, fence);
                    let granted = Granted::new(&device, &self.id, &self.me, Arc::clone(&lease), 0, task);
                    self.engine.hub.granted(fence, instance, granted);
                    let runner = Runner::Device { lease };
                    // The pre-image is made again if the key is still the same.
                    let key = key.and_then(|k| self.preimage_of(instance).filter(|(again, _)| *again == k));
                    let logged = Throttle::new(Duration::from_secs(1));
                    self.live
                        .insert(fence, Live { instance, key, runner, claim: None, logged, checkpoint: None });
                }
                Place::Server => {
                    let cause = Some(LossCause::Engine);
                    self.record(EventKind::LeaseExpired { instance, fence, cause });
                }
            }
        }
        let ready: Vec<u32> = self.state.ready().collect();
        self.fresh.extend(ready);
    }
}

impl Live {
    /// When it is over unless something happens.
    fn ends_ms(&self) -> Option<u64> {
        match &self.runner {
            Runner::Local { overdue_ms, .. } => *overdue_ms,
            Runner::Device { lease } => Some(lease.until_ms()),
        }
    }
}
