//! Reading a log, also while it is being written.

use std::fs;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;

use crate::error::StoreError;
use crate::log::frame;

/// A log as it is on disk. It is as long as a run is; its engine wrote it.
pub(crate) fn bytes(path: &Path) -> Result<Vec<u8>, StoreError> {
    fs::read(path).map_err(StoreError::io("read", path))
}

/// Whether every record of a log is intact, whatever its events are.
pub(crate) fn check(path: &Path) -> Result<(), StoreError> {
    let bytes = bytes(path)?;
    frame::records(path, &bytes, |at, body, events| {
        if body.split_inclusive(|b| *b == b'\n').count() == events as usize {
            return Ok(());
        }
        Err(StoreError::corrupt(path, at, "a record holds another number of events than it says"))
    })
    .map(drop)
}

/// All events of a log, without ever blocking its writer; some of them may not be durable
/// yet. A torn tail is left out: it is still being written, or the engine died while it was.
pub(crate) fn read_all<E: DeserializeOwned>(path: &Path) -> Result<Vec<E>, StoreError> {
    let bytes = bytes(path)?;
    let mut out = Vec::new();
    frame::records(path, &bytes, |at, body, events| parse(path, at, body, events, &mut out))?;
    Ok(out)
}

/// Adds the events of a record.
fn parse<E: DeserializeOwned>(
    path: &Path,
    at: usize,
    body: &[u8],
    events: u32,
    out: &mut Vec<E>,
) -> Result<(), StoreError> {
    let before = out.len();
    for (i, line) in body.split_inclusive(|b| *b == b'\n').enumerate() {
        let event = serde_json::from_slice(line).map_err(|source| StoreError::UnknownEvent {
            path: path.to_owned(),
            offset: at as u64,
            number: i + 1,
            source,
        })?;
        out.push(event);
    }
    if out.len() - before != events as usize {
        let why = "a record holds another number of events than it says";
        return Err(StoreError::corrupt(path, at, why));
    }
    Ok(())
}

/// Reads a log as it grows: what was read once is not read again.
#[derive(Debug)]
pub struct LogTail {
    path: PathBuf,
    /// Where the next record begins, and the chain value there; none before the first.
    next: Option<(usize, u32)>,
}

impl LogTail {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path, next: None }
    }

    /// Reads from the first event again, at the next call.
    pub fn start_over(&mut self) {
        self.next = None;
    }

    /// The events since the last call; from the first, at the first call. As everywhere, a torn tail is left out.
    ///
    /// # Errors
    /// [`StoreError`] where the log cannot be read or is damaged.
    pub fn read<E: DeserializeOwned>(&mut self) -> Result<Vec<E>, StoreError> {
        let failed = StoreError::io("read", &self.path);
        let mut out = Vec::new();
        let Some((offset, chain)) = self.next else {
            let bytes = bytes(&self.path)?;
            let path = &self.path;
            let end = frame::records(path, &bytes, |at, body, n| parse(path, at, body, n, &mut out))?;
            // A log whose first bytes are not there yet is read from the start again.
            self.next = (end.0 > 0).then_some(end);
            return Ok(out);
        };
        let mut file = match fs::File::open(&self.path) {
            Ok(file) => file,
            Err(e) => return Err(failed(e)),
        };
        if file.metadata().is_ok_and(|facts| facts.len() <= offset as u64) {
            return Ok(out);
        }
        let mut bytes = Vec::new();
        let read = file.seek(SeekFrom::Start(offset as u64)).and_then(|_| file.read_to_end(&mut bytes));
        read.map_err(failed)?;
        let path = &self.path;
        self.next = Some(frame::records_from(path, &bytes, offset, chain, |at, body, n| {
            parse(path, at, body, n, &mut out)
        })?);
        Ok(out)
    }
}

/// The last event of a log; `None` where it has none. As [`read_all`], but the other events are not parsed.
pub(crate) fn read_last<E: DeserializeOwned>(path: &Path) -> Result<Option<E>, StoreError> {
    let bytes = bytes(path)?;
    let mut last = None;
    frame::records(path, &bytes, |at, body, events| {
        if let Some(line) = body.split_inclusive(|b| *b == b'\n').next_back() {
            last = Some((at, line.to_vec(), events));
        }
        Ok(())
    })?;
    let Some((at, line, events)) = last else { return Ok(None) };
    let event = serde_json::from_slice(&line).map_err(|source| StoreError::UnknownEvent {
        path: path.to_owned(),
        offset: at as u64,
        number: events as usize,
        source,
    })?;
    Ok(Some(event))
}
