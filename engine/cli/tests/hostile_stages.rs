//! Whatever a hostile model, template or neighbour does to the process of a stage, the engine goes on: the
//! attempt fails with the cause, or is tried again, and no process is left.
#![cfg(target_os = "linux")]

mod common;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::{Place, Said, copy_dir, device_binary, root, said};
use rustix::process::{Pid, Signal, kill_process};

const TUNED: &str = r#"
model base = local("MODEL")
dataset rows = jsonl("ROWS", take: 24)
stage tuned: Pllm = finetune(base, data: rows, rank: 4, batch: 4, max_steps: STEPS, eval_every: 100) { SETTINGS }
output tuned = tuned
"#;

/// How long a test waits for what must happen.
const PATIENCE: Duration = Duration::from_secs(120);

fn tiny() -> PathBuf {
    root().join("examples/models/tiny")
}

fn tuned(place: &Place, steps: u32, settings: &str) -> String {
    let rows = root().join("examples/first-light/phone/me.jsonl");
    let text = TUNED
        .replace("MODEL", &tiny().display().to_string())
        .replace("ROWS", &rows.display().to_string())
        .replace("STEPS", &steps.to_string())
        .replace("SETTINGS", settings);
    place.write("p.pllm", &text).display().to_string()
}

/// A model whose chat template is this.
fn model_with(place: &Place, template: &str) -> PathBuf {
    let model = place.path("model");
    copy_dir(&tiny(), &model);
    std::fs::write(model.join("chat_template.jinja"), template).expect("writable");
    model
}

/// Worker processes that a process started.
fn workers_of(runner: u32) -> BTreeSet<u32> {
    let all = std::fs::read_dir("/proc").expect("processes").flatten();
    let number = |entry: std::fs::DirEntry| entry.file_name().to_string_lossy().parse::<u32>().ok();
    all.filter_map(number).filter(|pid| parent(*pid) == Some(runner) && is_worker(*pid)).collect()
}

fn parent(pid: u32) -> Option<u32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(") ")?;
    (!fields.starts_with('Z')).then(|| fields.split(' ').nth(1)?.parse().ok())?
}

fn is_worker(pid: u32) -> bool {
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    line.split(|b| *b == 0).nth(1) == Some(b"worker")
}

fn send(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(pid.cast_signed()).expect("a process");
    // It may just have ended.
    let _ = kill_process(pid, signal);
}

#[track_caller]
fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < PATIENCE, "{what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Whether a training has kept progress below a folder.
fn trains(resume: &Path) -> bool {
    let folders = std::fs::read_dir(resume).into_iter().flatten().flatten();
    folders.into_iter().any(|f| f.path().join("checkpoint.safetensors").exists())
}

/// A training that is under way, by the progress that it keeps.
fn start(place: &Place, file: &str) -> Child {
    let mut run = place
        .command(&["run", file])
        .env("HEADSTART_CHECKPOINT_SECONDS", "0")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("headstart starts");
    let resume = place.path("ws/resume");
    until("it trains", || {
        assert!(run.try_wait().expect("asked").is_none(), "it ended before");
        trains(&resume)
    });
    run
}

fn end(run: Child) -> Said {
    said(run.wait_with_output().expect("it ends"))
}

#[test]
fn a_template_that_doubles_a_text_ends_its_process_alone() {
    let place = Place::new();
    let template = "{% set ns = namespace(s='xxxxxxxx') %}{% for i in range(60) %}\
                    {% set ns.s = ns.s ~ ns.s %}{% endfor %}{{ ns.s | length }}";
    let model = model_with(&place, template);
    let text = format!("model m = local(\"{}\") {{ memory: 256MiB }}\noutput m = m\n", model.display());
    let file = place.write("p.pllm", &text).display().to_string();
    let said = place.headstart(&["run", &file]).code(1).err_has("memory").err_has("may use 256 MiB");
    assert!(!said.err.contains("panicked"), "{}", said.err);
}

