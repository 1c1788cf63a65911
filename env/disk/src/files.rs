//! File operations that survive a crash. Whatever Headstart keeps is written through these.
//!
//! All of them take the [`Disk`] to write to, and name the file in their [`DiskError`].

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::{Disk, DiskError, DiskFile, Mode, Open, unique};

/// What the names of files begin with that are being written.
const UNFINISHED: &str = ".tmp-";

/// Creates a folder and its parents.
///
/// # Errors
/// If the disk does not allow it.
pub fn create_dir(disk: &dyn Disk, path: &Path) -> Result<(), DiskError> {
    if path.is_dir() || path.as_os_str().is_empty() {
        return Ok(());
    }
    match disk.create_dir(path) {
        Err(e) if e.kind() == ErrorKind::NotFound && path.parent().is_some() => {
            create_dir(disk, folder_of(path))?;
            match disk.create_dir(path) {
                // Somebody else was faster.
                Err(_) if path.is_dir() => Ok(()),
                done => done.map_err(DiskError::at("create", path)),
            }
        }
        Err(_) if path.is_dir() => Ok(()),
        done => done.map_err(DiskError::at("create", path)),
    }
}

/// Creates a folder and its parents, readable by its owner only.
///
/// # Errors
/// If the disk does not allow it.
pub fn create_private_dir(disk: &dyn Disk, path: &Path) -> Result<(), DiskError> {
    create_dir(disk, path)?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let only_owner = fs::Permissions::from_mode(0o700);
        disk.set_permissions(path, only_owner).map_err(DiskError::at("set the permissions of", path))?;
    }
    Ok(())
}

/// Takes others' rights to a file or folder away, if they have any. Gives whether they had.
///
/// # Errors
/// If the disk does not allow it.
pub fn protect(disk: &dyn Disk, path: &Path) -> Result<bool, DiskError> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let found = fs::metadata(path).map_err(DiskError::at("read the permissions of", path))?;
        let mode = found.permissions().mode();
        if mode & 0o077 == 0 {
            return Ok(false);
        }
        let only_owner = fs::Permissions::from_mode(mode & 0o700);
        disk.set_permissions(path, only_owner).map_err(DiskError::at("set the permissions of", path))?;
        Ok(true)
    }
    #[cfg(not(unix))]
    {
        let _ = (disk, path);
        Ok(false)
    }
}

/// A folder that somebody is to write into.
#[derive(Clone, Copy, Debug)]
pub struct OutFolder<'a> {
    /// The disk that it lies on.
    pub disk: &'a dyn Disk,
    /// Where it lies.
    pub path: &'a Path,
}

/// Makes the names in a folder durable.
///
/// # Errors
/// If the disk cannot take them.
pub fn sync_dir(disk: &dyn Disk, path: &Path) -> Result<(), DiskError> {
    disk.sync_dir(path).map_err(DiskError::at("sync", path))
}

/// Makes a file's content durable.
///
/// # Errors
/// If the disk cannot take it.
pub fn sync_file(disk: &dyn Disk, path: &Path) -> Result<(), DiskError> {
    disk.sync_file(path).map_err(DiskError::at("sync", path))
}

/// What is removed again unless it is kept.
#[derive(Debug)]
struct Fleeting<'a> {
    disk: &'a dyn Disk,
    path: Option<PathBuf>,
}

impl Fleeting<'_> {
    fn path(&self) -> &Path {
        self.path.as_deref().expect("only `keep` takes the path, and consumes this")
    }

    fn keep(mut self) -> PathBuf {
        self.path.take().expect("only this takes the path")
    }
}

impl Drop for Fleeting<'_> {
    fn drop(&mut self) {
        if let Some(path) = self.path.take() {
            // What stays only takes up room.
            let _ =
                if path.is_dir() { self.disk.remove_dir_all(&path) } else { self.disk.remove_file(&path) };
        }
    }
}

/// A file without a lasting name yet, removed again unless it is kept.
#[derive(Debug)]
pub struct NewFile<'a> {
    file: Box<dyn DiskFile>,
    place: Fleeting<'a>,
}

impl<'a> NewFile<'a> {
    /// An empty file in `dir` with a fresh name that begins with `prefix`.
    ///
    /// # Errors
    /// If the disk does not allow it.
    pub fn in_dir(disk: &'a dyn Disk, dir: &Path, prefix: &str) -> Result<Self, DiskError> {
        Self::open(disk, dir, prefix, Open::New).map_err(DiskError::at("create a file in", dir))
    }

