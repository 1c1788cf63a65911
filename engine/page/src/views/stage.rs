//! A stage instance of a run: its attempts, why it ran, and its log.

use std::io::{Read, Seek, SeekFrom};

use axum::Extension;
use axum::extract::{Path, State};
use axum::response::Response;
use headstart_core::{EventKind, Status};
use headstart_disk::read;
use headstart_dsl::plan::Place;
use headstart_history::Recorded;
use headstart_report::text::seconds;
use headstart_store::Workspace;
use maud::{Markup, html};

use crate::app::App;
use crate::layout::{Page, Section, breakable, in_path, state, time};
use crate::reply::{blocking, no_run, not_found, page};
use crate::sessions::Visitor;

/// Bytes of a log that are shown: the last ones.
const SHOWN: u64 = 64 << 10;

pub(crate) async fn show(
    State(app): State<App>,
    Extension(visitor): Extension<Visitor>,
    Path((id, instance)): Path<(String, u32)>,
) -> Response {
    let missing = not_found().await;
    blocking(move || {
        let run = match headstart_history::read(app.ws(), &id) {
            Ok(run) => run,
            Err(e) => return no_run(&e),
        };
        if instance as usize >= run.plan.instances.len() {
            return missing;
        }
        let name = run.state.instance(instance).name.clone();
        let body = body(&app, &run, instance);
        page(Page { title: name, section: Section::Runs, visitor: Some(&visitor), live: None, body })
    })
    .await
}

fn body(app: &App, run: &Recorded, instance: u32) -> Markup {
    let inst = run.state.instance(instance);
    let item = &run.plan.items[inst.item as usize];
    let status = run.state.status(instance);
    let place = match &inst.place {
        Place::Server => "server".to_owned(),
        Place::Device(d) => format!("device {d}"),
    };
    let attempts = attempts(run, instance);
    html! {
        p.eyebrow { a href=(format!("/runs/{}", in_path(&run.id))) { "Run " (breakable(&run.id)) } }
        h1 { (breakable(&inst.name)) }
        p.facts {
            (state(run.stage_state(instance, status))) span { (inst.kind) } span { (place) }
            @if inst.private_to.is_some() { span { "private" } }
        }
        @if !item.doc.is_empty() { p.note { (item.doc) } }
        @if let Status::Failed(f) = status {
            p.message.bad { (f.message) }
            @if let Some(help) = &f.help { p.note { "help: " (help) } }
        }
        section #why {
            h2 { "Why" }
            @match app.details.why(run, instance) {
                Ok(lines) => ul.plain { @for line in &lines { li { (line) } } },
                Err(why) => p.bad { (why) },
            }
        }
        @if !attempts.is_empty() {
            section #attempts {
                h2 { "Attempts" }
                table {
                    thead { tr { th { "attempt" } th { "runner" } th { "began" } th.n { "took" } th { "ended" } } }
                    tbody { @for a in &attempts { (a.row()) } }
                }
            }
            @for a in &attempts { (log(app.ws(), run, a)) }
        }
    }
}

/// An attempt, from the run's events.
struct Attempt {
    number: u32,
    fence: u64,
    runner: String,
    started_ms: u64,
    ended: Option<(u64, String)>,
}

fn attempts(run: &Recorded, instance: u32) -> Vec<Attempt> {
    let mut all: Vec<Attempt> = Vec::new();
    for event in run.events.iter().filter(|e| e.kind.instance() == Some(instance)) {
        if let EventKind::AttemptStarted { attempt, fence, runner, .. } = &event.kind {
            let (number, fence, runner) = (*attempt, *fence, runner.clone());
            all.push(Attempt { number, fence, runner, started_ms: event.at_ms, ended: None });
            continue;
        }
        let (fence, how) = match &event.kind {
            EventKind::Committed { fence, .. } => (*fence, "succeeded".to_owned()),
            EventKind::Failed { fence: Some(fence), failure, .. } => {
                (*fence, format!("failed: {}", failure.message))
            }
            EventKind::LeaseExpired { fence, .. } => (*fence, "lost".to_owned()),
            EventKind::Superseded { fence, .. } => (*fence, "superseded".to_owned()),
            _ => continue,
        };
        if let Some(a) = all.iter_mut().find(|a| a.fence == fence) {
            a.ended = Some((event.at_ms, how));
        }
    }
    all
}

impl Attempt {
    fn row(&self) -> Markup {
        html! {
            tr {
                th scope="row" { (self.number) }
                td { (self.runner) }
                td.time { (time(self.started_ms)) }
                td.n { @if let Some((at, _)) = &self.ended { (seconds(at.saturating_sub(self.started_ms) as f64 / 1000.0)) } }
                td { @if let Some((_, how)) = &self.ended { (how) } @else { "running" } }
            }
        }
    }
}

/// What the stage has written during an attempt; nothing where it wrote nothing.
fn log(ws: &Workspace, run: &Recorded, attempt: &Attempt) -> Markup {
    let path = ws.dir().join("runs").join(&run.id).join(format!("logs/{}.log", attempt.fence));
    let Ok((text, left_out)) = tail(&path) else { return html! {} };
    html! {
        section {
            h2 { "Log of attempt " (attempt.number) }
            @if left_out > 0 { p.note { "The first " (headstart_protocol::text::bytes(left_out)) " are left out. All of it: " code { "headstart logs " (run.id) " STAGE" } } }
            div.scroll tabindex="0" role="group" aria-label="Log" { pre { (text) } }
        }
    }
}

/// The end of a file, and how many bytes come before it.
fn tail(path: &std::path::Path) -> std::io::Result<(String, u64)> {
    let mut file = read::open(path)?;
    let length = file.metadata()?.len();
    let from = length.saturating_sub(SHOWN);
    file.seek(SeekFrom::Start(from))?;
    let bytes = read::stream(file.take(SHOWN), SHOWN)?;
    Ok((String::from_utf8_lossy(&bytes).into_owned(), from))
}
