//! The terminal's text, word for word, and the structure of the page.

mod common;

use common::{owner, sample};
use headstart_protocol::Type;
use headstart_report::{Output, OutputView, RunReport, html, owner_html, terminal};
use serde_json::json;

#[test]
fn the_terminal_at_100_columns() {
    insta::assert_snapshot!(terminal(&sample(), 100, false));
}

#[test]
fn the_terminal_at_80_columns_keeps_to_them() {
    let text = terminal(&sample(), 80, false);
    let wide: Vec<_> = text.lines().filter(|l| l.chars().count() > 80).collect();
    assert!(wide.is_empty(), "{wide:#?}");
    insta::assert_snapshot!(text);
}

#[test]
fn colour_only_adds_codes() {
    let plain = terminal(&sample(), 100, false);
    let mut coloured = terminal(&sample(), 100, true);
    assert!(coloured.contains("\x1b[1;32mconcise-friendly\x1b[0m"));
    for code in ["\x1b[0m", "\x1b[1;32m", "\x1b[1m", "\x1b[2m", "\x1b[33m", "\x1b[36m"] {
        coloured = coloured.replace(code, "");
    }
    let trimmed = |t: &str| t.lines().map(|l| l.trim_end().to_owned()).collect::<Vec<_>>();
    assert_eq!(trimmed(&plain), trimmed(&coloured));
}

/// Opening and closing tags of a page match; void elements have none to close.
fn well_formed(page: &str) -> Result<(), String> {
    let mut open: Vec<&str> = Vec::new();
    let mut rest = page;
    while let Some(at) = rest.find('<') {
        rest = &rest[at + 1..];
        let end = rest.find('>').ok_or("a tag does not end")?;
        let tag = &rest[..end];
        let name = tag.trim_start_matches('/').split([' ', '\n']).next().unwrap_or_default();
        match name {
            "!DOCTYPE" | "meta" | "wbr" => {}
            _ if tag.starts_with('/') => match open.pop() {
                Some(last) if last == name => {}
                other => return Err(format!("</{name}> closes {other:?}")),
            },
            _ => open.push(name),
        }
        rest = &rest[end + 1..];
    }
    if open.is_empty() { Ok(()) } else { Err(format!("left open: {open:?}")) }
}

#[test]
fn the_page_is_whole_and_loads_nothing() {
    let page = html(&sample());
    assert!(page.starts_with("<!DOCTYPE html><html lang=\"en\">"));
    well_formed(&page).expect("well formed");
    for forbidden in [
        "<script", "<link", "<img", "<iframe", "http://", "https://", "@import", "url(", " src=", "NaN",
        ">inf<", "inf\"",
    ] {
        assert!(!page.contains(forbidden), "{forbidden}");
    }
    for section in ["choice", "head-start", "before-after", "catalog", "time", "details"] {
        assert!(page.contains(&format!("id=\"{section}\"")), "{section}");
    }
    assert!(page.contains("prefers-color-scheme: dark") && page.matches("role=\"img\"").count() == 7);
}

#[test]
fn the_owners_page_is_whole_and_shows_what_only_the_owner_may_see() {
    let page = owner_html(&owner());
    well_formed(&page).expect("well formed");
    assert!(
        !page.contains("<script") && !page.contains("http://") && !page.contains("https://"),
        "it loads nothing"
    );
    for section in ["style", "choice", "head-start", "before-after", "catalog", "left", "stages"] {
        assert!(page.contains(&format!("id=\"{section}\"")), "{section}");
    }
    for said in [
        "What only this device knows",
        "device phone",
        "Sample answers",
        "10.6 kB",
        "<strong>stays here; released",
    ] {
        assert!(page.contains(said), "{said}");
    }
}

#[test]
fn an_owner_of_little_gets_a_page_too() {
    let page = owner_html(&headstart_report::OwnerReport::default());
    well_formed(&page).expect("well formed");
    assert!(page.contains("What only this device knows") && !page.contains("<section"));
}

#[test]
fn every_number_is_said_in_text_too() {
    let page = html(&sample());
    for said in [
        "78\u{202f}% fewer steps and 77\u{202f}% less time",
        "−0.52",
        ">0.91<",
        "with · 60 steps",
        "without · 270 steps",
        "42\u{202f}%",
    ] {
        assert!(page.contains(said), "{said}");
    }
    for (name, state) in [("plain", "cached"), ("start", "skipped")] {
        assert!(page.contains(&format!("<code>{name}</code></th>")) && page.contains(state));
    }
}

#[test]
fn rows_are_counted_and_the_first_are_shown() {
    let sample = |n: usize| headstart_report::Sample {
        prompt: format!("Question {n}?"),
        reference: String::new(),
        answer: format!("Answer {n}."),
    };
    let view = OutputView::Rows { rows: 1200, samples: (0..4).map(sample).collect() };
    let output = Output { name: "said".into(), doc: "The answers.".into(), view };
    let report = RunReport { outputs: vec![output], ..RunReport::default() };
    let text = terminal(&report, 80, false);
    assert!(
        text.contains("said  1\u{202f}200 rows; The answers\n  asked   Question 0?\n  answer  Answer 0.\n"),
        "{text}"
    );
    assert!(text.contains("Answer 2.") && !text.contains("Answer 3."), "three are shown: {text}");
    let page = html(&report);
    well_formed(&page).expect("well formed");
    assert!(page.contains("1\u{202f}200 rows") && page.contains("Answer 2.") && !page.contains("Answer 3."));
}

