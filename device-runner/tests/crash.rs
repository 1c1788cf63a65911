//! A device that is killed: kill -9 of a real process loses nothing but the attempt that is running.

mod common;

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::{Engine, Place, stages, task};
use headstart_device::history;
use headstart_protocol::Type;
use headstart_protocol::expr::Value;
use headstart_protocol::task::{Outcome, Task};
use tokio_util::sync::CancellationToken;

/// Not a test by itself: the process that the tests below start and kill.
#[test]
fn child() {
    let Ok(url) = std::env::var("TEST_ENGINE") else { return };
    let path = |name: &str| std::env::var_os(name).expect("set by the parent").into();
    let key = std::env::var("TEST_KEY").expect("set by the parent").parse().expect("a key");
    let contract = std::env::var("TEST_CONTRACT").expect("set by the parent");
    let contract = serde_json::from_str(&contract).expect("a contract");
    let options = headstart_device::Options {
        target: headstart_device::Target::Key { url, name: "phone".into(), key },
        insecure_plaintext: false,
        data: path("TEST_DATA"),
        state: path("TEST_STATE"),
        until: headstart_device::Until::Once,
        holds: vec![],
        allowed: match std::env::var_os("TEST_SILENT") {
            Some(_) => headstart_device::Allowed::NONE,
            None => headstart_device::Allowed::NUMBERS,
        },
        limits: headstart_device::ReleaseLimits::default(),
        disk_quota: headstart_device::DEFAULT_DISK_QUOTA,
        private_quota: headstart_device::DEFAULT_PRIVATE_QUOTA,
        approval: headstart_device::Approval::Fixed(Box::new(contract)),
        pin_adapters: false,
        stages: None,
        memory: None,
        threads: 1,
    };
    let mut stages = stages::private_stages();
    stages.push(stages::slow());
    stages.push(stages::steady());
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(headstart_device::run(options, stages, CancellationToken::new())).expect("runs");
}

fn spawn_child(engine: &Engine, place: &Place) -> Child {
    spawn_child_with(engine, place, &[])
}

/// One whose owner lets nothing leave.
fn spawn_silent(engine: &Engine, place: &Place) -> Child {
    spawn_child_with(engine, place, &[("TEST_SILENT", "1")])
}

