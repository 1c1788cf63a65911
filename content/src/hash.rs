//! The digest of a file.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

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
    let mut file = headstart_disk::read::open(path).map_err(ContentError::io("read", path))?;
    let mut hasher = blake3::Hasher::new();
    let expected = file.metadata().map_err(ContentError::io("read", path))?.len();
    let mut buffer = vec![0; CHUNK.min(usize::try_from(expected).unwrap_or(CHUNK) + 1)];
    let mut size = 0;
    loop {
        let n = fill(&mut file, &mut buffer).map_err(ContentError::io("read", path))?;
        if n == 0 {
            break;
        }
        size += n as u64;
        if n >= CHUNK {
            hasher.update_rayon(&buffer[..n]);
        } else {
            hasher.update(&buffer[..n]);
        }
    }
    Ok(FileRef { digest: Digest(*hasher.finalize().as_bytes()), size })
}

fn fill(file: &mut File, buffer: &mut [u8]) -> io::Result<usize> {
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
