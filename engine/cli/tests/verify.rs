//! `verify` names what is damaged, `repair` repairs it, and runs never use it.

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::{Place, Said};
use serde_json::Value as Json;

/// Two datasets of one: small enough to see, with content to damage.
const PIPELINE: &str = "\
dataset a = jsonl(\"a.jsonl\")
dataset b = jsonl(\"b.jsonl\")
dataset all = concat([a, b])
output all = all
";

fn place() -> (Place, String) {
    let place = Place::new();
    place.write("a.jsonl", "{\"prompt\": \"one\"}\n");
    place.write("b.jsonl", "{\"prompt\": \"two\"}\n");
    let file = place.write("p.pllm", PIPELINE).to_string_lossy().into_owned();
    (place, file)
}

fn run(place: &Place, file: &str) -> Said {
    let out = place.path("out").to_string_lossy().into_owned();
    place.headstart(&["run", file, "--out", &out])
}

fn verified(place: &Place) -> Json {
    serde_json::from_str(&place.headstart(&["verify", "--format", "json"]).out).expect("JSON")
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).expect("there").flatten() {
        let path = entry.path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

fn overwrite(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).expect("readable");
    change(&mut bytes);
    fs::remove_file(path).expect("removable");
    fs::write(path, bytes).expect("writable");
}

#[test]
fn an_intact_workspace_is_said_to_be_so() {
    let (place, file) = place();
    run(&place, &file).code(0);
    let said = place.headstart(&["verify"]).code(0);
    assert!(said.out.ends_with("nothing is damaged\n"), "{}", said.out);
    assert_eq!(verified(&place)["intact"], true);
}

#[test]
fn every_damaged_file_is_named_and_repaired_and_the_outputs_stay_the_same() {
    let (place, file) = place();
    run(&place, &file).code(0);
    let good: Vec<_> = files(&place.path("out")).iter().map(|f| fs::read(f).expect("readable")).collect();
    let ws = place.path("ws");
    let contents = files(&ws.join("blobs"));
    let manifests = files(&ws.join("manifests"));
    assert!(!contents.is_empty() && !manifests.is_empty());
    for path in contents.iter().chain(&manifests) {
        overwrite(path, |bytes| bytes[0] ^= 1);
    }
    let said = place.headstart(&["verify"]).code(1);
    for path in contents.iter().chain(&manifests) {
        let line = format!("damaged {}", path.display());
        assert!(said.out.contains(&line), "{line} in\n{}", said.out);
    }
    assert!(said.err.contains("headstart repair"), "{}", said.err);
    place.headstart(&["repair"]).code(0);
    assert_eq!(verified(&place)["intact"], true);
    run(&place, &file).code(0);
    let again: Vec<_> = files(&place.path("out")).iter().map(|f| fs::read(f).expect("readable")).collect();
    assert_eq!(good, again);
}

#[test]
fn a_damaged_event_log_is_cut_behind_its_last_intact_record() {
    let (place, file) = place();
    run(&place, &file).code(0);
    let log = files(&place.path("ws/runs")).into_iter().find(|f| f.ends_with("log/events")).expect("a log");
    let whole = fs::read(&log).expect("readable");
    overwrite(&log, |bytes| {
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
    });
    let damaged = verified(&place);
    let offset = damaged["damaged_runs"][0]["offset"].as_u64().expect("where") as usize;
    assert!(offset > 0 && offset < whole.len());
    let said = place.headstart(&["repair"]).code(0);
    assert!(said.out.contains("of its event log"), "{}", said.out);
    assert_eq!(fs::read(&log).expect("readable"), whole[..offset]);
    assert_eq!(fs::read(log.with_file_name("events.damaged-1")).expect("kept").len(), whole.len());
    assert_eq!(verified(&place)["intact"], true);
    let run = log.ancestors().nth(2).and_then(Path::file_name).expect("the run's folder").to_string_lossy();
    let resumed = place.headstart(&["run", &file, "--resume", &run]);
    resumed.code(0);
}

#[test]
fn a_damaged_database_is_made_again_and_a_damaged_plan_is_named() {
    let (place, file) = place();
    run(&place, &file).code(0);
    let ws = place.path("ws");
    let database = ws.canonicalize().expect("there").join("cache.duckdb");
    overwrite(&database, |bytes| bytes[..4096].fill(0x55));
    let found = verified(&place);
    let [damaged] = &found["cache"].as_array().expect("a list")[..] else { panic!("{found:#}") };
    assert_eq!(damaged["path"], database.to_string_lossy().as_ref());
    // Nothing of the cache is lost meanwhile: it is in the segments.
    run(&place, &file).code(0).err_has("0 succeeded");
    overwrite(&database, |bytes| bytes[..4096].fill(0x55));
    let plan = files(&ws.join("runs")).into_iter().find(|f| f.ends_with("plan.json")).expect("a plan");
    overwrite(&plan, |bytes| bytes.truncate(10));
    let said = place.headstart(&["repair"]).code(1);
    assert!(said.out.contains("cache.duckdb again; as it was: "), "{}", said.out);
    assert!(said.out.contains("not repaired run"), "{}", said.out);
    assert_eq!(verified(&place)["cache"], serde_json::json!([]));
    run(&place, &file).code(0).err_has("0 succeeded");
}

#[test]
fn a_damaged_segment_is_repaired_from_the_database() {
    let (place, file) = place();
    run(&place, &file).code(0);
    let cache = place.path("ws").join("cache");
    let segment = files(&cache).into_iter().find(|f| f.extension().is_some_and(|e| e == "seg"));
    overwrite(&segment.expect("a segment"), |bytes| {
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
    });
    assert_eq!(verified(&place)["cache"].as_array().expect("a list").len(), 1);
    let said = place.headstart(&["repair"]).code(0);
    assert!(said.out.contains(".seg again; as it was: "), "{}", said.out);
    assert_eq!(verified(&place)["intact"], true);
    run(&place, &file).code(0).err_has("0 succeeded");
}
