//! Arrows between crates only point down, and only those exist that are listed here; files of a crate do not
//! use each other in circles. See docs/ARCHITECTURE.md.

#[path = "architecture/file_imports.rs"]
mod file_imports;
#[path = "architecture/reads.rs"]
mod reads;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// For each crate, the crates of the workspace that it depends on: these and no others, so that an arrow that is
/// no longer needed goes as well.
const ARROWS: &[(&str, &[&str])] = &[
    ("disk", &[]),
    ("protocol", &["disk"]),
    ("content", &["disk", "protocol"]),
    ("env", &["disk"]),
    ("transport", &["protocol"]),
    ("testkit", &["disk", "protocol"]),
    ("dsl", &["protocol", "cron"]),
    ("lsp", &["protocol", "dsl"]),
    ("core", &["protocol", "dsl"]),
    ("cron", &[]),
    ("scheduler", &["disk", "protocol", "cron"]),
    ("files", &["disk"]),
    ("store", &["disk", "protocol", "content"]),
    ("driver", &["disk", "protocol", "content", "env", "dsl", "core", "store", "runner", "transport"]),
    ("server", &["disk", "protocol", "driver", "transport"]),
    ("history", &["protocol", "dsl", "core", "store", "driver", "report"]),
    ("notify", &["disk", "protocol", "env", "store"]),
    (
        "page",
        &[
            "disk",
            "protocol",
            "env",
            "dsl",
            "core",
            "store",
            "driver",
            "scheduler",
            "history",
            "notify",
            "report",
        ],
    ),
    ("report", &["protocol"]),
    ("console", &["protocol"]),
    ("kernels", &[]),
    ("inspect", &["protocol"]),
    ("lm", &["disk", "protocol", "inspect", "kernels"]),
    ("train", &["disk", "protocol", "kernels", "lm"]),
    ("gpu", &["kernels", "lm", "train"]),
    ("mlx", &["lm", "train"]),
    ("kit", &["disk", "protocol", "lm"]),
    ("stats", &["protocol"]),
    ("huggingface", &["disk", "env", "protocol"]),
    ("ingest", &["disk", "protocol", "huggingface", "lm", "kit"]),
    ("explain", &["disk", "protocol", "lm", "kit", "stats"]),
    ("select", &["disk", "protocol", "lm", "kit", "stats", "explain", "merge"]),
    ("merge", &["disk", "protocol", "lm", "kit"]),
    ("finetune", &["disk", "protocol", "lm", "train", "kit"]),
    ("evaluate", &["disk", "protocol", "lm", "kit", "stats"]),
    ("host", &["disk", "protocol"]),
    ("runner", &["disk", "protocol"]),
    ("worker", &["protocol", "host", "runner"]),
    ("study", &["disk", "protocol", "lm", "stats", "explain", "select"]),
    (
        "builtin",
        &[
            "protocol", "lm", "train", "gpu", "mlx", "ingest", "explain", "select", "merge", "finetune",
            "evaluate", "study",
        ],
    ),
    // Pictures are made from plain data, so the device may draw its owner's page (docs/adr).
    (
        "device",
        &[
            "disk",
            "protocol",
            "content",
            "env",
            "report",
            "console",
            "runner",
            "worker",
            "builtin",
            "inspect",
            "host",
            "transport",
        ],
    ),
    ("corpus", &[]),
    (
        "cli",
        &[
            "disk",
            "env",
            "protocol",
            "dsl",
            "lsp",
            "core",
            "cron",
            "scheduler",
            "history",
            "notify",
            "page",
            "files",
            "store",
            "driver",
            "server",
            "report",
            "console",
            "lm",
            "kit",
            "runner",
            "worker",
            "builtin",
            "host",
            "huggingface",
            "explain",
            "select",
        ],
    ),
];

/// External crates that only some of ours may link, because of their weight or because of what
/// they would let a crate do.
const GUARDED: &[(&str, &[&str])] = &[
    ("candle-core", &["lm", "gpu"]),
    ("mlx-rs", &["mlx"]),
    ("tokenizers", &["lm"]),
    ("minijinja", &["inspect", "lm"]),
    ("duckdb", &["store"]),
    ("pest", &["dsl"]),
    ("petgraph", &["dsl", "core"]),
    ("axum", &["server", "page", "device", "huggingface"]),
    ("tokio", &["env", "driver", "server", "page", "notify", "device", "cli", "huggingface"]),
    ("rustls", &["transport", "server", "page", "notify", "huggingface"]),
    ("reqwest", &["device", "server", "notify", "huggingface"]),
];