    fn open(disk: &'a dyn Disk, dir: &Path, prefix: &str, how: Open) -> io::Result<Self> {
        let (file, path) = unique::in_dir(dir, prefix, |path| disk.open(path, how))?;
        Ok(Self { file, place: Fleeting { disk, path: Some(path) } })
    }

    /// The file, open for reading and writing.
    pub fn file(&mut self) -> &mut dyn DiskFile {
        &mut *self.file
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        self.place.path()
    }

    /// Gives it its name, in the place of what has that name.
    ///
    /// # Errors
    /// If the disk does not allow it; the file is then removed.
    pub fn persist(self, to: &Path) -> Result<(), DiskError> {
        self.place.disk.rename(self.path(), to).map_err(DiskError::at("write", to))?;
        self.place.keep();
        Ok(())
    }

    /// Leaves it under the name that it has.
    pub fn keep(self) -> (Box<dyn DiskFile>, PathBuf) {
        (self.file, self.place.keep())
    }
}

/// Writes a small file so that after a crash it is there whole or not at all: a temporary file,
/// synced, then renamed.
///
/// # Errors
/// If the disk cannot take it; an earlier file of this name is then unchanged.
pub fn write_atomic(disk: &dyn Disk, path: &Path, bytes: &[u8], mode: Mode) -> Result<(), DiskError> {
    write_atomic_with(disk, path, mode, |file| file.write_all(bytes).map_err(DiskError::at("write", path)))
}

/// Removes what processes left in a folder that were killed while they wrote there. To be called while nobody else
/// writes in it.
///
/// # Errors
/// If a file cannot be removed.
pub fn remove_unfinished(disk: &dyn Disk, dir: &Path) -> Result<(), DiskError> {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let digits = name.to_str().and_then(|name| name.strip_prefix(UNFINISHED)).unwrap_or_default();
        let ours = digits.len() == 16 && digits.bytes().all(|b| b.is_ascii_hexdigit());
        if ours && entry.file_type().is_ok_and(|kind| kind.is_file()) {
            let path = entry.path();
            disk.remove_file(&path).map_err(DiskError::at("remove", &path))?;
        }
    }
    Ok(())
}

/// [`write_atomic`] for a content that `fill` writes.
///
/// # Errors
/// If the disk cannot take it, and those of `fill`; an earlier file of this name is then unchanged.
pub fn write_atomic_with<E: From<DiskError>>(
    disk: &dyn Disk,
    path: &Path,
    mode: Mode,
    fill: impl FnOnce(&mut dyn DiskFile) -> Result<(), E>,
) -> Result<(), E> {
    let dir = folder_of(path);
    create_dir(disk, dir)?;
    let mut new = NewFile::in_dir(disk, dir, UNFINISHED)?;
    fill(new.file())?;
    let file = new.file();
    file.set_mode(mode).and_then(|()| file.sync()).map_err(DiskError::at("write", path))?;
    new.persist(path)?;
    Ok(sync_dir(disk, dir)?)
}

/// Writes a file that need not survive a crash, such as one of an attempt's own folder.
///
/// # Errors
/// If the disk cannot take it; what was written of it is removed.
pub fn write(disk: &dyn Disk, path: &Path, bytes: &[u8]) -> Result<(), DiskError> {
    write_with(disk, path, |file| file.write_all(bytes).map_err(DiskError::at("write", path)))
}

/// [`write()`] for a content that `fill` writes.
///
/// # Errors
/// If the disk cannot take it, and those of `fill`; what was written of it is removed.
pub fn write_with<T, E: From<DiskError>>(
    disk: &dyn Disk,
    path: &Path,
    fill: impl FnOnce(&mut dyn DiskFile) -> Result<T, E>,
) -> Result<T, E> {
    let mut file = disk.open(path, Open::Create).map_err(DiskError::at("write", path))?;
    let done = fill(&mut *file);
    if done.is_err() {
        // Half a file could be taken for a whole one.
        let _ = disk.remove_file(path);
    }
    done
}

