//! One attempt to deliver a notice.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use reqwest::Client;
use reqwest::redirect::Policy;
use tokio::io::AsyncWriteExt;

use crate::notice::{Notice, To};
use crate::secret::Secret;

/// How long a receiver may take to answer.
const ANSWER: Duration = Duration::from_secs(15);
/// How long a program may run.
const RUN: Duration = Duration::from_secs(60);

/// Why it was not delivered, in words.
pub(crate) struct Failed(pub(crate) String);

/// Delivers notices.
pub(crate) struct Courier {
    secret: Secret,
}

impl Courier {
    pub(crate) fn new(secret: Secret) -> Self {
        // Another part of the process may have chosen one before.
        let _ = rustls::crypto::ring::default_provider().install_default();
        Self { secret }
    }

    pub(crate) async fn deliver(&self, to: &To, notice: &Notice, now_ms: u64) -> Result<(), Failed> {
        let body = serde_json::to_vec(notice).expect("a notice serializes");
        match to {
            To::Url(url) => self.post(url, &notice.id(), body, now_ms).await,
            To::Command(program) => run(program, notice, &body).await,
        }
    }

    async fn post(&self, url: &str, id: &str, body: Vec<u8>, now_ms: u64) -> Result<(), Failed> {
        let failed = |e: reqwest::Error| Failed(chain(&e.without_url()));
        // A redirect would send what is signed to somebody whom the operator has not named.
        let client = Client::builder().timeout(ANSWER).redirect(Policy::none()).build().map_err(failed)?;
        let timestamp = (now_ms / 1000).to_string();
        let signature = self.secret.sign(id, &timestamp, &body);
        let request = client
            .post(url)
            .header("content-type", "application/json")
            .header("webhook-id", id)
            .header("webhook-timestamp", timestamp)
            .header("webhook-signature", signature)
            .body(body);
        let status = request.send().await.map_err(failed)?.status();
        if status.is_success() { Ok(()) } else { Err(Failed(format!("the receiver answered {status}"))) }
    }
}

/// An error with its causes.
fn chain(e: &dyn std::error::Error) -> String {
    let mut text = e.to_string();
    let mut cause = e.source();
    while let Some(e) = cause {
        text += &format!(": {e}");
        cause = e.source();
    }
    text
}

/// Runs a program with the notice on its standard input.
async fn run(program: &Path, notice: &Notice, body: &[u8]) -> Result<(), Failed> {
    let failed = |what: &str, e: std::io::Error| Failed(format!("cannot {what} {}: {e}", program.display()));
    let mut child = tokio::process::Command::new(program)
        .env("HEADSTART_EVENT", notice.event.word())
        .env("HEADSTART_RUN", &notice.run)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .map_err(|e| failed("start", e))?;
    let ended = async {
        if let Some(mut stdin) = child.stdin.take() {
            // A program need not read it.
            let _ = stdin.write_all(body).await;
        }
        child.wait().await
    };
    match tokio::time::timeout(RUN, ended).await {
        Ok(Ok(status)) if status.success() => Ok(()),
        Ok(Ok(status)) => Err(Failed(format!("{} ended with {status}", program.display()))),
        Ok(Err(e)) => Err(failed("run", e)),
        Err(_) => Err(Failed(format!("{} ran for more than {} s", program.display(), RUN.as_secs()))),
    }
}
