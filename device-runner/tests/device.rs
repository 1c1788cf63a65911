//! A device against an engine over real HTTP: work, downloads, signatures, stopping.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use common::{Engine, Place, stages, task};
use headstart_device::{DeviceError, Target, Until};
use headstart_protocol::expr::Value;
use headstart_protocol::task::{Outcome, Task};
use headstart_protocol::wire::Renewed;
use headstart_protocol::{Digest, FailureClass, Type};
use serde_json::json;
use tokio_util::sync::CancellationToken;

const WEIGHTS: &[u8] = &[42; 300_000];
const ROWS: &[u8] = b"{\"prompt\":\"hello\"}\n";

/// A task that probes a public model with public prompts.
fn probe_task(engine: &Engine, fence: u64) -> Task {
    let model = engine.publish(Type::Model, &[("model.safetensors", WEIGHTS)], json!({}));
    let prompts = engine.publish(Type::Dataset, &[("rows.jsonl", ROWS)], json!({ "rows": 1 }));
    let args = [("model", Value::Artifact(model)), ("prompts", Value::Artifact(prompts))];
    task(fence, "probe", Type::Responses, &args)
}

fn failure(engine: &Engine) -> headstart_protocol::Failure {
    match engine.commits().pop().expect("a commit").outcome {
        Outcome::Failed { failure } => failure,
        other => panic!("did not fail: {other:?}"),
    }
}

#[tokio::test]
async fn public_work_is_downloaded_done_and_handed_in_whole() {
    let (engine, place, ran) = (Engine::start().await, Place::new(), Arc::new(AtomicUsize::new(0)));
    engine.offer(probe_task(&engine, 5));
    engine.lock().forget_session = true;
    let summary = place.run(&engine, vec![stages::probe(ran.clone())]).await.expect("runs");
    assert_eq!((summary.done, summary.failed), (1, 0));
    assert_eq!(engine.calls("POST /v1/join").len(), 2, "a forgotten session is asked for again");

    let commits = engine.commits();
    let [commit] = &commits[..] else { panic!("{commits:?}") };
    let Outcome::Succeeded { output, usage, .. } = &commit.outcome else { panic!("{commit:?}") };
    assert_eq!((commit.fence, usage.counters["forward_passes"]), (5, 3));
    assert!(output.private_to.is_none());
    let manifest = &commit.manifests[&output.id.to_string()];
    let answer = format!("300000 bytes of weights\n{}", String::from_utf8_lossy(ROWS));
    assert_eq!(engine.lock().uploaded[&manifest.files["rows.jsonl"].digest], answer.as_bytes());
    assert!(std::fs::read_dir(place.state().join("outbox")).expect("there").next().is_none());
    assert!(std::fs::read_dir(place.state().join("scratch")).expect("there").next().is_none());

    // Another run downloads nothing again.
    engine.lock().calls.clear();
    engine.offer(probe_task(&engine, 6));
    place.run(&engine, vec![stages::probe(ran.clone())]).await.expect("runs");
    assert_eq!((ran.load(Ordering::SeqCst), engine.commits().len()), (2, 2));
    assert!(engine.calls("GET").is_empty(), "{:?}", engine.calls("GET"));
}

#[tokio::test]
async fn a_cut_download_goes_on_where_it_was_cut() {
    let (engine, place) = (Engine::start().await, Place::new());
    engine.offer(probe_task(&engine, 1));
    engine.lock().cut = Some(100_000);
    place.run(&engine, vec![stages::probe(Arc::default())]).await.expect("runs");
    assert_eq!(engine.commits().len(), 1);
    let blob = format!("GET /v1/blobs/{}", Digest::of(WEIGHTS));
    let calls = engine.calls(&blob);
    assert_eq!(calls, [blob.clone(), format!("{blob} bytes=100000-")]);
}

#[tokio::test]
async fn an_engine_that_is_started_again_during_a_download_is_joined_again() {
    let (engine, place) = (Engine::start().await, Place::new());
    engine.offer(probe_task(&engine, 1));
    engine.lock().forget_in_downloads = 3;
    place.run(&engine, vec![stages::probe(Arc::default())]).await.expect("runs");
    assert_eq!(engine.calls("POST /v1/join").len(), 4);
    let commits = engine.commits();
    assert!(matches!(commits[0].outcome, Outcome::Succeeded { .. }), "{commits:?}");
}

