//! An engine for tests: the calls of `protocol::wire` over loopback, with faults on demand, and a
//! record of everything that devices sent.
#![allow(dead_code, reason = "each test file uses a part of it")]

pub mod place;
pub mod stages;
pub mod tls;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use axum::body::Body;
use axum::extract::{ConnectInfo, Path as UrlPath, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use headstart_device::Contract;
use headstart_protocol::contract::{Role, Source, Sources, StageArguments, asked_conditions, stage_name};
use headstart_protocol::task::{Outcome, Task};
use headstart_protocol::wire::{
    Commit, CommitAnswer, CommitResult, Committed, DEVICE_KEY, Grant, Hello, Join, Joined, Renew, Renewal,
    Renewed, SESSION, Signed, Welcome, WireError,
};
use headstart_protocol::{ArtifactRef, Digest, FileRef, Manifest, PROTOCOL_VERSION, Type};
use headstart_transport::signed::{self, Kind, Stamp};
use headstart_transport::{Identity, PublicKey};
use serde::Serialize;
use tls::{Peer, TlsListener};
use tokio_util::io::ReaderStream;

#[allow(unused_imports, reason = "each test file uses a part of it")]
pub use place::{Place, field, read_all, task};

/// What the engine knows, and how it misbehaves.
#[derive(Default)]
pub struct Inner {
    /// What waits, and everything that was ever offered.
    pub tasks: VecDeque<Task>,
    pub offered: Vec<Task>,
    pub manifests: BTreeMap<Digest, Manifest>,
    pub blobs: BTreeMap<Digest, Vec<u8>>,
    pub uploaded: BTreeMap<Digest, Vec<u8>>,
    pub commits: Vec<Commit>,
    pub renewals: Vec<Renew>,
    /// `METHOD PATH RANGE` of every request, in order.
    pub calls: Vec<String>,
    /// Every byte that devices sent: request lines, headers, bodies.
    pub traffic: Vec<u8>,
    /// The same, a message each: head and body.
    pub messages: Vec<(String, Vec<u8>)>,
    /// Cut the next download after this many bytes.
    pub cut: Option<usize>,
    /// Send this instead of every file.
    pub corrupt: Option<Vec<u8>>,
    /// Sign grants with another key.
    pub forge: bool,
    /// Answer a claim with this, as it is, once.
    pub replay: Option<Signed>,
    /// Every grant that was given.
    pub grants: Vec<Signed>,
    /// Change what is signed before it is sent.
    pub tamper: Option<fn(&mut Signed, Kind)>,
    /// How far the engine's clock is put back when it signs grants, in milliseconds.
    pub late_ms: u64,
    /// Refuse joins with this.
    pub refuse_joins: Option<WireError>,
    /// Refuse commits with this, unsigned.
    pub refuse_commits: Option<(u16, WireError)>,
    /// The key of the device that called last.
    pub device: Option<PublicKey>,
    /// Joins, as they came.
    pub joins: Vec<Join>,
    /// Answer commits with 503.
    pub no_commits: bool,
    /// Answer calls whose path begins so with bytes that never end.
    pub endless: Option<&'static str>,
    /// How many of them were taken.
    pub endless_bytes: Arc<AtomicU64>,
    /// Fences of attempts whose run was interrupted.
    pub interrupted: BTreeSet<u64>,
    /// Forget the device's session once.
    pub forget_session: bool,
    /// Forget it at the next so many downloads, as an engine does that was started again meanwhile.
    pub forget_in_downloads: u32,
    pub renewed: Option<Renewed>,
    pub lease_ms: u64,
}

/// Private artifacts by the task that made them.
impl Sources for Inner {
    fn artifact(&self, artifact: &ArtifactRef) -> Source {
        if artifact.private_to.is_none() {
            return Source::Public(format!("{:?}", artifact.ty));
        }
        let made =
            |c: &&Commit| matches!(&c.outcome, Outcome::Succeeded { output, .. } if output == artifact);
        let fence = self.commits.iter().rev().find(made).map(|c| c.fence);
        let maker = self.offered.iter().find(|t| Some(t.fence) == fence);
        Source::Private(maker.map_or_else(String::new, |t| stage_name(&t.kind, t.program.as_ref())))
    }
}

#[derive(Clone)]
pub struct Engine {
    pub url: String,
    pub identity: Identity,
    inner: Arc<Mutex<Inner>>,
}

impl Engine {
    pub async fn start() -> Self {
        Self::start_with_key(7).await
    }

    pub async fn start_with_key(seed: u8) -> Self {
        Self::begin(seed, true).await
    }

    /// An engine that speaks plain HTTP.
    pub async fn start_plain(seed: u8) -> Self {
        Self::begin(seed, false).await
    }

    async fn begin(seed: u8, tls: bool) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let scheme = if tls { "https" } else { "http" };
        let url = format!("{scheme}://{}", listener.local_addr().expect("bound"));
        let inner = Inner { lease_ms: 10_000, ..Inner::default() };
        let engine =
            Self { url, identity: Identity::from_secret(&[seed; 32]), inner: Arc::new(Mutex::new(inner)) };
        let app = Router::new()
            .route("/v1/hello", post(hello))
            .route("/v1/join", post(join))
            .route("/v1/claim", post(claim))
            .route("/v1/renew", post(renew))
            .route("/v1/commit", post(commit))
            .route("/v1/artifacts/{id}", get(manifest))
            .route("/v1/blobs/{digest}", get(blob).put(upload))
            .layer(middleware::from_fn_with_state(engine.clone(), record))
            .with_state(engine.clone());
        if tls {
            let listener = TlsListener::new(listener, &engine.identity);
            let app = app.into_make_service_with_connect_info::<Peer>();
            tokio::spawn(async move { axum::serve(listener, app).await });
        } else {
            tokio::spawn(async move { axum::serve(listener, app).await });
        }
        engine
    }

    /// The engine's key.
    pub fn key(&self) -> PublicKey {
        self.identity.public()
    }

    fn sign<T: Serialize>(&self, kind: Kind, fence: u64, body: &T) -> Json<Signed> {
        let inner = self.lock();
        let device = inner.device.expect("a device called");
        let late = if kind == Kind::Grant { inner.late_ms } else { 0 };
        let issued_ms = now_ms() - late;
        let stamp = Stamp { fence, issued_ms, expires_ms: issued_ms + 120_000 };
        let forged = Identity::from_secret(&[99; 32]);
        let key = if inner.forge && kind == Kind::Grant { &forged } else { &self.identity };
        let mut signed = signed::sign(key, &device, kind, stamp, body).expect("JSON");
        if let Some(tamper) = inner.tamper {
            tamper(&mut signed, kind);
        }
        Json(signed)
    }

    pub fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("not poisoned")
    }

    /// Offers a task.
    pub fn offer(&self, task: Task) {
        self.lock().offered.push(task.clone());
        self.lock().tasks.push_back(task);
    }

    /// Makes a public artifact known.
    pub fn publish(&self, ty: Type, files: &[(&str, &[u8])], value: serde_json::Value) -> ArtifactRef {
        self.publish_using(ty, files, value, &[])
    }

    pub fn publish_using(
        &self,
        ty: Type,
        files: &[(&str, &[u8])],
        value: serde_json::Value,
        uses: &[(&str, &ArtifactRef)],
    ) -> ArtifactRef {
        let file = |(name, content): &(&str, &[u8])| {
            ((*name).to_owned(), FileRef { digest: Digest::of(content), size: content.len() as u64 })
        };
        let uses = uses.iter().map(|(k, a)| ((*k).to_owned(), (*a).clone())).collect();
        let m = Manifest { ty, files: files.iter().map(file).collect(), value, uses };
        let reference = ArtifactRef::public(&m);
        let mut inner = self.lock();
        for (_, content) in files {
            inner.blobs.insert(Digest::of(content), content.to_vec());
        }
        inner.manifests.insert(reference.id, m);
        reference
    }

    pub fn commits(&self) -> Vec<Commit> {
        self.lock().commits.clone()
    }

    /// What an owner approved who trusts everything that the engine offered so far.
    pub fn approved(&self) -> Contract {
        let inner = self.lock();
        let mut contract = Contract::default();
        for t in &inner.offered {
            let approved = &mut contract.approved;
            approved.add_stage(&t.kind, t.version, t.program.as_ref(), &t.ty, &t.release);
            let of = stage_name(&t.kind, t.program.as_ref());
            // What a device cannot judge, nobody can approve.
            approved.arguments.extend(StageArguments::asked(&of, &t.args));
            let conditions = asked_conditions(&of, &t.args, t.when.as_ref(), &*inner);
            approved.conditions.extend(conditions.into_iter().flatten());
        }
        let models = inner.manifests.iter().filter(|(_, m)| Role::of(m) == Role::Model);
        contract.approved.models.extend(models.map(|(id, _)| *id));
        contract
    }

    /// Whether a download's session is forgotten.
    fn forgets(&self) -> bool {
        let left = &mut self.lock().forget_in_downloads;
        let forgets = *left > 0;
        *left = left.saturating_sub(1);
        forgets
    }

    /// The last commit's output.
    pub fn output(&self) -> ArtifactRef {
        match &self.commits().last().expect("a commit").outcome {
            Outcome::Succeeded { output, .. } => output.clone(),
            other => panic!("not done: {other:?}"),
        }
    }

    /// Calls whose text starts with `prefix`.
    pub fn calls(&self, prefix: &str) -> Vec<String> {
        self.lock().calls.iter().filter(|c| c.starts_with(prefix)).cloned().collect()
    }
}

