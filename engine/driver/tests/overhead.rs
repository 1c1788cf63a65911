//! What the engine itself costs, with every event on disk. Prints what it measures; the bounds are
//! wide, because these tests run unoptimised on busy machines. `make bench` measures properly.

mod common;

use std::time::{Duration, Instant};

use common::*;
use headstart_core::event::RunOutcome;
use headstart_dsl::plan::Plan;
use headstart_protocol::Type;
use headstart_protocol::expr::{Expr, Value};

const N: u32 = 10_000;

/// A fan-out in which every instance makes another output, and one that needs them all.
fn many() -> Plan {
    let mut p = Pipeline::default();
    let number = |i: u32| ("n", Expr::value(Value::Int(i64::from(i))));
    let all: Vec<u32> =
        (1..N).map(|i| p.add(&format!("a[{i}]"), "accuracy", Type::Metrics, &[number(i)])).collect();
    let last = p.add("last", "accuracy", Type::Metrics, &[number(0), ("of", list(&all))]);
    p.output("last", out(last), Type::Metrics);
    p.plan
}

fn each(elapsed: Duration) -> Duration {
    elapsed / N
}

#[tokio::test]
async fn ten_thousand_instances() {
    let bench = Bench::new();
    let plan = many();
    let begun = Instant::now();
    let first = bench.run(plan.clone()).await;
    let ran = begun.elapsed();
    assert_eq!(first.outcome, RunOutcome::Succeeded);
    println!("first run: {ran:?}, {:?} an instance, {} executed", each(ran), bench.script.total());

    let begun = Instant::now();
    let again = bench.run(plan).await;
    let cached = begun.elapsed();
    println!("again, all cached: {cached:?}, {:?} an instance", each(cached));
    assert_eq!(again.counts.cached, N);
    assert!(each(ran) < Duration::from_millis(3), "{ran:?}");
    assert!(each(cached) < Duration::from_millis(1), "{cached:?}");
}
