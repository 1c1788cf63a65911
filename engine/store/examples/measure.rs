//! Measures the store: `cargo run -p headstart-store --example measure [DIR]`. The workspace is
//! made below DIR (default: the system's folder for temporary files), which should be on the kind
//! of disk that is of interest.

use std::collections::BTreeMap;
use std::error::Error;
use std::path::PathBuf;
use std::time::Instant;

use headstart_protocol::{ArtifactRef, ArtifactType, Digest, Output, RowCache, Type};
use headstart_store::{CacheEntry, Workspace};
use serde::Serialize;

/// About the size of an engine event.
#[derive(Clone, Serialize)]
struct Event {
    event: &'static str,
    instance: u32,
    fence: u64,
    output: Digest,
    seconds: f64,
}

fn event(n: u64) -> Event {
    Event { event: "done", instance: n as u32, fence: n, output: digest(n), seconds: 0.25 }
}

fn digest(n: u64) -> Digest {
    Digest::of(&n.to_le_bytes())
}

/// Prints how long `f` took, in all and for each of `n`.
fn time<T>(what: &str, n: usize, f: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let out = f();
    let t = start.elapsed();
    let each = t.as_secs_f64() * 1e6 / n as f64;
    println!("{what:<58} {:>9.1} ms  {each:>9.2} µs each", t.as_secs_f64() * 1e3);
    out
}

fn main() -> Result<(), Box<dyn Error>> {
    let base = std::env::args_os().nth(1).map_or_else(std::env::temp_dir, PathBuf::from);
    let dir = tempfile::tempdir_in(base)?;
    let ws = Workspace::open(dir.path())?;
    log(&ws)?;
    artifacts(&ws)?;
    drop(ws);
    stages(dir.path())?;
    rows(dir.path())
}

fn log(ws: &Workspace) -> Result<(), Box<dyn Error>> {
    let log = ws.create_run("measure", &())?;
    time("200 events, each awaited by one thread", 200, || {
        (0..200).try_for_each(|n| log.append(&[event(n)]))
    })?;
    time("20,000 events, awaited one by one by 64 threads", 20_000, || {
        std::thread::scope(|s| {
            for t in 0..64 {
                let log = &log;
                s.spawn(move || (0..312).try_for_each(|n| log.append(&[event(t * 312 + n)])));
            }
        });
    });
    time("100,000 events, submitted singly, all awaited at the end", 100_000, || {
        let tickets: Result<Vec<_>, _> = (0..100_000).map(|n| log.submit(&[event(n)])).collect();
        tickets?.into_iter().try_for_each(|t| t.wait())
    })?;
    drop(log);
    let events = time("reading them back", 120_200, || ws.read_run::<serde_json::Value>("measure"))?;
    println!("{:<58} {:>9}", "events read", events.len());
    time("opening the log to append", 1, || ws.open_run("measure").map(drop))?;
    Ok(())
}

fn artifacts(ws: &Workspace) -> Result<(), Box<dyn Error>> {
    let small = |n: u64| Output::new(Type::Metrics, serde_json::json!({"loss": n}));
    time("200 artifacts without files", 200, || {
        (0..200).try_for_each(|n| ws.artifacts().import(&small(n)).map(drop))
    })?;
    let log = ws.create_run("stages", &())?;
    time("2,000 stages: artifact stored, then event, 16 threads", 2000, || {
        std::thread::scope(|s| {
            for t in 0..16 {
                let (log, ws) = (&log, &ws);
                s.spawn(move || {
                    (t * 125..t * 125 + 125).try_for_each(|n| {
                        ws.artifacts().import(&small(1000 + n))?;
                        log.append(&[event(n)])
                    })
                });
            }
        });
    });
    time("2,000 stages: likewise, one thread, awaited at the end", 2000, || {
        let mut tickets = Vec::new();
        for n in 0..2000 {
            ws.artifacts().import(&small(5000 + n))?;
            tickets.push(log.submit(&[event(n)])?);
        }
        tickets.into_iter().try_for_each(|t| t.wait())
    })?;
    let ids: Vec<Digest> = (0..2000)
        .map(|n| ws.artifacts().import(&small(5000 + n)).map(|(_, r)| r.id))
        .collect::<Result<_, _>>()?;
    time("2,000 artifacts: are they here?", 2000, || ids.iter().all(|id| ws.artifacts().has(id)));
    let scratch = ws.scratch("measure")?;
    let path = scratch.path().join("weights");
    std::fs::write(&path, vec![7; 256 << 20])?;
    time("storing a file of 256 MiB", 1, || ws.blobs().put_file(&path))?;
    time("storing it again", 1, || ws.blobs().put_file(&path))?;
    Ok(())
}

