//! Several runs at once on one workspace: all have the whole cache, and each stage is computed once.
#![cfg(target_os = "linux")]

mod common;

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use common::Place;
use serde_json::Value as Json;

/// Says in a file that it began, and ends when another file is there.
const PROGRAM: &str = r#"#!/usr/bin/env python3
import json, os, sys, time
STAGE = {"name": "slow", "version": 1, "doc": "", "args": [], "makes": "Metrics",
         "places": ["server", "device"], "cached": True}
sys.stdin.readline()
print(json.dumps({"headstart": "hello", "protocol": 1, "stages": [STAGE]}), flush=True)
sys.stdin.readline()
with open("BEGUN", "a") as begun:
    begun.write("begun\n")
while not os.path.exists("GO"):
    time.sleep(0.02)
print(json.dumps({"headstart": "done", "files": [], "value": {"loss": 1.5}, "uses": {}}), flush=True)
"#;

const DECLARATION: &str = r#"{ "program": "raw.py", "protocol": 1, "stages": [
  { "name": "slow", "version": 1, "makes": "Metrics" } ] }"#;

const PIPELINE: &str = "program raw = \"stages/raw.py\"\nstage n: Metrics = raw.slow()\noutput n = n\n";

struct Slow {
    place: Place,
    pipeline: PathBuf,
}

