//! A custom stage in a pipeline: described, checked, planned, run, cached, explained.

mod common;

use std::path::PathBuf;

use common::{Place, root};

/// The example in a folder that may be changed, and its pipeline file.
fn example(place: &Place) -> (PathBuf, String) {
    let own = place.path("custom-stage");
    std::fs::create_dir_all(own.join("stages")).expect("a folder");
    let from = root().join("examples/03-custom-stage");
    for file in [
        "readability.pllm",
        "plain.jsonl",
        "dense.jsonl",
        "stages/plain.py",
        "stages/headstart.py",
        "stages/plain.stages.json",
    ] {
        std::fs::copy(from.join(file), own.join(file)).expect("copied");
    }
    let pipeline = own.join("readability.pllm").to_str().expect("a plain path").to_owned();
    (own.join("stages"), pipeline)
}

#[test]
fn the_example_runs_is_cached_and_runs_again_when_its_program_changes() {
    let place = Place::new();
    let (stages, pipeline) = example(&place);
    let run = ["run", &pipeline, "--format", "json"];
    let first = place.headstart(&run).code(0).err_has("4 succeeded");
    let json: serde_json::Value = serde_json::from_str(&first.out).expect("JSON on stdout");
    let of = |key: &str, name: &str| json["outputs"]["ease"][key]["value"][name].as_f64().expect("a number");
    assert_eq!((of("plain", "answers"), of("plain", "emoji"), of("dense", "emoji")), (3.0, 1.0 / 3.0, 0.0));
    assert!(of("plain", "ease") > 80.0 && of("dense", "ease") < 0.0, "{json}");
    assert_eq!((of("plain", "hard"), of("dense", "hard")), (0.0, 1.0));

    place.headstart(&run).code(0).err_has("0 succeeded, 4 cached");

    // What the program prints is kept beside the run, not shown.
    let program = stages.join("plain.py");
    let text = std::fs::read_to_string(&program).expect("the program");
    let louder =
        text.replace("    eases, emoji = [], 0\n", "    eases, emoji = [], 0\n    print('looking')\n");
    assert_ne!(text, louder);
    std::fs::write(&program, louder).expect("writable");
    place.headstart(&run).code(0).err_has("2 succeeded, 2 cached");
    place.headstart(&["why", "ease[\"plain\"]"]).code(0).out_has("program");
    let logs = std::fs::read_dir(place.path("ws/runs")).expect("runs").flatten();
    let logs = logs.filter_map(|run| std::fs::read_dir(run.path().join("logs")).ok()).flatten().flatten();
    let said = logs.filter(|log| {
        std::fs::read_to_string(log.path()).is_ok_and(|text| text.lines().any(|l| l == "looking"))
    });
    assert_eq!(said.count(), 2, "a log for each attempt");

    // Any other file of its folder counts as well, imported or not.
    std::fs::write(stages.join("words.txt"), "the").expect("writable");
    place.headstart(&run).code(0).err_has("2 succeeded, 2 cached");
    place.headstart(&run).code(0).err_has("0 succeeded, 4 cached");
}

/// Counts rows, times a factor of a module that is imported late, times one of a file outside.
const LATE: &str = r#"#!/usr/bin/env python3
import pathlib
import headstart
from headstart import Dataset, Metrics

OUTSIDE = pathlib.Path(__file__).parent.parent / "outside.txt"

@headstart.stage(version=1, files=[OUTSIDE])
def count(rows: Dataset) -> Metrics:
    import heavy
    return Metrics(n=len(list(rows.rows())) * heavy.FACTOR * int(OUTSIDE.read_text()))

if __name__ == "__main__":
    headstart.main()
"#;

/// Fails twice in the way that is asked for, then works.
const FLAKY: &str = r#"#!/usr/bin/env python3
import errno, os, pathlib, signal
import headstart
from headstart import Metrics

def fail(how):
    if how == "input":
        raise headstart.InputError("the rows are wrong")
    if how == "raise":
        raise ConnectionResetError("connection reset by peer")
    if how == "disk":
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    if how == "exit":
        os._exit(1)
    os.kill(os.getpid(), signal.SIGSEGV)

@headstart.stage(version=1)
def flaky(how: str) -> Metrics:
    tries = pathlib.Path("TRIES") / how
    n = len(tries.read_text()) + 1 if tries.exists() else 1
    tries.write_text("x" * n)
    if n < 3:
        fail(how)
    return Metrics(n=n)

if __name__ == "__main__":
    headstart.main()
"#;

/// A program with the SDK, described, in a temporary folder.
fn described(place: &Place, name: &str, text: &str) {
    use std::os::unix::fs::PermissionsExt;
    let program = place.write(&format!("{name}/stages/{name}.py"), text);
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).expect("mode");
    let sdk = std::fs::read_to_string(root().join("plugins/python/headstart.py")).expect("the SDK");
    place.write(&format!("{name}/stages/headstart.py"), &sdk);
    place.headstart(&["describe", program.to_str().expect("a plain path")]).code(0);
}

