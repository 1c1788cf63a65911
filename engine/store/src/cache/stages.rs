//! Results of stages by cache key.
//!
//! A key depends on the digests of inputs, so the keys of a long chain become known one by one; a
//! query each would be too slow. The newest entries are therefore kept in memory, still as JSON.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError};

use duckdb::arrow::array::{Array, StringArray};
use headstart_protocol::Digest;

use super::pending::{Shared, StagePut};
use super::{Cache, CacheEntry};

/// How many entries are kept in memory: about 100 MB. Older ones are looked up in the database.
const KEPT: usize = 400_000;

/// The entries in memory.
#[derive(Default)]
pub(crate) struct StageIndex {
    loaded: bool,
    /// Whether there are entries in the database that are not here.
    partial: bool,
    entries: HashMap<Digest, Box<str>>,
}

impl Shared {
    /// Loads the newest entries, once.
    pub(crate) fn load_stages(&self) {
        let mut index = self.stages.lock().unwrap_or_else(PoisonError::into_inner);
        self.load_into(&mut index);
    }

    /// Empties the entries in memory.
    pub(crate) fn forget_stages(&self) {
        let mut index = self.stages.lock().unwrap_or_else(PoisonError::into_inner);
        *index = StageIndex { loaded: true, ..StageIndex::default() };
    }

    fn load_into(&self, index: &mut StageIndex) {
        if index.loaded {
            return;
        }
        index.loaded = true;
        let Some(db) = self.db() else { return };
        let connection = db.read();
        let load = || -> Result<HashMap<Digest, Box<str>>, duckdb::Error> {
            let count: usize = connection.query_row("SELECT count(*) FROM stage_cache", [], |r| r.get(0))?;
            let sql = if count > KEPT {
                format!("SELECT key, entry FROM stage_cache ORDER BY added DESC LIMIT {KEPT}")
            } else {
                "SELECT key, entry FROM stage_cache".to_owned()
            };
            let mut entries = HashMap::with_capacity(count.min(KEPT));
            let mut statement = connection.prepare(&sql)?;
            for batch in statement.query_arrow([])? {
                let text = |i: usize| batch.column(i).as_any().downcast_ref::<StringArray>();
                let (Some(keys), Some(values)) = (text(0), text(1)) else { continue };
                for (key, value) in keys.iter().zip(values) {
                    if let (Some(Ok(key)), Some(value)) = (key.map(str::parse), value) {
                        entries.insert(key, value.into());
                    }
                }
            }
            Ok(entries)
        };
        match load() {
            Ok(found) => {
                index.partial = found.len() >= KEPT;
                // What was put before the database was read is newer.
                for (key, value) in found {
                    index.entries.entry(key).or_insert(value);
                }
            }
            Err(e) => self.complain("load the stage cache", &e.to_string()),
        }
    }
}

impl Cache {
    /// What a stage of this key made, if it is remembered. The key's output may still be gone from
    /// the workspace; [`crate::Artifacts::has`] tells.
    pub fn stage_get(&self, key: &Digest) -> Option<CacheEntry> {
        self.stage_get_many(std::slice::from_ref(key)).pop().flatten()
    }

    /// Like [`Cache::stage_get`] for many keys, in their order.
    pub fn stage_get_many(&self, keys: &[Digest]) -> Vec<Option<CacheEntry>> {
        let shared = self.shared();
        let mut index = shared.stages.lock().unwrap_or_else(PoisonError::into_inner);
        shared.load_into(&mut index);
        let parse = |json: &str| serde_json::from_str(json).ok();
        let mut found: Vec<Option<CacheEntry>> =
            keys.iter().map(|k| index.entries.get(k).and_then(|json| parse(json))).collect();
        let partial = index.partial;
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
        let mut index = shared.stages.lock().unwrap_or_else(PoisonError::into_inner);
        // A half-loaded index could bring a forgotten entry back.
        shared.load_into(&mut index);
        index.entries.insert(*key, json.into());
        shared.put(|batch| {
            let bytes = put.json.len() + put.preimage.len() + 200;
            batch.stages.insert(*key, Some(put));
            bytes
        });
    }

    /// Forgets what a stage made, for instance because its output is gone.
    pub fn stage_forget(&self, key: &Digest) {
        let shared = self.shared();
        let mut index = shared.stages.lock().unwrap_or_else(PoisonError::into_inner);
        shared.load_into(&mut index);
        index.entries.remove(key);
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
