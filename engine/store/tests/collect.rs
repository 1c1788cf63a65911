//! What a collection keeps and removes, at every point at which it may be killed.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::mpsc::channel;

use headstart_disk::Disk;
use headstart_disk::simulated::{Fault, SimulatedDisk};
use headstart_protocol::{ArtifactRef, Digest, Output, Type};
use headstart_store::gc::{Collection, Named, Pin, choose};
use headstart_store::{Inventory, StoreError, Workspace};
use proptest::prelude::*;

fn id(n: usize) -> Digest {
    Digest::of(&n.to_le_bytes())
}

/// Artifacts that refer to earlier ones and share contents, and runs that name some of them.
fn workspaces() -> impl Strategy<Value = (Inventory, Vec<Named>)> {
    let artifact =
        (proptest::collection::vec(0usize..12, 0..3), proptest::collection::vec(0usize..100, 0..3));
    let artifacts = proptest::collection::vec(artifact, 1..16);
    let run = (0u64..6, proptest::bool::weighted(0.3), proptest::collection::btree_set(0usize..16, 0..5));
    let runs = proptest::collection::vec(run, 0..6);
    (artifacts, runs, proptest::collection::btree_set(0usize..14, 0..14)).prop_map(
        |(artifacts, runs, blobs)| {
            let mut stored = Inventory::default();
            for (i, (files, uses)) in artifacts.iter().enumerate() {
                let known = stored.artifacts.entry(id(i)).or_default();
                known.bytes = 10 + i as u64;
                known.files = files.iter().map(|f| id(1000 + f)).collect();
                known.uses = uses.iter().filter(|_| i > 0).map(|u| id(u % i.max(1))).collect();
            }
            stored.blobs = blobs.iter().map(|b| (id(1000 + b), 100 + *b as u64)).collect();
            let runs = runs.iter().enumerate().map(|(i, (at_ms, keep, names))| Named {
                run: format!("r{i}"),
                at_ms: *at_ms,
                keep: *keep,
                artifacts: names.iter().map(|n| id(*n)).collect(),
            });
            let runs = runs.collect();
            (stored, runs)
        },
    )
}

/// What is left of it.
fn rest(stored: &Inventory, gone: &Collection) -> Inventory {
    let mut rest = stored.clone();
    rest.artifacts.retain(|id, _| !gone.artifacts.contains(id));
    rest.blobs.retain(|digest, _| !gone.blobs.contains(digest));
    rest
}

fn reached(stored: &Inventory, named: &[Named], only_kept: bool) -> (BTreeSet<Digest>, BTreeSet<Digest>) {
    let from = named.iter().filter(|by| by.keep || !only_kept).flat_map(|by| by.artifacts.iter().copied());
    let artifacts = stored.reach(from);
    let files = artifacts.iter().flat_map(|id| stored.artifacts[id].files.iter().copied());
    let files = files.filter(|d| stored.blobs.contains_key(d)).collect();
    (artifacts, files)
}

/// What only one run names.
fn only_its(stored: &Inventory, named: &[Named], by: &Named) -> BTreeSet<Digest> {
    let others = named.iter().filter(|other| other.run != by.run);
    let others = stored.reach(others.flat_map(|other| other.artifacts.iter().copied()));
    stored.reach(by.artifacts.iter().copied()).difference(&others).copied().collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn what_is_kept_is_complete_and_no_more_goes_than_was_asked(
        (stored, named) in workspaces(),
        at_most in proptest::option::of(0u64..2000),
    ) {
        let gone = choose(&stored, &named, &BTreeSet::new(), at_most);
        let left = rest(&stored, &gone);
        prop_assert_eq!(left.bytes(), gone.left);
        prop_assert_eq!(stored.bytes(), gone.left + gone.freed);
        // What must stay is there, with everything that it refers to and every content.
        let (artifacts, files) = reached(&stored, &named, true);
        prop_assert!(artifacts.iter().all(|id| left.artifacts.contains_key(id)));
        prop_assert!(files.iter().all(|digest| left.blobs.contains_key(digest)));
        // What stays is as complete as it was.
        for artifact in left.artifacts.values() {
            prop_assert!(artifact.uses.iter().all(|used| left.artifacts.contains_key(used)));
            let had = |f: &&Digest| stored.blobs.contains_key(*f);
            prop_assert!(artifact.files.iter().filter(had).all(|f| left.blobs.contains_key(f)));
        }
        // What nobody names goes.
        let (known, contents) = reached(&stored, &named, false);
        prop_assert!(left.artifacts.keys().all(|id| known.contains(id)));
        prop_assert!(left.blobs.keys().all(|digest| contents.contains(digest)));
        match at_most {
            // All that need not stay goes.
            None => prop_assert_eq!(left.artifacts.keys().copied().collect::<BTreeSet<_>>(), artifacts),
            Some(most) => {
                let only_kept = left.artifacts.len() == artifacts.len() && left.blobs.len() == files.len();
                prop_assert!(gone.left <= most || only_kept, "{} left", gone.left);
                // No run lost anything while an older one that may lose results kept some that only it names.
                for by in named.iter().filter(|by| !by.keep) {
                    if only_its(&stored, &named, by).iter().any(|id| left.artifacts.contains_key(id)) {
                        let later = named.iter().filter(|other| !other.keep && other.at_ms > by.at_ms);
                        let mut lost = later.flat_map(|other| only_its(&stored, &named, other));
                        prop_assert!(lost.all(|id| !gone.artifacts.contains(&id)));
                    }
                }
            }
        }
        // Asked again, there is nothing more to do.
        let again = choose(&left, &named, &BTreeSet::new(), at_most);
        prop_assert!(again.artifacts.is_empty() && again.blobs.is_empty());
    }
}

