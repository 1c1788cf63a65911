//! The real hub, served over HTTP, with a real device: a whole pipeline, and the proof on recorded
//! traffic and on everything that the engine stored that what is private stays on its device.

#[path = "../../../device-runner/tests/common/stages.rs"]
mod stages;

#[allow(dead_code, reason = "every test uses its part")]
mod caller;
#[allow(dead_code, reason = "every test uses its part")]
mod record;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use caller::{Caller, answer};
use headstart_core::RunOutcome;
use headstart_device::{Allowed, Approval, Contracts, Options, ReleaseLimits, State, Target, Until};
use headstart_disk::SystemDisk;
use headstart_driver::devices::DeviceState;
use headstart_driver::{Engine, EngineOptions, RunOptions, RunResult, WaitReason};
use headstart_dsl::{MemoryLoader, Plan, check, render};
use headstart_protocol::contract::Proposal;
use headstart_protocol::expr::Value;
use headstart_protocol::task::Outcome;
use headstart_protocol::wire::{Commit, CommitAnswer, CommitResult, Committed, Grant};
use headstart_protocol::{ArtifactRef, Digest, FileRef, Manifest};
use headstart_server::{Channel, Limits};
use headstart_store::Workspace;
use headstart_transport::Identity;
use headstart_transport::signed::Kind;
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
        // What crosses is to be read.
        let url = format!("http://{}", listener.local_addr().expect("bound"));
        let (recorder, closing) = (Recorder::new(), CancellationToken::new());
        let served = headstart_server::serve(
            Recorded::new(listener, recorder.clone()),
            engine.hub().clone(),
            Channel::InsecurePlaintext,
            Limits::default(),
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

    /// The phone is invited once, and paired from then on.
    fn target(&self) -> Target {
        let devices = self.engine.hub().registry();
        if devices.list().expect("readable").iter().any(|d| d.state == DeviceState::Approved) {
            return Target::Paired;
        }
        let key = self.engine.hub().identity().public();
        let invitation = devices.invite(key, "phone", &self.url, Duration::from_secs(60)).expect("invited");
        Target::Invitation(Box::new(invitation))
    }

    /// Its owner trusts whatever is proposed first, each time anew.
    fn phone(&self, allowed: &str) -> Options {
        if self.at("state").exists() {
            let state = State::open(&self.at("state"), Arc::new(SystemDisk)).expect("opens");
            Contracts::new(&state).reset().expect("writes");
        }
        Options {
            target: self.target(),
            insecure_plaintext: true,
            data: self.at("phone"),
            state: self.at("state"),
            until: Until::Stopped,
            holds: vec![],
            allowed: allowed.parse::<Allowed>().expect("known words"),
            limits: ReleaseLimits { min_rows: 1, ..ReleaseLimits::default() },
            disk_quota: headstart_device::DEFAULT_DISK_QUOTA,
            private_quota: headstart_device::DEFAULT_PRIVATE_QUOTA,
            approval: Approval::First,
            pin_adapters: false,
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

/// The run waits for the device's owner and says with which digest to approve; one approval covers the run.
#[tokio::test(flavor = "multi_thread")]
async fn a_run_waits_until_the_devices_owner_approved_all_of_it() {
    let (world, plan) = (World::new().await, plan());
    let options = Options { approval: Approval::Ask, ..world.phone("metrics,selection") };
    let stop = CancellationToken::new();
    let phone = tokio::spawn(headstart_device::run(options, stages::all(), stop.clone()));
    let run = world.engine.run(plan, RunOptions::new("test", world.at("pipeline"))).expect("starts");
    let wait = || world.engine.hub().device_waits(run.id()).into_iter().next().map(|wait| wait.why);
    let digest = tokio::time::timeout(Duration::from_secs(60), async {
        loop {
            if let Some(WaitReason::Contract(digest)) = wait() {
                return digest;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    let digest = digest.await.expect("in time");
    let contracts = Contracts::new(&State::look(&world.at("state")).expect("opens"));
    let engine = world.engine.hub().identity().public();
    let waiting = contracts.pending(&engine).expect("reads");
    let digests: Vec<Digest> = waiting.iter().map(headstart_device::Pending::digest).collect();
    assert_eq!(digests, [digest], "the device asks for what the engine says it asks for");
    let Proposal { stages, releases, models, .. } = &waiting[0].proposal;
    let kinds: Vec<&str> = stages.iter().map(|s| s.kind.as_str()).collect();
    assert_eq!(kinds, ["embed", "evaluate", "finetune", "jsonl", "merge", "select"]);
    assert_eq!((releases.len(), models.len()), (3, 2), "base and space");
    contracts
        .approve(&engine, &waiting[0].proposal, &waiting[0].models, &Default::default())
        .expect("writes");
    let result = tokio::time::timeout(Duration::from_secs(60), run.wait()).await.expect("in time");
    assert_eq!(result.expect("ends").outcome, RunOutcome::Succeeded);
    assert_eq!(contracts.pending(&engine).expect("reads"), []);
    stop.cancel();
    phone.await.expect("no panic").expect("stops well");
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

/// A device commits a file of five bytes and sends something else.
#[tokio::test(flavor = "multi_thread")]
async fn an_upload_is_as_long_as_its_commit_says() {
    let world = World::new().await;
    let text = "model base = local(\"model\")\ndataset questions = jsonl(\"probes.jsonl\")\n\
                stage there: Responses = probe(base, prompts: questions) { on: device(\"phone\") }\n\
                output there = there\n";
    let checked = check("p.pllm", &MemoryLoader::new().with("p.pllm", text), &Default::default());
    let plan = checked.plan.expect("sound");
    let run = world.engine.run(plan, RunOptions::new("test", world.at("pipeline"))).expect("starts");
    let Target::Invitation(invitation) = world.target() else { panic!("not paired yet") };
    let key = world.engine.hub().identity().public();
    let mut phone = Caller::new(&world.url, key, Identity::from_secret(&[3; 32]));
    assert_eq!(phone.join("phone", Some(&invitation)).await.status, 200);
    let granted = phone.post("/v1/claim", &json!({ "wait_ms": 20_000 })).await;
    let grant: Grant = phone.read(&granted, Kind::Grant);

    let (content, digest) = (b"{}\n{}", Digest::of(b"{}\n{}"));
    let file = FileRef { digest, size: content.len() as u64 };
    let manifest = Manifest {
        ty: headstart_protocol::Type::Responses,
        files: [("rows.jsonl".to_owned(), file)].into(),
        value: json!({ "rows": 2 }),
        uses: Default::default(),
    };
    let output = ArtifactRef::public(&manifest);
    let manifests = [(output.id.to_string(), manifest)].into();
    let outcome = Outcome::Succeeded { output, released: Default::default(), usage: Default::default() };
    let commit = Commit { fence: grant.task.fence, outcome, manifests };
    let commit = serde_json::to_value(commit).expect("JSON");
    assert_eq!(phone.post("/v1/commit", &commit).await.code(), (409, "missing_blob"));

    let path = format!("/v1/blobs/{digest}");
    let put = |body: reqwest::Body| phone.request(reqwest::Method::PUT, &path, content).body(body);
    let long = vec![b'x'; 30 << 20];
    assert_eq!(answer(put(long.into())).await.code(), (413, "invalid"), "longer than it may be");
    let stream = tokio_util::io::ReaderStream::new(&content[..]);
    assert_eq!(answer(put(reqwest::Body::wrap_stream(stream))).await.code(), (411, "invalid"));
    assert_eq!(answer(put("{}\n[]".into())).await.code(), (422, "invalid"), "other bytes");
    assert_eq!(answer(put(content.to_vec().into())).await.status, 204);
    let taken = phone.post("/v1/commit", &commit).await;
    let read: CommitAnswer = phone.read(&taken, Kind::Commit);
    assert_eq!(read.answer, CommitResult::Taken { counts: Committed::Accepted });
    assert_eq!(run.wait().await.expect("ends").outcome, RunOutcome::Succeeded);
    let left = std::fs::read_dir(world.at("workspace/scratch")).expect("a folder").flatten();
    assert_eq!(left.filter(|e| e.file_name().to_string_lossy().starts_with("upload-")).count(), 0);
}
