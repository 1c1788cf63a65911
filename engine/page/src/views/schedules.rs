//! Schedules: when they fire next and why then, what became of their fires; pause, resume, run now.

use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Redirect, Response};
use axum::{Extension, Form};
use headstart_protocol::text::counted;
use headstart_scheduler::{Happened, Request, ScheduleId, State as Schedule, why_then};
use jiff::Timestamp;
use maud::{Markup, html};
use serde::Deserialize;

use crate::app::App;
use crate::layout::{self, Page, Section, breakable, in_path, moment, word};
use crate::reply::{blocking, page};
use crate::sessions::Visitor;

/// Next fires that are shown.
const NEXT: usize = 5;
/// Entries of the past that are shown.
const PAST: usize = 25;
/// How long the server may take to take a request before the page is shown again.
const TAKEN_WITHIN: Duration = Duration::from_millis(2500);

pub(crate) async fn show(State(app): State<App>, Extension(visitor): Extension<Visitor>) -> Response {
    blocking(move || {
        let (mut states, mut wrong) = (Vec::new(), Vec::new());
        for state in app.folder.list() {
            match state {
                Ok(state) => states.push(state),
                Err(e) => wrong.push((e.to_string(), e.help())),
            }
        }
        let now = app.now();
        let body = html! {
            h1 { "Schedules" }
            @for (what, help) in &wrong {
                p.bad { (what) }
                @if let Some(help) = help { p.note { "help: " (help) } }
            }
            @if states.is_empty() && wrong.is_empty() {
                p.empty { "No schedules. A pipeline file has them: " code { "schedule nightly { cron: \"0 3 * * *\", timezone: \"UTC\" }" } }
            }
            @for s in &states { (schedule(s, now, visitor.may_change())) }
        };
        page(Page { title: "Schedules".into(), section: Section::Schedules, visitor: Some(&visitor), live: None, body })
    })
    .await
}

fn schedule(s: &Schedule, now: Timestamp, may_change: bool) -> Markup {
    html! {
        section {
            h2 { (breakable(&s.name)) }
            p.facts {
                (word(s.word())) span { "of " code { (breakable(&s.file)) } }
                @if !s.waiting.is_empty() { span { (counted(s.waiting.len() as u64, "fire")) " waiting" } }
                @if s.skipped() > 0 { span { (counted(s.skipped(), "fire")) " skipped lately" } }
            }
            @if may_change && s.policy.is_some() { (buttons(s)) }
            div.columns {
                div { h3 { "Next" } (next(s, now)) }
                div { h3 { "Lately" } (past(s)) }
            }
        }
    }
}

fn buttons(s: &Schedule) -> Markup {
    let toggle = if s.paused { ("resume", "Resume") } else { ("pause", "Pause") };
    html! {
        form.actions method="post" action="/schedules" {
            input type="hidden" name="file" value=(s.file);
            input type="hidden" name="name" value=(s.name);
            button type="submit" name="action" value="run" { "Run now" span.hidden { ": " (s.name) } }
            button type="submit" name="action" value=(toggle.0) { (toggle.1) span.hidden { ": " (s.name) } }
        }
    }
}

fn next(s: &Schedule, now: Timestamp) -> Markup {
    let Some(policy) = &s.policy else { return html! { p.note { "The file does not have it any more." } } };
    let spec = policy.spec().ok().flatten();
    html! {
        @if let Some(spec) = &spec {
            p { code { (policy.cron.as_deref().unwrap_or_default()) } " in " (policy.timezone) }
            @if s.paused { p.note { "Paused: its times are skipped." } }
            ol.fires {
                @for f in spec.fires(now).take(NEXT) {
                    li {
                        (f.instant.to_zoned(spec.zone().clone()).strftime("%a %Y-%m-%d %H:%M %Z").to_string())
                        span.sub { (moment(f.instant)) @if let Some(why) = why_then(f.why) { ", " (why) } }
                    }
                }
            }
        }
        @for pattern in &policy.when_changed { p { "When what " code { (pattern) } " matches changes" } }
        @for other in &policy.after { p { "When a run of " code { (other) } " succeeds" } }
        @for hook in &policy.webhooks { p { "When a signed call to " code { "/hooks/" (hook) } " comes" } }
        p.note { "overlap: " (policy.overlap.word()) ", catchup: " (policy.catchup.word()) }
    }
}

fn past(s: &Schedule) -> Markup {
    html! {
        @if s.history.is_empty() { p.note { "Nothing yet." } }
        ol.past {
            @for entry in s.history.iter().rev().take(PAST) {
                li { (moment(entry.at)) " " (happened(&entry.happened)) }
            }
        }
    }
}

/// What happened, with a link where it is a run.
fn happened(what: &Happened) -> Markup {
    let words = what.words();
    let run = match what {
        Happened::Started { run, .. }
        | Happened::Resumed { run }
        | Happened::Cancelled { run }
        | Happened::Ended { run, .. } => Some(run),
        _ => None,
    };
    let parts = run.and_then(|run| Some((run, words.split_once(run.as_str())?)));
    html! {
        @if let Some((run, (before, after))) = parts {
            (before) a.run href=(format!("/runs/{}", in_path(run))) { (breakable(run)) } (after)
        } @else { (words) }
    }
}

/// What an operator asks for.
#[derive(Deserialize)]
pub(crate) struct Wish {
    file: String,
    name: String,
    action: String,
}

pub(crate) async fn change(State(app): State<App>, Form(wish): Form<Wish>) -> Response {
    let now = app.now();
    let request = match wish.action.as_str() {
        "pause" => Request::Pause,
        "resume" => Request::Resume,
        "run" => Request::Run { at: now },
        _ => return layout::refusal(StatusCode::BAD_REQUEST, "There is no such action."),
    };
    let id = ScheduleId { file: wish.file, name: wish.name };
    let (folder, asks) = (app.folder.clone(), id.clone());
    let asked = tokio::task::spawn_blocking(move || match folder.read(&asks) {
        Ok(Some(_)) => folder.ask(&asks, &request, now).map(|()| true),
        Ok(None) => Ok(false),
        Err(e) => Err(e),
    });
    match asked.await {
        Ok(Ok(true)) => {}
        Ok(Ok(false)) => return layout::refusal(StatusCode::NOT_FOUND, "There is no such schedule."),
        Ok(Err(e)) => {
            tracing::error!("{e}");
            return layout::refusal(
                StatusCode::INTERNAL_SERVER_ERROR,
                &format!("The request cannot be kept: {e}"),
            );
        }
        Err(_) => return layout::refusal(StatusCode::INTERNAL_SERVER_ERROR, "The page failed."),
    }
    // The page that follows shows what became of it, where the server is quick enough.
    let taken = async {
        while app.folder.has_requests(&id) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let _ = tokio::time::timeout(TAKEN_WITHIN, taken).await;
    Redirect::to("/schedules").into_response()
}
