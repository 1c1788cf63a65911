//! The arguments of `headstart schedules`.

use clap::{Args, Subcommand};
use jiff::Timestamp;
use jiff::civil::{Date, DateTime};

use super::Format;

/// `headstart schedules`
#[derive(Subcommand)]
pub enum SchedulesCommand {
    /// List all schedules that `headstart serve` has taken over on this workspace.
    List {
        /// Output format.
        #[arg(long, value_enum, default_value_t)]
        format: Format,
    },
    /// Show the next fires of a schedule, across the next change of clocks, and what became of the last ones.
    Explain {
        /// The schedule: its name, or FILE:NAME.
        #[arg(value_name = "SCHEDULE")]
        schedule: String,
        /// How many fires to show.
        #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=1000))]
        count: u16,
    },
    /// Skip a schedule's fires from now on.
    Pause {
        /// The schedule: its name, or FILE:NAME.
        #[arg(value_name = "SCHEDULE")]
        schedule: String,
    },
    /// Let a paused schedule fire again. What it skipped is not made up for.
    Resume {
        /// The schedule: its name, or FILE:NAME.
        #[arg(value_name = "SCHEDULE")]
        schedule: String,
    },
    /// Run a schedule's pipeline now, after what runs and waits already.
    Run {
        /// The schedule: its name, or FILE:NAME.
        #[arg(value_name = "SCHEDULE")]
        schedule: String,
    },
    /// Run once for each of a schedule's times in a range, one after the other.
    Backfill(Backfill),
}

impl SchedulesCommand {
    /// The schedule that it names.
    pub fn schedule(&self) -> Option<&str> {
        match self {
            Self::List { .. } => None,
            Self::Explain { schedule, .. }
            | Self::Pause { schedule }
            | Self::Resume { schedule }
            | Self::Run { schedule } => Some(schedule),
            Self::Backfill(args) => Some(&args.schedule),
        }
    }
}

/// `headstart schedules backfill`
#[derive(Args)]
pub struct Backfill {
    /// The schedule: its name, or FILE:NAME.
    #[arg(value_name = "SCHEDULE")]
    pub schedule: String,
    /// The first time: a date such as 2026-11-01 or a time such as 2026-11-01T03:00 in the schedule's zone, or with
    /// an offset, as 2026-11-01T03:00Z.
    #[arg(long, value_name = "TIME", value_parser = moment)]
    pub from: Moment,
    /// The last time, included; a date means all of that day.
    #[arg(long, value_name = "TIME", value_parser = moment)]
    pub to: Moment,
}

/// A time as somebody writes it.
#[derive(Clone, Copy, Debug)]
pub enum Moment {
    /// A whole day, in the schedule's zone.
    Day(Date),
    /// A time in the schedule's zone.
    Local(DateTime),
    /// A time with its offset.
    Instant(Timestamp),
}

fn moment(text: &str) -> Result<Moment, String> {
    let date = |t: &str| t.parse::<Date>().ok().filter(|_| !t.contains(['T', ' ', ':']));
    if let Some(day) = date(text) {
        return Ok(Moment::Day(day));
    }
    if let Ok(instant) = text.parse::<Timestamp>() {
        return Ok(Moment::Instant(instant));
    }
    text.parse::<DateTime>().map(Moment::Local).map_err(|e| e.to_string())
}
