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

/// How messages are written on standard error.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// A JSON object a line: `time`, `level` and `message`, for systems that collect logs.
    Json,
}

static JSON: AtomicBool = AtomicBool::new(false);

/// Messages are written like this from now on.
pub fn set_log_format(format: LogFormat) {
    JSON.store(format == LogFormat::Json, Ordering::Relaxed);
}

/// A message as a JSON object. Its level is what it begins with.
fn object(text: &str) -> String {
    let text = color::safe(text, false);
    let known = [("error", "error"), ("warning", "warn"), ("help", "info"), ("note", "info")];
    let (level, message) = match text.split_once(": ") {
        Some((word, rest)) => match known.iter().find(|(w, _)| *w == word) {
            Some((word, level)) if matches!(*word, "error" | "warning") => (*level, rest),
            Some((_, level)) => (*level, text.as_ref()),
            None => ("info", text.as_ref()),
        },
        None => ("info", text.as_ref()),
    };
    let time = jiff::Timestamp::now().to_string();
    serde_json::json!({ "time": time, "level": level, "message": message }).to_string()
}

/// Writes a line, or several, to standard error, as [`color::safe`] makes it: without colours unless it
/// may have them.
/// A message that cannot be written is lost: there is nowhere left to say so.
pub fn say(text: &str) {
    let text = match JSON.load(Ordering::Relaxed) {
        true => object(text).into(),
        false => color::safe(text, color::stderr()),
    };
    match &*SINK.lock().unwrap_or_else(PoisonError::into_inner) {
        Some(sink) => sink(&text),
        None => {
            let mut err = io::stderr().lock();
            let _ = err.write_all(text.as_bytes()).and_then(|()| err.write_all(b"\n"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_as_objects_have_the_level_that_they_begin_with() {
        for (text, level, message) in [
            ("\u{1b}[33mwarning\u{1b}[0m: the disk is full", "warn", "the disk is full"),
            ("error: no: really", "error", "no: really"),
            ("help: try again", "info", "help: try again"),
            ("nightly: next at 03:00", "info", "nightly: next at 03:00"),
            ("two\nlines", "info", "two\nlines"),
        ] {
            let object: serde_json::Value = serde_json::from_str(&object(text)).expect("JSON");
            assert_eq!((&object["level"], &object["message"]), (&level.into(), &message.into()), "{text}");
            assert!(
                object["time"].as_str().is_some_and(|t| t.parse::<jiff::Timestamp>().is_ok()),
                "{object}"
            );
        }
    }
}
