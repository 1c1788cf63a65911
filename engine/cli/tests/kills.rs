//! `kill -9` of real engines, devices, workers, custom stages and what those started, at any moment: the same
//! commands, given again, end with the same bytes as an undisturbed run, and no process is left.
#![cfg(target_os = "linux")]

mod common;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::{Place, device_binary, root};
use headstart_env::Random;
use headstart_env::simulated::SimulatedRandom;
use rustix::process::{Pid, Signal, kill_process};

const PIPELINE: &str = r#"
model base = local("MODEL")
dataset rows = jsonl("ROWS", take: 24)
program slow = "stages/slow.py"
private dataset mine = jsonl("me.jsonl") on device("phone")

stage counted: Metrics = slow.count() { losses: 1000, backoff: 10ms }
stage tuned: Pllm = finetune(base, data: rows, rank: 4, batch: 4, max_steps: 12, eval_every: 6, dropout: 0.1)
  { losses: 1000, backoff: 10ms }
stage before: Metrics = evaluate(base, data: mine, answers: 0) { on: device("phone") }

output counted = counted
output tuned = tuned
output before = release(before)
"#;

/// Starts a process that leaves its group and session, takes a moment, and leaves that process behind.
const PROGRAM: &str = r#"#!/usr/bin/env python3
import json, os, sys, time
STAGE = {"name": "count", "version": 1, "doc": "", "args": [], "makes": "Metrics",
         "places": ["server", "device"], "cached": True}
sys.stdin.readline()
print(json.dumps({"headstart": "hello", "protocol": 1, "stages": [STAGE]}), flush=True)
sys.stdin.readline()
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.execlp("sleep", "NAME", "600")
    os._exit(0)
os.wait()
time.sleep(0.6)
print(json.dumps({"headstart": "done", "files": [], "value": {"n": 24}, "uses": {}}), flush=True)
"#;

const DECLARATION: &str = r#"{ "program": "slow.py", "protocol": 1, "stages": [
  { "name": "count", "version": 1, "makes": "Metrics" } ] }"#;

/// A place with the pipeline, and the commands.
struct Round {
    place: Place,
    port: u16,
    /// What the daemons of custom stages are called.
    daemon: String,
}

/// Killed when it is dropped.
struct Running(Child);

impl Running {
    fn ended(&mut self) -> bool {
        self.0.try_wait().expect("its status").is_some()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Round {
    fn new() -> Self {
        use std::os::unix::fs::PermissionsExt;
        let place = Place::new();
        let name = place.dir.path().file_name().expect("a name").to_string_lossy().into_owned();
        let daemon = format!("daemon-of-{name}");
        let at = |path: &str| root().join(path).display().to_string();
        let text = PIPELINE
            .replace("MODEL", &at("examples/models/tiny"))
            .replace("ROWS", &at("examples/first-light/phone/me.jsonl"));
        place.write("p.pllm", &text);
        let program = place.write("stages/slow.py", &PROGRAM.replace("NAME", &daemon));
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).expect("mode");
        place.write("stages/slow.stages.json", DECLARATION);
        std::fs::create_dir_all(place.path("phone")).expect("writable");
        std::fs::copy(at("examples/first-light/phone/me.jsonl"), place.path("phone/me.jsonl"))
            .expect("copied");
        let port =
            std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port").port();
        Self { place, port, daemon }
    }

    /// Always the same command.
    fn engine(&self) -> Running {
        let at = |name: &str| self.place.path(name).display().to_string();
        let listen = format!("127.0.0.1:{}", self.port);
        let args = ["run", &at("p.pllm"), "--quiet", "--listen", &listen, "--out", &at("out")];
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.place.path("engine.log"));
        let mut command = self.place.command(&args);
        command.env("HEADSTART_CHECKPOINT_SECONDS", "0").stdout(Stdio::null()).stderr(log.expect("a log"));
        Running(command.spawn().expect("headstart starts"))
    }

