//! What becomes of a join.

use headstart_protocol::wire::{Join, WireError};
use headstart_transport::PublicKey;
use headstart_transport::proof::JoinClaim;

use super::pending::{MOST, Stranger};
use super::registry::{Device, Registry};
use super::{Devices, check_name};
use crate::error::EngineError;
use crate::refusal::{codes, wire};

/// That a device was heard of is written down after this long.
const SEEN_EVERY_MS: u64 = 15 * 60 * 1000;
/// Kinds of stages that a device may say that it can run.
const MOST_KINDS: usize = 256;
/// Longest of the words that a device says of itself, in bytes.
const LONGEST_WORD: usize = 128;
/// Most bytes of what a device says that it computes with, as JSON.
const LARGEST_NUMERICS: usize = 4096;

/// A device that may work.
pub(crate) struct Admitted {
    /// The name under which the engine knows it.
    pub name: String,
}

impl Devices {
    /// Admits a device that has proven to hold its key, or refuses it.
    pub(crate) fn admit(
        &self,
        key: &PublicKey,
        join: &Join,
        claim: &JoinClaim<'_>,
    ) -> Result<Admitted, WireError> {
        check_name(&join.device).map_err(|e| wire(codes::INVALID, e.to_string()))?;
        check_sizes(join)?;
        let registry = self.registry.read().map_err(internal)?;
        if let Some((name, device)) = registry.devices.iter().find(|(_, d)| d.key == *key) {
            if device.revoked {
                return Err(revoked(name));
            }
            let name = name.clone();
            self.heard_of(&name, key, join)?;
            return Ok(Admitted { name });
        }
        if join.invitation.is_some() {
            self.pair_invited(key, join, claim)?;
            self.pending.forget(key);
            tracing::info!(device = join.device, key = key.fingerprint(), "paired");
            return Ok(Admitted { name: join.device.clone() });
        }
        Err(self.ask(key, join))
    }

    /// Writes down what changed about a device.
    fn heard_of(&self, name: &str, key: &PublicKey, join: &Join) -> Result<(), WireError> {
        let now = self.now();
        let changed = |r: &Registry| {
            r.devices.get(name).is_some_and(|d| {
                d.version != join.version
                    || d.kinds != join.kinds
                    || d.numerics != join.numerics
                    || d.generation != join.facts.generation
                    || d.last_seen_ms.is_none_or(|at| now.saturating_sub(at) >= SEEN_EVERY_MS)
            })
        };
        if !self.registry.read().is_ok_and(|r| changed(&r)) {
            return Ok(());
        }
        let write = self.registry.change(|r| {
            if let Some(d) = r.devices.get_mut(name).filter(|d| d.key == *key) {
                describe(d, join, now);
            }
            Ok::<_, EngineError>(())
        });
        write.map_err(internal)
    }

    /// Pairs a device that proves to hold an open invitation. The file's lock makes it the only one.
    fn pair_invited(&self, key: &PublicKey, join: &Join, claim: &JoinClaim<'_>) -> Result<(), WireError> {
        let Some(shown) = &join.invitation else { return Err(unknown_invitation()) };
        let token: PublicKey = shown.key.parse().map_err(|_| unknown_invitation())?;
        if !claim.verify_invited(&token, &shown.proof) {
            return Err(unknown_invitation());
        }
        // Without the lock first: strangers must not be able to make the engine wait for the disk.
        let known = self.registry.read().map_err(internal)?;
        if !known.invitations.iter().any(|i| i.key == token) {
            return Err(unknown_invitation());
        }
        let now = self.now();
        let redeemed = self.registry.change(|r| Ok::<_, EngineError>(redeem(r, key, &token, join, now)));
        redeemed.map_err(internal)?
    }

    /// A stranger: waits for approval, if there is room.
    fn ask(&self, key: &PublicKey, join: &Join) -> WireError {
        let stranger = Stranger {
            name: join.device.clone(),
            key: *key,
            version: join.version.clone(),
            last_seen_ms: self.now(),
        };
        match self.pending.ask(stranger) {
            Err(e) => internal(e),
            Ok(false) => wire(
                codes::PENDING,
                format!(
                    "{MOST} devices wait for approval already; join with an invitation, or try again later"
                ),
            ),
            Ok(true) => wire(
                codes::PENDING,
                format!(
                    "the engine does not know this device's key and waits for its owner to approve it: \
                     headstart devices approve {}",
                    key.fingerprint()
                ),
            ),
        }
    }
}

/// Uses an invitation up and pairs the key; changes nothing if it refuses.
fn redeem(
    r: &mut Registry,
    key: &PublicKey,
    token: &PublicKey,
    join: &Join,
    now: u64,
) -> Result<(), WireError> {
    let at = r.invitations.iter().position(|i| i.key == *token && i.device == join.device);
    let at = at.ok_or_else(unknown_invitation)?;
    let refuse =
        |why: &str| Err(wire(codes::INVITATION, format!("{why}; ask the engine's owner for another")));
    if r.invitations[at].used.is_some() {
        return refuse("the invitation was used before");
    }
    if !r.invitations[at].is_open(now) {
        return refuse("the invitation has expired");
    }
    if r.devices.get(&join.device).is_some_and(|d| !d.revoked) {
        return refuse("another device has this name by now");
    }
    r.invitations[at].used = Some(*key);
    r.pair(&join.device, *key, now);
    if let Some(d) = r.devices.get_mut(&join.device) {
        describe(d, join, now);
    }
    Ok(())
}

/// What a device says of itself.
fn describe(device: &mut Device, join: &Join, now: u64) {
    device.version.clone_from(&join.version);
    device.kinds.clone_from(&join.kinds);
    device.numerics.clone_from(&join.numerics);
    device.generation = join.facts.generation;
    device.last_seen_ms = Some(now);
}

fn check_sizes(join: &Join) -> Result<(), WireError> {
    let short = |s: &String| s.len() <= LONGEST_WORD;
    let facts = &join.facts;
    let numerics = serde_json::to_string(&join.numerics).map_or(0, |text| text.len());
    let fits = short(&join.version)
        && join.version.chars().all(|c| c.is_ascii_graphic())
        && join.kinds.len() <= MOST_KINDS
        && join.kinds.iter().all(short)
        && numerics <= LARGEST_NUMERICS
        && check_facts(facts);
    if fits { Ok(()) } else { Err(wire(codes::INVALID, "what the device says of itself is too long")) }
}

/// Whether facts are of a size that is worth keeping.
pub(crate) fn check_facts(facts: &headstart_protocol::wire::Facts) -> bool {
    let short = |s: &String| s.len() <= LONGEST_WORD;
    facts.holds.len() <= 16
        && facts.holds.iter().all(short)
        && facts.other.len() <= 32
        && facts.other.iter().all(|(k, v)| short(k) && short(v))
}

fn unknown_invitation() -> WireError {
    wire(codes::INVITATION, "the engine does not know this invitation; ask its owner for another")
}

pub(crate) fn revoked(name: &str) -> WireError {
    wire(codes::REVOKED, format!("the engine's owner has revoked device `{name}`"))
}

fn internal(e: impl std::fmt::Display) -> WireError {
    // The cause is for the engine's log: it names folders of the engine's machine.
    tracing::error!("{e}");
    wire(codes::INTERNAL, "the engine's list of devices cannot be read or written")
}
