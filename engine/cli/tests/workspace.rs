//! Which workspace a command uses, what it does without one, and that one damaged thing hides no other.

mod common;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use common::{Place, Said, said};
use serde_json::Value as Json;

const PIPELINE: &str = r#"
param share: Float = 0.5
dataset rows = jsonl("rows.jsonl")
dataset mixed = blend(rows, plain: rows, share: share, rows: 2, seed: 48) for t in ["a", "b"]
dataset more = concat(mixed)
output all = more
"#;

/// The command in a folder of the place, without `--workspace`.
fn run(place: &Place, folder: &str, args: &[&str]) -> Said {
    let mut command = Command::new(env!("CARGO_BIN_EXE_headstart"));
    command.current_dir(place.path(folder)).args(args).env("NO_COLOR", "1").env_remove("HEADSTART_WORKSPACE");
    said(command.output().expect("headstart starts"))
}

fn json(said: &Said) -> Json {
    serde_json::from_str(&said.out).unwrap_or_else(|e| panic!("no JSON: {e}:\n{}", said.out))
}

fn place() -> Place {
    let place = Place::new();
    place.write("p/p.pllm", PIPELINE);
    let rows: String = (0..6).map(|i| format!("{{\"prompt\":\"q{i}\",\"response\":\"a{i}\"}}\n")).collect();
    place.write("p/rows.jsonl", &rows);
    std::fs::create_dir_all(place.path("p/deep/er")).expect("writable");
    std::fs::create_dir_all(place.path("else")).expect("writable");
    place
}

/// Paths with what is in the file, and when it was changed.
type Contents = BTreeMap<PathBuf, (Vec<u8>, SystemTime)>;

/// Everything in a folder: names with what is in the files, links and times of change.
fn everything(dir: &Path) -> Contents {
    let mut found = BTreeMap::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        let changed = |path: &Path| path.metadata().and_then(|m| m.modified()).expect("it is there");
        found.insert(folder.clone(), (Vec::new(), changed(&folder)));
        for entry in std::fs::read_dir(&folder).expect("a folder").flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else {
                found.insert(path.clone(), (std::fs::read(&path).expect("a file"), changed(&path)));
            }
        }
    }
    found
}

/// What differs between two looks at a folder.
fn changed(before: &Contents, after: &Contents) -> Vec<PathBuf> {
    let all = before.keys().chain(after.keys());
    all.filter(|path| before.get(*path) != after.get(*path)).cloned().collect()
}

#[test]
fn a_plan_changes_nothing_in_its_folder_and_makes_no_workspace() {
    let place = place();
    let plan = |args: &[&str]| run(&place, "p", &[&["plan", "p.pllm"], args].concat());
    let writable = |on: bool| {
        for folder in ["p", "p/deep", "p/deep/er"] {
            let mut permissions = place.path(folder).metadata().expect("there").permissions();
            std::os::unix::fs::PermissionsExt::set_mode(&mut permissions, if on { 0o755 } else { 0o555 });
            std::fs::set_permissions(place.path(folder), permissions).expect("its owner's");
        }
    };
    // Permissions do not bind the superuser; that nothing has changed shows it for everybody.
    writable(false);
    let before = everything(&place.path("p"));
    plan(&[]).code(0).out_has("will run");
    plan(&["--format", "json"]).code(0);
    plan(&["--workspace", "nowhere"]).code(0).out_has("will run");
    assert_eq!(
        changed(&before, &everything(&place.path("p"))),
        Vec::<PathBuf>::new(),
        "a plan writes nothing"
    );
    writable(true);

    // With a workspace, only the mark may go that a process before left of contents that it had not synced.
    run(&place, "p", &["run", "p.pllm"]).code(0);
    let kept = || {
        let mut all = everything(&place.path("p"));
        all.retain(|path, _| {
            let mark = path.iter().any(|part| part == "unsynced");
            !mark && !path.ends_with(".headstart")
        });
        all
    };
    let before = kept();
    plan(&[]).code(0).out_has("cached");
    assert_eq!(changed(&before, &kept()), Vec::<PathBuf>::new(), "a plan writes nothing");
}