#[test]
fn a_template_that_writes_or_loops_without_end_is_refused() {
    let place = Place::new();
    let loops = "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}";
    let writes = format!("{{% for i in range(90000) %}}{}{{% endfor %}}", "x".repeat(5000));
    for (template, words) in [(loops, "does not come to an end"), (&writes, "writes far more than")] {
        let model = model_with(&place, template);
        let text = format!("model m = local(\"{}\")\noutput m = m\n", model.display());
        let file = place.write("p.pllm", &text).display().to_string();
        place.headstart(&["run", &file]).code(2).err_has(words).err_has("chat_template.jinja");
    }
}

#[test]
fn an_adapter_of_a_huge_rank_is_refused() {
    let place = Place::new();
    let adapter = place.path("adapter");
    let catalog = std::fs::read_dir(root().join("examples/catalog")).expect("a catalog").flatten();
    copy_dir(&catalog.map(|f| f.path()).find(|f| f.is_dir()).expect("an adapter"), &adapter);
    let config = adapter.join("adapter_config.json");
    let text = std::fs::read_to_string(&config).expect("readable");
    let mut json: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    json["r"] = 2_147_483_648_u64.into();
    std::fs::write(&config, json.to_string()).expect("writable");
    let text = format!(
        "model base = local(\"{}\")\nstage a: Pllm = ingest(base: base, source: \"{}\")\noutput a = a\n",
        tiny().display(),
        adapter.display()
    );
    let file = place.write("p.pllm", &text).display().to_string();
    place.headstart(&["run", &file]).code(2).err_has("2147483648");
}

#[test]
fn a_worker_that_is_killed_is_one_attempt_of_its_stage() {
    let place = Place::new();
    let file = tuned(&place, 40, "retry: 2, backoff: 10ms");
    let run = start(&place, &file);
    let workers = workers_of(run.id());
    assert!(!workers.is_empty(), "stages run in processes of their own");
    workers.iter().for_each(|worker| send(*worker, Signal::KILL));
    end(run).code(0);
    let list = place.headstart(&["runs"]).code(0);
    let id = list.out.split_whitespace().next().expect("a run").to_owned();
    let shown = place.headstart(&["runs", &id, "--format", "json"]).code(0).out;
    assert!(shown.contains("resumed_steps"), "a second attempt resumes the first: {shown}");
}

#[test]
fn a_worker_that_was_stopped_ends_by_the_time_limit() {
    let place = Place::new();
    let file = tuned(&place, 100_000, "timeout: 5s");
    let run = start(&place, &file);
    let workers = workers_of(run.id());
    workers.iter().for_each(|worker| send(*worker, Signal::STOP));
    end(run).code(1).err_has("ran past its time limit");
    until("no worker is left", || workers.iter().all(|w| parent(*w).is_none()));
}

#[test]
fn no_worker_survives_its_engine() {
    for stopped in [false, true] {
        let place = Place::new();
        let file = tuned(&place, 100_000, "retry: 0");
        let mut run = start(&place, &file);
        let workers = workers_of(run.id());
        assert!(!workers.is_empty());
        if stopped {
            workers.iter().for_each(|worker| send(*worker, Signal::STOP));
        }
        run.kill().expect("kill -9");
        run.wait().expect("it ended");
        until("no worker is left", || workers.iter().all(|w| parent(*w).is_none()));
    }
}

const PRIVATE: &str = r#"
model base = local("MODEL")
private dataset mine = jsonl("me.jsonl") on device("phone")
stage tuned: Pllm = finetune(base, data: mine, rank: 4, batch: 4, max_steps: STEPS, eval_every: 100)
  { on: device("phone"), SETTINGS }
output base = base
"#;

/// Both processes, ended with the test.
struct Pair {
    engine: Child,
    device: Child,
}

