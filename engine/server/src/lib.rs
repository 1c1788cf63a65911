//! The HTTP side of the engine: what devices talk to.
//!
//! A thin layer: it reads requests, asks [`headstart_driver::Hub`], and writes answers. What a
//! device may see or hand in is the hub's to decide.
//!
//! # Layout
//! - [`serve`]: a listener is served until told to stop.
//! - `routes`: a handler for each call of [`headstart_protocol::wire`].
//! - `app`: what every handler works with.
//! - `blob`: files, whole or by range, and uploads.
//! - `reply`: errors as JSON with fitting status codes.

mod app;
mod blob;
mod reply;
mod routes;

use std::future::Future;
use std::time::Duration;

use axum::serve::Listener;
use headstart_driver::Hub;
use tokio_util::sync::CancellationToken;

/// How long requests in progress may take after the server was told to stop.
const DRAIN: Duration = Duration::from_secs(5);

/// Why serving ended otherwise than asked.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The listener failed.
    #[error("the engine's port cannot be served: {0}")]
    Io(#[from] std::io::Error),
}

/// Serves devices until `shutdown` is done. Devices that wait for work are then told that there is
/// none; other requests may finish for a few seconds.
///
/// # Errors
/// [`ServeError::Io`].
pub async fn serve<L>(
    listener: L,
    hub: Hub,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), ServeError>
where
    L: Listener,
    L::Addr: std::fmt::Debug,
{
    let closing = CancellationToken::new();
    let app = routes::router(hub, closing.clone());
    let closed = closing.clone();
    let server = axum::serve(listener, app).with_graceful_shutdown(async move {
        shutdown.await;
        closed.cancel();
    });
    let late = async {
        closing.cancelled().await;
        tokio::time::sleep(DRAIN).await;
    };
    tokio::select! {
        done = server => Ok(done?),
        () = late => Ok(()),
    }
}
