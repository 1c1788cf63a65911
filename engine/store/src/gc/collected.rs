//! Which artifacts were removed on purpose, of those that event logs name.

use std::collections::BTreeSet;

use headstart_disk::{Mode, files, read};
use headstart_protocol::Digest;
use serde::{Deserialize, Serialize};

use crate::error::StoreError;
use crate::in_use::DIR;
use crate::workspace::Workspace;

/// Its file, in the folder of collections.
const FILE: &str = "collected.json";
/// Bytes of the list at most: 67 for an artifact.
const LARGEST: u64 = 1 << 30;

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct List {
    artifacts: BTreeSet<Digest>,
}

/// The list.
///
/// # Errors
/// [`StoreError`] where it is there and cannot be read.
pub(super) fn read(ws: &Workspace) -> Result<BTreeSet<Digest>, StoreError> {
    let path = ws.dir().join(DIR).join(FILE);
    let bytes = match read::whole(&path, LARGEST) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
        bytes => bytes.map_err(StoreError::io("read", &path))?,
    };
    let list: Result<List, _> = serde_json::from_slice(&bytes);
    let why =
        |e| StoreError::damaged(&path, format!("not understood: {e}; delete the file: it only explains"));
    list.map(|list| list.artifacts).map_err(why)
}

/// Adds artifacts that go, before they do, and takes off those that no log names any more. Durable when it returns.
///
/// # Errors
/// [`StoreError`] where the list cannot be read or written.
pub(super) fn add(
    ws: &Workspace,
    going: &BTreeSet<Digest>,
    forgotten: &BTreeSet<Digest>,
) -> Result<(), StoreError> {
    let known = read(ws)?;
    let artifacts: BTreeSet<Digest> =
        known.union(going).filter(|id| !forgotten.contains(id)).copied().collect();
    if artifacts == known {
        return Ok(());
    }
    let json = serde_json::to_vec(&List { artifacts })
        .map_err(|source| StoreError::Encode { what: "the list of collected artifacts", source })?;
    let dir = ws.dir().join(DIR);
    files::create_dir(&**ws.disk(), &dir)?;
    Ok(files::write_atomic(&**ws.disk(), &dir.join(FILE), &json, Mode::Normal)?)
}
