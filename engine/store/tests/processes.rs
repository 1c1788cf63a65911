//! Several processes on one workspace, and processes that are killed.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use headstart_protocol::{ArtifactRef, ArtifactType, Digest, Output, RowCache, Type};
use headstart_store::cache::Home;
use headstart_store::{CacheEntry, StoreError, Workspace};

/// The variables that make this program's test `child` do a part.
const PART: &str = "HEADSTART_TEST_PART";
const DIR: &str = "HEADSTART_TEST_DIR";

/// Not a test by itself: what the other process does.
#[test]
fn child() {
    let (Ok(part), Some(dir)) = (std::env::var(PART), std::env::var_os(DIR)) else { return };
    let ws = Workspace::open(Path::new(&dir)).expect("opens");
    match part.as_str() {
        "append" => {
            let log = ws.create_run("r", &()).expect("creates");
            for n in 0u64.. {
                let metrics = Output::new(Type::Metrics, serde_json::json!({ "loss": n }));
                let (_, reference) = ws.artifacts().import(&metrics).expect("imports");
                log.append(&[(n, reference.id)]).expect("appends");
                println!("durable {n}");
            }
        }
        "hold" => {
            ws.cache().put_embeddings(&digest(0), &[(digest(1), vec![1.0])]);
            ws.cache().flush();
            let _log = ws.create_run("held", &()).expect("creates");
            println!("holding {:?}", ws.cache().home().expect("a cache"));
            let mut line = String::new();
            std::io::stdin().read_line(&mut line).expect("reads");
        }
        other => panic!("no part {other}"),
    }
}

fn digest(n: u64) -> Digest {
    Digest::of(&n.to_le_bytes())
}

fn start(part: &str, dir: &Path) -> (Child, impl Iterator<Item = String> + use<>) {
    let mut child = Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", "child", "--nocapture", "--test-threads=1"])
        .envs([(PART, part.as_ref()), (DIR, dir.as_os_str())])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("starts");
    let lines = BufReader::new(child.stdout.take().expect("piped")).lines().map_while(Result::ok);
    (child, lines)
}

#[test]
fn what_was_called_durable_survives_a_kill() {
    let dir = tempfile::tempdir().expect("a folder");
    let (mut child, mut lines) = start("append", dir.path());
    let mut durable = 0;
    while durable < 40 {
        let line = lines.next().expect("the child continues");
        if let Some(n) = line.strip_prefix("durable ") {
            durable = n.parse().expect("a number");
        }
    }
    child.kill().expect("killed");
    child.wait().expect("ended");
    let ws = Workspace::open(dir.path()).expect("opens");
    let events: Vec<(u64, Digest)> = ws.read_run("r").expect("reads");
    assert!(events.len() as u64 > durable, "{} events, {durable} durable", events.len());
    for (i, (n, id)) in events.iter().enumerate() {
        assert_eq!(i as u64, *n);
        assert!(ws.artifacts().has(id), "an event speaks of it");
    }
    let log = ws.open_run("r").expect("the lock is free");
    log.append(&[(events.len() as u64, digest(0))]).expect("appends");
    assert_eq!(ws.read_run::<(u64, Digest)>("r").expect("reads").len(), events.len() + 1);
}

#[test]
fn commands_work_while_an_engine_has_the_workspace() {
    let dir = tempfile::tempdir().expect("a folder");
    let (mut child, mut lines) = start("hold", dir.path());
    let line = lines.find(|l| l.contains("holding")).expect("it begins");
    assert!(line.contains("holding File"), "{line}");
    let ws = Workspace::open(dir.path()).expect("opens");
    assert!(ws.is_live("held"));
    let error = ws.open_run("held").map(|_| ()).expect_err("busy");
    assert!(matches!(error, StoreError::RunBusy { pid: Some(pid), .. } if pid == child.id()), "{error}");
    assert_eq!(ws.read_run::<u32>("held").expect("reads"), Vec::<u32>::new());
    // The cache is empty, in memory, and works.
    assert_eq!(ws.cache().home(), Some(Home::Memory));
    assert_eq!(ws.cache().embeddings(&digest(0), &[digest(1)]), [None]);
    ws.cache().put_embeddings(&digest(0), &[(digest(2), vec![2.0])]);
    let output = ArtifactRef { id: digest(3), ty: ArtifactType::Metrics, private_to: None };
    let entry = CacheEntry { output, released: Default::default(), seconds: 1.0 };
    ws.cache().stage_put(&digest(3), "{}", &entry);
    ws.cache().flush();
    assert_eq!(ws.cache().embeddings(&digest(0), &[digest(2)]), [Some(vec![2.0])]);
    assert_eq!(ws.cache().stage_get(&digest(3)), Some(entry));
    assert!(ws.cache().clear().expect_err("not ours").contains("in use by another process"));
    drop(ws);
    child.stdin.take().expect("piped").write_all(b"\n").expect("written");
    assert!(child.wait().expect("ends").success());
    let ws = Workspace::open(dir.path()).expect("opens");
    assert_eq!(ws.cache().home(), Some(Home::File));
    assert_eq!(ws.cache().embeddings(&digest(0), &[digest(1), digest(2)]), [Some(vec![1.0]), None]);
    assert!(!ws.is_live("held"));
}
