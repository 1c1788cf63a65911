//! Runs on the engine's own threads, through the real store.

mod common;

use std::sync::atomic::Ordering;
use std::time::Duration;

use common::*;
use headstart_core::{Event, EventKind, RunOutcome, RunState, Status};
use headstart_driver::{EngineError, EngineOptions, OnFailure, Preview};
use headstart_dsl::plan::Plan;
use headstart_protocol::expr::Expr;
use headstart_protocol::{FailureClass, Type};

/// a, b from files; sum = a + b; double = sum + sum.
fn sums() -> Plan {
    let mut p = Pipeline::default();
    let (a, b) = (p.source("a", "a.txt"), p.source("b", "b.txt"));
    let sum = p.sum("sum", &[a, b]);
    let all = p.sum("all", &[sum, a]);
    p.output("all", out(all), Type::Dataset);
    p.plan
}

#[tokio::test]
async fn a_run_ends_with_its_outputs_and_a_second_one_computes_what_changed() {
    let bench = Bench::new();
    bench.write("a.txt", 2);
    bench.write("b.txt", 3);
    let first = bench.run(sums()).await;
    assert_eq!(first.outcome, RunOutcome::Succeeded);
    assert_eq!(bench.number(&first, "all"), Some(7));
    assert_eq!((first.counts.succeeded, first.counts.cached), (4, 0));

    let again = bench.run(sums()).await;
    assert_eq!(again.outputs, first.outputs);
    assert_eq!(
        (again.counts.succeeded, again.counts.cached),
        (0, 4),
        "sources are the same, and so is what is made of them"
    );
    assert_eq!(bench.script.calls("concat"), 2);

    bench.write("b.txt", 4);
    let changed = bench.run(sums()).await;
    assert_eq!(bench.number(&changed, "all"), Some(8));
    bench.write("b.txt", 3);
    assert_eq!(bench.run(sums()).await.counts.cached, 4, "what was known before is still known");
}

#[tokio::test]
async fn a_preview_says_what_a_run_would_do() {
    let bench = Bench::new();
    bench.write("a.txt", 2);
    bench.write("b.txt", 3);
    let previews = || bench.engine.preview(&sums(), bench.dir.path()).expect("known kinds");
    let read = Preview::Read { bytes: 1 };
    assert_eq!(previews(), [read.clone(), read.clone(), Preview::Run, Preview::After(vec![2])]);
    bench.run(sums()).await;
    let known = previews();
    assert!(matches!(known[2], Preview::Cached { .. }) && matches!(known[3], Preview::Cached { .. }));
    bench.write("b.txt", 4);
    assert_eq!(previews()[2..], [Preview::Run, Preview::After(vec![2])]);
    std::fs::remove_file(bench.dir.path().join("b.txt")).expect("removable");
    assert!(matches!(&previews()[1], Preview::Fails(f) if f.message.contains("b.txt")));
    assert_eq!(bench.script.calls("concat"), 2, "only the run ran anything");
}

#[tokio::test]
async fn subscribers_see_the_log_and_the_log_replays_to_the_end() {
    let bench = Bench::new();
    bench.write("a.txt", 2);
    bench.write("b.txt", 3);
    let run = bench.engine.run(sums(), bench.run_options()).expect("begins");
    let mut events = run.subscribe();
    let mut seen: Vec<Event> = Vec::new();
    while let Some(e) = events.recv().await {
        seen.push(e);
    }
    run.wait().await.expect("ends");
    let ws = bench.engine.workspace();
    let logged: Vec<Event> = ws.read_run(run.id()).expect("readable");
    let lasting = |e: &&Event| !matches!(e.kind, EventKind::Progress { .. });
    let seen: Vec<&Event> = seen.iter().filter(lasting).collect();
    assert_eq!(seen, logged.iter().filter(lasting).collect::<Vec<_>>());
    let plan = headstart_driver::read_plan(ws, run.id()).expect("readable");
    let state = RunState::replay(plan.into(), &logged).expect("it happened");
    assert_eq!(state.outcome(), Some(RunOutcome::Succeeded));
    let mut late = run.subscribe();
    assert!(matches!(late.recv().await.map(|e| e.kind), Some(EventKind::RunStarted { .. })));
}

