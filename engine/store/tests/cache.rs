//! The cache: what is put is found, now and in the next process; nothing that happens to the
//! database is an error.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::SystemTime;

use headstart_protocol::task::Released;
use headstart_protocol::{ArtifactRef, ArtifactType, Digest, RowCache};
use headstart_store::cache::{CoefficientRow, PllmRow, RunRow, StageRunRow};
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
    let rows = ws.cache().query("SELECT entry FROM stage_cache").expect("a query").rows;
    assert_eq!(rows, [[Some(serde_json::to_string(&entry(3)).expect("JSON"))]]);
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

fn aside(dir: &Path) -> usize {
    let names = fs::read_dir(dir).expect("reads").flatten().map(|e| e.file_name());
    names.filter(|n| n.to_string_lossy().starts_with("cache.duckdb.damaged-")).count()
}

fn counts(cache: &Cache) -> Vec<Option<String>> {
    let sql = "SELECT (SELECT count(*) FROM embeddings), (SELECT count(*) FROM responses), \
               (SELECT count(*) FROM stage_cache)";
    cache.query(sql).expect("a query").rows.remove(0)
}

#[test]
fn a_damaged_database_loses_nothing() {
    for damage in ["rubbish".repeat(5000), String::new(), "x".to_owned()] {
        let dir = tempfile::tempdir().expect("a folder");
        let ws = open(dir.path());
        fill(ws.cache());
        ws.cache().flush();
        let path = ws.cache().path().to_owned();
        drop(ws);
        fs::write(&path, &damage).expect("written");
        let ws = open(dir.path());
        assert_filled(ws.cache());
        // Made again when it is needed.
        assert_eq!(counts(ws.cache()), ["2", "1", "1"].map(|n| Some(n.to_owned())));
        assert_eq!(aside(dir.path()), 1);
        drop(ws);
        assert_filled(open(dir.path()).cache());
    }
}

#[test]
fn a_database_with_a_hole_is_found_and_repaired() {
    let dir = tempfile::tempdir().expect("a folder");
    let ws = open(dir.path());
    let rows: Vec<_> = (0..3000).map(|n| (digest(n), vec![n as f32; 64])).collect();
    ws.cache().put_embeddings(&digest(0), &rows);
    fill(ws.cache());
    ws.cache().flush();
    let path = ws.cache().path().to_owned();
    drop(ws);
    let mut bytes = fs::read(&path).expect("reads");
    let middle = bytes.len() / 4;
    bytes[middle..].fill(0xa5);
    fs::write(&path, bytes).expect("written");
    let ws = open(dir.path());
    let keys: Vec<Digest> = rows.iter().map(|r| r.0).collect();
    for (found, (n, vector)) in ws.cache().embeddings(&digest(0), &keys).into_iter().zip(&rows) {
        let twice = [digest(1), digest(2)].contains(n);
        assert!(twice || found.as_ref() == Some(vector), "{found:?}");
    }
    let report = ws.verify(|_| ()).expect("reads");
    assert_eq!(report.cache.iter().map(|d| &d.path).collect::<Vec<_>>(), [&path]);
    let repairs = ws.repair(&report).expect("repairs");
    assert_eq!(repairs.cache.repaired.len(), 1);
    assert!(ws.verify(|_| ()).expect("reads").is_intact());
    assert_eq!(counts(ws.cache())[2], Some("1".to_owned()));
    assert_eq!(aside(dir.path()), 1);
}

/// The only segment of a cache whose processes are gone.
fn segment(dir: &Path) -> std::path::PathBuf {
    let entries = fs::read_dir(dir.join("cache")).expect("reads").flatten().map(|e| e.path());
    let mut found: Vec<_> = entries.filter(|p| p.extension().is_some_and(|e| e == "seg")).collect();
    assert_eq!(found.len(), 1, "{found:?}");
    found.remove(0)
}

