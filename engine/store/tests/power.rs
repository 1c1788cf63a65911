//! The cache lags the log by nothing: whenever the power goes, it knows every stage that the log calls committed.

use std::path::Path;

use headstart_disk::Disk;
use headstart_disk::simulated::{Fault, SimulatedDisk};
use headstart_protocol::{ArtifactRef, Digest, Output, RowCache, Type};
use headstart_store::{CacheEntry, StoreError, Workspace};

const STAGES: u64 = 6;

fn key(n: u64) -> Digest {
    Digest::of(&n.to_le_bytes())
}

fn entry(output: ArtifactRef) -> CacheEntry {
    CacheEntry { output, released: Default::default(), seconds: 1.0 }
}

/// Commits stages one by one, as a run does, until the disk fails.
fn run(dir: &Path, disk: &SimulatedDisk) -> Result<(), StoreError> {
    let ws = Workspace::open_on(dir, disk.shared())?;
    let log = ws.create_run("r", &())?;
    for n in 0..STAGES {
        let metrics = Output::new(Type::Metrics, serde_json::json!({ "loss": n }));
        let (_, reference) = ws.artifacts().import(&metrics)?;
        ws.cache().put_embeddings(&key(100), &[(key(n), vec![n as f32; 200])]);
        ws.cache().stage_put(&key(n), "{}", &entry(reference.clone()));
        log.append(&[(n, reference)])?;
    }
    Ok(())
}

/// What the log of a run calls committed after the power went.
fn committed(ws: &Workspace) -> Vec<(u64, ArtifactRef)> {
    match ws.read_run("r") {
        Ok(events) => events,
        // It had not begun.
        Err(StoreError::NoRun(_)) => Vec::new(),
        Err(e) => panic!("{e}"),
    }
}

#[test]
fn the_cache_knows_what_the_log_has_committed() {
    let top = tempfile::tempdir().expect("a folder");
    let undisturbed = SimulatedDisk::new();
    run(&top.path().join("whole"), &undisturbed).expect("nothing fails");
    let writes = undisturbed.writes();
    assert!(writes > 40, "{writes}");
    let mut most = 0;
    for fault in [Fault::Broken, Fault::Full] {
        for at in 1..=writes {
            let dir = top.path().join(format!("{fault:?}-{at}"));
            let disk = SimulatedDisk::new();
            disk.fail_from(at, fault);
            // What is written when everything is closed may fail too.
            let _ = run(&dir, &disk);
            disk.lose_unsynced().expect("the power goes");
            let ws = Workspace::open(&dir).expect("opens");
            let events = committed(&ws);
            most = most.max(events.len());
            for (n, output) in events {
                assert!(ws.artifacts().has(&output.id), "{fault:?} at write {at}: the output of stage {n}");
                let known = ws.cache().stage_get(&key(n));
                assert_eq!(known, Some(entry(output)), "{fault:?} at write {at}: stage {n}");
            }
            // Rows may be lost, but are never wrong.
            for n in 0..STAGES {
                let row = ws.cache().embeddings(&key(100), &[key(n)]).remove(0);
                assert!(row.is_none_or(|row| row == vec![n as f32; 200]), "{fault:?} at write {at}");
            }
        }
    }
    assert_eq!(most as u64, STAGES);
}

#[test]
fn a_segment_that_fails_once_loses_no_stage() {
    let top = tempfile::tempdir().expect("a folder");
    let undisturbed = SimulatedDisk::new();
    run(&top.path().join("whole"), &undisturbed).expect("nothing fails");
    for at in 1..=undisturbed.writes() {
        let dir = top.path().join(format!("at-{at}"));
        let disk = SimulatedDisk::new();
        disk.fail_once(at, Fault::Full);
        let done = run(&dir, &disk).is_ok();
        disk.lose_unsynced().expect("the power goes");
        let ws = Workspace::open(&dir).expect("opens");
        let events = committed(&ws);
        assert!(!done || events.len() as u64 == STAGES, "write {at}");
        for (n, output) in events {
            assert_eq!(ws.cache().stage_get(&key(n)), Some(entry(output)), "write {at}: stage {n}");
        }
    }
}
