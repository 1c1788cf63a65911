//! What leaves a device, and what never does, even if the device sends it.

mod common;

use std::collections::BTreeMap;
use std::path::Path;

use common::phone::{Phone, SECRET_TEXT, begin, done, handle, personal, single};
use common::{Bench, Pipeline, field, out};
use headstart_core::RunOutcome;
use headstart_driver::hub::codes;
use headstart_protocol::expr::{Expr, Value};
use headstart_protocol::task::{Outcome, Released, Task, Usage};
use headstart_protocol::wire::{Committed, Renew, Renewed};
use headstart_protocol::{
    ArtifactRef, ArtifactType, Digest, Failure, FailureClass, FileRef, Manifest, Progress, Type,
};
use serde_json::json;

fn files_below(dir: &Path, out: &mut Vec<std::path::PathBuf>) {
    for entry in std::fs::read_dir(dir).expect("readable").flatten() {
        if entry.path().is_dir() { files_below(&entry.path(), out) } else { out.push(entry.path()) }
    }
}

#[tokio::test]
async fn private_stages_run_on_their_device_and_leave_nothing_behind() {
    let bench = Bench::new();
    let (plan, [_, mine, me, pick, tuned]) = personal();
    let run = begin(&bench, plan.clone());
    let mut phone = Phone::join(bench.engine.hub());
    phone.work(4).await;
    let result = run.wait().await.expect("ends");
    assert_eq!(result.outcome, RunOutcome::Succeeded, "{:?}", result.failures);
    let saved = result.outputs[1].value.clone();
    assert_eq!(saved, Some(Value::Json(json!({"loss": 1.25, "steps": 40}))));

    // The choice stays an expression, and everything that it may be comes with the task.
    let by_instance: BTreeMap<u32, &Task> = phone.tasks.iter().map(|t| (t.instance, t)).collect();
    let task = by_instance[&tuned];
    let choice = handle(ArtifactType::Selection, &format!("pick of {SECRET_TEXT}"));
    assert_eq!(task.args["from"], field(Expr::value(Value::Artifact(choice)), "pllm"));
    assert_eq!(task.prefetch.len(), 3, "two pLLMs and their base: {:?}", task.prefetch);
    assert!(by_instance[&me].prefetch.is_empty() && by_instance[&mine].prefetch.is_empty());
    assert!(by_instance[&pick].private && by_instance[&pick].prefetch.is_empty());

    // The device reads what its tasks reach, and nothing else.
    for a in &task.prefetch {
        let manifest = phone.hub.manifest(&phone.session, &a.id).expect("public and reached");
        for file in manifest.files.values() {
            let path = phone.hub.blob(&phone.session, &file.digest).expect("here");
            assert_eq!(Digest::of(&std::fs::read(path).expect("readable")), file.digest);
        }
    }
    let stranger = bench
        .engine
        .workspace()
        .artifacts()
        .import(&headstart_protocol::Output::new(Type::Metrics, json!({"of": "another pipeline"})));
    let (_, stranger) = stranger.expect("stored");
    assert_eq!(phone.hub.manifest(&phone.session, &stranger.id).expect_err("refused").code, codes::NOT_FOUND);

    // Neither content, nor plain digests, nor counters are anywhere in the workspace.
    bench.engine.workspace().cache().flush();
    let mut files = Vec::new();
    files_below(bench.engine.workspace().dir(), &mut files);
    let plain = Digest::of(format!("tuned of {SECRET_TEXT}").as_bytes()).to_string();
    for path in files {
        let bytes = std::fs::read(&path).expect("readable");
        for needle in [SECRET_TEXT, plain.as_str(), "rows_of_my_diary"] {
            let found = bytes.windows(needle.len()).any(|w| w == needle.as_bytes());
            assert!(!found, "{needle:?} is in {}", path.display());
        }
    }

    // Again: only the source is read once more; the rest is known, by reference.
    let run = begin(&bench, plan);
    phone.work(1).await;
    let again = run.wait().await.expect("ends");
    assert_eq!(again.outputs, result.outputs);
    assert_eq!((again.counts.cached, again.counts.delivered), (7, 1));
}