fn put(ws: &Workspace, n: u64) -> ArtifactRef {
    let dir = ws.scratch("test").expect("a folder");
    let at = dir.path().join("n");
    std::fs::write(&at, n.to_string()).expect("written");
    let output = Output::new(Type::Metrics, serde_json::json!({ "n": n })).file("n", &at);
    ws.artifacts().import(&output).expect("stored").1
}

/// Two results that stay and three that go, two of which a run names.
fn prepared(dir: &Path) -> (Vec<ArtifactRef>, Vec<Named>) {
    let ws = Workspace::open(dir).expect("opens");
    let all: Vec<ArtifactRef> = (0..5).map(|n| put(&ws, n)).collect();
    for a in &all {
        ws.artifacts().materialize(&a.id).expect("opened by a stage");
    }
    let named = |run: &str, keep, which: &[usize]| Named {
        run: run.to_owned(),
        at_ms: 1,
        keep,
        artifacts: which.iter().map(|i| all[*i].id).collect(),
    };
    let named = vec![named("new", true, &[0, 1]), named("old", false, &[1, 2, 3])];
    (all, named)
}

fn collect(ws: &Workspace, named: &[Named]) -> Result<Collection, StoreError> {
    let locked = ws.exclusive(|| {})?;
    let found = choose(&ws.inventory()?, named, &ws.collected()?, None);
    ws.collect(&locked, &found)?;
    Ok(found)
}

/// A collection that ends at one point: what must be true then, and that the next one does the rest. Whether it was
/// interrupted at all.
fn killed(dir: &Path, stop: impl FnOnce(&SimulatedDisk)) -> bool {
    let (all, named) = prepared(dir);
    let disk = SimulatedDisk::new();
    let ws = Workspace::open_on(dir, disk.shared()).expect("opens");
    stop(&disk);
    let done = collect(&ws, &named).is_ok();
    drop(ws);
    disk.lose_unsynced().expect("the power goes");
    let ws = Workspace::open(dir).expect("opens");
    let on_purpose = ws.collected().expect("readable");
    for (i, a) in all.iter().enumerate() {
        let here = ws.artifacts().has(&a.id);
        assert!(here || i > 1, "what is kept is here");
        assert!(here || i == 4 || on_purpose.contains(&a.id), "what a run names went on purpose");
        assert_eq!(ws.artifacts().is_intact(&a.id).expect("readable"), here, "nothing is half here");
    }
    assert!(ws.verify(|_| {}).expect("readable").is_intact());
    // Asked again, it ends.
    collect(&ws, &named).expect("nothing fails");
    let left = ws.inventory().expect("readable");
    assert_eq!(left.artifacts.into_keys().collect::<BTreeSet<_>>(), BTreeSet::from([all[0].id, all[1].id]));
    assert_eq!(left.blobs.len(), 2);
    assert_eq!(ws.collected().expect("readable"), BTreeSet::from([all[2].id, all[3].id]));
    assert_eq!(std::fs::read_dir(dir.join("open")).expect("there").count(), 2);
    !done
}

