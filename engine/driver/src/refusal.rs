//! What a device is told that is refused.

use headstart_protocol::wire::WireError;

/// Stable codes of the errors that [`Hub`](crate::Hub) gives.
pub mod codes {
    /// The session is not known, also after a restart of the engine: join again. HTTP 401.
    pub const UNKNOWN_SESSION: &str = "unknown_session";
    /// The caller has not proven to hold the key that it states. HTTP 401.
    pub const UNPROVEN: &str = "unproven";
    /// The engine does not know the device's key, and waits for somebody to approve it. HTTP 403.
    pub const PENDING: &str = "pending";
    /// The device may not join any more. HTTP 403.
    pub const REVOKED: &str = "revoked";
    /// The invitation is unknown, expired or used. HTTP 403.
    pub const INVITATION: &str = "invitation";
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
    /// The engine has no room for what the commit brings: hand it in again later. HTTP 507.
    pub const NO_ROOM: &str = "no_room";
    /// The same upload is under way: try again later. HTTP 429.
    pub const BUSY: &str = "busy";
    /// The engine failed. HTTP 500.
    pub const INTERNAL: &str = "internal";
}

pub(crate) fn wire(code: &str, message: impl Into<String>) -> WireError {
    WireError { code: code.to_owned(), message: message.into() }
}
