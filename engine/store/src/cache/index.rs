//! The index of runs and the catalog, and how everything is written and queried.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use duckdb::{Connection, params};
use headstart_protocol::Digest;
use serde::Serialize;

use super::Cache;
use super::db::{Db, Home};
use super::pending::Batch;

/// A run, for the index.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RunRow {
    /// Its id.
    pub id: String,
    /// Its pipeline file.
    pub pipeline: String,
    /// Its status, such as `succeeded`.
    pub status: String,
    /// When it began.
    pub started: SystemTime,
    /// When it ended.
    pub finished: Option<SystemTime>,
    /// Number of stage instances.
    pub stages: u32,
    /// Instances whose result was known.
    pub cached: u32,
    /// Instances that were executed.
    pub ran: u32,
    /// Instances that failed.
    pub failed: u32,
}

/// What became of a stage instance, for the index.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct StageRunRow {
    /// Number of the instance in the plan.
    pub instance: u32,
    /// Its name.
    pub name: String,
    /// Its stage kind.
    pub kind: String,
    /// `server`, or the device.
    pub place: String,
    /// What became of it: `cached`, `done`, `skipped`, `failed` …
    pub outcome: String,
    /// Its cache key.
    pub key: Option<Digest>,
    /// Its output.
    pub output: Option<Digest>,
    /// Number of attempts.
    pub attempts: u32,
    /// How long the last attempt took.
    pub seconds: f64,
    /// What it counted.
    pub counters: BTreeMap<String, u64>,
}

/// A pLLM of a catalog.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PllmRow {
    /// Its name in the catalog.
    pub name: String,
    /// Its digest.
    pub pllm: Digest,
    /// The model that it personalizes.
    pub base: Digest,
    /// Number of probes that it answered.
    pub rows: u32,
    /// Share of its divergence that the coefficients explain, 0 to 1.
    pub explained: f64,
}

/// A coefficient of a pLLM of a catalog.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CoefficientRow {
    /// The pLLM's name in the catalog.
    pub name: String,
    /// The style atom.
    pub atom: String,
    /// Its coefficient.
    pub coefficient: f64,
    /// Lower end of its 95 % interval.
    pub low: f64,
    /// Upper end of its 95 % interval.
    pub high: f64,
}

/// The outcome of a query.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Table {
    /// Names of the columns.
    pub columns: Vec<String>,
    /// Rows of text; `None` is NULL.
    pub rows: Vec<Vec<Option<String>>>,
}

/// Something to be written whole, in place of what was written about it before.
pub(crate) enum Record {
    Run(RunRow, Vec<StageRunRow>),
    Catalog(Digest, Vec<PllmRow>, Vec<CoefficientRow>),
}

impl Cache {
    /// Puts a run and its stages into the index, in place of what it said about that run.
    pub fn record_run(&self, run: RunRow, stages: Vec<StageRunRow>) {
        let bytes = 200 * (1 + stages.len());
        self.shared().put(|batch| {
            batch.records.push(Record::Run(run, stages));
            bytes
        });
    }

    /// Puts a catalog's pLLMs and coefficients into the index.
    pub fn record_catalog(&self, catalog: &Digest, pllms: Vec<PllmRow>, coefficients: Vec<CoefficientRow>) {
        let bytes = 200 * (pllms.len() + coefficients.len());
        self.shared().put(|batch| {
            batch.records.push(Record::Catalog(*catalog, pllms, coefficients));
            bytes
        });
    }

    /// Forgets every stage and row. The index of runs and the catalog stay.
    ///
    /// # Errors
    /// If another process has the database open, or DuckDB cannot.
    pub fn clear(&self) -> Result<(), String> {
        self.flush();
        let db = self.shared().db().ok_or("there is no cache")?;
        if db.home == Home::Memory {
            let path = self.path().display();
            return Err(format!(
                "{path} is in use by another process, perhaps a running engine; stop it first"
            ));
        }
        self.shared().forget_stages();
        let side = db.write();
        let sql = "BEGIN; DELETE FROM embeddings; DELETE FROM responses; DELETE FROM stage_cache; COMMIT; CHECKPOINT;";
        side.main.execute_batch(sql).map_err(|e| {
            // Nothing is open any more where the commit failed.
            let _ = side.main.execute_batch("ROLLBACK");
            e.to_string()
        })
    }

