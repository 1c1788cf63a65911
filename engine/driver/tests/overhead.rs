//! What the engine itself costs, with every event on disk. Prints what it measures; only `make bench-timings`
//! holds it to bounds.

mod common;

use std::time::{Duration, Instant};

use common::*;
use headstart_core::RunOutcome;
use headstart_dsl::plan::Plan;
use headstart_protocol::Type;
use headstart_protocol::expr::{Expr, Value};
use headstart_testkit::assert_within;

/// A fan-out in which every instance makes another output, and one that needs them all.
fn many(n: u32, equal: bool) -> Plan {
    let mut p = Pipeline::default();
    let int = |n: u32| Expr::value(Value::Int(i64::from(n)));
    let args = |i: u32| [("seed", int(i)), ("n", int(if equal { 0 } else { i }))];
    let all: Vec<u32> =
        (1..n).map(|i| p.add(&format!("a[{i}]"), "accuracy", Type::Metrics, &args(i))).collect();
    let last = p.add("last", "accuracy", Type::Metrics, &[("n", int(0)), ("of", list(&all))]);
    p.output("last", out(last), Type::Metrics);
    p.plan
}

#[tokio::test]
async fn thousands_of_instances() {
    // Every instance makes its own output: a file is created for each.
    let (ran, cached) = measure("with new outputs", 2_000, false).await;
    assert_within("a new output", ran, Duration::from_millis(10));
    assert_within("a cached stage", cached, Duration::from_millis(1));
    // All make the same: the rest is the engine.
    let (ran, _) = measure("the engine alone", 10_000, true).await;
    assert_within("a stage without a new output", ran, Duration::from_millis(2));
}

/// Time an instance takes in a first run and in a second one.
async fn measure(what: &str, n: u32, equal: bool) -> (Duration, Duration) {
    let plan = many(n, equal);
    let bench = Bench::new();
    let begun = Instant::now();
    let first = bench.run(plan.clone()).await;
    let ran = begun.elapsed() / n;
    assert_eq!((first.outcome, first.counts.succeeded), (RunOutcome::Succeeded, n));

    let begun = Instant::now();
    let again = bench.run(plan).await;
    let cached = begun.elapsed() / n;
    assert_eq!(again.counts.cached, n);
    println!("{n} instances, {what}: {ran:?} each; all cached: {cached:?} each");
    (ran, cached)
}
