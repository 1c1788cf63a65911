//! Runs that were interrupted: what the same command resumes, and what devices hand in meanwhile.

mod common;

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::sync::atomic::Ordering;
use std::time::Duration;

use common::phone::{Phone, begin, done, handle, single};
use common::{Bench, Pipeline, options, out};
use headstart_core::{EventKind, RunOutcome};
use headstart_driver::hub::codes;
use headstart_driver::{Resumable, RunHandle, request_retry};
use headstart_dsl::plan::Plan;
use headstart_env::simulated::SimulatedClock;
use headstart_protocol::expr::{Expr, Value};
use headstart_protocol::task::{Outcome, Released, Usage};
use headstart_protocol::wire::Committed;
use headstart_protocol::{ArtifactType, Digest, Failure, FailureClass, FileRef, Manifest, Type};
use serde_json::json;

/// A source, a sum over it, and a stage that waits for the phone.
fn waiting() -> Plan {
    let mut p = Pipeline::default();
    let rows = p.source("rows", "rows.txt");
    p.sum("sum", &[rows]);
    let mine = p.add("mine", "jsonl", Type::Dataset, &[("path", Expr::value(Value::Path("me".into())))]);
    p.on_phone(mine);
    p.plan
}

/// Begins, and waits until so many instances are done.
async fn begin_until(bench: &Bench, plan: Plan, done: usize) -> RunHandle {
    let run = begin(bench, plan);
    let mut events = run.subscribe();
    let mut left = done;
    while left > 0 {
        let event = events.recv().await.expect("it has not ended");
        left -= usize::from(matches!(event.kind, EventKind::Committed { .. } | EventKind::CacheHit { .. }));
    }
    run
}

fn resumable(bench: &Bench, plan: &Plan) -> Option<Resumable> {
    bench.engine.resumable(plan, &bench.run_options())
}

#[tokio::test]
async fn the_same_plan_over_the_same_sources_is_resumed() {
    let mut bench = Bench::new();
    bench.write("rows.txt", 7);
    let plan = waiting();
    let run = begin_until(&bench, plan.clone(), 2).await;
    assert_eq!(resumable(&bench, &plan), None, "it is live");
    let id = bench.interrupted(run.id(), "first");
    let found = Resumable { run: id.clone(), finished: 2, instances: 3 };
    assert_eq!(resumable(&bench, &plan), Some(found.clone()));
    let mut other = plan.clone();
    other.instances[1].policy.retry = 1;
    assert_eq!(resumable(&bench, &other), None, "another plan");
    bench.write("rows.txt", 8);
    assert_eq!(resumable(&bench, &plan), None, "the source reads differently");
    bench.write("rows.txt", 7);
    assert_eq!(resumable(&bench, &plan), Some(found));
    // Of two, the latest.
    let run = begin_until(&bench, plan.clone(), 2).await;
    let second = bench.interrupted(run.id(), "second");
    assert_eq!(resumable(&bench, &plan).map(|r| r.run), Some(second.clone()));
    // Its log was cut: by a crash in the middle of a write, or a repair.
    let log = bench.engine.workspace().dir().join("runs/second/log/events");
    let file = OpenOptions::new().write(true).open(&log).expect("a log");
    file.set_len(file.metadata().expect("its length").len() - 3).expect("cut");
    let cut = resumable(&bench, &plan).expect("as far as it goes");
    assert_eq!(cut.run, second);
    // One that another process has resumed is left alone.
    let resumed = bench.engine.resume(&second, bench.run_options()).expect("resumes");
    assert_eq!(resumable(&bench, &plan).map(|r| r.run), Some(id));
    let mut phone = Phone::join(bench.engine.hub());
    let task = phone.claim().await;
    phone.commit(task.fence, done(handle(ArtifactType::Dataset, "mine"))).await.expect("taken");
    assert_eq!(resumed.wait().await.expect("ends").outcome, RunOutcome::Succeeded);
    assert_eq!(resumable(&bench, &plan), None, "a later one succeeded");
}

#[tokio::test]
async fn a_cancelled_run_is_resumed_and_ends_well() {
    let bench = Bench::new();
    bench.write("rows.txt", 7);
    let plan = waiting();
    let run = begin_until(&bench, plan.clone(), 2).await;
    run.cancel();
    assert_eq!(run.wait().await.expect("ends").outcome, RunOutcome::Cancelled);
    let found = resumable(&bench, &plan).expect("it was cancelled");
    assert_eq!((&*found.run, found.finished), (run.id(), 2));
    let again = bench.engine.resume(&found.run, bench.run_options()).expect("resumes");
    let mut phone = Phone::join(bench.engine.hub());
    let task = phone.claim().await;
    phone.commit(task.fence, done(handle(ArtifactType::Dataset, "mine"))).await.expect("taken");
    let result = again.wait().await.expect("ends");
    assert_eq!(
        (result.outcome, result.counts.succeeded, result.counts.delivered),
        (RunOutcome::Succeeded, 2, 1)
    );
    assert_eq!(bench.script.calls("concat"), 1, "what was done is not done again");
}

