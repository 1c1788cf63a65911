//! What `check` and editors accept as a schedule is exactly what `serve` accepts.

use headstart_cron::{Dst, Spec};
use headstart_dsl::{Code, Diagnostic, MemoryLoader, analyze, check};
use proptest::prelude::*;

/// What the checker reports of a schedule. An editor must report the same.
fn diagnostics(cron: &str, zone: &str) -> Vec<Diagnostic> {
    let quoted = |text: &str| format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""));
    let text = format!(
        "model base = local(\"m\")\nschedule s {{ run: base, cron: {}, timezone: {} }}\n",
        quoted(cron),
        quoted(zone)
    );
    let files = MemoryLoader::new().with("p.pllm", &text);
    let checked = check("p.pllm", &files, &Default::default());
    let (edited, _) = analyze("p.pllm", &files, &Default::default());
    assert_eq!(checked.diagnostics, edited.diagnostics, "{text}");
    assert_eq!(checked.plan.is_none(), checked.has_errors(), "{text}");
    for label in checked.diagnostics.iter().flat_map(|d| &d.labels) {
        assert!(label.span.start < label.span.end, "an empty place: {label:?} in {text}");
        assert!(text.get(label.span.range()).is_some(), "a place outside the text: {label:?}");
    }
    checked.diagnostics
}

/// Whether `check` and `serve` agree; gives the answer.
fn accepted(cron: &str, zone: &str) -> bool {
    let found = diagnostics(cron, zone);
    let served = Spec::parse(cron, zone, Dst::Vixie);
    assert_eq!(found.is_empty(), served.is_ok(), "`{cron}` in `{zone}`: {found:?} and {served:?}");
    if let Ok(spec) = served {
        // What is accepted can be run; most of it fires again before the calendar ends.
        let _ = spec.next("2026-01-01T00:00:00Z".parse().expect("a time"));
    }
    found.is_empty()
}

/// One part of a list in a field, often nearly right.
fn part() -> impl Strategy<Value = String> {
    let number = prop_oneof![
        4 => (0u32..70).prop_map(|n| n.to_string()),
        1 => Just("007".to_owned()),
        1 => Just("4294967297".to_owned()),
        1 => Just("+5".to_owned()),
        1 => Just("-1".to_owned()),
    ];
    let name = prop::sample::select(vec!["sun", "MON", "sat", "jan", "Dec", "foo", "L", "?", "5L", "", "½"]);
    let base = prop_oneof![
        3 => Just("*".to_owned()),
        4 => number.clone(),
        1 => name.prop_map(str::to_owned),
        3 => (number.clone(), number.clone()).prop_map(|(a, b)| format!("{a}-{b}")),
        1 => Just("fri-sun".to_owned()),
    ];
    (base, prop::option::weighted(0.4, number)).prop_map(|(base, step)| match step {
        Some(step) => format!("{base}/{step}"),
        None => base,
    })
}

fn field() -> impl Strategy<Value = String> {
    prop_oneof![
        2 => Just("*".to_owned()),
        4 => part(),
        1 => prop::collection::vec(part(), 2..4).prop_map(|all| all.join(",")),
    ]
}

/// Five fields that are right more often than not.
fn mostly_right() -> impl Strategy<Value = String> {
    let within = |min: u32, max: u32| {
        let last = max;
        prop_oneof![
            3 => Just("*".to_owned()),
            4 => (min..=max).prop_map(|n| n.to_string()),
            2 => (1..=max + 1).prop_map(|n| format!("*/{n}")),
            1 => (min..=max, min..=max, 1..=max).prop_map(|(a, b, n)| format!("{a}-{b}/{n}")),
            1 => Just(format!("{last}")),
        ]
    };
    (within(0, 59), within(0, 23), within(1, 31), within(1, 12), within(0, 7))
        .prop_map(|(a, b, c, d, e)| format!("{a} {b} {c} {d} {e}"))
}

proptest! {
    #[test]
    fn random_fields_are_judged_alike(fields in prop::collection::vec(field(), 4..7)) {
        accepted(&fields.join(" "), "UTC");
    }

    #[test]
    fn plausible_expressions_are_judged_alike(cron in mostly_right()) {
        accepted(&cron, "Europe/London");
    }

    #[test]
    fn any_text_is_judged_alike(cron in "[ -~½\\t]{0,24}", zone in "[ -~½]{0,16}") {
        accepted(&cron, "UTC");
        accepted("0 3 * * *", &zone);
    }
}

#[test]
fn steps_that_would_match_once_are_refused_as_serve_refuses_them() {
    let texts = [
        "*/60 * * * *",
        "0 */24 * * *",
        "*/61 * * * *",
        "0 0 * * */8",
        "0 0 * * */7",
        "1-5/9 * * * *",
        "0 0 */32 * *",
        "0 0 * */12 *",
        "+5 * * * *",
        "0 +3 * * *",
        "*/+5 * * * *",
    ];
    for text in texts {
        assert!(!accepted(text, "UTC"), "{text}");
        assert_eq!(diagnostics(text, "UTC")[0].code, Code::E0601, "{text}");
    }
}

#[test]
fn what_people_write_is_accepted() {
    for text in
        ["0 3 * * *", "*/59 * * * *", "0 */23 * * *", "0 22 * * fri-sun", "0 0 1-7 jan,Feb 1-5", "0 0 31 2 1"]
    {
        assert!(accepted(text, "America/New_York"), "{text}");
    }
}

#[test]
fn zones_are_judged_alike() {
    for zone in jiff::tz::db().available() {
        assert!(accepted("0 3 * * *", zone.as_str()), "{zone}");
    }
    for zone in ["London", "", " ", "europe/london", "UTC+1", "GMT+3", "Etc/GMT+3", "../UTC", "Local"] {
        accepted("0 3 * * *", zone);
    }
}
