//! Folding segments into the database.
//!
//! One process at a time does it, at the end of a run and before a query; `cache/fold.lock` says which. The
//! database says of each segment how far it is folded, in the transaction that adds the rows.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::path::PathBuf;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use fs4::fs_std::FileExt;
use headstart_disk::{DiskFile, Open, files, read};

use super::batch::{Batch, StagePut};
use super::db::{self, Db, OpenError};
use super::segment::entry::Entry;
use super::segment::frame::{Item, Kind, Scan, salt};
use super::state::Shared;
use super::write::write;

/// Rows are written to the database in groups of about this many bytes.
const GROUP_BYTES: usize = 16 << 20;
/// How often is looked whether the lock is free.
const LOOK: Duration = Duration::from_millis(10);

/// Why nothing was folded.
#[derive(Debug)]
pub(crate) enum NotFolded {
    /// Another process folds, or another program has the database open.
    Busy(String),
    /// It cannot be done.
    Failed(String),
}

impl NotFolded {
    pub(crate) fn why(self) -> String {
        match self {
            Self::Busy(why) | Self::Failed(why) => why,
        }
    }
}

/// The right to change the database, to seal and to merge segments.
pub(crate) struct FoldLock {
    _file: Box<dyn DiskFile>,
}

/// A segment to be folded.
struct Source {
    name: String,
    path: PathBuf,
    end: u64,
}

impl Shared {
    /// Takes the lock within this time.
    pub(crate) fn fold_lock(&self, patience: Duration) -> Result<FoldLock, NotFolded> {
        let failed = |e: &dyn std::fmt::Display| NotFolded::Failed(e.to_string());
        files::create_dir(&*self.disk, &self.dir).map_err(|e| failed(&e))?;
        let path = self.dir.join("fold.lock");
        let file = self.disk.open(&path, Open::Update).map_err(|e| failed(&e))?;
        let begun = Instant::now();
        loop {
            if FileExt::try_lock_exclusive(file.system()).map_err(|e| failed(&e))? {
                return Ok(FoldLock { _file: file });
            }
            if begun.elapsed() >= patience {
                return Err(NotFolded::Busy(format!(
                    "{} is being written by another process",
                    self.database.display()
                )));
            }
            std::thread::sleep(LOOK);
        }
    }

    /// Folds what is not folded yet, if there is anything of this process.
    pub(crate) fn fold_own(&self, patience: Duration) {
        let nothing = self.records.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
            && !std::mem::take(&mut self.entries().unfolded);
        if nothing {
            return;
        }
        let Err(e) = self.with_database(patience, |_| ()) else { return };
        self.entries().unfolded = true;
        match e {
            NotFolded::Busy(why) => tracing::debug!("{why}; another process folds what is left"),
            NotFolded::Failed(why) => {
                tracing::warn!("{}: {why}; runs do not need it", self.database.display());
            }
        }
    }

    /// Folds everything, then calls `work` with the database.
    pub(crate) fn with_database<T>(
        &self,
        patience: Duration,
        work: impl FnOnce(&Db) -> T,
    ) -> Result<T, NotFolded> {
        // Before the lock is taken: entries of an earlier version are taken over under the same one.
        drop(self.entries());
        let lock = self.fold_lock(patience)?;
        self.seal_abandoned(&lock);
        let db = match self.fold(&lock) {
            Err(NotFolded::Failed(why)) if db::is_damage(&why) => {
                self.replace(&why)?;
                self.fold(&lock)?
            }
            folded => folded?,
        };
        let done = work(&db);
        self.merge(&lock, Some(&db));
        Ok(done)
    }

    /// Opens the database, upgrades it and folds everything into it.
    fn fold(&self, lock: &FoldLock) -> Result<Db, NotFolded> {
        let failed = NotFolded::Failed;
        let db = self.open_database(lock)?;
        let mut folded = folded(&db).map_err(failed)?;
        let sources = self.sources();
        let gone: Vec<&String> = folded.keys().filter(|n| sources.iter().all(|s| s.name != **n)).collect();
        for name in gone {
            let sql = format!("DELETE FROM folded WHERE segment = '{name}'");
            db.write().main.execute_batch(&sql).map_err(|e| failed(e.to_string()))?;
        }
        let mut group = Group::default();
        for source in sources {
            let from = folded.remove(&source.name).unwrap_or(0);
            if from < source.end {
                self.fold_segment(&db, &source, from, &mut group).map_err(failed)?;
            }
        }
        group.batch.records =
            std::mem::take(&mut *self.records.lock().unwrap_or_else(PoisonError::into_inner));
        group.write(&db).map_err(failed)?;
        Ok(db)
    }

