//! A disk for tests: it lies on the system's, counts every write, fails where a test says so, and can lose
//! what was not synced.

use std::collections::BTreeMap;
use std::fs::{self, File, Permissions};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::{Disk, DiskFile, Open, SystemDisk};

/// What a write meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// There is no room left (`ENOSPC`): half of what is written arrives.
    Full,
    /// It is not allowed (`EACCES`).
    Denied,
    /// The disk is broken (`EIO`): half of what is written arrives.
    Broken,
    /// The power is off: nothing arrives, and from the first write that meets it nothing is removed either.
    PowerOff,
}

impl Fault {
    fn error(self) -> io::Error {
        match self {
            Self::Full => ErrorKind::StorageFull.into(),
            Self::Denied => ErrorKind::PermissionDenied.into(),
            Self::Broken => io::Error::other("Input/output error"),
            Self::PowerOff => io::Error::other("the power is off"),
        }
    }
}

/// A disk that does as a test says. Clones are one disk.
///
/// Writes are numbered from 1: each call that adds something to the disk or makes it durable counts.
/// Removing something works, as it does on a full disk, but where the power is off, or [`SimulatedDisk::stop_removing_from`]
/// says otherwise.
#[derive(Clone, Debug, Default)]
pub struct SimulatedDisk {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    writes: u64,
    fault: Option<(Fault, u64, u64)>,
    /// Bytes that files may still grow by.
    room: Option<u64>,
    /// Whether that is what the disk says is free.
    says_room: bool,
    hit: Vec<PathBuf>,
    removals: u64,
    /// From which removal on nothing is removed any more.
    keeps_from: Option<u64>,
    boots: u64,
    /// Files whose content is newer than what is on disk, with what is.
    contents: BTreeMap<PathBuf, Vec<u8>>,
    /// Names that are not on disk yet, in order.
    names: Vec<Name>,
}

/// A change of names in a folder.
#[derive(Debug)]
enum Name {
    Created(PathBuf),
    Renamed { from: PathBuf, to: PathBuf, old: Option<Vec<u8>> },
    Exchanged { one: PathBuf, other: PathBuf },
}

impl SimulatedDisk {
    /// A disk that works.
    pub fn new() -> Self {
        Self::default()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From the removal of this number on nothing is removed any more, as if whoever does it had been killed before.
    pub fn stop_removing_from(&self, at: u64) {
        let mut state = self.state();
        state.keeps_from = Some(state.removals + at);
    }

    fn removal(&self) -> io::Result<()> {
        let mut state = self.state();
        state.removals += 1;
        if state.keeps_from.is_some_and(|at| state.removals >= at) {
            return Err(Fault::Broken.error());
        }
        Ok(())
    }

    /// How many writes there were.
    pub fn writes(&self) -> u64 {
        self.state().writes
    }

    /// Lets write number `at`, and all after it, meet `fault` until [`SimulatedDisk::repair`].
    pub fn fail_from(&self, at: u64, fault: Fault) {
        self.state().fault = Some((fault, at, u64::MAX));
    }

    /// Lets only write number `at` meet `fault`.
    pub fn fail_once(&self, at: u64, fault: Fault) {
        self.state().fault = Some((fault, at, at));
    }

    /// Lets files grow by so many bytes in all; what is removed makes room again. Names and folders take up none.
    pub fn set_room(&self, bytes: u64) {
        let mut state = self.state();
        (state.room, state.says_room) = (Some(bytes), false);
    }

    /// The same, and this is what the disk says is free; otherwise it says what the system's does.
    pub fn set_free(&self, bytes: u64) {
        let mut state = self.state();
        (state.room, state.says_room) = (Some(bytes), true);
    }

    /// From now on everything works.
    pub fn repair(&self) {
        let mut state = self.state();
        (state.fault, state.room, state.says_room) = (None, None, false);
    }

    /// The files and folders at which a fault was met, in order.
    pub fn hit(&self) -> Vec<PathBuf> {
        self.state().hit.clone()
    }

    /// Cuts the power and starts the system again: contents and names that were not synced are as they were
    /// when they last were. Folders are taken to be durable once they are created, as they are on file
    /// systems with a journal as soon as anything in them is.
    ///
    /// # Errors
    /// If the folder below cannot be changed.
    pub fn lose_unsynced(&self) -> io::Result<()> {
        let mut state = self.state();
        for (path, content) in std::mem::take(&mut state.contents) {
            if path.is_file() {
                overwrite(&path, &content)?;
            }
        }
        for name in std::mem::take(&mut state.names).into_iter().rev() {
            match name {
                Name::Created(path) => match fs::remove_file(&path) {
                    Err(e) if e.kind() != ErrorKind::NotFound => return Err(e),
                    _ => {}
                },
                // What was in the old place may be removed by now; then the change is taken to be on disk.
                Name::Exchanged { one, other } if one.exists() && other.exists() => {
                    SystemDisk.exchange(&one, &other)?;
                }
                Name::Exchanged { .. } => {}
                Name::Renamed { from, to, old } => {
                    if to.exists() && from.parent().is_some_and(Path::is_dir) {
                        fs::rename(&to, &from)?;
                    }
                    if let Some(old) = old {
                        fs::write(&to, old)?;
                    }
                }
            }
        }
        state.boots += 1;
        state.fault = None;
        Ok(())
    }

    /// Makes a file of `old` bytes one of `new` bytes, if there is room for it.
    fn grow(&self, path: &Path, old: u64, new: u64) -> io::Result<()> {
        let mut state = self.state();
        let Some(room) = &mut state.room else { return Ok(()) };
        match room.saturating_add(old).checked_sub(new) {
            Some(left) => {
                *room = left;
                Ok(())
            }
            None => {
                state.hit.push(path.to_owned());
                Err(Fault::Full.error())
            }
        }
    }

    /// Counts a write at `path`.
    fn write(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.writes += 1;
        match state.fault {
            Some((fault, from, to)) if (from..=to).contains(&state.writes) => {
                state.hit.push(path.to_owned());
                Err(fault.error())
            }
            _ => Ok(()),
        }
    }

    /// Whether anything can be removed.
    fn powered(&self) -> io::Result<()> {
        let state = self.state();
        match state.fault {
            Some((Fault::PowerOff, from, _)) if state.writes >= from => Err(Fault::PowerOff.error()),
            _ => Ok(()),
        }
    }

    /// Whether half of what is written arrives where a write fails.
    fn tears(&self) -> bool {
        !matches!(self.state().fault, Some((Fault::PowerOff | Fault::Denied, ..)))
    }
}

/// Puts a content into a file as it is, whatever its permissions.
fn overwrite(path: &Path, content: &[u8]) -> io::Result<()> {
    let permissions = fs::metadata(path)?.permissions();
    let folder = path.parent().unwrap_or(Path::new("."));
    let aside = folder.join(".lost");
    fs::write(&aside, content)?;
    fs::set_permissions(&aside, permissions)?;
    fs::rename(&aside, path)
}

impl State {
    /// The content of `path` is about to change.
    fn dirty(&mut self, path: &Path) {
        if !self.contents.contains_key(path) {
            self.contents.insert(path.to_owned(), fs::read(path).unwrap_or_default());
        }
    }

