//! The calls to the engine. Every message is written into the journal before it is sent.

use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use headstart_protocol::text::{bytes, counted};
use headstart_protocol::wire::{Claim, Commit, Committed, Grant, Join, Joined, Renew, Renewed, WireError};
use headstart_protocol::{Digest, Manifest};
use reqwest::header::{AUTHORIZATION, CONTENT_LENGTH, RANGE};
use reqwest::{Method, Response, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::DeviceError;
use crate::journal::Journal;
use crate::release::Upload;

/// How long any call but a long poll may take to be answered.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// Why a call was not answered as hoped.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The engine cannot be reached, or has a failure of its own. Trying again may help.
    #[error("the engine cannot be reached: {0}")]
    Unreachable(String),
    /// The token is not known any more; joining again gives a new one.
    #[error("the engine does not know this device any more")]
    UnknownToken,
    /// The engine refuses.
    #[error("the engine refuses ({status}, {}): {}", error.code, error.message)]
    Refused {
        /// HTTP status.
        status: u16,
        /// Its reason.
        error: WireError,
    },
    /// The answer cannot be read.
    #[error("the engine's answer cannot be read: {0}")]
    Garbled(String),
    /// The journal cannot be written, so nothing was sent.
    #[error(transparent)]
    Journal(#[from] DeviceError),
}

impl CallError {
    /// The reason, without the sentence that the caller says before it.
    pub fn reason(&self) -> String {
        match self {
            Self::Unreachable(why) => why.clone(),
            other => other.to_string(),
        }
    }
}

/// The engine, as seen from the device.
pub struct Client {
    http: reqwest::Client,
    base: String,
    token: Mutex<Option<String>>,
    journal: Journal,
}

impl Client {
    /// A client of the engine at `url`.
    ///
    /// # Errors
    /// [`DeviceError::Input`] for a URL that cannot be used.
    pub fn new(url: &str, journal: Journal) -> Result<Self, DeviceError> {
        let wrong = |why: &str| {
            DeviceError::Input(format!(
                "{url:?} {why}; give the engine's address, such as http://10.0.0.5:7878"
            ))
        };
        let parsed = reqwest::Url::parse(url).map_err(|e| wrong(&format!("is not a URL ({e})")))?;
        match parsed.scheme() {
            "http" => {}
            "https" => {
                return Err(wrong(
                    "needs TLS, which headstart-device does not support: use a VPN or an SSH tunnel",
                ));
            }
            _ => return Err(wrong("is not an http URL")),
        }
        // Redirects are not followed: nothing is to reach another host than the one that was named.
        let http = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(Duration::from_secs(10))
            .user_agent(concat!("headstart-device/", env!("CARGO_PKG_VERSION")));
        let local = matches!(parsed.host_str(), Some("localhost" | "127.0.0.1" | "[::1]"));
        let http = if local { http.no_proxy() } else { http };
        let http = http.build().map_err(|e| DeviceError::Internal(format!("HTTP client: {e}")))?;
        let base = parsed.as_str().trim_end_matches('/').to_owned();
        Ok(Self { http, base, token: Mutex::new(None), journal })
    }

    /// The engine's address.
    pub fn url(&self) -> &str {
        &self.base
    }

    /// Uses the token of a successful join.
    pub fn set_token(&self, token: String) {
        *self.token.lock().unwrap_or_else(PoisonError::into_inner) = Some(token);
    }

    fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.base));
        match &*self.token.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(token) => request.header(AUTHORIZATION, format!("Bearer {token}")),
            None => request,
        }
    }

    async fn post<T: Serialize, R: DeserializeOwned>(
        &self,
        path: &str,
        message: &T,
        says: Says<'_>,
    ) -> Result<Option<R>, CallError> {
        let body = serde_json::to_vec(message).map_err(|e| CallError::Garbled(e.to_string()))?;
        self.journal.record(&format!("POST {path}"), &body, says.what, says.fold)?;
        let request = self.request(Method::POST, path).header("content-type", "application/json");
        let sent = request.timeout(says.timeout).body(body).send().await;
        let answer = checked(sent).await?;
        if answer.status() == StatusCode::NO_CONTENT {
            return Ok(None);
        }
        json(answer).await.map(Some)
    }

    /// Joins the engine.
    ///
    /// # Errors
    /// Any [`CallError`].
    pub async fn join(&self, join: &Join) -> Result<Joined, CallError> {
        let f = &join.facts;
        let what = format!(
            "joined as {:?}: {}, {} of memory, {}, can run {}",
            join.device,
            counted(f.threads, "thread"),
            bytes(f.memory),
            conditions(&f.holds),
            counted(join.kinds.len() as u64, "stage kind")
        );
        need(self.post("/v1/join", join, Says::plain(&what)).await?)
    }

    /// Asks for work, waiting up to `claim.wait_ms` for it.
    ///
    /// # Errors
    /// Any [`CallError`].
    pub async fn claim(&self, claim: &Claim) -> Result<Option<Grant>, CallError> {
        let what = format!("asked for work; {}", conditions(&claim.facts.holds));
        let timeout = REQUEST_TIMEOUT + Duration::from_millis(claim.wait_ms);
        self.post("/v1/claim", claim, Says { what: &what, fold: true, timeout }).await
    }

    /// Keeps a claim.
    ///
    /// # Errors
    /// Any [`CallError`].
    pub async fn renew(&self, renew: &Renew, name: &str) -> Result<Renewed, CallError> {
        let what = match &renew.progress {
            Some(p) => format!("running {name}: {} {}", p.done, p.unit),
            None => format!("running {name}"),
        };
        need(self.post("/v1/renew", renew, Says { fold: true, ..Says::plain(&what) }).await?)
    }

    /// Hands in an outcome.
    ///
    /// # Errors
    /// Any [`CallError`].
    pub async fn commit(&self, commit: &Commit, what: &str) -> Result<Committed, CallError> {
        need(self.post("/v1/commit", commit, Says::plain(what)).await?)
    }

    /// Asks for the manifest of a public artifact.
    ///
    /// # Errors
    /// Any [`CallError`].
    pub async fn manifest(&self, id: &Digest) -> Result<Manifest, CallError> {
        let path = format!("/v1/artifacts/{id}");
        self.journal.record(&format!("GET {path}"), b"", "asked for a public artifact", false)?;
        json(checked(self.request(Method::GET, &path).timeout(REQUEST_TIMEOUT).send().await).await?).await
    }

    /// Asks for a file of a public artifact, from byte `from` on. The answer's body is yet to be
    /// read.
    ///
    /// # Errors
    /// Any [`CallError`].
    pub async fn blob(&self, digest: &Digest, from: u64) -> Result<Response, CallError> {
        let path = format!("/v1/blobs/{digest}");
        self.journal.record(&format!("GET {path}"), b"", "asked for a file of a public artifact", false)?;
        let mut request = self.request(Method::GET, &path);
        if from > 0 {
            request = request.header(RANGE, format!("bytes={from}-"));
        }
        checked(request.send().await).await
    }

    /// Uploads a file that a commit refers to.
    ///
    /// # Errors
    /// Any [`CallError`].
    pub async fn upload(&self, upload: &Upload, at: &Path) -> Result<(), CallError> {
        let path = format!("/v1/blobs/{}", upload.digest);
        let file = tokio::fs::File::open(at).await;
        let file = file.map_err(|e| CallError::Journal(DeviceError::state(at, e)))?;
        let call = format!("PUT {path}");
        self.journal.record_as(&call, upload.size, upload.digest, &upload.what, false)?;
        let body = reqwest::Body::wrap_stream(tokio_util::io::ReaderStream::new(file));
        let request = self.request(Method::PUT, &path).header(CONTENT_LENGTH, upload.size).body(body);
        checked(request.send().await).await.map(|_| ())
    }
}

