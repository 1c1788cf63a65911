//! The cache: what is put is found, now and in the next process; nothing that happens to the
//! database is an error.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::SystemTime;

use headstart_protocol::artifact::ArtifactType;
use headstart_protocol::task::Released;
use headstart_protocol::{ArtifactRef, Digest, RowCache};
use headstart_store::cache::{CoefficientRow, Home, PllmRow, RunRow, StageRunRow};
use headstart_store::{Cache, CacheEntry, Workspace};

fn digest(n: u64) -> Digest {
    Digest::of(&n.to_le_bytes())
}

fn entry(n: u64) -> CacheEntry {
    CacheEntry {
        output: ArtifactRef { id: digest(n), ty: ArtifactType::Metrics, private_to: None },
        released: BTreeMap::from([("loss".to_owned(), Released::Json(serde_json::json!(1.5)))]),
        seconds: n as f64,
    }
}

/// A workspace whose cache is not shared with others of this process.
fn open(dir: &Path) -> Workspace {
    Workspace::open(dir).expect("opens")
}

fn fill(cache: &Cache) {
    cache.put_embeddings(&digest(0), &[(digest(1), vec![1.0, 2.5]), (digest(2), vec![f32::MIN_POSITIVE])]);
    cache.put_responses(&digest(0), &digest(9), &[(digest(1), "Grüße, „you“\n\0".to_owned())]);
    cache.stage_put(&digest(5), r#"{"kind":"probe"}"#, &entry(5));
}

fn assert_filled(cache: &Cache) {
    let vectors = cache.embeddings(&digest(0), &[digest(3), digest(2), digest(1), digest(2)]);
    let tiny = Some(vec![f32::MIN_POSITIVE]);
    assert_eq!(vectors, [None, tiny.clone(), Some(vec![1.0, 2.5]), tiny]);
    assert_eq!(cache.embeddings(&digest(7), &[digest(1)]), [None], "another space");
    let answers = cache.responses(&digest(0), &digest(9), &[digest(1), digest(2)]);
    assert_eq!(answers, [Some("Grüße, „you“\n\0".to_owned()), None]);
    assert_eq!(cache.responses(&digest(0), &digest(8), &[digest(1)]), [None], "other settings");
    assert_eq!(cache.stage_get_many(&[digest(6), digest(5)]), [None, Some(entry(5))]);
    assert_eq!(cache.preimage(&digest(5)).as_deref(), Some(r#"{"kind":"probe"}"#));
}

fn assert_empty(cache: &Cache) {
    assert_eq!(cache.embeddings(&digest(0), &[digest(1)]), [None]);
    assert_eq!(cache.responses(&digest(0), &digest(9), &[digest(1)]), [None]);
    assert_eq!(cache.stage_get(&digest(5)), None);
    assert_eq!(cache.preimage(&digest(5)), None);
}

#[test]
fn remembers_at_once_after_writing_and_in_the_next_process() {
    let dir = tempfile::tempdir().expect("a folder");
    let ws = open(dir.path());
    assert_empty(ws.cache());
    fill(ws.cache());
    assert_filled(ws.cache());
    ws.cache().flush();
    assert_filled(ws.cache());
    drop(ws);
    let ws = open(dir.path());
    assert_filled(ws.cache());
    assert_eq!(ws.cache().home(), Some(Home::File));
}

#[test]
fn the_last_put_counts_and_forgetting_lasts() {
    let dir = tempfile::tempdir().expect("a folder");
    let ws = open(dir.path());
    let cache = ws.cache();
    for (n, flush) in [(1, false), (2, true), (3, false)] {
        cache.stage_put(&digest(5), "{}", &entry(n));
        cache.stage_put(&digest(6), "{}", &entry(n));
        if flush {
            cache.flush();
        }
    }
    cache.stage_forget(&digest(6));
    drop(ws);
    let ws = open(dir.path());
    assert_eq!(ws.cache().stage_get_many(&[digest(5), digest(6)]), [Some(entry(3)), None]);
    let rows = ws.cache().query("SELECT count(*) FROM stage_cache").expect("a query").rows;
    assert_eq!(rows, [[Some("1".to_owned())]]);
}

#[test]
fn rows_put_twice_are_kept_once() {
    let dir = tempfile::tempdir().expect("a folder");
    let ws = open(dir.path());
    for _ in 0..3 {
        fill(ws.cache());
        ws.cache().flush();
    }
    let sql = "SELECT (SELECT count(*) FROM embeddings), (SELECT count(*) FROM responses), \
               (SELECT count(*) FROM stage_cache)";
    let rows = ws.cache().query(sql).expect("a query").rows;
    assert_eq!(rows, [["2", "1", "1"].map(|n| Some(n.to_owned()))]);
}