#[test]
fn the_workspace_is_beside_the_pipeline_or_above_it() {
    let place = place();
    run(&place, "p", &["run", "p.pllm"]).code(0).err_has("created the workspace").err_has("p/.headstart");
    // From another folder the same is used, and commands without a file search upwards.
    let again = run(&place, "p/deep/er", &["run", "../../p.pllm", "--only", "nothing"]).code(2);
    assert!(!again.err.contains("created"), "{}", again.err);
    run(&place, "p/deep/er", &["runs"]).code(0).out_has("p.pllm");
    assert!(!place.path("p/deep/er/.headstart").exists());
    // Elsewhere there is none, which is said, and none is made.
    run(&place, "else", &["runs"]).code(2).err_has("no `.headstart` in").err_has("--workspace");
    assert!(!place.path("else/.headstart").exists());
    run(&place, "else", &["runs", "--workspace", "../p/.headstart"]).code(0).out_has("p.pllm");
    run(&place, "else", &["runs", "--workspace", "nowhere"])
        .code(2)
        .err_has("there is no workspace at nowhere");
    assert!(!place.path("else/nowhere").exists());
    let mut by_variable = Command::new(env!("CARGO_BIN_EXE_headstart"));
    by_variable
        .current_dir(place.path("else"))
        .arg("runs")
        .env("HEADSTART_WORKSPACE", place.path("p/.headstart"));
    said(by_variable.output().expect("starts")).code(0).out_has("p.pllm");
}

#[test]
fn planning_writes_nothing() {
    let place = place();
    let plan =
        run(&place, "p", &["plan", "p.pllm"]).code(0).out_has("will run").out_has("may run: inputs change");
    assert!(!plan.out.contains("after"), "{}", plan.out);
    assert!(!place.path("p/.headstart").exists());
    run(&place, "p", &["run", "p.pllm", "-q"]).code(0);
    let before = common::traces::files(&place.path("p/.headstart"));
    let planned = json(&run(&place, "p", &["plan", "p.pllm", "--format", "json"]).code(0));
    let decisions: Vec<&str> = planned["instances"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|i| i["decision"].as_str())
        .collect();
    assert_eq!(decisions, ["input", "cached", "cached", "cached"]);
    let after = common::traces::files(&place.path("p/.headstart"));
    let names = |files: &[(std::path::PathBuf, Vec<u8>)]| {
        // What a process that was gone left behind may be tidied up.
        let tidied = |p: &std::path::PathBuf| p.display().to_string().contains("unsynced");
        files.iter().map(|(p, _)| p.clone()).filter(|p| !tidied(p)).collect::<Vec<_>>()
    };
    assert_eq!(names(&before), names(&after));
    // A part of it, by the names that `run` takes too.
    for (only, instances) in [("rows", 1), ("mixed[a]", 2), ("mixed", 3), ("all", 4)] {
        let planned =
            json(&run(&place, "p", &["plan", "p.pllm", "--only", only, "--format", "json"]).code(0));
        assert_eq!(planned["instances"].as_array().map(Vec::len), Some(instances), "{only}");
        run(&place, "p", &["run", "p.pllm", "--only", only, "-q"]).code(0);
    }
    run(&place, "p", &["plan", "p.pllm", "--only", "mixd"]).code(2).err_has("did you mean `mixed`?");
}

