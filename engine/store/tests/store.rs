//! Blobs, artifacts, runs and secrets of a workspace.

use std::fs;

use headstart_protocol::{Digest, Output, Type};
use headstart_store::{StoreError, Workspace};

#[test]
fn imports_and_opens_an_artifact() {
    let dir = tempfile::tempdir().expect("a folder");
    let ws = Workspace::open(&dir.path().join("ws")).expect("opens");
    let scratch = ws.scratch("pllm[\"a\"]").expect("a folder");
    fs::write(scratch.path().join("w"), b"weights").expect("written");
    let output = Output::new(Type::Pllm, serde_json::json!({"format": "lora"}))
        .file("adapter/model.safetensors", scratch.path().join("w"))
        .file("copy", scratch.path().join("w"));
    let (manifest, reference) = ws.artifacts().import(&output).expect("imports");
    let (again, same) = ws.artifacts().import(&output).expect("imports");
    assert_eq!((&manifest, &reference), (&again, &same));
    assert_eq!(ws.artifacts().manifest(&reference.id).expect("reads"), Some(manifest));
    assert!(ws.artifacts().has(&reference.id));
    for _ in 0..2 {
        let folder = ws.artifacts().materialize(&reference.id).expect("opens");
        assert_eq!(fs::read(folder.join("adapter/model.safetensors")).expect("reads"), b"weights");
        assert_eq!(fs::read(folder.join("copy")).expect("reads"), b"weights");
    }
    assert_eq!(ws.size().blobs, 1);
}

#[test]
fn appends_and_follows_a_run() {
    let dir = tempfile::tempdir().expect("a folder");
    let ws = Workspace::open(dir.path()).expect("opens");
    let log = ws.create_run("r-1", &"the plan").expect("creates");
    assert!(matches!(ws.create_run("r-1", &0), Err(StoreError::RunExists(_))));
    assert!(matches!(ws.open_run("r-1"), Err(StoreError::RunBusy { .. })));
    let mut reader = ws.follow_run::<u32>("r-1").expect("follows");
    log.append(&[1, 2]).expect("appends");
    assert_eq!(reader.next_batch().expect("reads"), [1, 2]);
    log.append_lazy(&[3]).expect("appends");
    log.append(&[4]).expect("appends");
    assert_eq!(reader.next_batch().expect("reads"), [3, 4]);
    assert!(ws.runs()[0].live);
    drop(log);
    assert!(!ws.runs()[0].live);
    let log = ws.open_run("r-1").expect("resumes");
    log.append(&[5]).expect("appends");
    assert_eq!(ws.read_run::<u32>("r-1").expect("reads"), [1, 2, 3, 4, 5]);
    assert_eq!(ws.read_header::<String>("r-1").expect("reads"), "the plan");
    assert!(matches!(ws.read_run::<u32>("r-2"), Err(StoreError::NoRun(_))));
    let _ = Digest::of(b"");
}
