//! Numbers that leave: how much of each, over how many rows, and how many in all.

use headstart_device::show;
use headstart_device::{Allowed, DeviceError};
use headstart_disk::Disk;
use headstart_disk::simulated::{Fault, SimulatedDisk};
use headstart_env::Env;
use headstart_protocol::expr::Value;
use headstart_protocol::task::{Outcome, Released, Task};
use headstart_protocol::{ArtifactRef, FailureClass, Output, Stage, Type};
use serde_json::{Value as Json, json};

use crate::common::stages;
use crate::owner::refused;
use crate::phone::{Phone, above, stages};

/// Somebody who writes much.
fn diary(rows: usize) -> String {
    let row = |n: usize| format!("{{\"prompt\":\"Day {n}?\",\"response\":\"Ottilie has {n} crowns.\"}}\n");
    (0..rows).map(row).collect()
}

async fn phone(rows: usize) -> (Phone, ArtifactRef) {
    let mut phone = Phone::new(&diary(rows)).await;
    phone.allowed = Allowed::NUMBERS;
    let mine = phone.diary().await;
    (phone, mine)
}

/// A stage that says a number of the engine's choice about the diary.
fn evaluate() -> Box<dyn Stage> {
    stages::fake("evaluate", |args, ctx| {
        let at = ctx.open(args.artifact("data")?)?.join("rows.jsonl");
        let text = std::fs::read_to_string(at).unwrap_or_default();
        let secret = 1.0 + 0.419_07 * text.len() as f64 / 1e6;
        Ok(Output::new(
            Type::Metrics,
            json!({ "loss": secret, "bleu": 0.333_333, "tokens": text.len(), "rows": 1e6 }),
        ))
    })
}

fn releasing(phone: &mut Phone, data: &ArtifactRef, n: i64, paths: &[&str]) -> Task {
    let args = [("data", Value::Artifact(data.clone())), ("n", Value::Int(n))];
    let mut t = phone.task("evaluate", Type::Metrics, &args);
    let split = |p: &&str| p.split('.').filter(|s| !s.is_empty()).map(str::to_owned).collect();
    (t.private, t.release) = (true, paths.iter().map(split).collect());
    t
}

fn json_of(outcome: &Outcome, path: &str) -> Json {
    let Outcome::Succeeded { released, .. } = outcome else { panic!("{outcome:?}") };
    let Released::Json(value) = &released[path] else { panic!("{released:?}") };
    value.clone()
}

/// Two digits of a number that the engine's own model may have filled with text, and no count.
#[tokio::test]
async fn a_number_carries_two_digits_and_counts_stay() {
    let (mut phone, mine) = phone(30).await;
    let t = releasing(&mut phone, &mine, 0, &["", "loss"]);
    let outcome = phone.run(t, vec![evaluate()]).await;
    assert_eq!(json_of(&outcome, ""), json!({ "bleu": 0.33, "loss": 1 }));
    assert_eq!(json_of(&outcome, "loss"), json!(1));
    let t = releasing(&mut phone, &mine, 0, &["tokens"]);
    let denied = phone.run(t, vec![evaluate()]).await;
    assert!(
        matches!(&denied, Outcome::Failed { failure } if failure.class == FailureClass::Denied),
        "{denied:?}"
    );
    phone.allowed.details = true;
    let t = releasing(&mut phone, &mine, 0, &["tokens"]);
    let told = json_of(&phone.run(t, vec![evaluate()]).await, "tokens").as_f64().expect("a number");
    assert!(told >= 1000.0 && told % 100.0 == 0.0, "{told} is rounded");
}

#[tokio::test]
async fn numbers_over_few_rows_stay_whatever_the_stage_says() {
    for (rows, leaves) in [(19, false), (20, true)] {
        let (mut phone, mine) = phone(rows).await;
        let t = releasing(&mut phone, &mine, 0, &["loss"]);
        let outcome = phone.run(t, vec![evaluate()]).await;
        assert_eq!(json_of(&outcome, "loss").is_number(), leaves, "{rows} rows");
        // Through another private result, and beside a public dataset of many rows.
        let pick = phone.pick(&mine).await;
        let many = diary(500);
        let public = phone.engine.publish(Type::Dataset, &[("rows.jsonl", many.as_bytes())], json!({}));
        let mut t = releasing(&mut phone, &public, 0, &["loss"]);
        t.when = Some(above(&pick, "confidence", 0.1));
        let outcome = phone.run(t, vec![evaluate()]).await;
        assert_eq!(json_of(&outcome, "loss").is_number(), leaves, "{rows} rows");
        if !leaves {
            let page = show::summary(&phone.place.state(), None).expect("prints");
            assert!(page.contains("at most 19 rows"), "{page}");
            // Its owner may allow less.
            phone.limits.min_rows = 5;
            let t = releasing(&mut phone, &mine, 0, &["loss"]);
            assert!(json_of(&phone.run(t, vec![evaluate()]).await, "loss").is_number());
        }
    }
}

