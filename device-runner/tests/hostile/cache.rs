//! What private stages computed, row by row, as seen by a stage that is timed.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use headstart_device::Allowed;
use headstart_protocol::expr::Value;
use headstart_protocol::rows::text_digest;
use headstart_protocol::{ArtifactRef, Digest, Output, Stage, Type};
use serde_json::json;

use crate::common::{field, stages};
use crate::phone::{DIARY, Phone, above};

/// Asks a model one text; counts how often it had to be asked, which is what takes time.
fn asks(asked: &Arc<AtomicUsize>) -> Box<dyn Stage> {
    let asked = Arc::clone(asked);
    stages::fake("probe", move |_, ctx| {
        let (model, settings, text) =
            (Digest::of(b"model"), Digest::of(b"greedy"), text_digest("How was it?"));
        if ctx.rows().responses(&model, &settings, &[text])[0].is_none() {
            asked.fetch_add(1, Ordering::SeqCst);
            ctx.rows().put_responses(&model, &settings, &[(text, "Well.".to_owned())]);
        }
        Ok(Output::new(Type::Responses, json!({})))
    })
}

async fn dataset(phone: &mut Phone, path: &str) -> ArtifactRef {
    let mut t = phone.task("jsonl", Type::Dataset, &[("path", Value::Path(path.into()))]);
    t.private = true;
    phone.handle(t, vec![stages::jsonl()]).await
}

#[tokio::test]
async fn a_stage_finds_what_was_asked_over_the_same_files_and_nothing_else() {
    let mut phone = Phone::new(DIARY).await;
    phone.place.write("letters.jsonl", DIARY);
    let mine = dataset(&mut phone, "me.jsonl").await;
    let again = dataset(&mut phone, "./sub/../me.jsonl").await;
    let letters = dataset(&mut phone, "letters.jsonl").await;
    let public = phone.engine.publish(Type::Dataset, &[("rows.jsonl", b"{}")], json!({}));
    let asked = Arc::new(AtomicUsize::new(0));
    let mut known = Vec::new();
    for (n, data) in [&mine, &again, &letters, &letters, &public, &public].into_iter().enumerate() {
        let args = [("prompts", Value::Artifact(data.clone())), ("seed", Value::Int(n as i64))];
        let mut t = phone.task("probe", Type::Responses, &args);
        t.private = true;
        let before = asked.load(Ordering::SeqCst);
        phone.handle(t, vec![asks(&asked)]).await;
        known.push(asked.load(Ordering::SeqCst) == before);
    }
    // Each over its own files finds what was asked over them, whatever lies in them, and also over none.
    assert_eq!(known, [false, true, false, true, false, true]);
}

/// The file need not be an argument: a condition over it is enough to have read it, and what was asked under the
/// condition is told to nobody else.
#[tokio::test]
async fn what_was_asked_under_a_condition_is_of_the_files_behind_it() {
    let mut phone = Phone::new(DIARY).await;
    // Where nothing may leave, what was made under other conditions is taken again: no time tells.
    phone.allowed = Allowed::NUMBERS;
    let mine = phone.diary().await;
    let pick = phone.pick(&mine).await;
    let public = phone.engine.publish(Type::Dataset, &[("rows.jsonl", b"{}")], json!({}));
    let asked = Arc::new(AtomicUsize::new(0));
    for (when, count) in [(Some(0.9), 0), (Some(0.1), 1), (None, 2), (Some(0.2), 2)] {
        let args = [("prompts", Value::Artifact(public.clone()))];
        let mut t = phone.task("probe", Type::Responses.optional(), &args);
        t.private = true;
        t.when = when.map(|bound| above(&pick, "confidence", bound));
        phone.handle(t, vec![asks(&asked)]).await;
        assert_eq!(asked.load(Ordering::SeqCst), count, "{when:?}");
    }
    // Nor through a number that became an argument.
    let mut t = phone.task("probe", Type::Responses, &[("prompts", Value::Artifact(public))]);
    t.args.insert("temperature".into(), field(&pick, "confidence"));
    t.private = true;
    phone.handle(t, vec![asks(&asked)]).await;
    assert_eq!(asked.load(Ordering::SeqCst), 2, "over the same files");
}
