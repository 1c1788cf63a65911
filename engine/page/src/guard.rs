//! Checks before a request is handled: host, origin, session, role; and the headers of every answer.

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Redirect, Response};

use crate::app::App;
use crate::layout;
use crate::sessions::Visitor;

/// What a browser may do with the page: its own style and script, and nothing else.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                      form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// Refuses what no page of ours sends, and sets the headers of every answer.
pub(crate) async fn check(State(app): State<App>, request: Request, next: Next) -> Response {
    let mut response = match wrong(&app, &request) {
        Some((status, why)) => layout::refusal(status, why),
        None => next.run(request).await,
    };
    let headers = response.headers_mut();
    let mut set = |name: header::HeaderName, value: &'static str| {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    };
    set(header::CONTENT_SECURITY_POLICY, POLICY);
    set(header::X_CONTENT_TYPE_OPTIONS, "nosniff");
    // With `no-referrer`, browsers would send the origin of forms as `null`.
    set(header::REFERRER_POLICY, "same-origin");
    set(header::X_FRAME_OPTIONS, "DENY");
    set(header::CACHE_CONTROL, "no-store");
    set(header::HeaderName::from_static("cross-origin-opener-policy"), "same-origin");
    set(header::HeaderName::from_static("cross-origin-resource-policy"), "same-origin");
    if app.origins.is_secure() {
        set(header::STRICT_TRANSPORT_SECURITY, "max-age=31536000");
    }
    response
}

/// Why a request is refused before anybody looks at it.
fn wrong(app: &App, request: &Request) -> Option<(StatusCode, &'static str)> {
    let headers = request.headers();
    if !one(headers, header::HOST).is_some_and(|host| app.origins.has_host(host)) {
        let why = "The page is not reached under that name. `headstart serve --page-url` names another.";
        return Some((StatusCode::MISDIRECTED_REQUEST, why));
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD | Method::POST) {
        return Some((StatusCode::METHOD_NOT_ALLOWED, "The page knows only GET and POST."));
    }
    // Webhooks are signed, and no browser sends them.
    if request.method() == Method::POST && !request.uri().path().starts_with("/hooks/") {
        let own = one(headers, header::ORIGIN).is_some_and(|origin| app.origins.has(origin));
        let site = headers.get("sec-fetch-site").map(HeaderValue::as_bytes);
        if !own || site.is_some_and(|s| s != b"same-origin") {
            return Some((StatusCode::FORBIDDEN, "Only the page itself may ask for this."));
        }
    }
    None
}

/// Lets through only who is signed in; what changes something, only from operators.
pub(crate) async fn signed_in(State(app): State<App>, request: Request, next: Next) -> Response {
    let (mut parts, body) = request.into_parts();
    let visitor = visitor(&app, &parts.headers);
    let Some(visitor) = visitor else {
        if parts.method == Method::GET && accepts_html(&parts.headers) {
            return Redirect::to("/sign-in").into_response();
        }
        let mut refused = layout::refusal(StatusCode::UNAUTHORIZED, "Sign in first.");
        refused.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        return refused;
    };
    if parts.method == Method::POST && !visitor.may_change() {
        return layout::refusal(StatusCode::FORBIDDEN, "This token is read-only.");
    }
    parts.extensions.insert(visitor);
    next.run(Request::from_parts(parts, Body::new(body))).await
}

/// Who asks, by a session or, for programs, by a token.
fn visitor(app: &App, headers: &HeaderMap) -> Option<Visitor> {
    if let Some(bearer) = one(headers, header::AUTHORIZATION).and_then(|v| v.strip_prefix("Bearer ")) {
        return app.sessions.of_token(bearer);
    }
    app.sessions.of(session_id(app, headers)?)
}

/// The session that a request names.
pub(crate) fn session_id<'a>(app: &App, headers: &'a HeaderMap) -> Option<&'a str> {
    let name = app.cookie();
    let all = headers.get_all(header::COOKIE).iter().filter_map(|v| v.to_str().ok());
    let mut pairs = all.flat_map(|v| v.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(key, _)| *key == name).map(|(_, value)| value)
}

fn accepts_html(headers: &HeaderMap) -> bool {
    one(headers, header::ACCEPT).is_some_and(|v| v.contains("text/html"))
}

/// The value of a header that is there once.
fn one(headers: &HeaderMap, name: header::HeaderName) -> Option<&str> {
    let mut all = headers.get_all(name).iter();
    let first = all.next()?;
    all.next().is_none().then(|| first.to_str().ok()).flatten()
}
