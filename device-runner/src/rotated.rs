//! JSON Lines files with a largest size: when one is full, it becomes the earlier one, in the place of the one
//! before.
//!
//! What they hold is for the owner to read. Nothing that decides is kept here alone: what was spent of the budget
//! of releases has a file of its own.

use std::ffi::OsString;
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use headstart_disk::read::{LINE, Lines, ROWS};
use headstart_disk::{Disk, DiskFile, Open};
use serde::de::DeserializeOwned;

use crate::error::DeviceError;

/// Bytes of a file; the earlier one has as many, so that both take up twice this at most.
pub(crate) const MOST_BYTES: u64 = 32 << 20;

/// A file that is open for appending.
pub(crate) struct RotatedLines {
    disk: Arc<dyn Disk>,
    at: PathBuf,
    file: Box<dyn DiskFile>,
    size: u64,
}

impl RotatedLines {
    /// Opens or creates a file. A line cut short by a crash is ended, so that it spoils no other.
    ///
    /// # Errors
    /// Any of the disk's.
    pub(crate) fn open(disk: &Arc<dyn Disk>, at: &Path) -> std::io::Result<Self> {
        let mut file = disk.open(at, Open::Append)?;
        let mut last = [b'\n'];
        let mut size = file.seek(SeekFrom::End(0))?;
        if size > 0 {
            file.seek(SeekFrom::End(-1))?;
            file.read_exact(&mut last)?;
        }
        if last != [b'\n'] {
            file.write_all(b"\n")?;
            size += 1;
        }
        Ok(Self { disk: Arc::clone(disk), at: at.to_owned(), file, size })
    }

    /// Appends a line that ends in a line feed.
    ///
    /// # Errors
    /// Any of the disk's; some of the line may be there.
    pub(crate) fn append(&mut self, line: &str) -> std::io::Result<()> {
        let more = line.len() as u64;
        if self.size > 0 && self.size.saturating_add(more) > MOST_BYTES {
            match self.disk.rename(&self.at, &earlier(&self.at)) {
                // An attempt before came no further than this.
                Err(e) if e.kind() == ErrorKind::NotFound => {}
                renamed => renamed?,
            }
            self.file = self.disk.open(&self.at, Open::Append)?;
            self.size = 0;
        }
        // Also what is written in part takes up its place.
        self.size = self.size.saturating_add(more);
        self.file.write_all(line.as_bytes())
    }
}

/// Where the lines before those of a file are.
pub(crate) fn earlier(at: &Path) -> PathBuf {
    let mut name = OsString::from("earlier-");
    name.push(at.file_name().unwrap_or_default());
    at.with_file_name(name)
}

/// The lines that are kept, oldest first; one cut short by a crash is left out.
///
/// # Errors
/// [`DeviceError::State`] where a file cannot be read; a missing one is empty.
pub(crate) fn read<T: DeserializeOwned>(at: &Path) -> Result<Vec<T>, DeviceError> {
    let mut out = Vec::new();
    for at in [&earlier(at), at] {
        let mut lines = match Lines::open(at, LINE, ROWS) {
            Ok(lines) => lines,
            Err(e) if e.kind() == ErrorKind::NotFound => continue,
            Err(e) => return Err(DeviceError::state(at, e)),
        };
        while let Some(line) = lines.next_line().map_err(|e| DeviceError::state(at, e))? {
            out.extend(serde_json::from_slice(line).ok());
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use headstart_disk::simulated::{Fault, SimulatedDisk};

    use super::*;

    fn line(n: u64) -> String {
        format!("[{n},\"{}\"]\n", "x".repeat(1 << 20))
    }

    fn numbers(at: &Path) -> Vec<u64> {
        read::<(u64, String)>(at).expect("reads").into_iter().map(|(n, _)| n).collect()
    }

    #[test]
    fn the_newest_lines_are_kept_within_the_bound() {
        let dir = tempfile::tempdir().expect("tempdir");
        let at = dir.path().join("sent.jsonl");
        let disk = SimulatedDisk::new();
        let shared = disk.shared();
        let mut lines = RotatedLines::open(&shared, &at).expect("opens");
        for n in 0..70 {
            lines.append(&line(n)).expect("writes");
            if n == 40 {
                // Another start goes on where this one was.
                lines = RotatedLines::open(&shared, &at).expect("opens");
            }
        }
        let kept = numbers(&at);
        assert!(kept.len() >= 31 && kept.windows(2).all(|w| w[1] == w[0] + 1), "{kept:?}");
        assert_eq!(kept.last(), Some(&69));
        let size = |at: &Path| std::fs::metadata(at).map_or(0, |m| m.len());
        assert!(size(&at) <= MOST_BYTES && size(&earlier(&at)) <= MOST_BYTES);
    }

    #[test]
    fn a_disk_that_is_full_at_a_rotation_loses_no_line_that_was_written() {
        for fault in 0..3 {
            let dir = tempfile::tempdir().expect("tempdir");
            let at = dir.path().join("sent.jsonl");
            let disk = SimulatedDisk::new();
            let shared = disk.shared();
            let mut lines = RotatedLines::open(&shared, &at).expect("opens");
            for n in 0..31 {
                lines.append(&line(n)).expect("writes");
            }
            disk.fail_once(disk.writes() + 1 + fault, Fault::Full);
            assert!(lines.append(&line(31)).is_err(), "write {fault}");
            lines.append(&format!("\n{}", line(32))).expect("writes");
            let kept = numbers(&at);
            assert_eq!(kept[..31], (0..31).collect::<Vec<_>>(), "write {fault}");
            assert_eq!(kept.last(), Some(&32));
        }
    }
}
