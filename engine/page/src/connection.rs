//! The port: connections, and how long and how much each may take.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

/// Connections at once; further ones wait.
const MOST_CONNECTIONS: usize = 256;
/// Until the TLS handshake is over.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Until a request's head is there.
const HEAD: Duration = Duration::from_secs(10);
/// Longest head of a request, in bytes.
const LARGEST_HEAD: usize = 16 << 10;
/// Headers of a request.
const MOST_HEADERS: usize = 64;
/// A connection ends after this long, whatever it does; browsers make a new one.
const LONGEST: Duration = Duration::from_secs(4 * 3600);
/// How long requests in progress may take after the page was told to stop.
const DRAIN: Duration = Duration::from_secs(3);

/// Why a certificate or its key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// A file cannot be read, or is not PEM.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: String,
        /// Why.
        source: rustls::pki_types::pem::Error,
    },
    /// The file holds no certificate.
    #[error("{0} holds no certificate")]
    Empty(String),
    /// They do not fit, or are of a kind that is not supported.
    #[error("the certificate cannot be used: {0}")]
    Unfit(#[from] rustls::Error),
}

/// TLS with an operator's certificate.
///
/// # Errors
/// If a file cannot be read, or certificate and key do not fit.
pub fn tls(certificate: &Path, key: &Path) -> Result<TlsAcceptor, CertificateError> {
    let name = |path: &Path| path.display().to_string();
    let read = |path: &Path| {
        let path = name(path);
        move |source| CertificateError::Read { path: path.clone(), source }
    };
    let chain: Result<Vec<_>, _> =
        CertificateDer::pem_file_iter(certificate).map_err(read(certificate))?.collect();
    let chain = chain.map_err(read(certificate))?;
    if chain.is_empty() {
        return Err(CertificateError::Empty(name(certificate)));
    }
    let key = PrivateKeyDer::from_pem_file(key).map_err(read(key))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Serves until `closing`, then lets requests in progress finish for a moment.
pub(crate) async fn serve(
    listener: TcpListener,
    router: Router,
    tls: Option<TlsAcceptor>,
    closing: CancellationToken,
) {
    let room = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    let mut open = JoinSet::new();
    loop {
        let accepted = async {
            // The semaphore is never closed.
            let permit = Arc::clone(&room).acquire_owned().await.ok();
            (listener.accept().await, permit)
        };
        tokio::select! {
            (accepted, permit) = accepted => match accepted {
                Ok((io, from)) => {
                    let (router, tls, closing) = (router.clone(), tls.clone(), closing.clone());
                    open.spawn(async move {
                        let _permit = permit;
                        connection(io, from, router, tls, closing).await;
                    });
                }
                // Such as no more file descriptors: others may give some back.
                Err(e) => {
                    tracing::debug!("no connection to the page: {e}");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
            Some(_) = open.join_next() => {}
            () = closing.cancelled() => break,
        }
    }
    drop(listener);
    let drained = async { while open.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(DRAIN, drained).await;
}

async fn connection(
    io: tokio::net::TcpStream,
    from: SocketAddr,
    router: Router,
    tls: Option<TlsAcceptor>,
    closing: CancellationToken,
) {
    // News are small and wanted at once.
    let _ = io.set_nodelay(true);
    let served = async {
        let Some(tls) = tls else { return requests(io, router, closing).await };
        match tokio::time::timeout(HANDSHAKE, tls.accept(io)).await {
            Ok(Ok(io)) => requests(io, router, closing).await,
            Ok(Err(e)) => tracing::debug!(%from, "no TLS: {e}"),
            Err(_) => tracing::debug!(%from, "a TLS handshake took too long"),
        }
    };
    let _ = tokio::time::timeout(LONGEST, served).await;
}

async fn requests<I>(io: I, router: Router, closing: CancellationToken)
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(LARGEST_HEAD)
        .max_headers(MOST_HEADERS);
    let connection = http.serve_connection(TokioIo::new(io), TowerToHyperService::new(router));
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = &mut connection => ended,
        () = closing.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(e) = ended {
        tracing::debug!("a connection to the page ended: {e}");
    }
}
