//! A program is made of its whole folder and of what it declares outside, and a copy of that runs.

use std::path::{Path, PathBuf};

use headstart_host::folder::{Folder, MAX_BYTES, digest};
use headstart_host::{CustomStage, Limits};
use headstart_protocol::declared::DeclaredStage;
use headstart_protocol::{Args, Digest, Failure, Output, Stage};
use headstart_testkit::MemoryContext;
use serde_json::json;

struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        let place = Self(tempfile::tempdir().expect("a folder"));
        place.write("stages/tools.py", "#!/bin/sh\n");
        place
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        let at = self.at(name);
        std::fs::create_dir_all(at.parent().expect("a parent")).expect("folders");
        std::fs::write(&at, text).expect("writes");
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            std::fs::set_permissions(&at, std::fs::Permissions::from_mode(0o755)).expect("mode");
        }
    }

    fn digest(&self, files: &[&str]) -> Digest {
        let files: Vec<String> = files.iter().map(|f| (*f).to_owned()).collect();
        digest(&self.at("stages/tools.py"), &files).expect("a digest")
    }

    /// Whether a change of a file is a change of the program.
    fn counts(&self, name: &str, files: &[&str]) -> bool {
        let before = self.digest(files);
        self.write(name, "changed");
        before != self.digest(files)
    }

    fn fails(&self, files: &[&str]) -> (String, Option<String>) {
        let files: Vec<String> = files.iter().map(|f| (*f).to_owned()).collect();
        let e = digest(&self.at("stages/tools.py"), &files).expect_err("refused");
        (e.message, e.entry)
    }
}

