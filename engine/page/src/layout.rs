//! What every page has: head, navigation, foot; and how text from outside gets into it.

use axum::http::{StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use headstart_protocol::text::visible;
use headstart_report::StageState;
use jiff::Timestamp;
use maud::{DOCTYPE, Markup, PreEscaped, html};

use crate::sessions::Visitor;

/// The sections, in the order of the navigation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Section {
    Runs,
    Catalog,
    Schedules,
    Devices,
    Cache,
    None,
}

const SECTIONS: [(Section, &str, &str); 5] = [
    (Section::Runs, "/runs", "Runs"),
    (Section::Catalog, "/catalog", "Catalog"),
    (Section::Schedules, "/schedules", "Schedules"),
    (Section::Devices, "/devices", "Devices"),
    (Section::Cache, "/cache", "Cache"),
];

/// A page.
pub(crate) struct Page<'a> {
    pub(crate) title: String,
    pub(crate) section: Section,
    /// Who sees it; none before somebody has signed in.
    pub(crate) visitor: Option<&'a Visitor>,
    /// Where it gets its news from.
    pub(crate) live: Option<String>,
    pub(crate) body: Markup,
}

impl IntoResponse for Page<'_> {
    fn into_response(self) -> Response {
        Html(self.text()).into_response()
    }
}

impl Page<'_> {
    /// The page as text, in which nothing from outside can hide or reverse what is around it.
    fn text(&self) -> String {
        let page = html! {
            (DOCTYPE)
            html lang="en" {
                head {
                    meta charset="utf-8";
                    meta name="viewport" content="width=device-width, initial-scale=1";
                    meta name="color-scheme" content="light dark";
                    title { (self.title) " · Headstart" }
                    link rel="icon" href="/assets/icon.svg" type="image/svg+xml";
                    link rel="stylesheet" href="/assets/page.css";
                    script src="/assets/page.js" defer {}
                }
                body data-live=[self.live.as_deref()] {
                    a.skip href="#main" { "Skip to content" }
                    (self.masthead())
                    main #main { (self.body) }
                }
            }
        };
        visible(&page.into_string()).into_owned()
    }

    fn masthead(&self) -> Markup {
        html! {
            header.masthead {
                a.brand href="/runs" { "Headstart" }
                @if let Some(visitor) = self.visitor {
                    nav aria-label="Sections" {
                        @for (section, path, name) in SECTIONS {
                            a href=(path) aria-current=[(section == self.section).then_some("page")] { (name) }
                        }
                    }
                    form.out method="post" action="/sign-out" {
                        span.who { (visitor.token.name) ", " (visitor.token.role.word()) }
                        button.quiet type="submit" { "Sign out" }
                    }
                }
            }
        }
    }
}

/// A page that says why something is refused.
pub(crate) fn refusal(status: StatusCode, why: &str) -> Response {
    let title = status.canonical_reason().unwrap_or("Refused").to_owned();
    let body = html! {
        h1 { (title) }
        p { (why) }
        p { a href="/runs" { "To the runs" } }
    };
    let page = Page { title, section: Section::None, visitor: None, live: None, body };
    let mut response = (status, page).into_response();
    // What was sent with it stays unread.
    response.headers_mut().insert(header::CONNECTION, header::HeaderValue::from_static("close"));
    response
}

/// A state as a mark and its word: the mark alone would say it by colour only.
pub(crate) fn state(state: StageState) -> Markup {
    word(state.word())
}

/// The same for a run, a schedule or a device.
pub(crate) fn word(word: &str) -> Markup {
    html! { span class=(format!("state {word}")) { span.mark aria-hidden="true" {} (word) } }
}

/// A time, exact for machines and short for people.
pub(crate) fn time(ms: u64) -> Markup {
    let at = Timestamp::from_millisecond(i64::try_from(ms).unwrap_or(i64::MAX)).unwrap_or(Timestamp::MAX);
    moment(at)
}

/// Likewise.
pub(crate) fn moment(at: Timestamp) -> Markup {
    html! { time datetime=(at.to_string()) { (at.strftime("%Y-%m-%d %H:%M UTC").to_string()) } }
}

/// A name that may be broken after its separators.
pub(crate) fn breakable(name: &str) -> Markup {
    let parts = name.split_inclusive(['/', '_', '-', '[', ',']);
    html! { @for (i, part) in parts.enumerate() { @if i > 0 { wbr; } (part) } }
}

/// A name as a part of a path.
pub(crate) fn in_path(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    for byte in name.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(byte as char),
            byte => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

/// Markup as text, in which nothing from outside can hide.
pub(crate) fn fragment(markup: &Markup) -> String {
    visible(&markup.0).into_owned()
}

/// A picture that another crate has drawn, with text from outside already escaped.
pub(crate) fn drawn(svg: String) -> Markup {
    PreEscaped(svg)
}

/// A coordinate, to a tenth of a pixel.
pub(crate) fn px(x: f64) -> String {
    let text = format!("{x:.1}");
    text.strip_suffix(".0").map_or(text.clone(), str::to_owned)
}
