//! Files that are named by a digest.

use std::fs;
use std::path::{Path, PathBuf};

use headstart_protocol::Digest;

use crate::error::ContentError;

/// The files of a folder, and of its folders of two digits, that are named by a digest.
pub(crate) fn named_by_digest(dir: &Path) -> Result<Vec<(Digest, PathBuf)>, ContentError> {
    let mut found = Vec::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        let entries = match fs::read_dir(&folder) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
            entries => entries.map_err(ContentError::io("read", &folder))?,
        };
        for entry in entries.flatten() {
            let path = entry.path();
            let stem = path.file_stem().and_then(|s| s.to_str()).unwrap_or_default();
            if let Ok(digest) = stem.parse() {
                found.push((digest, path));
            } else if folder == dir && stem.len() == 2 && entry.file_type().is_ok_and(|t| t.is_dir()) {
                folders.push(path);
            }
        }
    }
    found.sort_unstable();
    Ok(found)
}
