//! Signing in and out.

use axum::Form;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Redirect, Response};
use maud::html;
use serde::Deserialize;

use crate::app::App;
use crate::guard;
use crate::layout::{self, Page, Section};
use crate::sessions::LONGEST_MS;

pub(crate) async fn show() -> Response {
    form(None)
}

fn form(wrong: Option<&str>) -> Response {
    let body = html! {
        div.door {
            h1 { "Sign in" }
            form method="post" action="/sign-in" {
                label for="token" { "Token" }
                input #token type="password" name="token" required autofocus autocomplete="current-password" spellcheck="false"
                    aria-describedby=(if wrong.is_some() { "wrong" } else { "hint" }) aria-invalid=[wrong.map(|_| "true")];
                @if let Some(wrong) = wrong { p.bad #wrong role="alert" { (wrong) } }
                button type="submit" { "Sign in" }
            }
            p.note #hint { "On the machine that serves this page, " code { "headstart tokens create NAME" } " makes a token." }
        }
    };
    let page = Page { title: "Sign in".into(), section: Section::None, visitor: None, live: None, body };
    let status = if wrong.is_some() { StatusCode::UNAUTHORIZED } else { StatusCode::OK };
    (status, page).into_response()
}

#[derive(Deserialize)]
pub(crate) struct Entry {
    token: String,
}

pub(crate) async fn enter(State(app): State<App>, Form(entry): Form<Entry>) -> Response {
    match app.sessions.begin(&entry.token) {
        Ok(Some(id)) => with_cookie(&app, &id, LONGEST_MS / 1000, Redirect::to("/runs").into_response()),
        Ok(None) => form(Some("This is no token of this workspace, or it was revoked.")),
        Err(e) => {
            tracing::error!("no session can begin: {e}");
            layout::refusal(
                StatusCode::INTERNAL_SERVER_ERROR,
                "No session can begin; the server's log says why.",
            )
        }
    }
}

pub(crate) async fn leave(State(app): State<App>, headers: HeaderMap) -> Response {
    if let Some(id) = guard::session_id(&app, &headers) {
        app.sessions.end(id);
    }
    with_cookie(&app, "", 0, Redirect::to("/sign-in").into_response())
}

fn with_cookie(app: &App, value: &str, seconds: u64, mut response: Response) -> Response {
    let secure = if app.origins.is_secure() { "; Secure" } else { "" };
    let name = app.cookie();
    let cookie = format!("{name}={value}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Strict{secure}");
    match HeaderValue::from_str(&cookie) {
        Ok(cookie) => {
            response.headers_mut().insert(header::SET_COOKIE, cookie);
            response
        }
        Err(_) => layout::refusal(StatusCode::INTERNAL_SERVER_ERROR, "No session can begin."),
    }
}
