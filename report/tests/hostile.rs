//! Names and texts from outside in every picture: none becomes markup, commands a terminal, or hides.

mod common;

use headstart_console::color::safe;
use headstart_protocol::text::visible;
use headstart_report::graph::{Edge, EdgeKind, Graph, Node, dot, mermaid, svg};
use headstart_report::{OwnerReport, RunReport, html, owner_html, terminal};
use serde_json::Value as Json;

const HOSTILE: &[&str] = &[
    "<script>alert(1)</script>",
    "\"'><img src=x onerror=alert(1)>",
    "</style></title></svg><a href=\"javascript:0\">",
    "\u{1b}[2J\u{1b}[1;1H\u{1b}]0;owned\u{7}\u{1b}[8m",
    "\u{9b}31m\r\u{8}\u{0}",
    "\u{202e}gpj.exe\u{2066}\u{feff}\u{e0041}",
    "`]\"]; n0 -->|x| n9[click n0 href \"javascript:0\"] #quot; &lt;",
    "\\\" ] ; label=<<b>x</b>> \\",
];

/// Appends a text to every string in a value and to every key that is a name of the user's.
fn spoil(value: &mut Json, with: &str, fixed: &dyn Fn(&str) -> bool) {
    match value {
        Json::String(s) if !fixed(s) => s.push_str(with),
        Json::Array(items) => items.iter_mut().for_each(|v| spoil(v, with, fixed)),
        Json::Object(fields) => fields.iter_mut().for_each(|(_, v)| spoil(v, with, fixed)),
        _ => {}
    }
}

/// The sample with hostile text in every string that may hold any.
fn spoiled(with: &str) -> RunReport {
    let mut json = serde_json::to_value(common::sample()).expect("a report is JSON");
    let fixed = |s: &str| {
        // Names that the format itself gives: states, types and kinds of views.
        let word = !s.is_empty() && s.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        word && serde_json::from_value::<RunReport>(with_everywhere(s)).is_err()
    };
    spoil(&mut json, with, &fixed);
    serde_json::from_value(json).expect("still a report")
}

/// The sample with one word changed wherever it stands alone: not a report any more if the format gives
/// the word.
fn with_everywhere(word: &str) -> Json {
    let mut json = serde_json::to_value(common::sample()).expect("a report is JSON");
    spoil(&mut json, "~", &|s| s != word);
    json
}

fn harmless(page: &str, what: &str) {
    assert_eq!(visible(page), page, "{what} has characters that deceive");
    for markup in ["<script", "<img", "<a ", "javascript:0\">", "<b>x"] {
        assert!(!page.contains(markup), "{what}: {markup}");
    }
}

#[test]
fn pages_show_hostile_text_as_text() {
    for text in HOSTILE {
        let report = spoiled(text);
        let owner = OwnerReport { device: (*text).to_owned(), report: report.clone(), ..common::owner() };
        for (what, page) in [("the page", html(&report)), ("the owner's page", owner_html(&owner))] {
            harmless(&page, what);
            assert!(
                page.contains("<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none';")
            );
            assert_eq!(page.matches("</style>").count(), page.matches("<style").count(), "{what}: {text:?}");
            assert_eq!(page.matches("</svg>").count(), page.matches("<svg").count(), "{what}: {text:?}");
        }
    }
}

#[test]
fn the_terminal_is_not_commanded() {
    for text in HOSTILE {
        for color in [true, false] {
            let shown = safe(&terminal(&spoiled(text), 100, color), color).into_owned();
            let control = shown.match_indices('\u{1b}').all(|(at, _)| {
                let code = &shown[at..][..shown[at..].find('m').map_or(0, |m| m + 1)];
                ["\x1b[0m", "\x1b[1;32m", "\x1b[1m", "\x1b[2m", "\x1b[33m", "\x1b[36m", "\x1b[1;31m"]
                    .contains(&code)
            });
            assert!(control && (color || visible(&shown) == shown), "{text:?}");
        }
    }
}

#[test]
fn graphs_show_hostile_text_as_text() {
    for text in HOSTILE {
        let name = |n: &str| format!("{n}{text}");
        let node = |n: &str, group| Node {
            name: name(n),
            kind: name("k"),
            makes: name("M"),
            doc: name("d"),
            group,
            ..Node::default()
        };
        let graph = Graph {
            title: name("t"),
            nodes: vec![node("a", None), node("b", Some(0))],
            edges: vec![Edge { from: 0, to: 1, kind: EdgeKind::Release }],
            groups: vec![name("g")],
            notes: vec![name("n")],
        };
        harmless(&svg(&graph), "the SVG");
        let (mermaid, dot) = (mermaid(&graph), dot(&graph));
        assert_eq!([visible(&mermaid), visible(&dot)], [mermaid.as_str(), dot.as_str()]);
        assert_eq!(mermaid.lines().count(), 6, "one line each: {mermaid}");
        assert!(
            mermaid
                .lines()
                .all(|l| l.matches('"').count() % 2 == 0 && !l.contains('<') || l.contains("<br/>"))
        );
        let unescaped = dot.replace("\\\\", "").replace("\\\"", "");
        assert!(unescaped.lines().all(|l| l.matches('"').count() % 2 == 0), "{dot}");
    }
}
