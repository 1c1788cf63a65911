//! Seals segments that their process left, and merges small ones.
//!
//! Every process leaves a segment, and a lookup has to ask each of them; so eight of about the same size become
//! one, in which only the newest entry about each stage is left. Who looks up meanwhile sees the old ones or
//! the new one.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use fs4::fs_std::FileExt;
use headstart_disk::files::{self, NewFile};
use headstart_disk::{DiskError, Mode, Open, read};

use super::db::Db;
use super::fold::{FoldLock, folded};
use super::segment::entry::{Hash, added_of, hash_of};
use super::segment::frame::{self, Item, Kind, Scan};
use super::segment::set::segment_files;
use super::segment::{Loc, index};
use super::state::Shared;

/// So many segments of a tier are merged.
const TIER: usize = 8;
/// Bytes below which a segment is of the first tier; each has eight times as many as the one before.
const SMALLEST: u64 = 1 << 20;
/// Segments of this many bytes are not merged any more.
const LARGEST: u64 = 512 << 20;
/// Temporary files of this age are of a process that is gone.
const ABANDONED: Duration = Duration::from_secs(3600);

/// What became of an attempt to seal a segment.
pub(crate) enum Sealing {
    Done,
    /// Its process lives.
    InUse,
}

impl Shared {
    /// Seals the segments whose processes are gone.
    pub(crate) fn seal_abandoned(&self, _lock: &FoldLock) {
        let own = self.entries().own.as_ref().map(|own| own.segment.name().to_owned());
        for (name, path) in segment_files(&self.dir) {
            if own.as_ref() != Some(&name)
                && !path.with_extension("idx").is_file()
                && let Err(e) = self.seal(&path)
            {
                tracing::warn!("cannot seal {}: {e}", path.display());
            }
        }
        for entry in fs::read_dir(&self.dir).into_iter().flatten().flatten() {
            let age = entry.metadata().and_then(|m| m.modified()).ok().and_then(|t| t.elapsed().ok());
            if entry.file_name().to_string_lossy().starts_with(".tmp-") && age.is_some_and(|a| a > ABANDONED)
            {
                let _ = self.disk.remove_file(&entry.path());
            }
        }
        self.entries().changed();
    }

    /// Cuts the torn tail of a segment that nobody appends to, and writes the index beside it.
    pub(crate) fn seal(&self, path: &Path) -> io::Result<Sealing> {
        let file = self.disk.open(path, Open::Update)?;
        if !FileExt::try_lock_exclusive(file.system())? {
            return Ok(Sealing::InUse);
        }
        let length = file.system().metadata()?.len();
        let Some(salt) = frame::salt(file.system())? else {
            // It was never begun; a moment ago its process may have been about to.
            let age = file.system().metadata()?.modified()?.elapsed().unwrap_or_default();
            return if age > ABANDONED {
                self.disk.remove_file(path).map(|()| Sealing::Done)
            } else {
                Ok(Sealing::InUse)
            };
        };
        let mut known: HashMap<Hash, Loc> = HashMap::new();
        let mut end = length;
        let mut scan = Scan::new(file.system(), salt, 0, length);
        while let Some(item) = scan.next()? {
            match item {
                Item::Frame { loc, kind, body } => known.extend(hash_of(kind, body).map(|hash| (hash, loc))),
                Item::Tail { at, torn: true, .. } => end = at,
                // It stays as it is, for `headstart verify` to name it.
                Item::Damage { .. } | Item::Tail { .. } => {}
            }
        }
        if end < length {
            file.set_len(end)?;
        }
        file.sync()?;
        let bytes = index::encode(known.into_iter().collect(), salt, end);
        files::write_atomic(&*self.disk, &path.with_extension("idx"), &bytes, Mode::Secret)
            .map_err(|e| e.source)?;
        Ok(Sealing::Done)
    }

    /// Merges segments, if there are many. `db` is told that the new one is folded.
    pub(crate) fn merge(&self, lock: &FoldLock, db: Option<&Db>) {
        let mut tiers: [Vec<PathBuf>; 5] = Default::default();
        for path in segment_files(&self.dir).into_values() {
            let Ok(length) = fs::metadata(&path).map(|m| m.len()) else { continue };
            if !path.with_extension("idx").is_file() || length >= LARGEST {
                continue;
            }
            let tier = (0..tiers.len() - 1).find(|t| length < SMALLEST << (3 * t)).unwrap_or(tiers.len() - 1);
            tiers[tier].push(path);
        }
        let known = db.and_then(|db| folded(db).ok()).unwrap_or_default();
        let is_folded = |path: &PathBuf| {
            let name = path.file_stem().and_then(|n| n.to_str()).unwrap_or_default();
            fs::metadata(path).is_ok_and(|m| known.get(name) == Some(&m.len()))
        };
        for mut tier in tiers {
            // One that was sealed just now is merged the next time, once all of it is folded.
            tier.retain(|path| db.is_none() || is_folded(path));
            if tier.len() < TIER {
                continue;
            }
            if let Err(e) = self.merge_these(lock, &tier, db) {
                tracing::warn!("cannot merge segments in {}: {e}", self.dir.display());
            }
        }
        self.entries().changed();
    }

