//! Embeddings and responses, row by row.

use std::collections::HashMap;

use duckdb::Connection;
use duckdb::arrow::array::{Array, BinaryArray, Float32Array, ListArray, StringArray};
use duckdb::arrow::record_batch::RecordBatch;
use headstart_protocol::{Digest, RowCache};

use super::Cache;
use super::batch::Batch;
use super::head::head;

/// Up to this many rows are found by index: DuckDB uses an index for at most 2048.
const BY_INDEX: usize = 2000;
/// Finding a row by index costs about as much as passing over this many.
const PASSED: usize = 40;

/// Where rows are looked up.
struct Source<'a> {
    /// The table.
    table: &'static str,
    /// Its columns: the key, then the value.
    columns: &'static str,
    /// A condition beside that on the key.
    condition: &'static str,
    /// The condition's parameters.
    parameters: &'a [&'a Digest],
}

impl Source<'_> {
    /// Calls `read` with rows of the wanted keys, and perhaps of others.
    fn query(
        &self,
        connection: &Connection,
        wanted: &[Digest],
        read: impl FnMut(RecordBatch),
    ) -> Result<(), duckdb::Error> {
        let Self { table, columns, condition, .. } = self;
        let count = format!("SELECT count(*) FROM {table}");
        let rows: usize = connection.query_row(&count, [], |r| r.get(0))?;
        let sql = if wanted.len() <= BY_INDEX && wanted.len().saturating_mul(PASSED) <= rows {
            // Of keys alone, so that the index is used.
            let heads: Vec<String> = wanted.iter().map(|d| head(&d.0).to_string()).collect();
            let found = format!("SELECT * FROM {table} WHERE head IN ({})", heads.join(","));
            format!("WITH found AS MATERIALIZED ({found}) SELECT {columns} FROM found WHERE {condition}")
        } else {
            connection.execute_batch("DELETE FROM wanted")?;
            let mut appender = connection.appender_to_catalog_and_db("wanted", "temp", "main")?;
            for key in wanted {
                appender.append_row([head(&key.0)])?;
            }
            appender.flush()?;
            format!("SELECT {columns} FROM {table} WHERE {condition} AND head IN (SELECT head FROM wanted)")
        };
        let mut statement = connection.prepare(&sql)?;
        let parameters = duckdb::params_from_iter(self.parameters.iter().map(|d| d.0.as_slice()));
        statement.query_arrow(parameters)?.for_each(read);
        Ok(())
    }
}

impl Cache {
    /// Takes pending puts, then asks the database for the rest. `read` calls its second
    /// argument with every row of a batch.
    fn look_up<V: Clone>(
        &self,
        keys: &[Digest],
        pending: impl Fn(&Batch, &Digest) -> Option<V>,
        source: &Source<'_>,
        read: impl Fn(&RecordBatch, &mut dyn FnMut(Digest, V)),
    ) -> Vec<Option<V>> {
        let mut found: HashMap<Digest, V> = HashMap::new();
        let mut wanted: Vec<Digest> = Vec::new();
        {
            let state = self.shared().state();
            for key in keys {
                match pending(&state.next, key).or_else(|| pending(&state.writing, key)) {
                    Some(value) => drop(found.insert(*key, value)),
                    None => wanted.push(*key),
                }
            }
        }
        wanted.sort_unstable();
        wanted.dedup();
        if let Some(db) = self.shared().db()
            && !wanted.is_empty()
        {
            let connection = db.read();
            let mut row = |key, value| drop(found.insert(key, value));
            if let Err(e) = source.query(&connection, &wanted, |batch| read(&batch, &mut row)) {
                self.shared().complain("look up rows", &e.to_string());
            }
        }
        keys.iter().map(|k| found.get(k).cloned()).collect()
    }
}

/// The first column of a batch as keys.
fn keys(batch: &RecordBatch) -> impl Iterator<Item = Option<Digest>> + '_ {
    let column = batch.column(0).as_any().downcast_ref::<BinaryArray>();
    column.into_iter().flatten().map(|k| k.and_then(|k| k.try_into().ok()).map(Digest))
}

impl RowCache for Cache {
    fn embeddings(&self, space: &Digest, texts: &[Digest]) -> Vec<Option<Vec<f32>>> {
        self.look_up(
            texts,
            |batch, text| batch.embeddings.get(&(*space, *text)).cloned(),
            &Source {
                table: "embeddings",
                columns: "text, vector",
                condition: "space = ?",
                parameters: &[space],
            },
            |batch, row| {
                let Some(lists) = batch.column(1).as_any().downcast_ref::<ListArray>() else { return };
                let Some(floats) = lists.values().as_any().downcast_ref::<Float32Array>() else { return };
                let offsets = lists.value_offsets();
                for (i, key) in keys(batch).enumerate() {
                    let range = offsets[i] as usize..offsets[i + 1] as usize;
                    if let Some(key) = key {
                        row(key, floats.values()[range].to_vec());
                    }
                }
            },
        )
    }

    fn put_embeddings(&self, space: &Digest, rows: &[(Digest, Vec<f32>)]) {
        if rows.is_empty() {
            return;
        }
        self.shared().put(|batch| {
            batch.embeddings.extend(rows.iter().map(|(text, vector)| ((*space, *text), vector.clone())));
            rows.iter().map(|(_, v)| 4 * v.len() + 100).sum()
        });
    }

    fn responses(&self, model: &Digest, settings: &Digest, prompts: &[Digest]) -> Vec<Option<String>> {
        self.look_up(
            prompts,
            |batch, prompt| batch.responses.get(&(*model, *settings, *prompt)).cloned(),
            &Source {
                table: "responses",
                columns: "prompt, answer",
                condition: "model = ? AND settings = ?",
                parameters: &[model, settings],
            },
            |batch, row| {
                let Some(answers) = batch.column(1).as_any().downcast_ref::<StringArray>() else { return };
                for (key, answer) in keys(batch).zip(answers) {
                    if let (Some(key), Some(answer)) = (key, answer) {
                        row(key, answer.to_owned());
                    }
                }
            },
        )
    }

    fn put_responses(&self, model: &Digest, settings: &Digest, rows: &[(Digest, String)]) {
        if rows.is_empty() {
            return;
        }
        self.shared().put(|batch| {
            let key = |prompt: &Digest| (*model, *settings, *prompt);
            batch.responses.extend(rows.iter().map(|(prompt, answer)| (key(prompt), answer.clone())));
            rows.iter().map(|(_, a)| a.len() + 150).sum()
        });
    }
}
