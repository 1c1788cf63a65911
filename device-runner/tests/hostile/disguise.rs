//! Private artifacts in public clothes.

use headstart_protocol::expr::Value;
use headstart_protocol::task::Outcome;
use headstart_protocol::{FailureClass, Output, Type};
use serde_json::json;

use crate::common::{field, stages};
use crate::phone::{DIARY, Phone, above, stages};

/// A public manifest that refers to a private handle would lead the device into its own store: whatever
/// stands at the end of it would count as public.
#[tokio::test]
async fn a_public_artifact_that_refers_to_a_private_one_is_refused() {
    let mut phone = Phone::new(DIARY).await;
    let mine = phone.diary().await;
    let pick = phone.pick(&mine).await;
    let disguise = phone.engine.publish_using(
        Type::Responses,
        &[("rows.jsonl", b"{}\n")],
        json!({}),
        &[("held", &pick), ("rows", &mine)],
    );
    // The same, one step further away: the first looks innocent.
    let base = phone.base.clone();
    let outer =
        phone.engine.publish_using(Type::Space, &[], json!({}), &[("model", &base), ("inner", &disguise)]);
    let through = |field_of: &str| match field_of {
        "direct" => headstart_protocol::expr::Expr::value(Value::Artifact(disguise.clone())),
        "nested" => headstart_protocol::expr::Expr::value(Value::Artifact(outer.clone())),
        name => field(&disguise, name),
    };
    for way in ["direct", "nested", "held", "rows", "absent"] {
        let mut t = phone.task("say", Type::Metrics, &[]);
        t.args.insert("x".into(), through(way));
        t.private = false;
        let outcome = phone.run(t, vec![say()]).await;
        let Outcome::Failed { failure } = outcome else { panic!("{way}: {outcome:?}") };
        assert_eq!(failure.class, FailureClass::Input, "{way}");
        assert!(failure.message.starts_with("the task does not fit this device"), "{way}: {failure}");
        let told = phone.history().pop().and_then(|e| e.failure).expect("a reason").message;
        // What a field of it is, the engine was to say.
        let why =
            if ["direct", "nested"].contains(&way) { "refers to a private one" } else { "`x` has a part" };
        assert!(told.contains(why), "{way}: {told}");
    }
    // As a condition.
    let mut t = phone.task("say", Type::Metrics, &[]);
    t.when = Some(above(&disguise, "held.confidence", 0.4));
    assert!(matches!(phone.run(t, vec![say()]).await, Outcome::Failed { .. }));
    phone.assert_silent();
}

/// Says everything that it was given, in every way that a stage has.
fn say() -> Box<dyn headstart_protocol::Stage> {
    stages::fake("say", |args, ctx| {
        let text = format!("{args:?}");
        ctx.progress(headstart_protocol::Progress { unit: text.clone(), ..Default::default() });
        if text.len() % 2 == 0 {
            return Err(headstart_protocol::Failure::input(text));
        }
        Ok(Output::new(Type::Metrics, json!({ "n": text.len() })))
    })
}

/// The engine calls a task public; the device finds out what it reads.
#[tokio::test]
async fn what_follows_from_private_values_is_private_whatever_the_engine_says() {
    let mut phone = Phone::new(DIARY).await;
    let mine = phone.diary().await;
    let pick = phone.pick(&mine).await;
    let value = |a: &headstart_protocol::ArtifactRef| Value::Artifact(a.clone());
    let both = Value::List(vec![("a".into(), value(&phone.base)), ("b".into(), value(&mine))]);
    let cases = [
        // The pLLM is public; that it was chosen is not.
        (field(&pick, "pllm"), None),
        (field(&pick, "mix"), None),
        (field(&pick, "confidence"), None),
        (headstart_protocol::expr::Expr::value(both), None),
        (headstart_protocol::expr::Expr::value(value(&phone.base)), Some(above(&pick, "confidence", 0.4))),
        (headstart_protocol::expr::Expr::value(value(&phone.base)), Some(above(&pick, "confidence", 0.5))),
    ];
    let mut seen = Vec::new();
    for (x, when) in cases {
        let mut t = phone.task("say", Type::Metrics, &[]);
        t.args.insert("x".into(), x);
        (t.private, t.when) = (false, when);
        let outcome = phone.run(t, vec![say()]).await;
        seen.push(crate::phone::shape(&outcome));
    }
    assert!(seen[0].contains("\"private_to\":\"phone\""), "{}", seen[0]);
    assert!(seen.iter().all(|s| *s == seen[0]), "{seen:#?}");
    phone.assert_silent();
}

/// How far a stage is, is told of one that was proven public, and of no other.
#[tokio::test]
async fn progress_is_told_of_what_was_proven_public_only() {
    let mut phone = Phone::new(DIARY).await;
    let mine = phone.diary().await;
    // Where nothing may leave, there is nothing to renew.
    phone.allowed = headstart_device::Allowed::NUMBERS;
    phone.engine.lock().lease_ms = 60;
    for (x, public) in [(phone.base.clone(), true), (mine, false)] {
        phone.engine.lock().renewals.clear();
        let mut t = phone.task("slow", Type::Metrics, &[("x", Value::Artifact(x))]);
        t.timeout_ms = Some(300);
        phone.run(t, vec![stages::slow()]).await;
        let told: Vec<_> = phone.engine.lock().renewals.iter().map(|r| r.progress.is_some()).collect();
        assert!(told.len() > 2, "{told:?}");
        assert_eq!(told.contains(&true), public, "{told:?}");
    }
}

/// The stages of this file are those of the phone.
#[tokio::test]
async fn the_phone_itself_works() {
    let mut phone = Phone::new(DIARY).await;
    let mine = phone.diary().await;
    let t = phone.tuned(&mine, None);
    phone.handle(t, stages()).await;
    let ended: Vec<_> = phone.history().iter().map(|e| e.ended).collect();
    assert_eq!(ended, [headstart_device::history::Ended::Succeeded; 2]);
}
