//! Devices, played by the test through the hub, as the HTTP layer would.

mod common;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use common::*;
use ed25519_dalek::{Signature, VerifyingKey};
use headstart_core::event::{Event, EventKind, RunOutcome};
use headstart_driver::hub::codes;
use headstart_driver::{EngineOptions, Hub, RunHandle, RunOptions};
use headstart_dsl::plan::Plan;
use headstart_protocol::artifact::ArtifactType;
use headstart_protocol::expr::{Expr, Value};
use headstart_protocol::stage::Progress;
use headstart_protocol::task::{Outcome, Released, Task, Usage};
use headstart_protocol::wire::{Claim, Commit, Committed, Facts, Join, Renew, Renewed, WireError};
use headstart_protocol::{
    ArtifactRef, Digest, Failure, FailureClass, FileRef, Manifest, PROTOCOL_VERSION, Type,
};
use serde_json::json;

const SECRET_TEXT: &str = "dear diary, nobody must ever read this";

/// The HTTP layer moves these futures between threads.
#[test]
fn calls_may_move_between_threads() {
    fn moves<T: Send>(_: T) {}
    let bench = Bench::new();
    let hub = bench.engine.hub();
    moves(hub.claim("", Claim { facts: Facts::default(), wait_ms: 0 }));
    let outcome = Outcome::Skipped;
    moves(hub.commit("", Commit { fence: 0, outcome, manifests: BTreeMap::new() }));
}

/// A device: a token, and what it keeps to itself.
struct Phone {
    hub: Hub,
    token: String,
    key: VerifyingKey,
    /// Everything that it was ever given or told.
    tasks: Vec<Task>,
}

fn unhex<const N: usize>(text: &str) -> [u8; N] {
    let byte = |i: usize| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).expect("hexadecimal");
    std::array::from_fn(byte)
}

fn join_as(secret: &str) -> Join {
    Join {
        device: "phone".into(),
        protocol: PROTOCOL_VERSION,
        version: "1.2.3".into(),
        kinds: ["jsonl", "embed", "select", "finetune"].map(String::from).to_vec(),
        facts: Facts { threads: 2, memory: 4 << 30, ..Facts::default() },
        secret: secret.into(),
    }
}

/// What the phone calls its private things elsewhere: nobody can confirm a guess of the content.
fn handle(ty: ArtifactType, content: &str) -> ArtifactRef {
    let id = Digest::keyed(&[7; 32], content.as_bytes());
    ArtifactRef { id, ty, private_to: Some("phone".into()) }
}

impl Phone {
    fn join(hub: &Hub) -> Self {
        let joined = hub.join(join_as("a secret of the phone")).expect("admitted");
        let key = VerifyingKey::from_bytes(&unhex(&joined.key)).expect("a key");
        Self { hub: hub.clone(), token: joined.token, key, tasks: Vec::new() }
    }

    async fn claim_with(&mut self, holds: &[&str], wait_ms: u64) -> Option<Task> {
        let holds = holds.iter().map(|h| (*h).to_owned()).collect();
        let facts = Facts { threads: 2, memory: 4 << 30, holds, ..Facts::default() };
        let grant = self.hub.claim(&self.token, Claim { facts, wait_ms }).await.expect("a known token")?;
        let signature = Signature::from_bytes(&unhex(&grant.signature));
        self.key.verify_strict(grant.task.as_bytes(), &signature).expect("signed by the engine");
        let task = grant.task().expect("a task");
        self.tasks.push(task.clone());
        Some(task)
    }

    async fn claim(&mut self) -> Task {
        self.claim_with(&[], 5000).await.expect("work within five seconds")
    }

    async fn commit(&self, fence: u64, outcome: Outcome) -> Result<Committed, WireError> {
        self.commit_with(fence, outcome, BTreeMap::new()).await
    }

    async fn commit_with(
        &self,
        fence: u64,
        outcome: Outcome,
        manifests: BTreeMap<String, Manifest>,
    ) -> Result<Committed, WireError> {
        self.hub.commit(&self.token, Commit { fence, outcome, manifests }).await
    }