impl Drop for Pair {
    fn drop(&mut self) {
        for child in [&mut self.engine, &mut self.device] {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// An engine and a phone whose private training is under way.
fn start_pair(place: &Place, steps: u32, settings: &str) -> Pair {
    // Which may first have to be built.
    let phone = device_binary();
    let rows = std::fs::read_to_string(root().join("examples/first-light/phone/me.jsonl")).expect("readable");
    let rows: String = rows.lines().take(24).map(|line| format!("{line}\n")).collect();
    place.write("phone/me.jsonl", &rows);
    let text = PRIVATE
        .replace("MODEL", &tiny().display().to_string())
        .replace("STEPS", &steps.to_string())
        .replace("SETTINGS", settings);
    let file = place.write("p.pllm", &text).display().to_string();
    let port =
        std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port").port();
    let joins = place.join("phone", &format!("https://127.0.0.1:{port}"));
    let listen = format!("127.0.0.1:{port}");
    let quiet = |command: &mut Command| command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    let engine = quiet(&mut place.command(&["run", &file, "--listen", &listen])).expect("headstart starts");
    let mut device = Command::new(phone);
    device.arg("--state").arg(place.path("state")).args(joins).arg("--data").arg(place.path("phone"));
    device.env("HEADSTART_CHECKPOINT_SECONDS", "0");
    let device = quiet(&mut device).expect("the device starts");
    let pair = Pair { engine, device };
    until("the phone trains", || trains(&place.path("state/resume")));
    pair
}

/// What the phone remembers of the training.
fn history(place: &Place) -> String {
    let all = std::fs::read_to_string(place.path("state/history.jsonl")).unwrap_or_default();
    all.lines().filter(|line| line.contains("\"tuned\"")).map(str::to_owned).collect()
}

#[test]
fn a_device_tries_again_when_its_worker_is_killed() {
    let place = Place::new();
    let mut pair = start_pair(&place, 40, "memory: 1GiB");
    let workers = workers_of(pair.device.id());
    assert_eq!(workers.len(), 1, "a device has one worker");
    workers.iter().for_each(|worker| send(*worker, Signal::KILL));
    assert!(pair.engine.wait().expect("it ends").success());
    let known = history(&place);
    assert!(known.contains("succeeded") && !known.contains("killed"), "{known}");
}

#[test]
fn a_stopped_worker_of_a_device_ends_by_the_time_limit() {
    let place = Place::new();
    let mut pair = start_pair(&place, 100_000, "timeout: 5s");
    let workers = workers_of(pair.device.id());
    workers.iter().for_each(|worker| send(*worker, Signal::STOP));
    // Only the phone knows that it failed.
    assert!(pair.engine.wait().expect("it ends").success());
    assert!(history(&place).contains("ran past its time limit"), "{}", history(&place));
    until("no worker is left", || workers.iter().all(|w| parent(*w).is_none()));
}

#[test]
fn no_worker_survives_its_device() {
    let place = Place::new();
    let mut pair = start_pair(&place, 100_000, "memory: 1GiB");
    let workers = workers_of(pair.device.id());
    assert_eq!(workers.len(), 1);
    pair.device.kill().expect("kill -9");
    pair.device.wait().expect("it ended");
    until("no worker is left", || workers.iter().all(|w| parent(*w).is_none()));
}

#[test]
fn a_device_survives_a_stage_that_takes_too_much_memory() {
    use std::io::Write;
    let place = Place::new();
    let row = format!("{{\"prompt\":\"{}\",\"response\":\"y\"}}\n", "x".repeat(1000));
    place.write("phone/me.jsonl", &row.repeat(300_000));
    let mut device = Command::new(device_binary());
    device.arg("--state").arg(place.path("state")).args(["run", "--memory", "64MiB", "--data"]);
    device.arg(place.path("phone")).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut run = device.spawn().expect("the device starts");
    let task = r#"{ "kind": "jsonl", "args": { "path": { "expr": "value", "value": { "is": "path", "value": "me.jsonl" } } } }"#;
    run.stdin.take().expect("piped").write_all(task.as_bytes()).expect("it reads");
    let said = end(run);
    assert!(said.code == 1 && said.err.contains("memory"), "{}: {}", said.code, said.err);
}
