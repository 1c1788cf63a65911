//! Content by its digest.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use headstart_disk::files::{self, NewFile};
use headstart_disk::{Mode, read};
use headstart_protocol::{Digest, FileRef};

use crate::error::ContentError;
use crate::hash::{copy_opened, hash_opened};
use crate::named::named_by_digest;
use crate::unsynced::Unsynced;
use crate::verified::Verified;

/// Files from this size on are synced at once.
const LARGE: u64 = 1 << 20;

/// Content-addressed files: `blobs/ab/abcdef…`, read only, each written once.
///
/// A blob appears under its name only when it is complete. It is on disk at the latest when an
/// event is that was appended after it; what a power failure leaves of others is found and removed
/// when the workspace is opened.
#[derive(Clone, Debug)]
pub struct Blobs {
    dir: PathBuf,
    unsynced: Arc<Unsynced>,
    /// Files outside of the workspace are referred to, not copied.
    links: bool,
    verified: Arc<Verified>,
}

impl Blobs {
    pub(crate) fn new(dir: PathBuf, unsynced: Arc<Unsynced>) -> Self {
        let store = dir.parent().unwrap_or(&dir);
        let verified = Arc::new(Verified::new(store, unsynced.disk().shared()));
        Self { dir, unsynced, links: false, verified }
    }

    /// The same, which refers to files outside of the workspace instead of copying them. For workspaces
    /// that last as long as a command.
    pub(crate) fn linking(self) -> Self {
        Self { links: true, ..self }
    }

    /// Puts a link to a file in the place of its content; false where it must be copied.
    fn link(&self, source: &Path, digest: &Digest) -> Result<bool, ContentError> {
        let source = source.canonicalize().map_err(ContentError::io("open", source))?;
        // What a stage wrote for itself does not stay.
        if self.dir.parent().is_none_or(|ws| source.starts_with(ws)) {
            return Ok(false);
        }
        let path = self.place(digest);
        let disk = self.unsynced.disk();
        files::create_dir(disk, path.parent().expect("contents lie in folders of the workspace"))?;
        match disk.symlink(&source, &path) {
            Err(e) if e.kind() == io::ErrorKind::Unsupported => Ok(false),
            done => done.map(|()| true).map_err(ContentError::io("link", &path)),
        }
    }

    fn place(&self, digest: &Digest) -> PathBuf {
        let hex = digest.to_string();
        self.dir.join(&hex[..2]).join(hex)
    }

    /// Where the content lies, if it is here.
    pub fn path(&self, digest: &Digest) -> Option<PathBuf> {
        // Devices of version 0.1 kept all blobs in one folder.
        let flat = || Some(self.dir.join(digest.to_string()));
        let sharded = Some(self.place(digest)).filter(|path| path.is_file());
        sharded.or_else(|| flat().filter(|path| path.is_file()))
    }

    /// The folder in which files are written before they have a name.
    pub(crate) fn unfinished(&self) -> PathBuf {
        self.dir.join("new")
    }

    /// All contents, with where they lie, in the order of their digests.
    pub(crate) fn all(&self) -> Result<Vec<(Digest, PathBuf)>, ContentError> {
        named_by_digest(&self.dir)
    }

    /// Whether the content is here.
    pub fn has(&self, digest: &Digest) -> bool {
        self.path(digest).is_some()
    }

    /// Whether the content is here, as long as it should be. Looks, reads nothing.
    pub fn has_whole(&self, file: &FileRef) -> bool {
        let path = self.path(&file.digest);
        path.and_then(|path| fs::metadata(path).ok()).is_some_and(|m| m.len() == file.size)
    }

    /// Where the content lies, if it is here and is what its name says. A process reads it whole the first
    /// time and whenever it has changed since; one of 16 MiB or more is not read by every process, but a week after it
    /// was read last and whenever it has changed. A damaged one is removed, so that it counts as missing and
    /// is made again.
    ///
    /// # Errors
    /// [`ContentError::Disk`].
    pub fn intact(&self, digest: &Digest) -> Result<Option<PathBuf>, ContentError> {
        let Some(path) = self.path(digest) else { return Ok(None) };
        if self.verified.is(&path, digest)? {
            return Ok(Some(path));
        }
        tracing::warn!("{} is damaged: it is removed, and made again where it is needed", path.display());
        self.unsynced.disk().remove_file(&path).map_err(ContentError::io("remove damaged", &path))?;
        Ok(None)
    }

