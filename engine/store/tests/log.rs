//! The event log: what is appended is read back, whatever a crash leaves of the end; damage is
//! reported and never read past.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use headstart_store::{StoreError, Workspace};
use proptest::prelude::*;
use serde_json::{Value, json};

/// A workspace with one run of these groups of events, and where its log lies.
fn run(groups: &[Vec<Value>]) -> (tempfile::TempDir, Workspace, PathBuf) {
    let dir = tempfile::tempdir().expect("a folder");
    let ws = Workspace::open(dir.path()).expect("opens");
    let log = ws.create_run("r", &()).expect("creates");
    groups.iter().for_each(|g| log.append(g).expect("appends"));
    drop(log);
    let path = dir.path().join("runs/r/log/events");
    (dir, ws, path)
}

fn read(ws: &Workspace) -> Result<Vec<Value>, StoreError> {
    ws.read_run("r")
}

/// Three records, and where each begins.
fn three() -> (Vec<Vec<Value>>, Vec<usize>, Vec<u8>) {
    let groups =
        vec![vec![json!({"n": 1}), json!({"n": 2})], vec![json!("zwei\n\u{0}")], vec![json!({"end": true})]];
    let mut starts = vec![16];
    for n in 1..=3 {
        let (_dir, _ws, path) = run(&groups[..n]);
        starts.push(fs::read(path).expect("reads").len());
    }
    let (_dir, _ws, path) = run(&groups);
    (groups, starts, fs::read(path).expect("reads"))
}

#[test]
fn a_log_cut_anywhere_reads_as_a_prefix_and_can_be_continued() {
    let (groups, starts, whole) = three();
    let (_dir, ws, path) = run(&[]);
    for cut in 0..=whole.len() {
        fs::write(&path, &whole[..cut]).expect("written");
        let intact = starts[1..].iter().filter(|end| **end <= cut).count();
        let mut expected = groups[..intact].concat();
        assert_eq!(read(&ws).expect("reads"), expected, "cut at {cut}");
        let log = ws.open_run("r").expect("opens");
        log.append(&[json!("after")]).expect("appends");
        drop(log);
        expected.push(json!("after"));
        assert_eq!(read(&ws).expect("reads"), expected, "continued after a cut at {cut}");
    }
}

#[test]
fn a_changed_byte_is_reported_with_its_record() {
    let (_, starts, whole) = three();
    let (_dir, ws, path) = run(&[]);
    for at in 0..whole.len() {
        for mask in [0x01, 0x20, 0x80, 0xff] {
            let mut bytes = whole.clone();
            bytes[at] ^= mask;
            fs::write(&path, &bytes).expect("written");
            let record = starts.iter().rev().find(|s| **s <= at).copied().unwrap_or(0);
            for error in [read(&ws).expect_err("damaged"), ws.open_run("r").map(|_| ()).expect_err("damaged")]
            {
                match error {
                    StoreError::CorruptLog { offset, .. } => assert_eq!(offset as usize, record, "byte {at}"),
                    other => panic!("byte {at}: {other}"),
                }
            }
            assert_eq!(fs::read(&path).expect("reads"), bytes, "nothing is repaired by guessing");
        }
    }
}

#[test]
fn lost_repeated_and_exchanged_records_are_noticed() {
    let (_, s, whole) = three();
    let (_dir, ws, path) = run(&[]);
    let record = |n: usize| &whole[s[n]..s[n + 1]];
    for order in [vec![0, 2], vec![1, 2], vec![0, 0, 1, 2], vec![1, 0, 2], vec![0, 1, 2, 2]] {
        let mut bytes = whole[..16].to_vec();
        order.iter().for_each(|n| bytes.extend_from_slice(record(*n)));
        fs::write(&path, bytes).expect("written");
        assert!(matches!(read(&ws), Err(StoreError::CorruptLog { .. })), "{order:?}");
    }
}

