//! How a batch gets into the database.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use duckdb::{Connection, params};
use headstart_protocol::Digest;

use super::batch::Batch;
use super::db::Db;
use super::head::head;
use super::raw::RawConnection;
use super::records::{CoefficientRow, PllmRow, Record, RunRow, StageRunRow};

/// Writes a batch: vectors in one transaction, then everything else in another, with how far segments are
/// folded. Vectors that are written twice are kept once.
pub(crate) fn write(db: &Db, batch: &Batch, folded: &BTreeMap<String, u64>) -> Result<(), String> {
    let mut side = db.write();
    write_vectors(&mut side.vectors, batch)?;
    let main = &side.main;
    let all = || -> Result<(), duckdb::Error> {
        main.execute_batch("BEGIN")?;
        write_responses(main, batch)?;
        write_stages(main, batch)?;
        for record in &batch.records {
            match record {
                Record::Run(run, stages) => write_run(main, run, stages)?,
                Record::Catalog(id, pllms, coefficients) => write_catalog(main, id, pllms, coefficients)?,
                Record::NoRun(id) => remove_run(main, id)?,
            }
        }
        for (segment, bytes) in folded {
            main.execute("DELETE FROM folded WHERE segment = ?", [segment])?;
            main.execute("INSERT INTO folded VALUES (?, ?)", params![segment, bytes])?;
        }
        main.execute_batch("COMMIT")
    };
    all().map_err(|e| {
        // Nothing is open any more where the commit failed.
        let _ = main.execute_batch("ROLLBACK");
        e.to_string()
    })
}

fn write_vectors(raw: &mut RawConnection, batch: &Batch) -> Result<(), String> {
    if batch.embeddings.is_empty() {
        return Ok(());
    }
    let mut rows: Vec<(&[u8; 32], &[u8; 32], &[f32])> =
        batch.embeddings.iter().map(|((space, text), v)| (&space.0, &text.0, v.as_slice())).collect();
    rows.sort_unstable_by_key(|(space, text, _)| (*space, *text));
    raw.execute("BEGIN")?;
    let mut all = || -> Result<(), String> {
        raw.append_vectors(&rows)?;
        raw.execute(
            "INSERT INTO embeddings SELECT * FROM embedding_in n WHERE NOT EXISTS \
             (SELECT 1 FROM embeddings o WHERE o.text = n.text AND o.space = n.space)",
        )?;
        raw.execute("DELETE FROM embedding_in")?;
        raw.execute("COMMIT")
    };
    let outcome = all();
    if outcome.is_err() {
        // Nothing is open any more where the commit failed.
        let _ = raw.execute("ROLLBACK");
    }
    outcome
}

fn write_responses(main: &Connection, batch: &Batch) -> Result<(), duckdb::Error> {
    if batch.responses.is_empty() {
        return Ok(());
    }
    let mut rows: Vec<_> = batch.responses.iter().collect();
    rows.sort_unstable_by_key(|(key, _)| **key);
    let mut appender = main.appender_to_catalog_and_db("response_in", "temp", "main")?;
    for ((model, settings, prompt), answer) in rows {
        let (model, settings, prompt) = (model.0.as_slice(), settings.0.as_slice(), &prompt.0);
        appender.append_row(params![model, settings, prompt.as_slice(), head(prompt), answer])?;
    }
    appender.flush()?;
    drop(appender);
    main.execute_batch(
        "INSERT INTO responses SELECT * FROM response_in n WHERE NOT EXISTS (SELECT 1 FROM responses o \
         WHERE o.prompt = n.prompt AND o.model = n.model AND o.settings = n.settings);
         DELETE FROM response_in;",
    )
}

fn write_stages(main: &Connection, batch: &Batch) -> Result<(), duckdb::Error> {
    if batch.stages.is_empty() {
        return Ok(());
    }
    let mut forget = main.appender_to_catalog_and_db("forget_in", "temp", "main")?;
    for (key, (added, _)) in &batch.stages {
        forget.append_row(params![key.to_string(), added])?;
    }
    forget.flush()?;
    drop(forget);
    let mut stages = main.appender_to_catalog_and_db("stage_in", "temp", "main")?;
    for (key, (added, put)) in &batch.stages {
        let Some(put) = put else { continue };
        let output = &put.entry.output;
        let ty = format!("{:?}", output.ty);
        let (key, id) = (key.to_string(), output.id.to_string());
        let seconds = put.entry.seconds;
        stages.append_row(params![key, id, ty, output.private_to, seconds, put.json, put.preimage, added])?;
    }
    stages.flush()?;
    drop(stages);
    main.execute_batch(
        "DELETE FROM stage_cache USING forget_in f WHERE stage_cache.key = f.key AND
           stage_cache.added <= make_timestamp(f.added);
         INSERT INTO stage_cache SELECT * REPLACE (make_timestamp(added) AS added) FROM stage_in n
           WHERE NOT EXISTS (SELECT 1 FROM stage_cache o WHERE o.key = n.key);
         DELETE FROM forget_in; DELETE FROM stage_in;",
    )
}

fn micros(t: SystemTime) -> i64 {
    t.duration_since(UNIX_EPOCH).map_or(0, |d| i64::try_from(d.as_micros()).unwrap_or(i64::MAX))
}

fn remove_run(main: &Connection, id: &str) -> Result<(), duckdb::Error> {
    main.execute("DELETE FROM runs WHERE id = ?", [id])?;
    main.execute("DELETE FROM stage_runs WHERE run = ?", [id])?;
    Ok(())
}

fn write_run(main: &Connection, run: &RunRow, stages: &[StageRunRow]) -> Result<(), duckdb::Error> {
    remove_run(main, &run.id)?;
    main.execute(
        "INSERT INTO runs VALUES (?, ?, ?, make_timestamp(?), make_timestamp(?), ?, ?, ?, ?)",
        params![
            run.id,
            run.pipeline,
            run.status,
            micros(run.started),
            run.finished.map(micros),
            run.stages,
            run.cached,
            run.ran,
            run.failed
        ],
    )?;
    let mut rows = main.appender("stage_runs")?;
    for s in stages {
        let (key, output) = (s.key.map(|d| d.to_string()), s.output.map(|d| d.to_string()));
        let counters = serde_json::to_string(&s.counters).unwrap_or_default();
        rows.append_row(params![
            run.id, s.instance, s.name, s.kind, s.place, s.outcome, key, output, s.attempts, s.seconds,
            counters
        ])?;
    }
    rows.flush()
}

fn write_catalog(
    main: &Connection,
    id: &Digest,
    pllms: &[PllmRow],
    coefficients: &[CoefficientRow],
) -> Result<(), duckdb::Error> {
    let id = id.to_string();
    main.execute("DELETE FROM pllms WHERE catalog = ?", [&id])?;
    main.execute("DELETE FROM coefficients WHERE catalog = ?", [&id])?;
    let mut rows = main.appender("pllms")?;
    for p in pllms {
        let (pllm, base) = (p.pllm.to_string(), p.base.to_string());
        rows.append_row(params![id, p.name, pllm, base, p.rows, p.explained])?;
    }
    rows.flush()?;
    drop(rows);
    let mut rows = main.appender("coefficients")?;
    for c in coefficients {
        rows.append_row(params![id, c.name, c.atom, c.coefficient, c.low, c.high])?;
    }
    rows.flush()
}