    /// Paths are other ones from now on; those that `moved` gives nothing for stay. The names of what is moved
    /// are changes of their own.
    fn relocate(&mut self, what: &[&Path], moved: impl Fn(&Path) -> Option<PathBuf>) {
        let contents = std::mem::take(&mut self.contents);
        self.contents = contents.into_iter().map(|(path, c)| (moved(&path).unwrap_or(path), c)).collect();
        for name in &mut self.names {
            let (Name::Created(path) | Name::Renamed { to: path, .. } | Name::Exchanged { other: path, .. }) =
                name;
            if !what.contains(&path.as_path())
                && let Some(now) = moved(path)
            {
                *path = now;
            }
        }
    }
}

/// Bytes of a file; none where there is none.
fn size(path: &Path) -> u64 {
    fs::symlink_metadata(path).map_or(0, |m| if m.is_file() { m.len() } else { 0 })
}

/// `path` with `to` in the place of the folder `from` that it lies in or is.
fn below(path: &Path, from: &Path, to: &Path) -> Option<PathBuf> {
    let rest = path.strip_prefix(from).ok()?;
    Some(if rest.as_os_str().is_empty() { to.to_owned() } else { to.join(rest) })
}

#[derive(Debug)]
struct SimulatedFile {
    disk: SimulatedDisk,
    file: File,
    path: PathBuf,
    appends: bool,
}

impl SimulatedFile {
    /// Writes through `put` at an offset, or half of it.
    fn put(&self, bytes: &[u8], at: u64, put: impl Fn(&[u8]) -> io::Result<()>) -> io::Result<()> {
        let old = self.file.metadata()?.len();
        let new = old.max(at.saturating_add(bytes.len() as u64));
        let mut allowed = self.disk.write(&self.path);
        if allowed.is_ok() && self.disk.grow(&self.path, old, new).is_err() {
            // What arrives of it takes up room that is there.
            let half = old.max(at.saturating_add((bytes.len() / 2) as u64));
            if self.disk.grow(&self.path, old, half).is_err() {
                return Err(Fault::Full.error());
            }
            allowed = Err(Fault::Full.error());
        }
        self.disk.state().dirty(&self.path);
        match allowed {
            Ok(()) => put(bytes),
            Err(e) => {
                if self.disk.tears() {
                    put(&bytes[..bytes.len() / 2])?;
                }
                Err(e)
            }
        }
    }
}

impl Read for SimulatedFile {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.file.read(buffer)
    }
}

impl Write for SimulatedFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let at = if self.appends { self.file.metadata()?.len() } else { (&self.file).stream_position()? };
        self.put(bytes, at, |bytes| (&self.file).write_all(bytes))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Seek for SimulatedFile {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.file.seek(to)
    }
}

