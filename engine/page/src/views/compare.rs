//! Two runs beside each other: parameters, numbers, and what ran in each.

use std::collections::{BTreeMap, BTreeSet};

use axum::Extension;
use axum::extract::{RawQuery, State};
use axum::http::StatusCode;
use axum::response::Response;
use headstart_history::Recorded;
use headstart_report::StageState;
use headstart_report::text::{metric, seconds};
use maud::{Markup, html};

use crate::app::App;
use crate::layout::{self, Page, Section, breakable, in_path, state, time, word};
use crate::reply::{blocking, no_run, page};
use crate::sessions::Visitor;

/// Stages that are listed at most.
const LISTED: usize = 500;

pub(crate) async fn show(
    State(app): State<App>,
    Extension(visitor): Extension<Visitor>,
    RawQuery(query): RawQuery,
) -> Response {
    let named = runs(query.as_deref().unwrap_or_default());
    blocking(move || {
        let [a, b] = &named[..] else {
            return layout::refusal(StatusCode::BAD_REQUEST, "Tick two runs in the list to compare them.");
        };
        let read = |id: &str| headstart_history::read(app.ws(), id);
        let (a, b) = match (read(a), read(b)) {
            (Ok(a), Ok(b)) => (a, b),
            (Err(e), _) | (_, Err(e)) => return no_run(&e),
        };
        // The earlier one left.
        let (a, b) = if a.started_ms() <= b.started_ms() { (a, b) } else { (b, a) };
        let body = body(&app, &a, &b);
        page(Page {
            title: "Two runs".into(),
            section: Section::Runs,
            visitor: Some(&visitor),
            live: None,
            body,
        })
    })
    .await
}

/// The runs that a query names: the form sends one parameter of the same name for each tick.
fn runs(query: &str) -> Vec<String> {
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    pairs.filter(|(name, _)| *name == "run").map(|(_, id)| id.to_owned()).take(3).collect()
}

fn body(app: &App, a: &Recorded, b: &Recorded) -> Markup {
    html! {
        p.eyebrow { a href="/runs" { "Runs" } }
        h1 { "Two runs" }
        table.compare {
            thead { tr { th { span.hidden { "what" } } th { (link(a)) } th { (link(b)) } } }
            tbody {
                tr { th scope="row" { "state" } td { (word(a.outcome())) } td { (word(b.outcome())) } }
                tr { th scope="row" { "pipeline" } td { (breakable(&a.pipeline)) } td { (breakable(&b.pipeline)) } }
                tr { th scope="row" { "started" } td { (time(a.started_ms())) } td { (time(b.started_ms())) } }
                tr { th scope="row" { "took" } td { (seconds(a.seconds())) } td { (seconds(b.seconds())) } }
            }
        }
        (params(a, b))
        (numbers(app, a, b))
        (stages(a, b))
    }
}

fn link(run: &Recorded) -> Markup {
    html! { a href=(format!("/runs/{}", in_path(&run.id))) { code { (breakable(&run.id)) } } }
}

fn params(a: &Recorded, b: &Recorded) -> Markup {
    let (a, b) = (&a.plan.params, &b.plan.params);
    let names: BTreeSet<&String> = a.keys().chain(b.keys()).collect();
    html! {
        @if !names.is_empty() {
            section {
                h2 { "Parameters" }
                table.compare {
                    thead { tr { th { "name" } th { "earlier" } th { "later" } } }
                    tbody {
                        @for name in names {
                            @let (x, y) = (a.get(name), b.get(name));
                            tr.differs[x != y] {
                                th scope="row" { (breakable(name)) @if x != y { span.hidden { " (differs)" } } }
                                td { @if let Some(x) = x { code { (breakable(x)) } } }
                                td { @if let Some(y) = y { code { (breakable(y)) } } }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// Named numbers of a run's outputs.
fn numbers_of(app: &App, run: &Recorded) -> BTreeMap<String, f64> {
    let Ok(report) = app.report(run) else { return BTreeMap::new() };
    let all = headstart_report::numbers(&report).into_iter();
    all.flat_map(|(output, numbers)| {
        numbers.into_iter().map(move |(name, x)| (format!("{output}.{name}"), x))
    })
    .collect()
}

fn numbers(app: &App, a: &Recorded, b: &Recorded) -> Markup {
    let (a, b) = (numbers_of(app, a), numbers_of(app, b));
    let names: BTreeSet<&String> = a.keys().chain(b.keys()).collect();
    let shown = |x: Option<&f64>| x.map_or_else(|| "–".to_owned(), |x| metric(*x));
    html! {
        @if !names.is_empty() {
            section {
                h2 { "Numbers" }
                table.compare {
                    thead { tr { th { "number" } th.n { "earlier" } th.n { "later" } } }
                    tbody {
                        @for name in names {
                            @let (x, y) = (a.get(name), b.get(name));
                            tr.differs[x != y] { th scope="row" { (breakable(name)) } td.n { (shown(x)) } td.n { (shown(y)) } }
                        }
                    }
                }
            }
        }
    }
}

/// What a run did with a stage.
struct Side {
    state: StageState,
    key: Option<headstart_protocol::Digest>,
}

fn sides(run: &Recorded) -> BTreeMap<String, Side> {
    let side = |(i, status): (u32, &headstart_core::Status)| {
        let side = Side { state: run.stage_state(i, status), key: run.state.key(i) };
        (run.state.instance(i).name.clone(), side)
    };
    run.state.statuses().map(side).collect()
}

fn stages(a: &Recorded, b: &Recorded) -> Markup {
    let (a, b) = (sides(a), sides(b));
    let names: BTreeSet<&String> = a.keys().chain(b.keys()).collect();
    let why = |x: Option<&Side>, y: Option<&Side>| match (x, y) {
        (Some(x), Some(y)) if x.key.is_some() && x.key == y.key => "the same arguments and inputs",
        (Some(x), Some(y)) if x.key.is_some() && y.key.is_some() => "other arguments or inputs",
        (Some(_), Some(_)) => "",
        (None, _) => "new",
        (_, None) => "no longer there",
    };
    html! {
        section {
            h2 { "What ran, and why" }
            table.compare {
                thead { tr { th { "stage" } th { "earlier" } th { "later" } th { "what is other" } } }
                tbody {
                    @for name in names.iter().take(LISTED) {
                        @let (x, y) = (a.get(*name), b.get(*name));
                        tr {
                            th scope="row" { (breakable(name)) }
                            td { @if let Some(x) = x { (state(x.state)) } }
                            td { @if let Some(y) = y { (state(y.state)) } }
                            td.note { (why(x, y)) }
                        }
                    }
                }
            }
            @if names.len() > LISTED { p.note { "The first " (LISTED) " of " (names.len()) " stage instances." } }
        }
    }
}
