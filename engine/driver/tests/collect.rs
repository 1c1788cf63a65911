//! Which results a collection keeps, and that what it removed is made again.

mod common;

use std::collections::BTreeSet;
use std::num::NonZeroU32;

use common::{Bench, Pipeline, out};
use headstart_core::{EventKind, RunOutcome};
use headstart_driver::{KeepRules, Kept, RunOptions, gone, survey};
use headstart_protocol::Type;
use headstart_protocol::expr::Value;
use headstart_store::Workspace;
use headstart_store::gc::{Collection, choose};

/// A number, and twice of it.
fn doubled(n: i64) -> Pipeline {
    let mut p = Pipeline::default();
    let a = p.blend("a", n);
    let b = p.sum("b", &[a, a]);
    p.output("b", out(b), Type::Dataset);
    p
}

fn collect(ws: &Workspace, rules: KeepRules, at_most: Option<u64>) -> Collection {
    let locked = ws.exclusive(|| {}).expect("locks");
    let now_ms = headstart_env::Clock::now_ms(&headstart_env::SystemClock::new());
    let survey = survey(ws, rules, now_ms).expect("every run can be read");
    let known = ws.collected().expect("readable");
    let found = choose(&ws.inventory().expect("readable"), &survey.named(), &known, at_most);
    headstart_driver::collect::collect(ws, &locked, &survey, &found).expect("collects");
    found
}

fn others_go() -> KeepRules {
    KeepRules { others_go: true, ..KeepRules::default() }
}

#[tokio::test]
async fn what_older_runs_made_goes_and_is_made_again_by_a_run_that_needs_it() {
    let bench = Bench::new();
    let ws = bench.engine.workspace();
    let first = bench.run(doubled(3).plan).await;
    bench.run(doubled(4).plan).await;
    assert_eq!(collect(ws, KeepRules::default(), None).runs, BTreeSet::new(), "without a rule nothing goes");
    let found = collect(ws, others_go(), None);
    assert_eq!(found.runs, BTreeSet::from([first.run.clone()]));
    assert_eq!(found.artifacts.len(), 2);
    let missing = gone(ws).expect("readable");
    assert_eq!(missing.collected, found.artifacts);
    assert_eq!(missing.missing, BTreeSet::new());
    let (blends, sums) = (bench.script.calls("blend"), bench.script.calls("concat"));
    // The younger one is untouched; the older is made again.
    bench.run(doubled(4).plan).await;
    assert_eq!((bench.script.calls("blend"), bench.script.calls("concat")), (blends, sums));
    let again = bench.run(doubled(3).plan).await;
    assert_eq!(again.outcome, RunOutcome::Succeeded);
    assert_eq!(bench.number(&again, "b"), Some(6));
    assert_eq!((bench.script.calls("blend"), bench.script.calls("concat")), (blends + 1, sums + 1));
    assert_eq!(gone(ws).expect("readable").collected, BTreeSet::new(), "it is here again");
}

#[tokio::test]
async fn rules_keep_the_latest_of_each_pipeline_and_the_young() {
    let bench = Bench::new();
    let ws = bench.engine.workspace();
    let mut runs = Vec::new();
    for (pipeline, n) in [("a.pllm", 1), ("b.pllm", 2), ("a.pllm", 3), ("a.pllm", 4)] {
        let options = RunOptions { name: pipeline.into(), ..bench.run_options() };
        let run = bench.engine.run(doubled(n).plan, options).expect("begins");
        runs.push(run.wait().await.expect("ends").run.clone());
    }
    let losing = |rules, at_most, now_ms| {
        let survey = survey(ws, rules, now_ms).expect("readable");
        let inventory = ws.inventory().expect("readable");
        choose(&inventory, &survey.named(), &BTreeSet::new(), at_most).runs
    };
    let only = |which: &[usize]| which.iter().map(|i| runs[*i].clone()).collect::<BTreeSet<_>>();
    // The latest of each pipeline stays in any case.
    assert_eq!(losing(others_go(), None, 0), only(&[0, 2]));
    let two = KeepRules { runs: NonZeroU32::new(2), ..others_go() };
    assert_eq!(losing(two, None, 0), only(&[0]));
    let now_ms = headstart_env::Clock::now_ms(&headstart_env::SystemClock::new());
    let day = KeepRules { days: Some(1), ..others_go() };
    assert_eq!(losing(day, None, now_ms), only(&[]));
    assert_eq!(losing(day, None, now_ms + 2 * 24 * 3_600_000), only(&[0, 2]));
    // As much as is needed, from the oldest on.
    let all = ws.inventory().expect("readable").bytes();
    assert_eq!(losing(others_go(), Some(all - 1), 0), only(&[0]));
    assert_eq!(losing(others_go(), Some(all), 0), only(&[]));
    assert_eq!(losing(others_go(), Some(0), 0), only(&[0, 2]));
}