/// Where code lies.
const CODE: [&str; 11] = [
    "protocol",
    "content",
    "transport",
    "env",
    "models",
    "dsl",
    "engine",
    "plugins",
    "report",
    "device-runner",
    "examples",
];

/// The only places that open or read files themselves, with the reason. All others go through
/// `headstart_disk::read`, which refuses what is no regular file and reads no more than is stated.
const READERS: &[(&str, &str, &str)] = &[
    ("engine/cli/src/export.rs", "File::open", "to lock a folder; nothing is read"),
    ("env/disk/src/read.rs", "OpenOptions::new", "the module itself"),
    ("env/disk/src/read.rs", "read_to_end", "the module itself"),
    ("env/disk/src/system.rs", "File::open", "to sync it; nothing is read"),
    ("env/disk/src/system.rs", "OpenOptions::new", "to write"),
    ("env/disk/src/system.rs", "fs::read_to_string", "/proc"),
    ("env/disk/src/files.rs", "File::open", "tells which side of a copy failed; nothing is read"),
    ("env/disk/src/simulated.rs", "fs::read", "for tests"),
    ("content/src/unsynced.rs", "File::open", "to lock its own marker"),
    ("content/src/unsynced.rs", "fs::read_to_string", "its own marker, of one line"),
    (
        "engine/store/src/log/reader.rs",
        "fs::read",
        "the event log, which the workspace's owner alone can write",
    ),
    ("engine/store/src/log/reader.rs", "File::open", "the event log, from where it was read to"),
    ("engine/store/src/log/reader.rs", "read_to_end", "likewise"),
    ("engine/store/src/log/writer.rs", "File::open", "to lock its own file"),
    ("engine/store/src/log/writer.rs", "fs::read_to_string", "its own lock, of one line"),
    ("engine/store/src/log/writer.rs", "read_to_end", "the end of the event log"),
    ("engine/server/src/blob.rs", "File::open", "a verified blob, sent as a stream"),
    ("engine/cli/src/full_disk.rs", "fs::read", "for tests"),
    ("device-runner/src/facts.rs", "fs::read_to_string", "/proc and /sys"),
    ("plugins/worker/src/memory.rs", "File::open", "/proc"),
    ("plugins/worker/src/memory.rs", "fs::read_to_string", "/proc and /sys"),
    ("plugins/worker/src/serve.rs", "File::open", "/dev/null"),
    ("plugins/host/src/processes.rs", "fs::read", "/proc"),
    ("plugins/host/src/supervise.rs", "File::open", "/dev/null"),
    ("plugins/worker/src/memory.rs", "File::open", "/proc"),
    ("plugins/worker/src/memory.rs", "fs::read_to_string", "/proc and /sys"),
    ("plugins/worker/src/serve.rs", "File::open", "/dev/null, in the place of standard input"),
    ("plugins/host/src/process.rs", "read_to_end", "512 bytes of what `read::open` opened"),
    ("plugins/host/src/confine/toolchain.rs", "read_to_end", "512 bytes of what `read::open` opened"),
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

/// Each crate of the workspace with its manifest's path.
fn manifests() -> BTreeMap<String, String> {
    let said = cargo(&["metadata", "--no-deps", "--format-version", "1"]);
    let metadata: Value = serde_json::from_str(&said).expect("JSON");
    let text = |v: &Value, key: &str| v[key].as_str().expect("text").to_owned();
    let packages = metadata["packages"].as_array().expect("a list");
    packages.iter().map(|p| (text(p, "name").replace("headstart-", "./"), text(p, "manifest_path"))).collect()
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
fn arrows_between_crates_are_those_listed() {
    let found = inside(dependencies());
    let listed: BTreeMap<_, BTreeSet<_>> =
        ARROWS.iter().map(|(n, d)| (ours(n), d.iter().map(|d| ours(d)).collect())).collect();
    for (name, deps) in &found {
        let Some(listed) = listed.get(name) else { panic!("{name} is missing in ARROWS; it needs {deps:?}") };
        assert_eq!(deps, listed, "what {name} depends on, and what ARROWS says");
    }
    assert_eq!(found.len(), listed.len(), "ARROWS lists a crate that is not there");
}

/// Only the arrows between crates of the workspace.
fn inside(mut found: BTreeMap<String, BTreeSet<String>>) -> BTreeMap<String, BTreeSet<String>> {
    let members: BTreeSet<_> = found.keys().cloned().collect();
    found.values_mut().for_each(|deps| deps.retain(|d| members.contains(d)));
    found
}

/// The picture in docs/ARCHITECTURE.md is drawn from `cargo metadata`. `BLESS=1` redraws it.
#[test]
fn the_picture_shows_the_arrows_that_there_are() {
    let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."));
    let path = root.join("docs/ARCHITECTURE.md");
    let page = std::fs::read_to_string(&path).expect("the page is there");
    let (head, rest) = page.split_once("```mermaid\n").expect("the page has a picture");
    let (shown, tail) = rest.split_once("```").expect("the picture ends");
    let drawn = picture(root);
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&path, format!("{head}```mermaid\n{drawn}```{tail}")).expect("writable");
    } else {
        assert_eq!(shown, drawn, "redraw it: BLESS=1 cargo test -p headstart-cli --test architecture");
    }
}

