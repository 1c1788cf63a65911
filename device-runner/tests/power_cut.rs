//! A device whose power is cut at any write while it takes private work over, works on it and hands it in: what the
//! engine was told is delivered is worked on all the same, and nothing is delivered twice.

mod common;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use common::{Engine, Place, stages, task};
use headstart_device::history::{self, Ended};
use headstart_device::{Allowed, DeviceError, Summary, Until};
use headstart_disk::Disk;
use headstart_disk::simulated::{Fault, SimulatedDisk};
use headstart_env::Env;
use headstart_protocol::expr::Value;
use headstart_protocol::task::{Outcome, Task};
use headstart_protocol::wire::Commit;
use headstart_protocol::{ArtifactRef, Stage, Type};
use tokio_util::sync::CancellationToken;

const DIARY: &str = "{\"prompt\":\"hello\",\"response\":\"you\"}\n";

/// A private task on the owner's file.
fn diary(fence: u64) -> Task {
    let args = [("path", Value::Path("me.jsonl".into()))];
    Task { private: true, instance: 0, ..task(fence, "jsonl", Type::Dataset, &args) }
}

/// A private task on what the first one was promised to make.
fn measured(fence: u64, of: &ArtifactRef) -> Task {
    let args = [("data", Value::Artifact(of.clone()))];
    Task { private: true, instance: 1, ..task(fence, "evaluate", Type::Metrics, &args) }
}

fn known_stages(ran: &Arc<AtomicUsize>) -> Vec<Box<dyn Stage>> {
    let ran = Arc::clone(ran);
    let evaluate = stages::evaluate();
    let counted = stages::fake("evaluate", move |args, ctx| {
        ran.fetch_add(1, Ordering::SeqCst);
        evaluate.run(args, ctx)
    });
    vec![stages::jsonl(), counted]
}

async fn join(
    engine: &Engine,
    place: &Place,
    disk: &SimulatedDisk,
    ran: &Arc<AtomicUsize>,
) -> Result<Summary, DeviceError> {
    loop {
        let env = Env { disk: disk.shared(), ..Env::system() };
        let mut options = place.options(engine);
        (options.allowed, options.until) = (Allowed::NONE, Until::Idle(Duration::from_millis(50)));
        match headstart_device::run_in(options, known_stages(ran), CancellationToken::new(), env).await {
            // In one process: a thread of the device that stopped before still holds its folder.
            Err(DeviceError::Input(m)) if m.contains("in use") => tokio::task::yield_now().await,
            ended => return ended,
        }
    }
}

/// What was promised of an instance, each time that it was delivered: a device whose answer waits while the engine
/// offers the task once more hands in both, and an engine takes the first.
fn outputs(engine: &Engine, instance: u32) -> Vec<ArtifactRef> {
    let fences: Vec<u64> = {
        let inner = engine.lock();
        inner.offered.iter().filter(|t| t.instance == instance).map(|t| t.fence).collect()
    };
    let theirs = engine.commits().into_iter().filter(|c| fences.contains(&c.fence));
    let output = |c: Commit| match c.outcome {
        Outcome::Succeeded { output, .. } => output,
        other => panic!("not delivered: {other:?}"),
    };
    theirs.map(output).collect()
}

/// What was made under a handle lies in the private store.
fn made(state: &Path, output: &ArtifactRef) -> bool {
    let at = state.join("private").join(output.id.to_string()).join("artifact.json");
    let held = std::fs::read(&at).unwrap_or_else(|e| panic!("{}: {e}", at.display()));
    let held: serde_json::Value = serde_json::from_slice(&held).expect("JSON");
    held["manifest"].is_object()
}

/// Both tasks, the second after the first was delivered. An engine offers a task whose answer it has not got again,
/// under another fence.
async fn both(
    engine: &Engine,
    place: &Place,
    disk: &SimulatedDisk,
    ran: &Arc<AtomicUsize>,
    first_fence: u64,
) -> Result<(), DeviceError> {
    if outputs(engine, 0).is_empty() {
        engine.offer(diary(first_fence));
        join(engine, place, disk, ran).await?;
    }
    let mine = outputs(engine, 0)[0].clone();
    if outputs(engine, 1).is_empty() {
        engine.offer(measured(first_fence + 1, &mine));
        join(engine, place, disk, ran).await?;
    }
    Ok(())
}

async fn cut_at(at: u64) {
    let (engine, place, disk) = (Engine::start().await, Place::new(), SimulatedDisk::new());
    let ran = Arc::new(AtomicUsize::new(0));
    place.write("me.jsonl", DIARY);
    disk.fail_from(at, Fault::PowerOff);
    let _ = both(&engine, &place, &disk, &ran, 1).await;
    let (told, ran_before) = (engine.commits().len(), ran.load(Ordering::SeqCst));
    // Nothing of the device runs any more.
    engine.lock().tasks.clear();
    disk.lose_unsynced().expect("the disk below works");
    both(&engine, &place, &disk, &ran, 11).await.unwrap_or_else(|e| panic!("write {at}: {e}"));
    // What it said before the cut, it works on now, whether or not the engine asks for anything.
    join(&engine, &place, &disk, &ran).await.unwrap_or_else(|e| panic!("write {at}: {e}"));

    // Whoever cannot know that an answer arrived gives the same one again.
    let mut given: BTreeMap<u64, Commit> = BTreeMap::new();
    for commit in engine.commits() {
        let first = given.entry(commit.fence).or_insert_with(|| commit.clone());
        assert_eq!(*first, commit, "write {at}, {told} commits before the cut");
    }
    for output in [outputs(&engine, 0), outputs(&engine, 1)].concat() {
        assert!(made(&place.state(), &output), "write {at}: {output:?} was promised");
    }
    let waiting = std::fs::read_dir(place.state().join("queue")).expect("there").count();
    assert_eq!(waiting, 0, "write {at}: nothing waits any more");
    let ran = ran.load(Ordering::SeqCst);
    assert!(
        ran > 0 && ran - ran_before <= 1,
        "write {at}: ran {ran_before} times before the cut, {ran} in all"
    );
    let ended = history::read(&place.state().join("history.jsonl")).expect("a history");
    assert!(ended.iter().all(|e| e.ended == Ended::Succeeded), "write {at}: {ended:?}");
}

#[tokio::test]
async fn what_was_promised_is_kept_wherever_the_power_is_cut() {
    let (engine, place, disk) = (Engine::start().await, Place::new(), SimulatedDisk::new());
    let ran = Arc::new(AtomicUsize::new(0));
    place.write("me.jsonl", DIARY);
    both(&engine, &place, &disk, &ran, 1).await.expect("undisturbed");
    join(&engine, &place, &disk, &ran).await.expect("undisturbed");
    let writes = disk.writes();
    assert!(writes > 30, "{writes} writes");
    let full = u32::try_from(writes).expect("small tasks");
    let sample = u64::from(headstart_testkit::cases(8, full).clamp(1, full));
    for at in (0..sample).map(|i| 1 + i * writes / sample) {
        cut_at(at).await;
    }
}
