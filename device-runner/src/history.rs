//! Every attempt on this device, with the details that only the device knows. The newest 32 MiB are kept, and as
//! many of those before.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use headstart_disk::{Disk, DiskError};
use headstart_protocol::task::{Released, Task};
use headstart_protocol::{Digest, Failure, Type};
use serde::{Deserialize, Serialize};

use crate::error::DeviceError;
use crate::rotated::{self, RotatedLines};

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
    /// What it was to release and did not, with the reasons.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub withheld: BTreeMap<String, String>,
}

impl Entry {
    /// A task that failed, for a reason that is yet to be told.
    pub fn new(task: &Task, private: bool, took: Duration) -> Self {
        Self {
            time: jiff::Timestamp::now(),
            run: task.run.clone(),
            name: task.name.clone(),
            kind: task.kind.clone(),
            ty: task.ty.clone(),
            private,
            ended: Ended::Failed,
            artifact: None,
            seconds: took.as_secs_f64(),
            released: BTreeMap::new(),
            failure: None,
            withheld: BTreeMap::new(),
        }
    }
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
    /// It was not run, because an input failed.
    Blocked,
    /// It was not run, because it failed too often before.
    Quarantined,
    /// Another attempt took over.
    Superseded,
}

/// Adds an attempt to the history.
///
/// # Errors
/// [`DeviceError::State`].
pub fn append(disk: &Arc<dyn Disk>, at: &Path, entry: &Entry) -> Result<(), DeviceError> {
    // Private work ends beside public work, and a full file is set aside once.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let mut line = serde_json::to_string(entry).map_err(|e| DeviceError::Internal(e.to_string()))?;
    line.push('\n');
    let write = || RotatedLines::open(disk, at)?.append(&line);
    Ok(write().map_err(DiskError::at("write", at))?)
}

/// Reads the history, oldest first.
///
/// # Errors
/// [`DeviceError::State`]; a missing file is empty.
pub fn read(at: &Path) -> Result<Vec<Entry>, DeviceError> {
    rotated::read(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_version_0_1_are_read() {
        let read = |word: &str| serde_json::from_str::<Ended>(&format!("{word:?}")).expect("a word");
        assert_eq!(["done", "absent"].map(read), [Ended::Succeeded, Ended::Skipped]);
        for now in [
            Ended::Succeeded,
            Ended::Skipped,
            Ended::Failed,
            Ended::Blocked,
            Ended::Quarantined,
            Ended::Superseded,
        ] {
            let text = serde_json::to_string(&now).expect("a word");
            assert_eq!(serde_json::from_str::<Ended>(&text).expect("own text"), now);
        }
    }
}
