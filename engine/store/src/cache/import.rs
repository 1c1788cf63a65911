//! Takes over the entries of a workspace of an earlier version, in which the database was the only place of
//! the cache.
//!
//! They become a segment, once; `cache/imported` says that it was done.

use std::ops::ControlFlow;
use std::time::Duration;

use duckdb::arrow::array::{Array, BinaryArray, Float32Array, Int64Array, ListArray, StringArray};
use duckdb::arrow::record_batch::RecordBatch;
use headstart_disk::{DiskError, Mode, files};
use headstart_protocol::Digest;

use super::db::{Db, OpenError};
use super::fold::{FoldLock, NotFolded};
use super::schema;
use super::segment::entry;
use super::segment::frame::Kind;
use super::segment::own::Own;
use super::state::Shared;

/// How long another process may take that does it.
const PATIENCE: Duration = Duration::from_secs(60);
/// Entries are written in groups of about this many bytes.
const GROUP_BYTES: usize = 4 << 20;

impl Shared {
    /// Takes over what an earlier version left, if nobody has.
    pub(crate) fn import_earlier(&self) {
        let done = self.dir.join("imported");
        if !self.database.is_file() || done.is_file() {
            return;
        }
        let outcome = self.fold_lock(PATIENCE).and_then(|lock| {
            if done.is_file() { Ok(()) } else { self.import(&lock).map_err(NotFolded::Failed) }
        });
        if let Err(e) = outcome {
            tracing::warn!(
                "the entries of {} cannot be taken over now, so that they do not count here: {}",
                self.database.display(),
                e.why()
            );
        }
    }

    /// Takes over what is in the database, and upgrades it. One that is damaged is put aside; what could be
    /// read of it counts.
    pub(crate) fn import(&self, _lock: &FoldLock) -> Result<(), String> {
        let db = match Db::open(&self.database) {
            Ok(db) => Some(db),
            Err(OpenError::InUse(why)) => return Err(why),
            Err(OpenError::Unusable(why)) => {
                self.replace(&why).map_err(NotFolded::why)?;
                None
            }
        };
        if let Some(mut db) = db.filter(|db| db.version != schema::VERSION) {
            let mut export = Export::new(self, &db, false);
            let read = export.everything();
            let segments = export.finish().map_err(|e| e.to_string())?;
            match read.and_then(|()| db.upgrade(&segments)) {
                Ok(()) => drop(db),
                Err(why) => {
                    drop(db);
                    self.replace(&why).map_err(NotFolded::why)?;
                }
            }
        }
        self.mark_imported()
    }

    /// Notes that nothing is left to be taken over.
    pub(crate) fn mark_imported(&self) -> Result<(), String> {
        let done = self.dir.join("imported");
        if done.is_file() {
            return Ok(());
        }
        files::write_atomic(&*self.disk, &done, b"", Mode::Secret).map_err(|e| e.to_string())
    }

    /// Puts back what the database has and no segment has any more.
    pub(crate) fn restore(&self, db: &Db) -> Result<(), String> {
        let mut export = Export::new(self, db, true);
        export.everything()?;
        export.finish().map_err(|e| e.to_string())?;
        self.entries().changed();
        Ok(())
    }
}

struct Export<'a> {
    shared: &'a Shared,
    db: &'a Db,
    /// Only what no segment has.
    missing: bool,
    own: Option<Own>,
    group: Vec<(Kind, Vec<u8>)>,
    bytes: usize,
    segments: Vec<(String, u64)>,
}

fn column<T: Array + 'static>(batch: &RecordBatch, i: usize) -> Option<&T> {
    batch.column(i).as_any().downcast_ref()
}

fn digest(bytes: Option<&[u8]>) -> Option<Digest> {
    bytes.and_then(|b| b.try_into().ok()).map(Digest)
}

impl<'a> Export<'a> {
    fn new(shared: &'a Shared, db: &'a Db, missing: bool) -> Self {
        Self { shared, db, missing, own: None, group: Vec::new(), bytes: 0, segments: Vec::new() }
    }