impl Slow {
    fn new() -> Self {
        use std::os::unix::fs::PermissionsExt;
        let place = Place::new();
        let path = |name: &str| place.path(name).to_str().expect("a plain path").to_owned();
        let program = PROGRAM.replace("BEGUN", &path("begun")).replace("GO", &path("go"));
        let program = place.write("stages/raw.py", &program);
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).expect("mode");
        place.write("stages/raw.stages.json", DECLARATION);
        let pipeline = place.write("p.pllm", PIPELINE);
        Self { place, pipeline }
    }

    fn start(&self) -> Child {
        let pipeline = self.pipeline.to_str().expect("a plain path");
        let mut command = self.place.command(&["run", pipeline, "--unconfined-stages"]);
        command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("headstart starts")
    }

    /// How often the stage began.
    fn begun(&self) -> usize {
        std::fs::read_to_string(self.place.path("begun")).map_or(0, |text| text.lines().count())
    }

    fn begins(&self, times: usize) {
        let by = Instant::now() + Duration::from_secs(120);
        while self.begun() < times {
            assert!(Instant::now() < by, "it begins");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn go(&self) {
        self.place.write("go", "");
    }
}

/// Reads what a run says until a line has `text`; the rest.
fn says(run: &mut Child, text: &str) -> impl Iterator<Item = String> + use<> {
    let mut lines = BufReader::new(run.stderr.take().expect("piped")).lines().map_while(Result::ok);
    let mut said = Vec::new();
    while let Some(line) = lines.next() {
        if line.contains(text) {
            return lines;
        }
        said.push(line);
    }
    panic!("no {text:?} in {said:#?}");
}

fn instances(place: &Place) -> Vec<Json> {
    let list: Json = serde_json::from_str(&place.headstart(&["runs", "--format", "json"]).out).expect("JSON");
    let ids = list.as_array().expect("a list").iter().map(|run| run["run"].as_str().expect("an id"));
    let shown = ids.map(|id| place.headstart(&["runs", id, "--format", "json"]).code(0).out);
    let parsed = shown.map(|out| serde_json::from_str::<Json>(&out).expect("JSON")["instances"].clone());
    parsed.flat_map(|all| all.as_array().expect("a list").clone()).collect()
}

fn states(place: &Place) -> Vec<String> {
    let mut all: Vec<String> =
        instances(place).iter().map(|i| i["state"].as_str().expect("a state").to_owned()).collect();
    all.sort();
    all
}

#[test]
fn a_stage_that_several_runs_need_is_computed_once_and_the_others_say_what_they_wait_for() {
    let slow = Slow::new();
    let mut first = slow.start();
    slow.begins(1);
    let mut others = [slow.start(), slow.start()];
    let rest: Vec<_> = others
        .iter_mut()
        .map(|run| says(run, &format!("(process {}), which computes the same result", first.id())))
        .collect();
    // Commands that read work meanwhile.
    let pipeline = slow.pipeline.to_str().expect("a plain path");
    slow.place.headstart(&["plan", pipeline]).code(0).out_has("will run");
    slow.place.headstart(&["runs"]).code(0).out_has("p.pllm");
    slow.go();
    assert!(first.wait().expect("ends").success());
    for (run, rest) in others.iter_mut().zip(rest) {
        rest.for_each(drop);
        assert!(run.wait().expect("ends").success());
    }
    assert_eq!(slow.begun(), 1);
    assert_eq!(states(&slow.place), ["cached", "cached", "succeeded"]);
    let outputs: Vec<Json> = instances(&slow.place).iter().map(|i| i["output"].clone()).collect();
    assert!(outputs.windows(2).all(|pair| pair[0] == pair[1] && pair[0].is_object()), "{outputs:?}");
    slow.place.headstart(&["verify"]).code(0);
}

#[test]
fn a_run_that_is_killed_frees_its_stage_for_the_one_that_waits() {
    let slow = Slow::new();
    let mut first = slow.start();
    slow.begins(1);
    let mut second = slow.start();
    let rest = says(&mut second, "which computes the same result");
    first.kill().expect("killed");
    first.wait().expect("ended");
    slow.begins(2);
    slow.go();
    rest.for_each(drop);
    assert!(second.wait().expect("ends").success());
    assert_eq!(slow.begun(), 2);
    // Whoever comes next computes nothing.
    let pipeline = slow.pipeline.to_str().expect("a plain path");
    slow.place.headstart(&["run", pipeline, "--unconfined-stages"]).code(0).err_has("0 succeeded, 1 cached");
    assert_eq!(slow.begun(), 2);
}

/// Many stages, by built-in kinds, in two pipelines that share half of them.
#[test]
fn runs_that_share_stages_compute_each_of_them_once() {
    let place = Place::new();
    let names: Vec<String> = (0..12).map(|i| format!("d{i}")).collect();
    for (i, name) in names.iter().enumerate() {
        place.write(&format!("{name}.jsonl"), &format!("{{\"prompt\": \"question {i}\"}}\n"));
    }
    let pipeline = |from: usize, to: usize| {
        let mut text = String::new();
        for name in &names[from..to] {
            text.push_str(&format!("dataset {name} = jsonl(\"{name}.jsonl\")\n"));
            text.push_str(&format!("dataset twice_{name} = concat([{name}, {name}])\n"));
        }
        let all: Vec<String> = names[from..to].iter().map(|n| format!("twice_{n}")).collect();
        text.push_str(&format!("dataset all = concat([{}])\noutput all = all\n", all.join(", ")));
        text
    };
    let files = [pipeline(0, 8), pipeline(4, 12)];
    let paths: Vec<String> = files
        .iter()
        .enumerate()
        .map(|(i, text)| place.write(&format!("p{i}.pllm"), text).to_string_lossy().into_owned())
        .collect();
    let mut runs: Vec<Child> = (0..4)
        .map(|i| {
            let mut command = place.command(&["run", "-q", &paths[i % 2]]);
            command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("headstart starts")
        })
        .collect();
    for run in &mut runs {
        assert!(run.wait().expect("ends").success());
    }
    let keyed: Vec<Json> = instances(&place).into_iter().filter(|i| i["key"].is_string()).collect();
    let mut computed: Vec<String> = keyed
        .iter()
        .filter(|i| i["state"] == "succeeded")
        .map(|i| i["key"].as_str().expect("a key").to_owned())
        .collect();
    let all: std::collections::BTreeSet<String> = computed.iter().cloned().collect();
    computed.sort();
    assert_eq!(computed, all.iter().cloned().collect::<Vec<_>>(), "each stage is computed once");
    assert_eq!(all.len(), 12 + 2);
    assert!(keyed.iter().all(|i| i["state"] == "succeeded" || i["state"] == "cached"));
}
