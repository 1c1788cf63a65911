//! An upload that is under way, and where it is written to.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use headstart_content::hash_file;
use headstart_disk::files::{self, TempDir};
use headstart_disk::{Disk, DiskError, DiskFile, Open};
use headstart_protocol::Digest;
use headstart_protocol::wire::WireError;
use headstart_store::{StoreError, Workspace};

use super::uploads::check_room;
use super::{Hub, Session, codes, internal, wire};

/// How many bytes of an upload are written before the free space is looked at again.
const STEP: u64 = 8 << 20;

/// The folder in which uploads of this process wait for their commits: removed with it, or, where the process was
/// killed, by the next one.
pub(super) struct UploadDir {
    dir: TempDir,
    /// Held as long as the process lives.
    _lock: Box<dyn DiskFile>,
}

/// How the folders of uploads begin, and the file in them that their process holds.
const PREFIX: &str = "uploads";
const LOCK: &str = "lock";

impl UploadDir {
    /// Makes it, and removes those of processes that were killed.
    ///
    /// # Errors
    /// [`StoreError`] where it cannot be made.
    pub(super) fn make(ws: &Workspace) -> Result<Self, StoreError> {
        let disk = ws.disk();
        let dir = ws.scratch(PREFIX)?;
        let at = dir.path().join(LOCK);
        let lock = disk.open(&at, Open::Update).map_err(DiskError::at("create", &at))?;
        // It is new, so nobody holds it.
        let _ = lock.system().try_lock();
        remove_abandoned(&**disk, files::folder_of(dir.path()), dir.path());
        Ok(Self { dir, _lock: lock })
    }

    pub(super) fn path(&self) -> &Path {
        self.dir.path()
    }
}

/// Removes the folders whose process does not hold them any more. One that cannot be removed only takes up room.
fn remove_abandoned(disk: &dyn Disk, scratch: &Path, mine: &Path) {
    for entry in std::fs::read_dir(scratch).into_iter().flatten().flatten() {
        let at = entry.path();
        let is_one = entry.file_name().to_str().is_some_and(|name| name.starts_with("uploads-"));
        // One without a lock is just being made.
        if !is_one || at == mine || !at.join(LOCK).is_file() {
            continue;
        }
        let lock = disk.open(&at.join(LOCK), Open::Update);
        if lock.is_ok_and(|lock| lock.system().try_lock().is_ok()) {
            let _ = disk.remove_dir_all(&at);
        }
    }
}

/// An upload that is under way: no other of the same file begins meanwhile.
pub struct Upload {
    hub: Hub,
    session: Session,
    digest: Digest,
    size: u64,
    written: Arc<AtomicU64>,
    dir: PathBuf,
}

impl Upload {
    pub(super) fn begin(hub: &Hub, session: &Session, digest: &Digest) -> Result<Self, WireError> {
        // Before anything is made for it.
        hub.leases().uploads.expects(&session.device, digest)?;
        let dir = hub.upload_dir().map_err(internal)?;
        let free = hub.disk().free_space(&dir).ok();
        let now = hub.inner.env.clock.now_ms();
        let (size, written) = hub.leases().uploads.begin(&session.device, digest, free, now)?;
        Ok(Self { hub: hub.clone(), session: session.clone(), digest: *digest, size, written, dir })
    }

    /// How many bytes it has, as the commit says that waits for it.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Where it is written to, on the same file system as the store.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Notes that so many bytes more are about to be written.
    ///
    /// # Errors
    /// [`codes::INVALID`] where it is longer than the commit says, [`codes::NO_ROOM`] where the disk was filled
    /// meanwhile.
    pub fn writes(&self, more: u64) -> Result<(), WireError> {
        let before = self.written.fetch_add(more, Ordering::Relaxed);
        let now = before.saturating_add(more);
        if now > self.size {
            return Err(wire(codes::INVALID, "the upload is longer than its commit says"));
        }
        if before == 0 || before / STEP != now / STEP {
            check_room(more, 0, self.hub.disk().free_space(&self.dir).ok())?;
        }
        Ok(())
    }

    /// Takes what was written to the file `uploaded`, which is moved or removed. Kept only if a released artifact of
    /// an accepted commit refers to it.
    ///
    /// # Errors
    /// [`codes::INVALID`] if the content has another digest, [`codes::RESIDENCY`] if no commit waits for it any
    /// more.
    pub fn finish(self, uploaded: &Path) -> Result<(), WireError> {
        let taken = self.take(uploaded);
        if taken.is_err() {
            // Nothing that was not asked for stays here.
            let _ = self.hub.disk().remove_file(uploaded);
        }
        taken
    }

    fn take(&self, uploaded: &Path) -> Result<(), WireError> {
        let found = hash_file(uploaded).map_err(internal)?.digest;
        if found != self.digest {
            let message = format!("the upload is {}, not {}", found.short(), self.digest.short());
            return Err(wire(codes::INVALID, message));
        }
        let device = self.session.device.as_str();
        let room = waiting_room(&self.dir, device);
        let to = room.join(self.digest.to_string());
        files::take(&**self.hub.disk(), uploaded, &to, true).map_err(internal)?;
        self.hub.leases().uploads.arrived(device, &self.digest);
        Ok(())
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        self.hub.leases().uploads.end(&self.session.device, &self.digest);
    }
}

/// Where uploads of a device wait for their commit.
pub(super) fn waiting_room(dir: &Path, device: &str) -> PathBuf {
    dir.join(format!("of-{device}"))
}