#[tokio::test]
async fn what_must_not_leave_is_refused_even_if_a_device_sends_it() {
    let bench = Bench::new();
    let run = begin(&bench, single(&["metrics"]));
    let mut phone = Phone::join(bench.engine.hub());
    let task = phone.claim().await;
    let output = handle(ArtifactType::Pllm, "weights");
    let release = |path: &str, value: serde_json::Value| Outcome::Succeeded {
        output: output.clone(),
        released: BTreeMap::from([(path.to_owned(), Released::Json(value))]),
        usage: Usage::default(),
    };
    let public = ArtifactRef { private_to: None, ..output.clone() };
    let someone = ArtifactRef { private_to: Some("tablet".into()), ..output.clone() };
    let long_key = "k".repeat(100);
    let refused = [
        done(public),
        done(someone),
        release("", json!({"loss": 1.0})),
        release("metrics", json!({"loss": SECRET_TEXT})),
        release("metrics", json!({ long_key: 1.0 })),
        release("metrics", json!([["a"]])),
    ];
    for outcome in refused {
        let e = phone.commit(task.fence, outcome.clone()).await.expect_err("refused");
        assert_eq!(e.code, codes::RESIDENCY, "{outcome:?}");
    }
    let secret = Manifest {
        ty: Type::Dataset,
        files: BTreeMap::new(),
        value: json!(SECRET_TEXT),
        uses: BTreeMap::new(),
    };
    let manifests = BTreeMap::from([(secret.id().to_string(), secret.clone())]);
    let e = phone.commit_with(task.fence, done(output.clone()), manifests).await.expect_err("refused");
    assert_eq!(e.code, codes::RESIDENCY);
    assert!(!bench.engine.workspace().artifacts().has(&secret.id()));
    let digest = Digest::of(SECRET_TEXT.as_bytes());
    let e = phone.upload(&digest, SECRET_TEXT.as_bytes()).expect_err("nobody asked for it");
    assert_eq!(e.code, codes::RESIDENCY);

    // Progress of a private stage goes nowhere, and of its failure only the class is kept.
    let progress = Progress { done: 1, unit: SECRET_TEXT.into(), ..Progress::default() };
    let renew = Renew { fence: task.fence, progress: Some(progress) };
    assert_eq!(phone.renew(renew).expect("theirs"), Renewed::Ok);
    let failure = Failure::input(format!("line 3 is {SECRET_TEXT}"));
    phone.commit(task.fence, Outcome::Failed { failure }).await.expect("taken");
    let result = run.wait().await.expect("ends");
    assert_eq!(result.failures[0].failure.class, FailureClass::Input);
    let log = std::fs::read(bench.engine.workspace().runs()[0].dir.join("log/events")).expect("readable");
    let log = String::from_utf8_lossy(&log);
    assert!(!log.contains(SECRET_TEXT));
    assert!(!log.contains("\"progress\""));
}

/// The releases decide what may arrive: not weights or text under the name of numbers.
#[tokio::test]
async fn a_release_lets_out_its_own_kind_of_thing_only() {
    let manifest = |ty: Type, value: serde_json::Value| Manifest {
        ty,
        files: BTreeMap::new(),
        value,
        uses: BTreeMap::new(),
    };
    let text = json!({"note": format!("{SECRET_TEXT}, and {SECRET_TEXT}")});
    let cases = [
        ("metrics", manifest(Type::Pllm, json!({}))),
        ("metrics", manifest(Type::Metrics, json!({"note": SECRET_TEXT}))),
        ("metrics", manifest(Type::Dataset, json!({}))),
        ("", manifest(Type::Metrics, json!({"loss": 1.0}))),
        ("", manifest(Type::Model, json!({}))),
        ("", manifest(Type::Pllm, text)),
        ("base", manifest(Type::Model, json!({}))),
    ];
    for (path, content) in cases {
        let bench = Bench::new();
        let mut plan = single(&["metrics"]);
        plan.instances[1].release = vec![path.split('.').filter(|p| !p.is_empty()).map(Into::into).collect()];
        let run = begin(&bench, plan);
        let mut phone = Phone::join(bench.engine.hub());
        let task = phone.claim().await;
        let a = ArtifactRef::public(&content);
        let outcome = Outcome::Succeeded {
            output: handle(ArtifactType::Pllm, "weights"),
            released: BTreeMap::from([(path.to_owned(), Released::Artifact(a.clone()))]),
            usage: Usage::default(),
        };
        let manifests = BTreeMap::from([(a.id.to_string(), content.clone())]);
        let e = phone.commit_with(task.fence, outcome, manifests).await.expect_err("refused");
        assert_eq!(e.code, codes::RESIDENCY, "{path:?} with a {}", content.ty);
        assert!(!bench.engine.workspace().artifacts().has(&a.id), "{path:?} with a {}", content.ty);
        run.cancel();
    }
}

