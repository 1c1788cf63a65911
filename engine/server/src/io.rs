//! A socket that ends when nothing moves on it.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

use crate::gate::Ticket;

/// How long a socket whose request was refused unread stays open, so that the caller can read why: closing
/// it at once would reset the connection.
const LINGER: Duration = Duration::from_millis(500);

/// A socket with a limit of silence.
pub(crate) struct Watched<I: AsyncRead + AsyncWrite + Unpin + Send + 'static> {
    io: Option<I>,
    ticket: Arc<Ticket>,
    /// A byte that was read before, to see what is spoken.
    first: Option<u8>,
    stall: Duration,
    silence: Pin<Box<Sleep>>,
    linger: Arc<AtomicBool>,
}

impl<I: AsyncRead + AsyncWrite + Unpin + Send + 'static> Watched<I> {
    pub(crate) fn new(io: I, ticket: Arc<Ticket>, stall: Duration, linger: Arc<AtomicBool>) -> Self {
        let silence = Box::pin(tokio::time::sleep(stall));
        Self { io: Some(io), ticket, first: None, stall, silence, linger }
    }

    /// A byte to be read again.
    pub(crate) fn put_back(&mut self, byte: u8) {
        self.first = Some(byte);
    }

    fn io(&mut self) -> Pin<&mut I> {
        Pin::new(self.io.as_mut().expect("taken only when dropped"))
    }

    /// What was done, or the error of a socket that was silent for too long.
    fn watched<T>(&mut self, cx: &mut Context<'_>, done: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if done.is_ready() {
            let next = Instant::now() + self.stall;
            self.silence.as_mut().reset(next);
            return done;
        }
        match self.silence.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<I: AsyncRead + AsyncWrite + Unpin + Send + 'static> AsyncRead for Watched<I> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if let Some(byte) = this.first.take() {
            buf.put_slice(&[byte]);
            return Poll::Ready(Ok(()));
        }
        let done = this.io().poll_read(cx, buf);
        this.watched(cx, done)
    }
}

impl<I: AsyncRead + AsyncWrite + Unpin + Send + 'static> AsyncWrite for Watched<I> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let done = this.io().poll_write(cx, bytes);
        this.watched(cx, done)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().io().poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().io().poll_shutdown(cx)
    }
}

impl<I: AsyncRead + AsyncWrite + Unpin + Send + 'static> Drop for Watched<I> {
    fn drop(&mut self) {
        let Some(io) = self.io.take() else { return };
        if self.linger.load(Ordering::Relaxed)
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            // It counts as a connection as long as it is open.
            let ticket = Arc::clone(&self.ticket);
            runtime.spawn(async move {
                let _ = tokio::time::timeout(LINGER, ticket.ended()).await;
                drop(io);
            });
        }
    }
}
