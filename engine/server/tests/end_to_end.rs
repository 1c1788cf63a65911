//! The real hub, served over HTTP, with a real device: a whole pipeline, and the proof on recorded
//! traffic and on everything that the engine stored that what is private stays on its device.

#[path = "../../../device-runner/tests/common/stages.rs"]
mod stages;

#[allow(dead_code, reason = "every test uses its part")]
mod record;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use headstart_core::RunOutcome;
use headstart_device::{Allowed, Options, ReleaseLimits, Until};
use headstart_driver::{Engine, EngineOptions, RunOptions, RunResult};
use headstart_dsl::{MemoryLoader, Plan, check, render};
use headstart_protocol::expr::Value;
use headstart_protocol::{Digest, Manifest};
use headstart_store::Workspace;
use record::{Recorded, Recorder, contains};
use serde_json::{Value as Json, json};
use tokio_util::sync::CancellationToken;

const DIARY: &str = "{\"prompt\":\"How was the surgery?\",\"response\":\"My sister Ottilie drove me home.\"}\n\
                     {\"prompt\":\"And the money?\",\"response\":\"We owe the bank 41,907 crowns.\"}\n";

const PIPELINE: &str = r#"
param adapters: List<Path> = glob("catalog/*")
model base = local("model")
space style = pooled(base)
dataset questions = jsonl("probes.jsonl")
private dataset mine = jsonl("me-diary.jsonl") on device("phone")
stage pllm: Pllm = ingest(base: base, source: a) for a in adapters
stage plain: Responses = probe(base, prompts: questions)
stage said: Responses = probe(p, prompts: questions) for p in pllm
stage drift: Divergence = embed(r, against: plain, space: style) for r in said
stage catalog: Catalog = decompose(drift)
stage me: Divergence = embed(mine, against: base, space: style) { on: device("phone") }
stage pick: Selection = select(catalog, user: me) { on: device("phone") }
stage start: Pllm = merge(pick.mix) when pick.is_mix { on: device("phone") }
stage tuned: Pllm = finetune(start or pick.pllm, data: mine) { on: device("phone") }
stage after: Metrics = evaluate(tuned, data: mine) { on: device("phone") }
output catalog = catalog
output choice = release(pick)
output numbers = release(tuned.metrics)
output after = release(after)
"#;

/// A server with its pipeline's files, and a phone with its diary.
struct World {
    dir: tempfile::TempDir,
    engine: Engine,
    recorder: Recorder,
    url: String,
    closing: CancellationToken,
}

