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
    let stored = time("storing it again", 1, || ws.blobs().put_file(&path))?;
    // A file that was changed just now is not remembered.
    std::thread::sleep(std::time::Duration::from_secs(3));
    for what in ["the next process opens it", "the one after that opens it"] {
        let next = Workspace::open(ws.dir())?;
        time(what, 1, || next.blobs().intact(&stored.digest))?.ok_or("it is there")?;
    }
    Ok(())
}

fn stages(dir: &std::path::Path) -> Result<(), Box<dyn Error>> {
    const N: u64 = 100_000;
    let keys: Vec<Digest> = (0..N).map(digest).collect();
    let preimage = format!(r#"{{"kind":"embed","version":1,"args":{{"text":"{}"}}}}"#, "x".repeat(300));
    let ws = Workspace::open(dir)?;
    time("opening the cache, empty", 1, || ws.cache().stage_get(&digest(N)));
    time("100,000 stage_put", keys.len(), || {
        for (n, key) in keys.iter().enumerate() {
            let output = ArtifactRef { id: *key, ty: ArtifactType::Divergence, private_to: None };
            let entry = CacheEntry { output, released: BTreeMap::new(), seconds: n as f64 };
            ws.cache().stage_put(key, &preimage, &entry);
        }
    });
    time("syncing them", 1, || ws.cache().sync())?;
    time("folding them into the database", keys.len(), || ws.cache().flush());
    time("closing", 1, || drop(ws));
    let ws = Workspace::open(dir)?;
    let before = resident();
    time("opening the cache, 100,000 stages", 1, || ws.cache().stage_get(&digest(N)));
    println!("{:<58} {:>9.1} MB", "memory that it takes", (resident() - before) / 1e6);
    time("100,000 stages: stage_get one by one, first", keys.len(), || {
        keys.iter().filter(|k| ws.cache().stage_get(k).is_some()).count()
    });
    println!("{:<58} {:>9.1} MB", "memory that it takes", (resident() - before) / 1e6);
    let found = time("100,000 stages: stage_get_many", keys.len(), || ws.cache().stage_get_many(&keys));
    println!("{:<58} {:>9}", "stages found", found.iter().flatten().count());
    time("10,000 stages that are not there, one by one", 10_000, || {
        (0..10_000).filter(|n| ws.cache().stage_get(&digest(N + n)).is_some()).count()
    });
    time("1,000 claims, taken and freed", 1000, || {
        (0..1000).try_for_each(|n| ws.cache().claim(&digest(n), "measure").map(drop))
    })?;
    Ok(())
}

/// Bytes of this process in memory, where the system says.
fn resident() -> f64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: f64 = text.split(' ').nth(1).and_then(|n| n.parse().ok()).unwrap_or_default();
    pages * 4096.0
}

fn rows(dir: &std::path::Path) -> Result<(), Box<dyn Error>> {
    const N: u64 = 1_000_000;
    const GROUP: u64 = 10_000;
    let vector = |n: u64| (0..384).map(|i| ((n * 384 + i) as f32).sin()).collect::<Vec<f32>>();
    let ws = Workspace::open(dir)?;
    let groups: Vec<Vec<(Digest, Vec<f32>)>> = (0..4)
        .map(|group| (0..GROUP).map(|n| (digest(group * GROUP + n), vector(group * GROUP + n))).collect())
        .collect();
    for rows in &groups {
        time("10,000 x 384 embeddings: put", rows.len(), || ws.cache().put_embeddings(&digest(0), rows));
    }
    time("folding 40,000 of them into the database", 40_000, || ws.cache().flush());
    drop(groups);
    let small: Vec<f32> = vec![0.5; 8];
    time("960,000 x 8 embeddings: put", (N - 40_000) as usize, || {
        for begin in (40_000..N).step_by(GROUP as usize) {
            let rows: Vec<(Digest, Vec<f32>)> =
                (begin..begin + GROUP).map(|n| (digest(n), small.clone())).collect();
            ws.cache().put_embeddings(&digest(0), &rows);
        }
    });
    time("folding them into the database", (N - 40_000) as usize, || ws.cache().flush());
    drop(ws);
    let ws = Workspace::open(dir)?;
    let before = resident();
    time("opening the cache, 1,000,000 rows", 1, || ws.cache().stage_get(&digest(N + N)));
    println!("{:<58} {:>9.1} MB", "memory that it takes", (resident() - before) / 1e6);
    let texts: Vec<Digest> = (0..GROUP).map(digest).collect();
    for what in ["10,000 x 384 embeddings: get, first", "10,000 x 384 embeddings: get, again"] {
        let found = time(what, texts.len(), || ws.cache().embeddings(&digest(0), &texts));
        assert!(found.iter().flatten().count() == texts.len(), "all are found");
    }
    time("32 embeddings: get", 32, || ws.cache().embeddings(&digest(0), &texts[..32]));
    time("10,000 responses: get, none there", texts.len(), || {
        ws.cache().responses(&digest(1), &digest(1), &texts)
    });
    println!("{:<58} {:>9.1} MB", "memory that it takes", (resident() - before) / 1e6);
    time("a query: how many rows", 1, || ws.cache().query("SELECT count(*) FROM embeddings"))?;
    println!("{:<58} {:>9} bytes", "segments and database", ws.size().cache_bytes);
    Ok(())
}
