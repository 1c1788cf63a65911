//! A server that is killed in the middle of a fine-tuning: the run resumes from the training's last
//! checkpoint, and ends with the same bytes as one that was never cut off.

mod common;

use std::path::PathBuf;
use std::process::{Child, Stdio};
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

/// A run that is in the middle of a training.
fn start(place: &Place, file: &str) -> Child {
    let mut engine = place
        .command(&["run", file, "--quiet"])
        .env("HEADSTART_CHECKPOINT_SECONDS", "0")
        .stderr(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .expect("headstart starts");
    let begun = Instant::now();
    while kept(place) == 0 {
        assert!(begun.elapsed() < Duration::from_secs(120) && engine.try_wait().expect("asked").is_none());
        std::thread::sleep(Duration::from_millis(2));
    }
    engine
}

/// Trainings that have saved progress.
fn kept(place: &Place) -> usize {
    let folders = std::fs::read_dir(place.path("ws/resume")).into_iter().flatten().flatten();
    folders.filter(|f| f.path().join("checkpoint.safetensors").exists()).count()
}

fn runs(place: &Place) -> Vec<(String, String)> {
    let listed = place.headstart(&["runs", "--format", "json"]).code(0).out;
    let rows: Vec<serde_json::Value> = serde_json::from_str(&listed).expect("JSON");
    let text = |row: &serde_json::Value, name: &str| row[name].as_str().expect("a text").to_owned();
    rows.iter().map(|row| (text(row, "run"), text(row, "outcome"))).collect()
}

#[test]
fn the_same_command_resumes_a_killed_run_in_the_middle_of_a_training() {
    let whole = Place::new();
    let out = whole.path("out").display().to_string();
    whole.headstart(&["run", &pipeline(&whole), "--quiet", "--out", &out]).code(0);

    let place = Place::new();
    let file = pipeline(&place);
    let mut engine = start(&place, &file);
    engine.kill().expect("kill -9");
    engine.wait().expect("it ended");
    let all = runs(&place);
    assert_eq!((all.len(), &*all[0].1), (1, "interrupted"));
    let id = &all[0].0;

    let out = place.path("out").display().to_string();
    let said = place.headstart(&["run", &file, "--out", &out]).code(0);
    said.err_has(&format!("resuming run {id}: 2 of 3 stage instances finished"));
    assert_eq!(runs(&place), [(id.clone(), "succeeded".to_owned())]);
    let run = place.headstart(&["runs", id, "--format", "json"]).code(0).out;
    assert!(run.contains("resumed_steps"), "the training started over: {run}");
    assert!(adapter(&place) == adapter(&whole), "the same bytes");
    assert_eq!(kept(&place), 0, "progress of a finished stage is deleted");
    let again = place.headstart(&["run", &file]).code(0);
    assert!(!again.err.contains("resuming"), "{}", again.err);
    assert_eq!(runs(&place).len(), 2, "one that has succeeded is not resumed");
}

#[test]
fn a_run_that_was_cancelled_is_resumed_unless_a_fresh_one_is_asked_for() {
    use rustix::process::{Pid, Signal, kill_process};
    let place = Place::new();
    let file = pipeline(&place);
    let mut engine = start(&place, &file);
    kill_process(Pid::from_raw(engine.id().cast_signed()).expect("a process"), Signal::INT)
        .expect("it is there");
    assert!(!engine.wait().expect("it ended").success());
    let all = runs(&place);
    assert_eq!((all.len(), &*all[0].1), (1, "cancelled"));
    let fresh = place.headstart(&["run", &file, "--fresh", "--only", "base"]).code(0);
    assert!(!fresh.err.contains("resuming"), "{}", fresh.err);
    place.headstart(&["run", &file]).code(0).err_has(&format!("resuming run {}", all[0].0));
    let resumed = place.headstart(&["runs", &all[0].0]).code(0);
    resumed.out_has("succeeded");
    place.headstart(&["run", &file, "--resume", &all[0].0]).code(2).err_has("has ended");
}