#[test]
fn every_file_of_the_folder_counts_and_nothing_beside_it() {
    let place = Place::new();
    for name in ["stages/late.py", "stages/lib/deep/a.txt", "stages/.env", "stages/tools.stages.json"] {
        assert!(place.counts(name, &[]), "{name}");
    }
    for name in ["beside.txt", "stages/.git/index", "stages/__pycache__/a.pyc", "stages/lib/.cache/x"] {
        assert!(!place.counts(name, &[]), "{name}");
    }
    place.write("stages/ws/workspace.json", r#"{"format":1}"#);
    assert!(!place.counts("stages/ws/blobs/ab/cd", &[]), "a workspace");
    place.write("stages/data/workspace.json", r#"{"name":"something else"}"#);
    assert!(place.counts("stages/data/blobs/ab/cd", &[]), "no workspace");
}

#[test]
fn what_is_declared_outside_counts() {
    let place = Place::new();
    place.write("words.txt", "the");
    place.write("lexicon/a/one.txt", "1");
    place.write("stages/.cache/y", "1");
    assert!(place.counts("words.txt", &["../words.txt"]));
    assert!(place.counts("lexicon/a/one.txt", &["../lexicon"]));
    assert!(place.counts("lexicon/a/two.txt", &["../lexicon/"]), "a new file of a declared folder");
    assert!(place.counts("stages/.cache/x", &["./.cache"]), "declared, though in a folder that is left out");
    assert_eq!(place.digest(&["tools.py"]), place.digest(&[]), "counts anyway");
    let (message, entry) = place.fails(&["../absent.txt"]);
    assert!(message.contains("absent.txt") && entry.as_deref() == Some("../absent.txt"), "{message}");
}

#[test]
fn the_digest_does_not_depend_on_the_place_and_is_that_of_the_language() {
    let place = Place::new();
    place.write("stages/lib/a.py", "1");
    place.write("words.txt", "the");
    let here = place.digest(&["../words.txt"]);
    let loader = headstart_dsl::MemoryLoader::new()
        .with("x/stages/tools.py", "#!/bin/sh\n")
        .with("x/stages/lib/a.py", "1")
        .with("x/words.txt", "the");
    let there =
        headstart_dsl::FileLoader::program(&loader, "x/stages/tools.py", &["../words.txt".to_owned()]);
    assert_eq!(there, Ok(here));
}

#[test]
fn a_folder_that_is_too_large_is_refused_with_its_largest_file() {
    let place = Place::new();
    place.write("stages/models/weights.bin", "");
    let file =
        std::fs::File::options().write(true).open(place.at("stages/models/weights.bin")).expect("opens");
    file.set_len(MAX_BYTES + 1).expect("a sparse file");
    let (message, _) = place.fails(&[]);
    assert!(message.contains("stages holds more than 100 MB"), "{message}");
    assert!(message.contains("`models/weights.bin` alone is 100 MB"), "{message}");
}

#[cfg(unix)]
#[test]
fn links_are_followed_and_odd_things_are_refused_by_name() {
    use std::os::unix::fs::symlink;
    let place = Place::new();
    place.write("shared/words.txt", "the");
    symlink(place.at("shared"), place.at("stages/shared")).expect("a link");
    symlink(place.at("shared/words.txt"), place.at("stages/words.txt")).expect("a link");
    assert!(place.counts("shared/words.txt", &[]));
    // As an editor's lock file.
    symlink("nobody@nowhere", place.at("stages/.#tools.py")).expect("a link");
    let copy = tempfile::tempdir().expect("a folder");
    let program = place.at("stages/tools.py");
    let copied = Folder::open(&program, &[])
        .expect("opens")
        .copy(&headstart_disk::SystemDisk, copy.path())
        .expect("copies");
    assert_eq!(copied.digest, place.digest(&[]));
    let words = std::fs::read_to_string(copied.program.parent().expect("a folder").join("shared/words.txt"));
    assert_eq!(words.expect("there"), "changed");

    symlink(place.at("stages"), place.at("stages/loop")).expect("a link");
    assert!(place.fails(&[]).0.contains("stages/loop is a link to a folder that it lies in"));
    std::fs::remove_file(place.at("stages/loop")).expect("removed");
    symlink(&program, place.at("shared/other.py")).expect("a link");
    let e = digest(&place.at("shared/other.py"), &[]).expect_err("a link to another folder");
    assert!(e.message.contains("in another folder"), "{e}");
    let _socket = std::os::unix::net::UnixListener::bind(place.at("stages/socket")).expect("a socket");
    assert!(place.fails(&[]).0.contains("stages/socket is neither a file nor a folder"));
}

#[test]
fn a_copy_keeps_what_leads_out_of_the_folder() {
    let place = Place::new();
    place.write("p/q/stages/tools.py", "1");
    place.write("words.txt", "the");
    place.write("p/lexicon/a.txt", "a");
    let files = ["../../../words.txt".to_owned(), "../../lexicon".to_owned()];
    let copy = tempfile::tempdir().expect("a folder");
    let folder = Folder::open(&place.at("p/q/stages/tools.py"), &files).expect("opens");
    let copied = folder.copy(&headstart_disk::SystemDisk, copy.path()).expect("copies");
    assert_eq!(copied.digest, folder.digest().expect("a digest"));
    assert_eq!(copied.program, copy.path().join("p/q/stages/tools.py"));
    let beside = |name: &str| std::fs::read_to_string(copied.program.parent().expect("a folder").join(name));
    assert_eq!(beside("../../../words.txt").expect("there"), "the");
    assert_eq!(beside("../../lexicon/a.txt").expect("there"), "a");
    assert!(copy.path().join("words.txt").exists(), "nothing is written beside the copy");
}

/// Imports a module late, and changes it on disk before that.
const LAZY: &str = r#"#!/usr/bin/env python3
import json, os, sys
STAGE = {"name": "count", "version": 1, "doc": "", "args": [], "makes": "Metrics",
         "places": ["server", "device"], "cached": True}
def say(kind, **what):
    print(json.dumps({"headstart": kind, **what}), flush=True)
sys.stdin.readline()
say("hello", protocol=1, stages=[STAGE])
if sys.stdin.readline():
    open(os.path.join(os.environ["HEADSTART_PROGRAM_FOLDER"], "heavy.py"), "w").write("FACTOR = 7\n")
    import heavy
    say("done", value={"n": heavy.FACTOR, "empty": not os.listdir()})
"#;

fn run(program: &Path, digest: Digest) -> Result<Output, Failure> {
    let declared: DeclaredStage = serde_json::from_value(json!({
        "name": "count", "version": 1, "doc": "", "args": [], "makes": "Metrics",
    }))
    .expect("a declaration");
    let stage = CustomStage {
        kind: "tools.count".into(),
        program: program.to_owned(),
        files: Vec::new(),
        digest,
        declared,
        // It changes its original.
        limits: Limits { confined: false, ..Limits::default() },
    };
    stage.run(&Args::default(), &MemoryContext::new().attempt())
}

#[test]
fn the_copy_is_what_runs() {
    let place = Place::new();
    place.write("stages/tools.py", LAZY);
    place.write("stages/heavy.py", "FACTOR = 3\n");
    let planned = place.digest(&[]);
    let output = run(&place.at("stages/tools.py"), planned).expect("a result");
    assert_eq!(output.value, json!({ "n": 3, "empty": 1 }), "as it was when the attempt began");
    let failure = run(&place.at("stages/tools.py"), planned).expect_err("changed by now");
    assert!(failure.message.contains("or another file of its folder, is not what it was"), "{failure}");
    let output = run(&place.at("stages/tools.py"), place.digest(&[])).expect("a result");
    assert_eq!(output.value["n"], 7);
}
