//! Hello and join: how a device comes to a session.

use data_encoding::HEXLOWER;
use headstart_env::Random;
use headstart_protocol::PROTOCOL_VERSION;
use headstart_protocol::wire::{Hello, Join, Joined, Signed, Welcome, WireError};
use headstart_transport::PublicKey;
use headstart_transport::proof::JoinClaim;
use headstart_transport::signed::{self, Kind};

use super::{Hub, codes, internal, wire};
use crate::hosts::host_name;
use crate::message::Message;

/// A challenge is to be answered within this time.
const CHALLENGE_LASTS_MS: u64 = 60_000;
/// Longest nonce of a device, in bytes of text.
const LONGEST_NONCE: usize = 128;

impl Hub {
    /// A fresh challenge for a caller that states `key`, and has proven it if the channel proves it. The
    /// engine keeps nothing of it.
    ///
    /// # Errors
    /// [`codes::PROTOCOL`], [`codes::INVALID`].
    pub fn hello(&self, key: &PublicKey, hello: &Hello) -> Result<Signed, WireError> {
        check_protocol(hello.protocol)?;
        check_nonce(&hello.nonce)?;
        let challenge = self.challenge(key, self.inner.env.clock.now_ms());
        let welcome = Welcome { challenge, nonce: hello.nonce.clone(), protocol: PROTOCOL_VERSION };
        self.sign(key, Kind::Welcome, 0, &welcome)
    }

    /// When it was given, and what only this engine can compute from that and the key.
    fn challenge(&self, key: &PublicKey, issued_ms: u64) -> String {
        let mut given = issued_ms.to_be_bytes().to_vec();
        given.extend_from_slice(key.as_bytes());
        let mac = blake3::keyed_hash(&self.inner.challenge_key, &given);
        HEXLOWER.encode(&[&issued_ms.to_be_bytes()[..], mac.as_bytes()].concat())
    }

    /// Whether a challenge was given to this key, lately.
    fn is_fresh(&self, key: &PublicKey, challenge: &str) -> bool {
        let issued = HEXLOWER.decode(challenge.as_bytes()).ok();
        let issued = issued.and_then(|b| Some(u64::from_be_bytes(b.get(..8)?.try_into().ok()?)));
        let Some(issued) = issued else { return false };
        let age = self.inner.env.clock.now_ms().saturating_sub(issued);
        let expected = blake3::hash(self.challenge(key, issued).as_bytes());
        // Digests are compared in constant time.
        age <= CHALLENGE_LASTS_MS && expected == blake3::hash(challenge.as_bytes())
    }

    /// Admits a device that proves to hold `key`: one that is approved, or one with an invitation. Any
    /// other waits for approval, whatever name it gives.
    ///
    /// # Errors
    /// [`codes::PROTOCOL`], [`codes::UNPROVEN`], [`codes::PENDING`], [`codes::REVOKED`],
    /// [`codes::INVITATION`], [`codes::INVALID`].
    pub fn join(&self, key: &PublicKey, join: &Join) -> Result<Signed, WireError> {
        check_protocol(join.protocol)?;
        check_nonce(&join.nonce)?;
        let engine = self.inner.key.public();
        let claim = JoinClaim {
            engine: &engine,
            device: key,
            challenge: &join.challenge,
            nonce: &join.nonce,
            name: &join.device,
        };
        if !self.is_fresh(key, &join.challenge) {
            return Err(wire(
                codes::UNPROVEN,
                "the join does not answer a challenge of this engine; join again",
            ));
        }
        if !claim.verify(&join.proof) {
            return Err(wire(codes::UNPROVEN, "the join does not prove that the device holds its key"));
        }
        let admitted = self.inner.devices.admit(key, join, &claim)?;
        let name = admitted.name;
        self.rise_above(key, &name, join)?;
        let session = token(&*self.inner.env.random).map_err(internal)?;
        let listeners = self.leases().joined(&name, *key, join, &session);
        for run in listeners {
            // A run that just ended does not mind.
            let _ = run.send(Message::DeviceJoined { device: name.clone(), version: join.version.clone() });
        }
        let joined = Joined { session, device: name, nonce: join.nonce.clone() };
        self.sign(key, Kind::Joined, 0, &joined)
    }

    /// Sees to it that the device takes what it is granted from now on.
    fn rise_above(&self, key: &PublicKey, name: &str, join: &Join) -> Result<(), WireError> {
        let granted = join.highest_fence;
        let proof = join.granted.as_ref().filter(|stub| stub.fence == granted);
        let proven = proof.is_some_and(|stub| signed::proves(stub, &self.inner.key.public(), key));
        if !self.inner.fences.rise_above(granted, proven).map_err(internal)? {
            tracing::warn!(
                "{name}: says that it was granted fence {granted}, which this workspace did not hand out: it will \
                 refuse its tasks; give it another --state and pair it again"
            );
        }
        Ok(())
    }

    /// Whether devices reach this engine under a `Host` header: an address of numbers, this machine, or a
    /// name that stands in an invitation. Any other name may be a stranger's, who had it point here.
    pub fn is_served_as(&self, authority: &str) -> bool {
        let Some(host) = host_name(authority) else { return false };
        host == "localhost" || host.parse::<std::net::IpAddr>().is_ok() || self.inner.devices.is_host(&host)
    }
}

fn check_protocol(device: u32) -> Result<(), WireError> {
    if device == PROTOCOL_VERSION {
        return Ok(());
    }
    let older = if device < PROTOCOL_VERSION { "device" } else { "engine" };
    let message =
        format!("the device speaks protocol {device}, this engine {PROTOCOL_VERSION}; update the {older}");
    Err(wire(codes::PROTOCOL, message))
}

fn check_nonce(nonce: &str) -> Result<(), WireError> {
    if nonce.len() <= LONGEST_NONCE { Ok(()) } else { Err(wire(codes::INVALID, "the nonce is too long")) }
}

fn token(random: &dyn Random) -> std::io::Result<String> {
    let mut bytes = [0; 16];
    random.fill(&mut bytes)?;
    Ok(HEXLOWER.encode(&bytes))
}
