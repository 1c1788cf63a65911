//! Identity keys.

use std::fmt;
use std::str::FromStr;

use data_encoding::{BASE32_NOPAD, HEXLOWER, HEXLOWER_PERMISSIVE};
use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use serde::{Deserialize, Serialize};

/// Bytes of a key's digest that its fingerprint shows: 80 bits.
const FINGERPRINT: usize = 10;
/// Hexadecimal digits of a key that stand for it at least.
const FEWEST_DIGITS: usize = 12;

/// A secret identity key.
#[derive(Clone)]
pub struct Identity(SigningKey);

impl Identity {
    /// The identity of a secret.
    pub fn from_secret(secret: &[u8; 32]) -> Self {
        Self(SigningKey::from_bytes(secret))
    }

    /// Its public key.
    pub fn public(&self) -> PublicKey {
        PublicKey(self.0.verifying_key().to_bytes())
    }

    /// A signature of a transcript, hexadecimal.
    pub fn sign(&self, transcript: &Transcript) -> String {
        HEXLOWER.encode(&self.0.sign(&transcript.0).to_bytes())
    }

    /// The key in PKCS #8, as TLS libraries read it.
    pub(crate) fn pkcs8(&self) -> Vec<u8> {
        /// Version 1, algorithm Ed25519, a key of 32 bytes (RFC 8410).
        const HEAD: [u8; 16] =
            [0x30, 0x2e, 0x02, 0x01, 0, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];
        [&HEAD[..], &self.0.to_bytes()].concat()
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({})", self.public().fingerprint())
    }
}

/// The public key of an engine or a device, written as 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct PublicKey([u8; 32]);

impl PublicKey {
    /// The key of these bytes. `None` if they are not a key, or one that anybody could sign for.
    pub fn from_bytes(bytes: &[u8; 32]) -> Option<Self> {
        let key = VerifyingKey::from_bytes(bytes).ok()?;
        (!key.is_weak()).then_some(Self(*bytes))
    }

    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// A short form for people to compare: 80 bits of the key's BLAKE3 digest, in four groups.
    pub fn fingerprint(&self) -> String {
        let digest = blake3::hash(&self.0);
        let text = BASE32_NOPAD.encode(&digest.as_bytes()[..FINGERPRINT]).to_lowercase();
        let groups: Vec<&str> = (0..4).map(|i| &text[4 * i..4 * i + 4]).collect();
        groups.join("-")
    }

    /// Whether a text means this key: its fingerprint, or at least its first twelve digits.
    pub fn is_meant_by(&self, text: &str) -> bool {
        let text = text.trim().to_ascii_lowercase();
        self.fingerprint() == text || (text.len() >= FEWEST_DIGITS && self.to_string().starts_with(&text))
    }

    /// Whether a text could mean a key, so that it cannot be the name of anything.
    pub fn may_be_meant_by(text: &str) -> bool {
        let text = text.trim().to_ascii_lowercase();
        let base32 =
            |group: &str| group.len() == 4 && group.bytes().all(|b| matches!(b, b'a'..=b'z' | b'2'..=b'7'));
        let groups = text.split('-').count() == 4 && text.split('-').all(base32);
        groups || (text.len() >= FEWEST_DIGITS && text.bytes().all(|b| b.is_ascii_hexdigit()))
    }

    /// Whether a signature, hexadecimal, is this key's of a transcript.
    pub fn verifies(&self, transcript: &Transcript, signature: &str) -> bool {
        let Some(bytes) = HEXLOWER_PERMISSIVE.decode(signature.as_bytes()).ok() else { return false };
        let (Ok(signature), Ok(key)) = (Signature::from_slice(&bytes), VerifyingKey::from_bytes(&self.0))
        else {
            return false;
        };
        key.verify_strict(&transcript.0, &signature).is_ok()
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        HEXLOWER.encode_write(&self.0, f)
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({})", self.fingerprint())
    }
}

