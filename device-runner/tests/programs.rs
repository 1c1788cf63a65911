//! Custom stages on a device: only those that its owner allowed, and nothing of them leaves.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use headstart_device::{Allowed, Control, Device, Phase, ReleaseLimits, State, for_the_engine, stated};
use headstart_host::Allowlist;
use headstart_protocol::expr::Expr;
use headstart_protocol::task::{Outcome, Released, Task};
use headstart_protocol::{Digest, Failure, Type, Value};
use serde_json::json;

/// Measures a file of the device, and says where it is in every way that it has.
const PROGRAM: &str = r#"#!/usr/bin/env python3
import json, sys
STAGE = {"name": "length", "version": 2, "doc": "", "args": [{"name": "at", "doc": "", "takes": ["Path"]}],
         "makes": "Metrics", "metrics": [{"name": "length", "low": 0, "high": 1000}], "rows": ["at"], "places": ["device"], "cached": True}
def say(kind, **what):
    print(json.dumps({"headstart": kind, **what}), flush=True)
json.loads(sys.stdin.readline())
say("hello", protocol=1, stages=[STAGE])
line = sys.stdin.readline()
if line:
    text = open(json.loads(line)["args"]["at"]).read()
    if not text:
        say("failed", message="secret path " + line)
        sys.exit(1)
    say("done", value={text: 1} if text.startswith("name") else {"length": len(text)})
"#;

struct Phone {
    dir: tempfile::TempDir,
    min_rows: u64,
}

impl Phone {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        for folder in ["data", "stages"] {
            std::fs::create_dir(dir.path().join(folder)).expect("a folder");
        }
        std::fs::write(dir.path().join("data/me.txt"), "dear diary").expect("writes");
        std::fs::write(dir.path().join("data/empty.txt"), "").expect("writes");
        std::fs::write(dir.path().join("data/named.txt"), "name_is_Ann").expect("writes");
        Self { dir, min_rows: 0 }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Puts the program where its owner keeps allowed programs, with its declaration.
    fn allow(&self) -> Digest {
        self.allow_program(PROGRAM)
    }

    fn allow_program(&self, text: &str) -> Digest {
        use std::os::unix::fs::PermissionsExt;
        let program = self.at("stages/tools.py");
        std::fs::write(&program, text).expect("writes");
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).expect("mode");
        let declared =
            headstart_host::describe(&program, Default::default(), &|_| {}).expect("a declaration");
        std::fs::write(self.at("stages/tools.stages.json"), declared.to_json()).expect("writes");
        headstart_host::folder::digest(&program, &[]).expect("a digest")
    }

    fn device(&self) -> Device {
        let state =
            State::open(&self.at("state"), Arc::new(headstart_disk::SystemDisk)).expect("a state folder");
        let programs = Allowlist::in_folder(&self.at("stages")).expect("a folder of programs");
        Device::new("phone", &self.at("data"), state, Vec::new(), Allowed::NUMBERS, (1, None))
            .expect("a device")
            .with_custom_stages(std::sync::Arc::new(programs))
            .with_release_limits(ReleaseLimits { min_rows: self.min_rows, ..ReleaseLimits::default() })
    }
}

fn task(program: Digest, path: &str) -> Task {
    let at = Expr::value(Value::Path(path.into()));
    serde_json::from_value(json!({
        "run": "r", "instance": 0, "name": "n", "attempt": 1, "fence": 1, "kind": "tools.length",
        "program": program, "version": 2, "ty": Type::Metrics, "args": { "at": at }, "private": false,
    }))
    .expect("a task")
}

fn work(device: &Device, task: &Task) -> Result<Outcome, Failure> {
    device.check(task)?;
    device.work(task, &[], &Control::default()).map(|made| made.outcome)
}

#[test]
fn an_allowed_program_runs_and_its_output_is_private() {
    let phone = Phone::new();
    let program = phone.allow();
    let device = phone.device();
    assert_eq!(device.kinds(), [format!("program:{program}")]);
    // The engine calls it public and releases a number: the device knows better, and lets it.
    let task = Task { release: vec![vec!["length".into()]], ..task(program, "me.txt") };
    assert!(stated(&task).is_private());
    let Outcome::Succeeded { output, released, .. } = work(&device, &task).expect("done") else {
        panic!("not done")
    };
    assert_eq!(output.private_to.as_deref(), Some("phone"));
    assert_eq!(released["length"], Released::Json(json!(10)));
    let nothing = Task { args: Default::default(), ..task };
    assert!(stated(&nothing).is_private(), "whatever it takes");
}

/// A program chooses its numbers, but not over how few rows they are computed: those are counted in the files
/// that it is given.
#[test]
fn a_program_does_not_say_how_many_rows_it_read() {
    let mut phone = Phone::new();
    let program = phone.allow();
    let many: String = (0..25).map(|n| format!("line {n}\n")).collect();
    std::fs::write(phone.at("data/many.txt"), many).expect("writes");
    std::fs::write(phone.at("data/same.txt"), "a line\n".repeat(25)).expect("writes");
    let files = [(2, "me.txt", false), (1, "me.txt", true), (20, "many.txt", true), (20, "same.txt", false)];
    for (min_rows, path, leaves) in files {
        phone.min_rows = min_rows;
        let task = Task { release: vec![vec!["length".into()]], ..task(program, path) };
        let Outcome::Succeeded { released, .. } = work(&phone.device(), &task).expect("done") else {
            panic!()
        };
        assert_eq!(released["length"] != Released::Json(json!(null)), leaves, "{path} with {min_rows}");
    }
}