#[test]
fn a_collection_that_is_killed_anywhere_loses_nothing_and_explains_what_is_gone() {
    let top = tempfile::tempdir().expect("a folder");
    let points = |what: &str, stop: fn(&SimulatedDisk, u64)| {
        let at =
            (1u64..).find(|at| !killed(&top.path().join(format!("{what}-{at}")), |disk| stop(disk, *at)));
        at.expect("it comes to its end")
    };
    let writes = points("write", |disk, at| disk.fail_from(disk.writes() + at, Fault::Broken));
    assert!(writes > 4, "{writes}");
    // Three artifacts with a content and a folder each.
    assert_eq!(points("removal", SimulatedDisk::stop_removing_from), 10);
}

#[test]
fn the_list_of_what_was_collected_forgets_what_no_run_names() {
    let top = tempfile::tempdir().expect("a folder");
    let (all, named) = prepared(top.path());
    let ws = Workspace::open(top.path()).expect("opens");
    collect(&ws, &named).expect("collects");
    assert!(ws.collected().expect("readable").contains(&all[2].id));
    collect(&ws, &named[..1]).expect("collects");
    assert_eq!(ws.collected().expect("readable"), BTreeSet::new());
}

#[test]
fn a_collection_waits_for_those_who_rely_on_results_and_they_for_it() {
    let top = tempfile::tempdir().expect("a folder");
    // As another process has it: locks belong to open files.
    let [ws, other] = [(); 2].map(|()| Workspace::open(top.path()).expect("opens"));
    let first = other.in_use().expect("locks");
    let second = other.in_use().expect("more never waits");
    let (said, waits) = channel();
    let (done, ends) = channel();
    let collector = std::thread::spawn(move || {
        let locked = ws.exclusive(move || said.send(()).expect("the test listens")).expect("locks");
        done.send("collected").expect("the test listens");
        drop(locked);
    });
    waits.recv().expect("it waits");
    let third = other.in_use().expect("more never waits, also while somebody waits to collect");
    drop((first, second));
    assert!(ends.try_recv().is_err(), "somebody relies on results");
    drop(third);
    assert_eq!(ends.recv(), Ok("collected"));
    collector.join().expect("ends");
    drop(other.in_use().expect("the collection has ended"));
}

#[test]
fn while_somebody_collects_nobody_begins_to_rely_on_anything() {
    let top = tempfile::tempdir().expect("a folder");
    let [ws, other] = [(); 2].map(|()| Workspace::open(top.path()).expect("opens"));
    let locked = ws.exclusive(|| panic!("nobody is there")).expect("locks");
    let (tell, hear) = channel();
    let user = std::thread::spawn(move || {
        let in_use = other.in_use().expect("locks");
        tell.send("in use").expect("the test listens");
        drop(in_use);
    });
    assert!(hear.try_recv().is_err());
    drop(locked);
    assert_eq!(hear.recv(), Ok("in use"));
    user.join().expect("ends");
}

#[test]
fn pins_that_cannot_be_read_are_an_error_and_never_none() {
    let top = tempfile::tempdir().expect("a folder");
    let ws = Workspace::open(top.path()).expect("opens");
    let pin = Pin {
        run: "r".into(),
        output: "catalog".into(),
        pipeline: "p.pllm".into(),
        artifacts: BTreeSet::from([id(1)]),
        pinned_ms: 7,
    };
    let locked = ws.exclusive(|| {}).expect("locks");
    ws.change_pins(&locked, |pins| pins.push(pin.clone())).expect("written");
    assert_eq!(ws.pins().expect("readable"), [pin]);
    std::fs::write(top.path().join("pins.json"), "{\"pins\": [{}]}").expect("written");
    let refused = ws.pins().expect_err("damaged");
    assert!(refused.to_string().contains("nothing is collected until then"), "{refused}");
}

#[test]
fn a_removed_run_is_gone_at_once_and_a_live_one_stays() {
    let top = tempfile::tempdir().expect("a folder");
    let ws = Workspace::open(top.path()).expect("opens");
    let log = ws.create_run("r", &()).expect("begins");
    let other = Workspace::open(top.path()).expect("opens");
    assert!(matches!(other.remove_run("r"), Err(StoreError::RunBusy { .. })));
    drop(log);
    // As a removal leaves it that was killed.
    std::fs::create_dir(top.path().join("runs/.removed-earlier")).expect("made");
    other.remove_run("r").expect("removed");
    assert_eq!(other.runs(), []);
    assert!(matches!(other.remove_run("r"), Err(StoreError::NoRun(_))));
    collect(&other, &[]).expect("collects");
    assert_eq!(std::fs::read_dir(top.path().join("runs")).expect("there").count(), 0);
}