impl World {
    async fn new() -> Self {
        let dir = tempfile::tempdir().expect("tempdir");
        let write = |name: &str, content: &str| {
            let at = dir.path().join(name);
            std::fs::create_dir_all(at.parent().expect("a folder")).expect("folders");
            std::fs::write(at, content).expect("writes");
        };
        write("pipeline/model/model.safetensors", "weights of the base");
        write("pipeline/catalog/kind/adapter_model.safetensors", "a kind adapter");
        write("pipeline/catalog/terse/adapter_model.safetensors", "a terse adapter");
        write("pipeline/probes.jsonl", "{\"prompt\":\"What is a tide?\"}\n");
        write("phone/me-diary.jsonl", DIARY);
        let ws = Workspace::open(&dir.path().join("workspace")).expect("a workspace");
        let options = EngineOptions { device_lease: Duration::from_secs(5), ..EngineOptions::default() };
        let engine = Engine::with(ws, stages::all(), options).expect("an engine");
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let url = format!("http://{}", listener.local_addr().expect("bound"));
        let (recorder, closing) = (Recorder::new(), CancellationToken::new());
        let served = headstart_server::serve(
            Recorded::new(listener, recorder.clone()),
            engine.hub().clone(),
            closing.clone().cancelled_owned(),
        );
        tokio::spawn(served);
        Self { dir, engine, recorder, url, closing }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    async fn run(&self, plan: &Plan) -> Arc<RunResult> {
        let options = RunOptions::new("test", self.at("pipeline"));
        let run = self.engine.run(plan.clone(), options).expect("starts");
        tokio::time::timeout(Duration::from_secs(60), run.wait()).await.expect("in time").expect("ends")
    }

    fn phone(&self, allowed: &str) -> Options {
        Options {
            url: self.url.clone(),
            name: "phone".into(),
            data: self.at("phone"),
            state: self.at("state"),
            until: Until::Stopped,
            holds: vec![],
            allowed: allowed.parse::<Allowed>().expect("known words"),
            limits: ReleaseLimits { min_rows: 1, ..ReleaseLimits::default() },
            stages: None,
            memory: None,
            threads: 2,
        }
    }

    /// Runs the plan with a phone beside it.
    async fn run_with_phone(&self, plan: &Plan, allowed: &str) -> Arc<RunResult> {
        let stop = CancellationToken::new();
        let phone = tokio::spawn(headstart_device::run(self.phone(allowed), stages::all(), stop.clone()));
        let result = self.run(plan).await;
        stop.cancel();
        phone.await.expect("no panic").expect("stops well");
        result
    }
}

fn plan() -> Plan {
    plan_with("")
}

/// The pipeline, and `more` behind it.
fn plan_with(more: &str) -> Plan {
    let files = MemoryLoader::new()
        .with("p.pllm", &format!("{PIPELINE}{more}"))
        .with("catalog/kind/adapter_model.safetensors", "")
        .with("catalog/terse/adapter_model.safetensors", "");
    let checked = check("p.pllm", &files, &Default::default());
    checked.plan.unwrap_or_else(|| panic!("{}", render(&checked.diagnostics, &checked.sources, false)))
}

fn output(result: &RunResult, name: &str) -> Json {
    let found = result.outputs.iter().find(|o| o.name == name).and_then(|o| o.value.clone());
    match found {
        Some(Value::Json(v)) => v,
        other => panic!("{name}: {other:?}"),
    }
}

fn files_below(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut out = Vec::new();
    for entry in std::fs::read_dir(dir).expect("a folder").flatten() {
        let path = entry.path();
        if path.is_dir() {
            out.extend(files_below(&path));
        } else {
            let content = std::fs::read(&path).expect("readable");
            out.push((path, content));
        }
    }
    out
}

/// Everything that would give the private data away: texts, lines, files, and plain digests of
/// them and of every private artifact.
fn traces(world: &World) -> Vec<(String, Vec<u8>)> {
    let mut secrets: Vec<(String, Vec<u8>)> = Vec::new();
    for line in DIARY.lines() {
        let row: Json = serde_json::from_str(line).expect("a row");
        for text in [line, &format!("{line}\n"), row["prompt"].as_str().expect("text")] {
            secrets.push((format!("{text:?}"), text.as_bytes().to_vec()));
        }
        let response = row["response"].as_str().expect("text");
        secrets.push((format!("{response:?}"), response.as_bytes().to_vec()));
        // The same inside JSON inside JSON.
        secrets.push((format!("escaped {line:?}"), serde_json::to_vec(line).expect("JSON")));
    }
    secrets.push(("a name".into(), b"Ottilie".to_vec()));
    secrets.push(("the diary".into(), DIARY.as_bytes().to_vec()));
    for (at, content) in files_below(&world.at("state/private")) {
        if at.ends_with("artifact.json") {
            let held: Json = serde_json::from_slice(&content).expect("JSON");
            if let Ok(m) = serde_json::from_value::<Manifest>(held["manifest"].clone()) {
                secrets.push(("the id of a private manifest".into(), m.id().to_string().into_bytes()));
            }
            continue;
        }
        // The private artifacts' own bytes: whole, and their ends, where the rows' digest is.
        if content != b"{\"r\":8}" {
            secrets.push((format!("{}", at.display()), content.clone()));
            let tail = content[content.len().saturating_sub(32)..].to_vec();
            secrets.push((format!("the tail of {}", at.display()), tail));
        }
    }
    let digests: Vec<_> = secrets.iter().map(|(what, bytes)| (what.clone(), Digest::of(bytes))).collect();
    for (what, digest) in digests {
        secrets.push((format!("digest of {what}"), digest.to_string().into_bytes()));
        secrets.push((format!("raw digest of {what}"), digest.0.to_vec()));
    }
    secrets
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_private_crosses_or_is_stored_without_release() {
    let (world, plan) = (World::new().await, plan());
    let result = world.run_with_phone(&plan, "metrics,selection,mix").await;
    assert_eq!(result.outcome, RunOutcome::Succeeded, "{:?}", result.failures);
    let choice = output(&result, "choice");
    assert_eq!((&choice["pllm_name"], &choice["confidence"]), (&json!("kind"), &json!(0.75)));
    assert_eq!(choice["mix"], json!({ "kind": 0.9 }));
    assert!(choice.get("sentence").is_none());
    assert_eq!(output(&result, "numbers"), json!({ "loss": 1.5, "steps": 40 }));
    assert_eq!(output(&result, "after"), json!({ "loss": 1.2 }));

    let received = world.recorder.received();
    let bodies: Vec<Vec<u8>> = world.recorder.requests().into_iter().map(|m| m.body).collect();
    let stored = files_below(&world.at("workspace"));
    let traces = traces(&world);
    assert!(traces.len() > 60, "there is something to look for");
    for (what, bytes) in &traces {
        assert!(!contains(&received, bytes), "{what} crossed");
        assert!(!bodies.iter().any(|b| contains(b, bytes)), "{what} crossed in a body");
        for (at, content) in &stored {
            assert!(!contains(content, bytes), "{what} is in {}", at.display());
        }
    }
    // The file's name is in the pipeline, so the engine has it; the device does not send it.
    assert!(!contains(&received, b"me-diary"));
    // The search itself works: what was released did cross and is stored.
    assert!(contains(&received, b"\"loss\":1.2"));
    assert!(stored.iter().any(|(_, c)| contains(c, b"\"loss\":1.2")));
    assert!(!world.recorder.requests().iter().any(|m| m.first.starts_with("PUT")));

    // Again: only the diary is read; nothing is computed, nothing else asked of the phone.
    let again = world.run_with_phone(&plan, "metrics,selection,mix").await;
    assert_eq!(again.outcome, RunOutcome::Succeeded);
    assert_eq!(output(&again, "choice"), choice);
    let history = headstart_device::history::read(&world.at("state/history.jsonl")).expect("a history");
    let second: Vec<_> = history.iter().filter(|e| e.run == again.run).map(|e| e.name.as_str()).collect();
    assert_eq!(second, ["mine"]);
    world.closing.cancel();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_lets_nothing_out_fails_the_run_and_says_so_at_home() {
    let (world, plan) = (World::new().await, plan());
    let result = world.run_with_phone(&plan, "none").await;
    assert_eq!(result.outcome, RunOutcome::Failed);
    let failed: Vec<_> = result.failures.iter().map(|f| f.name.as_str()).collect();
    assert!(failed.contains(&"pick"), "{failed:?}");
    let page = headstart_device::show::summary(&world.at("state"), None).expect("prints");
    assert!(page.contains("denied by this device's release policy"), "{page}");
    let pick = result.failures.iter().find(|f| f.name == "pick").expect("failed");
    assert!(pick.failure.message.contains("is denied by device `phone`"), "{}", pick.failure.message);
    for (what, bytes) in traces(&world) {
        assert!(!world.recorder.received_contains(&bytes), "{what} crossed");
    }
}

/// A public stage on the device, and a private pLLM that its owner lets out, arrive with their
/// files, and without the texts that lay beside them.
#[tokio::test(flavor = "multi_thread")]
async fn what_may_leave_arrives_whole() {
    let more = "stage there: Responses = probe(base, prompts: questions, max_tokens: 7) { on: device(\"phone\") }\n\
                output there = there\noutput model = release(tuned)\n";
    let (world, plan) = (World::new().await, plan_with(more));
    let result = world.run_with_phone(&plan, "metrics,selection,mix,pllm").await;
    assert_eq!(result.outcome, RunOutcome::Succeeded, "{:?}", result.failures);
    let folder = |name: &str| {
        let found = result.outputs.iter().find(|o| o.name == name).and_then(|o| o.value.clone());
        let Some(Value::Artifact(a)) = found else { panic!("{name}: {found:?}") };
        assert_eq!(a.private_to, None);
        world.engine.workspace().artifacts().materialize(&a.id).expect("stored whole")
    };
    let answers = std::fs::read_to_string(folder("there").join("rows.jsonl")).expect("answers");
    assert!(answers.starts_with("19 bytes of weights"), "{answers}");
    let mut names: Vec<_> =
        std::fs::read_dir(folder("model")).expect("a folder").flatten().map(|e| e.file_name()).collect();
    names.sort();
    assert_eq!(names, ["adapter_config.json", "adapter_model.safetensors"]);
    assert!(!world.recorder.received_contains(b"Ottilie"));
    assert!(files_below(&world.at("workspace")).iter().all(|(_, c)| !contains(c, b"Ottilie")));
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_have_fitting_status_codes_and_a_stable_name() {
    let world = World::new().await;
    let http = reqwest::Client::builder().no_proxy().build().expect("client");
    let ask = async |method: reqwest::Method, path: &str, token: Option<&str>, body: &str| {
        let mut request = http.request(method, format!("{}{path}", world.url)).body(body.to_owned());
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        let answer = request.send().await.expect("answers");
        let status = answer.status().as_u16();
        let error: Json = answer.json().await.unwrap_or_default();
        (status, error["code"].as_str().unwrap_or_default().to_owned())
    };
    use reqwest::Method;
    let digest = Digest::of(b"x");
    let claim = json!({ "wait_ms": 0 }).to_string();
    let cases = [
        (Method::POST, "/v1/claim".to_owned(), None, claim.clone(), 401, "unknown_token"),
        (Method::POST, "/v1/claim".to_owned(), Some("guess"), claim, 401, "unknown_token"),
        (Method::GET, format!("/v1/blobs/{digest}"), Some("guess"), String::new(), 401, "unknown_token"),
        (Method::PUT, format!("/v1/blobs/{digest}"), Some("guess"), "x".into(), 401, "unknown_token"),
        (Method::GET, "/v1/blobs/xyz".to_owned(), Some("guess"), String::new(), 400, "invalid"),
        (Method::POST, "/v1/join".to_owned(), None, "{".to_owned(), 400, "invalid"),
        (Method::POST, "/v1/join".to_owned(), None, "x".repeat(300 << 10), 413, "invalid"),
        (Method::GET, "/v1/join".to_owned(), None, String::new(), 405, "invalid"),
        (Method::GET, "/v2/anything".to_owned(), None, String::new(), 404, "not_found"),
    ];
    for (method, path, token, body, status, code) in cases {
        let got = ask(method.clone(), &path, token, &body).await;
        assert_eq!(got, (status, code.to_owned()), "{method} {path}");
    }
    let join = |secret: &str, protocol: u32| {
        json!({ "device": "phone", "protocol": protocol, "version": "1", "kinds": [], "secret": secret })
            .to_string()
    };
    let version = headstart_protocol::PROTOCOL_VERSION;
    let (mine, theirs) = ("m".repeat(64), "t".repeat(64));
    assert_eq!(ask(Method::POST, "/v1/join", None, &join(&mine, version)).await.0, 200);
    let other = ask(Method::POST, "/v1/join", None, &join(&theirs, version)).await;
    assert_eq!(other, (403, "wrong_secret".to_owned()));
    let newer = ask(Method::POST, "/v1/join", None, &join(&mine, version + 1)).await;
    assert_eq!(newer, (426, "protocol_mismatch".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_waits_does_not_hold_up_the_end() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let url = format!("http://{}", listener.local_addr().expect("bound"));
    let dir = tempfile::tempdir().expect("tempdir");
    let ws = Workspace::open(dir.path()).expect("a workspace");
    let engine = Engine::open(ws, stages::all()).expect("an engine");
    let closing = CancellationToken::new();
    let hub = engine.hub().clone();
    let served = tokio::spawn(headstart_server::serve(listener, hub, closing.clone().cancelled_owned()));
    let http = reqwest::Client::builder().no_proxy().build().expect("client");
    let join =
        json!({ "device": "phone", "protocol": 1, "version": "1", "kinds": [], "secret": "s".repeat(64) });
    let joined = http.post(format!("{url}/v1/join")).body(join.to_string()).send().await.expect("joins");
    let joined: Json = joined.json().await.expect("JSON");
    let claim = http
        .post(format!("{url}/v1/claim"))
        .bearer_auth(joined["token"].as_str().expect("a token"))
        .body(json!({ "wait_ms": 30_000 }).to_string())
        .send();
    let claim = tokio::spawn(claim);
    while !engine.hub().devices().iter().any(|d| d.waiting) {
        tokio::task::yield_now().await;
    }
    closing.cancel();
    // Not after the 30 seconds that it asked for: those would end the test's own time.
    let answer = claim.await.expect("task");
    assert_eq!(answer.expect("an answer").status().as_u16(), 204);
    served.await.expect("task").expect("stops");
}
