//! How handlers answer.

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use headstart_history::HistoryError;
use headstart_store::StoreError;

use crate::layout::{self, Page};

/// A page as an answer.
pub(crate) fn page(page: Page<'_>) -> Response {
    page.into_response()
}

/// Does what reads files on a thread that may wait for a disk.
pub(crate) async fn blocking(answer: impl FnOnce() -> Response + Send + 'static) -> Response {
    match tokio::task::spawn_blocking(answer).await {
        Ok(response) => response,
        Err(e) => {
            tracing::error!("the page failed: {e}");
            layout::refusal(StatusCode::INTERNAL_SERVER_ERROR, "The page failed; the server's log says why.")
        }
    }
}

/// The answer where a run cannot be shown.
pub(crate) fn no_run(e: &HistoryError) -> Response {
    match e {
        HistoryError::Store(StoreError::NoRun(_) | StoreError::BadName { .. }) => {
            layout::refusal(StatusCode::NOT_FOUND, "There is no such run in this workspace.")
        }
        e => layout::refusal(StatusCode::INTERNAL_SERVER_ERROR, &format!("The run cannot be read: {e}")),
    }
}

/// The answer to a path that nothing has.
pub(crate) async fn not_found() -> Response {
    layout::refusal(StatusCode::NOT_FOUND, "There is no such page.")
}
