//! Several processes on one workspace, and processes that are killed.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use headstart_protocol::{ArtifactRef, ArtifactType, Digest, Output, RowCache, Type};
use headstart_store::cache::{Claimed, Holder};
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
            let _log = ws.create_run("held", &()).expect("creates");
            println!("holding");
            wait();
        }
        "put" => {
            for n in 0u64.. {
                ws.cache().stage_put(&digest(n), "{}", &entry(n));
                ws.cache().put_embeddings(&digest(0), &[(digest(n), vec![n as f32])]);
                println!("put {n}");
            }
        }
        "compute" => {
            for n in 0..STAGES {
                compute(&ws, n);
            }
            println!("computed");
            // Others read what this one wrote while it lives, and each finds everything.
            wait();
            assert!((0..STAGES).all(|n| ws.cache().stage_get(&digest(n)) == Some(entry(n))));
            ws.cache().flush();
        }
        "claim" => {
            let Ok(Claimed::Ours(_claim)) = ws.cache().claim(&digest(0), "first") else { panic!("not ours") };
            println!("claimed");
            wait();
        }
        other => panic!("no part {other}"),
    }
}

/// Stages that several processes compute at once.
const STAGES: u64 = 30;

/// Waits until the parent says so.
fn wait() {
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).expect("reads");
}

/// Computes a stage unless another process does; says so in a file that all append to.
fn compute(ws: &Workspace, n: u64) {
    while ws.cache().stage_get(&digest(n)).is_none() {
        let Claimed::Ours(claim) = ws.cache().claim(&digest(n), "r").expect("claims") else {
            std::thread::sleep(std::time::Duration::from_millis(1));
            continue;
        };
        if ws.cache().stage_get(&digest(n)).is_none() {
            let path = ws.dir().join("computed");
            let mut file = std::fs::File::options().append(true).create(true).open(path).expect("opens");
            file.write_all(format!("{n}\n").as_bytes()).expect("written");
            ws.cache().stage_put(&digest(n), "{}", &entry(n));
        }
        drop(claim);
    }
}

