//! Fires that are due after a pause.

use headstart_cron::{Catchup, Dst, Due, Spec, WhySkipped};
use jiff::{SignedDuration, Timestamp};

fn at(t: &str) -> Timestamp {
    format!("2025-06-{t}Z").parse().expect("an instant")
}

fn due(last: Option<&str>, now: &str, policy: Catchup, hours: i64, max: usize) -> Due {
    let nightly = Spec::parse("0 3 * * *", "UTC", Dst::Vixie).expect("good");
    nightly.due(last.map(at), at(now), policy, SignedDuration::from_hours(hours), max)
}

fn days(due: &Due) -> Vec<i8> {
    due.fires.iter().map(|f| f.nominal.day()).collect()
}

fn skipped(due: &Due) -> Vec<(WhySkipped, i8, u64)> {
    due.skipped.iter().map(|s| (s.why, s.first.nominal.day(), s.count)).collect()
}

#[test]
fn a_fire_on_time_is_due_whatever_the_policy() {
    for policy in [Catchup::None, Catchup::Last, Catchup::All] {
        let now = due(Some("09T03:00:00"), "10T03:00:07", policy, 0, 0);
        assert_eq!((days(&now), skipped(&now)), (vec![10], vec![]), "{policy:?}");
        let again = due(Some("10T03:00:00"), "10T03:00:14", policy, 0, 0);
        assert_eq!(again, Due::default(), "it fires once");
    }
}

#[test]
fn policies_after_five_days_away() {
    let away = |policy, hours, max| {
        let d = due(Some("05T03:00:00"), "10T12:00:00", policy, hours, max);
        (days(&d), skipped(&d))
    };
    use WhySkipped::{Max, Policy, Window};
    assert_eq!(away(Catchup::None, 240, 9), (vec![], vec![(Policy, 6, 5)]));
    assert_eq!(away(Catchup::Last, 240, 9), (vec![10], vec![(Policy, 6, 4)]));
    assert_eq!(away(Catchup::All, 240, 9), (vec![6, 7, 8, 9, 10], vec![]));
    assert_eq!(away(Catchup::All, 240, 2), (vec![9, 10], vec![(Max, 6, 3)]));
    assert_eq!(away(Catchup::All, 60, 9), (vec![8, 9, 10], vec![(Window, 6, 2)]));
    assert_eq!(away(Catchup::Last, 1, 9), (vec![], vec![(Window, 6, 5)]));
    // The edge of the window belongs to it.
    assert_eq!(away(Catchup::All, 57, 9), (vec![8, 9, 10], vec![(Window, 6, 2)]));
}

#[test]
fn nothing_of_the_past_is_due_for_a_new_schedule_or_when_clocks_go_backwards() {
    assert_eq!(due(None, "10T03:00:07", Catchup::All, 240, 9), Due::default());
    assert_eq!(due(Some("12T03:00:00"), "10T12:00:00", Catchup::All, 240, 9), Due::default());
}

#[test]
fn a_fire_on_time_makes_up_for_missed_ones_under_last() {
    let d = due(Some("07T03:00:00"), "10T03:00:30", Catchup::Last, 240, 9);
    assert_eq!((days(&d), skipped(&d)), (vec![10], vec![(WhySkipped::Policy, 8, 2)]));
    let d = due(Some("07T03:00:00"), "10T03:00:30", Catchup::All, 240, 9);
    assert_eq!((days(&d), skipped(&d)), (vec![8, 9, 10], vec![]));
}

#[test]
fn years_of_missed_minutes_are_bounded() {
    let spec = Spec::parse("* * * * *", "Europe/London", Dst::Vixie).expect("good");
    let (last, now) = ("2005-01-01T00:00:00Z".parse().expect("good"), at("10T12:00:30"));
    let d = spec.due(Some(last), now, Catchup::All, SignedDuration::from_hours(1), 3);
    assert_eq!(d.fires.len(), 4, "three missed and the one on time");
    let (old, recent) = (&d.skipped[0], &d.skipped[1]);
    assert_eq!((old.why, old.count, old.more), (WhySkipped::Window, 10_000, true));
    assert_eq!((recent.why, recent.count, recent.more), (WhySkipped::Max, 56, false));
}
