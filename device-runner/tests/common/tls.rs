//! TLS for an engine of a test.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use headstart_transport::{Identity, PublicKey};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// A listener that proves an engine's key and asks for its callers'.
pub struct TlsListener {
    listener: TcpListener,
    tls: TlsAcceptor,
}

impl TlsListener {
    pub fn new(listener: TcpListener, engine: &Identity) -> Self {
        let config = headstart_transport::tls::server_config(engine).expect("a key");
        Self { listener, tls: TlsAcceptor::from(Arc::new(config)) }
    }
}

/// Who called.
#[derive(Clone, Copy, Debug)]
pub struct Peer {
    pub key: PublicKey,
    pub from: SocketAddr,
}

impl Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = Peer;

    async fn accept(&mut self) -> (Self::Io, Peer) {
        loop {
            let (stream, from) = Listener::accept(&mut self.listener).await;
            // Whoever cannot agree on TLS is left.
            let Ok(stream) = self.tls.accept(stream).await else { continue };
            let key = headstart_transport::tls::peer_key(stream.get_ref().1.peer_certificates());
            return (stream, Peer { key: key.expect("proven"), from });
        }
    }

    fn local_addr(&self) -> std::io::Result<Peer> {
        Err(std::io::ErrorKind::Unsupported.into())
    }
}

impl Connected<IncomingStream<'_, TlsListener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, TlsListener>) -> Self {
        *stream.remote_addr()
    }
}
