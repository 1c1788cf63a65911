//! What every handler works with: the hub, and what a request says of itself.

use axum::http::{HeaderMap, StatusCode, header};
use headstart_driver::Hub;
use headstart_driver::hub::codes;
use headstart_protocol::Digest;
use tokio_util::sync::CancellationToken;

use crate::reply::Refusal;

/// The state of the routes.
#[derive(Clone)]
pub(crate) struct App {
    pub(crate) hub: Hub,
    pub(crate) closing: CancellationToken,
}

/// The bearer token of a request.
pub(crate) fn token(headers: &HeaderMap) -> Result<&str, Refusal> {
    let value = headers.get(header::AUTHORIZATION).and_then(|v| v.to_str().ok());
    value.and_then(|v| v.strip_prefix("Bearer ")).ok_or_else(|| {
        Refusal::new(StatusCode::UNAUTHORIZED, codes::UNKNOWN_TOKEN, "the request carries no bearer token")
    })
}

/// A digest in a path.
pub(crate) fn digest(text: &str) -> Result<Digest, Refusal> {
    text.parse().map_err(|e: headstart_protocol::ParseDigestError| Refusal::invalid(e.to_string()))
}
