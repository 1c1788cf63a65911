//! One connection: handshake, requests, end.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::http::Request;
use headstart_driver::Hub;
use headstart_driver::hub::codes;
use headstart_protocol::wire::WireError;
use headstart_transport::PublicKey;
use headstart_transport::tls::peer_key;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::gate::{Gate, Ticket};
use crate::io::Watched;
use crate::limits::Limits;

/// Longest head of a request, in bytes.
const LARGEST_HEAD: usize = 32 << 10;
/// Headers of a request.
const MOST_HEADERS: usize = 64;

/// What all connections of a port share.
pub(crate) struct Connections {
    router: Router,
    hub: Hub,
    tls: Option<TlsAcceptor>,
    limits: Limits,
    gate: Arc<Gate>,
    closing: CancellationToken,
}

/// What a handler may know of the connection that a request came on.
#[derive(Clone)]
pub(crate) struct Connection {
    /// The key that the caller proved by the TLS handshake.
    pub(crate) key: Option<PublicKey>,
    ticket: Arc<Ticket>,
    linger: Arc<AtomicBool>,
}

impl Connection {
    /// The caller is a device that may join.
    pub(crate) fn is_of(&self, device: PublicKey) {
        self.ticket.is_of(device);
    }

    /// A request was refused before it was read to its end; the connection is of no further use.
    pub(crate) fn refused(&self) {
        self.linger.store(true, Ordering::Relaxed);
    }
}

impl Connections {
    pub(crate) fn new(
        router: Router,
        hub: Hub,
        tls: Option<TlsAcceptor>,
        limits: Limits,
        closing: CancellationToken,
    ) -> Self {
        Self { router, hub, tls, limits, gate: Gate::new(limits), closing }
    }

    /// Serves a connection until it ends, or has to.
    pub(crate) async fn serve<I>(self: Arc<Self>, io: I, from: IpAddr)
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let ticket = Arc::new(self.gate.enter(from));
        let linger = Arc::new(AtomicBool::new(false));
        let io = Watched::new(io, Arc::clone(&ticket), self.limits.stall, Arc::clone(&linger));
        let overstays = async {
            tokio::time::sleep(self.limits.stranger).await;
            if !ticket.is_strangers() {
                std::future::pending::<()>().await;
            }
        };
        // Whoever has not said who it is does not hold up the end.
        let closes = async {
            self.closing.cancelled().await;
            if !ticket.is_strangers() {
                std::future::pending::<()>().await;
            }
        };
        let connection = Connection { key: None, ticket: Arc::clone(&ticket), linger };
        tokio::select! {
            () = self.shake_hands(io, connection) => {}
            () = overstays => tracing::debug!(%from, "a stranger's connection took too long"),
            () = closes => {}
            () = ticket.ended() => tracing::debug!(%from, "a connection gave way to a newer one"),
        }
    }

    async fn shake_hands<I>(&self, mut io: Watched<I>, mut connection: Connection)
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let Some(tls) = &self.tls else { return self.requests(io, connection).await };
        let handshake = async {
            let first = io.read_u8().await?;
            // No TLS begins with a capital letter, and all of HTTP does.
            if first.is_ascii_uppercase() {
                connection.refused();
                io.write_all(&speaks_tls()).await?;
                io.shutdown().await?;
                return Ok(None);
            }
            io.put_back(first);
            tls.accept(io).await.map(Some)
        };
        let tls = match timeout(self.limits.handshake, handshake).await {
            Ok(Ok(Some(tls))) => tls,
            Ok(Ok(None)) | Err(_) => return,
            Ok(Err(e)) => return tracing::debug!("handshake: {e}"),
        };
        connection.key = peer_key(tls.get_ref().1.peer_certificates());
        if let Some(key) = connection.key
            && self.hub.registry().is_approved(&key)
        {
            connection.is_of(key);
        }
        self.requests(tls, connection).await;
    }

    async fn requests<I>(&self, io: I, connection: Connection)
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let router = TowerToHyperService::new(self.router.clone());
        let service = service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(connection.clone());
            router.call(request)
        });
        let served = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.limits.head)
            .max_buf_size(LARGEST_HEAD)
            .max_headers(MOST_HEADERS)
            .serve_connection(TokioIo::new(io), service);
        tokio::pin!(served);
        let ended = tokio::select! {
            ended = served.as_mut() => ended,
            () = self.closing.cancelled() => {
                served.as_mut().graceful_shutdown();
                served.await
            }
        };
        if let Err(e) = ended {
            tracing::debug!("connection: {e}");
        }
    }
}

/// The answer to plain HTTP on a port that speaks TLS: devices of version 0.1 show it to their owner.
fn speaks_tls() -> Vec<u8> {
    let error = WireError {
        code: codes::PROTOCOL.to_owned(),
        message: "this engine speaks TLS only; update the device and pair it again: `headstart devices invite NAME` \
                  on the engine's machine"
            .to_owned(),
    };
    let body = serde_json::to_string(&error).unwrap_or_default();
    let length = body.len();
    format!(
        "HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
    )
    .into_bytes()
}
