//! The digest of a file.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::path::Path;

use headstart_disk::DiskFile;
use headstart_protocol::{Digest, FileRef};

use crate::error::ContentError;

/// How much is read at a time; from this size on, hashing uses several threads.
const CHUNK: usize = 4 << 20;

/// Digest and size of a regular file's content.
///
/// Read in pieces rather than mapped: a mapped file that is shortened meanwhile kills the process.
///
/// # Errors
/// [`ContentError::Disk`].
pub fn hash_file(path: &Path) -> Result<FileRef, ContentError> {
    let file = headstart_disk::read::open(path).map_err(ContentError::io("read", path))?;
    hash_opened(&file, path)
}

/// Digest and size of what an open file has from its beginning on. `path` names it in errors, and is not opened.
///
/// # Errors
/// [`ContentError::Disk`].
pub fn hash_opened(file: &File, path: &Path) -> Result<FileRef, ContentError> {
    read_opened(file, path, |_| Ok(()))
}

/// Copies what an open file has from its beginning on, and says what it was. `path` names it in errors.
///
/// # Errors
/// [`ContentError::Disk`].
pub(crate) fn copy_opened(
    file: &File,
    path: &Path,
    to: &mut dyn DiskFile,
    at: &Path,
) -> Result<FileRef, ContentError> {
    read_opened(file, path, |piece| to.write_all(piece).map_err(ContentError::io("write", at)))
}

fn read_opened(
    mut file: &File,
    path: &Path,
    mut each: impl FnMut(&[u8]) -> Result<(), ContentError>,
) -> Result<FileRef, ContentError> {
    let unreadable = |e| ContentError::io("read", path)(e);
    file.rewind().map_err(unreadable)?;
    let expected = file.metadata().map_err(unreadable)?.len();
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; CHUNK.min(usize::try_from(expected).unwrap_or(CHUNK) + 1)];
    let mut size = 0;
    loop {
        let n = fill(file, &mut buffer).map_err(unreadable)?;
        if n == 0 {
            break;
        }
        each(&buffer[..n])?;
        size += n as u64;
        if n >= CHUNK {
            hasher.update_rayon(&buffer[..n]);
        } else {
            hasher.update(&buffer[..n]);
        }
    }
    Ok(FileRef { digest: Digest(*hasher.finalize().as_bytes()), size })
}

fn fill(mut file: &File, buffer: &mut [u8]) -> io::Result<usize> {
    let mut n = 0;
    while n < buffer.len() {
        match file.read(&mut buffer[n..]) {
            Ok(0) => break,
            Ok(got) => n += got,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(n)
}