fn entry(n: u64) -> CacheEntry {
    let output = ArtifactRef { id: digest(n), ty: ArtifactType::Metrics, private_to: None };
    CacheEntry { output, released: Default::default(), seconds: n as f64 }
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

fn go_on(child: &mut Child) {
    child.stdin.take().expect("piped").write_all(b"\n").expect("written");
}

#[test]
fn everything_works_while_an_engine_has_the_workspace() {
    let dir = tempfile::tempdir().expect("a folder");
    let (mut child, mut lines) = start("hold", dir.path());
    lines.find(|l| l.contains("holding")).expect("it begins");
    let ws = Workspace::open(dir.path()).expect("opens");
    assert!(ws.is_live("held"));
    let error = ws.open_run("held").map(|_| ()).expect_err("busy");
    assert!(matches!(error, StoreError::RunBusy { pid: Some(pid), .. } if pid == child.id()), "{error}");
    assert_eq!(ws.read_run::<u32>("held").expect("reads"), Vec::<u32>::new());
    // The whole cache is here, and the other's rows are in the database that people query.
    assert_eq!(ws.cache().embeddings(&digest(0), &[digest(1)]), [Some(vec![1.0])]);
    ws.cache().put_embeddings(&digest(0), &[(digest(2), vec![2.0])]);
    ws.cache().stage_put(&digest(3), "{}", &entry(3));
    let rows = ws.cache().query("SELECT count(*) FROM embeddings").expect("a query").rows;
    assert_eq!(rows, [[Some("2".to_owned())]]);
    assert_eq!(ws.cache().stage_get(&digest(3)), Some(entry(3)));
    let refused = ws.cache().clear().expect_err("another process appends to it");
    assert!(refused.contains(&format!("in use by another headstart (process {})", child.id())), "{refused}");
    drop(ws);
    go_on(&mut child);
    assert!(child.wait().expect("ends").success());
    let ws = Workspace::open(dir.path()).expect("opens");
    let rows = ws.cache().embeddings(&digest(0), &[digest(1), digest(2)]);
    assert_eq!(rows, [Some(vec![1.0]), Some(vec![2.0])]);
    assert!(!ws.is_live("held"));
    ws.cache().clear().expect("nobody has it");
    assert_eq!(ws.cache().embeddings(&digest(0), &[digest(1)]), [None]);
}

#[test]
fn what_a_killed_process_put_counts() {
    let dir = tempfile::tempdir().expect("a folder");
    let (mut child, mut lines) = start("put", dir.path());
    let ws = Workspace::open(dir.path()).expect("opens");
    let mut put = 0;
    while put < 300 {
        let line = lines.next().expect("the child continues");
        let Some(n) = line.strip_prefix("put ") else { continue };
        put = n.parse().expect("a number");
        // At once, while the other appends.
        assert_eq!(ws.cache().stage_get(&digest(put)), Some(entry(put)), "{put}");
        assert_eq!(ws.cache().embeddings(&digest(0), &[digest(put)]), [Some(vec![put as f32])]);
    }
    child.kill().expect("killed");
    child.wait().expect("ended");
    let rows = ws.cache().query("SELECT count(*) FROM stage_cache").expect("a query").rows;
    let count: u64 = rows[0][0].as_deref().expect("a number").parse().expect("a number");
    assert!(count > put, "{count} rows, {put} put");
    drop(ws);
    let ws = Workspace::open(dir.path()).expect("opens");
    assert!((0..=put).all(|n| ws.cache().stage_get(&digest(n)) == Some(entry(n))));
    assert!(ws.verify(|_| ()).expect("reads").is_intact());
}

#[test]
fn each_stage_is_computed_once_by_several_processes() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut children: Vec<_> = (0..4).map(|_| start("compute", dir.path())).collect();
    for (_, lines) in &mut children {
        lines.find(|l| l.contains("computed")).expect("it computes");
    }
    children.iter_mut().for_each(|(child, _)| go_on(child));
    for (child, _) in &mut children {
        assert!(child.wait().expect("ends").success());
    }
    let text = std::fs::read_to_string(dir.path().join("computed")).expect("reads");
    let mut computed: Vec<u64> = text.lines().map(|l| l.parse().expect("a number")).collect();
    computed.sort_unstable();
    assert_eq!(computed, (0..STAGES).collect::<Vec<_>>(), "each once");
    let claims = std::fs::read_dir(dir.path().join("claims")).expect("reads").flatten();
    let left: Vec<_> = claims.map(|e| e.file_name()).collect();
    assert_eq!(left, ["lock"], "processes leave nothing behind");
    let ws = Workspace::open(dir.path()).expect("opens");
    let rows =
        ws.cache().query("SELECT count(*), count(DISTINCT key) FROM stage_cache").expect("a query").rows;
    assert_eq!(rows, [[STAGES.to_string(), STAGES.to_string()].map(Some)]);
}

#[test]
fn a_claim_ends_with_its_process() {
    let dir = tempfile::tempdir().expect("a folder");
    let (mut child, mut lines) = start("claim", dir.path());
    lines.find(|l| l.contains("claimed")).expect("it claims");
    let ws = Workspace::open(dir.path()).expect("opens");
    let holder = Holder { run: "first".to_owned(), process: child.id() };
    match ws.cache().claim(&digest(0), "second").expect("looks") {
        Claimed::Held(found) => assert_eq!(found, holder),
        Claimed::Ours(_) => panic!("the other has it"),
    }
    assert_eq!(ws.cache().claim_holder(&digest(0)), Some(holder));
    assert_eq!(ws.cache().claim_holder(&digest(1)), None);
    child.kill().expect("killed");
    child.wait().expect("ended");
    assert_eq!(ws.cache().claim_holder(&digest(0)), None);
    assert!(matches!(ws.cache().claim(&digest(0), "second"), Ok(Claimed::Ours(_))));
}