    fn device(&self) -> Running {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.place.path("device.log"));
        let device = Command::new(device_binary())
            .arg("--state")
            .arg(self.place.path("state"))
            .args(self.place.join("phone", &format!("https://127.0.0.1:{}", self.port)))
            .arg("--data")
            .arg(self.place.path("phone"))
            .stdout(Stdio::null())
            .stderr(log.expect("a log"))
            .spawn();
        Running(device.expect("headstart-device starts"))
    }

    fn logs(&self) -> String {
        let log = |name: &str| std::fs::read_to_string(self.place.path(name)).unwrap_or_default();
        format!("engine:\n{}\ndevice:\n{}", log("engine.log"), log("device.log"))
    }

    /// Runs to the end, with so many kills on the way; how many there were of each.
    fn run(&self, random: &SimulatedRandom, kills: usize) -> BTreeMap<&'static str, usize> {
        let mut killed: BTreeMap<&'static str, usize> = BTreeMap::new();
        let (mut engine, mut device) = (self.engine(), self.device());
        let begun = Instant::now();
        loop {
            assert!(begun.elapsed() < Duration::from_secs(300), "it does not end:\n{}", self.logs());
            let left = kills > killed.values().sum();
            let pause = if left {
                Duration::from_millis(50 + random.spread() % 900)
            } else {
                Duration::from_millis(20)
            };
            std::thread::sleep(pause);
            if let Some(status) = engine.0.try_wait().expect("its status") {
                assert!(status.success(), "{status}:\n{}", self.logs());
                return killed;
            }
            if device.ended() {
                panic!("the device ended by itself:\n{}", self.logs());
            }
            if !left {
                continue;
            }
            let below = below(engine.0.id());
            match random.spread() % 3 {
                0 => {
                    engine.0.kill().expect("it is there");
                    engine.0.wait().expect("it ended");
                    *killed.entry("engine").or_default() += 1;
                    engine = self.engine();
                }
                1 => {
                    device.0.kill().expect("it is there");
                    device.0.wait().expect("it ended");
                    *killed.entry("device").or_default() += 1;
                    device = self.device();
                }
                _ if below.is_empty() => {}
                _ => {
                    let victim = below[(random.spread() % below.len() as u64) as usize];
                    let what = match command_line(victim) {
                        line if line.contains("slow.py") => "custom stage",
                        line if line.contains(&self.daemon) => "what a custom stage started",
                        line if line.contains("supervise") => continue,
                        _ => "worker",
                    };
                    let pid = Pid::from_raw(victim.cast_signed()).expect("a process");
                    // It may have ended meanwhile.
                    if kill_process(pid, Signal::KILL).is_ok() {
                        *killed.entry(what).or_default() += 1;
                    }
                }
            }
        }
    }

    fn outputs(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let out = self.place.path("out");
        let mut found = BTreeMap::new();
        let mut folders = vec![out.clone()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).expect("an output").flatten() {
                let path = entry.path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    let name = path.strip_prefix(&out).expect("below it").to_owned();
                    found.insert(name, std::fs::read(&path).expect("readable"));
                }
            }
        }
        found
    }

    /// Nothing that this round started is left, but for what waits to be collected.
    fn nothing_is_left(&self) {
        let mine = self.place.dir.path().display().to_string();
        let left = || -> Vec<String> {
            let lines = processes().into_iter().map(command_line);
            lines.filter(|line| line.contains(&mine) || line.contains(&self.daemon)).collect()
        };
        let by = Instant::now() + Duration::from_secs(20);
        while !left().is_empty() {
            assert!(Instant::now() < by, "left: {:?}", left());
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

fn processes() -> Vec<u32> {
    let entries = std::fs::read_dir("/proc").expect("listed").flatten();
    entries.filter_map(|e| e.file_name().to_str()?.parse().ok()).collect()
}

/// Empty for a process that has ended.
fn command_line(pid: u32) -> String {
    let at = Path::new("/proc").join(pid.to_string()).join("cmdline");
    String::from_utf8_lossy(&std::fs::read(at).unwrap_or_default()).replace('\0', " ")
}

fn parent(pid: u32) -> Option<u32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()
}

/// All that descends from a process.
fn below(root: u32) -> Vec<u32> {
    let parents: BTreeMap<u32, u32> = processes().into_iter().filter_map(|p| Some((p, parent(p)?))).collect();
    let descends = |mut pid: u32| {
        while let Some(parent) = parents.get(&pid) {
            if *parent == root {
                return true;
            }
            pid = *parent;
        }
        false
    };
    parents.keys().copied().filter(|pid| descends(*pid)).collect()
}

#[test]
fn kills_change_nothing_of_the_outputs() {
    // Built before an engine waits for it.
    device_binary();
    let undisturbed = Round::new();
    undisturbed.run(&SimulatedRandom::new(0), 0);
    let expected = undisturbed.outputs();
    assert!(expected.len() > 4, "{:?}", expected.keys());
    let wanted = headstart_testkit::cases(4, 200) as usize;
    let mut all: BTreeMap<&'static str, usize> = BTreeMap::new();
    let mut rounds = 0;
    while all.values().sum::<usize>() < wanted {
        rounds += 1;
        let left = wanted - all.values().sum::<usize>();
        let round = Round::new();
        for (what, n) in round.run(&SimulatedRandom::new(rounds), left.min(6)) {
            *all.entry(what).or_default() += n;
        }
        let found = round.outputs();
        assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>(), "round {rounds}");
        for (name, content) in &found {
            assert!(
                expected[name] == *content,
                "round {rounds}: {} differs:\n{}",
                name.display(),
                round.logs()
            );
        }
        round.nothing_is_left();
        assert!(rounds < 1000, "it never gets to a kill");
    }
    println!("{} kills in {rounds} rounds: {all:?}", all.values().sum::<usize>());
}