#[tokio::test]
async fn files_that_are_not_what_was_asked_for_are_refused() {
    let (engine, place, ran) = (Engine::start().await, Place::new(), Arc::new(AtomicUsize::new(0)));
    engine.offer(probe_task(&engine, 1));
    engine.lock().corrupt = Some(vec![0; WEIGHTS.len()]);
    place.run_telling(&engine, vec![stages::probe(ran.clone())]).await.expect("runs");
    let failure = failure(&engine);
    assert_eq!((failure.class, ran.load(Ordering::SeqCst)), (FailureClass::Input, 0));
    assert!(failure.message.contains("other bytes"), "{failure}");
}

#[tokio::test]
async fn a_task_without_the_engines_signature_is_not_run() {
    let (engine, place, ran) = (Engine::start().await, Place::new(), Arc::new(AtomicUsize::new(0)));
    engine.offer(probe_task(&engine, 1));
    engine.lock().forge = true;
    let summary = place.run(&engine, vec![stages::probe(ran.clone())]).await.expect("runs");
    assert_eq!((summary.done, ran.load(Ordering::SeqCst)), (0, 0));
    assert!(engine.commits().is_empty() && engine.calls("GET").is_empty());
}

#[tokio::test]
async fn an_engine_with_another_key_gets_nothing() {
    let (first, place) = (Engine::start_with_key(1).await, Place::new());
    place.run(&first, vec![]).await.expect("joins");
    let other = Engine::start_with_key(2).await;
    other.offer(probe_task(&other, 1));
    let error = place.run(&other, vec![stages::probe(Arc::default())]).await.expect_err("refuses");
    assert!(matches!(error, DeviceError::KeyChanged { .. }), "{error}");
    assert_eq!(error.exit_code(), 2);
    assert!(error.help().is_some_and(|h| h.contains("engine.json")), "says how to reset: {error}");
    assert!(other.lock().calls.is_empty(), "it is not even called");
}

#[tokio::test]
async fn an_engine_that_is_not_up_is_waited_for_but_not_for_ever() {
    let (engine, place) = (Engine::start().await, Place::new());
    let mut options = place.options(&engine);
    options.target =
        Target::Key { url: "https://127.0.0.1:9".into(), name: "phone".into(), key: engine.key() };
    let run = headstart_device::run(options, vec![], CancellationToken::new());
    let error = run.await.expect_err("nobody there");
    assert_eq!((error.exit_code(), error.to_string().contains("127.0.0.1:9")), (1, true), "{error}");
}

#[tokio::test]
async fn a_running_stage_is_stopped_by_the_engine_by_time_and_by_its_owner() {
    let engine = Engine::start().await;
    engine.lock().lease_ms = 90;

    let place = Place::new();
    engine.lock().renewed = Some(Renewed::Cancel);
    engine.offer(task(1, "slow", Type::Metrics, &[]));
    place.run(&engine, vec![stages::slow()]).await.expect("runs");
    assert_eq!(failure(&engine).class, FailureClass::Cancelled);
    let renewal = engine.lock().renewals[0].clone();
    assert_eq!(renewal.progress.expect("public progress is told").unit, "naps");

    engine.lock().renewed = Some(Renewed::Superseded);
    engine.offer(task(2, "slow", Type::Metrics, &[]));
    place.run(&engine, vec![stages::slow()]).await.expect("runs");
    assert_eq!(engine.commits().len(), 1, "an attempt that does not count hands nothing in");

    engine.lock().renewed = None;
    let mut limited = task(3, "slow", Type::Metrics, &[]);
    limited.timeout_ms = Some(60);
    engine.offer(limited);
    place.run(&engine, vec![stages::slow()]).await.expect("runs");
    assert_eq!(failure(&engine).class, FailureClass::Timeout);

    engine.offer(task(4, "slow", Type::Metrics, &[]));
    let (stop, mut options) = (CancellationToken::new(), place.options(&engine));
    options.until = Until::Stopped;
    engine.lock().renewals.clear();
    let (later, watched) = (stop.clone(), engine.clone());
    tokio::spawn(async move {
        while watched.lock().renewals.is_empty() {
            tokio::task::yield_now().await;
        }
        later.cancel();
    });
    let summary = headstart_device::run(options, vec![stages::slow()], stop).await.expect("stops");
    assert_eq!(
        (summary.failed, failure(&engine).class),
        (1, FailureClass::Cancelled),
        "no loss of the stage"
    );
}

