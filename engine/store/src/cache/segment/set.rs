//! All segments of a workspace but the one that this process appends to.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::{self, File};
use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use headstart_disk::read;

use super::entry::{Hash, hash_of};
use super::frame::{self, Item, Kind, Scan};
use super::index::Index;
use super::{Loc, entry};

/// A folder that was changed this long ago may change again without looking newer.
const COARSE: Duration = Duration::from_millis(100);

/// An open segment.
pub(crate) struct Segment {
    name: String,
    path: PathBuf,
    file: File,
    salt: u64,
    lookup: Lookup,
}

/// How its entries are found.
enum Lookup {
    Sealed(Index),
    /// In memory, as far as the segment was read when it had this length.
    Growing {
        known: HashMap<Hash, Loc>,
        read: u64,
        length: u64,
    },
}

impl Lookup {
    fn empty() -> Self {
        Self::Growing { known: HashMap::new(), read: frame::FILE_HEADER as u64, length: 0 }
    }
}

impl Segment {
    /// The segment at `path`; `None` if its first bytes are not written yet.
    ///
    /// # Errors
    /// If it cannot be read, or is no segment.
    pub(crate) fn open(path: &Path) -> io::Result<Option<Self>> {
        let file = read::open(path)?;
        let Some(salt) = frame::salt(&file)? else { return Ok(None) };
        let mut segment = Self::begun(path, file, salt)?;
        segment.reopen();
        Ok(Some(segment))
    }

