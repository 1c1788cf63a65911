//! A handler for each call.

use std::time::Instant;

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, Path, Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use headstart_driver::Hub;
use headstart_driver::hub::codes;
use headstart_protocol::wire::{Claim, Commit, Join, Renew};
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;

use crate::app::{App, digest, token};
use crate::blob;
use crate::reply::Refusal;

/// Longest body of a join, claim or renewal, in bytes.
const SMALL: usize = 256 << 10;
/// Longest body of a commit, which may carry manifests, in bytes.
const LARGE: usize = 16 << 20;
/// Longest wait for work, in milliseconds; proxies tend to cut a silent connection after a minute.
const LONGEST_WAIT_MS: u64 = 50_000;

pub(crate) fn router(hub: Hub, closing: CancellationToken) -> Router {
    Router::new()
        .route("/v1/join", post(join))
        .route("/v1/claim", post(claim))
        .route("/v1/renew", post(renew))
        .layer(DefaultBodyLimit::max(SMALL))
        .route("/v1/commit", post(commit).layer(DefaultBodyLimit::max(LARGE)))
        .route("/v1/artifacts/{id}", get(manifest))
        .route("/v1/blobs/{digest}", get(blob::get).put(blob::put))
        .fallback(async || Refusal::new(StatusCode::NOT_FOUND, codes::NOT_FOUND, "there is no such call"))
        .method_not_allowed_fallback(async || {
            Refusal::new(StatusCode::METHOD_NOT_ALLOWED, codes::INVALID, "this call has another method")
        })
        .layer(middleware::from_fn(log))
        .with_state(App { hub, closing })
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

async fn join(State(app): State<App>, body: Body) -> Answer {
    let join: Join = read(body)?;
    blocking(move || app.hub.join(join)).await
}

async fn claim(State(app): State<App>, headers: HeaderMap, body: Body) -> Answer {
    let mut claim: Claim = read(body)?;
    claim.wait_ms = claim.wait_ms.min(LONGEST_WAIT_MS);
    let token = token(&headers)?;
    let grant = tokio::select! {
        grant = app.hub.claim(token, claim) => grant?,
        () = app.closing.cancelled() => None,
    };
    Ok(match grant {
        Some(grant) => Json(grant).into_response(),
        None => StatusCode::NO_CONTENT.into_response(),
    })
}

async fn renew(State(app): State<App>, headers: HeaderMap, body: Body) -> Answer {
    let renew: Renew = read(body)?;
    let token = token(&headers)?.to_owned();
    blocking(move || app.hub.renew(&token, renew)).await
}

async fn commit(State(app): State<App>, headers: HeaderMap, body: Body) -> Answer {
    let commit: Commit = read(body)?;
    Ok(Json(app.hub.commit(token(&headers)?, commit).await?).into_response())
}

async fn manifest(State(app): State<App>, headers: HeaderMap, Path(id): Path<String>) -> Answer {
    let token = token(&headers)?.to_owned();
    let id = digest(&id)?;
    blocking(move || app.hub.manifest(&token, &id)).await
}

type Answer = Result<Response, Refusal>;
type Body = Result<Bytes, BytesRejection>;

/// Calls the hub where it may touch the disk.
async fn blocking<T: serde::Serialize + Send + 'static>(
    call: impl FnOnce() -> Result<T, headstart_protocol::wire::WireError> + Send + 'static,
) -> Answer {
    let done = tokio::task::spawn_blocking(call).await;
    let done = done.map_err(|e| Refusal::internal("the engine failed", &e))?;
    Ok(Json(done?).into_response())
}

fn read<T: DeserializeOwned>(body: Body) -> Result<T, Refusal> {
    let body = body.map_err(|e| Refusal::new(e.status(), codes::INVALID, e.body_text()))?;
    serde_json::from_slice(&body).map_err(|e| Refusal::invalid(format!("the message cannot be read: {e}")))
}