/// The same row twenty times, as an engine gets by naming a file twenty times, is one row.
#[tokio::test]
async fn a_row_that_comes_again_does_not_count_again() {
    let mut phone = Phone::new(&diary(1).repeat(20)).await;
    phone.allowed = Allowed::NUMBERS;
    let mine = phone.diary().await;
    let t = releasing(&mut phone, &mine, 0, &["loss"]);
    assert!(json_of(&phone.run(t, vec![evaluate()]).await, "loss").is_null());
}

/// Which of the pLLMs that may be chosen were downloaded is no part of a handle's meaning: two tasks that differ
/// in it alone have different handles, whatever was chosen.
#[tokio::test]
async fn handles_of_tasks_with_other_downloads_cannot_be_compared() {
    let (mut phone, mine) = phone(30).await;
    let one = phone.engine.publish(Type::Dataset, &[("rows.jsonl", b"{}")], json!({ "n": 1 }));
    let mut handles = Vec::new();
    for prefetch in [vec![], vec![one.clone()], vec![one]] {
        let t = releasing(&mut phone, &mine, 0, &[]);
        let Outcome::Succeeded { output, .. } = phone.run(Task { prefetch, ..t }, vec![evaluate()]).await
        else {
            panic!("delivered")
        };
        handles.push(output.id);
    }
    assert_ne!(handles[0], handles[1]);
    assert_eq!(handles[1], handles[2], "the same task has the same handle");
}

#[tokio::test]
async fn the_budget_is_spent_once_and_lasts() {
    let (mut phone, mine) = phone(30).await;
    phone.limits.budget = 5;
    let mut left = Vec::new();
    for n in 0..8 {
        let t = releasing(&mut phone, &mine, n, &["loss"]);
        left.push(json_of(&phone.run(t, vec![evaluate()]).await, "loss").is_number());
    }
    // Each run of the device is a new process to it: the ledger is on disk.
    assert_eq!(left, [true, true, true, true, true, false, false, false]);
    // What left may leave again, be it as part of the whole, whose other number is one too many.
    let t = releasing(&mut phone, &mine, 0, &["loss"]);
    assert!(json_of(&phone.run(t, vec![evaluate()]).await, "loss").is_number());
    let t = releasing(&mut phone, &mine, 0, &["", "loss"]);
    let outcome = phone.run(t, vec![evaluate()]).await;
    assert_eq!((json_of(&outcome, ""), json_of(&outcome, "loss")), (Json::Null, json!(1)));
    let state = phone.place.state();
    let page = show::budget(&state).expect("prints");
    assert!(page.contains("5 of 5 numbers left this device"), "{page}");
    let summary = show::summary(&state, None).expect("prints");
    assert!(summary.contains("the budget of 5 numbers is spent"), "{summary}");
    headstart_device::reset_budget(&state).expect("set back");
    let t = releasing(&mut phone, &mine, 7, &["loss"]);
    assert!(json_of(&phone.run(t, vec![evaluate()]).await, "loss").is_number());
}

/// The count of what left is exact and lasts, though the journals are cut to their bound and the disk fails at any
/// write in between.
#[tokio::test]
async fn the_budget_outlasts_the_journals_and_a_crash_at_any_write() {
    let (mut phone, mine) = phone(30).await;
    phone.limits.budget = 4;
    let state = phone.place.state();
    let first = std::fs::read(state.join("sent.jsonl")).expect("a journal");
    let mut left = std::collections::BTreeSet::new();
    for n in 0..12 {
        // Both journals are full, so that each message and entry sets them aside.
        for journal in ["sent.jsonl", "history.jsonl"] {
            let full = std::fs::File::options().append(true).create(true).open(state.join(journal));
            full.and_then(|f| f.set_len((32 << 20) - 1)).expect("a sparse file");
        }
        let t = releasing(&mut phone, &mine, n, &["loss"]);
        phone.engine.offer(t);
        let mut options = phone.place.options(&phone.engine);
        (options.allowed, options.limits) = (phone.allowed, phone.limits);
        let disk = SimulatedDisk::new();
        disk.fail_from(disk.writes() + 10 + 4 * n as u64, Fault::Broken);
        let env = Env { disk: disk.shared(), ..Env::system() };
        // It stops, or fails to keep what may be lost.
        let _ = headstart_device::run_in(options.clone(), vec![evaluate()], Default::default(), env).await;
        loop {
            // In one process: a thread of the device that stopped before still holds its folder.
            match headstart_device::run(options.clone(), vec![evaluate()], Default::default()).await {
                Err(DeviceError::Input(m)) if m.contains("in use") => tokio::task::yield_now().await,
                ended => {
                    ended.expect("goes on");
                    break;
                }
            }
        }
        for commit in phone.engine.commits() {
            if commit.fence > 1 && json_of(&commit.outcome, "loss").is_number() {
                left.insert(commit.fence);
            }
        }
        assert!(left.len() <= 4, "{left:?}");
        let ledger = std::fs::read(state.join("budget.json")).unwrap_or_else(|_| b"{}".to_vec());
        let ledger: Json = serde_json::from_slice(&ledger).expect("JSON");
        let charges: usize = ledger
            .as_object()
            .expect("by folder")
            .values()
            .map(|s| s["charges"].as_array().map_or(0, Vec::len))
            .sum();
        assert!(charges >= left.len() && charges <= 4, "{charges} charged, {left:?} left");
    }
    assert!(!left.is_empty());
    let kept = |name: &str| std::fs::metadata(state.join(name)).map_or(0, |m| m.len());
    assert!(kept("sent.jsonl") <= 32 << 20 && kept("earlier-sent.jsonl") <= 32 << 20);
    let now = std::fs::read(state.join("sent.jsonl")).expect("a journal");
    assert!(!now.starts_with(&first), "what was first is not in the newest file any more");
}