#[tokio::test]
async fn transient_failures_are_retried_as_often_as_the_pipeline_says() {
    let plan = |retry: u32| {
        let mut p = Pipeline::default();
        let a = p.blend("a", 1);
        let said = p.add("said", "probe", Type::Responses, &[("model", out(a))]);
        p.at(said).policy.retry = retry;
        p.at(said).policy.backoff_ms = Some(5);
        p.output("said", out(said), Type::Responses);
        p.plan
    };
    let bench = Bench::new();
    bench.script.failures_left.store(2, Ordering::SeqCst);
    let result = bench.run(plan(1)).await;
    assert_eq!(result.outcome, RunOutcome::Failed);
    assert_eq!(result.failures[0].failure.message, "the line dropped");
    assert_eq!(bench.script.calls("probe"), 2);

    let bench = Bench::new();
    bench.script.failures_left.store(2, Ordering::SeqCst);
    let result = bench.run(plan(2)).await;
    assert_eq!(result.outcome, RunOutcome::Succeeded);
    assert_eq!(bench.number(&result, "said"), Some(2));
    assert_eq!(bench.script.calls("probe"), 3);
    assert_eq!(bench.script.calls("progress"), 2, "each retry finds what the attempt before it kept");
    bench.engine.workspace().sync().expect("durable");
    let kept = std::fs::read_dir(bench.engine.workspace().dir().join("resume")).expect("there");
    assert_eq!(kept.count(), 0, "progress of what is committed is deleted");
}

#[tokio::test]
async fn a_failure_blocks_what_needs_it_and_nothing_else() {
    let mut p = Pipeline::default();
    let a = p.blend("a", 1);
    let bad = p.add("bad", "merge", Type::Dataset, &[("mix", out(a))]);
    let after = p.sum("after", &[a, bad]);
    let good = p.sum("good", &[a]);
    let last = p.sum("last", &[after]);
    let oops = p.add("oops", "embed", Type::Divergence, &[("responses", out(a))]);
    p.output("last", out(last), Type::Dataset);
    p.output("good", out(good), Type::Dataset);
    let bench = Bench::new();
    let result = bench.run(p.plan).await;
    assert_eq!(result.outcome, RunOutcome::Failed);
    let c = result.counts;
    assert_eq!((c.succeeded, c.failed, c.blocked), (2, 2, 2));
    assert_eq!((result.failures[0].instance, result.failures[0].blocks), (bad, 2));
    let panic = &result.failures[1];
    assert_eq!((panic.instance, panic.failure.class), (oops, FailureClass::Internal));
    assert!(panic.failure.message.contains("a defect, on purpose"), "{}", panic.failure.message);
    assert_eq!(bench.number(&result, "good"), Some(1));
    assert_eq!(bench.number(&result, "last"), None);
}

#[tokio::test]
async fn a_run_can_stop_at_the_first_failure() {
    let mut p = Pipeline::default();
    let a = p.blend("a", 1);
    p.add("bad", "merge", Type::Dataset, &[("mix", out(a))]);
    p.add("long", "evaluate", Type::Metrics, &[("data", out(a))]);
    let bench = Bench::with(EngineOptions { jobs: Some(2), ..options() });
    let run_options = headstart_driver::RunOptions { on_failure: OnFailure::Stop, ..bench.run_options() };
    let run = bench.engine.run(p.plan, run_options).expect("begins");
    let result = run.wait().await.expect("ends");
    assert_eq!(result.outcome, RunOutcome::Failed);
    assert_eq!(result.failures.len(), 1, "what was stopped has not failed: {:?}", result.failures);
}

