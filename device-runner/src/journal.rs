//! What left the device: one line a message, written before the message is sent. The newest 32 MiB are kept, and
//! as many of those before.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use headstart_disk::{Disk, DiskError, is_full};
use headstart_protocol::Digest;
use serde::{Deserialize, Serialize};

use crate::error::DeviceError;
use crate::rotated::{self, RotatedLines};
use crate::store::PrivateRoom;

/// One message that left the device.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sent {
    /// When, in UTC.
    pub time: jiff::Timestamp,
    /// Method and path.
    pub call: String,
    /// Bytes of the body.
    pub bytes: u64,
    /// BLAKE3 of the body.
    pub digest: Digest,
    /// What it says, for people.
    pub what: String,
    /// How many messages of exactly these bytes were sent before this line and after the last.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub repeats: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the shape that serde asks for")]
fn is_zero(n: &u64) -> bool {
    *n == 0
}

/// The journal, open for writing.
pub struct Journal {
    at: PathBuf,
    inner: Mutex<Inner>,
    room: Option<PrivateRoom>,
}

struct Inner {
    lines: RotatedLines,
    /// The last repeated message, and how often it was sent since it was written down.
    last: Option<(Digest, String, u64)>,
}

impl Journal {
    /// Opens or creates the journal.
    ///
    /// # Errors
    /// [`DeviceError::State`].
    pub fn open(disk: &Arc<dyn Disk>, at: &Path) -> Result<Self, DeviceError> {
        let lines = RotatedLines::open(disk, at).map_err(DiskError::at("open", at))?;
        Ok(Self { at: at.to_owned(), inner: Mutex::new(Inner { lines, last: None }), room: None })
    }

    /// The same journal, for which there is room where the disk is full: a message that is not written down is
    /// not sent, and what private work took up must not keep the device from speaking.
    pub fn with_reserve(self, room: PrivateRoom) -> Self {
        Self { room: Some(room), ..self }
    }

    /// Writes down a message that is about to be sent. With `fold`, a message that is byte for
    /// byte the one before is counted instead: a device asks for work again and again.
    ///
    /// # Errors
    /// [`DeviceError::State`]; the message must then not be sent.
    pub fn record(&self, call: &str, body: &[u8], what: &str, fold: bool) -> Result<(), DeviceError> {
        self.record_as(call, body.len() as u64, Digest::of(body), what, fold)
    }

    /// As [`Journal::record`], for a body that is not at hand.
    ///
    /// # Errors
    /// As [`Journal::record`].
    pub fn record_as(
        &self,
        call: &str,
        bytes: u64,
        digest: Digest,
        what: &str,
        fold: bool,
    ) -> Result<(), DeviceError> {
        let mut inner = self.inner.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if fold
            && let Some((last, last_call, repeats)) = &mut inner.last
            && (*last, last_call.as_str()) == (digest, call)
        {
            *repeats += 1;
            return Ok(());
        }
        let repeats = inner.last.take().map_or(0, |(_, _, n)| n);
        let time = jiff::Timestamp::now();
        let line = Sent { time, call: call.to_owned(), bytes, digest, what: what.to_owned(), repeats };
        let mut text = serde_json::to_string(&line).expect("a journal line always serializes");
        text.push('\n');
        let lines = &mut inner.lines;
        match (lines.append(&text), &self.room) {
            (Err(e), Some(room)) if is_full(&e) => {
                room.spend_reserve();
                // Some of it may be there.
                lines.append(&format!("\n{text}"))
            }
            (written, _) => written,
        }
        .map_err(DiskError::at("write", &self.at))?;
        if fold {
            inner.last = Some((digest, call.to_owned(), 0));
        }
        Ok(())
    }
}

/// Reads a journal; a line cut short by a crash is left out.
///
/// # Errors
/// [`DeviceError::State`] where the file cannot be read; a missing one is empty.
pub fn read(at: &Path) -> Result<Vec<Sent>, DeviceError> {
    rotated::read(at)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use headstart_disk::SystemDisk;

    use super::*;

    #[test]
    fn repeated_messages_are_folded_and_counted() {
        let dir = tempfile::tempdir().expect("tempdir");
        let at = dir.path().join("sent.jsonl");
        let disk: Arc<dyn Disk> = Arc::new(SystemDisk);
        let journal = Journal::open(&disk, &at).expect("opens");
        for _ in 0..5 {
            journal.record("POST /v1/claim", b"{}", "asked for work", true).expect("writes");
        }
        journal.record("POST /v1/commit", b"{1}", "handed in", false).expect("writes");
        journal.record("POST /v1/commit", b"{1}", "handed in", false).expect("writes");
        std::fs::OpenOptions::new().append(true).open(&at).expect("opens").write_all(b"{\"to").expect("torn");
        let journal = Journal::open(&disk, &at).expect("opens again");
        journal.record("GET /v1/blobs/x", b"", "asked for a file", false).expect("writes");
        let lines = read(&at).expect("reads");
        let seen: Vec<_> = lines.iter().map(|l| (l.call.as_str(), l.repeats, l.digest)).collect();
        let commit = ("POST /v1/commit", Digest::of(b"{1}"));
        let claim = ("POST /v1/claim", 0, Digest::of(b"{}"));
        let blob = ("GET /v1/blobs/x", 0, Digest::of(b""));
        assert_eq!(seen, [claim, (commit.0, 4, commit.1), (commit.0, 0, commit.1), blob]);
    }
}
