//! What a device signs.

use crate::identity::{Identity, PublicKey, Transcript};

/// What a join is about: both keys, the engine's fresh challenge, the device's own nonce, its name.
#[derive(Clone, Copy, Debug)]
pub struct JoinClaim<'a> {
    /// The engine.
    pub engine: &'a PublicKey,
    /// The device.
    pub device: &'a PublicKey,
    /// The engine's challenge.
    pub challenge: &'a str,
    /// The device's nonce, which the engine's signed answer repeats.
    pub nonce: &'a str,
    /// The name that the device asks for.
    pub name: &'a str,
}

impl JoinClaim<'_> {
    fn transcript(&self, domain: &str) -> Transcript {
        Transcript::new(domain)
            .key(self.engine)
            .key(self.device)
            .field(self.challenge.as_bytes())
            .field(self.nonce.as_bytes())
            .field(self.name.as_bytes())
    }

    /// Proof that who joins holds the device's key.
    pub fn sign(&self, device: &Identity) -> String {
        device.sign(&self.transcript(JOIN))
    }

    /// Whether a proof is right.
    pub fn verify(&self, proof: &str) -> bool {
        self.device.verifies(&self.transcript(JOIN), proof)
    }

    /// Proof that the device holds an invitation: a signature by the key that the invitation's token
    /// gives. The token itself is never sent, and the engine does not keep it.
    pub fn sign_invited(&self, token: &Identity) -> String {
        token.sign(&self.transcript(INVITED))
    }

    /// Whether a proof of an invitation is right.
    pub fn verify_invited(&self, token: &PublicKey, proof: &str) -> bool {
        token.verifies(&self.transcript(INVITED), proof)
    }
}

const JOIN: &str = "headstart join 2";
const INVITED: &str = "headstart invited 2";

/// A request, as its device signs it where there is no TLS that proves who sends it.
#[derive(Clone, Copy, Debug)]
pub struct RequestClaim<'a> {
    /// The engine.
    pub engine: &'a PublicKey,
    /// `GET`, `POST` or `PUT`.
    pub method: &'a str,
    /// The path.
    pub path: &'a str,
    /// The session, or nothing before there is one.
    pub session: &'a str,
    /// BLAKE3 digest of the body, hexadecimal.
    pub body: &'a str,
}

impl RequestClaim<'_> {
    fn transcript(&self) -> Transcript {
        let fields = [self.method, self.path, self.session, self.body];
        fields
            .iter()
            .fold(Transcript::new("headstart request 2").key(self.engine), |t, f| t.field(f.as_bytes()))
    }

    /// Signs it.
    pub fn sign(&self, device: &Identity) -> String {
        device.sign(&self.transcript())
    }

    /// Whether a signature is right.
    pub fn verify(&self, device: &PublicKey, signature: &str) -> bool {
        device.verifies(&self.transcript(), signature)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proof_holds_for_one_challenge_name_and_purpose() {
        let (engine, me) = (Identity::from_secret(&[1; 32]).public(), Identity::from_secret(&[2; 32]));
        let key = me.public();
        let claim =
            |challenge, name| JoinClaim { engine: &engine, device: &key, challenge, nonce: "n", name };
        let proof = claim("fresh", "phone").sign(&me);
        assert!(claim("fresh", "phone").verify(&proof));
        assert!(!claim("another", "phone").verify(&proof) && !claim("fresh", "tablet").verify(&proof));
        assert!(!claim("fresh", "phone").verify_invited(&key, &proof), "no proof of an invitation");
    }

    #[test]
    fn a_signed_request_is_that_request() {
        let (engine, me) = (Identity::from_secret(&[1; 32]).public(), Identity::from_secret(&[2; 32]));
        let request =
            RequestClaim { engine: &engine, method: "POST", path: "/v1/claim", session: "s", body: "b" };
        let signature = request.sign(&me);
        assert!(request.verify(&me.public(), &signature));
        for changed in [
            RequestClaim { method: "GET", ..request },
            RequestClaim { path: "/v1/commit", ..request },
            RequestClaim { session: "t", ..request },
            RequestClaim { body: "c", ..request },
        ] {
            assert!(!changed.verify(&me.public(), &signature), "{changed:?}");
        }
    }
}
