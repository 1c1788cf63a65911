//! The run as a pure state machine: events, ready set, claims, retries, residency.
//!
//! Nothing here does I/O, reads a clock or draws a random number: the same events give the same
//! state, so a run is replayed from its log, and the scheduler can be tested over every
//! interleaving.
//!
//! # Layout
//! - [`event`]: what happens in a run.
pub mod event;

pub use event::{Event, EventKind, RunOutcome};
