//! Reading what the engine answers: no more than an answer of its kind can have, and not for ever.
//!
//! Answers are never unpacked: the client offers no compression, so what is counted is what is held.

use std::time::Duration;

use headstart_protocol::wire::WireError;
use headstart_transport::PublicKey;
use headstart_transport::tls::OtherKey;
use reqwest::header::CONTENT_ENCODING;
use reqwest::{Response, StatusCode};
use serde::de::DeserializeOwned;

use crate::error::DeviceError;

/// Bytes of an answer without lists: a challenge, a session, a renewal, what became of a commit.
pub(crate) const SHORT: usize = 64 << 10;
/// Bytes of a grant: a task may list 100,000 pLLMs to be downloaded beforehand.
pub(crate) const GRANT: usize = 32 << 20;
/// Bytes of a manifest: a catalog may list 100,000 pLLMs.
pub(crate) const MANIFEST: usize = 32 << 20;
/// Bytes of an error.
const ERROR: usize = 64 << 10;

/// How long any call but a long poll may take to be answered to the end.
pub(crate) const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// Bytes in a second that a file moves at least; a call that is slower for long is given up.
const SLOWEST: u64 = 4 << 10;

/// Why a call was not answered as hoped.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The engine cannot be reached, or has a failure of its own. Trying again may help.
    #[error("the engine cannot be reached: {0}")]
    Unreachable(String),
    /// The session is not known any more; joining again gives a new one.
    #[error("the engine does not know this device's session any more")]
    UnknownSession,
    /// The engine refuses.
    #[error("the engine refuses ({status}, {}): {}", error.code, error.message)]
    Refused {
        /// HTTP status.
        status: u16,
        /// Its reason.
        error: WireError,
    },
    /// What answers shows another key than that of the engine.
    #[error("another engine answers")]
    OtherEngine {
        /// The key that it shows, if it is one.
        shown: Option<PublicKey>,
    },
    /// The answer is not signed by the engine for this device, or is not in time.
    #[error("the answer does not count: {0}")]
    Unproven(String),
    /// The answer cannot be read.
    #[error("the engine's answer cannot be read: {0}")]
    Garbled(String),
    /// The journal cannot be written, so nothing was sent.
    #[error(transparent)]
    Journal(#[from] DeviceError),
}

impl CallError {
    /// Whether the same call may succeed later, without anything else being done.
    pub(crate) fn may_pass(&self) -> bool {
        matches!(self, Self::Unreachable(_) | Self::Garbled(_))
    }

    /// The reason, without the sentence that the caller says before it.
    pub fn reason(&self) -> String {
        match self {
            Self::Unreachable(why) => why.clone(),
            other => other.to_string(),
        }
    }
}

/// How long a file of so many bytes may take.
pub(crate) fn longest_transfer(size: u64) -> Duration {
    REQUEST_TIMEOUT + Duration::from_secs(size / SLOWEST)
}

/// Why a request was not sent, or not answered.
pub(crate) fn not_sent(e: &reqwest::Error) -> CallError {
    match OtherKey::in_chain(e) {
        Some(OtherKey { shown }) => CallError::OtherEngine { shown },
        None => CallError::Unreachable(root_cause(e)),
    }
}

/// The answer, if it is no error.
pub(crate) async fn checked(answer: Response) -> Result<Response, CallError> {
    let status = answer.status();
    if status.is_success() {
        return Ok(answer);
    }
    let text = bounded(answer, ERROR).await.unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let error = serde_json::from_str(&text).unwrap_or_else(|_| WireError {
        code: "http".into(),
        message: text.lines().next().unwrap_or("no reason given").chars().take(200).collect(),
    });
    if status == StatusCode::UNAUTHORIZED && error.code != "unproven" {
        return Err(CallError::UnknownSession);
    }
    let passes = [StatusCode::TOO_MANY_REQUESTS, StatusCode::REQUEST_TIMEOUT];
    if status.is_server_error() || passes.contains(&status) {
        return Err(CallError::Unreachable(format!("it answers {status}: {}", error.message)));
    }
    Err(CallError::Refused { status: status.as_u16(), error })
}

/// An answer in JSON that has at most `most` bytes.
pub(crate) async fn json<T: DeserializeOwned>(answer: Response, most: usize) -> Result<T, CallError> {
    let bytes = bounded(answer, most).await?;
    serde_json::from_slice(&bytes).map_err(|e| CallError::Garbled(e.to_string()))
}

/// The whole of an answer that has at most `most` bytes.
async fn bounded(mut answer: Response, most: usize) -> Result<Vec<u8>, CallError> {
    let too_long = || CallError::Garbled(format!("it is longer than {most} bytes"));
    if answer.headers().contains_key(CONTENT_ENCODING) {
        return Err(CallError::Garbled("it is compressed, which was not asked for".into()));
    }
    if answer.content_length().is_some_and(|stated| stated > most as u64) {
        return Err(too_long());
    }
    let mut bytes = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(|e| CallError::Unreachable(root_cause(&e)))? {
        if bytes.len() + chunk.len() > most {
            return Err(too_long());
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

/// The innermost cause: reqwest's own message repeats the URL and says little.
fn root_cause(e: &reqwest::Error) -> String {
    if e.is_timeout() {
        return "no answer in time".into();
    }
    let mut cause: &dyn std::error::Error = e;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}
