//! The cache and index in DuckDB: rows, stages, runs, catalogs.
//!
//! Nothing here can fail a run. Puts are first kept in memory, where it is found at once,
//! and written behind in groups; a crash loses at most the last group. A database that is damaged
//! is renamed and an empty one takes its place; one that another process has open is replaced by
//! an empty one in memory. Both are logged as warnings, once.
//!
//! The tables are documented in the database itself: `SELECT * FROM duckdb_columns()`.
//!
//! # Layout
//! - [`Cache`]: the whole.
//! - `db`, `schema`, `raw`: the database, its tables, vectors in bulk.
//! - `batch`, `pending`, `write`: pending puts, the thread that writes them, and how.
//! - `stages`, `stage_index`: results of stages by key, the newest of them in memory.
//! - `rows`, `head`: embeddings and responses, and what their tables have an index over.
//! - `index`, `records`: runs and catalogs, and queries over everything.

mod batch;
mod db;
mod head;
mod index;
mod pending;
mod raw;
mod records;
mod rows;
mod schema;
mod stage_index;
mod stages;
mod write;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use headstart_protocol::ArtifactRef;
use headstart_protocol::task::Released;
use serde::{Deserialize, Serialize};

use db::Db;
pub use db::Home;
use pending::Shared;
pub use records::{CoefficientRow, PllmRow, RunRow, StageRunRow, Table};

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

/// Ends the writing thread when the last clone goes.
struct Handle {
    shared: Arc<Shared>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.stop();
    }
}

/// Every cache that is open in this process: DuckDB must not open a file twice.
static OPEN: Mutex<BTreeMap<PathBuf, Weak<Handle>>> = Mutex::new(BTreeMap::new());

impl Cache {
    /// The cache in the database at `path`, an absolute path. Opens nothing yet.
    pub(crate) fn new(path: PathBuf) -> Self {
        let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|_, handle| handle.strong_count() > 0);
        if let Some(handle) = open.get(&path).and_then(Weak::upgrade) {
            return Self { handle };
        }
        let handle = Arc::new(Handle { shared: Arc::new(Shared::new(path.clone())) });
        open.insert(path, Arc::downgrade(&handle));
        Self { handle }
    }

    fn shared(&self) -> &Arc<Shared> {
        &self.handle.shared
    }

    /// The database file.
    pub fn path(&self) -> &Path {
        self.shared().path()
    }

    /// Begins to open the database and to load the stage cache on another thread, so that they are
    /// ready when they are needed. Worth calling before a plan is checked.
    pub fn warm(&self) {
        self.shared().warm();
    }

    /// Whether it lives in the workspace's file; opens it. `None` if there is no cache at all.
    pub fn home(&self) -> Option<Home> {
        self.shared().db().map(|db| db.home)
    }

    /// Why the database cannot be used, if it is damaged: reads all of it. One that another process has open
    /// is not looked at. To be asked before anything else is.
    pub fn damage(&self) -> Option<String> {
        Db::damage(self.path())
    }

    /// Renames a damaged database, so that an empty one takes its place; gives the new name.
    ///
    /// # Errors
    /// Why it cannot be renamed.
    pub fn put_aside(&self, why: &str) -> Result<PathBuf, String> {
        db::set_aside(self.path(), why)
    }

    /// Writes everything that was put so far. To be called when a run ends.
    pub fn flush(&self) {
        self.shared().flush();
    }
}