/// A program that names no argument counts as having read one row; one that names a number, as many.
#[test]
fn what_a_program_says_of_its_rows_bounds_its_numbers() {
    let mut phone = Phone::new();
    phone.min_rows = 20;
    let many: String = (0..25).map(|n| format!("line {n}\n")).collect();
    std::fs::write(phone.at("data/many.txt"), many).expect("writes");
    let named = r#""rows": ["at"]"#;
    let takes = r#"{"name": "at", "doc": "", "takes": ["Path"]}"#;
    let first = format!(r#"{takes}, {{"name": "first", "doc": "", "takes": ["Int"], "default": 100}}"#);
    let number = r#"{"name": "length", "low": 0, "high": 1000}"#;
    let own = r#"{"name": "length", "low": 0, "high": 1000, "rows": ["at"]}"#;
    let programs = [
        (PROGRAM.to_owned(), 100, true),
        (PROGRAM.replace(&format!("{named}, "), ""), 100, false),
        (PROGRAM.replace(&format!("{named}, "), "").replace(number, own), 100, true),
        (PROGRAM.replace(takes, &first).replace(named, r#""rows": ["at", "first"]"#), 100, true),
        (PROGRAM.replace(takes, &first).replace(named, r#""rows": ["at", "first"]"#), 3, false),
    ];
    for (text, first, leaves) in programs {
        let program = phone.allow_program(&text);
        let mut task = Task { release: vec![vec!["length".into()]], ..task(program, "many.txt") };
        if text.contains("first") {
            task.args.insert("first".into(), Expr::value(Value::Int(first)));
        }
        let Outcome::Succeeded { released, .. } = work(&phone.device(), &task).expect("done") else {
            panic!()
        };
        assert_eq!(released["length"] != Released::Json(json!(null)), leaves, "{first}: {text}");
    }
}

#[test]
fn only_declared_metrics_leave() {
    let phone = Phone::new();
    let program = phone.allow();
    let device = phone.device();
    let release = |path: &str, metrics: &[&str]| {
        let release = vec![metrics.iter().map(|m| (*m).to_owned()).collect()];
        work(&device, &Task { release, ..task(program, path) })
    };
    // A name that carries what was read is refused where it is made.
    for metrics in [&[][..], &["length"]] {
        let why = release("named.txt", metrics).expect_err("the metric is not declared").message;
        assert!(why.contains("`name_is_Ann`, which it does not declare"), "{why}");
    }
    let why = release("me.txt", &["name_is_Ann"]).expect_err("not declared").message;
    assert!(why.contains("`tools.length` does not declare a metric"), "{why}");
    let Outcome::Succeeded { released, .. } = release("me.txt", &[]).expect("done") else {
        panic!("not done")
    };
    assert_eq!(released[""], Released::Json(json!({ "length": 10 })));
}

#[test]
fn nothing_else_runs() {
    let phone = Phone::new();
    let program = phone.allow();
    let device = phone.device();
    let refused = |device: &Device, task: &Task| work(device, task).expect_err("refused").message;
    let other = task(Digest::of(b"another program"), "me.txt");
    assert!(refused(&device, &other).contains("has not allowed the program of `tools.length`"));
    let version = Task { version: 1, ..task(program, "me.txt") };
    assert!(
        refused(&device, &version).contains("version 1 of `tools.length`, but this device has version 2")
    );
    let stage = Task { kind: "tools.other".into(), ..task(program, "me.txt") };
    assert!(refused(&device, &stage).contains("no stage `other`"));
    let outside = task(program, "../stages/tools.py");
    assert!(refused(&device, &outside).contains("leads out of the data folder"));
    // Changed after the device joined: no longer what its owner allowed.
    let text = PROGRAM.replace("len(text)", "len(text) + 1");
    std::fs::write(phone.at("stages/tools.py"), text).expect("writes");
    assert!(refused(&device, &task(program, "me.txt")).contains("is not what it was"));
    drop(device);
    let fresh = phone.device();
    assert!(work(&fresh, &task(program, "me.txt")).is_err(), "a changed program is another program");
}

#[test]
fn the_engine_learns_no_word_of_a_failure() {
    let phone = Phone::new();
    let program = phone.allow();
    let failure = work(&phone.device(), &task(program, "empty.txt")).expect_err("it fails");
    assert!(failure.message.contains("secret path"), "the owner learns all: {failure}");
    let told = for_the_engine(&failure, Phase::Running);
    assert!(!told.message.contains("secret") && told.class == failure.class, "{told}");
}

#[test]
fn a_folder_with_a_broken_declaration_is_refused_whole() {
    let phone = Phone::new();
    phone.allow();
    let broken: &Path = &phone.at("stages/other.stages.json");
    for (text, why) in [
        ("{", "EOF"),
        (r#"{"program": "../me.sh", "protocol": 1, "stages": []}"#, "not a file of this folder"),
        (r#"{"program": "absent.sh", "protocol": 1, "stages": []}"#, "there is no program"),
    ] {
        std::fs::write(broken, text).expect("writes");
        let failure = Allowlist::in_folder(&phone.at("stages")).expect_err("refused");
        assert!(failure.message.contains(why), "{failure}");
    }
}