    fn open_database(&self, lock: &FoldLock) -> Result<Db, NotFolded> {
        let open = || match Db::open(&self.database) {
            Err(OpenError::InUse(why)) => Err(NotFolded::Busy(why)),
            Err(OpenError::Unusable(why)) => {
                self.replace(&why)?;
                Db::open(&self.database).map_err(|e| match e {
                    OpenError::InUse(why) | OpenError::Unusable(why) => NotFolded::Failed(why),
                })
            }
            Ok(db) => Ok(db),
        };
        let db = open()?;
        if db.version == super::schema::VERSION {
            self.mark_imported().map_err(NotFolded::Failed)?;
            return Ok(db);
        }
        // A process of an earlier version made it, or wrote to it, after its entries were taken over.
        drop(db);
        self.import(lock).map_err(NotFolded::Failed)?;
        open()
    }

    /// Puts a database aside that cannot be used; it is made again from the segments.
    pub(crate) fn replace(&self, why: &str) -> Result<PathBuf, NotFolded> {
        let aside = db::set_aside(&self.database, why).map_err(NotFolded::Failed)?;
        tracing::warn!(
            "{} cannot be used ({why}): it is renamed to {} and made again; nothing of the cache is lost",
            self.database.display(),
            aside.display()
        );
        Ok(aside)
    }

    fn sources(&self) -> Vec<Source> {
        let mut entries = self.entries();
        entries.refresh();
        let own = entries.own.as_ref().map(|own| {
            let s = &own.segment;
            Source { name: s.name().to_owned(), path: s.path().to_owned(), end: own.end() }
        });
        let set = entries.set.segments().iter();
        let set = set.map(|s| Source { name: s.name().to_owned(), path: s.path().to_owned(), end: s.end() });
        set.chain(own).collect()
    }

    fn fold_segment(&self, db: &Db, source: &Source, from: u64, group: &mut Group) -> Result<(), String> {
        let at = |e: std::io::Error| format!("{}: {e}", source.path.display());
        let file: File = read::open(&source.path).map_err(at)?;
        let Some(salt) = salt(&file).map_err(at)? else { return Ok(()) };
        let mut scan = Scan::new(&file, salt, from, source.end);
        while let Some(item) = scan.next().map_err(at)? {
            if let Item::Frame { kind, body, .. } = item {
                group.add(kind, body);
            }
            if group.batch.bytes >= GROUP_BYTES {
                group.folded.insert(source.name.clone(), scan.position());
                group.write(db)?;
            }
        }
        group.folded.insert(source.name.clone(), source.end);
        Ok(())
    }
}

/// How far each segment is folded.
pub(crate) fn folded(db: &Db) -> Result<HashMap<String, u64>, String> {
    let read = db.read();
    let query = || -> Result<HashMap<String, u64>, duckdb::Error> {
        let mut statement = read.prepare("SELECT segment, bytes FROM folded")?;
        let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
        rows.collect()
    };
    query().map_err(|e| e.to_string())
}

/// Rows that are written together, and how far segments are folded with them.
#[derive(Default)]
struct Group {
    batch: Batch,
    folded: BTreeMap<String, u64>,
}

impl Group {
    fn add(&mut self, kind: Kind, body: &[u8]) {
        let batch = &mut self.batch;
        batch.bytes += body.len() + 100;
        match Entry::parse(kind, body) {
            Some(Entry::Stage { key, added, json, preimage }) => {
                let Ok(entry) = serde_json::from_str(json) else { return };
                let put = StagePut { entry, json: json.to_owned(), preimage: preimage.to_owned() };
                add_stage(batch, key, added, Some(put));
            }
            Some(Entry::Forget { key, added }) => add_stage(batch, key, added, None),
            Some(Entry::Embedding { space, text, vector }) => {
                batch.embeddings.insert((space, text), vector);
            }
            Some(Entry::Response { model, settings, prompt, answer }) => {
                batch.responses.insert((model, settings, prompt), answer.to_owned());
            }
            None => {}
        }
    }

    fn write(&mut self, db: &Db) -> Result<(), String> {
        if !self.batch.is_empty() || !self.folded.is_empty() {
            write(db, &self.batch, &self.folded)?;
        }
        *self = Self::default();
        Ok(())
    }
}

fn add_stage(batch: &mut Batch, key: headstart_protocol::Digest, added: i64, put: Option<StagePut>) {
    if batch.stages.get(&key).is_none_or(|(known, _)| *known <= added) {
        batch.stages.insert(key, (added, put));
    }
}