#[test]
fn inputs_that_did_not_change_did_not_run() {
    let place = place();
    // The two mixtures are of the same rows, so that one computes them and the other takes the result.
    run(&place, "p", &["run", "p.pllm"]).code(0).err_has("3 succeeded, 1 cached, 0 skipped");
    run(&place, "p", &["run", "p.pllm"]).code(0).err_has("0 succeeded, 4 cached, 0 skipped");
    place.write("p/rows.jsonl", "{\"prompt\":\"q\",\"response\":\"a\"}\n{\"prompt\":\"r\",\"response\":\"b\"}\n{\"prompt\":\"s\",\"response\":\"c\"}\n");
    run(&place, "p", &["run", "p.pllm"]).code(0).err_has("3 succeeded, 1 cached, 0 skipped");
    run(&place, "p", &["why", "mixed[a]"])
        .code(0)
        .out_has("styled: Dataset of 6 rows → Dataset of 3 rows, from `rows`");
}

#[test]
fn runs_say_when_what_with_which_parameters_and_how_it_ended() {
    let place = place();
    run(&place, "p", &["run", "p.pllm", "--set", "share=0.25", "-q"]).code(0);
    std::fs::rename(place.path("p/rows.jsonl"), place.path("p/gone")).expect("renamed");
    run(&place, "p", &["run", "p.pllm"]).code(2).err_has("rows.jsonl");
    let list = run(&place, "p", &["runs"]).code(0).out_has("p.pllm").out_has("share=0.25");
    assert!(
        list.out.contains("succeeded") && list.out.contains("failed") && list.out.contains(" UTC"),
        "{}",
        list.out
    );
    let all = json(&run(&place, "p", &["runs", "--format", "json"]).code(0));
    assert_eq!(all[0]["outcome"], "succeeded");
    assert_eq!(all[0]["params"]["share"], "0.25");
    assert_eq!((&all[1]["outcome"], &all[1]["failed"]), (&"failed".into(), &1.into()));

    // Why it failed, in all forms.
    let id = all[1]["run"].as_str().expect("an id");
    run(&place, "p", &["runs", id]).code(0).out_has("Why it failed").out_has("rows.jsonl");
    let one = json(&run(&place, "p", &["runs", id, "--format", "json"]).code(0));
    assert_eq!(one["failures"][0]["name"], "rows");
    assert!(one["failures"][0]["message"].as_str().is_some_and(|m| m.contains("rows.jsonl")), "{one}");
    let blocked = one["instances"].as_array().expect("a list").iter().filter(|i| i["state"] == "blocked");
    assert_eq!(blocked.map(|i| &i["blocked_by"]).collect::<Vec<_>>(), ["rows", "rows", "rows"]);
    run(&place, "p", &["runs", id, "--report", "r.html"]).code(0);
    let page = std::fs::read_to_string(place.path("p/r.html")).expect("a page");
    assert!(page.contains("Why it failed") && page.contains("rows.jsonl"));
}

#[test]
fn why_compares_with_the_last_run_of_the_same_pipeline_that_has_the_stage() {
    let place = place();
    run(&place, "p", &["run", "p.pllm", "-q"]).code(0);
    let first =
        json(&run(&place, "p", &["runs", "--format", "json"]))[0]["run"].as_str().expect("an id").to_owned();
    place.write("p/other.pllm", &PIPELINE.replace("seed: 48", "seed: 3"));
    run(&place, "p", &["run", "other.pllm", "-q"]).code(0);
    run(&place, "p", &["why", "mixed[a]"])
        .code(0)
        .out_has("of another pipeline, p.pllm")
        .out_has("seed: 48 → 3");
    place.write("p/p.pllm", &PIPELINE.replace("seed: 48", "seed: 49"));
    run(&place, "p", &["run", "p.pllm", "-q"]).code(0);
    // A run without the stage is passed over, and the other pipeline is not compared with.
    run(&place, "p", &["run", "p.pllm", "--only", "rows", "-q"]).code(0);
    let why = run(&place, "p", &["why", "mixed[a]"]).code(0).out_has("seed: 48 → 49").out_has(&first);
    assert!(!why.out.contains("another pipeline") && !why.out.contains("\"is\""), "{}", why.out);
    run(&place, "p", &["why", "rows"]).code(0).out_has("did not change");
    run(&place, "p", &["why", "mixd"]).code(2).err_has("did you mean `mixed`?");
}

