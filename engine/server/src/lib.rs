//! The HTTP side of the engine: what devices talk to.
//!
//! A thin layer: it reads requests, asks [`headstart_driver::Hub`], and writes answers. What a
//! device may see or hand in is the hub's to decide. Who calls is proven by TLS 1.3 with the device's own
//! key, before a byte of a request is read.
//!
//! # Layout
//! - [`serve`]: a listener is served until told to stop.
//! - [`Limits`]: how long and how much a caller may take.
//! - `connection`: one connection: handshake, requests, end.
//! - `gate`: how many connections there are, and which has to go.
//! - `io`: a socket that ends when nothing moves.
//! - `guard`: checks before a request is read: host, origin, type, key, session.
//! - `routes`: a handler for each call of [`headstart_protocol::wire`].
//! - `app`: what every handler works with.
//! - `blob`: files, whole or by range, and uploads.
//! - `reply`: errors as JSON with fitting status codes.

mod app;
mod blob;
mod connection;
mod gate;
mod guard;
mod io;
mod limits;
mod reply;
mod routes;

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::serve::Listener;
use headstart_driver::Hub;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use connection::Connections;
pub use limits::Limits;

/// How long requests in progress may take after the server was told to stop.
const DRAIN: Duration = Duration::from_secs(5);

/// How the channel is protected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Channel {
    /// TLS 1.3 with the keys of both sides.
    #[default]
    Tls,
    /// Nothing hides what crosses. Devices sign their requests, so that still nobody can pass as one. For a
    /// proxy that records what crosses.
    InsecurePlaintext,
}

/// Why serving ended otherwise than asked.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The TLS library does not take the engine's key.
    #[error("the engine's key cannot be used for TLS: {0}")]
    Key(#[from] rustls::Error),
}

/// Serves devices until `shutdown` is done. Devices that wait for work are then told that there is
/// none; other requests may finish for a few seconds.
///
/// # Errors
/// [`ServeError::Key`].
pub async fn serve<L>(
    mut listener: L,
    hub: Hub,
    channel: Channel,
    limits: Limits,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), ServeError>
where
    L: Listener<Addr = SocketAddr>,
{
    let tls = match channel {
        Channel::Tls => {
            let config = headstart_transport::tls::server_config(hub.identity())?;
            Some(TlsAcceptor::from(Arc::new(config)))
        }
        Channel::InsecurePlaintext => None,
    };
    let closing = CancellationToken::new();
    let router = routes::router(hub.clone(), limits, closing.clone());
    let connections = Arc::new(Connections::new(router, hub, tls, limits, closing.clone()));
    let mut open = JoinSet::new();
    tokio::pin!(shutdown);
    loop {
        tokio::select! {
            (io, from) = listener.accept() => {
                open.spawn(Arc::clone(&connections).serve(io, from.ip()));
            }
            Some(_) = open.join_next() => {}
            () = &mut shutdown => break,
        }
    }
    drop(listener);
    closing.cancel();
    let drained = async { while open.join_next().await.is_some() {} };
    // Whoever is slower is cut off.
    let _ = tokio::time::timeout(DRAIN, drained).await;
    Ok(())
}