#[tokio::test]
async fn a_released_model_is_uploaded_while_its_commit_is_open() {
    let bench = Bench::new();
    let mut plan = single(&[""]);
    plan.instances[1].release = vec![vec![]];
    let mut p = Pipeline { plan };
    p.output("tuned", out(1), Type::Pllm);
    let run = begin(&bench, p.plan);
    let mut phone = Phone::join(bench.engine.hub());
    let task = phone.claim().await;
    let weights = b"released weights";
    let digest = Digest::of(weights);
    let file = FileRef { digest, size: weights.len() as u64 };
    let files = BTreeMap::from([("adapter_model.safetensors".to_owned(), file)]);
    let manifest = Manifest { ty: Type::Pllm, files, value: json!({}), uses: BTreeMap::new() };
    let released = ArtifactRef::public(&manifest);
    let outcome = Outcome::Succeeded {
        output: handle(ArtifactType::Pllm, "weights"),
        released: BTreeMap::from([(String::new(), Released::Artifact(released.clone()))]),
        usage: Usage::default(),
    };
    let manifests = || BTreeMap::from([(released.id.to_string(), manifest.clone())]);
    let e = phone.commit_with(task.fence, outcome.clone(), manifests()).await.expect_err("not uploaded yet");
    assert_eq!((e.code.as_str(), e.message), (codes::MISSING_BLOB, digest.to_string()));
    let wrong = phone.upload(&digest, b"16 other bytes..").expect_err("refused");
    assert_eq!(wrong.code, codes::INVALID);
    let longer = phone.upload(&digest, b"more bytes than the commit says").expect_err("refused");
    assert_eq!(longer.code, codes::INVALID);
    let scratch = bench.engine.workspace().dir().join("scratch");
    let mut left = Vec::new();
    files_below(&scratch, &mut left);
    assert!(left.iter().all(|at| at.ends_with("lock")), "{left:?}");
    assert!(!bench.engine.workspace().blobs().has(&digest));
    phone.upload(&digest, weights).expect("asked for");
    assert!(!bench.engine.workspace().blobs().has(&digest), "not before the commit is accepted");
    let taken = phone.commit_with(task.fence, outcome, manifests()).await.expect("complete");
    assert_eq!(taken, Committed::Accepted);
    let closed = phone.upload(&digest, weights).expect_err("closed");
    assert_eq!(closed.code, codes::RESIDENCY);
    let result = run.wait().await.expect("ends");
    assert_eq!(result.outputs[0].value, Some(Value::Artifact(released.clone())));
    assert!(bench.engine.workspace().artifacts().has(&released.id));
}

/// What a commit brings is counted before the first byte is asked for.
#[tokio::test]
async fn a_commit_that_is_larger_than_any_disk_is_refused_before_its_upload() {
    let bench = Bench::new();
    let mut plan = single(&[""]);
    plan.instances[1].release = vec![vec![]];
    let run = begin(&bench, plan);
    let mut phone = Phone::join(bench.engine.hub());
    let task = phone.claim().await;
    let vast =
        |name: &str, size: u64| (name.to_owned(), FileRef { digest: Digest::of(name.as_bytes()), size });
    for sizes in [[1 << 60, 1], [u64::MAX, u64::MAX], [11 << 30, 10 << 30]] {
        let files = BTreeMap::from([vast("adapter_model.safetensors", sizes[0]), vast("more", sizes[1])]);
        let manifest = Manifest { ty: Type::Pllm, files, value: json!({}), uses: BTreeMap::new() };
        let released = ArtifactRef::public(&manifest);
        let outcome = Outcome::Succeeded {
            output: handle(ArtifactType::Pllm, "weights"),
            released: BTreeMap::from([(String::new(), Released::Artifact(released.clone()))]),
            usage: Usage::default(),
        };
        let manifests = BTreeMap::from([(released.id.to_string(), manifest)]);
        let e = phone.commit_with(task.fence, outcome, manifests).await.expect_err("refused");
        assert_eq!(e.code, codes::INVALID, "{sizes:?}");
        assert!(e.message.starts_with("the commit brings"), "{}", e.message);
        let unasked = phone.upload(&Digest::of(b"more"), b"more").expect_err("not asked for");
        assert_eq!(unasked.code, codes::RESIDENCY);
    }
    drop(run);
}