impl DiskFile for SimulatedFile {
    fn sync(&self) -> io::Result<()> {
        self.disk.write(&self.path)?;
        self.disk.state().contents.remove(&self.path);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.disk.write(&self.path)?;
        self.disk.grow(&self.path, self.file.metadata()?.len(), len)?;
        self.disk.state().dirty(&self.path);
        self.file.set_len(len)
    }

    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.put(bytes, offset, |bytes| DiskFile::write_all_at(&self.file, bytes, offset))
    }

    fn set_permissions(&self, permissions: Permissions) -> io::Result<()> {
        self.file.set_permissions(permissions)
    }

    fn system(&self) -> &File {
        &self.file
    }
}

impl Disk for SimulatedDisk {
    fn shared(&self) -> Arc<dyn Disk> {
        Arc::new(self.clone())
    }

    fn open(&self, path: &Path, how: Open) -> io::Result<Box<dyn DiskFile>> {
        let exists = path.exists();
        if !exists || how == Open::Create {
            self.write(path)?;
        }
        if exists && how == Open::Create {
            self.state().dirty(path);
            self.grow(path, size(path), 0)?;
        }
        let file = crate::system::options(how).open(path)?;
        if !exists {
            let mut state = self.state();
            state.names.push(Name::Created(path.to_owned()));
            state.contents.insert(path.to_owned(), Vec::new());
        }
        let appends = how == Open::Append;
        Ok(Box::new(SimulatedFile { disk: self.clone(), file, path: path.to_owned(), appends }))
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        if !path.exists() && path.parent().is_some_and(Path::is_dir) {
            self.write(path)?;
        }
        SystemDisk.create_dir(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.write(to)?;
        let old = to.is_file().then(|| fs::read(to)).transpose()?;
        let replaced = size(to);
        SystemDisk.rename(from, to)?;
        self.grow(to, replaced, 0)?;
        let mut state = self.state();
        state.contents.remove(to);
        state.relocate(&[from], |path| below(path, from, to));
        state.names.push(Name::Renamed { from: from.to_owned(), to: to.to_owned(), old });
        Ok(())
    }

    fn exchange(&self, one: &Path, other: &Path) -> io::Result<()> {
        self.write(other)?;
        SystemDisk.exchange(one, other)?;
        let mut state = self.state();
        state.relocate(&[one, other], |path| below(path, one, other).or_else(|| below(path, other, one)));
        state.names.push(Name::Exchanged { one: one.to_owned(), other: other.to_owned() });
        Ok(())
    }

    fn hard_link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.write(to)?;
        SystemDisk.hard_link(from, to)?;
        self.state().names.push(Name::Created(to.to_owned()));
        Ok(())
    }

    fn symlink(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.write(to)?;
        SystemDisk.symlink(from, to)?;
        self.state().names.push(Name::Created(to.to_owned()));
        Ok(())
    }

    fn free_space(&self, path: &Path) -> io::Result<u64> {
        let State { room, says_room, .. } = *self.state();
        room.filter(|_| says_room).map_or_else(|| SystemDisk.free_space(path), Ok)
    }

    fn copy(&self, from: &Path, to: &Path) -> io::Result<u64> {
        let mut allowed = self.write(to);
        if allowed.is_ok() {
            allowed = self.grow(to, size(to), fs::metadata(from)?.len());
        }
        let mut state = self.state();
        if to.exists() {
            state.dirty(to);
        } else {
            state.names.push(Name::Created(to.to_owned()));
            state.contents.insert(to.to_owned(), Vec::new());
        }
        match allowed {
            Ok(()) => SystemDisk.copy(from, to),
            Err(e) => {
                if e.kind() != ErrorKind::PermissionDenied {
                    let bytes = fs::read(from)?;
                    fs::write(to, &bytes[..bytes.len() / 2])?;
                }
                Err(e)
            }
        }
    }

    fn set_permissions(&self, path: &Path, permissions: Permissions) -> io::Result<()> {
        SystemDisk.set_permissions(path, permissions)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.powered()?;
        self.removal()?;
        let removed = size(path);
        SystemDisk.remove_file(path)?;
        self.grow(path, removed, 0)?;
        self.state().contents.remove(path);
        Ok(())
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        self.powered()?;
        self.removal()?;
        let removed = crate::files::usage(path).0;
        SystemDisk.remove_dir_all(path)?;
        self.grow(path, removed, 0)?;
        self.state().contents.retain(|file, _| !file.starts_with(path));
        Ok(())
    }

    fn sync_file(&self, path: &Path) -> io::Result<()> {
        self.write(path)?;
        self.state().contents.remove(path);
        Ok(())
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.write(path)?;
        // By folder and not by name: a file renamed from another folder is on disk under its new name.
        self.state().names.retain(|name| {
            let (Name::Created(to) | Name::Renamed { to, .. } | Name::Exchanged { other: to, .. }) = name;
            to.parent() != Some(path)
        });
        Ok(())
    }

    fn sync_file_system(&self, path: &Path) -> io::Result<bool> {
        self.write(path)?;
        let mut state = self.state();
        state.contents.clear();
        state.names.clear();
        Ok(true)
    }

    fn boot_id(&self) -> Option<String> {
        Some(format!("boot {}", self.state().boots))
    }
}