    /// Does what it is asked, keeping its output to itself.
    async fn work(&mut self, times: usize) {
        for _ in 0..times {
            let task = self.claim().await;
            let mut released = BTreeMap::new();
            if task.release.iter().any(|path| path == &["metrics"]) {
                released.insert("metrics".to_owned(), Released::Json(json!({"loss": 1.25, "steps": 40})));
            }
            let ty = ArtifactType::of(&task.ty).expect("an artifact");
            let output = handle(ty, &format!("{} of {SECRET_TEXT}", task.name));
            let counters = BTreeMap::from([("rows_of_my_diary".to_owned(), 365)]);
            let usage = Usage { seconds: 0.5, counters };
            let done = Outcome::Done { output, released, usage };
            assert_eq!(self.commit(task.fence, done).await.expect("taken"), Committed::Accepted);
        }
    }
}

fn done(output: ArtifactRef) -> Outcome {
    Outcome::Done { output, released: BTreeMap::new(), usage: Usage::default() }
}

/// A catalog of two pLLMs on the server; data, its divergence, a choice, a training on the phone.
fn personal() -> (Plan, [u32; 5]) {
    let mut p = Pipeline::default();
    let path = |s: &str| Expr::value(Value::Path(s.into()));
    let base = p.add("base", "local", Type::Model, &[("path", path("base"))]);
    let one = p.add("one", "ingest", Type::Pllm, &[("base", out(base)), ("source", path("one"))]);
    let two = p.add("two", "ingest", Type::Pllm, &[("base", out(base)), ("source", path("two"))]);
    let catalog = p.add("catalog", "decompose", Type::Catalog, &[("divergences", list(&[one, two]))]);
    let mine = p.add("mine", "jsonl", Type::Dataset, &[("path", path("me.jsonl"))]);
    p.on_phone(mine);
    let me = p.add("me", "embed", Type::Divergence, &[("responses", out(mine)), ("against", out(base))]);
    p.on_phone(me);
    let pick = p.add("pick", "select", Type::Selection, &[("catalog", out(catalog)), ("user", out(me))]);
    p.on_phone(pick);
    let from = field(out(pick), "pllm");
    let tuned = p.add("tuned", "finetune", Type::Pllm, &[("from", from), ("data", out(mine))]);
    p.on_phone(tuned).release = vec![vec!["metrics".into()]];
    p.output("catalog", out(catalog), Type::Catalog);
    p.output("saved", field(out(tuned), "metrics"), Type::Metrics);
    (p.plan, [catalog, mine, me, pick, tuned])
}

/// One private stage on the phone, and what of it is released.
fn single(release: &[&str]) -> Plan {
    let mut p = Pipeline::default();
    let a = p.blend("a", 3);
    let tuned = p.add("tuned", "finetune", Type::Pllm, &[("data", out(a))]);
    p.on_phone(tuned).release = release.iter().map(|r| r.split('.').map(str::to_owned).collect()).collect();
    p.plan
}

fn begin(bench: &Bench, plan: Plan) -> RunHandle {
    bench.engine.run(plan, bench.run_options()).expect("begins")
}

fn files_below(dir: &Path, out: &mut Vec<std::path::PathBuf>) {
    for entry in std::fs::read_dir(dir).expect("readable").flatten() {
        if entry.path().is_dir() { files_below(&entry.path(), out) } else { out.push(entry.path()) }
    }
}

#[tokio::test]
async fn private_stages_run_on_their_device_and_leave_nothing_behind() {
    let bench = Bench::new();
    let (plan, [catalog, mine, me, pick, tuned]) = personal();
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
        let manifest = phone.hub.manifest(&phone.token, &a.id).expect("public and reached");
        for file in manifest.files.values() {
            let path = phone.hub.blob(&phone.token, &file.digest).expect("here");
            assert_eq!(Digest::of(&std::fs::read(path).expect("readable")), file.digest);
        }
    }
    let stranger = bench
        .engine
        .workspace()
        .artifacts()
        .import(&headstart_protocol::Output::new(Type::Metrics, json!({"of": "another pipeline"})));
    let (_, stranger) = stranger.expect("stored");
    assert_eq!(phone.hub.manifest(&phone.token, &stranger.id).expect_err("refused").code, codes::NOT_FOUND);

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
    assert_eq!((again.counts.cached, again.counts.ran), (4, 4));
    let _ = catalog;
}

