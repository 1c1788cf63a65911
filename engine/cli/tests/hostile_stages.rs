//! Custom stages that try to outlive their run, to hold more than they may, and to have others' files stored: with the
//! real command, confined as it confines them.
#![cfg(target_os = "linux")]

mod common;

use std::path::Path;

use common::{Place, Said};
use serde_json::Value;

/// What every program begins with.
const HEAD: &str = r#"#!/usr/bin/env python3
import ctypes, hashlib, json, os, pathlib, signal, subprocess, sys, threading, time
libc = ctypes.CDLL(None, use_errno=True)
STAGE = {"name": "go", "version": 1, "doc": "", "args": [], "makes": MAKES, "places": ["server", "device"],
         "cached": True}
def say(kind, **what):
    print(json.dumps({"headstart": kind, **what}), flush=True)
def rename(name):
    libc.prctl(15, ctypes.c_char_p(name), 0, 0, 0)
def orphan(body):
    """A process that is nobody's child, holds no stream and runs `body`. Gives its number."""
    read, write = os.pipe()
    if os.fork() == 0:
        child = os.fork()
        if child == 0:
            for stream in (0, 1, 2, read, write):
                os.close(stream)
            try:
                body()
            finally:
                os._exit(0)
        os.write(write, str(child).encode())
        os._exit(0)
    os.wait()
    number = int(os.read(read, 20))
    os.close(read); os.close(write)
    return number
sys.stdin.readline()
say("hello", protocol=1, stages=[STAGE])
sys.stdin.readline()
"#;

/// Runs a pipeline of one stage, whose program goes on with `body`.
fn run(place: &Place, makes: &str, body: &str, settings: &str) -> Said {
    use std::os::unix::fs::PermissionsExt;
    let head = HEAD.replace("MAKES", &format!("{makes:?}"));
    let program = place.write("stages/raw.py", &format!("{head}{body}"));
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).expect("mode");
    let declaration = format!(
        r#"{{ "program": "raw.py", "protocol": 1, "stages": [ {{ "name": "go", "version": 1, "makes": "{makes}" }} ] }}"#
    );
    place.write("stages/raw.stages.json", &declaration);
    let settings = if settings.is_empty() { String::new() } else { format!(" {{ {settings} }}") };
    let item = if makes == "Dataset" { "dataset n" } else { "stage n: Metrics" };
    let pipeline = format!("program raw = \"stages/raw.py\"\n{item} = raw.go(){settings}\noutput n = n\n");
    let pipeline = place.write("p.pllm", &pipeline);
    place.headstart(&["run", pipeline.to_str().expect("a plain path"), "--out", path(&place.path("out"))])
}

fn path(at: &Path) -> &str {
    at.to_str().expect("a plain path")
}

/// The numbers that the stage returned.
fn numbers(place: &Place) -> Vec<u32> {
    let text = std::fs::read_to_string(place.path("out/n/metrics.json")).expect("the output");
    let json: Value = serde_json::from_str(&text).expect("JSON");
    let value = json.get("value").unwrap_or(&json);
    let numbers = value.as_object().expect("metrics").values();
    numbers.map(|n| n.as_f64().expect("a number") as u32).collect()
}

/// Whether a process is there, in whatever state.
fn is_there(pid: u32) -> bool {
    Path::new("/proc").join(pid.to_string()).exists()
}

/// Names that are not text or look like the end of a name, processes that are stopped, whose first thread has ended,
/// that ignore signals, that adopt others.
#[test]
fn nothing_that_a_stage_starts_is_there_when_its_run_has_ended() {
    let place = Place::new();
    let body = r#"
def sleep():
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    time.sleep(300)
def named(name):
    rename(name)
    sleep()
def stopped():
    rename(b"\xff")
    os.kill(os.getpid(), signal.SIGSTOP)
    sleep()
def without_its_first_thread():
    threading.Thread(target=sleep_on, daemon=False).start()
    libc.syscall(60 if os.uname().machine == "x86_64" else 93, 0)
def sleep_on():
    time.sleep(300)
def adopts():
    PR_SET_CHILD_SUBREAPER = 36
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    orphan(sleep)
    sleep()
names = [b"\xff\xfe\xff", b") Z 1 1 1 1", b"a b", b"()", b")", b"\n", b"\xc3)"]
bodies = [lambda name=name: named(name) for name in names] + [stopped, without_its_first_thread, adopts]
found = {f"n{i}": orphan(body) for i, body in enumerate(bodies)}
say("done", value=found)
"#;
    run(&place, "Metrics", body, "").code(0);
    let numbers = numbers(&place);
    assert_eq!(numbers.len(), 10);
    for pid in numbers {
        assert!(!is_there(pid), "{pid} is there");
    }
}

/// Each process starts the next one and ends: none can be found in time to be killed by its number.
#[test]
fn a_chain_of_processes_ends_with_its_run() {
    let place = Place::new();
    let body = r#"
def chain():
    while True:
        if os.fork():
            os._exit(0)
for _ in range(3):
    orphan(chain)
print("started", file=sys.stderr)
say("done", value={"x": os.getpid()})
"#;
    run(&place, "Metrics", body, "").code(0);
    let group = numbers(&place)[0];
    let stat = |entry: std::fs::DirEntry| std::fs::read(entry.path().join("stat")).ok();
    let all = std::fs::read_dir("/proc").expect("the processes").flatten().filter_map(stat);
    let left = all.filter(|stat| {
        let behind = stat.iter().rposition(|b| *b == b')').expect("a name") + 2;
        let text = String::from_utf8_lossy(&stat[behind..]).into_owned();
        text.split(' ').nth(2) == Some(&group.to_string())
    });
    assert_eq!(left.count(), 0, "of the program's group");
}

