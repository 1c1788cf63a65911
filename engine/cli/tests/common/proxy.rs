//! A recording proxy: every byte between a device and the engine, as it crossed.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What crossed on one connection.
#[derive(Clone, Default)]
pub struct Connection {
    /// From the device.
    pub sent: Vec<u8>,
    /// To the device.
    pub received: Vec<u8>,
}

type Record = Arc<Mutex<Vec<Arc<Mutex<Connection>>>>>;

/// The proxy; it ends with the test's process.
pub struct Proxy {
    /// Where it listens.
    pub port: u16,
    record: Record,
}

impl Proxy {
    /// Passes connections on to a port of this machine, whether or not anybody listens there yet.
    pub fn to(engine: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("bound").port();
        let record = Record::default();
        let kept = record.clone();
        std::thread::spawn(move || {
            for device in listener.incoming().flatten() {
                let connection = Arc::new(Mutex::new(Connection::default()));
                lock(&kept).push(connection.clone());
                // Refused: the device sees the connection end, and tries again.
                let Ok(engine) = TcpStream::connect(("127.0.0.1", engine)) else { continue };
                let (from, to) = (device.try_clone(), engine.try_clone());
                let (Ok(from), Ok(to)) = (from, to) else { continue };
                let other = connection.clone();
                std::thread::spawn(move || copy(from, to, |b| lock(&other).sent.extend_from_slice(b)));
                std::thread::spawn(move || {
                    copy(engine, device, |b| lock(&connection).received.extend_from_slice(b));
                });
            }
        });
        Self { port, record }
    }

    /// Everything that the device has sent: connection by connection as it crossed, and once more
    /// without the marks of chunked bodies, so that nothing hides across a cut.
    pub fn sent(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for connection in lock(&self.record).iter() {
            let sent = lock(connection).sent.clone();
            out.extend_from_slice(&sent);
            if sent.windows(26).any(|w| w.eq_ignore_ascii_case(b"transfer-encoding: chunked")) {
                out.extend(without_chunk_marks(&sent));
            }
        }
        out
    }

    /// The requests that the device has sent, each whole. Those of a connection are in their order.
    pub fn requests(&self) -> Vec<Vec<u8>> {
        let mut out = Vec::new();
        for connection in lock(&self.record).iter() {
            let sent = lock(connection).sent.clone();
            let mut rest = sent.as_slice();
            while let Some(head) = rest.windows(4).position(|w| w == b"\r\n\r\n") {
                let text = String::from_utf8_lossy(&rest[..head]).to_ascii_lowercase();
                assert!(!text.contains("transfer-encoding"), "bodies state their length: {text}");
                let length = text.lines().find_map(|l| l.strip_prefix("content-length: "));
                let body: usize = length.map_or(0, |l| l.trim().parse().expect("a length"));
                // The device may have been ended while it sent.
                let end = (head + 4 + body).min(rest.len());
                out.push(rest[..end].to_vec());
                rest = &rest[end..];
            }
        }
        out
    }

    /// Connections so far.
    pub fn connections(&self) -> usize {
        lock(&self.record).len()
    }
}

fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

fn copy(mut from: TcpStream, mut to: TcpStream, mut keep: impl FnMut(&[u8])) {
    let mut buffer = [0; 16 * 1024];
    loop {
        match from.read(&mut buffer) {
            Ok(0) | Err(_) => break,
            Ok(n) => {
                keep(&buffer[..n]);
                if to.write_all(&buffer[..n]).is_err() {
                    break;
                }
            }
        }
    }
    let _ = to.shutdown(Shutdown::Write);
    let _ = from.shutdown(Shutdown::Read);
}

/// Leaves out every line that is a length in hexadecimal digits and nothing else.
fn without_chunk_marks(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let line = bytes[at..].iter().take(10).take_while(|b| b.is_ascii_hexdigit()).count();
        if line > 0 && bytes[at + line..].starts_with(b"\r\n") {
            // The line break behind the chunk before it goes too.
            if out.ends_with(b"\r\n") {
                out.truncate(out.len() - 2);
            }
            at += line + 2;
        } else {
            out.push(bytes[at]);
            at += 1;
        }
    }
    out
}