/// What a message says, for the journal, and how long its answer may take.
struct Says<'a> {
    what: &'a str,
    fold: bool,
    timeout: Duration,
}

impl<'a> Says<'a> {
    fn plain(what: &'a str) -> Self {
        Self { what, fold: false, timeout: REQUEST_TIMEOUT }
    }
}

fn need<T>(answer: Option<T>) -> Result<T, CallError> {
    answer.ok_or_else(|| CallError::Garbled("it is empty".into()))
}

async fn checked(sent: reqwest::Result<Response>) -> Result<Response, CallError> {
    let answer = sent.map_err(|e| CallError::Unreachable(root_cause(&e)))?;
    let status = answer.status();
    if status.is_success() {
        return Ok(answer);
    }
    if status == StatusCode::UNAUTHORIZED {
        return Err(CallError::UnknownToken);
    }
    let text = answer.text().await.unwrap_or_default();
    let error = serde_json::from_str(&text).unwrap_or_else(|_| WireError {
        code: "http".into(),
        message: text.lines().next().unwrap_or("no reason given").chars().take(200).collect(),
    });
    if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS {
        return Err(CallError::Unreachable(format!("it answers {status}: {}", error.message)));
    }
    Err(CallError::Refused { status: status.as_u16(), error })
}

async fn json<T: DeserializeOwned>(answer: Response) -> Result<T, CallError> {
    let bytes = answer.bytes().await.map_err(|e| CallError::Unreachable(root_cause(&e)))?;
    serde_json::from_slice(&bytes).map_err(|e| CallError::Garbled(e.to_string()))
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

/// The conditions that a device says hold, for its journal.
fn conditions(holds: &[String]) -> String {
    if holds.is_empty() { "no condition holds".to_owned() } else { format!("holds: {}", holds.join(", ")) }
}