#[test]
fn late_imports_and_declared_files_count() {
    let place = Place::new();
    place.write("late/stages/heavy.py", "FACTOR = 1\n");
    place.write("late/outside.txt", "1");
    place.write("late/rows.jsonl", "{\"prompt\":\"a\"}\n{\"prompt\":\"b\"}\n{\"prompt\":\"c\"}\n");
    described(&place, "late", LATE);
    let pipeline = place.write(
        "late/p.pllm",
        "program late = \"stages/late.py\"\ndataset rows = jsonl(\"rows.jsonl\")\n\
         stage n: Metrics = late.count(rows)\noutput n = n.n\n",
    );
    let n = || {
        let said =
            place.headstart(&["run", pipeline.to_str().expect("a plain path"), "--format", "json"]).code(0);
        let json: serde_json::Value = serde_json::from_str(&said.out).expect("JSON on stdout");
        json["outputs"]["n"].as_u64().expect("a number")
    };
    assert_eq!(n(), 3);
    place.write("late/stages/heavy.py", "FACTOR = 100\n");
    assert_eq!(n(), 300);
    place.write("late/outside.txt", "7");
    assert_eq!(n(), 2100);
}

#[test]
fn retry_tries_again_unless_the_input_is_wrong() {
    let place = Place::new();
    let tries = place.path("tries");
    std::fs::create_dir(&tries).expect("writable");
    described(&place, "flaky", &FLAKY.replace("TRIES", tries.to_str().expect("a plain path")));
    for (how, code, times) in
        [("raise", 0, 3), ("disk", 0, 3), ("exit", 0, 3), ("signal", 0, 3), ("input", 2, 1)]
    {
        let pipeline = place.write(
            &format!("flaky/{how}.pllm"),
            &format!(
                "program flaky = \"stages/flaky.py\"\n\
                 stage n: Metrics = flaky.flaky(how: \"{how}\") {{ retry: 3, backoff: 10ms }}\noutput n = n.n\n"
            ),
        );
        // Confined, the program could not write there.
        let mut run =
            place.command(&["run", "--unconfined-stages", pipeline.to_str().expect("a plain path")]);
        common::said(run.output().expect("starts")).code(code);
        assert_eq!(std::fs::read_to_string(tries.join(how)).expect("it ran").len(), times, "{how}");
    }
}

#[test]
fn checking_and_planning_run_no_program() {
    let place = Place::new();
    let (stages, pipeline) = example(&place);
    let trap = place.path("ran");
    let program = stages.join("plain.py");
    let text = std::fs::read_to_string(&program).expect("the program");
    let trapped = format!("import pathlib\npathlib.Path({trap:?}).touch()\n");
    std::fs::write(&program, text.replacen("import re\n", &format!("import re\n{trapped}"), 1))
        .expect("writable");
    place.headstart(&["check", &pipeline]).code(0);
    place.headstart(&["plan", &pipeline]).code(0).out_has("text.readability");
    place.headstart(&["graph", &pipeline]).code(0);
    assert!(!trap.exists(), "nothing of a program runs before it is meant to");
    place.headstart(&["run", "--unconfined-stages", &pipeline]).code(0);
    assert!(trap.exists(), "the trap works");
}

#[test]
fn a_declaration_that_the_program_contradicts_fails_the_run() {
    let place = Place::new();
    let (stages, pipeline) = example(&place);
    let program = stages.join("plain.py");
    let text = std::fs::read_to_string(&program).expect("the program");
    std::fs::write(&program, text.replace("hard: float = 50.0", "hard: float = 55.0")).expect("writable");
    place
        .headstart(&["run", &pipeline])
        .code(2)
        .err_has("describes `readability` differently from its declaration")
        .err_has("`args.hard.default` is declared as 50.0, and the program says 55.0")
        .err_has("headstart describe");
    let path = program.to_str().expect("a plain path");
    place.headstart(&["describe", "--check", path]).code(1).err_has("out of date");
    place.headstart(&["describe", path]).code(0).err_has("wrote");
    place.headstart(&["describe", "--check", path]).code(0).err_has("up to date");
    place.headstart(&["run", &pipeline]).code(0);
}

#[test]
fn a_failing_program_is_named_with_its_line() {
    let place = Place::new();
    let (_, pipeline) = example(&place);
    let text = std::fs::read_to_string(&pipeline).expect("the pipeline");
    let empty = place.write("custom-stage/empty.jsonl", "{\"prompt\":\"a\",\"response\":\"…\"}\n");
    let text = text.replace("plain.jsonl", empty.to_str().expect("a plain path"));
    std::fs::write(&pipeline, text).expect("writable");
    place.headstart(&["run", &pipeline]).code(2).err_has("no answer has a word in it");
}

#[test]
fn the_example_is_in_order() {
    let place = Place::new();
    let example = "examples/03-custom-stage";
    place.headstart(&["fmt", "--check", &format!("{example}/readability.pllm")]).code(0);
    place.headstart(&["describe", "--check", &format!("{example}/stages/plain.py")]).code(0);
    let sdk = place.headstart(&["describe", "--sdk"]).code(0).out;
    for copy in ["plugins/python/headstart.py", "examples/03-custom-stage/stages/headstart.py"] {
        assert_eq!(std::fs::read_to_string(root().join(copy)).expect(copy), sdk, "{copy}");
    }
    place.headstart(&["describe", "README.md"]).code(2).err_has("may not be executed");
}
