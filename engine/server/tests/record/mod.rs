//! Every byte that crosses between engine and devices, to prove what does not.
//!
//! The bytes are taken where they enter and leave the socket, so nothing can be missed: request
//! lines, headers and bodies as they are. [`Recorder::requests`] and [`Recorder::responses`] read them as HTTP/1.1.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use axum::serve::Listener;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};

/// Keeps what crosses. Clones share one record.
#[derive(Clone, Default)]
pub struct Recorder {
    connections: Arc<Mutex<Vec<Arc<Mutex<Connection>>>>>,
}

/// The bytes of one connection.
#[derive(Clone, Debug, Default)]
pub struct Connection {
    /// From the device.
    pub received: Vec<u8>,
    /// To the device.
    pub sent: Vec<u8>,
}

/// A request or response.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    /// Request line or status line.
    pub first: String,
    /// Headers, in order, names as sent.
    pub headers: Vec<(String, String)>,
    /// The body; chunked ones are put together.
    pub body: Vec<u8>,
}

impl Recorder {
    /// A recorder that has kept nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Everything so far, a connection at a time.
    pub fn connections(&self) -> Vec<Connection> {
        lock(&self.connections).iter().map(|c| lock(c).clone()).collect()
    }

    /// All bytes that devices sent.
    pub fn received(&self) -> Vec<u8> {
        self.connections().into_iter().flat_map(|c| c.received).collect()
    }

    /// Whether these bytes stand anywhere in what devices sent: as they crossed, or in a body that
    /// was cut into chunks.
    pub fn received_contains(&self, needle: &[u8]) -> bool {
        contains(&self.received(), needle) || self.requests().iter().any(|m| contains(&m.body, needle))
    }

    /// All requests, a connection at a time.
    pub fn requests(&self) -> Vec<Message> {
        self.connections().iter().flat_map(|c| messages(&c.received)).collect()
    }

    /// All responses, a connection at a time. Those without a body must have no length.
    pub fn responses(&self) -> Vec<Message> {
        self.connections().iter().flat_map(|c| messages(&c.sent)).collect()
    }

    fn open(&self) -> Arc<Mutex<Connection>> {
        let new = Arc::new(Mutex::new(Connection::default()));
        lock(&self.connections).push(new.clone());
        new
    }
}

fn lock<T>(m: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether `hay` contains `needle`. An empty needle is never contained.
pub fn contains(hay: &[u8], needle: &[u8]) -> bool {
    !needle.is_empty() && hay.windows(needle.len()).any(|w| w == needle)
}

/// Reads HTTP/1.1 messages that follow one another; a last incomplete one is kept as it is.
pub fn messages(mut bytes: &[u8]) -> Vec<Message> {
    let mut out = Vec::new();
    while let Some((mut message, rest)) = head(bytes) {
        let header = |name: &str| {
            message.headers.iter().find(|(k, _)| k.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
        };
        let chunked = header("transfer-encoding").is_some_and(|v| v.eq_ignore_ascii_case("chunked"));
        let length = header("content-length").and_then(|v| v.parse::<usize>().ok()).unwrap_or(0);
        let silent = message.first.contains(" 204 ") || message.first.contains(" 304 ");
        let (body, after) = if chunked {
            unchunk(rest)
        } else {
            let (body, after) = rest.split_at(if silent { 0 } else { length.min(rest.len()) });
            (body.to_vec(), after)
        };
        message.body = body;
        bytes = after;
        out.push(message);
    }
    out
}

fn head(bytes: &[u8]) -> Option<(Message, &[u8])> {
    let end = bytes.windows(4).position(|w| w == b"\r\n\r\n")?;
    let text = String::from_utf8_lossy(&bytes[..end]);
    let mut lines = text.split("\r\n");
    let first = lines.next().unwrap_or_default().to_owned();
    let headers = lines.filter_map(|l| l.split_once(':'));
    let headers = headers.map(|(k, v)| (k.to_owned(), v.trim().to_owned())).collect();
    Some((Message { first, headers, body: Vec::new() }, &bytes[end + 4..]))
}

fn unchunk(mut bytes: &[u8]) -> (Vec<u8>, &[u8]) {
    let mut body = Vec::new();
    while let Some(end) = bytes.windows(2).position(|w| w == b"\r\n") {
        let size =
            std::str::from_utf8(&bytes[..end]).ok().and_then(|s| usize::from_str_radix(s.trim(), 16).ok());
        let Some(size) = size else { break };
        let from = (end + 2).min(bytes.len());
        let to = (from + size).min(bytes.len());
        body.extend_from_slice(&bytes[from..to]);
        bytes = &bytes[(to + 2).min(bytes.len())..];
        if size == 0 {
            break;
        }
    }
    (body, bytes)
}

/// A listener whose connections are recorded.
pub struct Recorded {
    listener: TcpListener,
    recorder: Recorder,
}

impl Recorded {
    pub fn new(listener: TcpListener, recorder: Recorder) -> Self {
        Self { listener, recorder }
    }
}

impl Listener for Recorded {
    type Io = Tapped;
    type Addr = std::net::SocketAddr;

    async fn accept(&mut self) -> (Tapped, Self::Addr) {
        let (stream, addr) = Listener::accept(&mut self.listener).await;
        (Tapped { stream, record: self.recorder.open() }, addr)
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.listener.local_addr()
    }
}

/// A connection whose bytes are recorded.
pub struct Tapped {
    stream: TcpStream,
    record: Arc<Mutex<Connection>>,
}

impl AsyncRead for Tapped {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let done = Pin::new(&mut self.stream).poll_read(cx, buf);
        lock(&self.record).received.extend_from_slice(&buf.filled()[before..]);
        done
    }
}

impl AsyncWrite for Tapped {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let done = Pin::new(&mut self.stream).poll_write(cx, buf);
        if let Poll::Ready(Ok(n)) = done {
            lock(&self.record).sent.extend_from_slice(&buf[..n]);
        }
        done
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
