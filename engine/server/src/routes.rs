//! A handler for each call.

use std::time::Instant;

use axum::body::{Body, HttpBody};
use axum::extract::{Path, Request, State};
use axum::http::StatusCode;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use headstart_driver::Hub;
use headstart_driver::hub::{Session, codes};
use headstart_protocol::Digest;
use headstart_protocol::wire::{Claim, Commit, CommitResult, Hello, Join, Renew, WireError};
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;

use crate::app::{App, digest};
use crate::blob;
use crate::connection::Connection;
use crate::guard::{self, Caller};
use crate::limits::Limits;
use crate::reply::Refusal;

/// Longest body of a join, claim or renewal, in bytes.
const SMALL: usize = 256 << 10;
/// Longest body of a commit, which may carry manifests, in bytes.
const LARGE: usize = 16 << 20;
/// Longest wait for work, in milliseconds; proxies tend to cut a silent connection after a minute.
const LONGEST_WAIT_MS: u64 = 50_000;

pub(crate) fn router(hub: Hub, limits: Limits, closing: CancellationToken) -> Router {
    let app = App { hub, limits, closing };
    let sessions = Router::new()
        .route("/v1/claim", post(claim))
        .route("/v1/renew", post(renew))
        .route("/v1/commit", post(commit))
        .route("/v1/artifacts/{id}", get(manifest))
        .route("/v1/blobs/{digest}", get(blob::get).put(blob::put))
        .route_layer(middleware::from_fn_with_state(app.clone(), guard::session));
    Router::new()
        .route("/v1/hello", post(hello))
        .route("/v1/join", post(join))
        .merge(sessions)
        .fallback(async || Refusal::new(StatusCode::NOT_FOUND, codes::NOT_FOUND, "there is no such call"))
        .method_not_allowed_fallback(async || {
            Refusal::new(StatusCode::METHOD_NOT_ALLOWED, codes::INVALID, "this call has another method")
        })
        .layer(middleware::from_fn_with_state(app.clone(), guard::check))
        .layer(middleware::from_fn(log))
        .with_state(app)
}

/// Logs each request: never its body, and of its path only what is no artifact's name.
async fn log(request: Request, next: Next) -> Response {
    let method = request.method().clone();
    let call = request.uri().path().split('/').take(3).collect::<Vec<_>>().join("/");
    let started = Instant::now();
    let response = next.run(request).await;
    let status = response.status().as_u16();
    let ms = started.elapsed().as_millis();
    tracing::debug!(%method, call, status, ms, "request");
    response
}

async fn hello(State(app): State<App>, Extension(caller): Extension<Caller>, body: Body) -> Answer {
    let (hello, _): (Hello, _) = read(&app, &caller, body, SMALL).await?;
    Ok(Json(app.hub.hello(&caller.key, &hello)?).into_response())
}

async fn join(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Extension(connection): Extension<Connection>,
    body: Body,
) -> Answer {
    let (join, _): (Join, _) = read(&app, &caller, body, SMALL).await?;
    let answer = blocking(move || app.hub.join(&caller.key, &join)).await?;
    connection.is_of(caller.key);
    Ok(answer)
}

async fn claim(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Extension(session): Extension<Session>,
    body: Body,
) -> Answer {
    let (mut claim, _): (Claim, _) = read(&app, &caller, body, SMALL).await?;
    claim.wait_ms = claim.wait_ms.min(LONGEST_WAIT_MS);
    let granted = tokio::select! {
        granted = app.hub.claim(&session, claim) => granted?,
        () = app.closing.cancelled() => None,
    };
    Ok(granted.map_or_else(|| StatusCode::NO_CONTENT.into_response(), |g| Json(g).into_response()))
}

async fn renew(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Extension(session): Extension<Session>,
    body: Body,
) -> Answer {
    let (renew, _): (Renew, _) = read(&app, &caller, body, SMALL).await?;
    blocking(move || app.hub.renew(&session, renew)).await
}

async fn commit(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Extension(session): Extension<Session>,
    body: Body,
) -> Answer {
    let (commit, digest): (Commit, _) = read(&app, &caller, body, LARGE).await?;
    let (signed, answer) = app.hub.commit(&session, commit, digest).await?;
    let status = match answer {
        CommitResult::Taken { .. } => StatusCode::OK,
        CommitResult::Waits { .. } => StatusCode::ACCEPTED,
        CommitResult::Refused { .. } => StatusCode::UNPROCESSABLE_ENTITY,
    };
    Ok((status, Json(signed)).into_response())
}

async fn manifest(
    State(app): State<App>,
    Extension(session): Extension<Session>,
    Path(id): Path<String>,
) -> Answer {
    let id = digest(&id)?;
    blocking(move || app.hub.manifest(&session, &id)).await
}

type Answer = Result<Response, Refusal>;

/// Calls the hub where it may touch the disk.
async fn blocking<T: serde::Serialize + Send + 'static>(
    call: impl FnOnce() -> Result<T, WireError> + Send + 'static,
) -> Answer {
    let done = tokio::task::spawn_blocking(call).await;
    let done = done.map_err(|e| Refusal::internal("the engine failed", &e))?;
    Ok(Json(done?).into_response())
}

/// Reads a message of at most `most` bytes, and its digest.
async fn read<T: DeserializeOwned>(
    app: &App,
    caller: &Caller,
    body: Body,
    most: usize,
) -> Result<(T, Digest), Refusal> {
    let too_large = || {
        let message = format!("the message is longer than {most} bytes");
        Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, codes::INVALID, message)
    };
    if body.size_hint().lower() > most as u64 {
        return Err(too_large());
    }
    let bytes = match tokio::time::timeout(app.limits.body, axum::body::to_bytes(body, most)).await {
        Ok(Ok(bytes)) => bytes,
        Ok(Err(e)) if is_length_limit(&e) => return Err(too_large()),
        Ok(Err(_)) => return Err(Refusal::invalid("the message broke off")),
        Err(_) => {
            let message = "the message did not arrive in time";
            return Err(Refusal::new(StatusCode::REQUEST_TIMEOUT, codes::INVALID, message));
        }
    };
    let digest = Digest::of(&bytes);
    if caller.body.is_some_and(|signed| signed != digest) {
        let message = "the message is not the one that the device signed";
        return Err(Refusal::new(StatusCode::UNAUTHORIZED, codes::UNPROVEN, message));
    }
    let message = serde_json::from_slice(&bytes);
    Ok((message.map_err(|e| Refusal::invalid(format!("the message cannot be read: {e}")))?, digest))
}

fn is_length_limit(e: &axum::Error) -> bool {
    let mut next: Option<&dyn std::error::Error> = Some(e);
    while let Some(e) = next {
        if e.to_string().contains("length limit") {
            return true;
        }
        next = e.source();
    }
    false
}
