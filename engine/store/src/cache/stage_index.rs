//! The newest results of stages, in memory.
//!
//! A key depends on the digests of inputs, so the keys of a long chain become known one by one; a
//! query each would be too slow. The newest entries are therefore kept in memory, still as JSON.

use std::collections::HashMap;

use duckdb::Connection;
use duckdb::arrow::array::{Array, StringArray};
use headstart_protocol::Digest;

use super::db::Db;

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

impl StageIndex {
    /// Loads the newest entries of the database, once.
    pub(crate) fn load<'a>(&mut self, db: impl FnOnce() -> Option<&'a Db>) -> Result<(), String> {
        if std::mem::replace(&mut self.loaded, true) {
            return Ok(());
        }
        let Some(db) = db() else { return Ok(()) };
        let found = newest(&db.read()).map_err(|e| e.to_string())?;
        self.partial = found.len() >= KEPT;
        // What was put before the database was read is newer.
        for (key, value) in found {
            self.entries.entry(key).or_insert(value);
        }
        Ok(())
    }

    /// Forgets everything. Nothing is loaded after that.
    pub(crate) fn clear(&mut self) {
        *self = Self { loaded: true, ..Self::default() };
    }

    /// Whether there are entries in the database that are not here.
    pub(crate) fn is_partial(&self) -> bool {
        self.partial
    }

    pub(crate) fn get(&self, key: &Digest) -> Option<&str> {
        self.entries.get(key).map(|json| &**json)
    }

    pub(crate) fn insert(&mut self, key: Digest, json: Box<str>) {
        self.entries.insert(key, json);
    }

    pub(crate) fn remove(&mut self, key: &Digest) {
        self.entries.remove(key);
    }
}

fn newest(connection: &Connection) -> Result<HashMap<Digest, Box<str>>, duckdb::Error> {
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
}
