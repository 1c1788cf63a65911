//! What becomes of the fires of schedules.
//!
//! `headstart-cron` says when a schedule fires. Here is what happens then: whether a run starts, waits, or is
//! skipped, what a restart goes on with, and the durable record of all that. Nothing here runs anything or waits for
//! anything: a server gives the time and the ends of runs, and gets [`Action`]s.
//!
//! A fire is file, schedule, zone and instant, and is handled when its run has ended. So no restart, no change of the
//! clock and no second server on the workspace loses or doubles one.
//!
//! # Layout
//! - [`Policy`], [`Overlap`]: what a pipeline file says of a schedule.
//! - [`Fire`], [`Cause`]: one reason to run. [`Entry`], [`Happened`]: what became of it.
//! - [`State`]: all that is known of a schedule; its methods decide, and give [`Action`]s.
//! - [`Folder`], [`Held`]: states on disk, each held by one server; [`Request`]: what a command asks of that one.

mod decide;
mod fire;
mod folder;
mod policy;
mod state;

pub use fire::{Cause, Entry, Fire, Happened, why_then};
pub use folder::{Folder, Held, Request, ScheduleId, SchedulerError};
pub use headstart_cron::Overlap;
pub use policy::Policy;
pub use state::{Action, Running, State};