pub fn now_ms() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
    u64::try_from(now.as_millis()).expect("for a while")
}

async fn record(State(engine): State<Engine>, request: Request, next: Next) -> Response {
    let stated = || request.headers().get(DEVICE_KEY)?.to_str().ok()?.parse().ok();
    let peer = request.extensions().get::<ConnectInfo<Peer>>();
    engine.lock().device = peer.map(|p| p.0.key).or_else(stated);
    let (parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, usize::MAX).await.unwrap_or_default();
    {
        let mut inner = engine.lock();
        let range = parts.headers.get(header::RANGE).and_then(|v| v.to_str().ok()).unwrap_or("");
        inner.calls.push(format!("{} {} {range}", parts.method, parts.uri).trim_end().to_owned());
        let mut seen = format!("{} {}\n", parts.method, parts.uri).into_bytes();
        for (name, value) in &parts.headers {
            seen.extend_from_slice(name.as_str().as_bytes());
            seen.extend_from_slice(b": ");
            seen.extend_from_slice(value.as_bytes());
            seen.push(b'\n');
        }
        inner.messages.push((String::from_utf8_lossy(&seen).into_owned(), body.to_vec()));
        seen.extend_from_slice(&body);
        inner.traffic.extend_from_slice(&seen);
    }
    if engine.lock().endless.is_some_and(|path| parts.uri.path().starts_with(path)) {
        return Body::from_stream(ReaderStream::new(Endless(engine.lock().endless_bytes.clone())))
            .into_response();
    }
    next.run(Request::from_parts(parts, Body::from(body))).await
}

