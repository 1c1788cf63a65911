//! Reading a log, also while it is being written.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::marker::PhantomData;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;

use crate::error::StoreError;
use crate::log::frame::{self, FILE_HEADER, Found};

/// How often a reader that waits looks for more.
const POLL: Duration = Duration::from_millis(10);

/// Follows the log of a run from its beginning, without ever holding up whoever writes it. It may
/// see events a moment before they are durable.
pub struct RunReader<E> {
    path: PathBuf,
    file: Option<File>,
    offset: u64,
    chain: u32,
    torn: bool,
    events: PhantomData<fn() -> E>,
}

impl<E: DeserializeOwned> RunReader<E> {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path, file: None, offset: 0, chain: frame::first_chain(), torn: false, events: PhantomData }
    }

    /// What was written since the last call; nothing, if nothing was.
    pub fn next_batch(&mut self) -> Result<Vec<E>, StoreError> {
        let bytes = self.rest()?;
        let base = self.offset;
        let mut at = 0;
        self.torn = false;
        if base == 0 {
            match frame::check_file_header(&bytes) {
                Found::Record { .. } => {
                    at = FILE_HEADER;
                    self.offset = FILE_HEADER as u64;
                }
                Found::Torn | Found::End => {
                    self.torn = !bytes.is_empty();
                    return Ok(Vec::new());
                }
                Found::Corrupt(why) => return Err(self.corrupt(why)),
            }
        }
        let mut out = Vec::new();
        loop {
            match frame::check(&bytes, at, base, self.chain) {
                Found::Record { body, end, events, chain } => {
                    self.decode(&bytes[body..end], events, &mut out)?;
                    at = end;
                    self.offset = base + end as u64;
                    self.chain = chain;
                }
                Found::End => return Ok(out),
                Found::Torn => {
                    self.torn = true;
                    return Ok(out);
                }
                // What is intact is handed out first; the next call comes back here.
                Found::Corrupt(_) if !out.is_empty() => return Ok(out),
                Found::Corrupt(why) => return Err(self.corrupt(why)),
            }
        }
    }

    /// Like [`RunReader::next_batch`], but waits up to `timeout` for something to come.
    pub fn wait_batch(&mut self, timeout: Duration) -> Result<Vec<E>, StoreError> {
        let start = Instant::now();
        loop {
            let batch = self.next_batch()?;
            let left = timeout.saturating_sub(start.elapsed());
            if !batch.is_empty() || left.is_zero() {
                return Ok(batch);
            }
            std::thread::sleep(POLL.min(left));
        }
    }

    /// Offset in the file up to which events were handed out.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Whether an unfinished record followed the last batch: it is still being written, or the
    /// engine died while it was.
    pub fn torn(&self) -> bool {
        self.torn
    }

    fn rest(&mut self) -> Result<Vec<u8>, StoreError> {
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(File::open(&self.path).map_err(StoreError::io("read", &self.path))?),
        };
        let mut bytes = Vec::new();
        file.seek(SeekFrom::Start(self.offset))
            .and_then(|_| file.read_to_end(&mut bytes))
            .map_err(StoreError::io("read", &self.path))?;
        Ok(bytes)
    }

    fn decode(&self, body: &[u8], events: u32, out: &mut Vec<E>) -> Result<(), StoreError> {
        let lines = body.split_inclusive(|b| *b == b'\n');
        let before = out.len();
        for (i, line) in lines.enumerate() {
            let event = serde_json::from_slice(line).map_err(|source| StoreError::UnknownEvent {
                path: self.path.clone(),
                offset: self.offset,
                number: i + 1,
                source,
            })?;
            out.push(event);
        }
        if out.len() - before != events as usize {
            return Err(self.corrupt("a record holds another number of events than it says"));
        }
        Ok(())
    }

    fn corrupt(&self, why: &str) -> StoreError {
        StoreError::CorruptLog { path: self.path.clone(), offset: self.offset, why: why.to_owned() }
    }
}

/// All events of a log; a torn tail is left out.
pub(crate) fn read_all<E: DeserializeOwned>(path: &Path) -> Result<Vec<E>, StoreError> {
    let mut reader = RunReader::new(path.to_owned());
    let mut events = reader.next_batch()?;
    // A second look reports damage that follows the intact part.
    events.extend(reader.next_batch()?);
    Ok(events)
}
