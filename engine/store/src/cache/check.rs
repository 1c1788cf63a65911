//! What of the cache is damaged, and how it is repaired.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use headstart_disk::{DiskError, Mode, files, read};

use super::Cache;
use super::db::Db;
use super::fold::NotFolded;
use super::merge::Sealing;
use super::segment::frame::{Item, Scan, salt};
use super::segment::index::Index;
use super::segment::set::segment_files;
use super::state::Shared;

/// How long another process may hold the database.
const PATIENCE: Duration = Duration::from_secs(10);

/// A file of the cache that is damaged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DamagedCache {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub why: String,
}

/// What was done about a damaged cache.
#[derive(Clone, Debug, Default)]
pub struct CacheRepairs {
    /// Files that were made again, and where the damaged ones are kept.
    pub repaired: Vec<(PathBuf, Option<PathBuf>)>,
    /// Files that cannot be repaired now, and why.
    pub left: Vec<DamagedCache>,
}

impl Cache {
    /// Reads everything: the database, segments and their indexes. What another process is writing is read as far as it is.
    pub fn damage(&self) -> Vec<DamagedCache> {
        let shared = self.shared();
        let mut found = Vec::new();
        let mut add = |path: &Path, why: String| found.push(DamagedCache { path: path.to_owned(), why });
        if let Some(why) = Db::damage(&shared.database) {
            add(&shared.database, why);
        }
        for path in segment_files(&shared.dir).into_values() {
            match damage_of(&path) {
                Ok(damage) => damage.into_iter().for_each(|(path, why)| add(&path, why)),
                // Merged into another meanwhile.
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => add(&path, e.to_string()),
            }
        }
        found
    }

    /// Repairs these: the database and indexes are made again from the segments; of a damaged segment a copy is
    /// kept, and what is intact in it stays.
    ///
    /// # Errors
    /// If the disk cannot take it, or another process holds the database.
    pub fn repair(&self, damage: &[DamagedCache]) -> Result<CacheRepairs, String> {
        let mut repairs = CacheRepairs::default();
        if damage.is_empty() {
            return Ok(repairs);
        }
        let shared = self.shared();
        {
            // So that segments of this process can be repaired like all others.
            shared.entries().seal();
            let lock = shared.fold_lock(PATIENCE).map_err(NotFolded::why)?;
            for damaged in damage.iter().filter(|d| d.path != shared.database) {
                let path = damaged.path.with_extension("seg");
                if repairs.repaired.iter().any(|(done, _)| *done == damaged.path) {
                    continue;
                }
                if damaged.path == path {
                    match shared.rewrite(&lock, &path).map_err(|e| e.to_string())? {
                        Some(copy) => repairs.repaired.push((path, Some(copy))),
                        None => repairs.left.push(DamagedCache {
                            why: format!("{}; another process appends to it", damaged.why),
                            ..damaged.clone()
                        }),
                    }
                } else if path.is_file() {
                    let remade = shared.disk.remove_file(&damaged.path).and_then(|()| shared.seal(&path));
                    remade.map_err(|e| format!("{}: {e}", damaged.path.display()))?;
                    repairs.repaired.push((damaged.path.clone(), None));
                }
            }
            if damage.iter().any(|d| d.path == shared.database) {
                let why = damage.iter().find(|d| d.path == shared.database).map_or("", |d| &d.why);
                let aside = shared.replace(why).map_err(NotFolded::why)?;
                repairs.repaired.push((shared.database.clone(), Some(aside)));
            }
            shared.entries().changed();
        }
        let restored = shared.with_database(PATIENCE, |db| match repairs.repaired.is_empty() {
            true => Ok(()),
            false => shared.restore(db),
        });
        restored.map_err(NotFolded::why)??;
        Ok(repairs)
    }
}

impl Shared {
    /// Writes a segment again with what is intact in it; gives where a copy of the damaged one is. `None` where
    /// another process appends to it.
    fn rewrite(&self, lock: &super::fold::FoldLock, path: &Path) -> Result<Option<PathBuf>, DiskError> {
        let io = |e| DiskError::at("repair", path)(e);
        if !path.with_extension("idx").is_file() {
            match self.seal(path) {
                Ok(Sealing::InUse) => return Ok(None),
                Ok(Sealing::Done) => {}
                // Its first bytes are damaged: nothing in it can be proven.
                Err(e) if e.kind() == io::ErrorKind::InvalidData => {}
                Err(e) => return Err(io(e)),
            }
        }
        let names = (1..).map(|n| path.with_extension(format!("damaged-{n}")));
        let copy = names.into_iter().find(|p| !p.exists()).expect("numbers do not end");
        files::copy_atomic(&*self.disk, path, &copy, Mode::Secret)?;
        let readable = read::open(path).and_then(|file| salt(&file)).is_ok_and(|salt| salt.is_some());
        if readable {
            self.merge_these(lock, &[path.to_owned()], None)?;
        } else {
            for path in [path.to_owned(), path.with_extension("idx")] {
                match self.disk.remove_file(&path) {
                    Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(io(e)),
                    _ => {}
                }
            }
        }
        Ok(Some(copy))
    }
}

/// What of a segment and its index is damaged.
fn damage_of(path: &Path) -> io::Result<Vec<(PathBuf, String)>> {
    let file = read::open(path)?;
    let Some(salt) = salt(&file)? else { return Ok(Vec::new()) };
    let at = path.with_extension("idx");
    let mut found = Vec::new();
    let mut covered = None;
    match read::open(&at).and_then(|file| Index::open(file, salt)) {
        Ok(mut index) => {
            covered = Some(index.covered);
            if let Err(e) = index.entries() {
                found.push((at, e.to_string()));
            }
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => found.push((at, e.to_string())),
    }
    let length = file.metadata()?.len();
    let mut scan = Scan::new(&file, salt, 0, length);
    let mut why = None;
    while let Some(item) = scan.next()? {
        match item {
            Item::Frame { .. } => {}
            Item::Damage { at, bytes } => {
                why.get_or_insert(format!("damaged at byte {at} ({bytes} bytes)"));
            }
            // One that still grows may end anywhere.
            Item::Tail { torn: true, .. } if covered.is_none() => {}
            Item::Tail { at, bytes, .. } => {
                why.get_or_insert(format!("damaged at byte {at} ({bytes} bytes)"));
            }
        }
    }
    if covered.is_some_and(|covered| covered > length) {
        why.get_or_insert(format!("it ends at byte {length}, before all that was in it"));
    }
    found.extend(why.map(|why| (path.to_owned(), why)));
    Ok(found)
}