/// Gives as many bytes as anybody takes, and counts them.
struct Endless(Arc<AtomicU64>);

impl tokio::io::AsyncRead for Endless {
    fn poll_read(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
        into: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        let n = into.remaining();
        into.put_slice(&vec![b'['; n]);
        self.0.fetch_add(n as u64, Ordering::SeqCst);
        std::task::Poll::Ready(Ok(()))
    }
}

async fn hello(State(engine): State<Engine>, Json(hello): Json<Hello>) -> Json<Signed> {
    let welcome = Welcome { challenge: "a challenge".into(), nonce: hello.nonce, protocol: PROTOCOL_VERSION };
    engine.sign(Kind::Welcome, 0, &welcome)
}

async fn join(State(engine): State<Engine>, Json(join): Json<Join>) -> Response {
    engine.lock().joins.push(join.clone());
    if let Some(error) = engine.lock().refuse_joins.clone() {
        return refuse(StatusCode::FORBIDDEN, &error.code, &error.message);
    }
    let joined = Joined { session: "session".into(), device: join.device, nonce: join.nonce };
    engine.sign(Kind::Joined, 0, &joined).into_response()
}

async fn claim(State(engine): State<Engine>, headers: HeaderMap) -> Response {
    if std::mem::take(&mut engine.lock().forget_session) {
        return refuse(StatusCode::UNAUTHORIZED, "unknown_session", "who are you?");
    }
    assert_eq!(headers[SESSION], "session");
    if let Some(replayed) = engine.lock().replay.take() {
        return Json(replayed).into_response();
    }
    let task = engine.lock().tasks.pop_front();
    // The device itself sees to it that it does not ask in a tight loop.
    let Some(task) = task else { return StatusCode::NO_CONTENT.into_response() };
    let (fence, lease_ms) = (task.fence, engine.lock().lease_ms);
    let granted = engine.sign(Kind::Grant, fence, &Grant { task, lease_ms });
    engine.lock().grants.push(granted.0.clone());
    granted.into_response()
}

async fn renew(State(engine): State<Engine>, Json(renew): Json<Renew>) -> Json<Signed> {
    let (fence, answer) = (renew.fence, engine.lock().renewed.unwrap_or(Renewed::Ok));
    engine.lock().renewals.push(renew);
    engine.sign(Kind::Renewal, fence, &Renewal { answer })
}

