//! One-time invitations.
//!
//! ```text
//! headstart-invite:  then base32 of
//!   version          1 byte, 1
//!   engine's key     32 bytes
//!   token            16 bytes
//!   expires          8 bytes, Unix milliseconds, big endian
//!   device's name    1 byte of length, then UTF-8
//!   address          2 bytes of length, then UTF-8
//!   checksum         4 bytes: the start of the BLAKE3 digest of all before
//! ```
//!
//! Base32 because a QR code holds it in fewer modules than base64, and because capitals do not matter to
//! somebody who types it.

use std::fmt;
use std::str::FromStr;

use data_encoding::BASE32_NOPAD;

use crate::identity::{Identity, PublicKey};

/// What an invitation begins with.
pub const PREFIX: &str = "headstart-invite:";

const VERSION: u8 = 1;
const CHECKSUM: usize = 4;
/// Longest invitation that is read, in bytes of text.
const LONGEST: usize = 2048;

/// What brings a device to an engine for the first time.
#[derive(Clone, PartialEq, Eq)]
pub struct Invitation {
    /// The engine's key.
    pub engine: PublicKey,
    /// Where it is: `https://HOST:PORT`.
    pub url: String,
    /// The name that the device will have.
    pub device: String,
    /// What proves that a device was invited. Never sent.
    pub token: [u8; 16],
    /// When it expires, in Unix milliseconds of the engine.
    pub expires_ms: u64,
}

impl Invitation {
    /// The key by which a device proves that it holds the token. The engine keeps its public half only.
    pub fn token_key(&self) -> Identity {
        Identity::from_secret(&blake3::derive_key("headstart 2026 invitation token", &self.token))
    }
}

impl fmt::Debug for Invitation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Invitation({} at {}, engine {})", self.device, self.url, self.engine.fingerprint())
    }
}

impl fmt::Display for Invitation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = vec![VERSION];
        bytes.extend_from_slice(self.engine.as_bytes());
        bytes.extend_from_slice(&self.token);
        bytes.extend_from_slice(&self.expires_ms.to_be_bytes());
        let (name, url) = (self.device.as_bytes(), self.url.as_bytes());
        bytes.push(u8::try_from(name.len()).map_err(|_| fmt::Error)?);
        bytes.extend_from_slice(name);
        bytes.extend_from_slice(&u16::try_from(url.len()).map_err(|_| fmt::Error)?.to_be_bytes());
        bytes.extend_from_slice(url);
        let checksum = blake3::hash(&bytes);
        bytes.extend_from_slice(&checksum.as_bytes()[..CHECKSUM]);
        write!(f, "{PREFIX}{}", BASE32_NOPAD.encode(&bytes).to_lowercase())
    }
}

/// Why a text is not an invitation.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvitationError {
    /// It does not begin as one.
    #[error("not an invitation: it does not begin with `{PREFIX}`")]
    Prefix,
    /// Something is missing or changed.
    #[error("the invitation is incomplete or mistyped")]
    Damaged,
    /// It is of a later version.
    #[error("the invitation is of version {0}, which this version of Headstart does not know")]
    Version(u8),
}

impl FromStr for Invitation {
    type Err = InvitationError;

    fn from_str(text: &str) -> Result<Self, InvitationError> {
        let text = text.trim();
        let head = text.get(..PREFIX.len()).ok_or(InvitationError::Prefix)?;
        if !head.eq_ignore_ascii_case(PREFIX) {
            return Err(InvitationError::Prefix);
        }
        let digits: String = text[PREFIX.len()..].chars().filter(|c| !c.is_whitespace()).collect();
        if digits.len() > LONGEST {
            return Err(InvitationError::Damaged);
        }
        let bytes = BASE32_NOPAD.decode(digits.to_ascii_uppercase().as_bytes());
        let bytes = bytes.map_err(|_| InvitationError::Damaged)?;
        let (content, checksum) =
            bytes.split_at_checked(bytes.len().saturating_sub(CHECKSUM)).ok_or(InvitationError::Damaged)?;
        if checksum.len() != CHECKSUM || checksum != &blake3::hash(content).as_bytes()[..CHECKSUM] {
            return Err(InvitationError::Damaged);
        }
        let (&version, content) = content.split_first().ok_or(InvitationError::Damaged)?;
        if version != VERSION {
            return Err(InvitationError::Version(version));
        }
        fields(content).ok_or(InvitationError::Damaged)
    }
}

fn fields(mut content: &[u8]) -> Option<Invitation> {
    let mut take = |n: usize| {
        let (taken, rest) = content.split_at_checked(n)?;
        content = rest;
        Some(taken)
    };
    let engine = PublicKey::from_bytes(take(32)?.try_into().ok()?)?;
    let token = take(16)?.try_into().ok()?;
    let expires_ms = u64::from_be_bytes(take(8)?.try_into().ok()?);
    let length = take(1)?[0];
    let device = String::from_utf8(take(length.into())?.to_vec()).ok()?;
    let length = u16::from_be_bytes(take(2)?.try_into().ok()?);
    let url = String::from_utf8(take(length.into())?.to_vec()).ok()?;
    content.is_empty().then_some(Invitation { engine, url, device, token, expires_ms })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn invitation() -> Invitation {
        Invitation {
            engine: Identity::from_secret(&[1; 32]).public(),
            url: "https://192.168.1.20:7878".into(),
            device: "phone".into(),
            token: [9; 16],
            expires_ms: 1_800_000_000_000,
        }
    }

    #[test]
    fn an_invitation_reads_back_in_any_case_and_over_line_breaks() {
        let text = invitation().to_string();
        assert!(text.len() < 180, "{} characters", text.len());
        assert_eq!(text.parse(), Ok(invitation()));
        assert_eq!(text.to_uppercase().parse(), Ok(invitation()));
        let broken = format!(" {}\n  {}\n", &text[..60], &text[60..]);
        assert_eq!(broken.parse(), Ok(invitation()));
        assert!(!format!("{:?}", invitation()).contains("token"), "a log does not show the token");
    }

    #[test]
    fn what_is_no_invitation_says_why() {
        let text = invitation().to_string();
        let parse = |t: &str| t.parse::<Invitation>().expect_err("refused");
        assert_eq!(parse("https://10.0.0.5:7878"), InvitationError::Prefix);
        assert_eq!(parse(""), InvitationError::Prefix);
        assert_eq!(parse(PREFIX), InvitationError::Damaged);
        for cut in PREFIX.len()..text.len() {
            assert_eq!(parse(&text[..cut]), InvitationError::Damaged, "cut at {cut}");
        }
        for at in (PREFIX.len()..text.len()).step_by(7) {
            let other = if &text[at..=at] == "a" { "b" } else { "a" };
            let changed = format!("{}{other}{}", &text[..at], &text[at + 1..]);
            assert_eq!(parse(&changed), InvitationError::Damaged, "changed at {at}");
        }
        let mut later = vec![2_u8; 80];
        let sum = blake3::hash(&later);
        later.extend_from_slice(&sum.as_bytes()[..CHECKSUM]);
        let later = format!("{PREFIX}{}", BASE32_NOPAD.encode(&later));
        assert_eq!(parse(&later), InvitationError::Version(2));
        assert_eq!(parse(&format!("{PREFIX}{}", "a".repeat(5000))), InvitationError::Damaged);
    }
}
