//! The workspace: event logs, content-addressed artifacts, and the DuckDB cache.
//!
//! The event logs are the truth about runs and the artifacts the truth about results; both survive
//! a crash at any point. The cache is neither: deleting it loses time, nothing else. It knows every stage
//! that an event log calls committed, because its entries are on disk first.
//!
//! A workspace is a folder:
//!
//! | path | what |
//! | --- | --- |
//! | `workspace.json` | the version of this layout |
//! | `runs/ID/plan.json` | what the run was created with |
//! | `runs/ID/log/events` | its event log |
//! | `runs/ID/lock` | held by the engine that executes it |
//! | `blobs/`, `manifests/`, `open/`, `unsynced/` | artifacts: see [`headstart_content`] |
//! | `scratch/` | folders of running attempts |
//! | `resume/` | progress of interrupted stages, by cache key |
//! | `keys/` | secrets of this workspace |
//! | `cache/` | the cache: segments, to which each process appends its own, and their indexes |
//! | `claims/` | which stages are being computed, and by whom |
//! | `gc/` | the lock of collections, and which results were removed on purpose |
//! | `pins.json` | results that are never removed |
//! | `cache.duckdb` | the cache and an index of runs in tables, made from the above |
//!
//! # Layout
//! - [`Workspace`]: opens all of this.
//! - [`log`]: event logs, their format and what a crash can leave of it.
//! - [`cache`]: rows, stages, the index of runs and the catalog, in segments and in DuckDB.
//! - [`gc`]: which artifacts are kept, and removing the others.
//! - `verify`: [`Workspace::verify`] and [`Workspace::repair`].
//! - [`StoreError`]: what can go wrong.

pub mod cache;
mod error;
pub mod gc;
mod in_use;
mod log;
mod secrets;
mod verify;
mod workspace;

pub use cache::{Cache, CacheEntry};
pub use error::StoreError;
pub use headstart_content::{
    Artifacts, Blobs, ContentError, Incomplete, Inventory, check_file_name, check_file_names, hash_file,
};
pub use log::{LogTail, RunLog, Ticket};
pub use verify::{Cut, DamagedRun, Repairs, Report};
pub use workspace::{Checkpoint, RunInfo, Size, Workspace};
