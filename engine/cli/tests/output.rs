//! Where output goes and what happens if it cannot: closed pipes, full disks, colours, columns, files.

mod common;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Stdio};

use common::{Place, Said, said};

/// A pipeline that needs no model: rows, and half of them from elsewhere, for each of some keys.
const PIPELINE: &str = r#"
param share: Float = 0.5
dataset rows = jsonl("rows.jsonl")
dataset mixed = blend(rows, plain: rows, share: share, rows: 2) for t in KEYS
output mixed = mixed
output all = rows
"#;

fn place_with(keys: &str) -> Place {
    let place = Place::new();
    place.write("p/p.pllm", &PIPELINE.replace("KEYS", keys));
    let rows: String = (0..6).map(|i| format!("{{\"prompt\":\"q{i}\",\"response\":\"a{i}\"}}\n")).collect();
    place.write("p/rows.jsonl", &rows);
    place
}

/// The command in the pipeline's folder, without `--workspace`.
fn here(place: &Place, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_headstart"));
    command.current_dir(place.path("p")).args(args).env("NO_COLOR", "1").env_remove("HEADSTART_WORKSPACE");
    command
}

fn run(place: &Place, args: &[&str]) -> Said {
    said(here(place, args).output().expect("headstart starts"))
}

/// Every command that prints, after one run.
const PRINTING: &[&[&str]] = &[
    &["plan", "p.pllm"],
    &["plan", "p.pllm", "--format", "json"],
    &["run", "p.pllm"],
    &["run", "p.pllm", "--format", "json"],
    &["runs"],
    &["runs", "--format", "json"],
    &["why", "mixed"],
    &["cache"],
    &["graph", "p.pllm"],
    &["check", "--explain", "E0101"],
    &["describe", "--sdk"],
    &["completions", "bash"],
    &["man"],
    &["--help"],
    &["--version"],
];

#[test]
fn a_closed_pipe_ends_quietly() {
    let place = place_with("[\"a\", \"b\"]");
    run(&place, &["run", "p.pllm"]).code(0);
    for args in PRINTING {
        // Neither stream has a reader.
        let mut child = here(&place, args);
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let errors = writer.try_clone().expect("a pipe has two ends");
        let status = child.stdout(writer).stderr(errors).stdin(Stdio::null()).status().expect("starts");
        assert_eq!(status.code(), Some(0), "{args:?}");
    }
}

#[test]
#[cfg(target_os = "linux")]
fn a_full_disk_is_an_error_with_an_exit_code_of_its_own() {
    let place = place_with("[\"a\"]");
    run(&place, &["run", "p.pllm"]).code(0);
    for args in PRINTING {
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").expect("Linux has it");
        let output = here(&place, args).stdout(full).stderr(Stdio::piped()).output().expect("starts");
        let said = said(output).code(4).err_has("error: cannot write standard output: ");
        assert!(!said.err.contains("panicked"), "{args:?}: {}", said.err);
    }
}

