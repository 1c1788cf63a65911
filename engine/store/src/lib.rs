//! Where everything is kept: event logs, content-addressed artifacts, and the DuckDB cache.
//!
//! The event logs are the truth about runs and the artifacts the truth about results; both survive
//! a crash at any point. The cache is neither: deleting it loses time, nothing else.
//!
//! A workspace is a folder:
//!
//! | path | what |
//! | --- | --- |
//! | `workspace.json` | the version of this layout |
//! | `runs/ID/plan.json` | what the run was created with |
//! | `runs/ID/log/events` | its event log |
//! | `runs/ID/lock` | held by the engine that executes it |
//! | `blobs/ab/abcdef…` | contents of files, by BLAKE3 |
//! | `manifests/ab/abcdef….json` | artifacts, by BLAKE3 of their canonical JSON |
//! | `open/ID/` | an artifact's files under their names, as links to blobs |
//! | `scratch/` | folders of running attempts |
//! | `resume/` | progress of stages that were cut off, by cache key |
//! | `unsynced/` | markers of processes with contents that are not on disk yet |
//! | `keys/` | secrets of this workspace |
//! | `cache.duckdb`, `cache.lock` | the cache, and who has it open |
//!
//! # Layout
//! - [`Workspace`]: opens all of this.
//! - [`Blobs`], [`Artifacts`]: contents by digest, and what is made of them.
//! - [`log`]: event logs, their format and what a crash can leave of it.
//! - [`cache`]: rows, stages, the index of runs and the catalog, in DuckDB.
//! - [`StoreError`]: what can go wrong.

mod artifacts;
mod blobs;
pub mod cache;
mod error;
mod files;
pub mod log;
mod secrets;
mod unsynced;
mod workspace;

pub use artifacts::{Artifacts, check_file_name};
pub use blobs::{Blobs, hash_file};
pub use cache::{Cache, CacheEntry};
pub use error::StoreError;
pub use log::{RunLog, Ticket};
pub use workspace::{RunInfo, Size, Workspace};
