//! A run: how far it is as a graph, when each stage waited and ran, and what it made.

use std::sync::Arc;

use axum::Extension;
use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse, Response};
use headstart_history::Followed;
use headstart_protocol::text::counted;
use maud::{Markup, html};
use serde::Deserialize;

use crate::app::App;
use crate::layout::{Page, Section, breakable, in_path};
use crate::reply::{blocking, no_run, page};
use crate::sessions::Visitor;
use crate::views::news;
use crate::views::progress::{Shown, axis_ms, graph, has_graph, head, scale, waterfall};

/// Where a page was when it was made.
#[derive(Deserialize)]
pub(crate) struct Since {
    #[serde(default)]
    events: u64,
    #[serde(default)]
    axis: u64,
}

pub(crate) async fn show(
    State(app): State<App>,
    Extension(visitor): Extension<Visitor>,
    Path(id): Path<String>,
) -> Response {
    let runtime = tokio::runtime::Handle::current();
    blocking(move || {
        // Following a run starts a task.
        let _entered = runtime.enter();
        let watched = match app.watches.watch(&id) {
            Ok(watched) => watched,
            Err(e) => return no_run(&e),
        };
        let followed = watched.followed();
        let axis = axis_ms(&followed);
        let live = format!("/runs/{}/news?events={}&axis={axis}", in_path(&id), followed.events());
        let title = format!("{} {}", followed.run.pipeline, followed.run.outcome());
        let body = body(&app, &followed, axis);
        page(Page { title, section: Section::Runs, visitor: Some(&visitor), live: Some(live), body })
    })
    .await
}

pub(crate) async fn news(
    State(app): State<App>,
    Path(id): Path<String>,
    Query(since): Query<Since>,
) -> Response {
    let closing = app.closing.clone();
    let runtime = tokio::runtime::Handle::current();
    let watched = tokio::task::spawn_blocking(move || {
        let _entered = runtime.enter();
        app.watches.watch(&id)
    })
    .await;
    match watched {
        Ok(Ok(watched)) => {
            let shown = Shown::since(&watched.followed(), since.events, since.axis);
            news::of(Arc::clone(&watched), shown, closing).into_response()
        }
        Ok(Err(e)) => no_run(&e),
        Err(_) => crate::reply::not_found().await,
    }
}

/// What a run made, as the report shows it.
pub(crate) async fn outputs(
    State(app): State<App>,
    Extension(visitor): Extension<Visitor>,
    Path(id): Path<String>,
) -> Response {
    blocking(move || {
        let run = match headstart_history::read(app.ws(), &id) {
            Ok(run) => run,
            Err(e) => return no_run(&e),
        };
        let made = match app.report(&run) {
            Ok(report) => headstart_report::sections(&report),
            Err(why) => html! { p.bad { "The outputs cannot be read: " (why) } },
        };
        let body = html! {
            p.eyebrow { a href=(format!("/runs/{}", in_path(&id))) { "Run " (breakable(&id)) } }
            h1 { "Outputs of " (breakable(&run.pipeline)) }
            (made)
        };
        let title = format!("Outputs of {}", run.pipeline);
        page(Page { title, section: Section::Runs, visitor: Some(&visitor), live: None, body })
    })
    .await
}

fn body(app: &App, followed: &Followed, axis: u64) -> Markup {
    let run = &followed.run;
    html! {
        p.eyebrow { a href="/runs" { "Runs" } }
        h1 { (breakable(&run.pipeline)) }
        @if let Some(line) = run.plan.doc.lines().next() { p.note { (line) } }
        div #head { (head(app.now_ms(), followed)) }
        p #tally role="status" { (run.tally()) }
        (failures(followed))
        p.links {
            a href=(format!("/runs/{}/outputs", in_path(&run.id))) { "Outputs" }
        }
        @if has_graph(followed) {
            section #stages {
                h2 { "Stages" }
                div.scroll tabindex="0" role="group" aria-label="Graph of the run" { div #graph { (graph(followed)) } }
            }
        }
        section #time {
            h2 { "Where the time goes" }
            p.legend {
                span.key.waits { "waiting" } span.key.moves { "transfer" } span.key.runs { "running" } span.key.cache { "cached" }
                span.key.fails { "failed" }
                span #axis { (scale(axis)) }
            }
            (waterfall(followed, axis))
        }
        @if !run.plan.params.is_empty() {
            section {
                h2 { "Parameters" }
                table.params { tbody { @for (name, value) in &run.plan.params { tr { th scope="row" { (breakable(name)) } td { code { (breakable(value)) } } } } } }
            }
        }
    }
}

fn failures(followed: &Followed) -> Markup {
    let failures = followed.run.failures();
    html! {
        @if !failures.is_empty() {
            section #failures {
                h2 { "Why it failed" }
                @for f in failures.iter().take(20) {
                    div.sample {
                        h3 { code { (breakable(&f.name)) } " " span.bad { (f.state.word()) } }
                        p.message { (f.message) }
                        @if let Some(help) = &f.help { p.note { "help: " (help) } }
                        @if f.blocks > 0 { p.note { "blocks " (counted(f.blocks as u64, "stage instance")) } }
                    }
                }
            }
        }
    }
}