#[test]
fn a_damaged_segment_loses_one_entry_and_gets_it_back_from_the_database() {
    for folded in [false, true] {
        let dir = tempfile::tempdir().expect("a folder");
        let ws = open(dir.path());
        for n in 0..20 {
            ws.cache().stage_put(&digest(n), "{}", &entry(n));
        }
        if folded {
            ws.cache().flush();
        }
        drop(ws);
        let path = segment(dir.path());
        let mut bytes = fs::read(&path).expect("reads");
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&path, bytes).expect("written");
        let ws = open(dir.path());
        let found =
            |ws: &Workspace| (0..20).filter(|n| ws.cache().stage_get(&digest(*n)) == Some(entry(*n))).count();
        assert_eq!(found(&ws), 19);
        let report = ws.verify(|_| ()).expect("reads");
        assert_eq!(report.cache.len(), 1, "{:?}", report.cache);
        assert!(report.cache[0].why.starts_with("damaged at byte "), "{}", report.cache[0].why);
        let repairs = ws.repair(&report).expect("repairs");
        let [(repaired, Some(copy))] = &repairs.cache.repaired[..] else { panic!("{repairs:?}") };
        assert_eq!(repaired, &path);
        assert!(copy.is_file(), "the damaged one is kept");
        assert!(ws.verify(|_| ()).expect("reads").is_intact());
        assert_eq!(found(&ws), if folded { 20 } else { 19 });
        drop(ws);
        assert_eq!(found(&open(dir.path())), if folded { 20 } else { 19 });
    }
}

#[test]
fn a_damaged_index_is_made_again() {
    let dir = tempfile::tempdir().expect("a folder");
    let ws = open(dir.path());
    fill(ws.cache());
    drop(ws);
    let path = segment(dir.path()).with_extension("idx");
    let intact = fs::read(&path).expect("reads");
    for at in [0, 40, intact.len() / 2, intact.len() - 1] {
        let mut bytes = intact.clone();
        bytes[at] ^= 0xff;
        fs::write(&path, &bytes).expect("written");
        let ws = open(dir.path());
        assert_filled(ws.cache());
        let report = ws.verify(|_| ()).expect("reads");
        assert_eq!(report.cache.iter().map(|d| &d.path).collect::<Vec<_>>(), [&path], "byte {at}");
        ws.repair(&report).expect("repairs");
        assert!(ws.verify(|_| ()).expect("reads").is_intact());
        drop(ws);
        assert_filled(open(dir.path()).cache());
    }
    fs::remove_file(&path).expect("removed");
    assert_filled(open(dir.path()).cache());
}

#[test]
fn small_segments_are_merged_and_say_the_same() {
    let dir = tempfile::tempdir().expect("a folder");
    for n in 0..20u64 {
        let ws = open(dir.path());
        ws.cache().stage_put(&digest(n), "{}", &entry(n));
        ws.cache().stage_put(&digest(1000), "{}", &entry(n));
        ws.cache().put_embeddings(&digest(0), &[(digest(n), vec![n as f32])]);
        if n == 15 {
            ws.cache().stage_forget(&digest(3));
        }
        ws.cache().flush();
        drop(ws);
        let ws = open(dir.path());
        assert_eq!(ws.cache().stage_get(&digest(1000)), Some(entry(n)), "the newest counts");
        for k in 0..=n {
            let expected = (k != 3 || n < 15).then(|| entry(k));
            assert_eq!(ws.cache().stage_get(&digest(k)), expected, "{k} after {n}");
            assert_eq!(ws.cache().embeddings(&digest(0), &[digest(k)]), [Some(vec![k as f32])]);
        }
    }
    let entries = fs::read_dir(dir.path().join("cache")).expect("reads").flatten().map(|e| e.path());
    let segments = entries.filter(|p| p.extension().is_some_and(|e| e == "seg")).count();
    assert!(segments < 12, "{segments} segments of 20 processes");
    let ws = open(dir.path());
    assert_eq!(counts(ws.cache()), ["20", "0", "20"].map(|n| Some(n.to_owned())));
    assert!(ws.verify(|_| ()).expect("reads").is_intact());
}

