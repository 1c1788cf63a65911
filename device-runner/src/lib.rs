//! The on-device runner: it claims the stages that are placed on this device and runs them on data
//! that stays here.
//!
//! The device trusts the engine with nothing but public work. It is paired with one engine's key, speaks
//! with no other, and checks the signature of every task; it decides by itself what is private; it releases only what a signed
//! task releases, what the type allows and what its owner permits; and it keeps a journal of every
//! message that left, which `headstart-device show --sent` prints.
//!
//! What the engine can still observe of a private stage: that it was asked for, when it began and ended,
//! and that its result is the same as that of an earlier run of exactly the same task. Not whether it
//! failed, unless the owner allows that.
//!
//! # Layout
//! - [`runner`]: the device's life: join, claim work, run it, commit the outcome. `options`: how it does so.
//! - [`device`]: how one task is done: arguments resolved, stage run, output kept or published.
//! - `pairing`: which engine it belongs to. `link`: joining it.
//! - `attempt`: a task that was claimed: downloads, the work, renewals beside it. `work`: the stage on its
//!   thread, and again.
//! - `take_over`, `queue`, `background`, `reuse`: private tasks where nothing may leave: delivered at once, kept,
//!   worked on later, and not twice.
//! - [`residency`], [`release`]: what may leave, decided here; `lineage`, `budget`: over how many rows it was
//!   computed, and how many numbers left.
//! - `deliver`, `quarantine`: what becomes of a private task, and of one that keeps failing.
//! - `contract`, `gate`: what the owner approved, and whether a task needs no more than that.
//! - `decisions`: conditions over private values, which its time may tell.
//! - [`context`]: what a stage may touch while it runs.
//! - [`state`], [`store`], [`rows`]: the device's folder: secret, artifacts, row cache.
//! - [`client`], `answer`, [`fetch`], [`outbox`]: calls, bounded answers, resumable downloads within a quota,
//!   results on their way.
//! - [`journal`], [`history`]: what left, and what was done.
//! - `reconnect`: pauses while the engine cannot be reached.
//! - [`facts`]: what the device says of itself.
//! - [`cli`], [`show`], [`local`]: the command line, what it prints, one task by hand.
//! - [`error`]: what can stop it.

// One writer: `headstart_console`. The others panic when a pipe is closed.
#![deny(clippy::print_stdout, clippy::print_stderr)]

mod answer;
mod attempt;
mod background;
mod budget;
mod by_fence;
pub mod cli;
mod client;
mod context;
mod contract;
mod decisions;
mod deliver;
mod device;
mod engine_time;
mod error;
mod facts;
mod fetch;
mod gate;
pub mod history;
pub mod journal;
mod lineage;
mod link;
pub mod local;
mod options;
mod outbox;
mod pairing;
mod quarantine;
mod queue;
mod reconnect;
mod release;
mod residency;
mod reuse;
mod rotated;
mod rows;
mod runner;
pub mod show;
mod state;
mod statement;
mod store;
mod take_over;
mod work;

pub use budget::{ReleaseLimits, reset as reset_budget};
pub use context::{Control, Phase};
pub use contract::{Approval, Approved, Contract, Contracts, ModelInfo, Pending};
pub use device::{Device, Made};
pub use error::DeviceError;
pub use options::{Options, Summary, Until};
pub use pairing::Target;
pub use quarantine::retry;
pub use residency::{Allowed, for_the_engine, stated};
pub use runner::{run, run_in};
pub use state::State;
pub use store::{DEFAULT_DISK_QUOTA, DEFAULT_PRIVATE_QUOTA};