/// Gives `path` a new content on behalf of its owner: whatever happens, the old one or the new one is
/// there, whole.
///
/// The content is written to a temporary file with a unique name in the same folder, so that no
/// other file is touched. Permissions are kept. If `path` is a symbolic link, the file it leads to is
/// replaced, and the link stays. A file that does not exist is created.
///
/// # Errors
/// If the folder cannot be written to, or the file may not be replaced; then nothing has changed.
pub fn replace(disk: &dyn Disk, path: &Path, content: &[u8]) -> Result<(), DiskError> {
    let failed = |e| DiskError::at("write", path)(e);
    let target = match fs::canonicalize(path) {
        Ok(target) => target,
        Err(e) if e.kind() == ErrorKind::NotFound => leads_to(path),
        Err(e) => return Err(failed(e)),
    };
    let permissions = match fs::metadata(&target) {
        Ok(old) if old.is_dir() => return Err(failed(ErrorKind::IsADirectory.into())),
        Ok(old) if old.permissions().readonly() => return Err(failed(ErrorKind::PermissionDenied.into())),
        Ok(old) => Some(old.permissions()),
        Err(e) if e.kind() == ErrorKind::NotFound => None,
        Err(e) => return Err(failed(e)),
    };
    let folder = folder_of(&target);
    // Without an old file, the permissions of any new one: the system takes its mask away.
    let how = if permissions.is_some() { Open::New } else { Open::Create };
    let mut new = NewFile::open(disk, folder, ".headstart-", how).map_err(failed)?;
    let file = new.file();
    file.write_all(content)
        .and_then(|()| permissions.map_or(Ok(()), |old| file.set_permissions(old)))
        .and_then(|()| file.sync())
        .map_err(failed)?;
    new.persist(&target).map_err(|e| failed(e.source))?;
    sync_dir(disk, folder)
}

/// Where a file is created: behind a link that leads to nothing yet, or in its own place.
fn leads_to(file: &Path) -> PathBuf {
    match fs::read_link(file) {
        Ok(target) => file.parent().unwrap_or(Path::new("")).join(target),
        Err(_) => file.to_owned(),
    }
}

/// The folder that a file lies in.
pub fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    }
}

/// Makes the folder `target` so that it appears complete or not at all: `build` fills a temporary
/// one beside it. What is there already is replaced if `replace` says so of it. `None` where
/// another folder was there, or came there meanwhile, and stays.
///
/// # Errors
/// If the disk cannot take it, or what `build` fails with; nothing is then left behind, and what was there
/// stays.
pub fn create_dir_atomic<T, E: From<DiskError>>(
    disk: &dyn Disk,
    target: &Path,
    replace: impl Fn(&Path) -> bool,
    build: impl FnOnce(&Path) -> Result<T, E>,
) -> Result<Option<T>, E> {
    let dir = folder_of(target);
    create_dir(disk, dir)?;
    let made = unique::in_dir(dir, ".new-", |path| disk.create_dir(path));
    let ((), path) = made.map_err(DiskError::at("create a folder in", dir))?;
    let temp = Fleeting { disk, path: Some(path) };
    let built = build(temp.path())?;
    if target.is_dir() && replace(target) {
        return put_in_place(disk, temp, target).map(|()| Some(built)).map_err(E::from);
    }
    match disk.rename(temp.path(), target) {
        Ok(()) => {
            // The folder is no longer there to be deleted.
            temp.keep();
            Ok(Some(built))
        }
        Err(_) if target.exists() => Ok(None),
        Err(e) => Err(DiskError::at("create", target)(e).into()),
    }
}

/// Puts a folder in the place of another, which is removed.
fn put_in_place(disk: &dyn Disk, new: Fleeting<'_>, target: &Path) -> Result<(), DiskError> {
    let failed = |e| DiskError::at("replace", target)(e);
    match disk.exchange(new.path(), target) {
        // What was there before lies in the temporary place now, and is removed with it.
        Ok(()) => return Ok(()),
        Err(e) if e.kind() == ErrorKind::Unsupported => {}
        Err(e) => return Err(failed(e)),
    }
    let dir = folder_of(target);
    let ((), aside) = unique::in_dir(dir, ".old-", |path| disk.rename(target, path)).map_err(failed)?;
    let old = Fleeting { disk, path: Some(aside) };
    if let Err(e) = disk.rename(new.path(), target) {
        let aside = old.keep();
        // Where it cannot be put back, it stays where it is: nothing is lost.
        let _ = disk.rename(&aside, target);
        return Err(failed(e));
    }
    new.keep();
    Ok(())
}

/// A folder that is removed, with everything in it, when this is dropped.
#[derive(Debug)]
pub struct TempDir {
    disk: Arc<dyn Disk>,
    path: PathBuf,
}

