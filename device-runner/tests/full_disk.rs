//! A device whose disk is full from some write on: every write of its life in turn.
//!
//! The device says which file and why, tells the engine of no failure, leaves nothing half-written, and does
//! the same work once there is room again.

mod common;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use common::{Engine, Place, stages, task};
use headstart_device::{DeviceError, Summary};
use headstart_disk::Disk;
use headstart_disk::simulated::{Fault, SimulatedDisk};
use headstart_env::Env;
use headstart_protocol::expr::Value;
use headstart_protocol::task::{Outcome, Task};
use headstart_protocol::{Stage, Type};
use serde_json::json;
use tokio_util::sync::CancellationToken;

const DIARY: &str = "{\"prompt\":\"hello\",\"response\":\"you\"}\n";

fn known_stages() -> Vec<Box<dyn Stage>> {
    vec![stages::jsonl(), stages::probe(Arc::new(AtomicUsize::new(0)))]
}

/// One task on the device's own data, and one on what is downloaded.
fn tasks(engine: &Engine, first: u64) -> [Task; 2] {
    let diary = task(first, "jsonl", Type::Dataset, &[("path", Value::Path("me.jsonl".into()))]);
    let model = engine.publish(Type::Model, &[("model.safetensors", b"weights")], json!({}));
    let prompts = engine.publish(Type::Dataset, &[("rows.jsonl", DIARY.as_bytes())], json!({ "rows": 1 }));
    let args = [("model", Value::Artifact(model)), ("prompts", Value::Artifact(prompts))];
    [diary, task(first + 1, "probe", Type::Responses, &args)]
}

async fn join(engine: &Engine, place: &Place, disk: &SimulatedDisk) -> Result<Summary, DeviceError> {
    loop {
        let env = Env { disk: disk.shared(), ..Env::system() };
        let options = place.options(engine);
        match headstart_device::run_in(options, known_stages(), CancellationToken::new(), env).await {
            // In one process: a thread of the device that stopped before still holds its folder.
            Err(DeviceError::Input(m)) if m.contains("in use") => tokio::task::yield_now().await,
            ended => return ended,
        }
    }
}

/// What the device keeps of artifacts, by name, whatever handle this device gives them.
fn kept(state: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![state.join("private"), state.join("public/blobs"), state.join("public/manifests")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            let name = path.file_name().expect("a name").to_string_lossy().into_owned();
            for temporary in [".tmp-", ".new-", ".old-"] {
                assert!(!name.starts_with(temporary), "{} is left", path.display());
            }
            if path.is_dir() {
                folders.push(path);
            } else if name != "artifact.json" {
                found.insert(name, std::fs::read(&path).expect("a file"));
            }
        }
    }
    found
}

/// Does both tasks on a fresh device; what was written, and what it keeps.
async fn undisturbed() -> (u64, BTreeMap<String, Vec<u8>>) {
    let (engine, place, disk) = (Engine::start().await, Place::new(), SimulatedDisk::new());
    place.write("me.jsonl", DIARY);
    tasks(&engine, 1).into_iter().for_each(|task| engine.offer(task));
    assert_eq!(join(&engine, &place, &disk).await.expect("runs"), Summary { done: 2, failed: 0 });
    (disk.writes(), kept(&place.state()))
}

async fn full_from(at: u64, expected: &BTreeMap<String, Vec<u8>>) {
    let (engine, place, disk) = (Engine::start().await, Place::new(), SimulatedDisk::new());
    place.write("me.jsonl", DIARY);
    tasks(&engine, 1).into_iter().for_each(|task| engine.offer(task));
    disk.fail_from(at, Fault::Full);
    // A device that finds no room for what may be lost, such as a row of its cache, goes on.
    if let Err(e) = join(&engine, &place, &disk).await {
        let said = e.to_string();
        assert_eq!(e.exit_code(), 1, "write {at}: {said}");
        assert!(said.contains("the disk is full"), "write {at}: {said}");
        assert!(said.contains(&*place.state().to_string_lossy()), "write {at}: {said}");
        let help = e.help().unwrap_or_default();
        assert!(help.contains("free some space"), "write {at}: {help}");
    }
    kept(&place.state());
    disk.repair();
    // The engine offers again what it has no answer to; answers that are in the outbox go out first.
    tasks(&engine, 3).into_iter().for_each(|task| engine.offer(task));
    join(&engine, &place, &disk).await.unwrap_or_else(|e| panic!("write {at}, with room again: {e}"));
    let commits = engine.commits();
    let failed = commits.iter().find(|c| !matches!(c.outcome, Outcome::Succeeded { .. }));
    assert!(failed.is_none(), "write {at}: {failed:?}");
    let fences: Vec<u64> = commits.iter().map(|c| c.fence).collect();
    assert!([3, 4].iter().all(|fence| fences.contains(fence)), "write {at}: {fences:?}");
    assert_eq!(kept(&place.state()), *expected, "write {at}");
}

#[tokio::test]
async fn a_full_disk_is_named_and_no_failure_of_a_stage() {
    let (writes, expected) = undisturbed().await;
    assert!(writes > 30 && expected.len() >= 5, "{writes} writes of {:?}", expected.keys());
    let full = u32::try_from(writes).expect("a small task");
    let sample = u64::from(headstart_testkit::cases(10, full).clamp(1, full));
    for at in (0..sample).map(|i| 1 + i * writes / sample) {
        full_from(at, &expected).await;
    }
}
