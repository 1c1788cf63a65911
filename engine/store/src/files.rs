//! File operations that survive a crash.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use crate::error::StoreError;

/// Creates a folder and its parents.
pub(crate) fn create_dir(path: &Path) -> Result<(), StoreError> {
    fs::create_dir_all(path).map_err(StoreError::io("create", path))
}

/// Makes the names in a folder durable.
pub(crate) fn sync_dir(path: &Path) -> Result<(), StoreError> {
    // Windows cannot open folders as files; NTFS journals names itself.
    if cfg!(windows) {
        return Ok(());
    }
    File::open(path).and_then(|d| d.sync_all()).map_err(StoreError::io("sync", path))
}

/// Writes a small file so that after a crash it is there whole or not at all.
pub(crate) fn write_atomic(path: &Path, bytes: &[u8], mode: Mode) -> Result<(), StoreError> {
    let dir = path.parent().expect("callers name files inside the workspace");
    create_dir(dir)?;
    let mut temp = tempfile::Builder::new()
        .prefix(".tmp-")
        .tempfile_in(dir)
        .map_err(StoreError::io("create a file in", dir))?;
    let write =
        |f: &mut File| f.write_all(bytes).and_then(|()| set_mode(f, mode)).and_then(|()| f.sync_all());
    write(temp.as_file_mut()).map_err(StoreError::io("write", path))?;
    temp.persist(path).map_err(|e| StoreError::io("write", path)(e.error))?;
    sync_dir(dir)
}

/// Who may do what with a file.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// The owner reads and writes, others read.
    Normal,
    /// Everybody reads, nobody writes: content named by its digest.
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
pub(crate) fn usage(path: &Path) -> (u64, u64) {
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
