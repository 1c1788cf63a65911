//! Room for what private stages make: their results, their progress, and their files while they run.
//!
//! An engine can have a private stage run only where a condition over private values holds. So how much such
//! stages write may show neither in whether the device goes on, nor in whether there is room for a download: a
//! part of the disk is theirs, and a stage that needs more fails, which stays here.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use headstart_disk::{Disk, DiskError, files, free_space};
use headstart_protocol::text::bytes;
use headstart_protocol::{Failure, FailureClass};

use crate::state::State;

/// Bytes that private stages may take up, where the owner says nothing else.
pub const DEFAULT_PRIVATE_QUOTA: u64 = 10 << 30;
/// Bytes of the disk that downloads leave free, whatever their quota is.
pub(super) const RESERVE: u64 = 1 << 30;
/// What a file takes beside its content: a block, its name.
pub(super) const FILE: u64 = 4 << 10;
/// Bytes of the disk that private stages leave free, whatever their quota is.
const FLOOR: u64 = RESERVE / 2;
/// Bytes that are kept for what has to be written down in any case: a result on its way, and that it is.
const KEPT: usize = 4 << 20;

/// Folders of the state folder that are filled when private stages end, and those that fill as they run, in
/// which public stages have a share.
const SETTLED: [&str; 2] = ["private", "rows/by-source"];
const RUNNING: [&str; 2] = ["resume", "scratch"];

/// The part of the disk that is private stages'.
#[derive(Clone)]
pub struct PrivateRoom {
    root: PathBuf,
    quota: u64,
    disk: Arc<dyn Disk>,
}

impl PrivateRoom {
    /// That of a state folder: `quota` bytes, and at most half of what the disk has room for now. What private
    /// stages have taken up counts as room, so that this does not depend on it.
    pub fn new(state: &State, quota: u64) -> Self {
        let mut room = Self { root: state.root().to_owned(), quota, disk: Arc::clone(state.disk()) };
        if let Ok(free) = free_space(&room.root) {
            let there = free.saturating_add(room.used()).saturating_sub(RESERVE);
            room.quota = quota.min(there / 2);
        }
        room
    }

    /// Bytes that are taken up.
    pub fn used(&self) -> u64 {
        self.settled().saturating_add(self.usage(&RUNNING))
    }

    /// Bytes that results take up.
    pub fn settled(&self) -> u64 {
        self.usage(&SETTLED)
    }

    fn usage(&self, folders: &[&str]) -> u64 {
        folders.iter().fold(0, |sum, folder| sum.saturating_add(usage(&self.root.join(folder))))
    }

    /// Bytes that may still be taken up: nobody else may be given them.
    pub fn left(&self) -> u64 {
        self.quota.saturating_sub(self.used())
    }

    /// Checks that private stages take up no more than there is, when so many bytes come.
    ///
    /// # Errors
    /// [`FailureClass::DiskFull`].
    pub fn check(&self, new: u64) -> Result<(), Failure> {
        self.check_running(self.settled(), new)
    }

    /// The same, where it is known what results take up: many folders need not be looked through again.
    ///
    /// # Errors
    /// As [`Self::check`].
    pub fn check_running(&self, settled: u64, new: u64) -> Result<(), Failure> {
        let used = settled.saturating_add(self.usage(&RUNNING));
        if used.saturating_add(new) > self.quota {
            let m = format!(
                "private results, progress and files of running stages would take up {}, of the {} that they may",
                bytes(used.saturating_add(new)),
                bytes(self.quota)
            );
            let help =
                "raise --private-quota, or make room in the folder `private` of the device's state folder";
            return Err(Failure::new(FailureClass::DiskFull, m).help(help));
        }
        match free_space(&self.root) {
            Ok(free) if free < FLOOR.saturating_add(new) => {
                let m = format!("{} are free on the disk, of which {} stay free", bytes(free), bytes(FLOOR));
                Err(Failure::new(FailureClass::DiskFull, m).help(headstart_disk::FULL_HELP))
            }
            _ => Ok(()),
        }
    }

    fn reserve(&self) -> PathBuf {
        self.root.join("reserve")
    }

    /// Keeps room for what has to be written down whatever becomes of a private stage.
    ///
    /// # Errors
    /// If the disk has no room for that.
    pub fn keep_reserve(&self) -> Result<(), DiskError> {
        let at = self.reserve();
        if std::fs::metadata(&at).is_ok_and(|m| m.len() == KEPT as u64) {
            return Ok(());
        }
        // Nothing that a file system could leave out or store smaller.
        let mut noise = vec![0; KEPT];
        blake3::Hasher::new_derive_key("headstart-device 2026 reserve").finalize_xof().fill(&mut noise);
        files::write(&*self.disk, &at, &noise)?;
        files::sync_file(&*self.disk, &at)
    }

    /// Writes something down that has to be; where the disk is full, in the place of the reserve.
    ///
    /// # Errors
    /// Those of `write`.
    pub fn with_reserve<T, E>(
        &self,
        is_full: impl FnOnce(&E) -> bool,
        mut write: impl FnMut() -> Result<T, E>,
    ) -> Result<T, E> {
        match write() {
            Err(e) if is_full(&e) => {
                self.spend_reserve();
                write()
            }
            other => other,
        }
    }

    /// Gives the reserve up: something has to be written down, and the disk is full.
    pub fn spend_reserve(&self) {
        if let Err(e) = self.disk.remove_file(&self.reserve()) {
            tracing::debug!("the reserve: {e}");
        }
    }
}

fn usage(folder: &Path) -> u64 {
    let (bytes, number) = files::usage(folder);
    bytes.saturating_add(number.saturating_mul(FILE))
}

#[cfg(test)]
mod tests {
    use headstart_disk::SystemDisk;
    use headstart_disk::simulated::{Fault, SimulatedDisk};

    use super::*;

    #[test]
    fn private_stages_have_a_part_of_the_disk_whatever_is_in_it() {
        let dir = tempfile::tempdir().expect("tempdir");
        let state = State::open(dir.path(), Arc::new(SystemDisk)).expect("opens");
        let room = PrivateRoom::new(&state, 100_000);
        assert_eq!((room.used(), room.left()), (0, 100_000));
        std::fs::write(state.at("private/x"), [0; 50_000]).expect("writes");
        std::fs::write(state.at("public/x"), [0; 50_000]).expect("writes");
        assert_eq!(room.used(), 50_000 + FILE);
        assert!(room.check(40_000).is_ok());
        let failure = room.check(50_000).expect_err("too much");
        assert_eq!(failure.class, FailureClass::DiskFull);
        assert!(failure.help.is_some_and(|help| help.contains("--private-quota")));
        assert!(PrivateRoom::new(&state, u64::MAX).left() < u64::MAX / 4, "not more than there is");
    }

    #[test]
    fn the_reserve_is_there_before_it_is_needed() {
        let dir = tempfile::tempdir().expect("tempdir");
        let disk = SimulatedDisk::new();
        let state = State::open(dir.path(), disk.shared()).expect("opens");
        let room = PrivateRoom::new(&state, 1 << 20);
        disk.fail_from(disk.writes() + 1, Fault::Full);
        assert!(room.keep_reserve().is_err());
        assert!(!state.at("reserve").exists(), "not half of it");
        disk.repair();
        room.keep_reserve().expect("writes");
        let writes = disk.writes();
        room.keep_reserve().expect("it is there");
        assert_eq!(disk.writes(), writes);
        room.spend_reserve();
        assert!(!state.at("reserve").exists());
    }
}
