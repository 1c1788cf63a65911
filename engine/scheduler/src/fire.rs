//! One reason to run, and what became of it.

use headstart_cron::Why;
use headstart_protocol::Digest;
use headstart_protocol::text::counted;
use jiff::{Timestamp, civil};
use serde::{Deserialize, Serialize};

/// Why a schedule runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// Its time came.
    Time {
        /// The time that the expression matched, in the schedule's zone.
        nominal: civil::DateTime,
        /// The zone.
        timezone: String,
        /// When that is.
        instant: Timestamp,
        /// How the one became the other.
        why: Why,
        /// Whether somebody asked for a range of times afterwards.
        #[serde(default)]
        backfill: bool,
    },
    /// Somebody asked.
    Manual {
        /// When.
        at: Timestamp,
    },
    /// What a pattern matches changed.
    Changed {
        /// The pattern.
        pattern: String,
        /// When that was noticed.
        at: Timestamp,
    },
    /// A run of another schedule succeeded.
    After {
        /// That schedule.
        schedule: String,
        /// Its run.
        run: String,
        /// When it ended.
        at: Timestamp,
    },
    /// A webhook was called.
    Webhook {
        /// Its name.
        name: String,
        /// What the caller calls the call: a repetition is no further fire.
        call: String,
        /// When it came.
        at: Timestamp,
    },
}

/// One reason to run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fire {
    /// Why.
    pub cause: Cause,
}

impl Fire {
    /// A time that came.
    pub fn of_time(fire: headstart_cron::Fire, timezone: &str, backfill: bool) -> Self {
        let headstart_cron::Fire { nominal, instant, why } = fire;
        Self { cause: Cause::Time { nominal, timezone: timezone.to_owned(), instant, why, backfill } }
    }

    /// Whether it is the same fire. A run that succeeded starts another schedule once, whenever that is noticed.
    pub(crate) fn is(&self, other: &Self) -> bool {
        match (&self.cause, &other.cause) {
            (Cause::After { run, .. }, Cause::After { run: other, .. }) => run == other,
            (Cause::Webhook { name, call, .. }, Cause::Webhook { name: n, call: c, .. }) => {
                (name, call) == (n, c)
            }
            (one, other) => one == other,
        }
    }

    /// Whether a person asked for it, and not the schedule.
    pub fn is_asked_for(&self) -> bool {
        matches!(self.cause, Cause::Manual { .. } | Cause::Time { backfill: true, .. })
    }

    /// When it came.
    pub fn at(&self) -> Timestamp {
        match &self.cause {
            Cause::Time { instant, .. } => *instant,
            Cause::Manual { at }
            | Cause::Changed { at, .. }
            | Cause::After { at, .. }
            | Cause::Webhook { at, .. } => *at,
        }
    }

    /// For people: `2026-11-30T03:00 Europe/London`, `asked for`.
    pub fn words(&self) -> String {
        match &self.cause {
            Cause::Time { nominal, timezone, why, .. } => {
                let round = match why {
                    Why::Exact => "",
                    Why::GapEnd => ", which the clocks left out",
                    Why::FoldFirst => ", the first time round",
                    Why::FoldSecond => ", the second time round",
                };
                format!("{} {timezone}{round}", nominal.strftime("%Y-%m-%d %H:%M"))
            }
            Cause::Manual { .. } => "run by hand".to_owned(),
            Cause::Changed { pattern, .. } => format!("`{pattern}` changed"),
            Cause::After { schedule, run, .. } => format!("run {run} of `{schedule}` succeeded"),
            Cause::Webhook { name, .. } => format!("webhook `{name}` was called"),
        }
    }

    /// The id of its run, the same whoever asks and whenever: schedule, time, and a digest of what else tells fires
    /// apart. `schedule` is the identity of the schedule, `name` its name.
    pub fn run_id(&self, schedule: &str, name: &str) -> String {
        let (stamp, what) = match &self.cause {
            // A fire that is asked for again runs again.
            Cause::Time { nominal, timezone, instant, backfill, .. } => {
                (nominal.strftime("%Y%m%dT%H%M").to_string(), format!("{timezone}\0{instant}\0{backfill}"))
            }
            Cause::Manual { at } => (stamp(*at), format!("manual\0{at}")),
            Cause::Changed { pattern, at } => (stamp(*at), format!("changed\0{pattern}\0{at}")),
            Cause::After { run, at, .. } => (stamp(*at), format!("after\0{run}")),
            Cause::Webhook { name, call, at } => (stamp(*at), format!("webhook\0{name}\0{call}")),
        };
        let digest = Digest::of(format!("{schedule}\0{what}").as_bytes()).to_string();
        format!("{name}-{stamp}-{}", &digest[..6])
    }
}

fn stamp(at: Timestamp) -> String {
    at.strftime("%Y%m%dT%H%M%S").to_string()
}

/// Something that happened to a schedule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// When.
    pub at: Timestamp,
    /// What.
    pub happened: Happened,
}

/// What happened to a schedule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Happened {
    /// The file that was read had it, or had it otherwise than before.
    Adopted,
    /// The file that was read did not have it any more.
    Removed,
    /// A run was started for a fire.
    Started {
        /// The fire.
        fire: Fire,
        /// The run.
        run: String,
    },
    /// A run whose server had ended was gone on with.
    Resumed {
        /// The run.
        run: String,
    },
    /// A run was cancelled because of a later fire.
    Cancelled {
        /// The run.
        run: String,
    },
    /// A run ended.
    Ended {
        /// The fire that it was for.
        fire: Fire,
        /// The run.
        run: String,
        /// How: `succeeded`, `failed`, `cancelled`, `not started`.
        outcome: String,
        /// Why it could not be run, where it could not.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        problem: Option<String>,
    },
    /// Fires did not become runs.
    Skipped {
        /// The first of them.
        first: Fire,
        /// How many.
        count: u64,
        /// Why, in words.
        why: String,
    },
    /// Somebody paused it.
    Paused,
    /// Somebody resumed it.
    Continued,
    /// The clock went back by so much that fires would have had to wait for it.
    ClockSetBack {
        /// Up to when fires had been handled.
        from: Timestamp,
    },
}

impl Happened {
    /// For people.
    pub fn words(&self) -> String {
        match self {
            Self::Adopted => "read from its file".to_owned(),
            Self::Removed => "removed from its file".to_owned(),
            Self::Started { fire, run } => format!("started run {run}: {}", fire.words()),
            Self::Resumed { run } => format!("resumed run {run}"),
            Self::Cancelled { run } => format!("cancelled run {run}"),
            Self::Ended { run, outcome, problem, .. } => {
                let why = problem.as_ref().map(|p| format!(": {p}")).unwrap_or_default();
                format!("run {run} {outcome}{why}")
            }
            Self::Skipped { first, count, why } => {
                let since = if *count == 1 { "of" } else { "since" };
                format!("skipped {} {since} {}: {why}", counted(*count, "fire"), first.words())
            }
            Self::Paused => "paused".to_owned(),
            Self::Continued => "resumed".to_owned(),
            Self::ClockSetBack { from } => format!("the clock was set back from {from}"),
        }
    }
}

/// Why a fire is not simply at its time, for people; none where it is.
pub fn why_then(why: Why) -> Option<&'static str> {
    match why {
        Why::Exact => None,
        Why::GapEnd => Some("left out by the clocks, so when they have gone forward"),
        Why::FoldFirst => Some("the first time round"),
        Why::FoldSecond => Some("the second time round"),
    }
}