#[tokio::test]
async fn a_device_is_known_by_its_secret_and_its_token() {
    let mut bench = Bench::new();
    let hub = bench.engine.hub().clone();
    hub.join(join_as("a secret of the phone")).expect("the first");
    let other = hub.join(join_as("the secret of a thief")).expect_err("refused");
    assert_eq!(other.code, codes::WRONG_SECRET);
    assert_eq!(hub.join(join_as("short")).expect_err("refused").code, codes::INVALID);
    let escape = Join { device: "../x".into(), ..join_as("a secret of the phone") };
    assert_eq!(hub.join(escape).expect_err("refused").code, codes::INVALID);
    let old = Join { protocol: PROTOCOL_VERSION + 1, ..join_as("a secret of the phone") };
    assert_eq!(hub.join(old).expect_err("refused").code, codes::PROTOCOL);
    let renew = Renew { fence: 1, progress: None };
    assert_eq!(hub.renew("no token", renew).expect_err("refused").code, codes::UNKNOWN_TOKEN);

    let key = hub.public_key();
    bench.restarted(options());
    let hub = bench.engine.hub();
    assert_eq!(hub.public_key(), key, "the engine's key outlives it");
    assert_eq!(hub.join(join_as("the secret of a thief")).expect_err("refused").code, codes::WRONG_SECRET);
    assert_eq!(hub.devices()[0].name, "phone");
}