    /// Writes what is intact of these segments into a new one, and removes them.
    pub(crate) fn merge_these(
        &self,
        _lock: &FoldLock,
        paths: &[PathBuf],
        db: Option<&Db>,
    ) -> Result<(), DiskError> {
        let disk = &*self.disk;
        let newest = newest(paths)?;
        let mut new = NewFile::in_dir(disk, &self.dir, ".tmp-")?;
        let at = new.path().to_owned();
        let write = DiskError::at("write", &at);
        // Of the first, so that names still sort by time; another salt makes it another file.
        let (name, salt) = next_name(paths);
        let mut merged = Merged { bytes: frame::file_header(salt).to_vec(), known: Vec::new(), end: 0, salt };
        for (i, path) in paths.iter().enumerate() {
            each_frame(path, |loc, kind, body| {
                let Some(hash) = hash_of(kind, body) else { return Ok(()) };
                if newest.get(&hash).is_some_and(|(of, at, _)| (*of, *at) == (i, loc.offset)) {
                    merged.add(hash, kind, body, new.file())?;
                }
                Ok(())
            })?;
        }
        merged.flush(new.file()).and_then(|()| new.file().sync()).map_err(write)?;
        let target = self.dir.join(format!("{name}.seg"));
        let (known, end) = (merged.known, merged.end);
        let bytes = index::encode(known, salt, end);
        files::write_atomic(disk, &target.with_extension("idx"), &bytes, Mode::Secret)?;
        new.persist(&target)?;
        files::sync_dir(disk, &self.dir)?;
        if let Some(db) = db {
            let sql = format!("INSERT INTO folded VALUES ('{name}', {end})");
            // Where it is not known there, it is folded again, which changes nothing.
            let _ = db.write().main.execute_batch(&sql);
        }
        for path in paths {
            // A reader that has one open reads on. Without its index, one that stays would be read whole.
            for path in [path.clone(), path.with_extension("idx")] {
                match disk.remove_file(&path) {
                    Err(e) if e.kind() != io::ErrorKind::NotFound => {
                        return Err(DiskError::at("remove", &path)(e));
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }
}

/// Of each entry the segment, place and time of its newest frame.
type Newest = HashMap<Hash, (usize, u64, Option<i64>)>;

fn newest(paths: &[PathBuf]) -> Result<Newest, DiskError> {
    let mut newest = Newest::new();
    for (i, path) in paths.iter().enumerate() {
        each_frame(path, |loc, kind, body| {
            let added = added_of(kind, body);
            if let Some(hash) = hash_of(kind, body)
                && newest.get(&hash).is_none_or(|(.., known)| added >= *known)
            {
                newest.insert(hash, (i, loc.offset, added));
            }
            Ok(())
        })?;
    }
    Ok(newest)
}

/// Calls `each` with every intact frame of a segment.
pub(crate) fn each_frame(
    path: &Path,
    mut each: impl FnMut(Loc, Kind, &[u8]) -> io::Result<()>,
) -> Result<(), DiskError> {
    let mut read = || -> io::Result<()> {
        let file = read::open(path)?;
        let Some(salt) = frame::salt(&file)? else { return Ok(()) };
        let mut scan = Scan::new(&file, salt, 0, file.metadata()?.len());
        while let Some(item) = scan.next()? {
            if let Item::Frame { loc, kind, body } = item {
                each(loc, kind, body)?;
            }
        }
        Ok(())
    };
    read().map_err(DiskError::at("merge", path))
}

/// A name and a salt for what these segments become.
fn next_name(paths: &[PathBuf]) -> (String, u64) {
    let taken: BTreeSet<&str> = paths.iter().filter_map(|p| p.file_stem()?.to_str()).collect();
    let first = taken.first().copied().unwrap_or("0-0-0");
    let stem = first.split('+').next().unwrap_or(first);
    let dir = paths.first().and_then(|p| p.parent()).unwrap_or(Path::new("."));
    let name = (1u32..).map(|n| format!("{stem}+{n}"));
    let name =
        name.into_iter().find(|n| !taken.contains(n.as_str()) && !dir.join(format!("{n}.seg")).exists());
    let name = name.expect("numbers do not end");
    let digest = headstart_protocol::Digest::of(name.as_bytes()).0;
    let (salt, _) = digest.split_first_chunk::<8>().expect("32 bytes are more than 8");
    (name, u64::from_le_bytes(*salt))
}

/// The new segment, as it is written.
struct Merged {
    /// Not written yet.
    bytes: Vec<u8>,
    known: Vec<(Hash, Loc)>,
    /// Bytes that are written.
    end: u64,
    salt: u64,
}

impl Merged {
    fn add(
        &mut self,
        hash: Hash,
        kind: Kind,
        body: &[u8],
        to: &mut dyn headstart_disk::DiskFile,
    ) -> io::Result<()> {
        let offset = self.end + self.bytes.len() as u64;
        let loc = frame::encode(&mut self.bytes, kind, body, self.salt, offset);
        self.known.push((hash, loc));
        if self.bytes.len() >= 1 << 20 { self.flush(to) } else { Ok(()) }
    }

    fn flush(&mut self, to: &mut dyn headstart_disk::DiskFile) -> io::Result<()> {
        to.write_all_at(&self.bytes, self.end)?;
        self.end += self.bytes.len() as u64;
        self.bytes.clear();
        Ok(())
    }
}
