//! An engine that sends too much: endless answers, endless texts, manifests of more bytes than any disk has.

use std::sync::atomic::Ordering;

use headstart_device::{DeviceError, Options};
use headstart_protocol::expr::Value;
use headstart_protocol::task::{Outcome, Task};
use headstart_protocol::wire::WireError;
use headstart_protocol::{ArtifactRef, Digest, Failure, FailureClass, FileRef, Manifest, Type};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::common::{Engine, Place, stages, task};

/// What the sockets of both sides hold beside what was read.
const BUFFERED: u64 = 16 << 20;

async fn run(options: Options) -> Result<(), DeviceError> {
    let stages = vec![stages::probe(Default::default()), stages::jsonl()];
    headstart_device::run(options, stages, CancellationToken::new()).await.map(drop)
}

fn probe(engine: &Engine, fence: u64) -> Task {
    let model = engine.publish(Type::Model, &[("model.safetensors", b"weights")], json!({}));
    let rows = engine.publish(Type::Dataset, &[("rows.jsonl", b"{}\n")], json!({ "rows": 1 }));
    let args = [("model", Value::Artifact(model)), ("prompts", Value::Artifact(rows))];
    task(fence, "probe", Type::Responses, &args)
}

#[tokio::test]
async fn an_endless_answer_ends_where_answers_of_its_kind_do() {
    for path in ["/v1/hello", "/v1/join"] {
        let (engine, place) = (Engine::start().await, Place::new());
        engine.lock().endless = Some(path);
        let error = run(place.options(&engine)).await.expect_err("no engine answers so").to_string();
        assert!(error.contains("longer than 65536 bytes"), "{path}: {error}");
        let sent = engine.lock().endless_bytes.load(Ordering::SeqCst);
        assert!(sent > 65536 && sent < BUFFERED, "{path}: {sent} bytes were taken");
    }
}

/// The device goes on asking, and each time takes no more than a commit's answer can have; the result is kept.
#[tokio::test]
async fn an_endless_acceptance_is_none() {
    let (engine, place) = (Engine::start().await, Place::new());
    engine.offer(probe(&engine, 5));
    engine.lock().endless = Some("/v1/commit");
    let ended = run(place.options(&engine)).await;
    assert!(matches!(ended, Err(DeviceError::Run(_))), "{ended:?}");
    let asked = engine.calls("POST /v1/commit").len() as u64;
    let sent = engine.lock().endless_bytes.load(Ordering::SeqCst);
    assert!(asked > 0 && sent < asked * BUFFERED, "{sent} bytes in {asked} answers");
    engine.lock().endless = None;
    run(place.options(&engine)).await.expect("delivers");
    assert_eq!(engine.commits().len(), 1);
}

#[tokio::test]
async fn an_endless_manifest_is_no_manifest() {
    let (engine, place) = (Engine::start().await, Place::new());
    engine.offer(probe(&engine, 5));
    engine.lock().endless = Some("/v1/artifacts");
    run(place.options(&engine)).await.expect("the task failed, not the device");
    let sent = engine.lock().endless_bytes.load(Ordering::SeqCst);
    assert!(sent < (32 << 20) + BUFFERED, "{sent} bytes were taken");
    assert!(matches!(engine.commits()[0].outcome, Outcome::Failed { .. }));
}

#[tokio::test]
async fn a_reason_has_a_largest_length() {
    let (engine, place) = (Engine::start().await, Place::new());
    let long = "no ".repeat(16 << 10);
    engine.lock().refuse_joins = Some(WireError { code: "no".into(), message: long });
    let error = run(place.options(&engine)).await.expect_err("refused").to_string();
    assert!(error.contains("(cut)") && error.len() < 20_000, "{} bytes", error.len());
}

/// A manifest that states these sizes; the engine has none of the files.
fn stated(engine: &Engine, sizes: &[u64]) -> ArtifactRef {
    let file = |(i, size): (usize, &u64)| {
        (
            format!("{i}.safetensors"),
            FileRef { digest: Digest::of(format!("{i} of {size}").as_bytes()), size: *size },
        )
    };
    let files = sizes.iter().enumerate().map(file).collect();
    let manifest = Manifest { ty: Type::Model, files, value: json!({}), uses: Default::default() };
    let reference = ArtifactRef::public(&manifest);
    engine.lock().manifests.insert(reference.id, manifest);
    reference
}