#[tokio::test]
async fn what_must_not_leave_is_refused_even_if_a_device_sends_it() {
    let bench = Bench::new();
    let run = begin(&bench, single(&["metrics"]));
    let mut phone = Phone::join(bench.engine.hub());
    let task = phone.claim().await;
    let output = handle(ArtifactType::Pllm, "weights");
    let release = |path: &str, value: serde_json::Value| Outcome::Done {
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
    let upload = bench.dir.path().join("upload");
    std::fs::write(&upload, SECRET_TEXT).expect("writable");
    let digest = Digest::of(SECRET_TEXT.as_bytes());
    let e = phone.hub.put_blob(&phone.token, &digest, &upload).expect_err("nobody asked for it");
    assert_eq!(e.code, codes::RESIDENCY);
    assert!(!upload.exists(), "the upload was removed");

    // Progress of a private stage goes nowhere, and of its failure only the class is kept.
    let progress = Progress { done: 1, unit: SECRET_TEXT.into(), ..Progress::default() };
    let renew = Renew { fence: task.fence, progress: Some(progress) };
    assert_eq!(phone.hub.renew(&phone.token, renew).expect("theirs"), Renewed::Ok);
    let failure = Failure::input(format!("line 3 is {SECRET_TEXT}"));
    phone.commit(task.fence, Outcome::Failed { failure }).await.expect("taken");
    let result = run.wait().await.expect("ends");
    assert_eq!(result.failures[0].failure.class, FailureClass::Input);
    let log = std::fs::read_to_string(bench.engine.workspace().runs()[0].dir.join("log/events"));
    let log = log.unwrap_or_else(|_| {
        let bytes =
            std::fs::read(bench.engine.workspace().runs()[0].dir.join("log/events")).expect("readable");
        String::from_utf8_lossy(&bytes).into_owned()
    });
    assert!(!log.contains(SECRET_TEXT));
    assert!(!log.contains("\"progress\""));
}

/// What is released decides what may come: not weights or text under the name of numbers.
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
        let outcome = Outcome::Done {
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
async fn an_expired_lease_is_offered_again_and_the_late_twin_is_superseded() {
    let lease = Duration::from_millis(150);
    let bench = Bench::with(EngineOptions { device_lease: lease, ..options() });
    let run = begin(&bench, single(&[]));
    let mut phone = Phone::join(bench.engine.hub());
    let first = phone.claim().await;
    for _ in 0..4 {
        tokio::time::sleep(Duration::from_millis(75)).await;
        let renew = Renew { fence: first.fence, progress: None };
        assert_eq!(phone.hub.renew(&phone.token, renew).expect("theirs"), Renewed::Ok);
    }
    // Now it falls silent.
    let second = phone.claim().await;
    assert_eq!((second.attempt, second.instance), (2, first.instance));
    assert!(second.fence > first.fence);
    let renew = Renew { fence: first.fence, progress: None };
    assert_eq!(phone.hub.renew(&phone.token, renew).expect("theirs"), Renewed::Superseded);
    let output = handle(ArtifactType::Pllm, "weights");
    let late = phone.commit(first.fence, done(output.clone())).await.expect("answered");
    assert_eq!(late, Committed::Superseded);
    for _ in 0..2 {
        let taken = phone.commit(second.fence, done(output.clone())).await.expect("answered");
        assert_eq!(taken, Committed::Accepted, "also when it is said again");
    }
    let result = run.wait().await.expect("ends");
    assert_eq!(result.outcome, RunOutcome::Succeeded);
    let after = phone.commit(second.fence, done(output)).await.expect("answered");
    assert_eq!(after, Committed::Accepted, "also when the run has ended");
    let events: Vec<Event> = bench.engine.workspace().read_run(run.id()).expect("readable");
    let count = |f: &dyn Fn(&EventKind) -> bool| events.iter().filter(|e| f(&e.kind)).count();
    assert_eq!(count(&|k| matches!(k, EventKind::LeaseExpired { .. })), 1);
    assert_eq!(count(&|k| matches!(k, EventKind::Committed { instance: 1, .. })), 1);
    assert_eq!(count(&|k| matches!(k, EventKind::Superseded { .. })), 1);
}

#[tokio::test]
async fn a_device_that_starts_again_is_offered_at_once_what_it_left() {
    let bench = Bench::new();
    let run = begin(&bench, single(&[]));
    let mut phone = Phone::join(bench.engine.hub());
    let first = phone.claim().await;
    let old_token = phone.token.clone();
    let mut phone = Phone::join(bench.engine.hub());
    let second = phone.claim().await;
    assert_eq!(second.instance, first.instance);
    let output = handle(ArtifactType::Pllm, "weights");
    let commit = Commit { fence: first.fence, outcome: done(output.clone()), manifests: BTreeMap::new() };
    let late = phone.hub.commit(&old_token, commit).await.expect("old tokens stay valid");
    assert_eq!(late, Committed::Superseded);
    phone.commit(second.fence, done(output)).await.expect("taken");
    assert_eq!(run.wait().await.expect("ends").outcome, RunOutcome::Succeeded);
}

#[tokio::test]
async fn a_device_that_never_joins_fails_what_waits_for_it_and_says_how_to_join() {
    let bench = Bench::new();
    let (plan, _) = personal();
    let options = RunOptions {
        device_wait: Some(Duration::from_millis(100)),
        address: Some("http://10.0.0.5:7878".into()),
        ..bench.run_options()
    };
    let run = bench.engine.run(plan, options).expect("begins");
    let result = run.wait().await.expect("ends");
    assert_eq!(result.outcome, RunOutcome::Failed);
    let failure = &result.failures[0].failure;
    assert!(failure.message.contains("device `phone` did not join within 100ms"), "{}", failure.message);
    assert!(failure.message.contains("`mine`"), "{}", failure.message);
    let help = failure.help.as_deref().expect("help");
    assert!(help.contains("headstart-device join http://10.0.0.5:7878 --name phone"), "{help}");
    assert_eq!(result.counts.blocked, 3);
    assert_eq!(result.counts.ran, 4, "what needs no device was made");
}

#[tokio::test]
async fn conditions_and_memory_decide_what_a_device_is_offered() {
    let bench = Bench::new();
    let mut plan = single(&[]);
    plan.instances[1].policy.only_when = vec!["charging".into()];
    let run = begin(&bench, plan);
    let mut phone = Phone::join(bench.engine.hub());
    assert!(phone.claim_with(&[], 200).await.is_none(), "it is not charging");
    let task = phone.claim_with(&["charging"], 5000).await.expect("now it is");
    phone.commit(task.fence, done(handle(ArtifactType::Pllm, "w"))).await.expect("taken");
    run.wait().await.expect("ends");

    let mut plan = single(&[]);
    plan.instances[1].policy.memory = Some(8 << 30);
    plan.instances[1].args.insert("seed".into(), Expr::value(Value::Int(1)));
    let options = RunOptions { device_wait: Some(Duration::from_millis(100)), ..bench.run_options() };
    let run = bench.engine.run(plan, options).expect("begins");
    let result = run.wait().await.expect("ends");
    let message = &result.failures[0].failure.message;
    assert!(message.contains("needs 8192 MiB of memory and the device has 4096 MiB"), "{message}");
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
    let outcome = Outcome::Done {
        output: handle(ArtifactType::Pllm, "weights"),
        released: BTreeMap::from([(String::new(), Released::Artifact(released.clone()))]),
        usage: Usage::default(),
    };
    let manifests = || BTreeMap::from([(released.id.to_string(), manifest.clone())]);
    let e = phone.commit_with(task.fence, outcome.clone(), manifests()).await.expect_err("not uploaded yet");
    assert_eq!((e.code.as_str(), e.message), (codes::MISSING_BLOB, digest.to_string()));
    let upload = |content: &[u8]| {
        std::fs::create_dir_all(phone.hub.upload_dir()).expect("writable");
        let path = phone.hub.upload_dir().join("incoming");
        std::fs::write(&path, content).expect("writable");
        path
    };
    let wrong = phone.hub.put_blob(&phone.token, &digest, &upload(b"other bytes")).expect_err("refused");
    assert_eq!(wrong.code, codes::INVALID);
    assert!(!bench.engine.workspace().blobs().has(&digest));
    phone.hub.put_blob(&phone.token, &digest, &upload(weights)).expect("asked for");
    assert!(!bench.engine.workspace().blobs().has(&digest), "not before the commit is accepted");
    let taken = phone.commit_with(task.fence, outcome, manifests()).await.expect("complete");
    assert_eq!(taken, Committed::Accepted);
    let closed = phone.hub.may_put_blob(&phone.token, &digest).expect_err("closed");
    assert_eq!(closed.code, codes::RESIDENCY);
    let result = run.wait().await.expect("ends");
    assert_eq!(result.outputs[0].value, Some(Value::Artifact(released.clone())));
    assert!(bench.engine.workspace().artifacts().has(&released.id));
}

#[tokio::test]
async fn a_cancelled_run_tells_its_devices() {
    let bench = Bench::new();
    let run = begin(&bench, single(&[]));
    let mut phone = Phone::join(bench.engine.hub());
    let task = phone.claim().await;
    run.cancel();
    let mut said = Renewed::Ok;
    for _ in 0..100 {
        said = phone.hub.renew(&phone.token, Renew { fence: task.fence, progress: None }).expect("theirs");
        if said != Renewed::Ok {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(said, Renewed::Cancel);
    let failure = Failure::new(FailureClass::Cancelled, "stopped");
    phone.commit(task.fence, Outcome::Failed { failure }).await.expect("taken");
    let result = run.wait().await.expect("ends");
    assert_eq!((result.outcome, result.counts.failed), (RunOutcome::Cancelled, 0));
}

#[tokio::test]
async fn a_device_goes_on_over_a_restart_of_the_engine() {
    let mut bench = Bench::new();
    let run = begin(&bench, single(&["metrics"]));
    let mut phone = Phone::join(bench.engine.hub());
    let task = phone.claim().await;
    // The engine is lost here: what it wrote is taken up by another, under another id because the
    // first still holds the lock.
    let ws = bench.engine.workspace().clone();
    let from = ws.runs()[0].dir.clone();
    let to = ws.dir().join("runs/taken-up");
    std::fs::create_dir_all(to.join("log")).expect("writable");
    for file in ["plan.json", "log/events"] {
        std::fs::copy(from.join(file), to.join(file)).expect("copied");
    }
    let old = Arc::new(run);
    bench.restarted(options());
    let early = Phone::join(bench.engine.hub());
    let output = handle(ArtifactType::Pllm, "weights");
    let e = early.commit(task.fence, done(output)).await.expect_err("not resumed yet");
    assert_eq!(e.code, codes::INTERNAL, "the device is to try again: {e}");
    let renew = Renew { fence: task.fence, progress: None };
    assert_eq!(early.hub.renew(&early.token, renew).expect("may be"), Renewed::Ok);
    let resumed = bench.engine.resume("taken-up", bench.run_options()).expect("goes on");
    let stale = Renew { fence: task.fence, progress: None };
    let hub = bench.engine.hub();
    assert_eq!(hub.renew(&phone.token, stale.clone()).expect_err("restarted").code, codes::UNKNOWN_TOKEN);
    let again = Phone::join(hub);
    assert_eq!(hub.renew(&again.token, stale).expect("adopted"), Renewed::Ok);
    let released = BTreeMap::from([("metrics".to_owned(), Released::Json(json!({"loss": 0.5})))]);
    let output = handle(ArtifactType::Pllm, "weights");
    let outcome = Outcome::Done { output, released, usage: Usage::default() };
    assert_eq!(again.commit(task.fence, outcome).await.expect("taken"), Committed::Accepted);
    let result = resumed.wait().await.expect("ends");
    assert_eq!(result.outcome, RunOutcome::Succeeded);
    assert_eq!(result.counts.ran, 2);
    old.cancel();
}
