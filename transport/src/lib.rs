//! Who is who between an engine and its devices.
//!
//! Each side has an Ed25519 identity key. The channel is TLS 1.3 with raw public keys (RFC 7250) on
//! both sides: the device pins the engine's key, the engine takes the device's key from the handshake.
//! What the engine decides is signed besides, so that it holds wherever the message went:
//! [`Signed`](headstart_protocol::wire::Signed) messages. An [`Invitation`] brings the two keys together
//! for the first time.
//!
//! # Layout
//! - [`identity`]: keys, their fingerprints, and the encoding that is signed.
//! - [`tls`]: configurations for both sides.
//! - [`signed`]: what the engine signs, and how a device checks it.
//! - [`proof`]: what a device signs: joins, and requests that go without TLS.
//! - [`invitation`]: one-time invitations, as text.

pub mod identity;
pub mod invitation;
pub mod proof;
pub mod signed;
pub mod tls;

pub use identity::{Identity, ParseKeyError, PublicKey};
pub use invitation::Invitation;
