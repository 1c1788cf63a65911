//! What the hub knows of a device, and which offers it can take.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::mpsc::Sender;

use headstart_protocol::Digest;
use headstart_protocol::wire::{Facts, program_kind};
use tokio::sync::Notify;

use crate::message::Message;

/// Held while a claim is answered.
pub(super) type Turn = tokio::sync::Mutex<()>;

/// An instance that waits for its device.
pub(crate) struct Offer {
    pub run: String,
    pub conductor: Sender<Message>,
    pub instance: u32,
    pub name: String,
    pub kind: String,
    /// The program of a custom stage, by digest.
    pub program: Option<Digest>,
    pub memory: Option<u64>,
    pub only_when: Vec<String>,
}

/// A device.
#[derive(Default)]
pub(super) struct Device {
    pub(super) bell: Arc<Notify>,
    pub(super) turn: Arc<Turn>,
    pub(super) offers: VecDeque<Offer>,
    pub(super) session: u64,
    pub(super) kinds: BTreeSet<String>,
    pub(super) facts: Facts,
    pub(super) seen_ms: Option<u64>,
    pub(super) waiting: usize,
    pub(super) manifests: BTreeSet<Digest>,
    pub(super) blobs: BTreeSet<Digest>,
    /// Proposals that its owner had not approved, by run and instance, and how often the owner had approved
    /// something then.
    pub(super) refused: BTreeMap<(String, u32), (Digest, u64)>,
}

impl Device {
    /// Why it can never run an offer.
    pub(super) fn unfit(&self, offer: &Offer) -> Option<String> {
        if let Some(digest) = &offer.program {
            if !self.kinds.contains(&program_kind(digest)) {
                return Some(format!(
                    "its owner has not allowed the program of `{}`, or has another version of it; \
                     `headstart-device join --stages DIR` allows the programs of a folder",
                    offer.kind
                ));
            }
        } else if !self.kinds.contains(&offer.kind) {
            return Some(format!("its runner has no `{}`", offer.kind));
        }
        match offer.memory {
            Some(needed) if self.facts.memory > 0 && needed > self.facts.memory => Some(format!(
                "`{}` needs {} MiB of memory and the device has {} MiB",
                offer.name,
                needed >> 20,
                self.facts.memory >> 20
            )),
            _ => None,
        }
    }

    /// Conditions of an offer that do not hold now.
    pub(super) fn unmet(&self, offer: &Offer) -> Vec<String> {
        offer.only_when.iter().filter(|c| !self.facts.holds.contains(c)).cloned().collect()
    }

    /// The proposal that its owner has not approved, so that it would refuse an offer again.
    pub(super) fn unapproved(&self, run: &str, instance: u32) -> Option<Digest> {
        let (digest, approvals) = self.refused.get(&(run.to_owned(), instance))?;
        (*approvals == self.facts.approvals).then_some(*digest)
    }

    pub(super) fn qualifies(&self, offer: &Offer) -> bool {
        self.unfit(offer).is_none()
            && self.unmet(offer).is_empty()
            && self.unapproved(&offer.run, offer.instance).is_none()
    }
}