impl From<PublicKey> for String {
    fn from(key: PublicKey) -> Self {
        key.to_string()
    }
}

impl TryFrom<String> for PublicKey {
    type Error = ParseKeyError;

    fn try_from(text: String) -> Result<Self, ParseKeyError> {
        text.parse()
    }
}

/// The text is not a public key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a public key: a key is 64 hexadecimal digits, as `headstart devices key` prints it")]
pub struct ParseKeyError;

impl FromStr for PublicKey {
    type Err = ParseKeyError;

    fn from_str(text: &str) -> Result<Self, ParseKeyError> {
        let bytes = HEXLOWER_PERMISSIVE.decode(text.trim().as_bytes()).map_err(|_| ParseKeyError)?;
        let bytes: [u8; 32] = bytes.try_into().map_err(|_| ParseKeyError)?;
        Self::from_bytes(&bytes).ok_or(ParseKeyError)
    }
}

/// What is signed: a domain, which keeps signatures of one kind from passing as those of another, then
/// fields, each after its length, so that no two lists of fields have the same bytes.
pub struct Transcript(Vec<u8>);

impl Transcript {
    /// A transcript of a domain, such as `headstart grant 2`.
    pub fn new(domain: &str) -> Self {
        Self(Vec::new()).field(domain.as_bytes())
    }

    /// The transcript with another field.
    #[must_use]
    pub fn field(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(&(bytes.len() as u64).to_be_bytes());
        self.0.extend_from_slice(bytes);
        self
    }

    /// The transcript with a number.
    #[must_use]
    pub fn number(self, n: u64) -> Self {
        self.field(&n.to_be_bytes())
    }

    /// The transcript with a key.
    #[must_use]
    pub fn key(self, key: &PublicKey) -> Self {
        self.field(key.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_reads_back_and_is_meant_by_enough_of_it() {
        let key = Identity::from_secret(&[7; 32]).public();
        assert_eq!(key.to_string().parse(), Ok(key));
        assert_eq!(key.to_string().to_uppercase().parse(), Ok(key));
        assert_eq!(key.fingerprint().len(), 19);
        for text in [key.fingerprint(), key.to_string(), key.to_string()[..12].to_owned()] {
            assert!(key.is_meant_by(&text) && PublicKey::may_be_meant_by(&text), "{text}");
        }
        for little in ["", &key.to_string()[..11], &key.fingerprint()[..14]] {
            assert!(!key.is_meant_by(little), "{little}");
        }
        for name in ["phone", "blue-lamp", "cafe", "my-own-good-tiny-phone", "0.1.2.3.4.5.6.7.8"] {
            assert!(!PublicKey::may_be_meant_by(name), "{name}");
        }
        assert!(!Identity::from_secret(&[8; 32]).public().is_meant_by(&key.fingerprint()));
        for wrong in ["", "abc", &"g".repeat(64), &"00".repeat(32)] {
            assert_eq!(wrong.parse::<PublicKey>(), Err(ParseKeyError), "{wrong}");
        }
    }

    #[test]
    fn a_signature_holds_for_its_own_fields_domain_and_key() {
        let me = Identity::from_secret(&[1; 32]);
        let transcript =
            |domain: &str, a: &str, b: &str| Transcript::new(domain).field(a.as_bytes()).field(b.as_bytes());
        let signature = me.sign(&transcript("test", "ab", "c"));
        assert!(me.public().verifies(&transcript("test", "ab", "c"), &signature));
        assert!(!me.public().verifies(&transcript("test", "a", "bc"), &signature), "other fields");
        assert!(!me.public().verifies(&transcript("other", "ab", "c"), &signature), "another domain");
        let other = Identity::from_secret(&[2; 32]).public();
        assert!(!other.verifies(&transcript("test", "ab", "c"), &signature), "another key");
        assert!(!me.public().verifies(&transcript("test", "ab", "c"), "zz"), "not a signature");
    }
}