    /// Runs a query over the tables; everything put before is in them. Values come as text.
    ///
    /// # Errors
    /// What DuckDB says of the query.
    pub fn query(&self, sql: &str) -> Result<Table, String> {
        self.flush();
        let db = self.shared().db().ok_or("there is no cache")?;
        let connection = db.read();
        let text = |e: duckdb::Error| e.to_string();
        let sql = sql.trim().trim_end_matches(';');
        let mut statement = connection.prepare(sql).map_err(text)?;
        statement.execute([]).map_err(text)?;
        let columns = statement.column_names();
        // DuckDB turns every type into text better than we could.
        let casts: Vec<String> = (1..=columns.len()).map(|i| format!("CAST(#{i} AS VARCHAR)")).collect();
        drop(statement);
        let sql = format!("SELECT {} FROM ({sql}\n)", casts.join(", ").replace('#', "COLUMNS_"));
        let aliases: Vec<String> = (1..=columns.len()).map(|i| format!("COLUMNS_{i}")).collect();
        let sql = format!("{sql} AS t({})", aliases.join(", "));
        let mut statement = connection.prepare(&sql).map_err(text)?;
        let count = columns.len();
        let rows = statement.query_map([], |row| (0..count).map(|i| row.get(i)).collect()).map_err(text)?;
        Ok(Table { columns, rows: rows.collect::<Result<_, _>>().map_err(text)? })
    }
}

/// Writes a batch, each kind of thing in a transaction of its own.
pub(crate) fn write(db: &Db, batch: &Batch) -> Result<(), String> {
    let mut side = db.write();
    write_vectors(&mut side.vectors, batch)?;
    let main = &side.main;
    if batch.responses.is_empty() && batch.stages.is_empty() && batch.records.is_empty() {
        return Ok(());
    }
    let all = || -> Result<(), duckdb::Error> {
        main.execute_batch("BEGIN")?;
        write_responses(main, batch)?;
        write_stages(main, batch)?;
        for record in &batch.records {
            match record {
                Record::Run(run, stages) => write_run(main, run, stages)?,
                Record::Catalog(id, pllms, coefficients) => write_catalog(main, id, pllms, coefficients)?,
            }
        }
        main.execute_batch("COMMIT")
    };
    all().map_err(|e| {
        // Nothing is open any more where the commit failed.
        let _ = main.execute_batch("ROLLBACK");
        e.to_string()
    })
}

fn write_vectors(raw: &mut super::raw::RawConnection, batch: &Batch) -> Result<(), String> {
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
        appender.append_row(params![
            model,
            settings,
            prompt.as_slice(),
            super::rows::head(prompt),
            answer
        ])?;
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
    for key in batch.stages.keys() {
        forget.append_row([key.to_string()])?;
    }
    forget.flush()?;
    drop(forget);
    let mut stages = main.appender_to_catalog_and_db("stage_in", "temp", "main")?;
    for (key, put) in &batch.stages {
        let Some(put) = put else { continue };
        let output = &put.entry.output;
        let ty = format!("{:?}", output.ty);
        let (key, id) = (key.to_string(), output.id.to_string());
        let seconds = put.entry.seconds;
        stages.append_row(params![
            key,
            id,
            ty,
            output.private_to,
            seconds,
            put.json,
            put.preimage,
            put.added
        ])?;
    }
    stages.flush()?;
    drop(stages);
    main.execute_batch(
        "DELETE FROM stage_cache WHERE key IN (SELECT key FROM forget_in);
         INSERT INTO stage_cache SELECT * REPLACE (make_timestamp(added) AS added) FROM stage_in;
         DELETE FROM forget_in; DELETE FROM stage_in;",
    )
}

fn micros(t: SystemTime) -> i64 {
    t.duration_since(UNIX_EPOCH).map_or(0, |d| i64::try_from(d.as_micros()).unwrap_or(i64::MAX))
}

fn write_run(main: &Connection, run: &RunRow, stages: &[StageRunRow]) -> Result<(), duckdb::Error> {
    main.execute("DELETE FROM runs WHERE id = ?", [&run.id])?;
    main.execute("DELETE FROM stage_runs WHERE run = ?", [&run.id])?;
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