#[test]
fn texts_are_escaped() {
    let mut report = sample();
    report.pipeline = "<script>alert(1)</script>".into();
    report.outputs.push(Output {
        name: "note".into(),
        doc: "a < b".into(),
        view: OutputView::Text { value: "<b>&amp;".into() },
    });
    let page = html(&report);
    assert!(!page.contains("<script") && page.contains("&lt;b&gt;&amp;amp;") && page.contains("a &lt; b"));
    well_formed(&page).expect("well formed");
}

fn word(word: &str, coefficient: f64) -> serde_json::Value {
    json!({ "word": word, "coefficient": coefficient, "low": coefficient - 0.1, "high": coefficient + 0.1 })
}

/// A catalog of these styles.
fn catalog(pllms: serde_json::Value) -> serde_json::Value {
    json!({ "pllms": pllms, "words": 50, "method": "sparse", "space": "00".repeat(32), "kind": "sentence" })
}

/// A selection of which these fields are known.
fn selection(known: serde_json::Value) -> serde_json::Value {
    let mut all = json!({ "is_mix": false, "abstained": false, "confidence": 0.5 });
    known.as_object().expect("fields").iter().for_each(|(k, v)| all[k.as_str()] = v.clone());
    all
}

#[test]
fn what_is_absent_is_left_out() {
    let empty = RunReport { pipeline: "bare".into(), ..RunReport::default() };
    assert_eq!(terminal(&empty, 60, false).lines().count(), 2);
    let page = html(&empty);
    well_formed(&page).expect("well formed");
    assert!(!page.contains("<section") && !page.contains("<svg"));

    // Values of which nothing, or little, was released.
    let views = [
        OutputView::of(&Type::Catalog, &json!(null)),
        OutputView::of(&Type::Catalog, &catalog(json!({"one": {"words": [], "explained": 0.0}}))),
        OutputView::of(&Type::Selection, &selection(json!({"confidence": 0.4}))),
        OutputView::of(&Type::Selection, &selection(json!({"abstained": true}))),
        OutputView::of(&Type::Pllm, &json!({"curve": [[0, 1.0]]})),
        OutputView::of(&Type::Metrics, &json!({"loss": 1.5, "reached": true})),
    ];
    for view in views {
        for name in ["tuned", "scratch", "before", "other"] {
            let output = Output { name: name.into(), doc: String::new(), view: view.clone() };
            let other = Output { name: "without".into(), ..output.clone() };
            let report = RunReport { outputs: vec![output, other], ..empty.clone() };
            let page = html(&report);
            well_formed(&page).expect("well formed");
            assert!(!page.contains("NaN") && !page.contains(">inf"), "{page}");
            assert!(!terminal(&report, 80, false).contains("NaN"));
        }
    }
    let abstained = Output {
        name: "pick".into(),
        doc: String::new(),
        view: OutputView::of(&Type::Selection, &selection(json!({"abstained": true, "pllm_name": "base"}))),
    };
    let report = RunReport { outputs: vec![abstained], ..empty };
    assert!(terminal(&report, 80, false).contains("none: the base itself"));
}

#[test]
fn a_large_catalog_stays_readable() {
    let style = |i: usize| {
        let words: Vec<_> =
            (0..5).map(|k| word(&format!("w{}", (i * 7 + k * 3) % 50), 0.1 + k as f64 / 5.0)).collect();
        (format!("p{i:04}"), json!({"words": words, "explained": 0.5}))
    };
    let pllms: serde_json::Map<_, _> = (0..2000).map(style).collect();
    let catalog = Output {
        name: "catalog".into(),
        doc: String::new(),
        view: OutputView::of(&Type::Catalog, &catalog(pllms.into())),
    };
    let choice = Output {
        name: "choice".into(),
        doc: String::new(),
        view: OutputView::of(
            &Type::Selection,
            &selection(json!({
                "pllm_name": "p1999", "user": {"words": [word("wistful", 0.4)], "explained": 0.5},
            })),
        ),
    };
    let report = RunReport { outputs: vec![catalog, choice], ..RunReport::default() };
    let page = html(&report);
    assert!(page.len() < 1_000_000, "{}", page.len());
    assert!(page.contains("▸ p1999"), "the choice is among the rows that are shown");
    assert!(page.contains("further pLLMs are not shown"));
    assert!(page.matches("wistful").count() >= 3, "the user's own word has a column and a cell");
    let text = terminal(&report, 80, false);
    assert!(text.lines().count() < 60 && text.contains("▸ p1999"), "{}", text.lines().count());
}
