//! Checks before a request is read. Nothing of a body is looked at before all of them have passed.

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use headstart_driver::hub::{Session, codes};
use headstart_protocol::Digest;
use headstart_protocol::wire::{BODY_DIGEST, DEVICE_KEY, REQUEST_SIGNATURE, SESSION};
use headstart_transport::PublicKey;
use headstart_transport::proof::RequestClaim;

use crate::app::App;
use crate::connection::Connection;
use crate::reply::Refusal;

/// Who calls, proven.
#[derive(Clone, Copy)]
pub(crate) struct Caller {
    pub(crate) key: PublicKey,
    /// The digest that the body must have, where the caller signed it.
    pub(crate) body: Option<Digest>,
}

/// Lets nothing through that no device would send, and finds out who calls.
pub(crate) async fn check(State(app): State<App>, request: Request, next: Next) -> Response {
    let (mut parts, body) = request.into_parts();
    let Some(connection) = parts.extensions.get::<Connection>().cloned() else {
        return Refusal::internal("the request has no connection", &"a defect").into_response();
    };
    match checked(&app, &connection, &parts) {
        Ok(caller) => {
            parts.extensions.insert(caller);
            answered(&connection, next.run(Request::from_parts(parts, body)).await)
        }
        Err(refusal) => refused(&connection, refusal, body),
    }
}

/// Lets only sessions through.
pub(crate) async fn session(State(app): State<App>, request: Request, next: Next) -> Response {
    let (mut parts, body) = request.into_parts();
    let (caller, connection) = (parts.extensions.get::<Caller>(), parts.extensions.get::<Connection>());
    let (Some(caller), Some(connection)) = (caller.copied(), connection.cloned()) else {
        return Refusal::internal("the request has no caller", &"a defect").into_response();
    };
    let hub = app.hub.clone();
    let token = session_of(&parts.headers).to_owned();
    // The list of devices may have to be read again.
    let known = tokio::task::spawn_blocking(move || hub.authenticate(&caller.key, &token)).await;
    let known: Result<Session, Refusal> = match known {
        Ok(known) => known.map_err(Refusal::from),
        Err(e) => Err(Refusal::internal("the engine failed", &e)),
    };
    match known {
        Ok(session) => {
            connection.is_of(caller.key);
            parts.extensions.insert(session);
            next.run(Request::from_parts(parts, body)).await
        }
        Err(refusal) => refused(&connection, refusal, body),
    }
}

/// A refusal of a request whose body stays unread.
fn refused(connection: &Connection, refusal: Refusal, body: Body) -> Response {
    drop(body);
    connection.refused();
    close(refusal.into_response())
}

/// What handlers refuse may be unread too.
fn answered(connection: &Connection, response: Response) -> Response {
    let unread = matches!(response.status(), StatusCode::PAYLOAD_TOO_LARGE | StatusCode::LENGTH_REQUIRED);
    if !unread {
        return response;
    }
    connection.refused();
    close(response)
}

fn close(mut response: Response) -> Response {
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

fn checked(app: &App, connection: &Connection, parts: &Parts) -> Result<Caller, Refusal> {
    let mut hosts = parts.headers.get_all(header::HOST).iter();
    let host = hosts.next().and_then(|h| h.to_str().ok()).filter(|_| hosts.next().is_none());
    if !host.is_some_and(|host| app.hub.is_served_as(host)) {
        let message =
            "this engine is not reached under that name; `headstart devices invite --url` names others";
        return Err(Refusal::new(StatusCode::MISDIRECTED_REQUEST, codes::INVALID, message));
    }
    if parts.headers.contains_key(header::ORIGIN) || parts.headers.contains_key("sec-fetch-site") {
        let message = "web pages have no business here";
        return Err(Refusal::new(StatusCode::FORBIDDEN, codes::INVALID, message));
    }
    if parts.method == Method::POST && !is_json(&parts.headers) {
        let message = "the content type must be application/json";
        return Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, codes::INVALID, message));
    }
    match connection.key {
        Some(key) => Ok(Caller { key, body: None }),
        None => signed(app, parts),
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    let mut types = headers.get_all(header::CONTENT_TYPE).iter();
    let first = types.next().and_then(|v| v.to_str().ok()).filter(|_| types.next().is_none());
    first.and_then(|v| v.split(';').next()).is_some_and(|v| v.trim().eq_ignore_ascii_case("application/json"))
}

/// The session that a request names.
fn session_of(headers: &HeaderMap) -> &str {
    headers.get(SESSION).and_then(|v| v.to_str().ok()).unwrap_or_default()
}

/// Who calls without TLS: whoever signed the request.
fn signed(app: &App, parts: &Parts) -> Result<Caller, Refusal> {
    let unproven =
        |why: &str| Refusal::new(StatusCode::UNAUTHORIZED, codes::UNPROVEN, format!("the request {why}"));
    let text = |name| parts.headers.get(name).and_then(|v| v.to_str().ok());
    let (Some(key), Some(body), Some(signature)) =
        (text(DEVICE_KEY), text(BODY_DIGEST), text(REQUEST_SIGNATURE))
    else {
        return Err(unproven("is not signed by a device"));
    };
    let key: PublicKey = key.parse().map_err(|_| unproven("states no key"))?;
    let digest: Digest = body.parse().map_err(|_| unproven("states no digest of its body"))?;
    let engine = app.hub.identity().public();
    let claim = RequestClaim {
        engine: &engine,
        method: parts.method.as_str(),
        path: parts.uri.path(),
        session: session_of(&parts.headers),
        body,
    };
    if !claim.verify(&key, signature) {
        return Err(unproven("is not signed by the key that it states"));
    }
    Ok(Caller { key, body: Some(digest) })
}
