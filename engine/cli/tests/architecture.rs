//! Arrows between crates only point down. See docs/ARCHITECTURE.md.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

/// For each crate, the crates of the workspace that it may depend on.
const ALLOWED: &[(&str, &[&str])] = &[
    ("protocol", &[]),
    ("testkit", &["protocol"]),
    ("dsl", &["protocol", "cron"]),
    ("lsp", &["protocol", "dsl"]),
    ("core", &["protocol", "dsl"]),
    ("cron", &[]),
    ("store", &["protocol", "core"]),
    ("driver", &["protocol", "dsl", "core", "store", "cron"]),
    ("server", &["protocol", "core", "store", "driver"]),
    ("report", &["protocol"]),
    ("lm", &["protocol"]),
    ("mlx", &["lm"]),
    ("ingest", &["protocol", "lm"]),
    ("explain", &["protocol", "lm"]),
    ("select", &["protocol", "lm", "explain", "merge"]),
    ("merge", &["protocol", "lm"]),
    ("finetune", &["protocol", "lm"]),
    ("evaluate", &["protocol", "lm"]),
    ("host", &["protocol"]),
    ("study", &["protocol", "lm", "explain", "select", "evaluate"]),
    (
        "builtin",
        &["protocol", "lm", "mlx", "ingest", "explain", "select", "merge", "finetune", "evaluate", "study"],
    ),
    // Pictures are made from plain data, so the device may draw its owner's page (docs/adr).
    ("device", &["protocol", "report", "lm", "builtin", "host"]),
    ("corpus", &[]),
    (
        "cli",
        &[
            "protocol", "dsl", "lsp", "core", "cron", "store", "driver", "server", "report", "lm", "builtin",
            "host", "explain", "select",
        ],
    ),
];

/// External crates that only some of ours may link, because of their weight or because of what
/// they would let a crate do.
const GUARDED: &[(&str, &[&str])] = &[
    ("candle-core", &["lm"]),
    ("mlx-rs", &["mlx"]),
    ("tokenizers", &["lm"]),
    ("duckdb", &["store"]),
    ("pest", &["dsl"]),
    ("petgraph", &["dsl", "core"]),
    ("axum", &["server", "device"]),
    ("tokio", &["driver", "server", "device", "cli"]),
    ("reqwest", &["device", "server"]),
];

/// How a crate of this workspace is marked.
fn ours(name: &str) -> String {
    format!("./{name}")
}

/// What a subcommand of cargo says of the workspace.
fn cargo(args: &[&str]) -> String {
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/../../Cargo.toml");
    let output = Command::new(env!("CARGO"))
        .args(args)
        .args(["--locked", "--offline", "--manifest-path", manifest])
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}

fn dependencies() -> BTreeMap<String, BTreeSet<String>> {
    let said = cargo(&["metadata", "--no-deps", "--format-version", "1"]);
    let metadata: Value = serde_json::from_str(&said).expect("JSON");
    let list = |v: &Value, key: &str| v[key].as_array().cloned().unwrap_or_default();
    // `cron` is somebody's crate, and ours is called `headstart-cron`: ours get a mark.
    let name = |v: &Value| {
        let name = v["name"].as_str().expect("a name");
        name.strip_prefix("headstart-").map_or(name.to_owned(), ours)
    };
    // Dependencies of tests and of build scripts have a kind.
    let normal =
        |p: &Value| list(p, "dependencies").iter().filter(|d| d["kind"].is_null()).map(name).collect();
    list(&metadata, "packages").iter().map(|p| (name(p), normal(p))).collect()
}

#[test]
fn arrows_between_crates_point_down() {
    let found = dependencies();
    let allowed: BTreeMap<_, BTreeSet<_>> =
        ALLOWED.iter().map(|(n, d)| (ours(n), d.iter().map(|d| ours(d)).collect())).collect();
    let members: BTreeSet<_> = found.keys().cloned().collect();
    assert_eq!(members, allowed.keys().cloned().collect(), "every crate stands in ALLOWED, and no other");
    for (name, deps) in &found {
        let bad: Vec<_> = deps.intersection(&members).filter(|d| !allowed[name].contains(*d)).collect();
        assert!(bad.is_empty(), "{name} must not depend on {bad:?}");
    }
}

#[test]
fn heavy_libraries_are_linked_in_one_place() {
    for (name, deps) in dependencies() {
        for (guarded, by) in GUARDED {
            assert!(
                !deps.contains(*guarded) || by.iter().any(|b| ours(b) == name),
                "{name} links {guarded}, which only {by:?} may"
            );
        }
    }
}

/// Tests use libraries of their own. If these switch on features of libraries that the programs use too,
/// then `make build` compiles all of those again that `make test` had compiled.
#[test]
fn a_test_build_serves_the_programs_too() {
    let crates = |edges: &str| -> BTreeSet<String> {
        let said =
            cargo(&["tree", "--workspace", "--edges", edges, "--prefix", "none", "--format", "{p} {f}"]);
        said.lines().map(|line| line.trim_end_matches(" (*)").to_owned()).collect()
    };
    let (programs, tests) = (crates("no-dev"), crates("all"));
    let other: Vec<_> = programs.difference(&tests).collect();
    assert!(
        other.is_empty(),
        "with other features in tests, name them in [workspace.dependencies]: {other:#?}"
    );
}

#[test]
fn source_files_stay_readable() {
    let root = std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."));
    let mut long = Vec::new();
    let mut folders: Vec<_> =
        ["protocol", "models", "dsl", "engine", "plugins", "report", "device-runner", "examples"].map(|d| root.join(d)).into();
    while let Some(dir) = folders.pop() {
        for entry in std::fs::read_dir(&dir).expect("the folder exists").flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let lines = std::fs::read_to_string(&path).expect("source is UTF-8").lines().count();
                if lines > 600 {
                    long.push(format!("{}: {lines}", path.display()));
                }
            }
        }
    }
    assert!(long.is_empty(), "over 600 lines: {long:#?}");
}