    /// A segment of which nothing is known yet.
    ///
    /// # Errors
    /// If its name is none of a segment.
    pub(crate) fn begun(path: &Path, file: File, salt: u64) -> io::Result<Self> {
        let name = path.file_stem().and_then(|n| n.to_str()).ok_or(io::ErrorKind::InvalidInput)?;
        Ok(Self { name: name.to_owned(), path: path.to_owned(), file, salt, lookup: Lookup::empty() })
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether an index is beside it.
    pub(crate) fn is_sealed(&self) -> bool {
        matches!(self.lookup, Lookup::Sealed(_))
    }

    /// Bytes of it that hold entries, as far as is known.
    pub(crate) fn end(&self) -> u64 {
        match &self.lookup {
            Lookup::Sealed(index) => index.covered,
            Lookup::Growing { read, .. } => *read,
        }
    }

    /// Uses the index beside it, if there is an intact one; else reads it.
    pub(crate) fn reopen(&mut self) {
        let at = self.path.with_extension("idx");
        match read::open(&at).and_then(|file| Index::open(file, self.salt)) {
            Ok(index) => {
                self.lookup = Lookup::Sealed(index);
                return;
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => tracing::warn!("{}: {e}; the segment is read instead", at.display()),
        }
        self.catch_up();
    }

    /// Reads what was appended since.
    fn catch_up(&mut self) {
        let Lookup::Growing { known, read, length: seen } = &mut self.lookup else { return };
        let Ok(length) = self.file.metadata().map(|m| m.len()) else { return };
        // A tail that holds no frame is not read again and again.
        if length <= *read || length == std::mem::replace(seen, length) {
            return;
        }
        let mut scan = Scan::new(&self.file, self.salt, *read, length);
        loop {
            match scan.next() {
                Ok(Some(Item::Frame { loc, kind, body })) => {
                    known.extend(hash_of(kind, body).map(|hash| (hash, loc)));
                }
                Ok(Some(Item::Damage { at, bytes })) => {
                    tracing::warn!(
                        "{}: {bytes} bytes from byte {at} are damaged; what they held is computed again where \
                         it is needed",
                        self.path.display()
                    );
                }
                // It may still be being written.
                Ok(Some(Item::Tail { .. }) | None) => return,
                Err(e) => return tracing::warn!("cannot read {}: {e}", self.path.display()),
            }
            *read = scan.position();
        }
    }

    /// Adds what was just appended.
    pub(crate) fn grow(&mut self, added: Vec<(Hash, Loc)>, end: u64) {
        if let Lookup::Growing { known, read, .. } = &mut self.lookup {
            known.extend(added);
            *read = end;
        }
    }

    /// Where its entries are.
    pub(crate) fn known(&mut self) -> Vec<(Hash, Loc)> {
        match &mut self.lookup {
            Lookup::Growing { known, .. } => known.iter().map(|(hash, loc)| (*hash, *loc)).collect(),
            Lookup::Sealed(index) => index.entries().unwrap_or_default(),
        }
    }

    fn find(&mut self, hash: &Hash) -> Option<Loc> {
        if let Lookup::Sealed(index) = &mut self.lookup {
            match index.find(hash) {
                Ok(found) => return found,
                Err(e) => {
                    let at = self.path.with_extension("idx");
                    tracing::warn!("{}: {e}; the segment is read instead", at.display());
                    self.lookup = Lookup::empty();
                    self.catch_up();
                }
            }
        }
        match &self.lookup {
            Lookup::Growing { known, .. } => known.get(hash).copied(),
            Lookup::Sealed(_) => None,
        }
    }

    /// Reads the entry of a hash: its kind and body.
    pub(crate) fn read(&mut self, hash: &Hash, buffer: &mut Vec<u8>) -> Option<Kind> {
        let loc = self.find(hash)?;
        self.read_at(hash, loc, buffer)
    }

    /// Reads the entry at a place, which is of this hash.
    pub(crate) fn read_at(&self, hash: &Hash, loc: Loc, buffer: &mut Vec<u8>) -> Option<Kind> {
        let read = frame::read(&self.file, self.salt, loc, buffer).unwrap_or_else(|e| {
            tracing::warn!("cannot read {}: {e}", self.path.display());
            None
        });
        let intact = read.filter(|kind| hash_of(*kind, buffer).as_ref() == Some(hash));
        if intact.is_none() {
            let at = loc.offset;
            tracing::warn!(
                "{}: the entry at byte {at} is damaged; it is computed again where it is needed",
                self.path.display()
            );
        }
        intact
    }
}

/// All segments, as of when they were looked at last.
pub(crate) struct Set {
    dir: PathBuf,
    segments: Vec<Segment>,
    /// When the folder was changed last before it was listed; `None` where that proves nothing.
    listed: Option<SystemTime>,
    /// Files that are no segments, and were named.
    refused: BTreeSet<PathBuf>,
}

impl Set {
    pub(crate) fn new(dir: PathBuf) -> Self {
        Self { dir, segments: Vec::new(), listed: None, refused: BTreeSet::new() }
    }

    pub(crate) fn segments(&mut self) -> &mut Vec<Segment> {
        &mut self.segments
    }

    /// Takes in what other processes wrote since.
    pub(crate) fn refresh(&mut self, own: Option<&str>) {
        let dir = self.dir.clone();
        let changed = || fs::metadata(&dir).and_then(|m| m.modified()).ok();
        let now = changed();
        if now.is_none() || now != self.listed {
            // Where the folder changes while it is listed, a merged segment may be missed with those it
            // was made of.
            for _ in 0..3 {
                let before = changed();
                self.list(own);
                self.listed = before.filter(|at| at.elapsed().is_ok_and(|age| age > COARSE));
                if changed() == before {
                    break;
                }
            }
        }
        self.segments.iter_mut().for_each(Segment::catch_up);
    }

    /// The folder is to be listed again.
    pub(crate) fn changed(&mut self) {
        self.listed = None;
    }

    fn list(&mut self, own: Option<&str>) {
        let found = segment_files(&self.dir);
        self.segments.retain(|s| found.contains_key(&s.name));
        let mut known: BTreeMap<String, usize> =
            self.segments.iter().enumerate().map(|(i, s)| (s.name.clone(), i)).collect();
        for (name, path) in found {
            match known.remove(&name) {
                Some(i) if !self.segments[i].is_sealed() && path.with_extension("idx").is_file() => {
                    self.segments[i].reopen();
                }
                Some(_) => {}
                None if own == Some(&name) => {}
                None => match Segment::open(&path) {
                    Ok(Some(segment)) => self.segments.push(segment),
                    // Not begun yet, or merged into another meanwhile.
                    Ok(None) => {}
                    Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                    Err(e) => {
                        if self.refused.insert(path.clone()) {
                            tracing::warn!("{}: {e}; the cache does without it", path.display());
                        }
                    }
                },
            }
        }
    }

    /// Calls `each` with every entry of a hash until it breaks.
    pub(crate) fn each(
        &mut self,
        hash: &Hash,
        buffer: &mut Vec<u8>,
        mut each: impl FnMut(Kind, &[u8]) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        for segment in &mut self.segments {
            if let Some(kind) = segment.read(hash, buffer) {
                each(kind, buffer)?;
            }
        }
        ControlFlow::Continue(())
    }
}

/// The segments in a folder, by name.
pub(crate) fn segment_files(dir: &Path) -> BTreeMap<String, PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let named = entries.filter_map(|e| {
        let path = e.path();
        let is_segment = path.extension().is_some_and(|e| e == "seg");
        let name = path.file_stem()?.to_str()?.to_owned();
        is_segment.then_some((name, path))
    });
    named.collect()
}

/// The later of two frames about a stage.
pub(crate) fn later(kind: Kind, body: &[u8], than: Option<&(Kind, Vec<u8>)>) -> bool {
    let added = entry::added_of(kind, body);
    than.is_none_or(|(kind, body)| added > entry::added_of(*kind, body))
}
