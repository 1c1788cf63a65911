//! The calls to the engine. Every message is written into the journal before it is sent, and every answer
//! that decides anything must bear the engine's signature.

use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use headstart_env::Env;
use headstart_protocol::text::{bytes, counted};
use headstart_protocol::wire::{
    BODY_DIGEST, Claim, Commit, CommitAnswer, CommitResult, DEVICE_KEY, Grant, GrantStub, Hello, Join,
    Joined, REQUEST_SIGNATURE, Renew, Renewal, Renewed, SESSION, Signed, Welcome,
};
use headstart_protocol::{Digest, Manifest};
use headstart_transport::proof::RequestClaim;
use headstart_transport::signed::{self, Kind};
use headstart_transport::{Identity, PublicKey};
use reqwest::header::{CONTENT_LENGTH, CONTENT_TYPE, RANGE};
use reqwest::{Method, Response, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;

pub use crate::answer::CallError;
use crate::answer::{self, REQUEST_TIMEOUT, checked, json, longest_transfer, not_sent};
use crate::engine_time::EngineTime;
use crate::error::DeviceError;
use crate::journal::Journal;
use crate::pairing::Pairing;
use crate::release::Upload;

/// A connection that is not used for this long is closed: before the engine closes it.
const IDLE: Duration = Duration::from_secs(60);

/// The engine, as seen from the device.
pub struct Client {
    http: reqwest::Client,
    base: String,
    engine: PublicKey,
    identity: Identity,
    /// The channel does not prove who is at its ends.
    plaintext: bool,
    session: Mutex<Option<String>>,
    time: EngineTime,
    journal: Journal,
}

impl Client {
    /// A client of the engine that the device is paired with.
    ///
    /// # Errors
    /// [`DeviceError::Input`] for an address that cannot be used, or may not.
    pub(crate) fn new(
        pairing: &Pairing,
        identity: &Identity,
        insecure_plaintext: bool,
        journal: Journal,
        env: &Env,
    ) -> Result<Self, DeviceError> {
        let url = &pairing.url;
        let wrong = |why: &str| DeviceError::Input(format!("{url:?} {why}"));
        let example = "give the engine's address, such as https://10.0.0.5:7878";
        let parsed =
            reqwest::Url::parse(url).map_err(|e| wrong(&format!("is not a URL ({e}); {example}")))?;
        let plaintext = match parsed.scheme() {
            "https" => false,
            "http" if insecure_plaintext => true,
            "http" => {
                return Err(wrong(
                    "is not protected by TLS; use https://. For a recording proxy in a test, \
                     `--insecure-plaintext` on both sides goes without",
                ));
            }
            _ => return Err(wrong(&format!("is not an https URL; {example}"))),
        };
        let tls = headstart_transport::tls::client_config(identity, pairing.key);
        let tls = tls.map_err(|e| DeviceError::Internal(format!("TLS: {e}")))?;
        // Redirects are not followed: nothing is to reach another host than the one that was named.
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(Duration::from_secs(10))
            .pool_idle_timeout(IDLE)
            .user_agent(concat!("headstart-device/", env!("CARGO_PKG_VERSION")));
        let local = matches!(parsed.host_str(), Some("localhost" | "127.0.0.1" | "[::1]"));
        let http = if local { http.no_proxy() } else { http };
        let http = http.build().map_err(|e| DeviceError::Internal(format!("HTTP client: {e}")))?;
        Ok(Self {
            http,
            base: parsed.as_str().trim_end_matches('/').to_owned(),
            engine: pairing.key,
            identity: identity.clone(),
            plaintext,
            session: Mutex::new(None),
            time: EngineTime::new(env),
            journal,
        })
    }

    /// The engine's address.
    pub fn url(&self) -> &str {
        &self.base
    }

    /// The engine's key.
    pub fn engine(&self) -> PublicKey {
        self.engine
    }

    /// Whether anybody on the way can read and change what crosses.
    pub fn is_plaintext(&self) -> bool {
        self.plaintext
    }

    /// Uses the session of a successful join.
    pub fn set_session(&self, session: Option<String>) {
        *self.session.lock().unwrap_or_else(PoisonError::into_inner) = session;
    }

    fn request(&self, method: Method, path: &str, body: Digest) -> reqwest::RequestBuilder {
        let session = self.session.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut request = self.http.request(method.clone(), format!("{}{path}", self.base));
        if self.plaintext {
            let body = body.to_string();
            let claim = RequestClaim {
                engine: &self.engine,
                method: method.as_str(),
                path,
                session: session.as_deref().unwrap_or_default(),
                body: &body,
            };
            request = request
                .header(DEVICE_KEY, self.identity.public().to_string())
                .header(REQUEST_SIGNATURE, claim.sign(&self.identity))
                .header(BODY_DIGEST, body);
        }
        match session {
            Some(session) => request.header(SESSION, session),
            None => request,
        }
    }

    /// Sends a message; the raw answer, and the digest of what was sent.
    async fn send<T: Serialize>(
        &self,
        path: &str,
        message: &T,
        says: &Says<'_>,
    ) -> Result<(Response, Digest), CallError> {
        let body = serde_json::to_vec(message).map_err(|e| CallError::Garbled(e.to_string()))?;
        self.journal.record(&format!("POST {path}"), &body, says.what, says.fold)?;
        let digest = Digest::of(&body);
        let request = self.request(Method::POST, path, digest).header(CONTENT_TYPE, "application/json");
        let sent = request.timeout(says.timeout).body(body).send().await;
        Ok((sent.map_err(|e| not_sent(&e))?, digest))
    }

    /// Sends a message whose answer is signed; the answer and its fence.
    async fn post<T: Serialize, R: DeserializeOwned>(
        &self,
        path: &str,
        message: &T,
        kind: Kind,
        says: Says<'_>,
    ) -> Result<Option<(R, u64)>, CallError> {
        let signed = self.post_raw(path, message, kind, says).await?;
        signed.map(|signed| self.open(&signed, kind)).transpose()
    }

    /// The same; the answer as it came.
    async fn post_raw<T: Serialize>(
        &self,
        path: &str,
        message: &T,
        kind: Kind,
        says: Says<'_>,
    ) -> Result<Option<Signed>, CallError> {
        let (answer, _) = self.send(path, message, &says).await?;
        let answer = checked(answer).await;
        let answer =
            if kind == Kind::Joined { answer? } else { answer.map_err(|e| self.unproven_refusal(e))? };
        if answer.status() == StatusCode::NO_CONTENT {
            return Ok(None);
        }
        let most = if kind == Kind::Grant { answer::GRANT } else { answer::SHORT };
        json(answer, most).await.map(Some)
    }

    /// Reads an answer if the engine signed it for this device and it is in time.
    fn open<R: DeserializeOwned>(&self, answer: &Signed, kind: Kind) -> Result<(R, u64), CallError> {
        let opened = signed::open(answer, kind, &self.engine, &self.identity.public());
        let (body, stamp) = opened.map_err(|e| CallError::Unproven(e.to_string()))?;
        if kind != Kind::Welcome && !self.time.takes(stamp) {
            return Err(CallError::Unproven("it has expired".into()));
        }
        Ok((body, stamp.fence))
    }

    /// Asks for a challenge.
    ///
    /// # Errors
    /// Any [`CallError`].
    pub async fn hello(&self, hello: &Hello) -> Result<Welcome, CallError> {
        let says = Says::plain("asked the engine for a challenge, with this device's public key");
        let (answer, _) = self.send("/v1/hello", hello, &says).await?;
        let signed: Signed = json(checked(answer).await?, answer::SHORT).await?;
        let (welcome, _): (Welcome, u64) = self.open(&signed, Kind::Welcome)?;
        if welcome.nonce != hello.nonce {
            return Err(CallError::Unproven("it answers another device's call".into()));
        }
        // It is an answer to a number that was never used before, so it was issued just now.
        self.time.learn(signed.issued_ms);
        Ok(welcome)
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
        let (joined, _): (Joined, u64) =
            need(self.post("/v1/join", join, Kind::Joined, Says::plain(&what)).await?)?;
        if joined.nonce != join.nonce {
            return Err(CallError::Unproven("it answers another join".into()));
        }
        Ok(joined)
    }

    /// Asks for work, waiting up to `claim.wait_ms` for it. The grant's fence is the one that was signed.
    ///
    /// # Errors
    /// Any [`CallError`].
    pub async fn claim(&self, claim: &Claim) -> Result<Option<(Grant, GrantStub)>, CallError> {
        let what = format!("asked for work; {}", conditions(&claim.facts.holds));
        let timeout = REQUEST_TIMEOUT + Duration::from_millis(claim.wait_ms);
        let says = Says { what: &what, fold: true, timeout };
        let Some(signed) = self.post_raw("/v1/claim", claim, Kind::Grant, says).await? else {
            return Ok(None);
        };
        let (grant, fence): (Grant, u64) = self.open(&signed, Kind::Grant)?;
        if grant.task.fence != fence {
            return Err(CallError::Unproven("its task has another fence than its signature".into()));
        }
        Ok(Some((grant, signed::stub(&signed))))
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
        let says = Says { fold: true, ..Says::plain(&what) };
        let answer = self.post("/v1/renew", renew, Kind::Renewal, says).await;
        let (renewal, fence): (Renewal, u64) = need(answer?)?;
        if fence != renew.fence {
            return Err(CallError::Unproven("it is about another attempt".into()));
        }
        Ok(renewal.answer)
    }

    /// Without TLS anybody can write a refusal.
    fn unproven_refusal(&self, e: CallError) -> CallError {
        match e {
            CallError::Refused { error, .. } if self.plaintext => CallError::Unproven(error.message),
            other => other,
        }
    }

    /// Hands in an outcome. Only an answer that the engine signed for exactly this commit counts.
    ///
    /// # Errors
    /// Any [`CallError`]; of `missing_blob`, the message lists what is to be uploaded.
    pub async fn commit(&self, commit: &Commit, what: &str) -> Result<CommitResult, CallError> {
        let (answer, digest) = self.send("/v1/commit", commit, &Says::plain(what)).await?;
        let signed: Signed = match answer.status() {
            StatusCode::OK | StatusCode::ACCEPTED | StatusCode::UNPROCESSABLE_ENTITY => {
                json(answer, answer::SHORT).await?
            }
            _ => match checked(answer).await {
                Ok(_) => return Err(CallError::Unproven("it is not signed".into())),
                Err(e @ CallError::Refused { .. }) if is_missing_blob(&e) => return Err(e),
                Err(e) => return Err(self.unproven_refusal(e)),
            },
        };
        let (answer, fence): (CommitAnswer, u64) = self.open(&signed, Kind::Commit)?;
        if fence != commit.fence || answer.commit != digest {
            return Err(CallError::Unproven("it is about another commit".into()));
        }
        Ok(answer.answer)
    }

    /// Asks for the manifest of a public artifact.
    ///
    /// # Errors
    /// Any [`CallError`].
    pub async fn manifest(&self, id: &Digest) -> Result<Manifest, CallError> {
        let path = format!("/v1/artifacts/{id}");
        self.journal.record(&format!("GET {path}"), b"", "asked for a public artifact", false)?;
        let request = self.request(Method::GET, &path, Digest::of(b"")).timeout(REQUEST_TIMEOUT);
        json(checked(request.send().await.map_err(|e| not_sent(&e))?).await?, answer::MANIFEST).await
    }

    /// Asks for a file of a public artifact, from byte `from` on. The answer's body is yet to be
    /// read.
    ///
    /// # Errors
    /// Any [`CallError`].
    pub async fn blob(&self, digest: &Digest, from: u64) -> Result<Response, CallError> {
        let path = format!("/v1/blobs/{digest}");
        self.journal.record(&format!("GET {path}"), b"", "asked for a file of a public artifact", false)?;
        let mut request = self.request(Method::GET, &path, Digest::of(b""));
        if from > 0 {
            request = request.header(RANGE, format!("bytes={from}-"));
        }
        checked(request.send().await.map_err(|e| not_sent(&e))?).await
    }

    /// Uploads a file that a commit refers to.
    ///
    /// # Errors
    /// Any [`CallError`].
    pub async fn upload(&self, upload: &Upload, at: &Path) -> Result<(), CallError> {
        let path = format!("/v1/blobs/{}", upload.digest);
        let file = headstart_disk::read::open(at);
        let file = file.map_err(|e| CallError::Journal(DeviceError::state(at, e)))?;
        let call = format!("PUT {path}");
        self.journal.record_as(&call, upload.size, upload.digest, &upload.what, false)?;
        let body =
            reqwest::Body::wrap_stream(tokio_util::io::ReaderStream::new(tokio::fs::File::from_std(file)));
        let request = self.request(Method::PUT, &path, upload.digest).header(CONTENT_LENGTH, upload.size);
        let request = request.timeout(longest_transfer(upload.size));
        checked(request.body(body).send().await.map_err(|e| not_sent(&e))?).await.map(|_| ())
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

pub(crate) fn is_missing_blob(e: &CallError) -> bool {
    matches!(e, CallError::Refused { error, .. } if error.code == "missing_blob")
}

/// The conditions that a device says hold, for its journal.
fn conditions(holds: &[String]) -> String {
    if holds.is_empty() { "no condition holds".to_owned() } else { format!("holds: {}", holds.join(", ")) }
}