#[tokio::test]
async fn conditions_skip_and_absence_travels() {
    let plan = |rows: i64| {
        let mut p = Pipeline::default();
        let a = p.blend("a", rows);
        let extra = p.blend("extra", 100);
        p.at(extra).when = Some(field(out(a), "even"));
        let either = Expr::Or { first: Box::new(out(extra)), second: Box::new(out(a)) };
        let items = vec![("x".into(), either), ("y".into(), out(extra))];
        let sum = p.add("sum", "concat", Type::Dataset, &[("datasets", Expr::List { items })]);
        p.output("sum", out(sum), Type::Dataset);
        p.plan
    };
    let bench = Bench::new();
    let even = bench.run(plan(2)).await;
    assert_eq!(bench.number(&even, "sum"), Some(200));
    let odd = bench.run(plan(3)).await;
    assert_eq!(bench.number(&odd, "sum"), Some(3), "the absent one is neither chosen nor listed");
    assert_eq!(odd.counts.skipped, 1);
}

#[tokio::test]
async fn cancelling_stops_what_runs() {
    let mut p = Pipeline::default();
    let a = p.blend("a", 1);
    let long = p.add("long", "evaluate", Type::Metrics, &[("data", out(a))]);
    p.sum("after", &[long]);
    let bench = Bench::new();
    let run = bench.engine.run(p.plan, bench.run_options()).expect("begins");
    let mut events = run.subscribe();
    while let Some(e) = events.recv().await {
        if matches!(e.kind, EventKind::AttemptStarted { instance, .. } if instance == long) {
            run.cancel();
        }
    }
    let result = run.wait().await.expect("ends");
    assert_eq!(result.outcome, RunOutcome::Cancelled);
    assert_eq!((result.counts.succeeded, result.counts.failed), (1, 0));
}

#[tokio::test]
async fn an_attempt_ends_at_its_time_limit() {
    let mut p = Pipeline::default();
    let a = p.blend("a", 1);
    let long = p.add("long", "evaluate", Type::Metrics, &[("data", out(a))]);
    p.at(long).policy.timeout_ms = Some(30);
    let (bench, clock) = Bench::simulated(options());
    let run = bench.engine.run(p.plan, bench.run_options()).expect("begins");
    let mut events = run.subscribe();
    while let Some(e) = events.recv().await {
        if matches!(e.kind, EventKind::Progress { instance, .. } if instance == long) {
            clock.advance(Duration::from_millis(30));
        }
    }
    let result = run.wait().await.expect("ends");
    assert_eq!(result.failures[0].failure.class, FailureClass::Timeout);
    assert!(result.failures[0].failure.message.contains("`long` ran past its time limit of 30ms"));
}

#[tokio::test]
async fn a_lost_artifact_is_made_again() {
    let mut p = Pipeline::default();
    let a = p.blend("a", 5);
    let b = p.sum("b", &[a]);
    let c = p.add("c", "probe", Type::Responses, &[("model", out(b))]);
    p.output("c", out(c), Type::Responses);
    let bench = Bench::new();
    let first = bench.run(p.plan.clone()).await;
    assert_eq!(bench.number(&first, "c"), Some(6));
    // Everything is known, but the content of `b` (and of `a`, which is equal) is gone, and `c` is
    // asked for in another way.
    let ws = bench.engine.workspace();
    let mut gone = 0;
    for (_, key) in log_keys(ws, &first.run) {
        let entry = ws.cache().stage_get(&key).expect("remembered");
        let manifest = ws.artifacts().manifest(&entry.output.id).expect("readable").expect("here");
        if manifest.ty == Type::Dataset {
            for f in manifest.files.values() {
                if let Some(path) = ws.blobs().path(&f.digest) {
                    std::fs::remove_file(path).expect("removable");
                    gone += 1;
                }
            }
            let _ = std::fs::remove_dir_all(ws.dir().join("open").join(entry.output.id.to_string()));
        }
    }
    assert_eq!(gone, 1, "both datasets are the same five");
    let mut changed = p.plan;
    changed.instances[c as usize].args.insert("seed".into(), Expr::value(headstart_protocol::Value::Int(1)));
    let second = bench.run(changed).await;
    assert_eq!(second.outcome, RunOutcome::Succeeded, "{:?}", second.failures);
    assert_eq!(bench.number(&second, "c"), Some(6));
    assert_eq!(bench.script.calls("blend"), 2);
}