fn trained(loss: f64) -> Outcome {
    let released = BTreeMap::from([("metrics".to_owned(), Released::Json(json!({ "loss": loss })))]);
    Outcome::Succeeded { output: handle(ArtifactType::Pllm, "weights"), released, usage: Usage::default() }
}

#[tokio::test]
async fn what_a_device_hands_in_for_an_interrupted_run_is_kept_and_acknowledged() {
    let mut bench = Bench::new();
    let run = begin(&bench, single(&["metrics"]));
    let mut phone = Phone::join(bench.engine.hub());
    let task = phone.claim().await;
    let id = bench.interrupted(run.id(), "interrupted");
    let phone = Phone::join(bench.engine.hub());
    let mut secret = trained(0.5);
    if let Outcome::Succeeded { released, .. } = &mut secret {
        released.insert("text".into(), Released::Json(json!("dear diary")));
    }
    let e = phone.commit(task.fence, secret).await.expect_err("checked like any other");
    assert_eq!(e.code, codes::RESIDENCY);
    for _ in 0..2 {
        let taken = phone.commit(task.fence, trained(0.5)).await.expect("taken");
        assert_eq!(taken, Committed::Accepted, "also when it is said again");
    }
    assert_eq!(phone.commit(task.fence + 1, trained(0.5)).await.expect("answered"), Committed::Superseded);
    // The engine is killed once more before anybody resumes.
    let id = bench.interrupted(&id, "again");
    let resumed = bench.engine.resume(&id, bench.run_options()).expect("resumes");
    let result = resumed.wait().await.expect("ends, and nobody had to do anything");
    assert_eq!((result.outcome, result.counts.delivered), (RunOutcome::Succeeded, 1));
    let phone = Phone::join(bench.engine.hub());
    let late = phone.commit(task.fence, trained(0.5)).await.expect("answered");
    assert_eq!(late, Committed::Accepted, "an answer that was lost is given again");
    let cached = bench.run(single(&["metrics"])).await;
    assert_eq!(cached.counts.cached, 2, "a new run finds it");
}

#[tokio::test]
async fn a_late_failure_counts_as_one_that_came_in_time() {
    for (retry, outcome) in [(0, RunOutcome::Failed), (1, RunOutcome::Succeeded)] {
        let mut bench = Bench::new();
        let mut plan = single(&["metrics"]);
        plan.instances[1].policy.retry = retry;
        plan.instances[1].policy.backoff_ms = Some(1);
        let run = begin(&bench, plan);
        let task = Phone::join(bench.engine.hub()).claim().await;
        let id = bench.interrupted(run.id(), "interrupted");
        let phone = Phone::join(bench.engine.hub());
        let failure = Failure::new(FailureClass::Transient, "the line dropped");
        phone.commit(task.fence, Outcome::Failed { failure }).await.expect("taken");
        let resumed = bench.engine.resume(&id, bench.run_options()).expect("resumes");
        if retry > 0 {
            let mut phone = Phone::join(bench.engine.hub());
            let task = phone.claim().await;
            assert_eq!(task.attempt, 2);
            phone.commit(task.fence, trained(0.1)).await.expect("taken");
        }
        assert_eq!(resumed.wait().await.expect("ends").outcome, outcome);
    }
}

#[tokio::test]
async fn files_of_a_late_commit_are_uploaded_first() {
    let mut bench = Bench::new();
    let mut plan = single(&[""]);
    plan.instances[1].release = vec![vec![]];
    let mut p = Pipeline { plan };
    p.output("tuned", out(1), Type::Pllm);
    let run = begin(&bench, p.plan);
    let task = Phone::join(bench.engine.hub()).claim().await;
    let id = bench.interrupted(run.id(), "interrupted");
    let phone = Phone::join(bench.engine.hub());
    let weights = b"released weights";
    let digest = Digest::of(weights);
    let file = FileRef { digest, size: weights.len() as u64 };
    let files = BTreeMap::from([("adapter_model.safetensors".to_owned(), file)]);
    let manifest = Manifest { ty: Type::Pllm, files, value: json!({}), uses: BTreeMap::new() };
    let model = headstart_protocol::ArtifactRef::public(&manifest);
    let outcome = Outcome::Succeeded {
        output: handle(ArtifactType::Pllm, "weights"),
        released: BTreeMap::from([(String::new(), Released::Artifact(model.clone()))]),
        usage: Usage::default(),
    };
    let manifests = || BTreeMap::from([(model.id.to_string(), manifest.clone())]);
    let e = phone.commit_with(task.fence, outcome.clone(), manifests()).await.expect_err("not uploaded yet");
    assert_eq!((e.code.as_str(), e.message), (codes::MISSING_BLOB, digest.to_string()));
    phone.upload(&digest, weights).expect("asked for");
    let taken = phone.commit_with(task.fence, outcome, manifests()).await.expect("complete");
    assert_eq!(taken, Committed::Accepted);
    let asked = phone.upload(&digest, weights).expect_err("nothing is open any more");
    assert_eq!(asked.code, codes::RESIDENCY);
    let resumed = bench.engine.resume(&id, bench.run_options()).expect("resumes");
    let result = resumed.wait().await.expect("ends");
    assert!(matches!(&result.outputs[0].value, Some(Value::Artifact(a)) if *a == model), "{result:?}");
    assert!(bench.engine.workspace().blobs().has(&digest));
}

