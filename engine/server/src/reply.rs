//! Errors on the wire.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use headstart_driver::hub::codes;
use headstart_protocol::wire::WireError;

/// A [`WireError`] that knows its status code.
#[derive(Debug)]
pub(crate) struct Refusal {
    status: StatusCode,
    error: WireError,
}

impl Refusal {
    pub(crate) fn new(status: StatusCode, code: &str, message: impl Into<String>) -> Self {
        Self { status, error: WireError { code: code.to_owned(), message: message.into() } }
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, codes::INVALID, message)
    }

    pub(crate) fn internal(what: &str, e: &dyn std::fmt::Display) -> Self {
        // The cause is for the engine's log: it may name folders of the engine's machine.
        tracing::error!("{what}: {e}");
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, codes::INTERNAL, what)
    }
}

impl From<WireError> for Refusal {
    fn from(error: WireError) -> Self {
        let status = match error.code.as_str() {
            codes::UNKNOWN_SESSION | codes::UNPROVEN => StatusCode::UNAUTHORIZED,
            codes::PENDING | codes::REVOKED | codes::INVITATION => StatusCode::FORBIDDEN,
            codes::PROTOCOL => StatusCode::UPGRADE_REQUIRED,
            codes::NOT_FOUND => StatusCode::NOT_FOUND,
            codes::RESIDENCY | codes::INVALID => StatusCode::UNPROCESSABLE_ENTITY,
            codes::MISSING_BLOB => StatusCode::CONFLICT,
            codes::BUSY => StatusCode::TOO_MANY_REQUESTS,
            codes::NO_ROOM => StatusCode::INSUFFICIENT_STORAGE,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self { status, error }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.status, Json(self.error)).into_response()
    }
}
