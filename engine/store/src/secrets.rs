//! Secrets of a workspace.

use std::path::Path;

use headstart_content::read_bounded;
use headstart_disk::files;
use headstart_disk::{Disk, Mode, Open};

use crate::error::StoreError;

/// Bytes that are read of a file that should hold 32.
const LONGEST: u64 = 4096;

/// Reads the secret `name` below `dir`, or makes it.
pub(crate) fn secret(disk: &dyn Disk, dir: &Path, name: &str) -> Result<[u8; 32], StoreError> {
    if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-') {
        let why = "names consist of letters, digits and `-`";
        return Err(StoreError::BadName { name: name.to_owned(), what: "a secret", why });
    }
    let path = dir.join(name);
    if let Some(found) = read(&path)? {
        return Ok(found);
    }
    // Two processes may both find none; the lock lets one of them make it.
    files::create_private_dir(disk, dir)?;
    let lock_path = dir.join(".lock");
    let lock = disk.open(&lock_path, Open::Update).map_err(StoreError::io("create", &lock_path))?;
    fs4::fs_std::FileExt::lock_exclusive(lock.system()).map_err(StoreError::io("lock", &lock_path))?;
    if let Some(found) = read(&path)? {
        return Ok(found);
    }
    let mut fresh = [0; 32];
    getrandom::fill(&mut fresh).map_err(|e| StoreError::io("make a secret for", &path)(e.into()))?;
    files::write_atomic(disk, &path, &fresh, Mode::Secret)?;
    Ok(fresh)
}

fn read(path: &Path) -> Result<Option<[u8; 32]>, StoreError> {
    let Some(bytes) = read_bounded(path, LONGEST)? else { return Ok(None) };
    bytes.try_into().map(Some).map_err(|b: Vec<u8>| {
        let why = format!("a secret has 32 bytes, this has {}; devices know this workspace by it", b.len());
        StoreError::damaged(path, why)
    })
}