fn stages(dir: &std::path::Path) -> Result<(), Box<dyn Error>> {
    const N: u64 = 100_000;
    let keys: Vec<Digest> = (0..N).map(digest).collect();
    let preimage = format!(r#"{{"kind":"embed","version":1,"args":{{"text":"{}"}}}}"#, "x".repeat(300));
    let ws = Workspace::open(dir)?;
    time("opening the database, empty", 1, || ws.cache().home());
    time("100,000 stage_put", keys.len(), || {
        for (n, key) in keys.iter().enumerate() {
            let output = ArtifactRef { id: *key, ty: ArtifactType::Divergence, private_to: None };
            let entry = CacheEntry { output, released: BTreeMap::new(), seconds: n as f64 };
            ws.cache().stage_put(key, &preimage, &entry);
        }
    });
    time("writing the rest of them", 1, || ws.cache().flush());
    time("closing", 1, || drop(ws));
    let ws = Workspace::open(dir)?;
    time("opening the database, 100,000 stages", 1, || ws.cache().home());
    let found =
        time("100,000 stages: stage_get_many, first", keys.len(), || ws.cache().stage_get_many(&keys));
    println!("{:<58} {:>9}", "stages found", found.iter().flatten().count());
    time("100,000 stages: stage_get one by one, then", keys.len(), || {
        keys.iter().filter(|k| ws.cache().stage_get(k).is_some()).count()
    });
    Ok(())
}

fn rows(dir: &std::path::Path) -> Result<(), Box<dyn Error>> {
    const N: u64 = 10_000;
    let ws = Workspace::open(dir)?;
    let vector = |n: u64| (0..384).map(|i| ((n * 384 + i) as f32).sin()).collect::<Vec<f32>>();
    for space in 0..3 {
        let rows: Vec<(Digest, Vec<f32>)> = (0..N).map(|n| (digest(n), vector(n + space))).collect();
        time("10,000 x 384 embeddings: put", rows.len(), || ws.cache().put_embeddings(&digest(space), &rows));
        time("                         written", rows.len(), || ws.cache().flush());
    }
    drop(ws);
    let ws = Workspace::open(dir)?;
    time("opening the database, with 30,000 embeddings", 1, || ws.cache().home());
    let texts: Vec<Digest> = (0..N).map(digest).collect();
    for what in ["10,000 x 384 embeddings: get, first", "10,000 x 384 embeddings: get, again"] {
        let found = time(what, texts.len(), || ws.cache().embeddings(&digest(1), &texts));
        assert!(found.iter().flatten().count() == texts.len(), "all are found");
    }
    time("1,000 embeddings: get", 1000, || ws.cache().embeddings(&digest(1), &texts[..1000]));
    time("32 embeddings: get", 32, || ws.cache().embeddings(&digest(1), &texts[..32]));
    time("10,000 responses: get, none there", texts.len(), || {
        ws.cache().responses(&digest(1), &digest(1), &texts)
    });
    println!("{:<58} {:>9} bytes", "the database", ws.size().cache_bytes);
    Ok(())
}
