//! Every attempt on this device, with the details that only the device knows.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use headstart_protocol::task::Released;
use headstart_protocol::{Digest, Failure, Type};
use serde::{Deserialize, Serialize};

use crate::error::DeviceError;
use crate::journal::{open_lines, read_lines};

/// One attempt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// When it ended, in UTC.
    pub time: jiff::Timestamp,
    /// The run.
    pub run: String,
    /// The instance.
    pub name: String,
    /// The stage kind.
    pub kind: String,
    /// Type of the output.
    pub ty: Type,
    /// Whether the output stays here.
    pub private: bool,
    /// What became of it.
    pub ended: Ended,
    /// Identity or handle of the output.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact: Option<Digest>,
    /// Wall-clock seconds.
    pub seconds: f64,
    /// What was released.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub released: BTreeMap<String, Released>,
    /// Why it failed, in full.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
}

/// What became of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ended {
    /// It made its output. `done` in version 0.1.
    #[serde(alias = "done")]
    Succeeded,
    /// Its `when` was false. `absent` in version 0.1.
    #[serde(alias = "absent")]
    Skipped,
    /// It failed.
    Failed,
    /// Another attempt took over.
    Superseded,
}

/// Adds an attempt to the history.
///
/// # Errors
/// [`DeviceError::State`].
pub fn append(at: &Path, entry: &Entry) -> Result<(), DeviceError> {
    let mut line = serde_json::to_string(entry).map_err(|e| DeviceError::Internal(e.to_string()))?;
    line.push('\n');
    let write = || open_lines(at)?.write_all(line.as_bytes());
    write().map_err(|e| DeviceError::state(at, e))
}

/// Reads the history, oldest first.
///
/// # Errors
/// [`DeviceError::State`]; a missing file is empty.
pub fn read(at: &Path) -> Result<Vec<Entry>, DeviceError> {
    read_lines(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_version_0_1_are_read() {
        let read = |word: &str| serde_json::from_str::<Ended>(&format!("{word:?}")).expect("a word");
        assert_eq!(["done", "absent"].map(read), [Ended::Succeeded, Ended::Skipped]);
        for now in [Ended::Succeeded, Ended::Skipped, Ended::Failed, Ended::Superseded] {
            let text = serde_json::to_string(&now).expect("a word");
            assert_eq!(serde_json::from_str::<Ended>(&text).expect("own text"), now);
        }
    }
}
