//! Content by its digest.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use headstart_protocol::{Digest, FileRef};

use crate::error::StoreError;
use crate::files::{self, Mode};

/// How much is read at a time; from this size on, hashing uses several threads.
const CHUNK: usize = 4 << 20;

/// Content-addressed files: `blobs/ab/abcdef…`, read only, each written once.
///
/// A blob appears under its name only when it is complete and on disk, so a name that is there can
/// be trusted after any crash.
#[derive(Clone, Debug)]
pub struct Blobs {
    dir: PathBuf,
}

impl Blobs {
    pub(crate) fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    fn place(&self, digest: &Digest) -> PathBuf {
        let hex = digest.to_string();
        self.dir.join(&hex[..2]).join(hex)
    }

    /// Where the content lies, if it is here.
    pub fn path(&self, digest: &Digest) -> Option<PathBuf> {
        let path = self.place(digest);
        path.is_file().then_some(path)
    }

    /// Whether the content is here.
    pub fn has(&self, digest: &Digest) -> bool {
        self.path(digest).is_some()
    }

    /// Stores a copy of a file; a file that is here already is only read.
    pub fn put_file(&self, source: &Path) -> Result<FileRef, StoreError> {
        let found = hash_file(source)?;
        if self.has(&found.digest) {
            return Ok(found);
        }
        let mut temp = self.temp()?;
        // The digest is of what was copied, so a file that changes meanwhile does no harm.
        fs::copy(source, temp.path()).map_err(StoreError::io("copy", source))?;
        let copied = hash_file(temp.path())?;
        self.settle(&mut temp)?;
        self.adopt(temp, copied)
    }

    /// Stores bytes.
    pub fn put_bytes(&self, bytes: &[u8]) -> Result<FileRef, StoreError> {
        let found = FileRef { digest: Digest::of(bytes), size: bytes.len() as u64 };
        if self.has(&found.digest) {
            return Ok(found);
        }
        let mut temp = self.temp()?;
        temp.as_file_mut().write_all(bytes).map_err(StoreError::io("write", self.place(&found.digest)))?;
        self.settle(&mut temp)?;
        self.adopt(temp, found)
    }

    /// Reads a blob whole and compares it with its name. `None` where it is not here; a blob whose
    /// content is wrong is removed, so that it will be made again.
    pub fn verify(&self, digest: &Digest) -> Result<Option<bool>, StoreError> {
        let Some(path) = self.path(digest) else { return Ok(None) };
        let good = hash_file(&path)?.digest == *digest;
        if !good {
            fs::remove_file(&path).map_err(StoreError::io("remove damaged", &path))?;
        }
        Ok(Some(good))
    }

    fn temp(&self) -> Result<tempfile::NamedTempFile, StoreError> {
        let dir = self.dir.join("new");
        files::create_dir(&dir)?;
        tempfile::NamedTempFile::new_in(&dir).map_err(StoreError::io("create a file in", &dir))
    }

    fn settle(&self, temp: &mut tempfile::NamedTempFile) -> Result<(), StoreError> {
        let path = temp.path().to_owned();
        let file = temp.as_file();
        files::set_mode(file, Mode::ReadOnly)
            .and_then(|()| file.sync_all())
            .map_err(StoreError::io("write", path))
    }

    fn adopt(&self, temp: tempfile::NamedTempFile, content: FileRef) -> Result<FileRef, StoreError> {
        let path = self.place(&content.digest);
        let dir = path.parent().expect("a blob lies in a folder");
        files::create_dir(dir)?;
        temp.persist(&path).map_err(|e| StoreError::io("write", &path)(e.error))?;
        files::sync_dir(dir)?;
        Ok(content)
    }
}

/// Digest and size of a file's content.
///
/// Read in pieces rather than mapped: a mapped file that somebody shortens kills the process.
pub fn hash_file(path: &Path) -> Result<FileRef, StoreError> {
    let mut file = File::open(path).map_err(StoreError::io("read", path))?;
    let mut hasher = blake3::Hasher::new();
    let expected = file.metadata().map_err(StoreError::io("read", path))?.len();
    let mut buffer = vec![0; CHUNK.min(usize::try_from(expected).unwrap_or(CHUNK) + 1)];
    let mut size = 0;
    loop {
        let n = fill(&mut file, &mut buffer).map_err(StoreError::io("read", path))?;
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
