//! What a person keeps: artifacts that no collection removes.

use std::collections::BTreeSet;
use std::path::PathBuf;

use headstart_disk::{Mode, files, read};
use headstart_protocol::Digest;
use serde::{Deserialize, Serialize};

use crate::error::StoreError;
use crate::in_use::Exclusive;
use crate::workspace::Workspace;

/// Bytes of all pins at most.
const LARGEST: u64 = 256 << 20;

/// An output that is kept, also when its run is removed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pin {
    /// The run that made it.
    pub run: String,
    /// The name of the output.
    pub output: String,
    /// The run's pipeline, for people.
    pub pipeline: String,
    /// The artifacts of the output.
    pub artifacts: BTreeSet<Digest>,
    /// When it was pinned, in milliseconds since 1970.
    pub pinned_ms: u64,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Pins {
    pins: Vec<Pin>,
}

impl Workspace {
    /// What is pinned.
    ///
    /// # Errors
    /// [`StoreError`] where the pins are there and cannot be read: then nothing may be collected.
    pub fn pins(&self) -> Result<Vec<Pin>, StoreError> {
        let path = self.pins_path();
        let bytes = match read::whole(&path, LARGEST) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            bytes => bytes.map_err(StoreError::io("read", &path))?,
        };
        let pins: Result<Pins, _> = serde_json::from_slice(&bytes);
        let why = |e| {
            let help = "restore the file, or delete it and pin again: nothing is collected until then";
            StoreError::damaged(&path, format!("not understood: {e}; {help}"))
        };
        pins.map(|pins| pins.pins).map_err(why)
    }

    /// Changes what is pinned. Durable when it returns.
    ///
    /// # Errors
    /// [`StoreError`] where the pins cannot be read or written.
    pub fn change_pins(
        &self,
        _locked: &Exclusive,
        change: impl FnOnce(&mut Vec<Pin>),
    ) -> Result<(), StoreError> {
        let mut pins = self.pins()?;
        change(&mut pins);
        pins.sort();
        let json = serde_json::to_vec_pretty(&Pins { pins })
            .map_err(|source| StoreError::Encode { what: "pins", source })?;
        Ok(files::write_atomic(&**self.disk(), &self.pins_path(), &json, Mode::Normal)?)
    }

    fn pins_path(&self) -> PathBuf {
        self.dir().join("pins.json")
    }
}
