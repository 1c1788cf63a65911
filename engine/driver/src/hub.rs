//! Devices: who joined, what is offered to them, what they may read and what they may hand in.
//!
//! An HTTP layer maps each method to the call of the same name in [`headstart_protocol::wire`].
//! Codes of [`WireError`] and the status that suits them: see [`codes`].

use std::path::{Path, PathBuf};

use headstart_protocol::wire::{Claim, Commit, Committed, Grant, Join, Joined, Renew, Renewed, WireError};
use headstart_protocol::{Digest, Manifest};

/// Stable codes of the errors that [`Hub`] gives.
pub mod codes {
    /// The token is not known, also after a restart of the engine: join again. HTTP 401.
    pub const UNKNOWN_TOKEN: &str = "unknown_token";
    /// A device of this name joined before with another secret. HTTP 403.
    pub const WRONG_SECRET: &str = "wrong_secret";
    /// The device speaks another version of the protocol. HTTP 426.
    pub const PROTOCOL: &str = "protocol_mismatch";
    /// The attempt was not granted to this device, or the artifact is none of its business. HTTP 404.
    pub const NOT_FOUND: &str = "not_found";
    /// The commit or upload carries what may not leave the device. HTTP 422.
    pub const RESIDENCY: &str = "residency";
    /// The request contradicts itself or the task: a digest that does not fit. HTTP 422.
    pub const INVALID: &str = "invalid";
    /// A file that the commit refers to was not uploaded; the message lists digests. HTTP 409.
    pub const MISSING_BLOB: &str = "missing_blob";
    /// The engine failed. HTTP 500.
    pub const INTERNAL: &str = "internal";
}

/// The engine's side of all devices. Clones share one state.
#[derive(Clone)]
pub struct Hub {}

impl Hub {
    /// Admits a device. The first join under a name pins its secret; the device's earlier tokens
    /// stay valid, so that an outbox is still accepted.
    ///
    /// # Errors
    /// [`codes::PROTOCOL`], [`codes::WRONG_SECRET`], [`codes::INVALID`] for an unusable name.
    pub fn join(&self, join: Join) -> Result<Joined, WireError> {
        let _ = join;
        Err(unavailable())
    }

    /// Waits up to `claim.wait_ms` for work that the device qualifies for. `None` where there is
    /// none (HTTP 204). Dropping the future gives the claim up.
    pub async fn claim(&self, token: &str, claim: Claim) -> Result<Option<Grant>, WireError> {
        let _ = (token, claim);
        Err(unavailable())
    }

    /// Extends the lease of an attempt and passes its progress on.
    pub fn renew(&self, token: &str, renew: Renew) -> Result<Renewed, WireError> {
        let _ = (token, renew);
        Err(unavailable())
    }

    /// Takes an attempt's outcome. Returns when it is on disk. Committing again under the same
    /// fence gives the same answer.
    pub async fn commit(&self, token: &str, commit: Commit) -> Result<Committed, WireError> {
        let _ = (token, commit);
        Err(unavailable())
    }

    /// The manifest of a public artifact that one of the device's tasks reaches.
    pub fn manifest(&self, token: &str, id: &Digest) -> Result<Manifest, WireError> {
        let _ = (token, id);
        Err(unavailable())
    }

    /// Where a file of such an artifact lies, to be sent (whole or by range).
    pub fn blob(&self, token: &str, digest: &Digest) -> Result<PathBuf, WireError> {
        let _ = (token, digest);
        Err(unavailable())
    }

    /// Takes an upload that was written to the file `uploaded`, which is moved or removed. Kept
    /// only if a released artifact of an accepted commit refers to it.
    pub fn put_blob(&self, token: &str, digest: &Digest, uploaded: &Path) -> Result<(), WireError> {
        let _ = (token, digest, uploaded);
        Err(unavailable())
    }

    /// Whether an upload of this digest would be taken now; asked before its body is read.
    pub fn may_put_blob(&self, token: &str, digest: &Digest) -> Result<(), WireError> {
        let _ = (token, digest);
        Err(unavailable())
    }

    /// Folder for uploads in progress, on the same file system as the store.
    pub fn upload_dir(&self) -> PathBuf {
        std::env::temp_dir()
    }

    /// All devices that ever joined, by name.
    pub fn devices(&self) -> Vec<DeviceInfo> {
        Vec::new()
    }
}

/// What is known of a device, for people.
#[derive(Clone, Debug, serde::Serialize)]
pub struct DeviceInfo {
    /// Its name.
    pub name: String,
    /// Version of its runner.
    pub version: String,
    /// Stage kinds that it can run.
    pub kinds: Vec<String>,
    /// When it was last heard of, in milliseconds since 1970; absent if not since the engine started.
    pub last_seen_ms: Option<u64>,
    /// Names of the instances that it is running.
    pub running: Vec<String>,
}

fn unavailable() -> WireError {
    WireError { code: codes::INTERNAL.into(), message: "the engine does not take devices yet".into() }
}
