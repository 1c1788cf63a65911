//! Fires against a clock that is watched minute by minute.

use headstart_cron::{Dst, Spec};
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;

/// An expression as sets, written down independently of how the crate reads it.
#[derive(Clone, Debug)]
struct Sets {
    text: String,
    minutes: Vec<i8>,
    hours: Vec<i8>,
    days: Option<Vec<i8>>,
    months: Option<Vec<i8>>,
    weekdays: Option<Vec<i8>>,
}

impl Sets {
    fn matches(&self, t: DateTime) -> bool {
        let within = |set: &Option<Vec<i8>>, v| set.as_ref().is_none_or(|s| s.contains(&v));
        let day = within(&self.days, t.day());
        let weekday = within(&self.weekdays, t.weekday().to_sunday_zero_offset());
        let date = match (&self.days, &self.weekdays) {
            (Some(_), Some(_)) => day || weekday,
            _ => day && weekday,
        };
        date && within(&self.months, t.month())
            && self.minutes.contains(&t.minute())
            && self.hours.contains(&t.hour())
    }
}

fn list(values: &[i8]) -> String {
    values.iter().map(i8::to_string).collect::<Vec<_>>().join(",")
}

/// A sorted choice of some of `from..=to`.
fn some_of(from: i8, to: i8, most: usize) -> impl Strategy<Value = Vec<i8>> {
    prop::sample::subsequence((from..=to).collect::<Vec<_>>(), 1..=most)
}

fn minutes() -> impl Strategy<Value = (String, Vec<i8>)> {
    prop_oneof![
        some_of(0, 59, 4).prop_map(|v| (list(&v), v)),
        (1i8..=30).prop_map(|n| (format!("*/{n}"), (0..60).step_by(n as usize).collect())),
        (0i8..50).prop_map(|a| (format!("{a}-{}/3", a + 9), (a..=a + 9).step_by(3).collect())),
    ]
}

fn hours() -> impl Strategy<Value = (String, Vec<i8>)> {
    prop_oneof![
        some_of(0, 23, 4).prop_map(|v| (list(&v), v)),
        some_of(0, 4, 3).prop_map(|v| (list(&v), v)),
        Just(("*".to_owned(), (0..24).collect())),
    ]
}

/// Weighted towards what is not restricted, so that something fires.
fn maybe(values: impl Strategy<Value = Vec<i8>>) -> impl Strategy<Value = Option<Vec<i8>>> {
    prop::option::weighted(0.4, values)
}

fn sets() -> impl Strategy<Value = Sets> {
    let dates = (maybe(some_of(1, 28, 5)), maybe(some_of(1, 12, 6)), maybe(some_of(0, 6, 3)));
    (minutes(), hours(), dates).prop_map(|((m, minutes), (h, hours), (days, months, weekdays))| {
        let field = |set: &Option<Vec<i8>>| set.as_ref().map_or("*".to_owned(), |v| list(v));
        let text = format!("{m} {h} {} {} {}", field(&days), field(&months), field(&weekdays));
        Sets { text, minutes, hours, days, months, weekdays }
    })
}

const MINUTE: SignedDuration = SignedDuration::from_secs(60);

/// Watches the clock of a zone minute by minute and fires as the rule says.
fn watch(sets: &Sets, zone: &TimeZone, dst: Dst, after: Timestamp, until: Timestamp) -> Vec<Timestamp> {
    let clock = |t| zone.to_datetime(t);
    let by_elapsed_time = dst == Dst::Vixie && sets.hours.len() == 24;
    let mut fires = Vec::new();
    // Long enough before that the latest time on the clock is known.
    let mut t = after - SignedDuration::from_hours(50);
    let mut latest = clock(t);
    while t <= until {
        let now = clock(t);
        let repeated = now < latest;
        let mut fire = sets.matches(now) && (!repeated || by_elapsed_time || dst == Dst::Both);
        let mut left_out = clock(t - MINUTE) + MINUTE;
        while left_out < now {
            fire |= sets.matches(left_out) && !by_elapsed_time && dst != Dst::Skip;
            left_out += MINUTE;
        }
        if fire && t > after {
            fires.push(t);
        }
        latest = latest.max(now + MINUTE);
        t += MINUTE;
    }
    fires
}

fn compare(sets: &Sets, zone: &str, dst: Dst, after: Timestamp, days: i64) -> Result<(), TestCaseError> {
    let spec = Spec::parse(&sets.text, zone, dst).expect(&sets.text);
    let until = after + SignedDuration::from_hours(24 * days);
    let found: Vec<Timestamp> = spec.fires(after).map(|f| f.instant).take_while(|t| *t <= until).collect();
    prop_assert!(found.is_sorted_by(|a, b| a < b), "strictly increasing: {found:?}");
    let watched = watch(sets, &TimeZone::get(zone).expect("a zone"), dst, after, until);
    prop_assert_eq!(found, watched, "{} in {} from {}", sets.text, zone, after);
    Ok(())
}

/// A little before changes of clocks, and one quiet day.
const MOMENTS: [(&str, &str); 9] = [
    ("America/New_York", "2025-03-08T12:00:00Z"),
    ("America/New_York", "2025-11-01T12:00:00Z"),
    ("Europe/London", "2026-10-24T20:00:00Z"),
    ("Australia/Lord_Howe", "2025-04-05T03:00:00Z"),
    ("Australia/Lord_Howe", "2025-10-04T03:00:00Z"),
    ("America/Santiago", "2024-09-07T12:00:00Z"),
    ("Pacific/Apia", "2011-12-29T00:00:00Z"),
    ("Africa/Casablanca", "2025-02-22T12:00:00Z"),
    ("Asia/Kolkata", "2025-06-30T12:00:00Z"),
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(headstart_testkit::cases(250, 25_000)))]

    #[test]
    fn as_the_clock_shows_around_changes(
        sets in sets(),
        (zone, after) in prop::sample::select(MOMENTS.to_vec()),
        dst in prop::sample::select(vec![Dst::Vixie, Dst::Skip, Dst::Both]),
        seconds in 0i64..86_400,
    ) {
        let after: Timestamp = after.parse().expect("an instant");
        compare(&sets, zone, dst, after + SignedDuration::from_secs(seconds - seconds % 60), 3)?;
    }

    #[test]
    fn as_the_clock_shows_anywhere(sets in sets(), minute in 0i64..30_000_000) {
        let after = Timestamp::from_second(minute * 60).expect("before 2030");
        compare(&sets, "UTC", Dst::Vixie, after, 20)?;
    }

    #[test]
    fn the_next_fire_does_not_depend_on_where_in_between_one_asks(
        sets in sets(),
        (zone, after) in prop::sample::select(MOMENTS.to_vec()),
        part in 0.0..1.0f64,
    ) {
        let spec = Spec::parse(&sets.text, zone, Dst::Vixie).expect(&sets.text);
        let mut fires = spec.fires(after.parse().expect("an instant"));
        if let (Some(a), Some(b)) = (fires.next(), fires.next()) {
            let gap = b.instant.duration_since(a.instant).as_secs_f64();
            let between = a.instant + SignedDuration::from_secs_f64(gap * part);
            prop_assert_eq!(spec.next(between), Some(b));
        }
    }
}
