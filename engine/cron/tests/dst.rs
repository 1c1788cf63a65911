//! What changes of clocks do, in zones that do something peculiar.

use headstart_cron::{Dst, Spec};

/// The next `n` fires after an instant: nominal time, instant, why.
fn fires(cron: &str, zone: &str, dst: Dst, after: &str, n: usize) -> Vec<String> {
    let spec = Spec::parse(cron, zone, dst).expect("a good schedule");
    let fires = spec.fires(after.parse().expect("an instant")).take(n);
    fires
        .map(|f| {
            let (nominal, instant) = (f.nominal.strftime("%m-%d %H:%M"), f.instant.strftime("%m-%dT%H:%MZ"));
            format!("{nominal} {instant} {:?}", f.why)
        })
        .collect()
}

const NEW_YORK: &str = "America/New_York";

#[test]
fn new_york_springs_forward() {
    let night = |cron, dst, n| fires(cron, NEW_YORK, dst, "2025-03-08T12:00:00Z", n);
    let on = ["03-09 02:30 03-09T07:00Z GapEnd", "03-10 02:30 03-10T06:30Z Exact"];
    assert_eq!(night("30 2 * * *", Dst::Vixie, 2), on);
    assert_eq!(night("30 2 * * *", Dst::Both, 2), on);
    assert_eq!(night("30 2 * * *", Dst::Skip, 1), ["03-10 02:30 03-10T06:30Z Exact"]);
    // A whole list in the gap fires once; a time at its end fires as itself.
    let list = ["03-09 02:15 03-09T07:00Z GapEnd", "03-10 02:15 03-10T06:15Z Exact"];
    assert_eq!(night("15,30 2 * * *", Dst::Vixie, 2), list);
    let hourly = ["03-09 03:00 03-09T07:00Z Exact", "03-10 02:00 03-10T06:00Z Exact"];
    assert_eq!(night("0 2,3 * * *", Dst::Vixie, 2), hourly);
    // Every half hour of elapsed time, nothing to make up.
    let steady = fires("*/30 * * * *", NEW_YORK, Dst::Vixie, "2025-03-09T06:00:00Z", 3);
    assert_eq!(
        steady,
        [
            "03-09 01:30 03-09T06:30Z Exact",
            "03-09 03:00 03-09T07:00Z Exact",
            "03-09 03:30 03-09T07:30Z Exact"
        ]
    );
}

#[test]
fn new_york_falls_back() {
    let night = |cron, dst, n| fires(cron, NEW_YORK, dst, "2025-11-02T04:59:00Z", n);
    let once = ["11-02 01:30 11-02T05:30Z FoldFirst", "11-03 01:30 11-03T06:30Z Exact"];
    assert_eq!(night("30 1 * * *", Dst::Vixie, 2), once);
    assert_eq!(night("30 1 * * *", Dst::Skip, 2), once);
    let twice = ["11-02 01:30 11-02T05:30Z FoldFirst", "11-02 01:30 11-02T06:30Z FoldSecond"];
    assert_eq!(night("30 1 * * *", Dst::Both, 2), twice);
    let ordered = [
        "11-02 01:00 11-02T05:00Z FoldFirst",
        "11-02 01:30 11-02T05:30Z FoldFirst",
        "11-02 01:00 11-02T06:00Z FoldSecond",
        "11-02 01:30 11-02T06:30Z FoldSecond",
        "11-02 02:00 11-02T07:00Z Exact",
    ];
    assert_eq!(night("*/30 * * * *", Dst::Vixie, 5), ordered);
    let skip = [ordered[0], ordered[1], ordered[4]];
    assert_eq!(night("*/30 * * * *", Dst::Skip, 3), skip);
}

#[test]
fn the_second_time_round_has_an_identity_of_its_own() {
    let spec = Spec::parse("30 1 * * *", NEW_YORK, Dst::Both).expect("good");
    let ids: Vec<String> =
        spec.fires("2025-11-02T04:59:00Z".parse().expect("good")).take(2).map(|f| f.id()).collect();
    assert_eq!(ids, ["2025-11-02T01:30:00", "2025-11-02T01:30:00/2"]);
}

#[test]
fn lord_howe_moves_by_half_an_hour() {
    // Autumn 2025: at 2:00 back to 1:30, from +11:00 to +10:30.
    let ordered = fires("*/15 * * * *", "Australia/Lord_Howe", Dst::Vixie, "2025-04-05T14:15:00Z", 5);
    assert_eq!(
        ordered,
        [
            "04-06 01:30 04-05T14:30Z FoldFirst",
            "04-06 01:45 04-05T14:45Z FoldFirst",
            "04-06 01:30 04-05T15:00Z FoldSecond",
            "04-06 01:45 04-05T15:15Z FoldSecond",
            "04-06 02:00 04-05T15:30Z Exact",
        ]
    );
    let once = fires("45 1 * * *", "Australia/Lord_Howe", Dst::Vixie, "2025-04-05T14:00:00Z", 2);
    assert_eq!(once, ["04-06 01:45 04-05T14:45Z FoldFirst", "04-07 01:45 04-06T15:15Z Exact"]);
    // Spring 2025: at 2:00 on to 2:30.
    let gap = fires("15 2 * * *", "Australia/Lord_Howe", Dst::Vixie, "2025-10-04T12:00:00Z", 1);
    assert_eq!(gap, ["10-05 02:15 10-04T15:30Z GapEnd"]);
}

#[test]
fn santiago_leaves_out_midnight() {
    let nights = fires("0 0 * * *", "America/Santiago", Dst::Vixie, "2024-09-07T12:00:00Z", 2);
    assert_eq!(nights, ["09-08 00:00 09-08T04:00Z GapEnd", "09-09 00:00 09-09T03:00Z Exact"]);
}

#[test]
fn apia_leaves_out_a_day() {
    // 2011-12-30 did not happen there.
    let days = |cron, dst| fires(cron, "Pacific/Apia", dst, "2011-12-29T12:00:00Z", 2);
    assert_eq!(
        days("0 12 * * *", Dst::Vixie),
        ["12-29 12:00 12-29T22:00Z Exact", "12-30 12:00 12-30T10:00Z GapEnd"]
    );
    assert_eq!(days("0 0 30 12 *", Dst::Vixie)[0], "12-30 00:00 12-30T10:00Z GapEnd");
    assert_eq!(days("0 0 30 12 *", Dst::Skip)[0], "12-30 00:00 12-29T10:00Z Exact", "a year later");
    // Midnight after it is on the clock, so nothing is made up.
    assert_eq!(days("0 0 * * *", Dst::Vixie)[0], "12-31 00:00 12-30T10:00Z Exact");
}
