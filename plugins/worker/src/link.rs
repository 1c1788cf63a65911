//! The runner's end of the sockets to a worker, which is not trusted: nothing that it does or leaves undone
//! keeps the runner from looking at the clock.

use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::process::ChildStderr;
use std::time::{Duration, Instant};

use headstart_protocol::Failure;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::Serialize;

use crate::wire::{self, FromWorker, HEADER, LARGEST};

/// How often cancellation, limits and what a worker prints are looked at.
const POLL_INTERVAL: Duration = Duration::from_millis(25);
const CHUNK: usize = 64 << 10;

/// Why nothing more comes.
#[derive(Debug)]
pub(crate) enum Broken {
    /// The worker closed its end: it ended.
    Closed,
    /// It said what no worker says.
    Protocol(String),
    /// The attempt is over.
    Over(Failure),
}

/// What is done meanwhile.
pub(crate) trait Watch {
    /// Looks at the clock: whether the attempt is over.
    fn look(&mut self, link: &Link) -> Result<(), Failure>;
    /// The worker printed this.
    fn printed(&mut self, bytes: &[u8]);
}

/// The runner's end.
pub(crate) struct Link {
    calls: UnixStream,
    control: UnixStream,
    printed: Option<ChildStderr>,
    /// What came and was not taken: from `at` on.
    buffer: Vec<u8>,
    at: usize,
    chunk: Box<[u8]>,
    looked: Instant,
}

impl Link {
    /// Ends of two sockets and of a pipe, none of which blocks.
    pub(crate) fn new(calls: UnixStream, control: UnixStream, printed: ChildStderr) -> std::io::Result<Self> {
        calls.set_nonblocking(true)?;
        control.set_nonblocking(true)?;
        rustix::io::ioctl_fionbio(&printed, true)?;
        Ok(Self {
            calls,
            control,
            printed: Some(printed),
            buffer: Vec::new(),
            at: 0,
            chunk: vec![0; CHUNK].into(),
            looked: Instant::now(),
        })
    }

    /// Whether the worker said something, or ended, while it had nothing to do: it is of no use.
    pub(crate) fn is_disturbed(&self) -> bool {
        let mut fds = [PollFd::new(&self.calls, PollFlags::IN)];
        self.at < self.buffer.len() || poll(&mut fds, Some(&Timespec::default())) != Ok(0)
    }

    /// Has the worker's stage told to stop. A worker that does not take it in is killed before long.
    pub(crate) fn cancel(&self, task: u64) {
        let _ = (&self.control).write(&task.to_le_bytes());
    }

    /// Sends a message.
    pub(crate) fn send(&mut self, message: &impl Serialize, watch: &mut dyn Watch) -> Result<(), Broken> {
        let frame = wire::frame(message);
        let mut rest = &frame[..];
        while !rest.is_empty() {
            match (&self.calls).write(rest) {
                Ok(n) => rest = &rest[n..],
                Err(e) if e.kind() == ErrorKind::WouldBlock => {
                    self.wait(PollFlags::OUT);
                    self.look(watch)?;
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(_) => return Err(Broken::Closed),
            }
        }
        Ok(())
    }

    /// The next message.
    pub(crate) fn next(&mut self, watch: &mut dyn Watch) -> Result<FromWorker, Broken> {
        loop {
            if let Some(message) = self.take()? {
                return Ok(message);
            }
            self.look(watch)?;
            match (&self.calls).read(&mut self.chunk) {
                Ok(0) => {
                    self.print(watch);
                    return Err(Broken::Closed);
                }
                Ok(n) => {
                    self.buffer.drain(..self.at);
                    self.at = 0;
                    self.buffer.extend_from_slice(&self.chunk[..n]);
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => self.wait(PollFlags::IN),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(_) => return Err(Broken::Closed),
            }
        }
    }

    fn take(&mut self) -> Result<Option<FromWorker>, Broken> {
        let came = &self.buffer[self.at..];
        let Some((length, rest)) = came.split_first_chunk::<HEADER>() else { return Ok(None) };
        let length = u32::from_le_bytes(*length) as usize;
        if length > LARGEST {
            return Err(Broken::Protocol(format!("sent a message of {length} bytes")));
        }
        let Some(body) = rest.get(..length) else { return Ok(None) };
        let message = wire::message(body);
        self.at += HEADER + length;
        if self.at == self.buffer.len() {
            self.buffer.clear();
            self.buffer.shrink_to(CHUNK);
            self.at = 0;
        }
        message.map(Some).map_err(|e| Broken::Protocol(format!("sent a message that is not understood: {e}")))
    }

    fn look(&mut self, watch: &mut dyn Watch) -> Result<(), Broken> {
        if self.looked.elapsed() < POLL_INTERVAL {
            return Ok(());
        }
        self.looked = Instant::now();
        self.print(watch);
        watch.look(self).map_err(Broken::Over)
    }

    /// Takes what the worker printed.
    pub(crate) fn print(&mut self, watch: &mut dyn Watch) {
        while let Some(pipe) = &mut self.printed {
            match pipe.read(&mut self.chunk) {
                Ok(0) => self.printed = None,
                Ok(n) => watch.printed(&self.chunk[..n]),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => return,
                Err(_) => self.printed = None,
            }
        }
    }

    /// Waits until the socket is ready or the clock is to be looked at.
    fn wait(&self, ready: PollFlags) {
        let pause = Timespec { tv_sec: 0, tv_nsec: i64::from(POLL_INTERVAL.subsec_nanos()) };
        // An interrupted wait is as good as one that ended.
        let _ = poll(&mut [PollFd::from_borrowed_fd(self.calls.as_fd(), ready)], Some(&pause));
    }
}