/// A box for each top-level folder, a node for each crate, and an arrow where no longer way says the same.
fn picture(root: &Path) -> String {
    let arrows = inside(dependencies());
    let root = root.canonicalize().expect("the checkout is there");
    let mut rooms: BTreeMap<String, Vec<(String, String)>> = BTreeMap::new();
    for (name, manifest) in manifests() {
        let folder = Path::new(&manifest).parent().expect("a manifest has a folder");
        let place =
            folder.strip_prefix(&root).expect("crates lie in the checkout").to_string_lossy().into_owned();
        let room = place.split('/').next().unwrap_or_default().to_owned();
        rooms.entry(room).or_default().push((node(&name), place));
    }
    let mut out = String::from("flowchart TD\n");
    for (room, crates) in rooms {
        let _ = writeln!(out, "  subgraph {room}_[\"{room}/\"]");
        for (node, place) in crates {
            let _ = writeln!(out, "    {node}[{place}]");
        }
        out += "  end\n";
    }
    for (from, to) in &arrows {
        for target in to {
            let longer = to.iter().any(|via| via != target && reaches(&arrows, via, target));
            if !longer {
                let _ = writeln!(out, "  {} --> {}", node(from), node(target));
            }
        }
    }
    out
}

fn reaches(arrows: &BTreeMap<String, BTreeSet<String>>, from: &str, to: &str) -> bool {
    arrows[from].iter().any(|next| next == to || reaches(arrows, next, to))
}

/// The name of a crate in the picture.
fn node(name: &str) -> String {
    name.trim_start_matches("./").replace('-', "_")
}

#[test]
fn files_of_a_crate_do_not_use_each_other_in_circles() {
    let mut found = Vec::new();
    for (name, manifest) in manifests() {
        let source = Path::new(&manifest).with_file_name("src");
        for root in ["lib.rs", "main.rs"].map(|root| source.join(root)).into_iter().filter(|r| r.exists()) {
            for circle in file_imports::circles(&root) {
                let files = circle.iter().map(|f| f.strip_prefix(&source).unwrap_or(f).display().to_string());
                found.push(format!("{name}: {}", files.collect::<Vec<_>>().join(", ")));
            }
        }
    }
    assert!(found.is_empty(), "move what these share into a file of its own:\n{}", found.join("\n"));
}