fn spawn_child_with(engine: &Engine, place: &Place, more: &[(&str, &str)]) -> Child {
    let mut command = Command::new(std::env::current_exe().expect("this test"));
    command.args(["--exact", "child", "--nocapture"]).env("TEST_ENGINE", &engine.url);
    command.env("TEST_KEY", engine.key().to_string());
    command.env("TEST_CONTRACT", serde_json::to_string(&engine.approved()).expect("JSON"));
    command.env("TEST_DATA", place.data()).env("TEST_STATE", place.state());
    command.envs(more.iter().copied());
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("starts")
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < Duration::from_secs(20), "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Waits for a process to end by itself.
async fn ended(mut child: Child) -> Option<i32> {
    let mut code = None;
    until("the device ends", || {
        code = child.try_wait().expect("waits").map(|s| s.code());
        code.is_some()
    })
    .await;
    code.flatten()
}

fn diary_task(fence: u64) -> Task {
    // All defaults filled in, as the checker does.
    let args = [
        ("path", Value::Path("me.jsonl".into())),
        ("prompt", Value::Text("prompt".into())),
        ("response", Value::Text("response".into())),
        ("messages", Value::Text("messages".into())),
        ("turns", Value::Text("all".into())),
        ("skip", Value::Int(0)),
        ("sort", Value::Bool(false)),
    ];
    task(fence, "jsonl", Type::Dataset, &args)
}

/// Kills the device after the stage ran and before its commit was taken; starts it again.
async fn killed_before_its_commit(spawn: impl Fn(&Engine, &Place) -> Child) {
    let (engine, place) = (Engine::start().await, Place::new());
    place.write("me.jsonl", "{\"prompt\":\"hello\",\"response\":\"you\"}\n");
    engine.lock().no_commits = true;
    engine.offer(diary_task(8));
    let mut child = spawn(&engine, &place);
    until("a commit is tried", || !engine.calls("POST /v1/commit").is_empty()).await;
    child.kill().expect("kill -9");
    child.wait().expect("gone");
    assert!(engine.commits().is_empty());

    engine.lock().no_commits = false;
    let child = spawn(&engine, &place);
    until("the commit arrives", || !engine.commits().is_empty()).await;
    // There is nothing more to do: a second task lets `--once` end.
    engine.offer(diary_task(9));
    assert_eq!(ended(child).await, Some(0));
    let commits = engine.commits();
    assert_eq!(commits.iter().map(|c| c.fence).collect::<Vec<_>>(), [8, 9], "each once");
    assert!(commits.iter().all(|c| matches!(c.outcome, Outcome::Succeeded { .. })));
    let ran = history::read(&place.state().join("history.jsonl")).expect("a history");
    assert_eq!(ran.len(), 2, "the stage did not run again");
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_between_execution_and_commit() {
    killed_before_its_commit(spawn_child).await;
}

#[cfg(feature = "builtin")]
#[tokio::test(flavor = "multi_thread")]
async fn kill_between_execution_and_commit_of_the_real_binary() {
    killed_before_its_commit(|engine, place| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_headstart-device"));
        let key = engine.key().to_string();
        command.args([
            "join",
            &engine.url,
            "--name",
            "phone",
            "--engine-key",
            &key,
            "--once",
            "--approve",
            "first",
        ]);
        command.arg("--data").arg(place.data()).arg("--state").arg(place.state());
        command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("starts")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_while_a_stage_runs_loses_that_attempt_only() {
    let (engine, place) = (Engine::start().await, Place::new());
    place.write("me.jsonl", "{\"prompt\":\"hello\"}\n");
    engine.lock().lease_ms = 60;
    engine.offer(task(1, "slow", Type::Metrics, &[]));
    let mut child = spawn_child(&engine, &place);
    until("the stage runs", || !engine.lock().renewals.is_empty()).await;
    child.kill().expect("kill -9");
    child.wait().expect("gone");

    engine.offer(diary_task(2));
    assert_eq!(ended(spawn_child(&engine, &place)).await, Some(0));
    assert_eq!(engine.commits().iter().map(|c| c.fence).collect::<Vec<_>>(), [2]);
    assert!(std::fs::read_dir(place.state().join("scratch")).expect("there").next().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_stage_goes_on_from_its_progress() {
    let (engine, place) = (Engine::start().await, Place::new());
    let kept = || std::fs::read_dir(place.state().join("resume-public")).map_or(0, |d| d.flatten().count());
    let steady = |fence: u64, n: i64| task(fence, "steady", Type::Metrics, &[("n", Value::Int(n))]);
    engine.offer(steady(1, 5));
    let mut child = spawn_child(&engine, &place);
    until("progress is kept", || kept() == 1).await;
    child.kill().expect("kill -9");
    child.wait().expect("gone");

    // Another attempt at the same, under another fence.
    engine.offer(steady(2, 5));
    assert_eq!(ended(spawn_child(&engine, &place)).await, Some(0));
    let commits = engine.commits();
    assert_eq!(commits.iter().map(|c| c.fence).collect::<Vec<_>>(), [2]);
    assert!(matches!(commits[0].outcome, Outcome::Succeeded { .. }), "{:?}", commits[0].outcome);
    assert_eq!(kept(), 0, "what is done keeps no progress");

    // Another thing to do does not find it.
    engine.offer(steady(3, 5));
    let mut child = spawn_child(&engine, &place);
    until("progress is kept", || kept() == 1).await;
    child.kill().expect("kill -9");
    child.wait().expect("gone");
    engine.offer(steady(4, 6));
    let mut child = spawn_child(&engine, &place);
    until("progress of its own is kept", || kept() == 2).await;
    child.kill().expect("kill -9");
    child.wait().expect("gone");
}

/// What was delivered before the work began is worked on by the next process, from its progress.
#[tokio::test(flavor = "multi_thread")]
async fn kill_while_what_was_taken_over_is_worked_on() {
    let (engine, place) = (Engine::start().await, Place::new());
    let kept = || std::fs::read_dir(place.state().join("resume")).map_or(0, |d| d.flatten().count());
    let waiting = || std::fs::read_dir(place.state().join("queue")).map_or(0, |d| d.flatten().count());
    engine.offer(Task { private: true, ..task(1, "steady", Type::Metrics, &[("n", Value::Int(5))]) });
    let mut child = spawn_silent(&engine, &place);
    until("it is delivered and worked on", || engine.commits().len() == 1 && kept() == 1).await;
    child.kill().expect("kill -9");
    child.wait().expect("gone");
    assert_eq!(waiting(), 1);

    place.write("me.jsonl", "{\"prompt\":\"hello\",\"response\":\"you\"}\n");
    engine.offer(diary_task(2));
    assert_eq!(ended(spawn_silent(&engine, &place)).await, Some(0));
    let commits = engine.commits();
    assert_eq!(commits.iter().map(|c| c.fence).collect::<Vec<_>>(), [1, 2], "each once");
    assert!(commits.iter().all(|c| matches!(c.outcome, Outcome::Succeeded { .. })));
    let ran = history::read(&place.state().join("history.jsonl")).expect("a history");
    let ended: Vec<_> = ran.iter().map(|e| (e.kind.as_str(), e.ended)).collect();
    assert_eq!(ended, [("steady", history::Ended::Succeeded), ("jsonl", history::Ended::Succeeded)]);
    assert_eq!((waiting(), kept()), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_torn_outbox_and_a_second_device_in_one_folder() {
    let (engine, place) = (Engine::start().await, Place::new());
    place.run(&engine, vec![]).await.expect("joins");
    std::fs::write(place.state().join("outbox/00000000000000000001.json"), "{\"comm").expect("torn");
    engine.lock().lease_ms = 60;
    engine.offer(task(1, "slow", Type::Metrics, &[]));
    let mut child = spawn_child(&engine, &place);
    until("the stage runs", || !engine.lock().renewals.is_empty()).await;
    let error = place.run(&engine, vec![]).await.expect_err("in use");
    assert!(error.exit_code() == 2 && error.to_string().contains("in use"), "{error}");
    child.kill().expect("kill -9");
    child.wait().expect("gone");
    place.run(&engine, vec![]).await.expect("the lock died with its holder");
}
