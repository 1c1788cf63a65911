//! The lines of a program's standard output and standard error.

use std::io::{BufRead, BufReader, Read};
use std::sync::mpsc::SyncSender;

/// Longest line that is read whole, in bytes: messages are small, data goes into files.
pub const LONGEST_LINE: usize = 1 << 20;

/// What a program wrote.
#[derive(Debug)]
pub enum Heard {
    /// A line on standard output, without its end; whether it ended with a newline.
    Out(String, bool),
    /// A line on standard error.
    Err(String),
    /// A line on standard output that is too long: how it begins.
    TooLong(String),
    /// Standard output is closed.
    OutClosed,
    /// Standard error is closed.
    ErrClosed,
}

enum End {
    Newline,
    Nothing,
    Cut,
}

/// One line of at most [`LONGEST_LINE`] bytes, and whether it was complete; the rest is skipped.
fn line(reader: &mut impl BufRead) -> std::io::Result<Option<(Vec<u8>, End)>> {
    let mut bytes = Vec::new();
    let n = reader.by_ref().take(LONGEST_LINE as u64).read_until(b'\n', &mut bytes)?;
    if n == 0 {
        return Ok(None);
    }
    if bytes.last() == Some(&b'\n') {
        bytes.pop();
        if bytes.last() == Some(&b'\r') {
            bytes.pop();
        }
        return Ok(Some((bytes, End::Newline)));
    }
    if n < LONGEST_LINE {
        return Ok(Some((bytes, End::Nothing)));
    }
    loop {
        let buffer = reader.fill_buf()?;
        let (len, found) = match buffer.iter().position(|b| *b == b'\n') {
            Some(at) => (at + 1, true),
            None => (buffer.len(), buffer.is_empty()),
        };
        reader.consume(len);
        if found {
            return Ok(Some((bytes, End::Cut)));
        }
    }
}

/// Reads standard output until it is closed, or nobody listens.
pub(crate) fn read_out(out: impl Read, to: &SyncSender<Heard>) {
    let mut reader = BufReader::new(out);
    while let Ok(Some((bytes, end))) = line(&mut reader) {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let heard = match end {
            End::Newline => Heard::Out(text, true),
            End::Nothing => Heard::Out(text, false),
            End::Cut => Heard::TooLong(text.chars().take(200).collect()),
        };
        if to.send(heard).is_err() {
            return;
        }
    }
    let _ = to.send(Heard::OutClosed);
}

/// Reads standard error until it is closed, or nobody listens.
pub(crate) fn read_err(err: impl Read, to: &SyncSender<Heard>) {
    let mut reader = BufReader::new(err);
    while let Ok(Some((bytes, _))) = line(&mut reader) {
        if to.send(Heard::Err(String::from_utf8_lossy(&bytes).into_owned())).is_err() {
            return;
        }
    }
    let _ = to.send(Heard::ErrClosed);
}