impl TempDir {
    /// An empty folder in `dir`, which exists, with a fresh name that begins with `prefix`.
    ///
    /// # Errors
    /// If the disk does not allow it.
    pub fn in_dir(disk: &Arc<dyn Disk>, dir: &Path, prefix: &str) -> Result<Self, DiskError> {
        let made = unique::in_dir(dir, prefix, |path| disk.create_dir(path));
        let ((), path) = made.map_err(DiskError::at("create a folder in", dir))?;
        Ok(Self { disk: Arc::clone(disk), path })
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        // One that stays only takes up room.
        let _ = self.disk.remove_dir_all(&self.path);
    }
}

/// Copies a file; what was written of the copy is removed where it cannot be completed.
///
/// # Errors
/// If it cannot be read, or the disk cannot take it.
pub fn copy(disk: &dyn Disk, from: &Path, to: &Path) -> Result<u64, DiskError> {
    disk.copy(from, to).map_err(|source| {
        // Half a file could be taken for a whole one.
        let _ = disk.remove_file(to);
        // A source that cannot be read is at fault itself.
        match File::open(from) {
            Ok(_) => DiskError { doing: "write", path: to.to_owned(), source },
            Err(source) => DiskError { doing: "read", path: from.to_owned(), source },
        }
    })
}

/// A copy of a file for its reader to keep: whole or not at all, in the place of what has that name.
///
/// # Errors
/// If it cannot be read, or the disk cannot take it; what was there is then unchanged.
pub fn copy_atomic(disk: &dyn Disk, from: &Path, to: &Path, mode: Mode) -> Result<(), DiskError> {
    let dir = folder_of(to);
    create_dir(disk, dir)?;
    let temp = NewFile::in_dir(disk, dir, UNFINISHED)?;
    copy(disk, from, temp.path()).map_err(|e| if e.doing == "write" { named(e, to) } else { e })?;
    let done = fs::metadata(temp.path())
        .and_then(|m| disk.set_permissions(temp.path(), mode.permissions(m.permissions())))
        .and_then(|()| disk.sync_file(temp.path()));
    done.map_err(DiskError::at("write", to))?;
    temp.persist(to)
}

/// The error under the name that its reader knows.
fn named(e: DiskError, path: &Path) -> DiskError {
    DiskError { path: path.to_owned(), ..e }
}

/// Moves a file, or copies it where it may not be moved or lies on another file system.
///
/// # Errors
/// If it cannot be read, or the disk cannot take it.
pub fn take(disk: &dyn Disk, from: &Path, to: &Path, movable: bool) -> Result<(), DiskError> {
    create_dir(disk, folder_of(to))?;
    if movable && disk.rename(from, to).is_ok() {
        return Ok(());
    }
    copy(disk, from, to).map(drop)
}

/// Bytes and number of all files below a folder; what cannot be read counts as nothing.
pub fn usage(path: &Path) -> (u64, u64) {
    let Ok(entries) = fs::read_dir(path) else { return (0, 0) };
    entries.flatten().fold((0, 0), |(bytes, files), entry| match entry.file_type() {
        Ok(t) if t.is_dir() => {
            let (b, f) = usage(&entry.path());
            (bytes + b, files + f)
        }
        Ok(t) if t.is_file() => (bytes + entry.metadata().map_or(0, |m| m.len()), files + 1),
        _ => (bytes, files),
    })
}

/// Bytes that everything below a folder takes up on the disk, with the folders: the blocks of each entry, or its
/// length where that is more, and `entry` bytes for its name. What cannot be read counts as nothing. Links count
/// as themselves.
pub fn taken_up(path: &Path, entry: u64) -> u64 {
    let Ok(entries) = fs::read_dir(path) else { return 0 };
    entries.flatten().fold(0, |sum: u64, found| {
        let Ok(facts) = found.metadata() else { return sum };
        let below = if facts.is_dir() { taken_up(&found.path(), entry) } else { 0 };
        sum.saturating_add(entry).saturating_add(blocks(&facts)).saturating_add(below)
    })
}

#[cfg(unix)]
fn blocks(facts: &fs::Metadata) -> u64 {
    use std::os::unix::fs::MetadataExt;
    // Of 512 bytes, whatever the file system's own are.
    facts.len().max(facts.blocks().saturating_mul(512))
}

#[cfg(not(unix))]
fn blocks(facts: &fs::Metadata) -> u64 {
    facts.len()
}
