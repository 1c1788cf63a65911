//! However the command ends, the programs of its custom stages end with it, and all that they started.
#![cfg(target_os = "linux")]

mod common;

use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use common::Place;
use rustix::process::{Pid, Signal, kill_process};

/// Ignores every signal that it can, never reads its input, and has a child that does the same; and one that has
/// left its process group and session, and has no parent any more.
const PROGRAM: &str = r#"#!/usr/bin/env python3
import json, os, pathlib, signal, subprocess, sys, time
STAGE = {"name": "stubborn", "version": 1, "doc": "", "args": [], "makes": "Metrics",
         "places": ["server", "device"], "cached": True}
sys.stdin.readline()
print(json.dumps({"headstart": "hello", "protocol": 1, "stages": [STAGE]}), flush=True)
sys.stdin.readline()
for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(ignored, signal.SIG_IGN)
child = subprocess.Popen(["sleep", "300"])
read, write = os.pipe()
if os.fork() == 0:
    os.setsid()
    daemon = os.fork()
    if daemon == 0:
        os.execlp("sleep", "sleep", "300")
    os.write(write, str(daemon).encode())
    os._exit(0)
os.wait()
daemon = os.read(read, 20).decode()
at = pathlib.Path("PIDS")
at.with_suffix(".new").write_text(f"{os.getpid()} {child.pid} {daemon}")
at.with_suffix(".new").rename(at)
time.sleep(300)
"#;

const DECLARATION: &str = r#"{ "program": "raw.py", "protocol": 1, "stages": [
  { "name": "stubborn", "version": 1, "makes": "Metrics" } ] }"#;

const PIPELINE: &str =
    "program raw = \"stages/raw.py\"\nstage n: Metrics = raw.stubborn() { losses: 1 }\noutput n = n\n";

/// A run whose stage is running, and the numbers of its program, of that program's child and of its daemon.
fn start(place: &Place) -> (Child, [u32; 3]) {
    use std::os::unix::fs::PermissionsExt;
    let pids = place.path("pids");
    let program =
        place.write("stages/raw.py", &PROGRAM.replace("PIDS", pids.to_str().expect("a plain path")));
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).expect("mode");
    place.write("stages/raw.stages.json", DECLARATION);
    let pipeline = place.write("p.pllm", PIPELINE);
    // It writes where the test reads.
    let mut run = place
        .command(&["run", pipeline.to_str().expect("a plain path"), "--unconfined-stages"])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("headstart starts");
    let by = Instant::now() + Duration::from_secs(60);
    while !pids.exists() {
        assert!(run.try_wait().expect("its status").is_none(), "it runs until it is stopped");
        assert!(Instant::now() < by, "the program starts");
        std::thread::sleep(Duration::from_millis(20));
    }
    let text = std::fs::read_to_string(&pids).expect("three numbers");
    let pid = |n: usize| text.split(' ').nth(n).expect("three numbers").parse().expect("a number");
    (run, [pid(0), pid(1), pid(2)])
}

fn send(run: &Child, signal: Signal) {
    let pid = Pid::from_raw(run.id().cast_signed()).expect("a process");
    kill_process(pid, signal).expect("it is there");
}

/// Sends a signal, and once more when the command says that it is stopping.
fn send_twice(run: &mut Child, signal: Signal) -> ExitStatus {
    send(run, signal);
    let err = BufReader::new(run.stderr.take().expect("piped"));
    let mut rest = err.lines().map_while(Result::ok);
    assert!(
        rest.any(|line| line.contains("press Ctrl-C again to stop at once")),
        "it says what a second does"
    );
    send(run, signal);
    rest.for_each(drop);
    run.wait().expect("it ends")
}

/// Whether a process is there and not just waiting to be collected.
fn lives(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

fn end_soon(pids: [u32; 3]) -> bool {
    let by = Instant::now() + Duration::from_secs(20);
    while pids.into_iter().any(lives) && Instant::now() < by {
        std::thread::sleep(Duration::from_millis(20));
    }
    !pids.into_iter().any(lives)
}

#[test]
fn a_second_signal_kills_the_group_before_the_command_ends() {
    for signal in [Signal::INT, Signal::TERM] {
        let place = Place::new();
        let (mut run, pids) = start(&place);
        assert!(pids.into_iter().all(lives));
        let status = send_twice(&mut run, signal);
        assert!(status.code().is_some_and(|code| code != 0), "{signal:?}: {status}");
        assert!(!pids.into_iter().any(lives), "{signal:?}: gone when the command is");
    }
}

#[test]
fn a_command_that_is_killed_takes_the_group_with_it() {
    let place = Place::new();
    let (mut run, pids) = start(&place);
    send(&run, Signal::KILL);
    assert_eq!(run.wait().expect("it ends").signal(), Some(9));
    assert!(end_soon(pids));
}

/// The supervisor of a program: its parent.
fn parent_of(pid: u32) -> u32 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("it lives");
    let fields = stat.rsplit_once(") ").expect("a name").1;
    fields.split(' ').nth(1).expect("a parent").parse().expect("a number")
}

#[test]
fn a_program_whose_supervisor_is_killed_is_one_attempt_that_failed() {
    let place = Place::new();
    let (run, pids) = start(&place);
    let supervisor = parent_of(pids[0]);
    assert_ne!(supervisor, run.id());
    kill_process(Pid::from_raw(supervisor.cast_signed()).expect("a process"), Signal::KILL)
        .expect("it is there");
    let output = run.wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("killed by signal 9"), "{said}");
    let id =
        said.split("headstart runs ").nth(1).and_then(|rest| rest.split('`').next()).expect("what shows why");
    place.headstart(&["runs", id]).code(0).out_has(&format!("headstart runs {id} --retry 'n'"));
    assert!(!lives(pids[0]), "the program ends with its supervisor");
    // The others are followed by nobody any more.
    for pid in &pids[1..] {
        let _ = kill_process(Pid::from_raw(pid.cast_signed()).expect("a process"), Signal::KILL);
    }
}
