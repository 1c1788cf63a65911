//! All runs: a list, and their durations as a picture.

use std::sync::Arc;

use axum::Extension;
use axum::extract::{Query, State};
use axum::response::Response;
use headstart_protocol::text::{counted, grouped};
use headstart_report::text::seconds;
use maud::{Markup, html};
use serde::Deserialize;

use crate::app::App;
use crate::index::Row;
use crate::layout::{Page, Section, breakable, in_path, px, time, word};
use crate::reply::{blocking, page};
use crate::sessions::Visitor;

/// Runs that are looked at for a list at most: the newest.
const MOST: usize = 500;
/// Runs that are listed on a page.
const LISTED: usize = 100;

/// What somebody wants to see.
#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct Filter {
    /// Part of an id, a pipeline or a parameter.
    #[serde(default)]
    q: String,
    /// How it ended.
    #[serde(default)]
    outcome: String,
    /// How many to leave out.
    #[serde(default)]
    from: usize,
}

const OUTCOMES: [&str; 5] = ["running", "succeeded", "failed", "cancelled", "interrupted"];

pub(crate) async fn list(
    State(app): State<App>,
    Extension(visitor): Extension<Visitor>,
    Query(filter): Query<Filter>,
) -> Response {
    blocking(move || {
        let (rows, count) = app.index.newest(MOST);
        let fitting: Vec<Arc<Row>> = rows.into_iter().filter(|r| filter.takes(r)).collect();
        let body = html! {
            h1 { "Runs" }
            (self::filter(&filter))
            @if count == 0 {
                p.empty { "No runs yet. " code { "headstart run FILE" } " makes one, and so does a schedule." }
            } @else if fitting.is_empty() {
                p.empty { "No run fits." }
            } @else {
                (scatter(&fitting))
                (table(&fitting, &filter))
                (pages(&filter, fitting.len()))
            }
            @if count > MOST { p.note { "The newest " (grouped(MOST as u64)) " of " (counted(count as u64, "run")) " are looked through." } }
        };
        page(Page { title: "Runs".into(), section: Section::Runs, visitor: Some(&visitor), live: None, body })
    })
    .await
}

impl Filter {
    fn takes(&self, row: &Row) -> bool {
        let q = self.q.trim().to_lowercase();
        let has = |text: &str| text.to_lowercase().contains(&q);
        let found = q.is_empty()
            || has(&row.id)
            || has(&row.pipeline)
            || row.params.iter().any(|(name, value)| has(&format!("{name}={value}")));
        found && (self.outcome.is_empty() || self.outcome == row.outcome)
    }

    fn at(&self, from: usize) -> String {
        format!("/runs?q={}&outcome={}&from={from}", in_path(&self.q), in_path(&self.outcome))
    }
}

fn filter(filter: &Filter) -> Markup {
    html! {
        form.filter method="get" action="/runs" role="search" {
            label { span { "Find" } input type="search" name="q" value=(filter.q) placeholder="pipeline, run, name=value" maxlength="200"; }
            label {
                span { "State" }
                select name="outcome" {
                    option value="" { "all" }
                    @for outcome in OUTCOMES { option value=(outcome) selected[filter.outcome == outcome] { (outcome) } }
                }
            }
            button type="submit" { "Show" }
        }
    }
}

fn pages(filter: &Filter, count: usize) -> Markup {
    html! {
        @if count > LISTED {
            p.pages {
                @if filter.from > 0 { a href=(filter.at(filter.from.saturating_sub(LISTED))) { "Newer" } " " }
                @if filter.from + LISTED < count { a href=(filter.at(filter.from + LISTED)) { "Older" } }
            }
        }
    }
}

fn table(rows: &[Arc<Row>], filter: &Filter) -> Markup {
    html! {
        form method="get" action="/compare" {
            table.list {
                caption.hidden { "Runs, newest first" }
                thead { tr { th.pick { span.hidden { "Compare" } } th { "run" } th { "state" } th { "started" } th.n { "took" } th.n { "stages" } th.n.wide { "cached" } } }
                tbody {
                    @for row in rows.iter().skip(filter.from).take(LISTED) { (self::row(row)) }
                }
            }
            p { button type="submit" { "Compare the two that are ticked" } }
        }
    }
}

