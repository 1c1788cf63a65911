//! When schedules fire: pure, with an explicit rule for daylight saving.
//!
//! A [`Spec`] is a five-field cron expression in a time zone. Its expression is matched in plain
//! civil time, by the `cron` crate; the civil times found are then resolved to instants here, with
//! jiff's time zones and a rule that is named ([`Dst`]). So a schedule never depends on what a
//! library happens to do when clocks change.
//!
//! ```
//! use headstart_cron::{Dst, Spec};
//!
//! let nightly = Spec::parse("30 2 * * *", "America/New_York", Dst::Vixie)?;
//! let after = "2025-03-08T12:00:00Z".parse()?;
//! let fire = nightly.next(after).expect("it fires every night");
//! // Clocks went from 2:00 to 3:00 that night.
//! assert_eq!(fire.nominal.to_string(), "2025-03-09T02:30:00");
//! assert_eq!(fire.instant.to_string(), "2025-03-09T07:00:00Z");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Layout
//! - [`Expression`], [`time_zone`]: what a pipeline file may say; the only parser of either.
//! - [`Spec`]: an expression in a zone, and its fires.
//! - [`Fire`], [`Why`]: one fire, and how it came by its instant.
//! - [`Spec::due`], [`Catchup`], [`Due`]: what to do after being away.
//! - [`CronError`]: what is wrong with an expression, and where in it.
//! - [`Clock`]: where the present comes from.

mod calendar;
mod clock;
mod due;
mod parse;
mod spec;
mod zone;

pub use clock::{Clock, ManualClock, SystemClock};
pub use due::{Catchup, Due, ON_TIME, Overlap, Skipped, WhySkipped};
pub use parse::CronError;
pub use spec::{Dst, Expression, Fire, Spec, Why};
pub use zone::time_zone;
