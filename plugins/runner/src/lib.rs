//! The one way to run a stage. The engine and a device both do it through here; each brings only
//! its own [`Context`](headstart_protocol::Context).
//!
//! # Layout
//! - [`registry`]: finds a stage, built in or custom.
//! - [`run()`]: runs it behind a panic barrier and checks its output.
//! - [`limit`]: time limits, and how a stage that ran past one is reported.
//! - `check`: what an output must be before anything counts.
//! - `granted`: which folders a stage was given, beside its scratch folder.

mod call;
mod check;
mod granted;
pub mod limit;
mod registry;
mod run;

pub use call::Call;
pub use limit::TimeLimit;
pub use registry::{Found, StageRegistry};
pub use run::{run, run_unchecked};