fn row(row: &Row) -> Markup {
    let total = row.counts.total();
    html! {
        tr {
            td.pick { input type="checkbox" name="run" value=(row.id) aria-label=(format!("compare {}", row.id)); }
            th scope="row" {
                a href=(format!("/runs/{}", in_path(&row.id))) { (breakable(if row.pipeline.is_empty() { &row.id } else { &row.pipeline })) }
                span.sub { code { (breakable(&row.id)) } }
                @if let Some(problem) = &row.problem { span.sub.bad { (problem) } }
                @if !row.params.is_empty() {
                    span.sub.params { @for (name, value) in row.params.iter().take(3) { code { (name) "=" (headstart_report::text::cut(value, 24)) } " " } }
                }
            }
            td { (word(row.outcome)) }
            td.time { (time(row.started_ms)) }
            td.n { (seconds(row.seconds)) }
            td.n { (grouped(u64::from(total))) }
            td.n.wide { (grouped(u64::from(row.counts.cached))) }
        }
    }
}

const WIDTH: f64 = 940.0;
const HEIGHT: f64 = 190.0;
const LEFT: f64 = 58.0;
const BOTTOM: f64 = 26.0;

/// Durations over time, oldest left, on a logarithmic scale: a nightly run among tests of seconds stays readable.
fn scatter(rows: &[Arc<Row>]) -> Markup {
    let shown: Vec<&Row> = rows.iter().map(AsRef::as_ref).filter(|r| r.problem.is_none()).collect();
    if shown.len() < 3 {
        return html! {};
    }
    let (first, last) =
        shown.iter().fold((u64::MAX, 0), |(a, b), r| (a.min(r.started_ms), b.max(r.started_ms)));
    let span = (last - first).max(1) as f64;
    let floor = |s: f64| s.max(0.01).log10();
    let low = shown.iter().map(|r| floor(r.seconds)).fold(f64::MAX, f64::min).floor();
    let high = shown.iter().map(|r| floor(r.seconds)).fold(f64::MIN, f64::max).ceil().max(low + 1.0);
    let x = |ms: u64| LEFT + 12.0 + (ms - first) as f64 / span * (WIDTH - LEFT - 24.0);
    let y = |s: f64| 10.0 + (high - floor(s)) / (high - low) * (HEIGHT - BOTTOM - 20.0);
    let decades = (low as i32..=high as i32).map(|d| 10f64.powi(d));
    let failed = shown.iter().filter(|r| r.outcome == "failed").count();
    let label = format!(
        "How long {} took, {failed} of them failed; the table below has the numbers",
        counted(shown.len() as u64, "run")
    );
    html! {
        figure.scatter {
            div.scroll tabindex="0" role="group" aria-label="Durations over time" {
                svg viewBox=(format!("0 0 {WIDTH} {HEIGHT}")) width=(WIDTH) role="img" aria-label=(label) {
                    @for s in decades {
                        line.axis x1=(LEFT) x2=(WIDTH) y1=(px(y(s))) y2=(px(y(s))) {}
                        text.quiet.small x=(LEFT - 8.0) y=(px(y(s) + 4.0)) text-anchor="end" { (seconds(s)) }
                    }
                    @for r in &shown { (dot(r, x(r.started_ms), y(r.seconds))) }
                    text.quiet.small x=(LEFT + 4.0) y=(HEIGHT - 4.0) { (day(first)) }
                    text.quiet.small x=(WIDTH - 4.0) y=(HEIGHT - 4.0) text-anchor="end" { (day(last)) }
                }
            }
            figcaption { "How long runs took. Dots: succeeded. Crosses: failed. Rings: all else." }
        }
    }
}

fn dot(row: &Row, x: f64, y: f64) -> Markup {
    let title = format!("{}: {}, {}", row.pipeline, row.outcome, seconds(row.seconds));
    html! {
        @match row.outcome {
            "succeeded" => circle.dot cx=(px(x)) cy=(px(y)) r="4" { title { (title) } },
            "failed" => path.cross d=(format!("M{} {}l8 8m0 -8l-8 8", px(x - 4.0), px(y - 4.0))) { title { (title) } },
            _ => circle.ring cx=(px(x)) cy=(px(y)) r="4" { title { (title) } },
        }
    }
}

fn day(ms: u64) -> String {
    let at = jiff::Timestamp::from_millisecond(i64::try_from(ms).unwrap_or(0)).unwrap_or_default();
    at.strftime("%Y-%m-%d").to_string()
}
