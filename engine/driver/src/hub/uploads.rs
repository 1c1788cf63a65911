//! How much devices may upload: decided from the sizes that their commits state, before the first byte, over all
//! commits and devices that are open. A file of a device is on its way once at a time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use headstart_protocol::Digest;
use headstart_protocol::text::bytes;
use headstart_protocol::wire::WireError;

use crate::refusal::{codes, wire};

/// Bytes that the files of one commit may have together, as much as a device takes from an engine by default.
const LARGEST_COMMIT: u64 = 20 << 30;
/// Bytes that uploads leave free on the engine's disk, for its logs and its own stages.
const RESERVE: u64 = 1 << 30;
/// Room for files that no upload brings is kept for this long after their commit.
const KEPT_MS: u64 = 120_000;

/// Which file of which device.
type Key = (String, Digest);

/// Files that open commits wait for, and those that are on their way.
#[derive(Default)]
pub(super) struct Uploads {
    /// Of the latest commit of each device that waits for files. A device hands in one at a time.
    open: BTreeMap<String, OpenCommit>,
    active: BTreeMap<Key, Active>,
}

struct OpenCommit {
    fence: u64,
    files: BTreeMap<Digest, u64>,
    since_ms: u64,
}

struct Active {
    size: u64,
    written: Arc<AtomicU64>,
}

impl Active {
    fn left(&self) -> u64 {
        self.size.saturating_sub(self.written.load(Ordering::Relaxed))
    }
}

impl Uploads {
    /// Bytes that are still to come, but for those of one device's open commit, or of one file.
    fn promised(&self, now_ms: u64, but: impl Fn(&str, &Digest) -> bool) -> u64 {
        let active = self.active.values().map(Active::left).fold(0, u64::saturating_add);
        let fresh = |commit: &&OpenCommit| now_ms.saturating_sub(commit.since_ms) < KEPT_MS;
        let commits = self.open.iter().filter(|(_, commit)| fresh(commit));
        let waiting = commits.flat_map(|(device, commit)| commit.files.iter().map(move |f| (device, f)));
        let waiting = waiting.filter(|(device, (digest, _))| {
            !but(device, digest) && !self.active.contains_key(&((*device).clone(), **digest))
        });
        waiting.fold(active, |sum, (_, (_, size))| sum.saturating_add(*size))
    }

    /// Opens a commit that waits for files, in the place of the device's last.
    ///
    /// # Errors
    /// [`codes::NO_ROOM`] where there is none for them beside what others were promised.
    pub(super) fn open(
        &mut self,
        device: &str,
        fence: u64,
        files: BTreeMap<Digest, u64>,
        free: Option<u64>,
        now_ms: u64,
    ) -> Result<(), WireError> {
        let on_its_way = |digest: &Digest| self.active.contains_key(&(device.to_owned(), *digest));
        let new = files.iter().filter(|(digest, _)| !on_its_way(digest));
        let new = new.map(|(_, size)| *size).fold(0, u64::saturating_add);
        check_room(new, self.promised(now_ms, |of, _| of == device), free)?;
        self.open.insert(device.to_owned(), OpenCommit { fence, files, since_ms: now_ms });
        Ok(())
    }

    /// The commit of a fence waits for nothing any more.
    pub(super) fn close(&mut self, device: &str, fence: u64) {
        if self.open.get(device).is_some_and(|commit| commit.fence == fence) {
            self.open.remove(device);
        }
    }

    /// How long a file is that a commit of this device waits for.
    pub(super) fn expects(&self, device: &str, digest: &Digest) -> Result<u64, WireError> {
        let commit = self.open.get(device);
        commit.and_then(|commit| commit.files.get(digest)).copied().ok_or_else(|| {
            let message = format!(
                "no commit of `{device}` waits for content {}; nothing else is taken",
                digest.short()
            );
            wire(codes::RESIDENCY, message)
        })
    }

    /// Begins an upload; how long it is, and where its progress is counted.
    ///
    /// # Errors
    /// [`codes::RESIDENCY`] unless a commit of this device waits for the file, [`codes::BUSY`] while it is on its
    /// way, [`codes::NO_ROOM`].
    pub(super) fn begin(
        &mut self,
        device: &str,
        digest: &Digest,
        free: Option<u64>,
        now_ms: u64,
    ) -> Result<(u64, Arc<AtomicU64>), WireError> {
        let size = self.expects(device, digest)?;
        let key = (device.to_owned(), *digest);
        if self.active.contains_key(&key) {
            let message = format!("content {} is on its way already; try again later", digest.short());
            return Err(wire(codes::BUSY, message));
        }
        let promised = self.promised(now_ms, |of, other| of == device && other == digest);
        check_room(size, promised, free)?;
        if let Some(commit) = self.open.get_mut(device) {
            commit.since_ms = now_ms;
        }
        let written = Arc::<AtomicU64>::default();
        self.active.insert(key, Active { size, written: Arc::clone(&written) });
        Ok((size, written))
    }

    pub(super) fn end(&mut self, device: &str, digest: &Digest) {
        self.active.remove(&(device.to_owned(), *digest));
    }

