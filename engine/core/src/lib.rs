//! The run as a pure state machine: events, ready set, claims, retries, residency.
//!
//! Nothing here does I/O, reads a clock or draws a random number: the same events give the same
//! state, so a run is replayed from its log, and the scheduler can be tested over every
//! interleaving.
//!
//! # Layout
//! - [`event`]: what happens in a run.
//! - [`state`]: the fold of events; which instances may be attempted, which commits count.
//! - [`graph`]: the edges of a plan.
//! - [`prepare`]: from a ready instance to a task; what is public is resolved, what is private
//!   stays an expression.
//! - [`key`]: cache keys and what they are the digest of.

mod event;
mod graph;
mod key;
pub mod prepare;
mod state;

pub use event::{Event, EventKind, LossCause, ReleasedParts, RunOutcome};
pub use key::{ComputedWith, DeviceIdentity, Difference, KeyPreimage, PlaceFacts};
pub use prepare::{Decision, Prepared};
pub use state::{ApplyError, Changes, Counts, RunState, Status};