/// Lets time pass until a run has ended, in which attempts are lost.
async fn without_pauses(clock: &SimulatedClock, run: &RunHandle) {
    let mut events = run.subscribe();
    while let Some(event) = events.recv().await {
        if matches!(event.kind, EventKind::Failed { retry_at_ms: Some(_), .. }) {
            clock.advance(Duration::from_secs(120));
        }
    }
}

#[tokio::test]
async fn a_stage_whose_process_is_always_lost_is_quarantined_until_a_person_releases_it() {
    let (bench, clock) = Bench::simulated(options());
    let mut p = Pipeline::default();
    let n = ("n", Expr::value(Value::Int(1)));
    let a = p.add("a", "accuracy", Type::Metrics, &[n]);
    p.blend("other", 2);
    p.at(a).policy.losses = 3;
    let plan = p.plan.clone();
    bench.script.losses_left.store(3, Ordering::SeqCst);
    let run = begin(&bench, p.plan);
    without_pauses(&clock, &run).await;
    let result = run.wait().await.expect("ends");
    assert_eq!(result.outcome, RunOutcome::Failed);
    let failed = &result.failures[0];
    assert!(
        failed.failure.message.contains("quarantined") && failed.failure.message.contains("3 times"),
        "{failed:?}"
    );
    let help = failed.failure.help.as_deref().expect("what to do");
    assert!(help.contains(&format!("headstart runs {} --retry 'a'", run.id())), "{help}");
    let ws = bench.engine.workspace();
    assert_eq!(resumable(&bench, &plan), None, "it has failed");
    let unknown = request_retry(ws, run.id(), "other", 0).expect_err("it succeeded");
    assert!(unknown.to_string().contains("failed: `a`"), "{unknown}");
    assert_eq!(request_retry(ws, run.id(), "a", 0).expect("quarantined"), ["a"]);
    assert_eq!(resumable(&bench, &plan).map(|r| r.finished), Some(1), "it is open again");
    let again = bench.engine.resume(run.id(), bench.run_options()).expect("resumes");
    let result = again.wait().await.expect("ends");
    assert_eq!((result.outcome, result.counts.succeeded), (RunOutcome::Succeeded, 2));
}

#[tokio::test]
async fn a_stage_that_gets_further_each_time_is_not_quarantined() {
    let (bench, clock) = Bench::simulated(options());
    let mut p = Pipeline::default();
    let model = p.blend("model", 3);
    let said = p.add("said", "probe", Type::Responses, &[("model", out(model))]);
    p.at(said).policy.losses = 2;
    bench.script.losses_left.store(9, Ordering::SeqCst);
    let run = begin(&bench, p.plan);
    without_pauses(&clock, &run).await;
    assert_eq!(run.wait().await.expect("ends").outcome, RunOutcome::Succeeded);
    assert_eq!(bench.script.calls("probe"), 10);
}

/// However often a device asks, for whatever fence: of each log only what is new is read.
#[tokio::test]
async fn late_commits_read_no_log_twice() {
    let mut bench = Bench::new();
    let run = begin(&bench, single(&[]));
    let mut phone = Phone::join(bench.engine.hub());
    let task = phone.claim().await;
    let id = bench.interrupted(run.id(), "first");
    let phone = Phone::join(bench.engine.hub());
    let output = done(handle(ArtifactType::Pllm, "weights"));
    let runs = bench.engine.workspace().dir().join("runs");
    let log = runs.join(&id).join("log/events");
    assert_eq!(phone.commit(9, output.clone()).await.expect("unknown"), Committed::Superseded);
    let whole = std::fs::read(&log).expect("a log");
    let time = std::fs::metadata(&log).and_then(|m| m.modified()).expect("a time");
    std::fs::write(&log, vec![b'x'; whole.len()]).expect("writes");
    std::fs::File::options().write(true).open(&log).and_then(|f| f.set_modified(time)).expect("as it was");
    let other = handle(ArtifactType::Dataset, "of another type");
    for fence in [9, 10, u64::MAX] {
        assert_eq!(phone.commit(fence, output.clone()).await.expect("unknown"), Committed::Superseded);
    }
    std::fs::write(&log, &whole).expect("as it was");
    let e = phone.commit(task.fence, done(other.clone())).await.expect_err("another type");
    assert_eq!(e.code, codes::INVALID);
    // What the attempt comes to is known as well now, until its log grows.
    std::fs::write(&log, vec![b'x'; whole.len()]).expect("writes");
    let again = phone.commit(task.fence, done(other)).await.expect_err("another type");
    assert_eq!(again.code, codes::INVALID);
    std::fs::write(&log, &whole).expect("as it was");
    assert_eq!(phone.commit(task.fence, output.clone()).await.expect("taken"), Committed::Accepted);
    assert_eq!(phone.commit(task.fence, output).await.expect("known"), Committed::Accepted);
}