    /// A file is here: its commit does not wait for it any more.
    pub(super) fn arrived(&mut self, device: &str, digest: &Digest) {
        if let Some(commit) = self.open.get_mut(device) {
            commit.files.remove(digest);
        }
    }
}

/// Checks that the files of a commit are no more than any commit may bring.
///
/// # Errors
/// [`codes::INVALID`].
pub(super) fn check_size(all: u64) -> Result<(), WireError> {
    if all <= LARGEST_COMMIT {
        return Ok(());
    }
    let m = format!("the commit brings {}, and at most {} are taken", bytes(all), bytes(LARGEST_COMMIT));
    Err(wire(codes::INVALID, m))
}

/// Checks that so many bytes more fit onto a disk with `free` bytes left, of which some are promised; `None` where
/// the system does not say.
pub(super) fn check_room(new: u64, promised: u64, free: Option<u64>) -> Result<(), WireError> {
    match free {
        Some(free) if new.saturating_add(promised).saturating_add(RESERVE) > free => {
            tracing::error!(
                "no room for uploads of {}: {} are free on the disk, of which {} are promised to other uploads and {} \
                 stay free",
                bytes(new),
                bytes(free),
                bytes(promised),
                bytes(RESERVE)
            );
            Err(wire(codes::NO_ROOM, format!("the engine has no room for {}", bytes(new))))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FREE: Option<u64> = Some(RESERVE + 100);

    fn digest(n: u8) -> Digest {
        Digest::of(&[n])
    }

    fn code<T>(result: Result<T, WireError>) -> Option<String> {
        result.err().map(|e| e.code)
    }

    #[test]
    fn a_commit_has_a_largest_size() {
        assert_eq!(code(check_size(LARGEST_COMMIT)), None);
        for size in [LARGEST_COMMIT + 1, u64::MAX] {
            assert_eq!(code(check_size(size)).as_deref(), Some(codes::INVALID));
        }
    }

    #[test]
    fn what_all_devices_may_bring_fits_together() {
        let mut uploads = Uploads::default();
        let open = |uploads: &mut Uploads, device: &str, size, now| {
            code(uploads.open(device, 1, [(digest(1), size)].into(), FREE, now))
        };
        assert_eq!(open(&mut uploads, "phone", 60, 0), None);
        assert_eq!(open(&mut uploads, "tablet", 41, 0).as_deref(), Some(codes::NO_ROOM));
        assert_eq!(open(&mut uploads, "tablet", 40, 0), None);
        // Its next commit counts instead of the last.
        assert_eq!(open(&mut uploads, "phone", 60, 0), None);
        assert_eq!(open(&mut uploads, "phone", 61, 0).as_deref(), Some(codes::NO_ROOM));
        // Who states much and brings nothing keeps nobody out for long, and has to ask again.
        assert_eq!(open(&mut uploads, "laptop", 100, KEPT_MS), None);
        let late = uploads.begin("phone", &digest(1), FREE, KEPT_MS);
        assert_eq!(code(late).as_deref(), Some(codes::NO_ROOM));
        uploads.close("laptop", 2);
        assert_eq!(open(&mut uploads, "phone", 1, KEPT_MS).as_deref(), Some(codes::NO_ROOM), "still open");
        uploads.close("laptop", 1);
        assert_eq!(open(&mut uploads, "phone", 100, KEPT_MS), None);
        assert_eq!(code(uploads.open("phone", 1, [(digest(1), 1 << 40)].into(), None, 0)), None, "unknown");
    }

    #[test]
    fn a_file_is_on_its_way_once_and_takes_up_its_room_once() {
        let mut uploads = Uploads::default();
        let files = BTreeMap::from([(digest(1), 60), (digest(2), 40)]);
        uploads.open("phone", 1, files.clone(), FREE, 0).expect("fits");
        let (size, written) = uploads.begin("phone", &digest(1), FREE, 0).expect("begins");
        assert_eq!(size, 60);
        for _ in 0..16 {
            assert_eq!(code(uploads.begin("phone", &digest(1), FREE, 0)).as_deref(), Some(codes::BUSY));
        }
        assert_eq!(code(uploads.begin("tablet", &digest(1), FREE, 0)).as_deref(), Some(codes::RESIDENCY));
        // What is written is not free any more, and not promised either.
        written.store(50, Ordering::Relaxed);
        let free = Some(RESERVE + 50);
        assert!(uploads.begin("phone", &digest(2), free, 0).is_ok());
        assert_eq!(code(uploads.open("phone", 1, files.clone(), free, 0)), None, "both are on their way");
        assert_eq!(code(uploads.open("tablet", 2, files, free, 0)).as_deref(), Some(codes::NO_ROOM));
        uploads.arrived("phone", &digest(1));
        uploads.end("phone", &digest(1));
        assert_eq!(code(uploads.begin("phone", &digest(1), FREE, 0)).as_deref(), Some(codes::RESIDENCY));
        // One that broke off may begin again.
        uploads.end("phone", &digest(2));
        assert!(uploads.begin("phone", &digest(2), FREE, 0).is_ok());
    }
}
