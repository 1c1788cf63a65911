//! Replacing a file at once.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

/// Gives `file` a new content: whatever happens, the old one or the new one is there, whole.
///
/// The content is written to a temporary file with a unique name in the same folder, so that no
/// other file is touched. Permissions are kept. If `file` is a symbolic link, the file it leads to is
/// replaced, and the link stays. A file that does not exist is created.
///
/// # Errors
/// If the folder cannot be written to, or the file may not be replaced; then nothing has changed.
pub fn replace(file: &Path, content: &[u8]) -> io::Result<()> {
    let target = match fs::canonicalize(file) {
        Ok(target) => target,
        Err(e) if e.kind() == io::ErrorKind::NotFound => leads_to(file)?,
        Err(e) => return Err(e),
    };
    let old = match fs::metadata(&target) {
        Ok(old) if old.is_dir() => return Err(io::ErrorKind::IsADirectory.into()),
        Ok(old) if old.permissions().readonly() => return Err(io::ErrorKind::PermissionDenied.into()),
        Ok(old) => Some(old),
        Err(e) if e.kind() == io::ErrorKind::NotFound => None,
        Err(e) => return Err(e),
    };
    let folder = match target.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let mut builder = tempfile::Builder::new();
    builder.prefix(".headstart-");
    // Without an old file, the permissions of any new one: the system takes its mask away.
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        builder.permissions(fs::Permissions::from_mode(0o666));
    }
    let mut temporary = builder.tempfile_in(folder)?;
    temporary.write_all(content)?;
    if let Some(old) = old {
        temporary.as_file().set_permissions(old.permissions())?;
    }
    temporary.as_file().sync_all()?;
    temporary.persist(&target).map_err(|e| e.error)?;
    Ok(())
}

/// Where a file is created: behind a link that leads to nothing yet, or in its own place.
fn leads_to(file: &Path) -> io::Result<std::path::PathBuf> {
    match fs::read_link(file) {
        Ok(target) => Ok(file.parent().unwrap_or(Path::new("")).join(target)),
        Err(_) => Ok(file.to_owned()),
    }
}
