//! The only place that writes to standard output and standard error.

use std::io::{self, ErrorKind, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::color;

/// Standard output cannot be written, for another reason than that nobody reads it any more.
#[derive(Debug, thiserror::Error)]
#[error("cannot write standard output: {0}")]
pub struct OutputError(#[from] io::Error);

/// The reader of standard output is gone.
static CLOSED: AtomicBool = AtomicBool::new(false);

/// Writes to standard output, as [`color::safe`] makes it: without colours unless it may have them. Once its reader is
/// gone, as in `… | head`, everything further is dropped.
///
/// # Errors
/// If it cannot be written for another reason, such as a full disk.
pub fn print(text: &str) -> Result<(), OutputError> {
    if CLOSED.load(Ordering::Relaxed) {
        return Ok(());
    }
    let text = color::safe(text, color::stdout());
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() == ErrorKind::BrokenPipe => {
            CLOSED.store(true, Ordering::Relaxed);
            Ok(())
        }
        done => done.map_err(OutputError),
    }
}

/// Takes lines instead of standard error.
type Sink = Box<dyn Fn(&str) + Send>;

static SINK: Mutex<Option<Sink>> = Mutex::new(None);

/// Sends messages to `sink` from now on, `None` to standard error again. For progress bars, which
/// are redrawn below each line.
pub fn divert(sink: Option<Sink>) {
    *SINK.lock().unwrap_or_else(PoisonError::into_inner) = sink;
}

/// Writes a line, or several, to standard error, as [`color::safe`] makes it: without colours unless it
/// may have them.
/// A message that cannot be written is lost: there is nowhere left to say so.
pub fn say(text: &str) {
    let text = color::safe(text, color::stderr());
    match &*SINK.lock().unwrap_or_else(PoisonError::into_inner) {
        Some(sink) => sink(&text),
        None => {
            let mut err = io::stderr().lock();
            let _ = err.write_all(text.as_bytes()).and_then(|()| err.write_all(b"\n"));
        }
    }
}
