//! Runs as their logs have them. The terminal, replay, JSON and the page read runs here, so that all of them say the
//! same in the same words.
//!
//! # Layout
//! - [`Recorded`], [`read()`]: a run as far as it is.
//! - [`Followed`], [`Span`]: a run that is read on as it grows, and when each stage waited and ran.
//! - [`graph`]: a plan as a graph, and how far a run is with it.

mod followed;
pub mod graph;
mod recorded;

pub use followed::{Followed, Span};
pub use recorded::{HistoryError, Recorded, read};
