//! The segment that this process appends to.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use fs4::fs_std::FileExt;
use headstart_disk::files;
use headstart_disk::{Disk, DiskError, DiskFile, Mode, Open};

use super::entry::hash_of;
use super::frame::{self, Kind};
use super::index;
use super::set::Segment;

/// A segment of this many bytes is sealed, so that no process has to read more of one to know what is
/// in it.
pub(crate) const LONG: u64 = 32 << 20;

/// An open segment, locked as long as it is.
pub(crate) struct Own {
    pub(crate) segment: Segment,
    out: Arc<dyn DiskFile>,
    salt: u64,
    end: u64,
}

impl Own {
    /// A new segment in `dir`, which exists.
    ///
    /// # Errors
    /// If the disk does not allow it.
    pub(crate) fn create(disk: &dyn Disk, dir: &Path) -> Result<Self, DiskError> {
        let salt = random().map_err(DiskError::at("create a file in", dir))?;
        let path = dir.join(format!("{}.seg", fresh_name(salt)));
        let out = disk.open(&path, Open::New).map_err(DiskError::at("create", &path))?;
        // Whoever looks whether it is abandoned holds the lock for a moment.
        let begun = FileExt::lock_exclusive(out.system())
            .and_then(|()| out.write_all_at(&frame::file_header(salt), 0))
            .and_then(|()| out.system().try_clone());
        match begun.and_then(|file| Segment::begun(&path, file, salt)) {
            Ok(segment) => Ok(Self { segment, out: out.into(), salt, end: frame::FILE_HEADER as u64 }),
            Err(e) => {
                // Without its header nobody reads it.
                let _ = disk.remove_file(&path);
                Err(DiskError::at("write", &path)(e))
            }
        }
    }

    /// Appends entries; other processes see them when this returns. They are on disk once the file is
    /// synced.
    ///
    /// # Errors
    /// If the disk cannot take them; nothing may be appended after that.
    pub(crate) fn append(&mut self, entries: &[(Kind, Vec<u8>)]) -> Result<(), DiskError> {
        let mut bytes = Vec::with_capacity(entries.iter().map(|(_, b)| b.len() + frame::HEADER).sum());
        let mut added = Vec::with_capacity(entries.len());
        for (kind, body) in entries {
            let offset = self.end + bytes.len() as u64;
            let loc = frame::encode(&mut bytes, *kind, body, self.salt, offset);
            added.extend(hash_of(*kind, body).map(|hash| (hash, loc)));
        }
        if let Err(e) = self.out.write_all_at(&bytes, self.end) {
            // What arrived of it is a torn tail, whether or not it can be cut.
            let _ = self.out.set_len(self.end);
            return Err(DiskError::at("write", self.segment.path())(e));
        }
        self.end += bytes.len() as u64;
        self.segment.grow(added, self.end);
        Ok(())
    }

    /// The file, to be synced.
    pub(crate) fn file(&self) -> &Arc<dyn DiskFile> {
        &self.out
    }

    /// Bytes that it has.
    pub(crate) fn end(&self) -> u64 {
        self.end
    }

    /// Whether it is long enough to be sealed.
    pub(crate) fn is_long(&self) -> bool {
        self.end >= LONG
    }

    /// Writes the index beside it; nothing is appended any more.
    ///
    /// # Errors
    /// If the disk cannot take it: then another process seals it.
    pub(crate) fn seal(self, disk: &dyn Disk) -> Result<Segment, DiskError> {
        let path = self.segment.path().to_owned();
        self.out.sync_data().map_err(DiskError::at("write", &path))?;
        let mut segment = self.segment;
        let at = path.with_extension("idx");
        let bytes = index::encode(segment.known(), self.salt, self.end);
        files::write_atomic(disk, &at, &bytes, Mode::Secret)?;
        segment.reopen();
        Ok(segment)
    }
}

/// Names sort by time, and say which process appends.
fn fresh_name(salt: u64) -> String {
    let millis = UNIX_EPOCH.elapsed().map_or(0, |d| d.as_millis());
    format!("{millis:012x}-{:x}-{:04x}", std::process::id(), salt & 0xffff)
}

/// The process that appends to the segment of this name.
pub(crate) fn process_of(name: &str) -> Option<u32> {
    u32::from_str_radix(name.split('-').nth(1)?, 16).ok()
}

fn random() -> io::Result<u64> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).map_err(|e| io::Error::other(e.to_string()))?;
    Ok(u64::from_le_bytes(bytes))
}
