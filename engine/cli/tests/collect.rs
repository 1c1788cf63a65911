//! `cache gc`, `cache pin` and `runs rm`: what they say, and what is left.

mod common;

use common::{Place, Said};
use serde_json::Value as Json;

const PIPELINE: &str = "\
param file: Path = \"a.jsonl\"
dataset a = jsonl(file)
dataset all = concat([a, a])
output all = all
";

/// Three runs over different data, the oldest first.
fn place() -> (Place, String, Vec<String>) {
    let place = Place::new();
    let file = place.write("p.pllm", PIPELINE).to_string_lossy().into_owned();
    for name in ["a", "b", "c"] {
        place.write(&format!("{name}.jsonl"), &format!("{{\"prompt\": \"{name}\"}}\n"));
        run(&place, &file, name).code(0);
    }
    let runs: Json = json(&place, &["runs", "--format", "json"]);
    let ids = runs.as_array().expect("a list").iter().map(|r| r["run"].as_str().expect("an id").to_owned());
    let ids = ids.collect();
    (place, file, ids)
}

fn run(place: &Place, file: &str, name: &str) -> Said {
    let data = format!("file={}", place.path(&format!("{name}.jsonl")).display());
    let out = place.path("out").to_string_lossy().into_owned();
    place.headstart(&["run", file, "--set", &data, "--out", &out])
}

fn json(place: &Place, args: &[&str]) -> Json {
    serde_json::from_str(&place.headstart(args).code(0).out).expect("JSON")
}

/// What it said, with the run ids named.
fn told(said: &str, ids: &[String], place: &Place) -> String {
    let mut text = said.replace(&*place.dir.path().to_string_lossy(), "DIR");
    for (i, id) in ids.iter().enumerate() {
        text = text.replace(id, &format!("RUN{}", i + 1));
    }
    text
}

#[test]
fn results_of_older_runs_go_and_are_made_again() {
    let (place, file, ids) = place();
    let gc = ["cache", "gc", "--keep-runs", "1"];
    let would = place.headstart(&[&gc[..], &["--dry-run"]].concat()).code(0);
    assert_eq!(
        told(&would.out, &ids, &place),
        "run RUN1 would lose results  DIR/p.pllm\n\
         run RUN2 would lose results  DIR/p.pllm\n\
         would remove 4 artifacts and 4 files, 798 B; 399 B left\n"
    );
    assert_eq!(json(&place, &["verify", "--format", "json"])["collected"], 0, "nothing is removed yet");
    let did = place.headstart(&gc).code(0);
    assert_eq!(
        told(&did.out, &ids, &place),
        "run RUN1 lost results  DIR/p.pllm\n\
         run RUN2 lost results  DIR/p.pllm\n\
         removed 4 artifacts and 4 files, 798 B; 399 B left\n"
    );
    let verified = place.headstart(&["verify"]).code(0);
    verified
        .out_has("4 results that runs name were removed by `headstart cache gc`\n")
        .out_has("what is missing is made again by the next run that needs it\nnothing is damaged\n");
    // Both are still listed and shown, with what is left of them.
    place.headstart(&["runs", &ids[0]]).code(0);
    let runs = json(&place, &["runs", "--format", "json"]);
    assert_eq!(runs[0]["result_bytes"], 0);
    assert!(
        runs[2]["result_bytes"].as_u64().is_some_and(|n| n > 0) && runs[0]["log_bytes"].as_u64() > Some(0)
    );
    // The latest is whole; the first is made again.
    run(&place, &file, "c").code(0).err_has("0 succeeded");
    run(&place, &file, "a").code(0).err_has("2 succeeded");
    assert_eq!(json(&place, &["verify", "--format", "json"])["collected"], 2);
}

#[test]
fn what_is_pinned_stays_also_when_its_run_is_removed() {
    let (place, _, ids) = place();
    place.headstart(&["cache", "pin", &ids[0], "al"]).code(2).err_has("has no output `al`").err_has("`all`");
    let said = place.headstart(&["cache", "pin", &ids[0]]).code(0);
    assert_eq!(told(&said.err, &ids, &place), "pinned `all` of run RUN1\n");
    let said = place.headstart(&["runs", "rm", &ids[0], &ids[1]]).code(0);
    assert_eq!(
        told(&said.err, &ids, &place),
        "removed run RUN1\nremoved run RUN2\n\
         note: `headstart cache gc` removes results that no run names any more\n"
    );
    assert_eq!(json(&place, &["runs", "--format", "json"]).as_array().map(Vec::len), Some(1));
    place.headstart(&["runs", &ids[0]]).code(2).err_has("no run begins with");
    place.headstart(&["cache"]).code(0).out_has("       1 pin\n").err_has("no run names");
    let said = place.headstart(&["cache", "gc"]).code(0);
    assert_eq!(told(&said.out, &ids, &place), "removed 3 artifacts and 3 files, 584 B; 613 B left\n");
    let pins = json(&place, &["cache", "pin", "--format", "json"]);
    assert_eq!(pins[0]["output"], "all");
    assert!(pins[0]["bytes"].as_u64().is_some_and(|n| n > 0));
    let said = place.headstart(&["cache", "pin"]).code(0);
    assert!(said.out.starts_with(&ids[0]), "{}", said.out);
    place.headstart(&["cache", "unpin", &ids[1]]).code(2).err_has("is pinned");
    let said = place.headstart(&["cache", "unpin", &ids[0]]).code(0);
    assert_eq!(told(&said.err, &ids, &place), "unpinned `all` of run RUN1\n");
    place.headstart(&["cache", "gc"]).code(0).out_has("removed 1 artifact and 1 file");
    assert_eq!(json(&place, &["verify", "--format", "json"])["collected"], 0, "no run names it");
}

#[test]
fn a_size_is_reached_from_the_oldest_run_on_or_it_is_said_that_it_cannot_be() {
    let (place, _, ids) = place();
    let gc = place.headstart(&["cache", "gc", "--max-size", "0.9kB", "--format", "json"]).code(0);
    let gc: Json = serde_json::from_str(&gc.out).expect("JSON");
    assert_eq!(gc["runs"], serde_json::json!([ids[0]]));
    let said = place.headstart(&["-v", "cache", "gc", "--max-size", "1B"]).code(0);
    said.err_has("more than 1 B: the rest is kept; `-v` says why")
        .err_has(&format!("run {} keeps its results: it is the latest of its pipeline", ids[2]));
    place.headstart(&["cache", "gc", "--max-size", "10"]).code(2).err_has("such as 500MB, 20GB or 10GiB");
    place.headstart(&["cache", "gc", "--keep-runs", "0"]).code(2);
}

#[test]
fn nothing_goes_while_a_run_cannot_be_read() {
    let (place, _, ids) = place();
    std::fs::write(place.path("ws/runs").join(&ids[0]).join("plan.json"), "{").expect("writable");
    let said = place.headstart(&["cache", "gc", "--keep-runs", "1"]).code(2);
    said.err_has("nothing was removed").err_has("`headstart runs rm` removes it");
    place.headstart(&["runs", "rm", &ids[0]]).code(0);
    place.headstart(&["cache", "gc", "--keep-runs", "1"]).code(0);
}