    /// Whether a file elsewhere, such as a link to a content, holds what it should.
    ///
    /// # Errors
    /// [`ContentError::Disk`].
    pub(crate) fn is(&self, path: &Path, digest: &Digest) -> Result<bool, ContentError> {
        self.verified.is(path, digest)
    }

    /// Stores a copy of a file; a file that is here already is only read.
    ///
    /// # Errors
    /// [`ContentError::Disk`].
    pub fn put_file(&self, source: &Path) -> Result<FileRef, ContentError> {
        let file = read::open(source).map_err(ContentError::io("read", source))?;
        self.put_opened(&file, source)
    }

    /// Stores a copy of a file that is open, whatever lies at its path by now; `source` names it.
    ///
    /// # Errors
    /// [`ContentError::Disk`].
    pub fn put_opened(&self, file: &File, source: &Path) -> Result<FileRef, ContentError> {
        let found = hash_opened(file, source)?;
        match self.intact(&found.digest)? {
            Some(path) => {
                self.unsynced.adopt(&path);
                Ok(found)
            }
            None if self.links && self.link(source, &found.digest)? => Ok(found),
            None => {
                let mut temp = self.temp()?;
                let at = temp.path().to_owned();
                // The digest is of what was taken, so a file that changes meanwhile does no harm.
                let taken = copy_opened(file, source, temp.file(), &at)?;
                self.place_taken(temp, taken)
            }
        }
    }

    /// Stores a file that nothing else needs any more: it is moved where that is possible. A link in its place
    /// is not followed.
    ///
    /// # Errors
    /// [`ContentError::Disk`].
    pub fn take_file(&self, source: &Path) -> Result<FileRef, ContentError> {
        let mut temp = self.temp()?;
        let at = temp.path().to_owned();
        let taken = if self.unsynced.disk().rename(source, &at).is_ok() {
            hash_opened(&open_itself(&at)?, source)?
        } else {
            copy_opened(&open_itself(source)?, source, temp.file(), &at)?
        };
        self.place_taken(temp, taken)
    }

    /// Gives a new file its place, unless the same content is here.
    fn place_taken(&self, temp: NewFile<'_>, taken: FileRef) -> Result<FileRef, ContentError> {
        if let Some(path) = self.intact(&taken.digest)? {
            self.unsynced.adopt(&path);
            return Ok(taken);
        }
        self.adopt(temp, taken)
    }

    fn temp(&self) -> Result<NewFile<'_>, ContentError> {
        let dir = self.unfinished();
        files::create_dir(self.unsynced.disk(), &dir)?;
        Ok(NewFile::in_dir(self.unsynced.disk(), &dir, ".tmp-")?)
    }

    fn adopt(&self, temp: NewFile<'_>, content: FileRef) -> Result<FileRef, ContentError> {
        let path = self.place(&content.digest);
        let disk = self.unsynced.disk();
        let permissions = fs::metadata(temp.path()).map(|m| Mode::ReadOnly.permissions(m.permissions()));
        permissions
            .and_then(|p| disk.set_permissions(temp.path(), p))
            .map_err(ContentError::io("write", &path))?;
        if content.size >= LARGE {
            // Now rather than while everybody waits for the log.
            disk.sync_file(temp.path()).map_err(ContentError::io("write", &path))?;
        }
        self.unsynced.place(temp, &path)?;
        self.verified.add(&path, content.digest);
        Ok(content)
    }
}

/// Opens a file, not what a link in its place leads to.
fn open_itself(path: &Path) -> Result<File, ContentError> {
    let name = path.file_name().unwrap_or_default();
    read::open_below(files::folder_of(path), Path::new(name)).map_err(ContentError::io("read", path))
}
