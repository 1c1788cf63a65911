//! Which files were found to be what their names say.
//!
//! A process reads a file whole the first time that it uses it. Of large files, which take seconds, the store
//! remembers across processes when they were read last: `verified.json` holds their digests with size, inode and
//! the times of the last changes of content and of the file itself, of which the system sets the latter. As long as
//! all of these are the same, a large file is read again only after a week, and by `headstart verify`.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, Metadata};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use headstart_disk::{Disk, Mode, files, read};
use headstart_protocol::Digest;
use serde::{Deserialize, Serialize};

use crate::error::ContentError;
use crate::hash::hash_file;

/// Files from this size on are remembered across processes.
const LARGE: u64 = 16 << 20;
/// For how long.
const LASTS: Duration = Duration::from_secs(7 * 24 * 3600);
/// A file that was changed this short a time ago may change again without looking newer.
const COARSE: Duration = Duration::from_secs(2);
/// Bytes of the file that remembers at most.
const LARGEST: u64 = 16 << 20;

/// Files that were read whole and compared with their digests. One that looks as it did then is not read
/// again.
#[derive(Debug)]
pub(crate) struct Verified {
    files: Mutex<HashMap<FileId, (Digest, Stamp)>>,
    disk: Arc<dyn Disk>,
    /// Where large ones are remembered.
    path: PathBuf,
}

/// A file whatever its name, device and inode: links to a content that was read need not be read.
#[cfg(unix)]
type FileId = (u64, u64);
/// A file by its name, where the system tells no more.
#[cfg(not(unix))]
type FileId = PathBuf;

/// What changes with a file's content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Stamp {
    size: u64,
    /// Nanoseconds since 1970.
    modified: u64,
    /// The same of the file itself; 0 where the system does not tell.
    changed: u64,
}

/// A large file that was read.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Remembered {
    digest: Digest,
    stamp: Stamp,
    /// Seconds since 1970.
    read: u64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Verified {
    /// Of the store in `dir`.
    pub(crate) fn new(dir: &Path, disk: Arc<dyn Disk>) -> Self {
        Self { files: Mutex::default(), disk, path: dir.join("verified.json") }
    }

    /// Whether the file at `path` has this content.
    ///
    /// # Errors
    /// [`ContentError::Disk`] where it is there and cannot be read.
    pub(crate) fn is(&self, path: &Path, digest: &Digest) -> Result<bool, ContentError> {
        let Ok(now) = fs::metadata(path) else { return Ok(false) };
        if !now.is_file() {
            return Ok(false);
        }
        let (id, stamp) = (file_id(path, &now), Stamp::of(&now));
        let known = lock(&self.files).get(&id).copied();
        // A link to the file changes when it was changed itself, so that does not count within a process.
        if known.is_some_and(|(d, s)| d == *digest && (s.size, s.modified) == (stamp.size, stamp.modified)) {
            return Ok(true);
        }
        if stamp.size >= LARGE && self.remembers(&id, digest, stamp) {
            lock(&self.files).insert(id, (*digest, stamp));
            return Ok(true);
        }
        let found = hash_file(path)?;
        if found.digest == *digest {
            if stamp.size >= LARGE {
                self.remember(&id, found.digest, stamp);
            }
            lock(&self.files).insert(id, (found.digest, stamp));
        }
        Ok(found.digest == *digest)
    }

    /// Remembers a file that was just read whole, in this process.
    pub(crate) fn add(&self, path: &Path, content: Digest) {
        if let Ok(now) = fs::metadata(path) {
            lock(&self.files).insert(file_id(path, &now), (content, Stamp::of(&now)));
        }
    }

    fn remembers(&self, id: &FileId, digest: &Digest, stamp: Stamp) -> bool {
        let known = self.load().remove(&name_of(id));
        known.is_some_and(|k| k.digest == *digest && k.stamp == stamp && stamp.changed > 0 && k.is_recent())
    }

    fn remember(&self, id: &FileId, digest: Digest, stamp: Stamp) {
        let age = now().saturating_sub(Duration::from_nanos(stamp.changed.max(stamp.modified)));
        if stamp.changed == 0 || age < COARSE {
            return;
        }
        let mut all = self.load();
        all.retain(|_, k| k.is_recent());
        all.insert(name_of(id), Remembered { digest, stamp, read: now().as_secs() });
        let Ok(json) = serde_json::to_vec(&all) else { return };
        // Without it the next process reads the file.
        let _ = files::write_atomic(&*self.disk, &self.path, &json, Mode::Secret);
    }

    fn load(&self) -> BTreeMap<String, Remembered> {
        let bytes = read::whole(&self.path, LARGEST).unwrap_or_default();
        serde_json::from_slice(&bytes).unwrap_or_default()
    }
}