/// A database as it was when it was the only place of the cache.
fn earlier(path: &Path) {
    let db = duckdb::Connection::open(path).expect("opens");
    let json = |n| serde_json::to_string(&entry(n)).expect("JSON");
    let hex = |n: u64| digest(n).to_string();
    db.execute_batch(&format!(
        "CREATE TABLE meta (key VARCHAR, value BIGINT); INSERT INTO meta VALUES ('version', 1);
         CREATE TABLE embeddings (space BLOB, text BLOB, head UBIGINT, dim INTEGER, vector FLOAT[]);
         CREATE INDEX embeddings_head ON embeddings (head);
         INSERT INTO embeddings VALUES (unhex('{space}'), unhex('{one}'), 1, 2, [1.0, 2.5]),
           (unhex('{space}'), unhex('{two}'), 2, 1, [{tiny}]);
         CREATE TABLE responses (model BLOB, settings BLOB, prompt BLOB, head UBIGINT, answer VARCHAR);
         CREATE INDEX responses_head ON responses (head);
         INSERT INTO responses VALUES (unhex('{space}'), unhex('{nine}'), unhex('{one}'), 1,
           'Grüße, „you“' || chr(10) || chr(0));
         CREATE TABLE stage_cache (key VARCHAR, output VARCHAR, type VARCHAR, private_to VARCHAR,
           seconds DOUBLE, entry VARCHAR, preimage VARCHAR, added TIMESTAMP);
         INSERT INTO stage_cache VALUES ('{five}', '{five}', 'Metrics', NULL, 5, '{entry}',
           '{{\"kind\":\"probe\"}}', make_timestamp(1000));
         CREATE TABLE runs (id VARCHAR, pipeline VARCHAR, status VARCHAR, started TIMESTAMP,
           finished TIMESTAMP, stages INTEGER, cached INTEGER, ran INTEGER, failed INTEGER);
         INSERT INTO runs VALUES ('old', 'p', 'succeeded', NULL, NULL, 1, 0, 1, 0);
         CREATE TABLE stage_runs (run VARCHAR, instance INTEGER, name VARCHAR, kind VARCHAR, place VARCHAR,
           outcome VARCHAR, key VARCHAR, output VARCHAR, attempts INTEGER, seconds DOUBLE, counters VARCHAR);
         CREATE TABLE pllms (catalog VARCHAR, name VARCHAR, pllm VARCHAR, base VARCHAR, rows INTEGER, explained DOUBLE);
         CREATE TABLE coefficients (catalog VARCHAR, name VARCHAR, atom VARCHAR, coefficient DOUBLE, low DOUBLE,
           high DOUBLE);",
        space = hex(0),
        one = hex(1),
        two = hex(2),
        nine = hex(9),
        five = hex(5),
        tiny = f32::MIN_POSITIVE,
        entry = json(5),
    ))
    .expect("a database");
}

#[test]
fn a_cache_of_an_earlier_version_keeps_counting() {
    let dir = tempfile::tempdir().expect("a folder");
    drop(open(dir.path()));
    let path = dir.path().canonicalize().expect("there").join("cache.duckdb");
    earlier(&path);
    for _ in 0..2 {
        let ws = open(dir.path());
        assert_filled(ws.cache());
        assert_eq!(counts(ws.cache()), ["2", "1", "1"].map(|n| Some(n.to_owned())));
        let runs = ws.cache().query("SELECT id FROM runs").expect("a query").rows;
        assert_eq!(runs, [[Some("old".to_owned())]]);
    }
    // Everything is in segments now.
    fs::remove_file(&path).expect("removed");
    assert_filled(open(dir.path()).cache());
    // An earlier version that runs beside this one begins a database of its own.
    earlier(&path);
    let ws = open(dir.path());
    ws.cache().stage_put(&digest(77), "{}", &entry(77));
    assert_eq!(counts(ws.cache()), ["2", "1", "2"].map(|n| Some(n.to_owned())));
    assert_eq!(aside(dir.path()), 0);
}

#[test]
fn a_damaged_cache_of_an_earlier_version_is_put_aside() {
    let dir = tempfile::tempdir().expect("a folder");
    drop(open(dir.path()));
    fs::write(dir.path().join("cache.duckdb"), "rubbish".repeat(5000)).expect("written");
    let ws = open(dir.path());
    assert_empty(ws.cache());
    fill(ws.cache());
    assert_filled(ws.cache());
    assert_eq!(aside(dir.path()), 1);
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
