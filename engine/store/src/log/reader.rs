//! Reading a log, also while it is being written.

use std::fs;
use std::path::Path;

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
    frame::records(path, &bytes, |at, body, events| {
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
    })?;
    Ok(out)
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
