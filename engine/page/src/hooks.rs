//! Signed calls from outside that start schedules, in the form of the Standard Webhooks specification: the headers
//! `webhook-id`, `webhook-timestamp` and `webhook-signature`.

use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use data_encoding::BASE64;
use headstart_scheduler::{Request, ScheduleId};
use headstart_store::{StoreError, Workspace};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::app::App;

/// A call is signed at most so long before or after it comes. Within that time its id tells a repetition.
pub const SIGNED_WITHIN: Duration = Duration::from_secs(300);
/// Longest id of a call.
const LONGEST_ID: usize = 128;

/// The secret that a webhook's calls are signed with.
pub struct Secret([u8; 32]);

impl Secret {
    /// That of a workspace's webhook: made at random when first asked for.
    ///
    /// # Errors
    /// If it cannot be read or written.
    pub fn of(ws: &Workspace, name: &str) -> Result<Self, StoreError> {
        ws.secret(&format!("webhook-{name}")).map(Self)
    }

    /// As other programs take it.
    pub fn text(&self) -> String {
        format!("whsec_{}", BASE64.encode(&self.0))
    }

    fn mac(&self, id: &str, timestamp: &str, body: &[u8]) -> Hmac<Sha256> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("any length of key will do");
        for part in [id.as_bytes(), b".", timestamp.as_bytes(), b".", body] {
            mac.update(part);
        }
        mac
    }

    /// The signature of a call.
    pub fn sign(&self, id: &str, timestamp: &str, body: &[u8]) -> String {
        format!("v1,{}", BASE64.encode(&self.mac(id, timestamp, body).finalize().into_bytes()))
    }

    /// Whether one of the signatures of a call, separated by spaces, is right. Compared in constant time.
    pub fn verifies(&self, id: &str, timestamp: &str, body: &[u8], signatures: &str) -> bool {
        let given =
            signatures.split(' ').filter_map(|s| BASE64.decode(s.strip_prefix("v1,")?.as_bytes()).ok());
        given.take(8).any(|given| self.mac(id, timestamp, body).verify_slice(&given).is_ok())
    }
}

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
    let Ok(secret) = Secret::of(app.ws(), name).inspect_err(|e| tracing::error!("{e}")) else {
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

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the Standard Webhooks specification.
    #[test]
    fn signatures_are_those_of_the_specification() {
        let key = BASE64.decode(b"MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").expect("base64");
        let mut secret = Hmac::<Sha256>::new_from_slice(&key).expect("any length");
        secret.update(br#"msg_p5jXN8AQM9LWM0D4loKWxJek.1614265330.{"test": 2432232314}"#);
        let signature = BASE64.encode(&secret.finalize().into_bytes());
        assert_eq!(signature, "g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn a_signature_holds_for_one_call() {
        let secret = Secret([7; 32]);
        let signature = secret.sign("a", "100", b"{}");
        assert!(secret.verifies("a", "100", b"{}", &signature));
        assert!(
            secret.verifies("a", "100", b"{}", &format!("v1,AAAA {signature}")),
            "while a secret is exchanged"
        );
        for (id, timestamp, body) in
            [("b", "100", "{}"), ("a", "101", "{}"), ("a", "100", "{ }"), ("a.1", "00", "{}")]
        {
            assert!(!secret.verifies(id, timestamp, body.as_bytes(), &signature), "{id} {timestamp} {body}");
        }
        assert!(!Secret([8; 32]).verifies("a", "100", b"{}", &signature));
        for wrong in ["", "v1,", "v1,!", "v2,AAAA"] {
            assert!(!secret.verifies("a", "100", b"{}", wrong), "{wrong}");
        }
    }
}