/// The reader of imports sees through re-exports, globs, macros and inner modules.
#[test]
fn circles_of_files_are_found() {
    let circles = |files: &[(&str, &str)]| {
        let folder = tempfile::tempdir().expect("a folder");
        for (name, text) in files {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().expect("a folder")).expect("writable");
            std::fs::write(path, text).expect("writable");
        }
        let name = |p: &std::path::PathBuf| {
            p.strip_prefix(folder.path()).expect("inside").to_string_lossy().into_owned()
        };
        let found = file_imports::circles(&folder.path().join("lib.rs"));
        found.iter().map(|c| c.iter().map(name).collect::<Vec<_>>()).collect::<Vec<_>>()
    };
    let lib = "mod a; mod b; pub use a::A; pub use b::B;";
    let (a, none) = (vec![vec!["a.rs".to_owned(), "b.rs".to_owned()]], Vec::<Vec<String>>::new());
    let b = "pub struct B; impl B { fn of(_: crate::A) {} }";
    for uses in [
        "use crate::B; pub struct A(B);",
        "use super::B as Other; pub struct A(Other);",
        "use super::*; pub struct A(B);",
        "pub struct A; fn f() { println!(\"{:?}\", crate::b::B); }",
        "pub struct A; mod inner { fn f() { super::super::b::B; } }",
        "use crate::b; pub struct A(b::B);",
        "pub struct A; #[cfg(not(test))] use crate::B;",
    ] {
        assert_eq!(circles(&[("lib.rs", lib), ("a.rs", uses), ("b.rs", b)]), a, "{uses}");
    }
    for uses in [
        "pub struct A;",
        "pub struct A; #[cfg(test)] mod tests { use crate::B; }",
        "pub use crate::B; pub struct A;",
        "use other::B; pub struct A(B);",
    ] {
        assert_eq!(circles(&[("lib.rs", lib), ("a.rs", uses), ("b.rs", b)]), none, "{uses}");
    }
    // A module and those inside it are one; two inside it are not.
    let lib = "mod a;";
    let a = "mod b; mod c; pub struct A; fn f() { b::f(); c::f(); }";
    let (up, down) = ("pub fn f() { super::A; }", "pub fn f() { super::c::f(); }");
    assert_eq!(circles(&[("lib.rs", lib), ("a.rs", a), ("a/b.rs", up), ("a/c/mod.rs", up)]), none);
    assert_eq!(circles(&[("lib.rs", lib), ("a.rs", a), ("a/b.rs", down), ("a/c/mod.rs", up)]), none);
    let back = "pub fn f() { super::b::f(); }";
    let both = vec![vec!["a/b.rs".to_owned(), "a/c/mod.rs".to_owned()]];
    assert_eq!(circles(&[("lib.rs", lib), ("a.rs", a), ("a/b.rs", down), ("a/c/mod.rs", back)]), both);
}

#[test]
fn files_are_read_through_one_module() {
    let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."));
    let mut found = BTreeSet::new();
    for folder in CODE {
        for path in reads::sources(&root.join(folder)) {
            let text = std::fs::read_to_string(&path).expect("source is UTF-8");
            let name = path.strip_prefix(root).expect("inside").to_string_lossy().replace('\\', "/");
            found.extend(reads::in_source(&text).into_iter().map(|call| (name.clone(), call)));
        }
    }
    let listed: BTreeSet<(String, String)> =
        READERS.iter().map(|(file, call, _)| ((*file).to_owned(), (*call).to_owned())).collect();
    let (new, gone): (Vec<_>, Vec<_>) =
        (found.difference(&listed).collect(), listed.difference(&found).collect());
    assert!(new.is_empty(), "read these through headstart_disk::read: {new:#?}");
    assert!(gone.is_empty(), "these are not there any more: {gone:#?}");
}

#[test]
fn readers_of_files_are_found_in_source() {
    let calls = |text: &str| reads::in_source(text).into_iter().collect::<Vec<_>>();
    assert_eq!(calls("fn f() { std::fs::read(p); }"), ["fs::read"]);
    assert_eq!(calls("fn f() { x.map(fs::read_to_string); }"), ["fs::read_to_string"]);
    assert_eq!(
        calls("impl A { fn f() { File::open(p)?.read_to_end(&mut v); } }"),
        ["File::open", "read_to_end"]
    );
    assert!(calls("#[cfg(test)] mod tests { fn f() { std::fs::read(p); } }").is_empty());
    assert!(calls("fn f() { read::whole(p, 1); let x = my::read(p); }").is_empty());
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

/// Tests use further libraries. If these switch on features of libraries that the programs use too,
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
    let mut folders: Vec<_> = CODE.map(|d| root.join(d)).into();
    while let Some(dir) = folders.pop() {
        for entry in std::fs::read_dir(&dir).expect("the folder exists").flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let lines = std::fs::read_to_string(&path).expect("source is UTF-8").lines().count();
                if lines > 500 {
                    long.push(format!("{}: {lines}", path.display()));
                }
            }
        }
    }
    assert!(long.is_empty(), "over 500 lines: {long:#?}");
}
