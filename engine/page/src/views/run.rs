//! A run: how far it is as a graph, when each stage waited and ran, and what it made.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::Extension;
use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse, Response};
use headstart_history::{Followed, Span};
use headstart_protocol::text::counted;
use headstart_report::graph::picture;
use headstart_report::text::seconds;
use headstart_report::StageState;
use maud::{Markup, html};
use serde::Deserialize;

use crate::app::App;
use crate::layout::{Page, Section, breakable, drawn, fragment, in_path, state, time, word};
use crate::live::{self, Changes};
use crate::reply::{blocking, no_run, page};
use crate::sessions::Visitor;
use crate::views::runs::px;

/// Graphs of more items than this are no pictures any more.
const LARGEST_GRAPH: usize = 80;
/// Fan-outs of up to so many instances are unfolded.
const UNFOLDED: usize = 12;
/// The width of a bar's picture: what time is drawn on.
const BAR: f64 = 1000.0;

/// How much of a run a reader has seen.
#[derive(Clone, Debug, Default)]
pub(crate) struct Shown {
    /// Events that had been read.
    events: u64,
    /// The length of the time line, in milliseconds.
    axis_ms: u64,
    /// Instances whose bar grows.
    running: BTreeSet<u32>,
    /// The last graph that was sent.
    graph: String,
    /// The last tally that was sent.
    tally: String,
    live: bool,
}

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
            let running = {
                let followed = watched.followed();
                followed.run.state.running().map(|(_, i)| i).collect()
            };
            let shown = Shown { events: since.events, axis_ms: since.axis, running, ..Shown::default() };
            live::news(Arc::clone(&watched), shown, closing).into_response()
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
        div #head { (head(app.now_ms(), followed)) }
        p #tally role="status" { (run.tally()) }
        (failures(followed))
        p.links {
            a href=(format!("/runs/{}/outputs", in_path(&run.id))) { "Outputs" }
        }
        @if (1..=LARGEST_GRAPH).contains(&run.plan.items.len()) {
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
            @for group in groups(followed) { (self::group(followed, &group, axis)) }
        }
        @if !run.plan.params.is_empty() {
            section {
                h2 { "Parameters" }
                table.params { tbody { @for (name, value) in &run.plan.params { tr { th scope="row" { (breakable(name)) } td { code { (breakable(value)) } } } } } }
            }
        }
    }
}