async fn failed(place: &Place, engine: &Engine, mut options: Options, task: Task) -> Failure {
    engine.offer(task);
    options.disk_quota = options.disk_quota.min(1 << 40);
    run(options).await.expect("the task failed, not the device");
    assert_eq!(engine.calls("GET /v1/blobs"), Vec::<String>::new(), "nothing of it was asked for");
    assert!(!place.state().join("public/partial").exists());
    match engine.commits().pop().expect("a commit").outcome {
        Outcome::Failed { failure } => failure,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn more_than_the_quota_is_refused_before_the_first_byte() {
    let cases: [(&[u64], u64); 5] = [
        (&[1 << 60], 1 << 40),
        (&[u64::MAX, u64::MAX], 1 << 40),
        (&[1 << 38; 5], 1 << 40),
        (&[600_000, 600_000], 1_000_000),
        // A file takes up more than its bytes.
        (&[0; 300], 1_000_000),
    ];
    for (fence, (sizes, quota)) in (1..).zip(cases) {
        let (engine, place) = (Engine::start().await, Place::new());
        let mut options = place.options(&engine);
        options.allowed.failures = true;
        options.disk_quota = quota;
        let mut asked = task(fence, "probe", Type::Responses, &[]);
        asked.args = probe(&engine, fence).args;
        asked.prefetch = vec![stated(&engine, sizes)];
        let failure = failed(&place, &engine, options, asked).await;
        assert_eq!(failure.class, FailureClass::Input, "{failure:?}");
        assert!(
            failure.message.contains("downloads") && failure.help.expect("help").contains("--disk-quota")
        );
    }
}

/// What is on the device already counts, also that of earlier runs of the program.
#[tokio::test]
async fn the_quota_lasts() {
    let (engine, place) = (Engine::start().await, Place::new());
    let mut options = place.options(&engine);
    options.disk_quota = 1_000_000;
    options.allowed.failures = true;
    let big = |byte: u8| {
        engine.publish(Type::Model, &[("model.safetensors", &[byte; 450_000])], json!({ "n": byte }))
    };
    for fence in 1..=2 {
        let mut asked = probe(&engine, fence);
        asked.prefetch = vec![big(fence as u8)];
        engine.offer(asked);
        run(options.clone()).await.expect("runs");
        let outcome = engine.commits().pop().expect("a commit").outcome;
        assert!(matches!(outcome, Outcome::Succeeded { .. }), "{outcome:?}");
    }
    let mut asked = probe(&engine, 3);
    asked.prefetch = vec![big(3)];
    engine.offer(asked);
    run(options.clone()).await.expect("runs");
    let outcome = engine.commits().pop().expect("a commit").outcome;
    let Outcome::Failed { failure } = outcome else { panic!("{outcome:?}") };
    assert!(failure.message.contains("may"), "{failure:?}");
    // What is here is used without room for more.
    let mut asked = probe(&engine, 4);
    asked.prefetch = vec![big(1)];
    engine.offer(asked);
    run(options).await.expect("runs");
    assert!(matches!(engine.commits().pop().expect("a commit").outcome, Outcome::Succeeded { .. }));
}

/// Of a private task the engine hears one fixed sentence, which says nothing of what is on the device.
#[tokio::test]
async fn a_private_task_that_asks_too_much_is_refused_in_a_fixed_sentence() {
    let (engine, place) = (Engine::start().await, Place::new());
    place.write("me.jsonl", "{\"prompt\": \"a\", \"response\": \"b\"}\n");
    let mut asked = task(1, "jsonl", Type::Dataset, &[("path", Value::Text("me.jsonl".into()))]);
    asked.private = true;
    asked.prefetch = vec![stated(&engine, &[1 << 60])];
    // Its owner approved it; it is too much all the same.
    engine.lock().offered.push(asked.clone());
    let failure = failed(&place, &engine, place.options(&engine), asked).await;
    assert!(failure.message.starts_with("the task does not fit this device"), "{failure:?}");
    assert!(!failure.message.contains(|c: char| c.is_ascii_digit()), "{failure:?}");
}

/// More downloads than any catalog has are refused by their number, before the first is asked for.
#[tokio::test]
async fn a_list_of_downloads_that_is_too_long_is_refused_as_it_stands() {
    let (engine, place) = (Engine::start().await, Place::new());
    let mut asked = probe(&engine, 5);
    let one = |n: u32| ArtifactRef {
        id: Digest::of(&n.to_le_bytes()),
        ty: headstart_protocol::ArtifactType::Model,
        private_to: None,
    };
    asked.prefetch = (0..250_001).map(one).collect();
    let failure = failed(&place, &engine, place.options(&engine), asked).await;
    assert_eq!(failure.class, FailureClass::Input, "{failure:?}");
    assert_eq!(engine.calls("GET"), Vec::<String>::new());
}

/// A list of downloads that names one thing two hundred thousand times is a list of one.
#[tokio::test]
async fn a_download_that_is_named_again_is_asked_for_once() {
    let (engine, place) = (Engine::start().await, Place::new());
    let model = engine.publish(Type::Model, &[("model.safetensors", b"other")], json!({}));
    let mut asked = probe(&engine, 5);
    asked.prefetch = vec![model.clone(); 200_000];
    engine.offer(asked);
    run(place.options(&engine)).await.expect("runs");
    assert!(matches!(engine.commits()[0].outcome, Outcome::Succeeded { .. }));
    assert_eq!(engine.calls(&format!("GET /v1/artifacts/{}", model.id)).len(), 1);
}
