//! Results of stages by cache key: found in memory, among pending puts, or in the database.

use std::collections::HashMap;
use std::sync::Arc;

use headstart_protocol::Digest;

use super::batch::StagePut;
use super::pending::Shared;
use super::{Cache, CacheEntry};

impl Cache {
    /// What a stage of this key made, if it is remembered. The key's output may still be gone from
    /// the workspace; [`crate::Artifacts::has`] tells.
    pub fn stage_get(&self, key: &Digest) -> Option<CacheEntry> {
        self.stage_get_many(std::slice::from_ref(key)).pop().flatten()
    }

    /// Like [`Cache::stage_get`] for many keys, in their order.
    pub fn stage_get_many(&self, keys: &[Digest]) -> Vec<Option<CacheEntry>> {
        let shared = self.shared();
        let index = shared.stages();
        let parse = |json: &str| serde_json::from_str(json).ok();
        let mut found: Vec<Option<CacheEntry>> = keys.iter().map(|k| index.get(k).and_then(parse)).collect();
        let partial = index.is_partial();
        drop(index);
        if partial {
            let missing: Vec<usize> = (0..keys.len()).filter(|i| found[*i].is_none()).collect();
            let texts: Vec<String> = missing.iter().map(|i| keys[*i].to_string()).collect();
            let older = self.entries_in_database(&texts);
            for (i, text) in missing.into_iter().zip(texts) {
                found[i] = older.get(&text).and_then(|json| parse(json));
            }
        }
        found
    }

    /// Remembers what a stage made. `preimage_json` is what `key` is the digest of.
    pub fn stage_put(&self, key: &Digest, preimage_json: &str, entry: &CacheEntry) {
        let Ok(json) = serde_json::to_string(entry) else { return };
        let micros = std::time::UNIX_EPOCH.elapsed().map_or(0, |d| d.as_micros());
        let put = StagePut {
            entry: entry.clone(),
            json: json.clone(),
            preimage: preimage_json.to_owned(),
            added: i64::try_from(micros).unwrap_or(i64::MAX),
        };
        let shared = self.shared();
        // Loaded: a half-loaded index could bring a forgotten entry back.
        let mut index = shared.stages();
        index.insert(*key, json.into());
        shared.put(|batch| {
            let bytes = put.json.len() + put.preimage.len() + 200;
            batch.stages.insert(*key, Some(put));
            bytes
        });
    }

    /// Forgets what a stage made, for instance because its output is gone.
    pub fn stage_forget(&self, key: &Digest) {
        let shared = self.shared();
        let mut index = shared.stages();
        index.remove(key);
        shared.put(|batch| {
            batch.stages.insert(*key, None);
            100
        });
    }

    /// What a key is the digest of, if it is remembered.
    pub fn preimage(&self, key: &Digest) -> Option<String> {
        let shared = self.shared();
        {
            let state = shared.state();
            if let Some(put) = state.next.stages.get(key).or_else(|| state.writing.stages.get(key)) {
                return put.as_ref().map(|p| p.preimage.clone());
            }
        }
        let connection = shared.db()?.read();
        let sql = "SELECT preimage FROM stage_cache WHERE key = ?";
        connection.query_row(sql, [key.to_string()], |row| row.get(0)).ok()
    }

    fn entries_in_database(&self, keys: &[String]) -> HashMap<String, String> {
        let mut out = HashMap::new();
        let shared: &Arc<Shared> = self.shared();
        let forgotten = |key: &str| {
            let Ok(key) = key.parse::<Digest>() else { return true };
            let state = shared.state();
            let put = state.next.stages.get(&key).or_else(|| state.writing.stages.get(&key));
            matches!(put, Some(None))
        };
        let Some(db) = shared.db() else { return out };
        for keys in keys.chunks(1000) {
            let marks = vec!["?"; keys.len()].join(",");
            let sql = format!("SELECT key, entry FROM stage_cache WHERE key IN ({marks})");
            let connection = db.read();
            let query = || -> Result<Vec<(String, String)>, duckdb::Error> {
                let mut statement = connection.prepare(&sql)?;
                let rows =
                    statement.query_map(duckdb::params_from_iter(keys), |r| Ok((r.get(0)?, r.get(1)?)))?;
                rows.collect()
            };
            match query() {
                Ok(rows) => out.extend(rows),
                Err(e) => shared.complain("look up stages", &e.to_string()),
            }
        }
        out.retain(|key, _| !forgotten(key));
        out
    }
}