#[tokio::test]
async fn what_a_running_run_has_made_stays() {
    let bench = Bench::new();
    let ws = bench.engine.workspace();
    let mut p = doubled(3);
    p.add("waits", "evaluate", Type::Metrics, &[("model", out(1))]);
    let run = bench.engine.run(p.plan, bench.run_options()).expect("begins");
    let mut events = run.subscribe();
    let mut made = 0;
    while made < 2 {
        made += u32::from(matches!(events.recv().await.expect("runs").kind, EventKind::Committed { .. }));
    }
    // A later run of the same pipeline is the latest.
    bench.run(doubled(9).plan).await;
    let found = collect(ws, others_go(), Some(0));
    assert_eq!(found.artifacts, BTreeSet::new());
    let survey = survey(ws, others_go(), 0).expect("readable");
    assert!(survey.runs[0].kept.contains(&Kept::Live));
    run.cancel();
    run.wait().await.expect("ends");
}

#[tokio::test]
async fn what_an_interrupted_run_needs_stays_until_a_later_one_of_the_same_has_ended() {
    let mut bench = Bench::new();
    let mut p = doubled(3);
    p.add("waits", "evaluate", Type::Metrics, &[("model", out(1))]);
    let run = bench.engine.run(p.plan, bench.run_options()).expect("begins");
    let mut events = run.subscribe();
    while !matches!(events.recv().await.expect("runs").kind, EventKind::Progress { instance: 2, .. }) {}
    let id = bench.interrupted(run.id(), "interrupted");
    let of = |ws: &Workspace| {
        let survey = survey(ws, others_go(), 0).expect("readable");
        survey.runs.into_iter().find(|r| r.run == id).expect("there").kept
    };
    bench.run(doubled(8).plan).await;
    assert!(of(bench.engine.workspace()).contains(&Kept::Resumable));
    assert_eq!(collect(bench.engine.workspace(), others_go(), Some(0)).runs, BTreeSet::new());
    run.cancel();
}

#[tokio::test]
async fn the_newest_catalog_and_everything_it_lists_stays_and_so_does_what_is_pinned() {
    let bench = Bench::new();
    let ws = bench.engine.workspace();
    let mut p = Pipeline::default();
    let base = p.add("base", "local", Type::Model, &[]);
    let source = headstart_protocol::expr::Expr::value(Value::Path("x".into()));
    let pllm = p.add("pllm", "ingest", Type::Pllm, &[("base", out(base)), ("source", source)]);
    let catalog = p.add("catalog", "decompose", Type::Catalog, &[("divergences", common::list(&[pllm]))]);
    p.output("catalog", out(catalog), Type::Catalog);
    let first = bench.run(p.plan).await;
    let pinned = bench.run(doubled(5).plan).await;
    bench.run(doubled(6).plan).await;
    let Some(Value::Artifact(kept)) = &pinned.outputs[0].value else { panic!("an artifact") };
    let locked = ws.exclusive(|| {}).expect("locks");
    let pin = headstart_store::gc::Pin {
        run: pinned.run.clone(),
        output: "b".into(),
        pipeline: "test.pllm".into(),
        artifacts: BTreeSet::from([kept.id]),
        pinned_ms: 0,
    };
    ws.change_pins(&locked, |pins| pins.push(pin)).expect("written");
    drop(locked);
    let found = collect(ws, others_go(), None);
    // Of the pinned run goes what its output does not need; of the catalog nothing that it lists.
    assert_eq!(found.runs, BTreeSet::from([pinned.run.clone()]));
    assert_eq!(found.artifacts.len(), 1);
    assert!(ws.artifacts().has(&kept.id));
    let Some(Value::Artifact(catalog)) = &first.outputs[0].value else { panic!("an artifact") };
    let listed = ws.inventory().expect("readable").reach([catalog.id]);
    assert_eq!(listed.len(), 3, "the catalog, the pLLM and its base");
    // Also when its run is removed: the pin holds, the catalog does not.
    ws.remove_run(&pinned.run).expect("removed");
    ws.remove_run(&first.run).expect("removed");
    collect(ws, KeepRules::default(), None);
    assert!(ws.artifacts().has(&kept.id));
    assert!(!ws.artifacts().has(&catalog.id));
}