/// Each answer to "is there anything?" costs as much as a number, and so does the question, whose answer can be
/// timed: conditions over private values do not get around the budget.
#[tokio::test]
async fn nothing_is_a_number_too() {
    let (mut phone, mine) = phone(30).await;
    phone.limits.budget = 3;
    let pick = phone.pick(&mine).await;
    let mut told = Vec::new();
    for n in 0..48 {
        let mut t = releasing(&mut phone, &mine, n, &["loss"]);
        // True for the first 20 of them.
        t.when = Some(above(&pick, "confidence", n as f64 / 48.0));
        let outcome = phone.run(t, vec![evaluate()]).await;
        told.push(if refused(&outcome) { None } else { Some(json_of(&outcome, "loss")) });
    }
    assert!(told[0].as_ref().is_some_and(Json::is_number), "{told:?}");
    assert!(
        told[1].as_ref().is_some_and(Json::is_null),
        "a question, and no budget for its answer: {told:?}"
    );
    assert!(told[2..].iter().all(Option::is_none), "{told:?}");
    let page = show::budget(&phone.place.state()).expect("prints");
    assert!(page.contains("3 of 3 numbers"), "{page}");
}

/// A choice costs its numbers and its names.
#[tokio::test]
async fn names_are_numbers_too() {
    let (mut phone, mine) = phone(30).await;
    for (budget, leaves) in [(1, false), (2, true)] {
        phone.limits.budget = budget;
        let args =
            [("catalog", Value::Artifact(phone.catalog.clone())), ("user", Value::Artifact(mine.clone()))];
        let mut t = phone.task("select", Type::Selection, &args);
        (t.private, t.release) = (true, vec![vec!["mix".into()]]);
        let outcome = phone.run(t, stages()).await;
        assert_eq!(json_of(&outcome, "mix") == json!({ "kind": 1.0 }), leaves, "{outcome:?}");
    }
}

/// A device that is killed between the outbox and the ledger charges when it starts again; a ledger that
/// cannot be read lets nothing leave.
#[tokio::test]
async fn a_number_that_is_sent_is_charged() {
    let (mut phone, mine) = phone(30).await;
    phone.engine.lock().no_commits = true;
    let t = releasing(&mut phone, &mine, 0, &["loss"]);
    phone.engine.offer(t);
    let mut options = phone.place.options(&phone.engine);
    (options.allowed, options.limits) = (phone.allowed, phone.limits);
    let stop = tokio_util::sync::CancellationToken::new();
    let ended = headstart_device::run(options, vec![evaluate()], stop).await;
    assert!(matches!(ended, Err(DeviceError::Run(_))), "the result waits in the outbox");
    let ledger = phone.place.state().join("budget.json");
    assert!(
        std::fs::read_to_string(&ledger).expect("a ledger").contains("\"loss\""),
        "charged before it is sent"
    );
    std::fs::remove_file(&ledger).expect("as if it was killed before");
    phone.engine.lock().no_commits = false;
    let t = releasing(&mut phone, &mine, 1, &["loss"]);
    phone.run(t, vec![evaluate()]).await;
    let page = show::budget(&phone.place.state()).expect("prints");
    assert!(page.contains("2 of 50 numbers"), "{page}");

    std::fs::write(&ledger, "{").expect("writes");
    let t = releasing(&mut phone, &mine, 2, &["loss"]);
    assert_eq!(json_of(&phone.run(t, vec![evaluate()]).await, "loss"), Json::Null);
}