/// What a command prints on a terminal of these columns.
#[cfg(target_os = "linux")]
fn on_a_terminal(place: &Place, columns: u32, env: &[(&str, &str)], args: &str) -> String {
    let exe = env!("CARGO_BIN_EXE_headstart");
    let line = format!("stty cols {columns} rows 50; '{exe}' {args}");
    let mut command = Command::new("script");
    command.args(["-qec", &line, "/dev/null"]).current_dir(place.path("p")).stdin(Stdio::null());
    command.env_remove("NO_COLOR").env_remove("COLUMNS").env("TERM", "xterm");
    command.envs(env.iter().copied());
    let output = command.output().expect("`script` of util-linux runs");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Codes that set a colour or an attribute; those that move the cursor belong to progress bars.
fn colored(text: &str) -> bool {
    text.split("\x1b[").skip(1).any(|rest| {
        rest.find(|c: char| c.is_ascii_alphabetic()).is_some_and(|end| rest[end..].starts_with('m'))
    })
}

#[test]
#[cfg(target_os = "linux")]
fn colours_are_for_terminals_that_want_them() {
    let place = place_with("[\"a\"]");
    let run = "run p.pllm";
    assert!(colored(&on_a_terminal(&place, 80, &[], run)));
    assert!(!colored(&on_a_terminal(&place, 80, &[("NO_COLOR", "1")], run)));
    assert!(!colored(&on_a_terminal(&place, 80, &[("TERM", "dumb")], run)));
    assert!(!colored(&on_a_terminal(&place, 80, &[], "run --color never p.pllm")));
    assert!(!colored(&on_a_terminal(&place, 80, &[], "--color=never frobnicate")));
    assert!(colored(&on_a_terminal(&place, 80, &[("NO_COLOR", "1")], "run --color always p.pllm")));

    let piped = |args: &[&str], force: &str| {
        let output = here(&place, args).env_remove("NO_COLOR").env("CLICOLOR_FORCE", force).output();
        let said = said(output.expect("starts"));
        colored(&said.out) || colored(&said.err)
    };
    assert!(!piped(&["run", "p.pllm"], "0"));
    assert!(piped(&["run", "p.pllm"], "1"));
    assert!(piped(&["run", "--color", "always", "p.pllm"], "0"));
    assert!(!piped(&["runs", "--color", "never"], "1"));
}

#[test]
#[cfg(target_os = "linux")]
fn twenty_columns_are_kept_to() {
    let place = place_with("[\"a\", \"b\"]");
    let ran = on_a_terminal(&place, 20, &[("NO_COLOR", "1")], "run p.pllm 2>/dev/null");
    let plain = ran.replace('\r', "");
    assert!(plain.contains("Headstart"), "{plain}");
    let wide: Vec<&str> = plain.lines().filter(|l| l.chars().count() > 20).collect();
    assert!(wide.is_empty(), "{wide:#?}");
}

#[test]
fn quiet_is_quiet_and_verbose_is_not() {
    let place = place_with("[\"a\", \"b\"]");
    let quiet = run(&place, &["run", "p.pllm", "--quiet"]).code(0);
    assert_eq!((quiet.out.as_str(), quiet.err.as_str()), ("", ""));
    let quiet = run(&place, &["-q", "run", "p.pllm", "--format", "json"]).code(0);
    assert!(
        quiet.err.is_empty() && quiet.out.contains("\"succeeded\""),
        "results are printed: {}",
        quiet.out
    );
    run(&place, &["run", "-v", "p.pllm"]).code(0).err_has("mixed[\"a\"] cached");
    let failed = run(&place, &["run", "-q", "p.pllm", "--set", "share=7.5"]);
    assert!(failed.code != 0 && !failed.err.is_empty(), "errors are printed");
}

/// Files below a folder, relative to it.
fn files(dir: &Path) -> BTreeSet<String> {
    let all = common::traces::files(dir).into_iter();
    all.map(|(p, _)| p.strip_prefix(dir).expect("below").to_string_lossy().into_owned()).collect()
}

#[test]
fn keys_never_lead_out_of_the_folder_of_outputs() {
    let long = "x".repeat(300);
    let keys = [
        "./",
        "../../evil",
        "a/b",
        ".",
        "",
        "/etc/evil",
        "née ü",
        "x,y",
        "Case",
        "case",
        "CON",
        "..\\w",
        &long,
    ];
    let list = serde_json::to_string(&keys).expect("JSON");
    let place = place_with(&list);
    let before = files(place.dir.path());
    run(&place, &["run", "p.pllm", "--out", "out"]).code(0).err_has("wrote out/mixed (14 files");
    let new: Vec<String> = files(place.dir.path()).difference(&before).cloned().collect();
    let outside: Vec<&String> =
        new.iter().filter(|f| !f.starts_with("p/out/") && !f.starts_with("p/.headstart/")).collect();
    assert!(outside.is_empty(), "{outside:#?}");
    let written = files(&place.path("p/out/mixed"));
    let folders: BTreeSet<String> =
        written.iter().filter_map(|f| f.split_once('/')).map(|(folder, _)| folder.to_lowercase()).collect();
    assert_eq!(folders.len(), keys.len(), "{written:#?}");
    let told = std::fs::read_to_string(place.path("p/out/mixed/keys.json")).expect("a file of keys");
    let told: serde_json::Value = serde_json::from_str(&told).expect("JSON");
    let told: BTreeSet<&str> =
        told.as_object().expect("an object").values().filter_map(|k| k.as_str()).collect();
    assert_eq!(told, keys.into_iter().collect());
    assert!(place.path("p/out/all/rows.jsonl").is_file());
}

#[test]
fn outputs_are_not_written_through_links() {
    let place = place_with("[\"a\", \"b\"]");
    std::fs::create_dir_all(place.path("elsewhere")).expect("writable");
    std::fs::create_dir_all(place.path("p/out/mixed")).expect("writable");
    std::os::unix::fs::symlink(place.path("elsewhere"), place.path("p/out/mixed/a")).expect("links");
    run(&place, &["run", "p.pllm", "--out", "out"]).code(1).err_has("out/mixed/a is a link");
    assert!(files(&place.path("elsewhere")).is_empty());
    // The folder that was named may be one: its owner named it.
    std::fs::remove_file(place.path("p/out/mixed/a")).expect("removes");
    std::os::unix::fs::symlink(place.path("elsewhere"), place.path("p/there")).expect("links");
    run(&place, &["run", "p.pllm", "--out", "there"]).code(0);
    assert!(!files(&place.path("elsewhere")).is_empty());
}

#[test]
fn metrics_are_written_as_json() {
    let place = Place::new();
    common::copy_dir(&common::root().join("examples/03-custom-stage"), &place.path("p"));
    run(&place, &["run", "readability.pllm", "--out", "out"]).code(0).err_has("wrote out/");
    let written = files(&place.path("p/out"));
    let metrics: Vec<&String> = written.iter().filter(|f| f.ends_with("metrics.json")).collect();
    assert!(!metrics.is_empty(), "{written:#?}");
    for file in metrics {
        let text = std::fs::read_to_string(place.path("p/out").join(file)).expect("readable");
        let value: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        assert!(value.as_object().is_some_and(|o| o.values().any(serde_json::Value::is_number)), "{text}");
    }
}

#[test]
fn scripts_and_pages_are_made_from_the_command_line_itself() {
    let place = place_with("[\"a\"]");
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        run(&place, &["completions", shell]).code(0).out_has("headstart").out_has("catalog");
    }
    run(&place, &["completions", "bsh"]).code(2).err_has("bash");
    run(&place, &["man"]).code(0).out_has(".TH").out_has("standard output could not be written");
    run(&place, &["man", "--out", "man"]).code(0);
    let pages = files(&place.path("p/man"));
    for page in ["headstart.1", "headstart-run.1", "headstart-runs.1", "headstart-catalog-show.1"] {
        assert!(pages.contains(page), "{pages:?}");
    }
}
