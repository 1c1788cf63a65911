//! The proof: where nothing may leave, nothing but times differs between two runs on different private data.

use headstart_protocol::expr::{Expr, Value};
use headstart_protocol::{ArtifactRef, Type};

use headstart_testkit::without_digests;

use crate::common::field;
use crate::phone::{DIARY, Phone, above, stages};

/// Digits of a digest, handle, key or nonce, and of a signature.
const DIGESTS: [usize; 2] = [64, 128];

/// Everything that a device sends while a whole private pipeline runs.
async fn recorded(diary: &str) -> (Vec<String>, Vec<headstart_device::history::Ended>) {
    let mut phone = Phone::new(diary).await;
    let mine = phone.diary().await;
    let pick = phone.pick(&mine).await;
    let when = Some(field(&pick, "is_mix"));
    let t = phone.tuned(&mine, when);
    let start = phone.handle(t, stages()).await;
    let value = |a: &ArtifactRef| Box::new(Expr::value(Value::Artifact(a.clone())));
    let mut t = phone.tuned(&mine, Some(above(&pick, "confidence", 0.5)));
    t.args.insert("from".into(), Expr::Or { first: value(&start), second: Box::new(field(&pick, "pllm")) });
    let tuned = phone.handle(t, stages()).await;
    for data in [&mine, &tuned, &start] {
        let mut t = phone.task("evaluate", Type::Metrics, &[("data", Value::Artifact(data.clone()))]);
        t.private = true;
        phone.handle(t, stages()).await;
    }
    let ended = phone.history().iter().map(|e| e.ended).collect();
    let messages = phone.engine.lock().messages.clone();
    let host = phone.engine.url.replace("https://", "");
    (normalised(&messages, &host), ended)
}

/// The messages without keys, handles, secrets, addresses and times. A device asks for work as often as
/// it takes: that is a time.
pub fn normalised(messages: &[(String, Vec<u8>)], host: &str) -> Vec<String> {
    let mut out: Vec<String> = Vec::new();
    for (head, body) in messages {
        let body = String::from_utf8_lossy(body);
        let body = with_equal_times(&without_digests(&body, &DIGESTS));
        let head = without_digests(&head.replace(host, "HOST"), &DIGESTS);
        let head: String =
            head.lines().filter(|l| !l.starts_with("content-length")).map(|l| format!("{l}\n")).collect();
        let message = format!("{head}\n{body}");
        let asks = message.starts_with("POST /v1/claim") || message.starts_with("POST /v1/renew");
        if !(asks && out.last() == Some(&message)) {
            out.push(message);
        }
    }
    out
}

fn with_equal_times(body: &str) -> String {
    let Ok(mut json) = serde_json::from_str::<serde_json::Value>(body) else { return body.to_owned() };
    if let Some(seconds) = json.pointer_mut("/outcome/usage/seconds") {
        *seconds = 0.into();
    }
    if let Some(wait) = json.pointer_mut("/wait_ms") {
        *wait = 0.into();
    }
    // When the engine issued what the device shows it again.
    for time in ["/granted/issued_ms", "/granted/expires_ms"] {
        if let Some(time) = json.pointer_mut(time) {
            *time = 0.into();
        }
    }
    json.to_string()
}

#[tokio::test]
async fn nothing_but_times_differs_between_runs_on_different_private_data() {
    let diaries = [
        DIARY.to_owned(),
        // Other words: another choice, another branch, something absent.
        "{\"prompt\":\"Hello\",\"response\":\"Good day.\"}\n".repeat(40),
        // Nothing can be made of it: everything fails.
        "Ottilie writes no JSON\n".to_owned(),
        String::new(),
    ];
    let mut runs = Vec::new();
    for diary in &diaries {
        runs.push(recorded(diary).await);
    }
    let (first, ended) = &runs[0];
    assert!(first.len() > 10, "{first:#?}");
    for (run, other_ended) in &runs[1..] {
        assert_ne!(other_ended, ended, "the runs came to different things, or this proves nothing");
        for (a, b) in first.iter().zip(run) {
            assert_eq!(a, b);
        }
        assert_eq!(first.len(), run.len());
    }
}
