//! Matching in plain civil time, by the `cron` crate.
//!
//! The crate is given UTC as a stand-in for a time without zones, so that none of its own zone
//! handling is used; and sets of numbers in its own counting (seconds first, Sunday is 1).

use std::str::FromStr;

use chrono::{DateTime, Datelike, NaiveDate, Timelike, Utc};
use cron::Schedule;
use jiff::civil;

use crate::parse::{Field, Fields};

/// The civil times that an expression matches.
#[derive(Clone, Debug)]
pub(crate) struct Calendar {
    /// One, or two of which either may match.
    schedules: Vec<Schedule>,
}

impl Calendar {
    pub(crate) fn new(fields: &Fields) -> Self {
        // Where both are restricted, either may match (POSIX, Vixie); otherwise both must.
        let either = !fields.day.star && !fields.weekday.star;
        let all = |min: u8, max: u8| Field { values: (min..=max).collect(), star: true };
        let schedules = if either {
            let (any_day, any_weekday) = (all(1, 31), all(0, 6));
            vec![schedule(fields, &fields.day, &any_weekday), schedule(fields, &any_day, &fields.weekday)]
        } else {
            vec![schedule(fields, &fields.day, &fields.weekday)]
        };
        Self { schedules }
    }

    /// The first time that matches at or after `from`. `None` after the year 2100.
    pub(crate) fn at_or_after(&self, from: civil::DateTime) -> Option<civil::DateTime> {
        // The crate looks for times strictly after, in whole seconds.
        let whole = from.with().subsec_nanosecond(0).build().ok()?;
        let from =
            if whole == from { whole } else { whole.checked_add(jiff::Span::new().seconds(1)).ok()? };
        let before = to_chrono(from)? - chrono::TimeDelta::seconds(1);
        self.schedules.iter().filter_map(|s| s.after(&before).next()).min().and_then(from_chrono)
    }
}

fn schedule(fields: &Fields, day: &Field, weekday: &Field) -> Schedule {
    let list = |values: &[u8], add: u8| {
        let numbers: Vec<String> = values.iter().map(|v| (v + add).to_string()).collect();
        numbers.join(",")
    };
    let (minute, hour) = (list(&fields.minute.values, 0), list(&fields.hour.values, 0));
    let (month, day) = (list(&fields.month.values, 0), list(&day.values, 0));
    // A complete set is written as `*`, which the crate need not look up.
    let weekday = if weekday.values.len() == 7 { "*".to_owned() } else { list(&weekday.values, 1) };
    let text = format!("0 {minute} {hour} {day} {month} {weekday}");
    Schedule::from_str(&text).expect("lists of numbers in range are expressions of the crate")
}

fn to_chrono(t: civil::DateTime) -> Option<DateTime<Utc>> {
    let date = NaiveDate::from_ymd_opt(t.year().into(), positive(t.month())?, positive(t.day())?)?;
    let time = date.and_hms_opt(positive(t.hour())?, positive(t.minute())?, positive(t.second())?)?;
    Some(time.and_utc())
}

fn from_chrono(t: DateTime<Utc>) -> Option<civil::DateTime> {
    let small = |n: u32| i8::try_from(n).ok();
    let (month, day) = (small(t.month())?, small(t.day())?);
    let (hour, minute, second) = (small(t.hour())?, small(t.minute())?, small(t.second())?);
    civil::DateTime::new(i16::try_from(t.year()).ok()?, month, day, hour, minute, second, 0).ok()
}

fn positive(n: i8) -> Option<u32> {
    u32::try_from(n).ok()
}
