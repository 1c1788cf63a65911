//! Which days and times match; and what is refused, with the place of the error.

use headstart_cron::{CronError, Dst, Spec};

fn days(cron: &str, after: &str, n: usize) -> Vec<String> {
    let spec = Spec::parse(cron, "UTC", Dst::Vixie).expect("a good schedule");
    let after = format!("{after}T00:00:00Z").parse().expect("an instant");
    spec.fires(after).take(n).map(|f| f.nominal.strftime("%Y-%m-%d %a").to_string()).collect()
}

#[test]
fn day_of_month_or_weekday() {
    // Both restricted: either matches.
    assert_eq!(
        days("0 9 13 * fri", "2025-06-01", 4),
        ["2025-06-06 Fri", "2025-06-13 Fri", "2025-06-20 Fri", "2025-06-27 Fri"]
    );
    assert_eq!(days("0 9 13 * 5", "2025-07-05", 3), ["2025-07-11 Fri", "2025-07-13 Sun", "2025-07-18 Fri"]);
    // One of them begins with a star: both must match.
    assert_eq!(days("0 9 */2 * 1", "2025-06-01", 3), ["2025-06-09 Mon", "2025-06-23 Mon", "2025-07-07 Mon"]);
    assert_eq!(days("0 9 * * 1", "2025-06-01", 2), ["2025-06-02 Mon", "2025-06-09 Mon"]);
    assert_eq!(days("0 9 1 * *", "2025-06-01", 2), ["2025-06-01 Sun", "2025-07-01 Tue"]);
    // A day that no such month has is fine beside a weekday.
    assert_eq!(days("0 9 31 2 mon", "2025-02-01", 1), ["2025-02-03 Mon"]);
}

#[test]
fn weekdays_as_in_posix() {
    for sunday in ["0", "7", "sun", "SUN", "0,7", "7-7"] {
        assert_eq!(days(&format!("0 9 * * {sunday}"), "2025-06-02", 2), ["2025-06-08 Sun", "2025-06-15 Sun"]);
    }
    assert_eq!(
        days("0 9 * * fri-sun", "2025-06-02", 4),
        ["2025-06-06 Fri", "2025-06-07 Sat", "2025-06-08 Sun", "2025-06-13 Fri"]
    );
    assert_eq!(days("0 9 * * 5-7", "2025-06-02", 4), days("0 9 * * fri-sun", "2025-06-02", 4));
    assert_eq!(
        days("0 9 * * 1-5/2", "2025-06-01", 3),
        ["2025-06-02 Mon", "2025-06-04 Wed", "2025-06-06 Fri"]
    );
}

#[test]
fn leap_years() {
    assert_eq!(days("0 0 29 2 *", "2025-01-01", 2), ["2028-02-29 Tue", "2032-02-29 Sun"]);
    // 2100 is none, and the calendar ends there.
    assert_eq!(days("0 0 29 feb *", "2096-03-01", 1), Vec::<String>::new());
    assert_eq!(days("0 0 31 * *", "2025-02-01", 3), ["2025-03-31 Mon", "2025-05-31 Sat", "2025-07-31 Thu"]);
}

#[test]
fn says_what_is_wrong_and_where() {
    let cases = [
        ("60 * * * *", 0..2, "60 is not a minute", "0 to 59"),
        ("0 24 * * *", 2..4, "24 is not an hour", "0 to 23"),
        ("0 0 0 * *", 4..5, "0 is not a day of the month", "1 to 31"),
        ("0 0 * 13 *", 6..8, "13 is not a month", "jan to dec"),
        ("0 0 * * 8", 8..9, "8 is not a weekday", "0 and 7 are Sunday"),
        ("0 0 * * moon", 8..12, "`moon` is not a weekday", "sun to sat"),
        ("0 0 L * *", 4..5, "`L` is not a day", "a field holds"),
        ("0  0 ? * *", 5..6, "`?` is not a day", "a field holds"),
        ("0 0 30 2 *", 4..8, "February has no day 30", "never fire"),
        ("0 0 31 4,6 *", 4..10, "none of these months has a day 31", "never fire"),
        ("0 0 * * fri-mon", 8..15, "ends before it begins", "`fri-sat,sun-mon`"),
        ("30-10 * * * *", 0..5, "ends before it begins", "`30-59,0-10`"),
        ("*/0 * * * *", 2..3, "a step is a whole number", "fifteenth"),
        ("*/90 * * * *", 2..4, "a step of 90 goes beyond", "write `0`"),
        ("5/15 * * * *", 0..4, "a step needs a range", "`5-59/15`"),
        ("1,,2 * * * *", 1..2, "beside this comma", "0 to 59"),
        ("1, * * * *", 1..2, "beside this comma", "0 to 59"),
        ("1- * * * *", 2..2, "expected a minute", "0 to 59"),
        ("0 0 12 * * ?", 0..12, "found 6", "five fields"),
        (" 0 0 * * ", 1..8, "found 4", "five fields"),
        ("", 0..0, "empty", "five fields"),
        ("@daily", 0..6, "`@daily` is not", "write `0 0 * * *`"),
        ("0 0 * * ½", 8..10, "`½` is not a weekday", "sun to sat"),
        ("999999999999 * * * *", 0..12, "is not a minute", "0 to 59"),
    ];
    for (cron, range, why, help) in cases {
        let error = Spec::parse(cron, "UTC", Dst::Vixie).expect_err(cron);
        assert_eq!(error.range(), Some(range), "{cron}: {error}");
        assert!(error.to_string().contains(why), "{cron}: {error}");
        assert!(error.help().contains(help), "{cron}: {}", error.help());
    }
}

#[test]
fn unknown_zones_get_a_suggestion() {
    let error = Spec::parse("0 0 * * *", "Europe/Lodnon", Dst::Vixie).expect_err("no such zone");
    assert_eq!(
        error,
        CronError::Zone { name: "Europe/Lodnon".to_owned(), meant: Some("Europe/London".to_owned()) }
    );
}
