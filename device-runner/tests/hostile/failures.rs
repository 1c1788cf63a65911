//! Stages that fail on private data.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use headstart_device::history::Ended;
use headstart_protocol::expr::Value;
use headstart_protocol::task::{Outcome, Released};
use headstart_protocol::{Failure, FailureClass, Output, Stage, Type};
use serde_json::json;

use crate::common::stages;
use crate::phone::{DIARY, Phone, shape, stages};

const CLASSES: [FailureClass; 8] = [
    FailureClass::Input,
    FailureClass::Denied,
    FailureClass::Memory,
    FailureClass::Cancelled,
    FailureClass::Timeout,
    FailureClass::Lost,
    FailureClass::MissingArtifact,
    FailureClass::Internal,
];

/// A stage that fails as its argument says, with the diary in its message; counts its runs.
fn failing(ran: Arc<AtomicUsize>) -> Box<dyn Stage> {
    stages::fake("evaluate", move |args, ctx| {
        ran.fetch_add(1, Ordering::SeqCst);
        let at = ctx.open(args.artifact("data")?)?.join("rows.jsonl");
        let text = std::fs::read_to_string(at).expect("rows");
        match args.int("how")? {
            -1 => Ok(Output::new(Type::Metrics, json!({ "loss": 1.0 }))),
            -2 => panic!("{text}"),
            n => Err(Failure::new(CLASSES[usize::try_from(n).expect("small")], text).help("call Ottilie")),
        }
    })
}

#[tokio::test]
async fn however_a_private_stage_ends_the_engine_gets_a_handle() {
    let mut phone = Phone::new(DIARY).await;
    let mine = phone.diary().await;
    let mut seen = Vec::new();
    for how in -2..8 {
        let args = [("data", Value::Artifact(mine.clone())), ("how", Value::Int(how))];
        let mut t = phone.task("evaluate", Type::Metrics, &args);
        t.private = true;
        seen.push(shape(&phone.run(t, vec![failing(Arc::default())]).await));
    }
    // One that runs past its time limit.
    let mut t = phone.task("slow", Type::Metrics, &[("data", Value::Artifact(mine.clone()))]);
    t.timeout_ms = Some(40);
    seen.push(shape(&phone.run(t, vec![stages::slow()]).await));
    assert!(seen[0].contains("\"succeeded\"") && seen[0].contains("\"private_to\":\"phone\""), "{}", seen[0]);
    assert!(seen.iter().all(|s| *s == seen[0]), "{seen:#?}");
    phone.assert_silent();
    // The owner is told everything.
    let history = phone.history();
    let reasons: Vec<_> = history.iter().filter_map(|e| Some(e.failure.as_ref()?.message.clone())).collect();
    assert_eq!(reasons.len(), 10, "{reasons:#?}");
    assert!(reasons[..9].iter().all(|r| r.contains("Ottilie")), "{reasons:#?}");
    assert!(reasons[9].contains("time limit"), "{reasons:#?}");
}

#[tokio::test]
async fn what_reads_a_failed_result_is_delivered_and_not_run() {
    let mut phone = Phone::new("not JSON, and about Ottilie\n").await;
    let mine = phone.diary().await;
    let ran = Arc::new(AtomicUsize::new(0));
    let args = [("data", Value::Artifact(mine.clone())), ("how", Value::Int(-1))];
    let mut t = phone.task("evaluate", Type::Metrics, &args);
    t.private = true;
    let scores = phone.handle(t, vec![failing(Arc::clone(&ran))]).await;
    let mut t =
        phone.task("evaluate", Type::Metrics, &[("data", Value::Artifact(scores)), ("how", Value::Int(-1))]);
    t.private = true;
    let last = phone.run(t, vec![failing(Arc::clone(&ran))]).await;
    assert!(matches!(last, Outcome::Succeeded { .. }), "{last:?}");
    assert_eq!(ran.load(Ordering::SeqCst), 0);
    let history = phone.history();
    let ended: Vec<_> = history.iter().map(|e| e.ended).collect();
    assert_eq!(ended, [Ended::Failed, Ended::Blocked, Ended::Blocked]);
    let why = history[2].failure.clone().expect("a reason").message;
    assert!(
        why.starts_with("not run, because an input failed: `jsonl`: ") && why.contains("line 1"),
        "{why}"
    );
    phone.assert_silent();
}

#[tokio::test]
async fn released_parts_of_what_failed_are_null_in_the_same_places() {
    let mut phone = Phone::new(DIARY).await;
    phone.allowed = Allowed::NUMBERS;
    let mine = phone.diary().await;
    for how in [0, -1] {
        let args = [("data", Value::Artifact(mine.clone())), ("how", Value::Int(how))];
        let mut t = phone.task("evaluate", Type::Metrics, &args);
        (t.private, t.release) = (true, vec![vec![], vec!["loss".into()]]);
        let outcome = phone.run(t, vec![failing(Arc::default())]).await;
        let Outcome::Succeeded { released, .. } = &outcome else { panic!("{outcome:?}") };
        assert_eq!(released.keys().collect::<Vec<_>>(), ["", "loss"]);
        if how == 0 {
            assert!(released.values().all(|r| *r == Released::Json(json!(null))), "{released:?}");
        }
    }
}

use headstart_device::Allowed;

