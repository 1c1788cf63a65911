//! The messages between engine and device: JSON over HTTP over TLS.
//!
//! | call | request → response |
//! | --- | --- |
//! | `POST /v1/hello` | [`Hello`] → [`Welcome`], signed |
//! | `POST /v1/join` | [`Join`] → [`Joined`], signed |
//! | `POST /v1/claim` (long poll) | [`Claim`] → [`Grant`], signed, or 204 where nothing is to do |
//! | `POST /v1/renew` | [`Renew`] → [`Renewal`], signed |
//! | `POST /v1/commit` | [`Commit`] → [`CommitAnswer`], signed |
//! | `GET /v1/artifacts/{id}` | → [`crate::Manifest`] |
//! | `GET /v1/blobs/{digest}` | → bytes; `Range` is honoured |
//! | `PUT /v1/blobs/{digest}` | bytes → 204; only while a commit with released files is open |
//!
//! Texts are cut to a largest length where a message is parsed (`capped`). "Signed" is a [`Signed`] whose
//! body is the message. Who calls is proven by the TLS handshake; every call
//! after `join` names its session in the header [`SESSION`]. Errors are [`WireError`].

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::numerics::Numerics;
use crate::task::{Outcome, Task};

/// What a device says of itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Join {
    /// The device's name, as in `device("phone")`.
    #[serde(deserialize_with = "crate::capped::name")]
    pub device: String,
    /// [`crate::PROTOCOL_VERSION`] of the device.
    pub protocol: u32,
    /// Version of the device runner.
    #[serde(deserialize_with = "crate::capped::name")]
    pub version: String,
    /// Stage kinds that it can run; for custom stages, the programs that its owner has allowed, see
    /// [`program_kind`].
    #[serde(deserialize_with = "crate::capped::names")]
    pub kinds: Vec<String>,
    /// What its stages compute numbers with. Absent from devices of version 0.1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub numerics: Option<Numerics>,
    /// What it is and can: threads, memory.
    #[serde(default)]
    pub facts: Facts,
    /// The highest fence that the device was ever granted.
    #[serde(default)]
    pub highest_fence: u64,
    /// What is left of that grant: the proof that the engine handed the fence out. Absent from devices that were
    /// granted nothing since version 0.2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub granted: Option<GrantStub>,
    /// The challenge of the engine's [`Welcome`].
    #[serde(deserialize_with = "crate::capped::name")]
    pub challenge: String,
    /// A number that the device uses once; the engine's signed answer repeats it.
    #[serde(deserialize_with = "crate::capped::name")]
    pub nonce: String,
    /// Signature by the device's key over both keys, challenge, nonce and name, hexadecimal.
    #[serde(deserialize_with = "crate::capped::name")]
    pub proof: String,
    /// Proof that the device was invited; absent from devices that the engine knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub invitation: Option<Invited>,
}

/// Proof that a device holds an invitation's token, without the token.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Invited {
    /// The public key that the token gives: names the invitation.
    #[serde(deserialize_with = "crate::capped::name")]
    pub key: String,
    /// Signature by that key over the same as [`Join::proof`], hexadecimal.
    #[serde(deserialize_with = "crate::capped::name")]
    pub proof: String,
}

/// The header in which calls name their session.
pub const SESSION: &str = "headstart-session";
/// Without TLS: the header with the device's public key, hexadecimal.
pub const DEVICE_KEY: &str = "headstart-device-key";
/// Without TLS: the header with the BLAKE3 digest of the request's body, hexadecimal.
pub const BODY_DIGEST: &str = "headstart-body-digest";
/// Without TLS: the header with the device's signature of the request, hexadecimal.
pub const REQUEST_SIGNATURE: &str = "headstart-signature";

/// A message that the engine signed for one device.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Signed {
    /// The message, as the JSON text whose digest was signed.
    pub body: String,
    /// The attempt's fence; 0 for messages that are about none.
    #[serde(default)]
    pub fence: u64,
    /// When it was issued, in Unix milliseconds of the engine.
    pub issued_ms: u64,
    /// When it expires.
    pub expires_ms: u64,
    /// Ed25519 signature over the kind of message, both keys, the fields above and the body's digest,
    /// hexadecimal.
    #[serde(deserialize_with = "crate::capped::name")]
    pub signature: String,
}

/// A signed grant without its task. It still proves that the engine handed a fence out to a device.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GrantStub {
    /// As in [`Signed`].
    pub fence: u64,
    /// As in [`Signed`].
    pub issued_ms: u64,
    /// As in [`Signed`].
    pub expires_ms: u64,
    /// BLAKE3 of the body.
    pub body: Digest,
    /// As in [`Signed`].
    #[serde(deserialize_with = "crate::capped::name")]
    pub signature: String,
}

/// Begins a join.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Hello {
    /// [`crate::PROTOCOL_VERSION`] of the device.
    pub protocol: u32,
    /// A number that the device uses once; the engine's signed answer repeats it.
    #[serde(deserialize_with = "crate::capped::name")]
    pub nonce: String,
}

