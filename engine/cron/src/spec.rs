//! From civil times to instants.

use std::fmt;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, civil};
use serde::{Deserialize, Serialize};

use crate::calendar::Calendar;
use crate::parse::{self, CronError};
use crate::zone::time_zone;

/// What happens to times that a change of clocks leaves out (a gap) or repeats (a fold).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Dst {
    /// Nothing is lost and nothing is done twice. A time in a gap fires when the gap ends, all of
    /// one gap together; a time in a fold fires the first time round. Schedules that fire in every
    /// hour go by elapsed time instead, as people expect of "every ten minutes": they have nothing
    /// to make up after a gap, and fire in both rounds of a fold. After Vixie's cron, which tells
    /// the two apart by a `*` rather than by the hours that match.
    #[default]
    Vixie,
    /// A time in a gap does not fire; a time in a fold fires the first time round.
    Skip,
    /// A time in a gap fires when the gap ends, all of one gap together; a time in a fold fires
    /// both times round.
    Both,
}

/// How a fire came by its instant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Why {
    /// Its time was on the clock once.
    Exact,
    /// Its time was left out; this is when the gap ended.
    GapEnd,
    /// Its time was on the clock twice; this is the first.
    FoldFirst,
    /// Its time was on the clock twice; this is the second.
    FoldSecond,
}

/// One fire of a schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fire {
    /// The time that the expression matched, in the schedule's zone.
    pub nominal: civil::DateTime,
    /// When that is.
    pub instant: Timestamp,
    /// How the one became the other.
    pub why: Why,
}

impl Fire {
    /// Its identity within a schedule: the nominal time, and `/2` for the second time round in a
    /// fold. Two engines that agree on the time zone's rules agree on it.
    pub fn id(&self) -> String {
        match self.why {
            Why::FoldSecond => format!("{}/2", self.nominal),
            _ => self.nominal.to_string(),
        }
    }
}

/// A cron expression: five fields, which [`Expression::parse`] has accepted.
///
/// The only parser of the project: the checker, editors and the scheduler accept the same texts.
#[derive(Clone, Debug)]
pub struct Expression {
    text: String,
    calendar: Calendar,
    every_hour: bool,
}

impl Expression {
    /// Parses a five-field cron expression.
    ///
    /// # Errors
    /// [`CronError::Expression`] if the expression is wrong or can never match, with the place in it.
    pub fn parse(text: &str) -> Result<Self, CronError> {
        let fields = parse::parse(text)?;
        let every_hour = fields.hour.values.len() == 24;
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        Ok(Self { text, calendar: Calendar::new(&fields), every_hour })
    }
}

/// A cron expression in a time zone.
#[derive(Clone)]
pub struct Spec {
    expression: Expression,
    zone: TimeZone,
    dst: Dst,
}

impl fmt::Debug for Spec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Spec({self} {:?})", self.dst)
    }
}

/// `EXPRESSION ZONE`.
impl fmt::Display for Spec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.expression.text, self.zone.iana_name().unwrap_or("UTC"))
    }
}

/// A stretch of time in which the offset from UTC stays the same.
struct Stretch {
    /// The civil time when it begins; absent where it always was.
    start: Option<civil::DateTime>,
    /// The civil time that the one before would have had then.
    previous_end: Option<civil::DateTime>,
    /// When it begins.
    begins: Option<Timestamp>,
    /// When it ends.
    ends: Option<Timestamp>,
    offset: jiff::tz::Offset,
}

impl Spec {
    /// Parses a five-field cron expression, to be understood in the IANA time zone `tz`.
    ///
    /// # Errors
    /// If the expression is wrong or can never match (with the place in it), or there is no such
    /// zone.
    pub fn parse(cron: &str, tz: &str, dst: Dst) -> Result<Self, CronError> {
        let expression = Expression::parse(cron)?;
        Ok(Self { expression, zone: time_zone(tz)?, dst })
    }

    /// The first fire after `after`. `None` after the year 2100.
    pub fn next(&self, after: Timestamp) -> Option<Fire> {
        let mut stretch = self.stretch_at(after);
        loop {
            let fire = self.first_in(&stretch, after);
            if fire.is_some() {
                return fire;
            }
            let begins = stretch.ends?;
            // Nothing left at all, in any stretch?
            self.expression.calendar.at_or_after(
                begins.checked_sub(DAY).map_or(civil::DateTime::MIN, |t| stretch.offset.to_datetime(t)),
            )?;
            stretch = self.stretch_at(begins);
        }
    }

    /// All fires after `after`, in order.
    pub fn fires(&self, after: Timestamp) -> impl Iterator<Item = Fire> + '_ {
        std::iter::successors(self.next(after), |fire| self.next(fire.instant))
    }

    /// The zone.
    pub fn zone(&self) -> &TimeZone {
        &self.zone
    }

    fn stretch_at(&self, t: Timestamp) -> Stretch {
        let offset = self.zone.to_offset(t);
        let instant = SignedDuration::from_nanos(1);
        let begins = t
            .checked_add(instant)
            .ok()
            .and_then(|after| self.zone.preceding(after).next())
            .map(|transition| transition.timestamp());
        let previous = begins.and_then(|b| b.checked_sub(instant).ok()).map(|b| self.zone.to_offset(b));
        Stretch {
            start: begins.map(|b| offset.to_datetime(b)),
            previous_end: begins.zip(previous).map(|(b, previous)| previous.to_datetime(b)),
            begins,
            ends: self.zone.following(t).next().map(|transition| transition.timestamp()),
            offset,
        }
    }

    /// The first fire of a stretch that comes after `after`.
    fn first_in(&self, s: &Stretch, after: Timestamp) -> Option<Fire> {
        let by_elapsed_time = self.dst == Dst::Vixie && self.expression.every_hour;
        let fresh = s.begins.is_some_and(|b| b > after);
        let mut from = match s.start {
            Some(start) if fresh => start,
            // Strictly after.
            _ => s.offset.to_datetime(after.checked_add(SignedDuration::from_nanos(1)).ok()?),
        };
        let both_rounds = by_elapsed_time || self.dst == Dst::Both;
        if !both_rounds && let Some(end) = s.previous_end {
            from = from.max(end);
        }
        let regular = self.expression.calendar.at_or_after(from).and_then(|nominal| {
            let instant = s.offset.to_timestamp(nominal).ok()?;
            let inside = s.ends.is_none_or(|end| instant < end);
            inside.then(|| Fire { nominal, instant, why: self.why(s, nominal) })
        });
        // What a gap left out fires as it ends, unless something fires then anyway.
        let makes_up = self.dst != Dst::Skip && !by_elapsed_time;
        if makes_up
            && fresh
            && let (Some(begins), Some(start), Some(left_out)) = (s.begins, s.start, s.previous_end)
            && regular.is_none_or(|fire| fire.instant > begins)
            && let Some(nominal) = self.expression.calendar.at_or_after(left_out)
            && nominal < start
        {
            return Some(Fire { nominal, instant: begins, why: Why::GapEnd });
        }
        regular
    }

    fn why(&self, s: &Stretch, nominal: civil::DateTime) -> Why {
        if s.previous_end.is_some_and(|end| nominal < end) {
            return Why::FoldSecond;
        }
        let repeats = s.ends.is_some_and(|end| nominal >= self.zone.to_offset(end).to_datetime(end));
        if repeats { Why::FoldFirst } else { Why::Exact }
    }
}

/// More than any gap or fold.
const DAY: SignedDuration = SignedDuration::from_hours(48);
