//! Stages beside each other: as many as jobs, threads, memory and groups allow.

mod common;

use std::collections::BTreeSet;

use common::{Bench, Pipeline, options, out};
use headstart_core::EventKind;
use headstart_driver::EngineOptions;
use headstart_dsl::plan::{Group, Plan, Policy};
use headstart_protocol::Type;

/// Three stages that run until they are stopped, each with this policy.
fn three(policy: &Policy) -> Plan {
    let mut p = Pipeline::default();
    // Of different data: what is equal is computed once.
    for (rows, name) in ["x", "y", "z"].into_iter().enumerate() {
        let data = p.blend(&format!("of {name}"), rows as i64);
        let i = p.add(name, "evaluate", Type::Metrics, &[("data", out(data))]);
        p.at(i).policy = policy.clone();
    }
    p.plan
}

/// How many of the stages run at once: waits until so many do, and sees whether another has begun when they are stopped.
async fn at_once(options: EngineOptions, policy: Policy, expected: usize) {
    let bench = Bench::with(options);
    let run = bench.engine.run(three(&policy), bench.run_options()).expect("begins");
    let mut events = run.subscribe();
    let mut begun = BTreeSet::new();
    let mut reported = BTreeSet::new();
    let mut cancelled = false;
    while let Some(event) = events.recv().await {
        match event.kind {
            EventKind::AttemptStarted { instance, .. } if instance % 2 == 1 => drop(begun.insert(instance)),
            EventKind::Progress { instance, .. } => drop(reported.insert(instance)),
            _ => {}
        }
        if reported.len() == expected && !cancelled {
            cancelled = true;
            run.cancel();
        }
    }
    assert_eq!(begun.len(), expected, "{policy:?}");
}

fn machine(jobs: usize, threads: usize, memory: u64) -> EngineOptions {
    EngineOptions { jobs: Some(jobs), threads: Some(threads), memory: Some(memory), ..options() }
}

#[tokio::test]
async fn stages_run_beside_each_other_as_far_as_everything_allows() {
    let threads = |n| Policy { threads: Some(n), ..Policy::default() };
    at_once(machine(8, 8, 100), threads(1), 3).await;
    at_once(machine(2, 8, 100), threads(1), 2).await;
    at_once(machine(8, 4, 100), threads(2), 2).await;
    at_once(machine(8, 8, 100), Policy::default(), 1).await;
    at_once(machine(8, 8, 100), Policy { memory: Some(50), ..threads(1) }, 2).await;
    at_once(machine(8, 8, 100), Policy { memory: Some(500), ..threads(1) }, 1).await;
    let gpu = |size| Policy { limit: Some(Group { name: "gpu".into(), size }), ..threads(1) };
    at_once(machine(8, 8, 100), gpu(1), 1).await;
    at_once(machine(8, 8, 100), gpu(2), 2).await;
}

#[tokio::test]
async fn a_group_holds_over_all_runs_of_an_engine_and_a_waiting_run_ends() {
    let bench = Bench::with(machine(8, 8, 100));
    let gpu = Some(Group { name: "gpu".into(), size: 1 });
    let policy = Policy { threads: Some(1), limit: gpu, ..Policy::default() };
    let first = bench.engine.run(three(&policy), bench.run_options()).expect("begins");
    let mut events = first.subscribe();
    while !matches!(events.recv().await.expect("runs").kind, EventKind::Progress { .. }) {}
    let mut p = Pipeline::default();
    let a = p.add(
        "a",
        "accuracy",
        Type::Metrics,
        &[("n", headstart_protocol::expr::Expr::value(headstart_protocol::expr::Value::Int(2)))],
    );
    p.at(a).policy = policy;
    p.output("a", out(a), Type::Metrics);
    let second = bench.engine.run(p.plan, bench.run_options()).expect("begins");
    // It has begun, and its stage waits for the group.
    let mut begun = second.subscribe();
    assert!(matches!(begun.recv().await.expect("runs").kind, EventKind::RunStarted { .. }));
    assert_eq!(bench.script.calls("accuracy"), 0);
    first.cancel();
    first.wait().await.expect("ends");
    let result = second.wait().await.expect("ends");
    assert_eq!(result.counts.succeeded, 1);
}
