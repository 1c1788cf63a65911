//! The cache: what stages made by key, embeddings and answers row by row, an index of runs and catalogs.
//!
//! The entries are in segments, append-only files that any number of processes write and read at once
//! (`segment`). DuckDB holds all of it again in plain tables, for queries: segments are folded into it at the
//! end of a run and before a query. So a damaged or missing database loses nothing, and no process waits
//! for another to look something up.
//!
//! Nothing that is damaged is handed out, and no damage fails a run: what cannot be proven is computed again.
//!
//! The tables are documented in the database itself: `SELECT * FROM duckdb_columns()`.
//!
//! # Layout
//! - [`Cache`]: the whole.
//! - `segment`: the files, their entries and indexes. `state`: those of a workspace, and how entries are put.
//! - `stages`, `rows`: results of stages by key, embeddings and responses. `claims`: who computes a stage.
//! - `fold`, `batch`, `write`: how segments get into the database. `merge`: small segments become large ones.
//! - `db`, `schema`, `raw`, `head`: the database, its tables, vectors in bulk, the part of a digest in a column.
//! - `index`, `records`: runs and catalogs, and queries over everything.
//! - `import`: the cache of an earlier version. `check`: damage.

mod batch;
mod check;
mod claims;
mod db;
mod fold;
mod head;
mod import;
mod index;
mod merge;
mod raw;
mod records;
mod rows;
mod schema;
mod segment;
mod stages;
mod state;
mod write;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use headstart_disk::{Disk, DiskError};
use headstart_protocol::ArtifactRef;
use headstart_protocol::task::Released;
use serde::{Deserialize, Serialize};

pub use check::{CacheRepairs, DamagedCache};
pub use claims::{Claim, Claimed, Holder};
pub use records::{CoefficientRow, PllmRow, RunRow, StageRunRow, Table};
use state::Shared;

/// How long a run waits at its end for another process that folds.
const PATIENCE: Duration = Duration::from_secs(1);

/// What a stage made, as the cache remembers it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CacheEntry {
    /// The output.
    pub output: ArtifactRef,
    /// Parts of a private output that were released, by field path.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub released: BTreeMap<String, Released>,
    /// How long the stage took.
    #[serde(default)]
    pub seconds: f64,
}

/// The cache of a workspace. Clones, and other workspaces on the same folder in this process,
/// share it.
#[derive(Clone)]
pub struct Cache {
    handle: Arc<Handle>,
}

/// Ends what this process appends to when the last clone goes.
struct Handle {
    shared: Arc<Shared>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.stop();
    }
}

/// Every cache that is open in this process, so that it appends to one segment.
static OPEN: Mutex<BTreeMap<PathBuf, Weak<Handle>>> = Mutex::new(BTreeMap::new());

impl Cache {
    /// The cache of the workspace at `dir`, an absolute path. Opens nothing yet.
    pub(crate) fn new(dir: &Path, disk: Arc<dyn Disk>) -> Self {
        let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|_, handle| handle.strong_count() > 0);
        if let Some(handle) = open.get(dir).and_then(Weak::upgrade) {
            return Self { handle };
        }
        let handle = Arc::new(Handle { shared: Arc::new(Shared::new(dir, disk)) });
        open.insert(dir.to_owned(), Arc::downgrade(&handle));
        Self { handle }
    }

    fn shared(&self) -> &Arc<Shared> {
        &self.handle.shared
    }

    /// The database file.
    pub fn path(&self) -> &Path {
        &self.shared().database
    }

    /// Begins to open the segments on another thread, so that they are ready when they are needed. Worth
    /// calling before a plan is checked.
    pub fn warm(&self) {
        self.shared().warm();
    }

    /// Makes durable what was put so far. Appending to a run's log does so first: so a stage that an event
    /// calls committed is never computed again.
    ///
    /// # Errors
    /// If the disk cannot take it.
    pub fn sync(&self) -> Result<(), DiskError> {
        self.shared().sync()
    }

    /// Folds into the database what this process put, for queries, and ends the segment that it appends to. To be
    /// called when a run ends, and before the process does: threads that still hold the cache then would end the
    /// segment while the process goes, and leave half an index. Where another process folds, or a program has the
    /// database open, a later call folds it.
    pub fn flush(&self) {
        self.shared().fold_own(PATIENCE);
        self.shared().stop();
    }
}
