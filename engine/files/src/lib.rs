//! Users' files: listing them by patterns.
//!
//! # Layout
//! - [`list`]: the files and folders that match a pattern. Hidden ones and the engine's own
//!   workspace are left out, and everything that is left out is reported with the reason.

mod glob;
mod workspace;

pub use crate::glob::{GlobError, LeftOut, Listing, MAX_ENTRIES, Reason, list};