impl Remembered {
    fn is_recent(&self) -> bool {
        // One of the future is of a clock that was set.
        now().as_secs().checked_sub(self.read).is_some_and(|age| age < LASTS.as_secs())
    }
}

fn now() -> Duration {
    UNIX_EPOCH.elapsed().unwrap_or_default()
}

#[cfg(unix)]
fn file_id(_: &Path, metadata: &Metadata) -> FileId {
    use std::os::unix::fs::MetadataExt;
    (metadata.dev(), metadata.ino())
}

#[cfg(not(unix))]
fn file_id(path: &Path, _: &Metadata) -> FileId {
    path.to_owned()
}

#[cfg(unix)]
fn name_of((device, inode): &FileId) -> String {
    format!("{device}:{inode}")
}

#[cfg(not(unix))]
fn name_of(path: &FileId) -> String {
    path.to_string_lossy().into_owned()
}

#[cfg(unix)]
fn changed(metadata: &Metadata) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let (seconds, nanos) = (u64::try_from(metadata.ctime()), u64::try_from(metadata.ctime_nsec()));
    seconds.unwrap_or(0).saturating_mul(1_000_000_000).saturating_add(nanos.unwrap_or(0))
}

#[cfg(not(unix))]
fn changed(_: &Metadata) -> u64 {
    0
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        let nanos = |t: SystemTime| t.duration_since(UNIX_EPOCH).ok()?.as_nanos().try_into().ok();
        let modified = metadata.modified().ok().and_then(nanos).unwrap_or(0);
        Self { size: metadata.len(), modified, changed: changed(metadata) }
    }
}

#[cfg(test)]
mod tests {
    use headstart_disk::SystemDisk;

    use super::*;

    /// A large file that looks as if it had been changed long ago. Its change time cannot be set.
    fn large(dir: &Path) -> (PathBuf, Digest) {
        let path = dir.join("weights");
        fs::write(&path, vec![7; LARGE as usize]).expect("written");
        let digest = hash_file(&path).expect("read").digest;
        (path, digest)
    }

    fn stamp(path: &Path) -> (FileId, Stamp) {
        let metadata = fs::metadata(path).expect("there");
        (file_id(path, &metadata), Stamp::of(&metadata))
    }

    #[test]
    #[cfg(unix)]
    fn a_large_file_that_did_not_change_is_not_read_by_the_next_process() {
        let dir = tempfile::tempdir().expect("a folder");
        let (path, digest) = large(dir.path());
        let process = || Verified::new(dir.path(), Arc::new(SystemDisk));
        assert!(process().is(&path, &digest).expect("readable"));
        let (id, stamp_now) = stamp(&path);
        assert!(!process().remembers(&id, &digest, stamp_now), "it is too new to be sure");
        // As if it had been read with a stamp that is old enough.
        let remembered = Remembered { digest, stamp: stamp_now, read: now().as_secs() };
        let write = |r: Remembered| {
            let all = BTreeMap::from([(name_of(&id), r)]);
            fs::write(dir.path().join("verified.json"), serde_json::to_vec(&all).expect("JSON"))
                .expect("written");
        };
        write(remembered);
        assert!(process().remembers(&id, &digest, stamp_now));
        assert!(!process().remembers(&id, &Digest::of(b"other"), stamp_now), "of another content");
        write(Remembered { read: now().as_secs() - LASTS.as_secs(), ..remembered });
        assert!(!process().remembers(&id, &digest, stamp_now), "a week later it is read again");
        write(Remembered { read: now().as_secs() + 1000, ..remembered });
        assert!(!process().remembers(&id, &digest, stamp_now), "the clock was set");
        write(remembered);
        // Whoever changes it without leaving another size or time of change of the content …
        let mut bytes = fs::read(&path).expect("readable");
        let times = fs::metadata(&path).expect("there").modified().expect("a time");
        bytes[100] ^= 1;
        std::thread::sleep(Duration::from_millis(20));
        fs::write(&path, &bytes).expect("written");
        fs::File::options().write(true).open(&path).expect("opens").set_modified(times).expect("set");
        // … leaves another time of change of the file.
        assert_ne!(stamp(&path).1, stamp_now);
        assert!(!process().is(&path, &digest).expect("readable"), "it is read, and damaged");
        fs::write(dir.path().join("verified.json"), "rubbish").expect("written");
        assert!(!process().is(&path, &digest).expect("readable"));
    }
}