#[test]
fn memory_is_counted_whatever_a_process_is_called_and_whichever_thread_lives() {
    let hold = r#"
def hold():
    held = bytearray(b"x" * (192 << 20))
    time.sleep(300)
"#;
    for hidden in [
        "rename(b\"\\xff\\xfe\"); hold()",
        "rename(b\") S 1 1 1\"); hold()",
        "threading.Thread(target=hold).start(); libc.syscall(60 if os.uname().machine == \"x86_64\" else 93, 0)",
    ] {
        let place = Place::new();
        let body = format!("{hold}\ndef hidden():\n    {hidden}\norphan(hidden)\ntime.sleep(300)\n");
        let said = run(&place, "Metrics", &body, "memory: 96MiB");
        assert_ne!(said.code, 0);
        assert!(said.err.contains("MiB of memory, and may use 96 MiB"), "{hidden}: {}", said.err);
    }
}

/// By links that it makes itself, by the name of another file, and by processes that go on when it is done.
#[test]
fn no_file_of_somebody_else_becomes_an_output() {
    const SECRET: &str = r#"{"prompt":"a key","response":"of somebody"}"#;
    let refused = "which is not a plain file of its scratch folder";
    let ways = [
        ("os.symlink(SECRET, 'rows.jsonl')", refused),
        ("os.symlink(os.path.dirname(SECRET), 'sub'); NAME = 'sub/secret.jsonl'", refused),
        ("os.link(SECRET, 'rows.jsonl')", "Error"),
        ("os.symlink('/proc/self/root' + SECRET, 'rows.jsonl')", refused),
    ];
    for (way, why) in ways {
        let place = Place::new();
        let secret = place.write("home/secret.jsonl", &format!("{SECRET}\n"));
        let body = format!(
            "NAME, SECRET = 'rows.jsonl', {:?}\n{way}\n\
             data = b'{}\\n'\n\
             say('done', files=[{{'name': NAME, 'size': len(data), 'sha256': hashlib.sha256(data).hexdigest()}}])\n",
            path(&secret),
            SECRET.replace('"', "\\\"")
        );
        let said = run(&place, "Dataset", &body, "");
        assert_ne!(said.code, 0, "{way}");
        assert!(said.err.contains(why), "{way}: {}", said.err);
        assert!(!holds(&place.path("ws"), "of somebody"), "{way}: in the workspace");
    }
    // A process that is left behind puts a link in the file's place as often as it can.
    let place = Place::new();
    let secret = place.write("home/secret.jsonl", &format!("{SECRET}\n"));
    let body = format!(
        r#"
SECRET = {:?}
row = b'{{"prompt":"mine","response":"x"}}\n'
pathlib.Path("rows.jsonl").write_bytes(row)
def swap():
    rename(b"\xff")
    n = 0
    while True:
        os.symlink(SECRET, f"link{{n}}"); os.rename(f"link{{n}}", "rows.jsonl")
        pathlib.Path("mine").write_bytes(row); os.rename("mine", "rows.jsonl")
        n += 1
orphan(swap)
time.sleep(0.05)
say("done", files=[{{"name": "rows.jsonl", "size": len(row), "sha256": hashlib.sha256(row).hexdigest()}}])
"#,
        path(&secret)
    );
    let said = run(&place, "Dataset", &body, "");
    if said.code != 0 {
        assert!(said.err.contains("not a plain file") || said.err.contains("not in its"), "{}", said.err);
    }
    let workspace = place.path("ws");
    assert!(workspace.join("blobs").exists() || said.code != 0);
    assert!(!holds(&workspace, "of somebody"), "in the workspace");
}

/// Whether a file below a folder holds a text.
fn holds(folder: &Path, text: &str) -> bool {
    std::fs::read_dir(folder).into_iter().flatten().flatten().any(|entry| {
        let at = entry.path();
        if at.is_dir() {
            return holds(&at, text);
        }
        std::fs::read(&at).is_ok_and(|bytes| bytes.windows(text.len()).any(|part| part == text.as_bytes()))
    })
}

/// Kernels before 6.12 let a confined program signal its supervisor.
#[test]
fn what_is_made_does_not_count_where_the_supervisor_was_killed() {
    let place = Place::new();
    let body = r#"
others = orphan(lambda: time.sleep(300))
print(f"left {others}.", file=sys.stderr, flush=True)
try:
    os.kill(os.getppid(), signal.SIGKILL)
except OSError:
    say("failed", message=f"the kernel forbids it: {others}", **{"class": "input"})
    sys.exit(1)
say("done", value={"x": 1})
"#;
    let said = run(&place, "Metrics", body, "");
    assert_ne!(said.code, 0);
    let number = |mark: &str| {
        let rest = said.err.split(mark).nth(1)?;
        rest.split(|c: char| !c.is_ascii_digit()).next()?.parse::<u32>().ok()
    };
    let left = number("left ").or_else(|| number("forbids it: ")).expect("it tells which");
    assert!(!is_there(left), "{}", said.err);
}
