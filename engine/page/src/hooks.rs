//! Signed calls from outside that start schedules, in the form of the Standard Webhooks specification: the headers
//! `webhook-id`, `webhook-timestamp` and `webhook-signature`.

use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use headstart_notify::{SIGNED_WITHIN, Secret};
use headstart_scheduler::{Request, ScheduleId};

use crate::app::App;

/// Longest id of a call.
const LONGEST_ID: usize = 128;

/// What becomes of a call.
enum Outcome {
    Accepted,
    /// No schedule has a webhook of this name, or the signature is wrong: callers are not told which.
    Unsigned,
    Stale,
    Failed,
}

/// A call of a webhook. It is kept before it is accepted, and taken once, however often it is repeated.
pub(crate) async fn call(
    State(app): State<App>,
    Path(name): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let header = |name: &str| headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
    let signed = (header("webhook-id"), header("webhook-timestamp"), header("webhook-signature"));
    let taken = tokio::task::spawn_blocking(move || take(&app, &name, &signed, &body));
    match taken.await.unwrap_or(Outcome::Failed) {
        Outcome::Accepted => (StatusCode::ACCEPTED, "accepted\n").into_response(),
        Outcome::Unsigned => {
            (StatusCode::UNAUTHORIZED, "not signed with the secret of a webhook of this name\n")
                .into_response()
        }
        Outcome::Stale => (StatusCode::UNAUTHORIZED, "signed more than 5 minutes from now\n").into_response(),
        Outcome::Failed => {
            (StatusCode::SERVICE_UNAVAILABLE, "the call cannot be kept; repeat it\n").into_response()
        }
    }
}

fn take(
    app: &App,
    name: &str,
    (id, timestamp, signature): &(String, String, String),
    body: &[u8],
) -> Outcome {
    let states = app.folder.list().into_iter().flatten();
    let wanted: Vec<ScheduleId> = states
        .filter(|s| s.policy.as_ref().is_some_and(|p| p.webhooks.iter().any(|hook| hook == name)))
        .map(|s| ScheduleId { file: s.file, name: s.name })
        .collect();
    if wanted.is_empty() || id.is_empty() || id.len() > LONGEST_ID {
        return Outcome::Unsigned;
    }
    let Ok(secret) = Secret::of(app.ws(), &format!("webhook-{name}")).inspect_err(|e| tracing::error!("{e}"))
    else {
        return Outcome::Failed;
    };
    if !secret.verifies(id, timestamp, body, signature) {
        return Outcome::Unsigned;
    }
    let now = app.now();
    let apart = timestamp.parse::<i64>().ok().map(|t| t.abs_diff(now.as_second()));
    if apart.is_none_or(|apart| apart > SIGNED_WITHIN.as_secs()) {
        return Outcome::Stale;
    }
    let request = Request::Webhook { name: name.to_owned(), call: id.clone(), at: now };
    for id in &wanted {
        if let Err(e) = app.folder.ask(id, &request, now) {
            tracing::error!("a call of the webhook {name} cannot be kept: {e}");
            return Outcome::Failed;
        }
    }
    Outcome::Accepted
}
