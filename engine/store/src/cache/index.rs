//! The index of runs and the catalog, and queries over everything.

use headstart_protocol::Digest;

use super::Cache;
use super::db::Home;
use super::records::{CoefficientRow, PllmRow, Record, RunRow, StageRunRow, Table};

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
