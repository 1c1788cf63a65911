//! The messages between engine and device: JSON over HTTP.
//!
//! | call | request → response |
//! | --- | --- |
//! | `POST /v1/join` | [`Join`] → [`Joined`] |
//! | `POST /v1/claim` (long poll) | [`Claim`] → [`Grant`], or 204 where nothing is to do |
//! | `POST /v1/renew` | [`Renew`] → [`Renewed`] |
//! | `POST /v1/commit` | [`Commit`] → [`Committed`] |
//! | `GET /v1/artifacts/{id}` | → [`crate::Manifest`] |
//! | `GET /v1/blobs/{digest}` | → bytes; `Range` is honoured |
//! | `PUT /v1/blobs/{digest}` | bytes → 204; only while a commit with released files is open |
//!
//! Every call after `join` carries `Authorization: Bearer TOKEN`. Errors are [`WireError`].

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::numerics::Numerics;
use crate::task::{Outcome, Task};

/// What a device says of itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Join {
    /// The device's name, as in `device("phone")`.
    pub device: String,
    /// [`crate::PROTOCOL_VERSION`] of the device.
    pub protocol: u32,
    /// Version of the device runner.
    pub version: String,
    /// Stage kinds that it can run; for custom stages, the programs that its owner has allowed, see
    /// [`program_kind`].
    pub kinds: Vec<String>,
    /// What its stages compute numbers with. Absent from devices of version 0.1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub numerics: Option<Numerics>,
    /// What it is and can: threads, memory.
    #[serde(default)]
    pub facts: Facts,
    /// A secret that proves that this is the device that joined under this name before.
    pub secret: String,
}

/// How a device says among its kinds that it may run the custom stages of a program.
pub fn program_kind(program: &crate::Digest) -> String {
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
    #[serde(default)]
    pub holds: Vec<String>,
    /// How often the owner of the device asked for everything to be tried again. What was made on the
    /// device under another number is not taken from the cache: some of it may have failed, which only
    /// the device knows.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub generation: u64,
    /// Further facts, for people.
    #[serde(default)]
    pub other: BTreeMap<String, String>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
fn is_zero(n: &u64) -> bool {
    *n == 0
}

/// The engine's answer to [`Join`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Joined {
    /// For the `Authorization` header.
    pub token: String,
    /// The engine's Ed25519 public key, hexadecimal; the device pins it at its first join.
    pub key: String,
    /// [`crate::PROTOCOL_VERSION`] of the engine.
    pub protocol: u32,
}

/// Asks for work.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Claim {
    /// Current facts.
    #[serde(default)]
    pub facts: Facts,
    /// How long to wait for work, in milliseconds.
    pub wait_ms: u64,
}

/// A claim on one attempt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Grant {
    /// The [`Task`], as the JSON text that was signed.
    pub task: String,
    /// Ed25519 signature of `task` by the engine, hexadecimal.
    pub signature: String,
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

/// What the engine says to a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Committed {
    /// It counts. Said again to a repeated commit of the same fence.
    Accepted,
    /// Another attempt counts.
    Superseded,
}

/// An error on the wire.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct WireError {
    /// Stable name, such as `unknown_device`.
    pub code: String,
    /// For people.
    pub message: String,
}

/// The signed task of a grant.
impl Grant {
    /// Reads the task. The signature must have been checked before.
    ///
    /// # Errors
    /// If it is no task that this version knows.
    pub fn task(&self) -> Result<Task, serde_json::Error> {
        serde_json::from_str(&self.task)
    }
}