#[test]
fn sectors_that_were_never_written_are_a_torn_tail_only_at_the_end() {
    let big = vec![json!("x".repeat(3000))];
    let (_dir, ws, path) = run(&[vec![json!(1)], big.clone(), vec![json!(2)]]);
    let whole = fs::read(&path).expect("reads");
    let mut hole = whole.clone();
    hole[1024..1536].fill(0);
    fs::write(&path, &hole).expect("written");
    assert!(matches!(read(&ws), Err(StoreError::CorruptLog { .. })), "an event follows the hole");

    let (_dir, ws, path) = run(&[vec![json!(1)], big]);
    let whole = fs::read(&path).expect("reads");
    for (from, to) in [(1024, 1536), (512, 1024), (whole.len() / 512 * 512, whole.len())] {
        let mut hole = whole.clone();
        hole[from..to].fill(0);
        fs::write(&path, &hole).expect("written");
        assert_eq!(read(&ws).expect("reads"), [json!(1)], "hole from {from}");
    }
    // Space that was set aside and not used.
    let mut padded = whole.clone();
    padded.resize(whole.len() + 4096, 0);
    fs::write(&path, &padded).expect("written");
    assert_eq!(read(&ws).expect("reads").len(), 2);
    drop(ws.open_run("r").expect("opens"));
    assert_eq!(fs::read(&path).expect("reads"), whole);
}

#[test]
fn events_of_another_version_are_reported_by_their_place() {
    let (_dir, ws, _) = run(&[vec![json!(1), json!(2)], vec![json!(3), json!("four")]]);
    match ws.read_run::<u32>("r") {
        Err(StoreError::UnknownEvent { number: 2, .. }) => {}
        other => panic!("{other:?}"),
    }
}

#[test]
fn many_writers_keep_their_own_order_and_lose_nothing() {
    let (_dir, ws, _) = run(&[]);
    let log = ws.open_run("r").expect("opens");
    let mut seen: Vec<(u32, u32)> = Vec::new();
    std::thread::scope(|s| {
        for t in 0..8u32 {
            let log = log.clone();
            s.spawn(move || {
                for n in 0..50u32 {
                    match n % 3 {
                        0 => log.append(&[(t, n)]).expect("appends"),
                        1 => log.append_lazy(&[(t, n)]).expect("appends"),
                        _ => drop(log.submit(&[(t, n)]).expect("appends")),
                    }
                }
            });
        }
        // Read while they write; lazy events are written by themselves.
        let start = Instant::now();
        while seen.len() < 400 {
            assert!(start.elapsed() < Duration::from_secs(20), "{} of 400 events", seen.len());
            let now: Vec<(u32, u32)> = ws.read_run("r").expect("reads");
            assert!(now.starts_with(&seen), "what was read stays");
            seen = now;
        }
    });
    for t in 0..8 {
        let own: Vec<u32> = seen.iter().filter(|e| e.0 == t).map(|e| e.1).collect();
        assert_eq!(own, (0..50).collect::<Vec<_>>());
    }
    drop(log);
    assert_eq!(ws.read_run::<(u32, u32)>("r").expect("reads"), seen);
}

#[test]
fn a_ticket_is_a_future() {
    let (_dir, ws, _) = run(&[]);
    let log = ws.open_run("r").expect("opens");
    let ticket = log.submit(&[1]).expect("submits");
    // A waker that unparks this thread is all the executor that is needed.
    struct Unpark(std::thread::Thread);
    impl std::task::Wake for Unpark {
        fn wake(self: std::sync::Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = std::sync::Arc::new(Unpark(std::thread::current())).into();
    let mut future = std::pin::pin!(ticket);
    let result = loop {
        match future.as_mut().poll(&mut std::task::Context::from_waker(&waker)) {
            std::task::Poll::Ready(result) => break result,
            std::task::Poll::Pending => std::thread::park(),
        }
    };
    result.expect("durable");
    assert_eq!(ws.read_run::<u32>("r").expect("reads"), [1]);
}

/// Any JSON, with the characters that could confuse a format of lines.
fn value() -> impl Strategy<Value = Value> {
    prop_oneof![
        any::<i64>().prop_map(Value::from),
        "(\\PC|\n|\r|\u{0}|HSR1){0,40}".prop_map(Value::from),
        prop::collection::vec(any::<bool>(), 0..4).prop_map(Value::from),
        ("[a-z]{0,3}", any::<u8>()).prop_map(|(k, v)| json!({ k: v })),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(headstart_testkit::cases(40, 4_000)))]

    #[test]
    fn what_is_appended_is_read(groups in prop::collection::vec(prop::collection::vec(value(), 0..5), 0..6)) {
        let (_dir, ws, _) = run(&groups);
        prop_assert_eq!(read(&ws).expect("reads"), groups.concat());
    }
}
