//! The cache: what is put is found, now and in the next process; nothing that happens to the
//! database is an error.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::SystemTime;

use headstart_protocol::task::Released;
use headstart_protocol::{ArtifactRef, ArtifactType, Digest, RowCache};
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

#[test]
fn a_damaged_database_is_set_aside() {
    for damage in ["rubbish".repeat(5000), String::new(), "x".to_owned()] {
        let dir = tempfile::tempdir().expect("a folder");
        let ws = open(dir.path());
        fill(ws.cache());
        let path = ws.cache().path().to_owned();
        drop(ws);
        fs::write(&path, &damage).expect("written");
        let ws = open(dir.path());
        assert_empty(ws.cache());
        fill(ws.cache());
        drop(ws);
        assert_filled(open(dir.path()).cache());
        let names = fs::read_dir(dir.path()).expect("reads").flatten().map(|e| e.file_name());
        let aside: Vec<_> =
            names.filter(|n| n.to_string_lossy().starts_with("cache.duckdb.damaged-")).collect();
        assert_eq!(aside.len(), 1, "{aside:?}");
    }
}

#[test]
fn a_database_with_a_hole_is_no_error() {
    let dir = tempfile::tempdir().expect("a folder");
    let ws = open(dir.path());
    let rows: Vec<_> = (0..3000).map(|n| (digest(n), vec![n as f32; 64])).collect();
    ws.cache().put_embeddings(&digest(0), &rows);
    fill(ws.cache());
    let path = ws.cache().path().to_owned();
    drop(ws);
    let mut bytes = fs::read(&path).expect("reads");
    let middle = bytes.len() / 4;
    bytes[middle..].fill(0xa5);
    fs::write(&path, bytes).expect("written");
    // Whatever is found is right, and the next process but one is well again.
    for _ in 0..2 {
        let ws = open(dir.path());
        let keys: Vec<Digest> = rows.iter().map(|r| r.0).collect();
        for (found, (_, vector)) in ws.cache().embeddings(&digest(0), &keys).into_iter().zip(&rows) {
            assert!(found.is_none_or(|f| f == *vector));
        }
        ws.cache().stage_get(&digest(5));
        ws.cache().responses(&digest(0), &digest(9), &[digest(1)]);
    }
    let ws = open(dir.path());
    fill(ws.cache());
    drop(ws);
    assert_filled(open(dir.path()).cache());
}

#[test]
fn workspaces_of_one_process_share_the_cache() {
    let dir = tempfile::tempdir().expect("a folder");
    let (a, b) = (open(dir.path()), open(dir.path()));
    fill(a.cache());
    assert_filled(b.cache());
    drop(a);
    assert_filled(b.cache());
    drop(b);
    assert_filled(open(dir.path()).cache());
}

#[test]
fn many_threads_put_and_get() {
    let dir = tempfile::tempdir().expect("a folder");
    let ws = open(dir.path());
    std::thread::scope(|s| {
        for t in 0..4u64 {
            let cache = ws.cache().clone();
            s.spawn(move || {
                for n in (t * 1000)..(t * 1000 + 100) {
                    cache.put_embeddings(&digest(0), &[(digest(n), vec![n as f32])]);
                    cache.stage_put(&digest(n), "{}", &entry(n));
                    if n % 25 == 0 {
                        cache.flush();
                    }
                    assert_eq!(cache.embeddings(&digest(0), &[digest(n)]), [Some(vec![n as f32])]);
                    assert_eq!(cache.stage_get(&digest(n)), Some(entry(n)));
                }
            });
        }
    });
    let rows =
        ws.cache().query("SELECT count(*), count(DISTINCT text) FROM embeddings").expect("a query").rows;
    assert_eq!(rows, [["400", "400"].map(|n| Some(n.to_owned()))]);
}

#[test]
fn more_rows_than_an_index_is_used_for() {
    let dir = tempfile::tempdir().expect("a folder");
    let ws = open(dir.path());
    let rows: Vec<_> = (0..5000).map(|n| (digest(n), vec![n as f32, -1.0])).collect();
    ws.cache().put_embeddings(&digest(0), &rows);
    ws.cache().put_embeddings(&digest(1), &rows[..10]);
    ws.cache().flush();
    for n in [1, 100, 4000] {
        let keys: Vec<Digest> = (2500..2500 + n).map(digest).collect();
        let found = ws.cache().embeddings(&digest(0), &keys);
        for (i, found) in (2500..2500 + n).zip(found) {
            assert_eq!(found, (i < 5000).then(|| vec![i as f32, -1.0]), "row {i} of {n}");
        }
    }
}

#[test]
fn runs_and_catalogs_can_be_queried() {
    let dir = tempfile::tempdir().expect("a folder");
    let ws = open(dir.path());
    let run = |status: &str| RunRow {
        id: "r-1".to_owned(),
        pipeline: "personalize.pllm".to_owned(),
        status: status.to_owned(),
        started: SystemTime::UNIX_EPOCH,
        finished: None,
        stages: 2,
        cached: 1,
        ran: 1,
        failed: 0,
    };
    let stage = StageRunRow {
        name: "said[\"friendly\"]".to_owned(),
        counters: BTreeMap::from([("tokens".to_owned(), 7)]),
        ..StageRunRow::default()
    };
    ws.cache().record_run(run("running"), Vec::new());
    ws.cache().flush();
    ws.cache().record_run(run("done"), vec![stage.clone(), stage]);
    let pllm = PllmRow {
        name: "friendly".to_owned(),
        pllm: digest(1),
        base: digest(2),
        rows: Some(9),
        explained: 0.5,
    };
    let coefficient = CoefficientRow {
        name: "friendly".to_owned(),
        atom: "warm".to_owned(),
        coefficient: 0.75,
        low: 0.5,
        high: 1.0,
    };
    for _ in 0..2 {
        ws.cache().record_catalog(&digest(3), vec![pllm.clone()], vec![coefficient.clone()]);
    }
    let sql = "SELECT status, started, count(*) AS n, any_value(s.counters) AS c FROM runs r \
               JOIN stage_runs s ON s.run = r.id GROUP BY ALL; ";
    let table = ws.cache().query(sql).expect("a query");
    assert_eq!(table.columns, ["status", "started", "n", "c"]);
    assert_eq!(
        table.rows,
        [["done", "1970-01-01 00:00:00", "2", r#"{"tokens":7}"#].map(|v| Some(v.to_owned()))]
    );
    let sql = "SELECT name, atom, coefficient, explained FROM coefficients JOIN pllms USING (catalog, name)";
    let rows = ws.cache().query(sql).expect("a query").rows;
    assert_eq!(rows, [["friendly", "warm", "0.75", "0.5"].map(|v| Some(v.to_owned()))]);
    assert!(ws.cache().query("SELECT * FROM nothing").is_err());
    let undocumented = "SELECT table_name, column_name FROM duckdb_columns() WHERE comment IS NULL \
                        AND database_name = 'cache' AND table_name <> 'meta' AND NOT internal";
    assert_eq!(ws.cache().query(undocumented).expect("a query").rows, Vec::<Vec<_>>::new());
}

#[test]
fn clearing_forgets_rows_and_stages_for_good() {
    let dir = tempfile::tempdir().expect("a folder");
    let ws = open(dir.path());
    for _ in 0..2 {
        fill(ws.cache());
        assert_filled(ws.cache());
        ws.cache().clear().expect("clears");
        assert_empty(ws.cache());
    }
    drop(ws);
    assert_empty(open(dir.path()).cache());
}