#[tokio::test]
async fn a_result_of_an_interrupted_run_is_kept_and_other_work_goes_on() {
    let (engine, place) = (Engine::start().await, Place::new());
    let probe = || vec![stages::probe(Arc::default())];
    engine.lock().interrupted.insert(1);
    engine.offer(probe_task(&engine, 1));
    engine.offer(probe_task(&engine, 2));
    let left = place.run(&engine, probe()).await.expect_err("a result is left");
    assert!(left.to_string().contains("1 result is not acknowledged"), "{left}");
    let fences = || engine.commits().iter().map(|c| c.fence).collect::<Vec<_>>();
    assert_eq!(fences(), [2]);

    // Resumed: the next join brings the result.
    engine.lock().interrupted.clear();
    place.run(&engine, probe()).await.expect("nothing is left");
    assert_eq!(fences(), [2, 1]);
}

#[tokio::test]
async fn a_panic_is_a_failure_and_the_device_goes_on() {
    let (engine, place) = (Engine::start().await, Place::new());
    let broken = || stages::fake("broken", |_, _| panic!("index out of bounds"));
    engine.offer(task(1, "broken", Type::Metrics, &[]));
    engine.offer(task(2, "unknown", Type::Metrics, &[]));
    let mut newer = probe_task(&engine, 3);
    newer.version += 1;
    let unknown = format!("version {} of `probe`", newer.version);
    engine.offer(newer);
    let summary =
        place.run_telling(&engine, vec![broken(), stages::probe(Arc::default())]).await.expect("runs");
    assert_eq!(summary.failed, 3);
    let told: Vec<_> = engine.commits().into_iter().map(|c| format!("{:?}", c.outcome)).collect();
    assert!(told[0].contains("panicked: index out of bounds"), "{}", told[0]);
    assert!(told[1].contains("has no stage kind `unknown`"), "{}", told[1]);
    assert!(told[2].contains(&unknown), "{}", told[2]);

    // Unless its owner allows it, a device says which kind of failure it was and no more.
    engine.offer(task(4, "broken", Type::Metrics, &[]));
    engine.offer(task(5, "unknown", Type::Metrics, &[]));
    place.run(&engine, vec![broken()]).await.expect("runs");
    let told: Vec<_> = engine.commits().into_iter().skip(3).map(|c| format!("{:?}", c.outcome)).collect();
    assert!(
        told[0].contains("Internal") && told[0].contains("\"the stage failed on the device\""),
        "{}",
        told[0]
    );
    assert!(
        told[1].contains("Input") && told[1].contains("\"the task does not fit this device"),
        "{}",
        told[1]
    );
}

#[test]
fn one_task_by_hand() {
    let place = Place::new();
    place.write("me.jsonl", "{\"prompt\":\"hello\"}\n");
    let run = |text: &str| {
        headstart_device::local::run(text, &place.data(), &place.state(), vec![stages::jsonl()], (1, None))
    };
    let made = run(r#"{"kind": "jsonl", "args": {"path": {"expr": "value", "value": {"is": "path", "value": "me.jsonl"}}}}"#)
        .expect("runs");
    assert_eq!(made["manifest"]["value"], json!({ "rows": 1 }));
    let rows = std::path::Path::new(made["folder"].as_str().expect("a folder")).join("rows.jsonl");
    assert_eq!(std::fs::read_to_string(rows).expect("kept"), "{\"prompt\":\"hello\"}\n");
    for (wrong, why) in [
        ("{", "not JSON"),
        ("{\"kind\": \"jsonn\"}", "no stage kind `jsonn`"),
        ("{\"kind\": \"jsonl\"}", "argument `path` of `jsonl` is missing"),
    ] {
        let error = run(wrong).expect_err(why);
        assert!(error.exit_code() == 2 && error.to_string().contains(why), "{error}");
    }
}
