//! Embeddings and responses, row by row.

use std::collections::HashMap;

use duckdb::arrow::array::{Array, BinaryArray, Float32Array, ListArray, StringArray};
use duckdb::arrow::record_batch::RecordBatch;
use headstart_protocol::{Digest, RowCache};

use super::Cache;
use super::pending::Batch;

impl Cache {
    /// Takes what is pending, then asks the database for the rest with `sql`, whose rows begin
    /// with a key from the table `wanted`; `read` takes a batch of them.
    fn look_up<V: Clone>(
        &self,
        keys: &[Digest],
        pending: impl Fn(&Batch, &Digest) -> Option<V>,
        sql: &str,
        parameters: &[&Digest],
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
            let query = || -> Result<HashMap<Digest, V>, duckdb::Error> {
                connection.execute_batch("DELETE FROM wanted")?;
                let mut appender = connection.appender_to_catalog_and_db("wanted", "temp", "main")?;
                for key in &wanted {
                    appender.append_row([key.0.as_slice()])?;
                }
                appender.flush()?;
                let mut statement = connection.prepare(sql)?;
                let parameters = duckdb::params_from_iter(parameters.iter().map(|d| d.0.as_slice()));
                let mut rows = HashMap::new();
                for batch in statement.query_arrow(parameters)? {
                    read(&batch, &mut |key, value| drop(rows.insert(key, value)));
                }
                Ok(rows)
            };
            match query() {
                Ok(rows) => found.extend(rows),
                Err(e) => self.shared().complain("look up rows", &e.to_string()),
            }
        }
        keys.iter().map(|k| found.get(k).cloned()).collect()
    }
}

/// Column `i` of a batch as keys.
fn keys(batch: &RecordBatch) -> impl Iterator<Item = Option<Digest>> + '_ {
    let column = batch.column(0).as_any().downcast_ref::<BinaryArray>();
    column.into_iter().flatten().map(|k| k.and_then(|k| k.try_into().ok()).map(Digest))
}

impl RowCache for Cache {
    fn embeddings(&self, space: &Digest, texts: &[Digest]) -> Vec<Option<Vec<f32>>> {
        self.look_up(
            texts,
            |batch, text| batch.embeddings.get(&(*space, *text)).cloned(),
            "SELECT e.text, e.vector FROM embeddings e JOIN wanted w ON e.text = w.key WHERE e.space = ?",
            &[space],
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
            "SELECT r.prompt, r.answer FROM responses r JOIN wanted w ON r.prompt = w.key \
             WHERE r.model = ? AND r.settings = ?",
            &[model, settings],
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
