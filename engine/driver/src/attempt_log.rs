//! What a program writes beside an attempt: a file in the run's folder, made when first needed.

use std::path::PathBuf;
use std::sync::Arc;

use headstart_disk::files::{create_dir, folder_of};
use headstart_disk::{Disk, DiskError, DiskFile, Open};

/// Bytes of a log that are kept at most: a program that writes without end must not fill the disk.
const LIMIT: u64 = 16 << 20;

/// The log of one attempt.
pub(crate) struct AttemptLog {
    path: PathBuf,
    disk: Arc<dyn Disk>,
    file: Option<Box<dyn DiskFile>>,
    written: u64,
    broken: bool,
}

impl AttemptLog {
    pub(crate) fn new(path: PathBuf, disk: Arc<dyn Disk>) -> Self {
        Self { path, disk, file: None, written: 0, broken: false }
    }

    /// Adds a line. A log that cannot be written never disturbs the attempt.
    pub(crate) fn line(&mut self, line: &str) {
        if self.broken || self.written > LIMIT {
            return;
        }
        self.written += line.len() as u64 + 1;
        let end = if self.written > LIMIT { "\n(the rest is left out)\n" } else { "\n" };
        if let Err(e) = self.append(&[line, end]) {
            self.broken = true;
            tracing::warn!("the log of an attempt stops here: {e}");
        }
    }

    fn append(&mut self, parts: &[&str]) -> Result<(), DiskError> {
        let failed = |e| DiskError::at("write", &self.path)(e);
        let file = match &mut self.file {
            Some(file) => file,
            none => {
                create_dir(&*self.disk, folder_of(&self.path))?;
                none.insert(self.disk.open(&self.path, Open::Append).map_err(failed)?)
            }
        };
        file.write_all(parts.concat().as_bytes()).map_err(failed)
    }
}