fn head(now_ms: u64, followed: &Followed) -> Markup {
    let run = &followed.run;
    let until = if run.live { now_ms } else { followed.last_ms() };
    let took = until.saturating_sub(run.started_ms()) as f64 / 1000.0;
    html! {
        p.facts {
            (word(run.outcome())) " " span { (time(run.started_ms())) } span { (seconds(took)) }
            span { "run " code { (breakable(&run.id)) } }
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

fn graph(followed: &Followed) -> Markup {
    drawn(picture(&headstart_history::graph::of_run(&followed.run)))
}

/// The instances of an item.
struct Group {
    item: usize,
    instances: Vec<u32>,
}

fn groups(followed: &Followed) -> Vec<Group> {
    let plan = &followed.run.plan;
    let mut groups: Vec<Group> =
        (0..plan.items.len()).map(|item| Group { item, instances: Vec::new() }).collect();
    for (i, inst) in (0u32..).zip(&plan.instances) {
        groups[inst.item as usize].instances.push(i);
    }
    groups.retain(|g| !g.instances.is_empty());
    groups
}

fn group(followed: &Followed, group: &Group, axis: u64) -> Markup {
    let item = &followed.run.plan.items[group.item];
    let open = group.instances.len() <= UNFOLDED;
    html! {
        details.group open[open] {
            summary {
                span.name { (breakable(&item.name)) } " "
                span.kind { (item.kind) } " "
                span #(format!("g{}", group.item)) { (summary(followed, &group.instances)) }
            }
            table.stages {
                caption.hidden { "Instances of " (item.name) }
                thead.hidden { tr { th { "instance" } th { "state" } th { "time line" } th { "time" } } }
                tbody {
                    @for i in &group.instances { tr #(format!("s{i}")) { (cells(followed, *i, axis)) } }
                }
            }
        }
    }
}

fn summary(followed: &Followed, instances: &[u32]) -> Markup {
    let states: Vec<StageState> = instances.iter().map(|i| followed.stage_state(*i)).collect();
    html! { @if let Some(p) = headstart_history::graph::progress(&states) { span class=(format!("state {}", p.state.word())) { span.mark aria-hidden="true" {} (p.text) } } }
}

fn cells(followed: &Followed, instance: u32, axis: u64) -> Markup {
    let run = &followed.run;
    let inst = run.state.instance(instance);
    let span = followed.span(instance);
    let at = followed.stage_state(instance);
    html! {
        th scope="row" { a href=(format!("/runs/{}/stages/{instance}", in_path(&run.id))) { (breakable(&inst.name)) } }
        td { (state(at)) }
        td.line aria-hidden="true" { (bar(followed, span, at, axis)) }
        td.n { (took(followed, span, at)) }
    }
}

fn took(followed: &Followed, span: Span, at: StageState) -> Markup {
    let progress = |s: Span| {
        let end = s.ended_ms.unwrap_or_else(|| followed.last_ms());
        s.started_ms.map(|start| seconds(end.saturating_sub(start) as f64 / 1000.0))
    };
    html! { @if at != StageState::Cached { @if let Some(text) = progress(span) { (text) } } }
}

/// A step of the time line: it grows by leaps, so that bars stay where they are.
fn axis_ms(followed: &Followed) -> u64 {
    let elapsed = followed.last_ms().saturating_sub(followed.run.started_ms()).max(1);
    if !followed.run.live {
        return elapsed;
    }
    let wanted = elapsed + elapsed / 4;
    let mut step = 10_000;
    while step < wanted {
        step = step * 3 / 2;
    }
    step
}

fn scale(axis: u64) -> Markup {
    html! { "line: " (seconds(axis as f64 / 1000.0)) }
}

fn bar(followed: &Followed, span: Span, at: StageState, axis: u64) -> Markup {
    let origin = followed.run.started_ms();
    let x = |ms: u64| (ms.saturating_sub(origin) as f64 / axis as f64 * BAR).min(BAR);
    let now = if followed.run.live { followed.last_ms() } else { span.started_ms.unwrap_or(origin) };
    let end = span.ended_ms.unwrap_or(now);
    let part = |class: &str, from: u64, to: u64| {
        let (from, to) = (x(from), x(to));
        html! { @if to > from || class != "waits" { rect class=(class) x=(px(from)) y="1" width=(px((to - from).max(3.0))) height="8" {} } }
    };
    let runs = if at.is_failure() || at == StageState::Interrupted { "fails" } else { "runs" };
    html! {
        svg viewBox="0 0 1000 10" preserveAspectRatio="none" {
            @if let Some(ready) = span.ready_ms { (part("waits", ready, span.started_ms.unwrap_or(end))) }
            @if at == StageState::Cached { (part("cache", end, end)) }
            @else if let Some(start) = span.started_ms {
                @if let Some(computed) = span.computed_seconds {
                    @let begun = end.saturating_sub((computed * 1000.0) as u64).max(start);
                    (part("moves", start, begun)) (part(runs, begun, end))
                } @else { (part(runs, start, end)) }
            }
        }
    }
}

/// What has changed for a reader, as contents of elements by id; what was shown is brought up to date.
pub(crate) fn changes(followed: &Followed, shown: &mut Shown) -> Changes {
    let mut out = Changes::new();
    let axis = axis_ms(followed);
    let moved = axis != shown.axis_ms;
    let running: BTreeSet<u32> = followed.run.state.running().map(|(_, i)| i).collect();
    let mut rows: BTreeSet<u32> = followed.changed_since(shown.events).collect();
    if moved {
        rows = (0..followed.run.plan.instances.len() as u32).collect();
        out.insert("axis".to_owned(), fragment(&scale(axis)));
    } else if followed.run.live {
        rows.extend(running.union(&shown.running));
    }
    let items: BTreeSet<usize> = followed
        .changed_since(shown.events)
        .map(|i| followed.run.state.instance(i).item as usize)
        .collect();
    for i in &rows {
        out.insert(format!("s{i}"), fragment(&cells(followed, *i, axis)));
    }
    for group in groups(followed).iter().filter(|g| items.contains(&g.item)) {
        out.insert(format!("g{}", group.item), fragment(&summary(followed, &group.instances)));
    }
    let tally = followed.run.tally();
    if tally != shown.tally {
        out.insert("tally".to_owned(), fragment(&html! { (tally) }));
        if followed.run.plan.items.len() <= LARGEST_GRAPH {
            let graph = fragment(&graph(followed));
            if graph != shown.graph {
                out.insert("graph".to_owned(), graph.clone());
                shown.graph = graph;
            }
        }
        shown.tally = tally;
    }
    if followed.run.live || shown.live {
        // By the events' own clock: the last one is never in the future.
        out.insert("head".to_owned(), fragment(&head(followed.last_ms(), followed)));
    }
    shown.events = followed.events();
    shown.axis_ms = axis;
    shown.running = running;
    shown.live = followed.run.live;
    out
}
