//! The index of runs and the catalog, and queries over everything.

use std::io;
use std::sync::PoisonError;
use std::time::Duration;

use headstart_protocol::Digest;

use super::Cache;
use super::db::Db;
use super::fold::NotFolded;
use super::merge::Sealing;
use super::records::{CoefficientRow, PllmRow, Record, RunRow, StageRunRow, Table};
use super::segment::own::process_of;
use super::segment::set::segment_files;

/// How long a query waits for another process that folds.
const PATIENCE: Duration = Duration::from_secs(30);

impl Cache {
    /// Puts a run and its stages into the index, in place of what it said about that run. They are in the
    /// database after the next [`Cache::flush`].
    pub fn record_run(&self, run: RunRow, stages: Vec<StageRunRow>) {
        self.record(Record::Run(run, stages));
    }

    /// Puts a catalog's pLLMs and coefficients into the index, likewise.
    pub fn record_catalog(&self, catalog: &Digest, pllms: Vec<PllmRow>, coefficients: Vec<CoefficientRow>) {
        self.record(Record::Catalog(*catalog, pllms, coefficients));
    }

    /// Takes a run that is removed out of the index, likewise.
    pub fn forget_run(&self, id: &str) {
        self.record(Record::NoRun(id.to_owned()));
    }

    fn record(&self, record: Record) {
        self.shared().records.lock().unwrap_or_else(PoisonError::into_inner).push(record);
    }

    /// Forgets every stage and row. The index of runs and the catalog stay.
    ///
    /// # Errors
    /// If another process appends to the cache or has the database open, or DuckDB cannot.
    pub fn clear(&self) -> Result<(), String> {
        let shared = self.shared();
        shared.entries().seal();
        shared
            .with_database(PATIENCE, |db| {
                // Nobody can begin to fold or to merge; who begins to append now is not cleared.
                let files = segment_files(&shared.dir);
                for (name, path) in files.iter().filter(|(_, path)| !path.with_extension("idx").is_file()) {
                    match shared.seal(path) {
                        Ok(Sealing::Done) => {}
                        Ok(Sealing::InUse) => {
                            let process =
                                process_of(name).map(|p| format!(" (process {p})")).unwrap_or_default();
                            return Err(format!(
                                "the cache {} is in use by another headstart{process}; stop it first",
                                shared.dir.display()
                            ));
                        }
                        Err(e) => return Err(format!("{}: {e}", path.display())),
                    }
                }
                for path in files.values().flat_map(|path| [path.clone(), path.with_extension("idx")]) {
                    match shared.disk.remove_file(&path) {
                        Err(e) if e.kind() != io::ErrorKind::NotFound => {
                            return Err(format!("{}: {e}", path.display()));
                        }
                        _ => {}
                    }
                }
                shared.entries().changed();
                let side = db.write();
                let sql = "BEGIN; DELETE FROM embeddings; DELETE FROM responses; DELETE FROM stage_cache; \
                           DELETE FROM folded; COMMIT; CHECKPOINT;";
                side.main.execute_batch(sql).map_err(|e| {
                    // Nothing is open any more where the commit failed.
                    let _ = side.main.execute_batch("ROLLBACK");
                    e.to_string()
                })
            })
            .map_err(NotFolded::why)?
    }

    /// Runs a query over the tables; everything put before is in them, by whichever process. Values come as
    /// text.
    ///
    /// # Errors
    /// What DuckDB says of the query.
    pub fn query(&self, sql: &str) -> Result<Table, String> {
        self.shared().with_database(PATIENCE, |db| query(db, sql)).map_err(NotFolded::why)?
    }
}

fn query(db: &Db, sql: &str) -> Result<Table, String> {
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
