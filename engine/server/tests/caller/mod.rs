//! A caller that speaks the protocol from outside, honest or not: over TLS, over TLS that it half finishes,
//! or without.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use headstart_disk::{Disk, SystemDisk};
use headstart_driver::{Engine, Hub};
use headstart_protocol::wire::{
    BODY_DIGEST, DEVICE_KEY, Hello, Invited, Join, Joined, REQUEST_SIGNATURE, SESSION, Signed, Welcome,
};
use headstart_protocol::{Digest, PROTOCOL_VERSION, Stage};
use headstart_server::{Channel, Limits};
use headstart_store::Workspace;
use headstart_transport::proof::{JoinClaim, RequestClaim};
use headstart_transport::signed::{self, Kind};
use headstart_transport::{Identity, Invitation, PublicKey};
use reqwest::Method;
use serde_json::Value as Json;
use tokio_util::sync::CancellationToken;

/// An engine that is served.
pub struct Port {
    pub dir: tempfile::TempDir,
    pub engine: Engine,
    pub address: SocketAddr,
    pub channel: Channel,
    pub closing: CancellationToken,
    pub served: tokio::task::JoinHandle<()>,
}

impl Port {
    pub async fn open(channel: Channel, limits: Limits) -> Self {
        Self::with(channel, limits, Arc::new(SystemDisk), Vec::new()).await
    }

    /// One whose workspace lies on this disk, with these stages.
    pub async fn with(
        channel: Channel,
        limits: Limits,
        disk: Arc<dyn Disk>,
        stages: Vec<Box<dyn Stage>>,
    ) -> Self {
        let dir = tempfile::tempdir().expect("tempdir");
        let ws = Workspace::open_on(&dir.path().join("workspace"), disk).expect("a workspace");
        let engine = Engine::open(ws, stages).expect("an engine");
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let address = listener.local_addr().expect("bound");
        let closing = CancellationToken::new();
        let ended = closing.clone().cancelled_owned();
        let served = headstart_server::serve(listener, engine.hub().clone(), channel, limits, ended);
        let served = tokio::spawn(async move { served.await.expect("serves") });
        Self { dir, engine, address, channel, closing, served }
    }

    pub fn hub(&self) -> &Hub {
        self.engine.hub()
    }

    pub fn key(&self) -> PublicKey {
        self.hub().identity().public()
    }

    pub fn url(&self) -> String {
        let scheme = if self.channel == Channel::Tls { "https" } else { "http" };
        format!("{scheme}://{}", self.address)
    }

    pub fn invite(&self, name: &str) -> Invitation {
        let hour = Duration::from_secs(3600);
        self.hub().registry().invite(self.key(), name, &self.url(), hour).expect("invited")
    }

    pub fn caller(&self, secret: u8) -> Caller {
        Caller::new(&self.url(), self.key(), Identity::from_secret(&[secret; 32]))
    }

    pub fn workspace(&self) -> &Path {
        self.engine.workspace().dir()
    }
}

/// What was answered.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub body: Json,
}

impl Answer {
    pub fn code(&self) -> (u16, &str) {
        (self.status, self.body["code"].as_str().unwrap_or_default())
    }
}

/// A device, or somebody who would like to be one.
#[derive(Clone)]
pub struct Caller {
    pub http: reqwest::Client,
    pub url: String,
    pub engine: PublicKey,
    pub identity: Identity,
    pub session: String,
}

impl Caller {
    pub fn new(url: &str, engine: PublicKey, identity: Identity) -> Self {
        let tls = headstart_transport::tls::client_config(&identity, engine).expect("a key");
        let http = reqwest::Client::builder().no_proxy().tls_backend_preconfigured(tls);
        let http = http.build().expect("a client");
        Self { http, url: url.to_owned(), engine, identity, session: String::new() }
    }

    /// A request, signed where the channel proves nothing.
    pub fn request(&self, method: Method, path: &str, body: &[u8]) -> reqwest::RequestBuilder {
        let request = self.http.request(method.clone(), format!("{}{path}", self.url));
        let request = request.header(SESSION, &self.session);
        if self.url.starts_with("https") {
            return request;
        }
        let body = Digest::of(body).to_string();
        let claim = RequestClaim {
            engine: &self.engine,
            method: method.as_str(),
            path,
            session: &self.session,
            body: &body,
        };
        request
            .header(DEVICE_KEY, self.identity.public().to_string())
            .header(REQUEST_SIGNATURE, claim.sign(&self.identity))
            .header(BODY_DIGEST, body)
    }

    pub async fn post(&self, path: &str, body: &Json) -> Answer {
        let body = body.to_string();
        let request = self.request(Method::POST, path, body.as_bytes());
        answer(request.header("content-type", "application/json").body(body)).await
    }

    /// Reads what the engine signed for this caller.
    pub fn read<T: serde::de::DeserializeOwned>(&self, answer: &Answer, kind: Kind) -> T {
        let signed: Signed = serde_json::from_value(answer.body.clone()).expect("signed");
        signed::open(&signed, kind, &self.engine, &self.identity.public()).expect("by the engine").0
    }

    pub async fn challenge(&self) -> String {
        let hello = Hello { protocol: PROTOCOL_VERSION, nonce: "n".into() };
        let answer = self.post("/v1/hello", &serde_json::to_value(hello).expect("JSON")).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        self.read::<Welcome>(&answer, Kind::Welcome).challenge
    }

    /// A join that proves what it says.
    pub async fn join_message(&self, name: &str, invitation: Option<&Invitation>) -> Join {
        let challenge = self.challenge().await;
        let device = self.identity.public();
        let claim =
            JoinClaim { engine: &self.engine, device: &device, challenge: &challenge, nonce: "m", name };
        let invited = |i: &Invitation| {
            let token = i.token_key();
            Invited { key: token.public().to_string(), proof: claim.sign_invited(&token) }
        };
        Join {
            device: name.into(),
            protocol: PROTOCOL_VERSION,
            version: "1".into(),
            kinds: vec!["probe".into()],
            numerics: None,
            facts: Default::default(),
            highest_fence: 0,
            granted: None,
            nonce: "m".into(),
            proof: claim.sign(&self.identity),
            invitation: invitation.map(invited),
            challenge,
        }
    }

    pub async fn join(&mut self, name: &str, invitation: Option<&Invitation>) -> Answer {
        let join = self.join_message(name, invitation).await;
        let answer = self.post("/v1/join", &serde_json::to_value(join).expect("JSON")).await;
        if answer.status == 200 {
            self.session = self.read::<Joined>(&answer, Kind::Joined).session;
        }
        answer
    }
}

pub async fn answer(request: reqwest::RequestBuilder) -> Answer {
    let answer = request.send().await.expect("answers");
    let status = answer.status().as_u16();
    Answer { status, body: answer.json().await.unwrap_or_default() }
}

/// A TLS client of any key, to be used by hand.
pub async fn tls(port: &Port, secret: u8) -> tokio_rustls::client::TlsStream<tokio::net::TcpStream> {
    let identity = Identity::from_secret(&[secret; 32]);
    let config = headstart_transport::tls::client_config(&identity, port.key()).expect("a key");
    let stream = tokio::net::TcpStream::connect(port.address).await.expect("connects");
    let name = rustls::pki_types::ServerName::from(port.address.ip());
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    connector.connect(name, stream).await.expect("shakes hands")
}
