//! What a program writes beside an attempt: a file in the run's folder, made when first needed.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::PathBuf;

/// Bytes of a log that are kept at most: a program that writes without end must not fill the disk.
const LIMIT: u64 = 16 << 20;

/// The log of one attempt.
pub(crate) struct AttemptLog {
    path: PathBuf,
    file: Option<File>,
    written: u64,
    broken: bool,
}

impl AttemptLog {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path, file: None, written: 0, broken: false }
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
            tracing::warn!(path = %self.path.display(), error = %e, "the log of an attempt cannot be written");
        }
    }

    fn append(&mut self, parts: &[&str]) -> std::io::Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            none => {
                if let Some(dir) = self.path.parent() {
                    std::fs::create_dir_all(dir)?;
                }
                none.insert(OpenOptions::new().create(true).append(true).open(&self.path)?)
            }
        };
        file.write_all(parts.concat().as_bytes())
    }
}