async fn commit(State(engine): State<Engine>, body: axum::body::Bytes) -> Response {
    let commit: Commit = serde_json::from_slice(&body).expect("a commit");
    let fence = commit.fence;
    {
        let mut inner = engine.lock();
        if let Some((status, error)) = &inner.refuse_commits {
            let status = StatusCode::from_u16(*status).expect("a status");
            return refuse(status, &error.code, &error.message);
        }
        if inner.interrupted.contains(&fence) {
            drop(inner);
            let waits = CommitResult::Waits { run: "run-1".into() };
            let answer = CommitAnswer { commit: Digest::of(&body), answer: waits };
            return (StatusCode::ACCEPTED, engine.sign(Kind::Commit, fence, &answer)).into_response();
        }
        if inner.no_commits {
            return refuse(StatusCode::SERVICE_UNAVAILABLE, "internal", "not now");
        }
        let files = commit.manifests.values().flat_map(|m| m.files.values());
        let lacks: Vec<String> = files
            .filter(|f| !inner.uploaded.contains_key(&f.digest) && !inner.blobs.contains_key(&f.digest))
            .map(|f| f.digest.to_string())
            .collect();
        if !lacks.is_empty() {
            return refuse(StatusCode::CONFLICT, "missing_blob", &lacks.join(" "));
        }
        inner.commits.push(commit);
    }
    let answer = CommitResult::Taken { counts: Committed::Accepted };
    engine.sign(Kind::Commit, fence, &CommitAnswer { commit: Digest::of(&body), answer }).into_response()
}

async fn manifest(State(engine): State<Engine>, UrlPath(id): UrlPath<String>) -> Response {
    if engine.forgets() {
        return refuse(StatusCode::UNAUTHORIZED, "unknown_session", "who are you?");
    }
    let id: Digest = id.parse().expect("a digest");
    match engine.lock().manifests.get(&id) {
        Some(m) => Json(m).into_response(),
        None => refuse(StatusCode::NOT_FOUND, "not_found", "no such artifact"),
    }
}

async fn blob(
    State(engine): State<Engine>,
    UrlPath(digest): UrlPath<String>,
    headers: HeaderMap,
) -> Response {
    if engine.forgets() {
        return refuse(StatusCode::UNAUTHORIZED, "unknown_session", "who are you?");
    }
    let mut inner = engine.lock();
    let content = inner.corrupt.clone().or_else(|| inner.blobs.get(&digest.parse().ok()?).cloned());
    let Some(content) = content else { return refuse(StatusCode::NOT_FOUND, "not_found", "no such file") };
    let range = headers.get(header::RANGE).and_then(|v| v.to_str().ok());
    let from = range.and_then(|r| r.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<usize>().ok());
    let part = content[from.unwrap_or(0)..].to_vec();
    let status = if from.is_some() { StatusCode::PARTIAL_CONTENT } else { StatusCode::OK };
    let length = [(header::CONTENT_LENGTH, part.len().to_string())];
    match inner.cut.take() {
        None => (status, length, part).into_response(),
        Some(n) => {
            let cut = tokio::io::AsyncReadExt::chain(std::io::Cursor::new(part[..n].to_vec()), Broken);
            let body = Body::from_stream(ReaderStream::new(cut));
            (status, length, body).into_response()
        }
    }
}

/// A reader that breaks off when it is asked for the second time: before, what came first is sent.
struct Broken;

impl tokio::io::AsyncRead for Broken {
    fn poll_read(
        self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        _: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        static ONCE: std::sync::atomic::AtomicBool = std::sync::atomic::AtomicBool::new(false);
        if ONCE.swap(true, std::sync::atomic::Ordering::SeqCst) {
            return std::task::Poll::Ready(Err(std::io::Error::other("cut")));
        }
        cx.waker().wake_by_ref();
        std::task::Poll::Pending
    }
}

async fn upload(
    State(engine): State<Engine>,
    UrlPath(digest): UrlPath<String>,
    body: axum::body::Bytes,
) -> StatusCode {
    let digest: Digest = digest.parse().expect("a digest");
    assert_eq!(Digest::of(&body), digest, "an upload is what it says");
    engine.lock().uploaded.insert(digest, body.to_vec());
    StatusCode::NO_CONTENT
}

fn refuse(status: StatusCode, code: &str, message: &str) -> Response {
    (status, Json(WireError { code: code.into(), message: message.into() })).into_response()
}