#[tokio::test]
async fn a_failure_that_may_pass_is_tried_again_here() {
    let mut phone = Phone::new(DIARY).await;
    let mine = phone.diary().await;
    let ran = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&ran);
    let flaky = stages::fake("evaluate", move |_, _| match count.fetch_add(1, Ordering::SeqCst) {
        0 => Err(Failure::new(FailureClass::Transient, "the disk was busy")),
        _ => Ok(Output::new(Type::Metrics, json!({ "loss": 1.0 }))),
    });
    let mut t = phone.task("evaluate", Type::Metrics, &[("data", Value::Artifact(mine))]);
    t.private = true;
    phone.run(t, vec![flaky]).await;
    assert_eq!(ran.load(Ordering::SeqCst), 2);
    assert_eq!(phone.engine.commits().len(), 2, "the engine was told once");
    assert_eq!(phone.history().pop().map(|e| e.ended), Some(Ended::Succeeded));
}

#[tokio::test]
async fn what_keeps_failing_is_not_run_until_its_owner_says_so() {
    let mut phone = Phone::new(DIARY).await;
    let mine = phone.diary().await;
    let ran = Arc::new(AtomicUsize::new(0));
    let args = [("data", Value::Artifact(mine)), ("how", Value::Int(0))];
    let mut seen = Vec::new();
    for _ in 0..5 {
        let mut t = phone.task("evaluate", Type::Metrics, &args);
        t.private = true;
        seen.push(phone.run(t, vec![failing(Arc::clone(&ran))]).await);
    }
    assert_eq!(ran.load(Ordering::SeqCst), 3);
    // The same handle each time: it does not show that it was not run.
    let output = |o: &Outcome| match o {
        Outcome::Succeeded { output, .. } => output.id,
        other => panic!("{other:?}"),
    };
    assert!(seen.iter().all(|o| output(o) == output(&seen[0])));
    assert_eq!(phone.history().pop().map(|e| e.ended), Some(Ended::Quarantined));
    let page = headstart_device::show::summary(&phone.place.state(), None).expect("prints");
    assert!(
        page.contains("quarantined after 3 failed attempts") && page.contains("headstart-device retry"),
        "{page}"
    );

    let generation = |phone: &Phone| {
        let messages = phone.engine.lock().messages.clone();
        let join =
            messages.iter().rev().find(|(head, _)| head.contains("/v1/join")).expect("a join").1.clone();
        serde_json::from_slice::<headstart_protocol::wire::Join>(&join).expect("a join").facts.generation
    };
    assert_eq!(generation(&phone), 0);
    headstart_device::retry(&phone.place.state(), Some("no such stage")).expect_err("refused");
    assert_eq!(headstart_device::retry(&phone.place.state(), None).expect("cleared"), ["evaluate"]);
    let mut t = phone.task("evaluate", Type::Metrics, &args);
    t.private = true;
    phone.run(t, vec![failing(Arc::clone(&ran))]).await;
    assert_eq!((ran.load(Ordering::SeqCst), generation(&phone)), (4, 1), "and the engine asks for all again");
}

/// Other limits make another task: which of them a stage exceeds does not show in its handle.
#[tokio::test]
async fn handles_do_not_compare_what_came_of_other_limits() {
    let mut phone = Phone::new(DIARY).await;
    let mine = phone.diary().await;
    let mut handles = Vec::new();
    for (memory, how) in [(None, 0), (Some(1 << 20), 0), (Some(1 << 30), 0), (Some(1 << 30), 0)] {
        let args = [("data", Value::Artifact(mine.clone())), ("how", Value::Int(how))];
        let mut t = phone.task("evaluate", Type::Metrics, &args);
        (t.private, t.memory) = (true, memory);
        handles.push(phone.handle(t, vec![failing(Arc::default())]).await.id);
    }
    assert!(handles[0] != handles[1] && handles[1] != handles[2] && handles[2] == handles[3], "{handles:?}");
}

/// What ends before anything private is looked at is told by its class, as nothing private decides it.
#[tokio::test]
async fn what_does_not_depend_on_private_values_is_told_as_before() {
    let mut phone = Phone::new(DIARY).await;
    let mine = phone.diary().await;
    let data = [("data", Value::Artifact(mine.clone()))];
    let mut unknown = phone.task("no_such_kind", Type::Metrics, &data);
    unknown.private = true;
    let mut newer = phone.task("evaluate", Type::Metrics, &data);
    (newer.private, newer.version) = (true, 99);
    let mut releases = phone.task("evaluate", Type::Metrics, &data);
    (releases.private, releases.release) = (true, vec![vec!["loss".into()]]);
    let mut gone = mine.clone();
    gone.id = headstart_protocol::Digest::of(b"made up");
    let gone = phone.task("evaluate", Type::Metrics, &[("data", Value::Artifact(gone))]);
    let cases = [
        (unknown, FailureClass::Input),
        (newer, FailureClass::Input),
        (releases, FailureClass::Denied),
        (gone, FailureClass::MissingArtifact),
    ];
    for (t, class) in cases {
        let outcome = phone.run(t, stages()).await;
        assert!(matches!(&outcome, Outcome::Failed { failure } if failure.class == class), "{outcome:?}");
    }
    // With the owner's word, failures are told by class and a fixed sentence.
    phone.allowed = "failures".parse().expect("a word");
    let args = [("data", Value::Artifact(mine)), ("how", Value::Int(0))];
    let mut t = phone.task("evaluate", Type::Metrics, &args);
    t.private = true;
    let outcome = phone.run(t, vec![failing(Arc::default())]).await;
    let Outcome::Failed { failure } = outcome else { panic!("{outcome:?}") };
    assert_eq!(failure.message, "the stage's input on the device is wrong");
    phone.assert_silent();
}
