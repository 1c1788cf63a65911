//! Secrets with which calls are signed, in the form of the Standard Webhooks specification.

use std::time::Duration;

use data_encoding::BASE64;
use headstart_store::{StoreError, Workspace};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// A call is signed at most so long before or after it comes. Within that time its id tells a repetition.
pub const SIGNED_WITHIN: Duration = Duration::from_secs(300);
/// The secret that a webhook's calls are signed with.
pub struct Secret([u8; 32]);

impl Secret {
    /// A workspace's secret of a name: made at random when first asked for.
    ///
    /// # Errors
    /// If it cannot be read or written.
    pub fn of(ws: &Workspace, name: &str) -> Result<Self, StoreError> {
        ws.secret(name).map(Self)
    }

    /// As other programs take it.
    pub fn text(&self) -> String {
        format!("whsec_{}", BASE64.encode(&self.0))
    }

    fn mac(&self, id: &str, timestamp: &str, body: &[u8]) -> Hmac<Sha256> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("any length of key will do");
        for part in [id.as_bytes(), b".", timestamp.as_bytes(), b".", body] {
            mac.update(part);
        }
        mac
    }

    /// The signature of a call.
    pub fn sign(&self, id: &str, timestamp: &str, body: &[u8]) -> String {
        format!("v1,{}", BASE64.encode(&self.mac(id, timestamp, body).finalize().into_bytes()))
    }

    /// Whether one of the signatures of a call, separated by spaces, is right. Compared in constant time.
    pub fn verifies(&self, id: &str, timestamp: &str, body: &[u8], signatures: &str) -> bool {
        let given =
            signatures.split(' ').filter_map(|s| BASE64.decode(s.strip_prefix("v1,")?.as_bytes()).ok());
        given.take(8).any(|given| self.mac(id, timestamp, body).verify_slice(&given).is_ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the Standard Webhooks specification.
    #[test]
    fn signatures_are_those_of_the_specification() {
        let key = BASE64.decode(b"MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").expect("base64");
        let mut secret = Hmac::<Sha256>::new_from_slice(&key).expect("any length");
        secret.update(br#"msg_p5jXN8AQM9LWM0D4loKWxJek.1614265330.{"test": 2432232314}"#);
        let signature = BASE64.encode(&secret.finalize().into_bytes());
        assert_eq!(signature, "g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn a_signature_holds_for_one_call() {
        let secret = Secret([7; 32]);
        let signature = secret.sign("a", "100", b"{}");
        assert!(secret.verifies("a", "100", b"{}", &signature));
        assert!(
            secret.verifies("a", "100", b"{}", &format!("v1,AAAA {signature}")),
            "while a secret is exchanged"
        );
        for (id, timestamp, body) in
            [("b", "100", "{}"), ("a", "101", "{}"), ("a", "100", "{ }"), ("a.1", "00", "{}")]
        {
            assert!(!secret.verifies(id, timestamp, body.as_bytes(), &signature), "{id} {timestamp} {body}");
        }
        assert!(!Secret([8; 32]).verifies("a", "100", b"{}", &signature));
        for wrong in ["", "v1,", "v1,!", "v2,AAAA"] {
            assert!(!secret.verifies("a", "100", b"{}", wrong), "{wrong}");
        }
    }
}
