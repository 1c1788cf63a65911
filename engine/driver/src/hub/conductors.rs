//! What conductors tell the hub, and ask it.

use std::sync::mpsc::Sender;

use headstart_core::PlaceFacts;
use headstart_protocol::wire::Committed;

use super::{Granted, Hub, Offer, Presence};
use crate::message::Message;

impl Hub {
    /// Tells a run when one of its devices joins.
    pub(crate) fn watch(&self, run: &str, devices: Vec<String>, conductor: &Sender<Message>) {
        self.leases().watch(run, devices, conductor);
    }

    /// Offers an instance to its device.
    pub(crate) fn offer(&self, device: &str, offer: Offer) {
        self.leases().offer(device, offer);
    }

    /// Takes back what a run offers.
    pub(crate) fn withdraw(&self, run: &str) {
        self.leases().withdraw(|o| o.run == run);
    }

    /// Takes back one offer.
    pub(crate) fn withdraw_one(&self, run: &str, instance: u32) {
        self.leases().withdraw(|o| o.run == run && o.instance == instance);
    }

    /// Remembers how a commit was answered, for when it is repeated; the first answer stays.
    pub(crate) fn answered(&self, fence: u64, answer: Committed) {
        self.leases().answered(fence, answer);
    }

    /// Forgets a run that has ended, but for the fences that late commits come under.
    pub(crate) fn forget_run(&self, run: &str) {
        self.leases().forget_run(run);
    }

    /// Whether the device of an attempt was heard of since a time, without having joined again.
    pub(crate) fn is_heard_since(&self, fence: u64, since_ms: u64) -> bool {
        self.leases().is_heard_since(fence, since_ms)
    }

    /// What is known of a device, as of its last join, for the keys of what it makes: private or public.
    pub(crate) fn place_facts(&self, device: &str, private: bool) -> PlaceFacts {
        let generation = if private { self.generation(device) } else { 0 };
        PlaceFacts { generation, ..self.inner.devices.place_facts(device) }
    }

    /// How often a device's owner asked for everything to be tried again.
    fn generation(&self, device: &str) -> u64 {
        self.leases().generation(device).max(self.inner.devices.generation(device))
    }

    /// Whether a device can take an offer that waits for it.
    pub(crate) fn presence(&self, run: &str, instance: u32, device: &str) -> Presence {
        self.leases().presence(run, instance, device)
    }

    /// Conditions of an offer that do not hold on its device.
    pub(crate) fn unmet_conditions(&self, run: &str, instance: u32, device: &str) -> Vec<String> {
        self.leases().unmet_conditions(run, instance, device)
    }

    /// Knows an attempt as granted: just now, or before the engine was started again.
    pub(crate) fn granted(&self, fence: u64, instance: u32, granted: Granted) {
        if granted.session == 0
            && let Some(task) = &granted.task
            && let Err(e) = self.open_to(&granted.device, task)
        {
            let device = &granted.device;
            tracing::warn!(device, error = %e, "what an attempt reads could not be worked out again");
        }
        self.leases().grant(fence, instance, granted);
    }
}