    fn everything(&mut self) -> Result<(), String> {
        let stages = self.query(
            "SELECT key, entry, preimage, epoch_us(added) FROM stage_cache ORDER BY added",
            |batch, put| {
                let texts = |i| column::<StringArray>(batch, i);
                let (Some(keys), Some(entries), Some(preimages)) = (texts(0), texts(1), texts(2)) else {
                    return;
                };
                let Some(times) = column::<Int64Array>(batch, 3) else { return };
                for (((key, json), preimage), added) in keys.iter().zip(entries).zip(preimages).zip(times) {
                    if let (Some(Ok(key)), Some(json)) = (key.map(str::parse), json) {
                        let (preimage, added) = (preimage.unwrap_or_default(), added.unwrap_or_default());
                        put(Kind::Stage, entry::stage(&key, added, json, preimage));
                    }
                }
            },
        );
        let vectors = self.query("SELECT space, text, vector FROM embeddings", |batch, put| {
            let (Some(spaces), Some(texts)) =
                (column::<BinaryArray>(batch, 0), column::<BinaryArray>(batch, 1))
            else {
                return;
            };
            let Some(lists) = column::<ListArray>(batch, 2) else { return };
            let Some(numbers) = lists.values().as_any().downcast_ref::<Float32Array>() else { return };
            let offsets = lists.value_offsets();
            for (i, (space, text)) in spaces.iter().zip(texts).enumerate() {
                let range = offsets[i] as usize..offsets[i + 1] as usize;
                if let (Some(space), Some(text)) = (digest(space), digest(text)) {
                    put(Kind::Embedding, entry::embedding(&space, &text, &numbers.values()[range]));
                }
            }
        });
        let answers = self.query("SELECT model, settings, prompt, answer FROM responses", |batch, put| {
            let keys = |i| column::<BinaryArray>(batch, i);
            let (Some(models), Some(settings), Some(prompts)) = (keys(0), keys(1), keys(2)) else { return };
            let Some(answers) = column::<StringArray>(batch, 3) else { return };
            for (((model, settings), prompt), answer) in models.iter().zip(settings).zip(prompts).zip(answers)
            {
                let key = (digest(model), digest(settings), digest(prompt));
                if let ((Some(model), Some(settings), Some(prompt)), Some(answer)) = (key, answer) {
                    put(Kind::Response, entry::response(&model, &settings, &prompt, answer));
                }
            }
        });
        stages.and(vectors).and(answers)
    }

    /// Puts what `read` makes of each batch of rows. What was read before a failure counts.
    fn query(
        &mut self,
        sql: &str,
        read: impl Fn(&RecordBatch, &mut dyn FnMut(Kind, Vec<u8>)),
    ) -> Result<(), String> {
        let text = |e: duckdb::Error| e.to_string();
        let db = self.db;
        let connection = db.read();
        let mut statement = connection.prepare(sql).map_err(text)?;
        let mut failed = None;
        for batch in statement.query_arrow([]).map_err(text)? {
            read(&batch, &mut |kind, body| {
                self.bytes += body.len();
                self.group.push((kind, body));
            });
            if self.bytes >= GROUP_BYTES {
                failed = self.write().err();
            }
            if failed.is_some() {
                break;
            }
        }
        failed.map_or(Ok(()), |e| Err(e.to_string()))
    }

    fn write(&mut self) -> Result<(), DiskError> {
        let mut group = std::mem::take(&mut self.group);
        self.bytes = 0;
        if self.missing {
            let mut entries = self.shared.entries();
            let mut buffer = Vec::new();
            group.retain(|(kind, body)| {
                let found = entry::hash_of(*kind, body)
                    .map(|hash| entries.each(&hash, &mut buffer, |_, _| ControlFlow::Break(())));
                found.is_some_and(|found| found.is_continue())
            });
        }
        if group.is_empty() {
            return Ok(());
        }
        let disk = &*self.shared.disk;
        let own = match &mut self.own {
            Some(own) => own,
            None => self.own.insert(Own::create(disk, &self.shared.dir)?),
        };
        own.append(&group)?;
        if own.is_long() { self.seal() } else { Ok(()) }
    }

    fn seal(&mut self) -> Result<(), DiskError> {
        if let Some(own) = self.own.take() {
            self.segments.push((own.segment.name().to_owned(), own.end()));
            own.seal(&*self.shared.disk)?;
        }
        Ok(())
    }

    /// Writes the rest; the names of the segments, and how long they are.
    fn finish(mut self) -> Result<Vec<(String, u64)>, DiskError> {
        self.write()?;
        self.seal()?;
        Ok(self.segments)
    }
}
