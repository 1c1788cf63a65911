//! Users' files: listing them by patterns, and replacing one safely.
//!
//! # Layout
//! - [`list`]: the files and folders that match a pattern. Hidden ones and the engine's own
//!   workspace are left out, and everything that is left out is reported with the reason.
//! - [`replace()`]: a new content for a file, whole or not at all.

mod glob;
mod replace;
mod workspace;

pub use crate::glob::{GlobError, LeftOut, Listing, MAX_ENTRIES, Reason, list};
pub use replace::replace;
