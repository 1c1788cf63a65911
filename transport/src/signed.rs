//! What the engine signs.
//!
//! The signature covers the kind of message, the device that it is for, the engine, the fence, when it
//! was issued and when it expires, and the digest of its body. So a message of one device, attempt or kind
//! is none of another, whoever carries it.

use headstart_protocol::Digest;
use headstart_protocol::wire::{GrantStub, Signed};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::identity::{Identity, PublicKey, Transcript};

/// What a signed message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The answer to a hello: a challenge.
    Welcome,
    /// The answer to a join.
    Joined,
    /// A task.
    Grant,
    /// The answer to a renewal.
    Renewal,
    /// The answer to a commit.
    Commit,
}

impl Kind {
    fn domain(self) -> &'static str {
        match self {
            Self::Welcome => "headstart welcome 2",
            Self::Joined => "headstart joined 2",
            Self::Grant => "headstart grant 2",
            Self::Renewal => "headstart renewal 2",
            Self::Commit => "headstart commit 2",
        }
    }
}

/// Which attempt a message is about, and for how long it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// The attempt's fence; 0 for messages that are about none.
    pub fence: u64,
    /// When it was issued, in Unix milliseconds of the engine.
    pub issued_ms: u64,
    /// When it expires.
    pub expires_ms: u64,
}

/// Why a message is not taken for the engine's.
#[derive(Debug, thiserror::Error)]
pub enum SignedError {
    /// The signature is not that of the engine, for this device and this kind of message.
    #[error("it does not bear the engine's signature for this device")]
    Signature,
    /// The engine signed something that cannot be read.
    #[error("the engine signed what cannot be read: {0}")]
    Body(#[from] serde_json::Error),
}

/// Signs a message of the engine for a device.
///
/// # Errors
/// If the body cannot be written as JSON.
pub fn sign<T: Serialize>(
    engine: &Identity,
    device: &PublicKey,
    kind: Kind,
    stamp: Stamp,
    body: &T,
) -> Result<Signed, serde_json::Error> {
    let body = serde_json::to_string(body)?;
    let signature =
        engine.sign(&transcript(kind, &engine.public(), device, stamp, &Digest::of(body.as_bytes())));
    let Stamp { fence, issued_ms, expires_ms } = stamp;
    Ok(Signed { body, fence, issued_ms, expires_ms, signature })
}

/// Reads a message if the engine signed it, as this kind, for this device. Whether it is in time and its
/// fence is new is for the caller to decide.
///
/// # Errors
/// [`SignedError`].
pub fn open<T: DeserializeOwned>(
    message: &Signed,
    kind: Kind,
    engine: &PublicKey,
    device: &PublicKey,
) -> Result<(T, Stamp), SignedError> {
    let Signed { body, fence, issued_ms, expires_ms, signature } = message;
    let stamp = Stamp { fence: *fence, issued_ms: *issued_ms, expires_ms: *expires_ms };
    let digest = Digest::of(body.as_bytes());
    if !engine.verifies(&transcript(kind, engine, device, stamp, &digest), signature) {
        return Err(SignedError::Signature);
    }
    Ok((serde_json::from_str(body)?, stamp))
}

/// What proves later that a fence was handed out: a grant without its task.
pub fn stub(grant: &Signed) -> GrantStub {
    let Signed { body, fence, issued_ms, expires_ms, signature } = grant;
    GrantStub {
        fence: *fence,
        issued_ms: *issued_ms,
        expires_ms: *expires_ms,
        body: Digest::of(body.as_bytes()),
        signature: signature.clone(),
    }
}

/// Whether this engine handed the fence of a stub out to this device, whenever that was.
pub fn proves(stub: &GrantStub, engine: &PublicKey, device: &PublicKey) -> bool {
    let GrantStub { fence, issued_ms, expires_ms, body, signature } = stub;
    let stamp = Stamp { fence: *fence, issued_ms: *issued_ms, expires_ms: *expires_ms };
    engine.verifies(&transcript(Kind::Grant, engine, device, stamp, body), signature)
}

fn transcript(kind: Kind, engine: &PublicKey, device: &PublicKey, stamp: Stamp, body: &Digest) -> Transcript {
    Transcript::new(kind.domain())
        .key(device)
        .key(engine)
        .number(stamp.fence)
        .number(stamp.issued_ms)
        .number(stamp.expires_ms)
        .field(&body.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_its_devices_its_kinds_and_unchanged() {
        let (engine, phone) = (Identity::from_secret(&[1; 32]), Identity::from_secret(&[2; 32]).public());
        let stamp = Stamp { fence: 7, issued_ms: 100, expires_ms: 200 };
        let signed = sign(&engine, &phone, Kind::Grant, stamp, &"task").expect("JSON");
        let read = |m: &Signed, kind, engine: &Identity, device: &PublicKey| {
            open::<String>(m, kind, &engine.public(), device).ok()
        };
        assert_eq!(read(&signed, Kind::Grant, &engine, &phone), Some(("task".into(), stamp)));
        let other = Identity::from_secret(&[3; 32]);
        assert_eq!(read(&signed, Kind::Grant, &engine, &other.public()), None, "of another device");
        assert_eq!(read(&signed, Kind::Grant, &other, &phone), None, "of another engine");
        for kind in [Kind::Welcome, Kind::Joined, Kind::Renewal, Kind::Commit] {
            assert_eq!(read(&signed, kind, &engine, &phone), None, "{kind:?}");
        }
        let changes: [fn(&mut Signed); 4] =
            [|m| m.fence += 1, |m| m.issued_ms += 1, |m| m.expires_ms += 1, |m| m.body = "\"tusk\"".into()];
        for change in changes {
            let mut changed = signed.clone();
            change(&mut changed);
            assert_eq!(read(&changed, Kind::Grant, &engine, &phone), None, "{changed:?}");
        }
    }
    #[test]
    fn a_stub_proves_its_fence_to_the_engine_that_handed_it_out() {
        let (engine, phone) = (Identity::from_secret(&[1; 32]), Identity::from_secret(&[2; 32]).public());
        let stamp = Stamp { fence: 7, issued_ms: 100, expires_ms: 200 };
        let granted = stub(&sign(&engine, &phone, Kind::Grant, stamp, &"task").expect("JSON"));
        assert!(proves(&granted, &engine.public(), &phone));
        let other = Identity::from_secret(&[3; 32]).public();
        assert!(!proves(&granted, &engine.public(), &other) && !proves(&granted, &other, &phone));
        assert!(!proves(&GrantStub { fence: 8, ..granted.clone() }, &engine.public(), &phone));
        let renewal = stub(&sign(&engine, &phone, Kind::Renewal, stamp, &"task").expect("JSON"));
        assert!(!proves(&renewal, &engine.public(), &phone), "another kind of message");
    }
}