fn log_keys(ws: &headstart_store::Workspace, run: &str) -> Vec<(u32, headstart_protocol::Digest)> {
    let events: Vec<Event> = ws.read_run(run).expect("readable");
    let key = |e: &Event| match e.kind {
        EventKind::AttemptStarted { instance, key: Some(key), .. } => Some((instance, key)),
        _ => None,
    };
    events.iter().filter_map(key).collect()
}

#[tokio::test]
async fn a_plan_with_an_unknown_kind_is_refused_before_anything_happens() {
    let mut p = Pipeline::default();
    p.add("x", "finetune", Type::Pllm, &[]);
    let bench = Bench::new();
    let refused = bench.engine.run(p.plan, bench.run_options());
    assert!(matches!(refused, Err(EngineError::NoStage { .. })));
    assert!(bench.engine.workspace().runs().is_empty());
}

#[tokio::test]
async fn after_a_crash_at_any_event_the_run_goes_on_to_the_same_outputs() {
    let mut p = Pipeline::default();
    let (a, b) = (p.source("a", "a.txt"), p.source("b", "b.txt"));
    let sum = p.sum("sum", &[a, b]);
    let odd = p.blend("odd", 9);
    p.at(odd).when = Some(field(out(sum), "even"));
    let said = p.add("said", "probe", Type::Responses, &[("model", out(sum))]);
    let bad = p.add("bad", "merge", Type::Dataset, &[("mix", out(a))]);
    p.sum("blocked", &[bad]);
    p.output("said", out(said), Type::Responses);
    p.output("odd", out(odd).clone(), Type::Dataset);
    let mut bench = Bench::new();
    bench.write("a.txt", 2);
    bench.write("b.txt", 3);
    let first = bench.run(p.plan.clone()).await;
    let ws = bench.engine.workspace().clone();
    let events: Vec<Event> = ws.read_run(&first.run).expect("readable");
    let header = headstart_driver::read_header(&ws, &first.run).expect("readable");
    let statuses = |id: &str| {
        let plan = headstart_driver::read_plan(&ws, id).expect("readable");
        let events: Vec<Event> = ws.read_run(id).expect("readable");
        let state = RunState::replay(plan.into(), &events).expect("it happened");
        let name = |s: &Status| if s.name() == "cached" { "succeeded" } else { s.name() };
        state.statuses().map(|(_, s)| name(s)).collect::<Vec<_>>()
    };
    let expected = statuses(&first.run);
    // The log ends after any of its events, but the last: that run has ended. Finer than what a
    // crash can leave, which is whole groups; and once more with the last record torn.
    for (n, torn) in (1..events.len()).flat_map(|n| [(n, false), (n, true)]) {
        let id = format!("crash-{n}-{torn}");
        let log = ws.create_run(&id, &header).expect("new");
        log.append(&events[..n - 1]).expect("writable");
        log.append(&events[n - 1..n]).expect("writable");
        drop(log);
        if torn {
            let path = ws.dir().join("runs").join(&id).join("log/events");
            let whole = std::fs::read(&path).expect("readable");
            std::fs::write(&path, &whole[..whole.len() - 7]).expect("writable");
        }
        bench.restarted(options());
        let run = bench.engine.resume(&id, bench.run_options()).unwrap_or_else(|e| panic!("{id}: {e}"));
        let result = run.wait().await.expect("ends");
        assert_eq!(result.outputs, first.outputs, "{id}");
        assert_eq!(statuses(&id), expected, "{id}");
    }
    let ended = bench.engine.resume(&first.run, bench.run_options());
    assert!(matches!(ended, Err(EngineError::Ended(_))));
}
