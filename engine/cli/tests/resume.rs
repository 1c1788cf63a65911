//! A server that is killed in the middle of a fine-tuning: the run resumes from the training's last
//! checkpoint, and ends with the same bytes as one that was never cut off.

mod common;

use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use common::Place;

const PIPELINE: &str = r#"
model base = local("MODEL")
dataset rows = jsonl("ROWS", take: 24)
stage tuned: Pllm = finetune(base, data: rows, rank: 4, batch: 4, max_steps: STEPS, eval_every: 8, dropout: 0.1)
output tuned = tuned
"#;

fn pipeline(place: &Place) -> String {
    let at = |path: &str| common::root().join(path).display().to_string();
    let text = PIPELINE
        .replace("MODEL", &at("examples/models/tiny"))
        .replace("ROWS", &at("examples/first-light/phone/me.jsonl"))
        .replace("STEPS", "20");
    place.write("p.pllm", &text).display().to_string()
}

fn adapter(place: &Place) -> Vec<u8> {
    let mut folders = vec![place.path("out")];
    let mut found: Vec<PathBuf> = Vec::new();
    while let Some(dir) = folders.pop() {
        for entry in std::fs::read_dir(dir).expect("an output").flatten() {
            if entry.path().is_dir() {
                folders.push(entry.path());
            } else if entry.file_name() == "adapter_model.safetensors" {
                found.push(entry.path());
            }
        }
    }
    assert_eq!(found.len(), 1, "one adapter was written");
    std::fs::read(&found[0]).expect("readable")
}

#[test]
fn a_killed_run_goes_on_in_the_middle_of_a_training() {
    let whole = Place::new();
    let out = whole.path("out").display().to_string();
    whole.headstart(&["run", &pipeline(&whole), "--quiet", "--out", &out]).code(0);

    let place = Place::new();
    let file = pipeline(&place);
    let mut engine = place
        .command(&["run", &file, "--quiet"])
        .env("HEADSTART_CHECKPOINT_SECONDS", "0")
        .stderr(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .expect("headstart starts");
    let begun = Instant::now();
    let kept = || {
        let folders = std::fs::read_dir(place.path("ws/resume")).into_iter().flatten().flatten();
        folders.filter(|f| f.path().join("checkpoint.safetensors").exists()).count()
    };
    while kept() == 0 {
        assert!(begun.elapsed() < Duration::from_secs(120) && engine.try_wait().expect("asked").is_none());
        std::thread::sleep(Duration::from_millis(2));
    }
    engine.kill().expect("kill -9");
    engine.wait().expect("it ended");

    let runs = place.headstart(&["runs"]).code(0);
    assert!(runs.out.contains("interrupted"), "{}", runs.out);
    let id = runs.out.split_whitespace().next().expect("a run").to_owned();
    let out = place.path("out").display().to_string();
    place.headstart(&["run", &file, "--quiet", "--resume", &id, "--out", &out]).code(0);
    let run = place.headstart(&["runs", &id, "--format", "json"]).code(0).out;
    assert!(run.contains("resumed_steps"), "the training started over: {run}");
    assert!(adapter(&place) == adapter(&whole), "the same bytes");
    assert_eq!(kept(), 0, "progress of a finished stage is deleted");
}