#[test]
fn a_damaged_run_hides_no_other() {
    let place = place();
    for _ in 0..3 {
        run(&place, "p", &["run", "p.pllm", "-q"]).code(0);
    }
    let all = json(&run(&place, "p", &["runs", "--format", "json"]).code(0));
    let id = |i: usize| all[i]["run"].as_str().expect("an id").to_owned();
    let runs = place.path("p/.headstart/runs");
    std::fs::write(runs.join(id(0)).join("log/events"), b"nonsense that is no log at all").expect("writable");
    std::fs::remove_file(runs.join(id(1)).join("plan.json")).expect("removable");
    let list = run(&place, "p", &["runs"]).code(0).out_has(&id(2));
    for damaged in [id(0), id(1)] {
        assert!(list.err.contains(&format!("warning: run {damaged} cannot be read: ")), "{}", list.err);
    }
    let rows = json(&run(&place, "p", &["runs", "--format", "json"]).code(0));
    let of =
        |id: &str| rows.as_array().expect("a list").iter().find(|r| r["run"] == id).expect("listed").clone();
    assert!(of(&id(0))["error"].is_string() && of(&id(1))["error"].is_string(), "{rows}");
    assert_eq!(of(&id(2))["outcome"], "succeeded");
    run(&place, "p", &["why", "mixed[a]"]).code(0).out_has(&id(2));
    run(&place, "p", &["cache"]).code(0).out_has("3 runs");
}

#[test]
fn parameter_files_name_themselves() {
    let place = place();
    place.write("p/good.json", "\u{feff}{ \"share\": 0.25 }");
    run(&place, "p", &["plan", "p.pllm", "--params", "good.json"]).code(0);
    place.write("p/twice.json", "{ \"share\": 0.25, \"share\": 0.5 }");
    run(&place, "p", &["plan", "p.pllm", "--params", "twice.json"])
        .code(2)
        .err_has("twice.json: `share` is given twice");
    place.write("p/bad.json", "{ \"share\": \"much\" }");
    let bad = run(&place, "p", &["check", "p.pllm", "--params", "bad.json"])
        .code(2)
        .err_has("`share: much` in bad.json");
    assert!(!bad.err.contains("--set share"), "{}", bad.err);
    place.write("p/odd.json", "{ \"shre\": 0.5 }");
    run(&place, "p", &["check", "p.pllm", "--params", "odd.json"])
        .code(2)
        .err_has("odd.json")
        .err_has("share");
    run(&place, "p", &["check", "p.pllm", "--set", "share=much"]).code(2).err_has("`--set share=much`");
    run(&place, "p", &["check", "q.pllm"]).code(2).err_has("q.pllm does not exist").err_has("p.pllm");
}

#[test]
fn init_writes_a_pipeline_that_runs_and_overwrites_nothing() {
    let place = place();
    run(&place, "else", &["init", "hello"]).code(0).err_has("cd hello && headstart run first.pllm");
    run(&place, "else/hello", &["check", "first.pllm"]).code(0).err_has("ok");
    run(&place, "else/hello", &["fmt", "--check", "first.pllm"]).code(0);
    let ran = run(&place, "else/hello", &["run", "first.pllm"]).code(0).out_has("Before and after");
    assert!(ran.out.contains("perplexity"), "{}", ran.out);
    let text = std::fs::read(place.path("else/hello/first.pllm")).expect("written");
    std::fs::write(place.path("else/hello/first.pllm"), b"mine").expect("writable");
    std::fs::remove_file(place.path("else/hello/mine.jsonl")).expect("removable");
    run(&place, "else/hello", &["init"]).code(2).err_has("`first.pllm`").err_has("already exist");
    assert_eq!(std::fs::read(place.path("else/hello/first.pllm")).expect("kept"), b"mine");
    assert!(!place.path("else/hello/mine.jsonl").exists() && !text.is_empty(), "all or nothing");
}