/// The engine's answer to [`Hello`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Welcome {
    /// To be signed by a [`Join`] that follows at once.
    #[serde(deserialize_with = "crate::capped::name")]
    pub challenge: String,
    /// The device's.
    #[serde(deserialize_with = "crate::capped::name")]
    pub nonce: String,
    /// [`crate::PROTOCOL_VERSION`] of the engine.
    pub protocol: u32,
}

/// How a device says among its kinds that it may run the custom stages of a program.
pub fn program_kind(program: &Digest) -> String {
    format!("program:{program}")
}

/// Facts about a device, for placement.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Facts {
    /// Processor threads.
    #[serde(default)]
    pub threads: u32,
    /// Memory in bytes.
    #[serde(default)]
    pub memory: u64,
    /// Conditions that hold now: `charging`, `unmetered`, `idle`.
    #[serde(default, deserialize_with = "crate::capped::names")]
    pub holds: Vec<String>,
    /// How often the owner of the device asked for everything to be tried again. What was made on the
    /// device under another number is not taken from the cache: some of it may have failed, which only
    /// the device knows.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub generation: u64,
    /// How often the owner of the device approved something, or took it back: what was refused before may be
    /// taken now.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub approvals: u64,
    /// Further facts, for people.
    #[serde(default, deserialize_with = "crate::capped::texts_by_name")]
    pub other: BTreeMap<String, String>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
fn is_zero(n: &u64) -> bool {
    *n == 0
}

/// The engine's answer to [`Join`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Joined {
    /// For the header [`SESSION`]. It is of no use to anybody without the device's key.
    #[serde(deserialize_with = "crate::capped::name")]
    pub session: String,
    /// The name under which the engine knows the device.
    #[serde(deserialize_with = "crate::capped::name")]
    pub device: String,
    /// The device's nonce.
    #[serde(deserialize_with = "crate::capped::name")]
    pub nonce: String,
}

/// Asks for work.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Claim {
    /// Current facts.
    #[serde(default)]
    pub facts: Facts,
    /// How long to wait for work, in milliseconds.
    pub wait_ms: u64,
    /// What the device was granted so far. With it a claim whose answer was lost can be repeated: the engine
    /// gives the same grant again. Absent from devices of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held: Option<Held>,
}

/// What a device was granted. A grant above `highest` never reached it; one that is neither above nor among
/// `fences` is lost.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// The highest fence that it took.
    pub highest: u64,
    /// Fences of attempts that it runs, or whose outcome the engine has not acknowledged.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fences: Vec<u64>,
}

/// A claim on one attempt. Its fence is that of the [`Signed`] message around it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Grant {
    /// What to do.
    pub task: Task,
    /// Milliseconds until the lease ends unless renewed.
    pub lease_ms: u64,
}

/// Keeps a claim.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Renew {
    /// The attempt's fence.
    pub fence: u64,
    /// Progress; absent from private stages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<crate::stage::Progress>,
}

/// The engine's answer to [`Renew`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Renewal {
    /// What to do.
    pub answer: Renewed,
}

/// What the engine says to a renewal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Renewed {
    /// Continue.
    Ok,
    /// Stop.
    Cancel,
    /// Another attempt has taken over; stop, nothing of this one will count.
    Superseded,
}

/// Hands in an attempt's outcome.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Commit {
    /// The attempt's fence.
    pub fence: u64,
    /// What became of it.
    pub outcome: Outcome,
    /// Manifests of the artifacts in the outcome that the engine may know, by id.
    #[serde(default)]
    pub manifests: BTreeMap<String, crate::Manifest>,
}

/// The engine's answer to [`Commit`]: only one that names this very commit counts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CommitAnswer {
    /// BLAKE3 digest of the commit, as it was sent.
    pub commit: Digest,
    /// What became of it.
    #[serde(flatten)]
    pub answer: CommitResult,
}

/// What became of a commit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum CommitResult {
    /// It was taken, or another attempt counts.
    Taken {
        /// Which of the two.
        counts: Committed,
    },
    /// It will not be taken, however often it is sent.
    Refused {
        /// Why.
        error: WireError,
    },
    /// It belongs to a run that another engine executes, or whose log cannot be read now. The device keeps it,
    /// does other work and sends it again.
    Waits {
        /// The run.
        run: String,
    },
}

/// What the engine says to a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Committed {
    /// It counts, also where its run was interrupted and is not resumed yet. Said again to a repeated commit of
    /// the same fence.
    Accepted,
    /// Another attempt counts.
    Superseded,
}

/// An error on the wire.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct WireError {
    /// Stable name, such as `unknown_device`.
    #[serde(deserialize_with = "crate::capped::name")]
    pub code: String,
    /// For people.
    #[serde(deserialize_with = "crate::capped::message")]
    pub message: String,
}
