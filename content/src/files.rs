//! File operations that survive a crash. Whatever Headstart keeps is written through these.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::Path;

use crate::error::ContentError;

/// Creates a folder and its parents.
///
/// # Errors
/// [`ContentError::Io`].
pub fn create_dir(path: &Path) -> Result<(), ContentError> {
    fs::create_dir_all(path).map_err(ContentError::io("create", path))
}

/// Creates a folder and its parents, readable by its owner only.
///
/// # Errors
/// [`ContentError::Io`].
pub fn create_private_dir(path: &Path) -> Result<(), ContentError> {
    create_dir(path)?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let only_owner = fs::Permissions::from_mode(0o700);
        fs::set_permissions(path, only_owner).map_err(ContentError::io("set the permissions of", path))?;
    }
    Ok(())
}

/// Makes the names in a folder durable.
///
/// # Errors
/// [`ContentError::Io`].
pub fn sync_dir(path: &Path) -> Result<(), ContentError> {
    // Windows cannot open folders as files; NTFS journals names itself.
    if cfg!(windows) {
        return Ok(());
    }
    File::open(path).and_then(|d| d.sync_all()).map_err(ContentError::io("sync", path))
}

/// Writes a small file so that after a crash it is there whole or not at all: a temporary file,
/// synced, then renamed.
///
/// # Errors
/// [`ContentError::Io`]; an earlier file of this name is then unchanged.
pub fn write_atomic(path: &Path, bytes: &[u8], mode: Mode) -> Result<(), ContentError> {
    let dir = folder_of(path);
    create_dir(dir)?;
    let mut temp = tempfile::Builder::new()
        .prefix(".tmp-")
        .tempfile_in(dir)
        .map_err(ContentError::io("create a file in", dir))?;
    let write =
        |f: &mut File| f.write_all(bytes).and_then(|()| set_mode(f, mode)).and_then(|()| f.sync_all());
    write(temp.as_file_mut()).map_err(ContentError::io("write", path))?;
    temp.persist(path).map_err(|e| ContentError::io("write", path)(e.error))?;
    sync_dir(dir)
}

/// The folder that a file lies in.
fn folder_of(path: &Path) -> &Path {
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
/// [`ContentError::Io`], or what `build` fails with; nothing is then left behind.
pub fn create_dir_atomic<T, E: From<ContentError>>(
    target: &Path,
    replace: impl Fn(&Path) -> bool,
    build: impl FnOnce(&Path) -> Result<T, E>,
) -> Result<Option<T>, E> {
    let dir = folder_of(target);
    create_dir(dir)?;
    let temp = tempfile::Builder::new()
        .prefix(".new-")
        .tempdir_in(dir)
        .map_err(ContentError::io("create a folder in", dir))?;
    let built = build(temp.path())?;
    if target.is_dir() && replace(target) {
        fs::remove_dir_all(target).map_err(ContentError::io("replace", target))?;
    }
    match fs::rename(temp.path(), target) {
        Ok(()) => {
            // The folder is no longer there to be deleted.
            let _ = temp.keep();
            Ok(Some(built))
        }
        Err(_) if target.exists() => Ok(None),
        Err(e) => Err(ContentError::io("create", target)(e).into()),
    }
}

/// The whole of a file that is small by its nature; `None` where there is no such file.
///
/// # Errors
/// [`ContentError::TooLarge`] beyond `limit` bytes, so that a damaged or foreign file cannot fill
/// the memory; [`ContentError::Io`].
pub fn read_bounded(path: &Path, limit: u64) -> Result<Option<Vec<u8>>, ContentError> {
    let failed = |e| ContentError::io("read", path)(e);
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(failed(e)),
    };
    let size = file.metadata().map_err(failed)?.len();
    let mut bytes = Vec::with_capacity(usize::try_from(size.min(limit)).unwrap_or(0));
    // One byte more than allowed shows that the file is, or has grown, too large.
    file.take(limit.saturating_add(1)).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > limit {
        let size = size.max(bytes.len() as u64);
        return Err(ContentError::TooLarge { path: path.to_owned(), size, limit });
    }
    Ok(Some(bytes))
}

/// Moves a file, or copies it where it may not be moved or lies on another file system.
///
/// # Errors
/// [`ContentError::Io`].
pub fn take(from: &Path, to: &Path, movable: bool) -> Result<(), ContentError> {
    create_dir(folder_of(to))?;
    if movable && fs::rename(from, to).is_ok() {
        return Ok(());
    }
    fs::copy(from, to).map(drop).map_err(ContentError::io("copy", from))
}

/// Makes a file's content durable.
///
/// # Errors
/// [`ContentError::Io`].
pub fn sync_file(path: &Path) -> Result<(), ContentError> {
    File::open(path).and_then(|f| f.sync_all()).map_err(ContentError::io("sync", path))
}

/// Who may do what with a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The owner reads and writes, others read.
    Normal,
    /// Read only, for all: content named by its digest.
    ReadOnly,
    /// Only the owner reads: secrets.
    Secret,
}

/// Sets the permissions of an open file.
pub(crate) fn set_mode(file: &File, mode: Mode) -> std::io::Result<()> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let bits = match mode {
            Mode::Normal => 0o644,
            Mode::ReadOnly => 0o444,
            Mode::Secret => 0o600,
        };
        file.set_permissions(fs::Permissions::from_mode(bits))
    }
    #[cfg(not(unix))]
    {
        let mut permissions = file.metadata()?.permissions();
        permissions.set_readonly(mode == Mode::ReadOnly);
        file.set_permissions(permissions)
    }
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
