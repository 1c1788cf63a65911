//! A custom stage on a phone: the real hub over HTTP, a real device, a real process.

#[path = "../../../device-runner/tests/common/stages.rs"]
mod stages;

#[allow(dead_code, reason = "every test uses its part")]
mod record;

use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::Duration;

use headstart_core::RunOutcome;
use headstart_device::{Allowed, Approval, Options, ReleaseLimits, Target, Until};
use headstart_driver::{DeviceWait, Engine, EngineOptions, RunOptions, RunResult, WaitReason};
use headstart_dsl::{MemoryLoader, Plan, check, render};
use headstart_env::Env;
use headstart_env::simulated::SimulatedClock;
use headstart_protocol::expr::Value;
use headstart_server::{Channel, Limits};
use headstart_store::Workspace;
use record::{Recorded, Recorder};
use tokio_util::sync::CancellationToken;

const DIARY: &str = "{\"prompt\":\"How was it?\",\"response\":\"My sister Ottilie drove me home.\"}\n";

const PIPELINE: &str = r#"
program tools = "stages/tools.py"
private dataset mine = jsonl("me-diary.jsonl") on device("phone")
stage length: Metrics = tools.length(mine) { on: device("phone") }
output length = release(length)
"#;

/// Counts the letters of the rows' file, and talks about it.
const PROGRAM: &str = r#"#!/usr/bin/env python3
import json, sys
STAGE = {"name": "length", "version": 1, "doc": "", "makes": "Metrics", "places": ["server", "device"],
         "args": [{"name": "rows", "doc": "", "takes": ["Dataset"]}], "cached": True,
         "metrics": [{"name": "length", "low": 0, "high": 1000}]}
def say(kind, **what):
    print(json.dumps({"headstart": kind, **what}), flush=True)
json.loads(sys.stdin.readline())
say("hello", protocol=1, stages=[STAGE])
rows = json.loads(sys.stdin.readline())["args"]["rows"]
text = open(rows["folder"] + "/rows.jsonl").read()
print(text, file=sys.stderr)
say("log", message=text)
say("progress", done=1, unit=text)
say("count", counter=text, n=1)
say("done", value={"length": len(text)})
"#;

const DECLARATION: &str = r#"{ "program": "tools.py", "protocol": 1, "stages": [
  { "name": "length", "version": 1, "makes": "Metrics", "metrics": [{ "name": "length", "low": 0, "high": 1000 }],
    "args": [{ "name": "rows", "takes": ["Dataset"] }] } ] }"#;

fn plan() -> Plan {
    let files = MemoryLoader::new().with("p.pllm", PIPELINE).with("stages/tools.py", PROGRAM);
    let checked = check("p.pllm", &files.with("stages/tools.stages.json", DECLARATION), &Default::default());
    checked.plan.unwrap_or_else(|| panic!("{}", render(&checked.diagnostics, &checked.sources, false)))
}

/// Runs the plan with a phone whose owner allows the programs of a folder, or none.
async fn run(dir: &std::path::Path, stages: bool) -> (Arc<RunResult>, Recorder) {
    let write = |name: &str, content: &str| {
        let at = dir.join(name);
        std::fs::create_dir_all(at.parent().expect("a folder")).expect("folders");
        std::fs::write(&at, content).expect("writes");
        at
    };
    write("phone/me-diary.jsonl", DIARY);
    let program = write("stages/tools.py", PROGRAM);
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).expect("mode");
    write("stages/tools.stages.json", DECLARATION);
    let ws = Workspace::open(&dir.join("workspace")).expect("a workspace");
    let clock = SimulatedClock::new();
    let env = Env::simulated(&clock, 1);
    let engine = Engine::with_env(ws, stages::all(), EngineOptions::default(), env).expect("an engine");
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let url = format!("http://{}", listener.local_addr().expect("bound"));
    let (recorder, closing) = (Recorder::new(), CancellationToken::new());
    let hub = engine.hub().clone();
    let listener = Recorded::new(listener, recorder.clone());
    let key = hub.identity().public();
    let invitation = hub.registry().invite(key, "phone", &url, Duration::from_secs(60)).expect("invited");
    let (channel, limits) = (Channel::InsecurePlaintext, Limits::default());
    tokio::spawn(headstart_server::serve(listener, hub, channel, limits, closing.clone().cancelled_owned()));
    let phone = Options {
        target: Target::Invitation(Box::new(invitation)),
        insecure_plaintext: true,
        data: dir.join("phone"),
        state: dir.join("state"),
        until: Until::Stopped,
        holds: vec![],
        allowed: Allowed::NUMBERS,
        limits: ReleaseLimits { min_rows: 1, ..ReleaseLimits::default() },
        disk_quota: headstart_device::DEFAULT_DISK_QUOTA,
        private_quota: headstart_device::DEFAULT_PRIVATE_QUOTA,
        approval: Approval::First,
        pin_adapters: false,
        stages: stages.then(|| dir.join("stages")),
        memory: None,
        threads: 1,
    };
    let stop = CancellationToken::new();
    let phone = tokio::spawn(headstart_device::run(phone, stages::all(), stop.clone()));
    let mut options = RunOptions::new("test", dir);
    let patience = Duration::from_secs(20);
    options.device_wait = Some(patience);
    let run = engine.run(plan(), options).expect("starts");
    if !stages {
        let unfit = |w: &DeviceWait| matches!(w.why, WaitReason::Unfit(_));
        while !engine.hub().device_waits(run.id()).iter().any(unfit) {
            tokio::task::yield_now().await;
        }
        clock.advance(patience + Duration::from_millis(1));
    }
    let result =
        tokio::time::timeout(Duration::from_secs(60), run.wait()).await.expect("in time").expect("ends");
    stop.cancel();
    let _ = phone.await.expect("no panic");
    closing.cancel();
    (result, recorder)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_allowed_program_measures_the_diary_and_only_the_number_leaves() {
    let dir = tempfile::tempdir().expect("a folder");
    let (result, recorder) = run(dir.path(), true).await;
    assert_eq!(result.outcome, RunOutcome::Succeeded, "{:?}", result.failures);
    let value = result.outputs[0].value.clone();
    // The stand-in for `jsonl` rewrites the rows, so the number is that of its file.
    let Some(Value::Json(made)) = value else { panic!("{value:?}") };
    assert!(made["length"].as_u64().is_some_and(|n| n > 40), "{made}");
    assert_eq!(made.as_object().map(serde_json::Map::len), Some(1), "{made}");
    assert!(recorder.received_contains(b"length"), "the traffic was recorded");
    for secret in ["Ottilie", "How was it?"] {
        assert!(!recorder.received_contains(secret.as_bytes()), "{secret} crossed");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_phone_without_the_program_says_what_is_missing() {
    let dir = tempfile::tempdir().expect("a folder");
    let (result, _) = run(dir.path(), false).await;
    assert_eq!(result.outcome, RunOutcome::Failed);
    let message = &result.failures[0].failure.message;
    assert!(message.contains("--stages DIR"), "{message}");
    assert_eq!(result.outputs[0].value, None);
}
