//! Room for what private stages make: their results, their progress, and their files while they run.
//!
//! An engine can have a private stage run only where a condition over private values holds. So how much such
//! stages write may show neither in whether the device goes on, nor in whether there is room for a download: a
//! part of the disk is theirs ([`Parts`]), and a stage that needs more fails, which stays here.

use std::path::PathBuf;
use std::sync::Arc;

use headstart_disk::{Disk, DiskError, files};
use headstart_protocol::text::bytes;
use headstart_protocol::{Failure, FailureClass};

use super::parts::{FILE, Parts, RESERVE};
use crate::state::State;

/// Bytes of the disk that private stages leave free, whatever their quota is.
const FLOOR: u64 = RESERVE / 2;
/// Bytes that are kept for what has to be written down in any case: a result on its way, and that it is.
const KEPT: usize = 4 << 20;
/// Bytes that the record of a handle takes up at most, without the files of a result.
const HANDLE: u64 = 32 << 10;
/// Handles that there are records of at least and at most.
const HANDLES: [u64; 2] = [1_000, 100_000];

/// Folders of the state folder that are filled when private stages end, and those that fill as they run.
const SETTLED: [&str; 3] = ["private", "rows/by-source", "made"];
const RUNNING: [&str; 2] = ["resume", "scratch"];

/// The part of the disk that is private stages'.
#[derive(Clone)]
pub struct PrivateRoom {
    root: PathBuf,
    quota: u64,
    disk: Arc<dyn Disk>,
}

impl PrivateRoom {
    /// That of a state folder.
    pub fn new(state: &State, parts: Parts) -> Self {
        Self { root: state.root().to_owned(), quota: parts.private, disk: Arc::clone(state.disk()) }
    }

    /// How many handles something is kept for at most. Promises are records too, and are written down whatever
    /// else is in the part.
    pub fn most_handles(&self) -> usize {
        let most = (self.quota / 4 / HANDLE).clamp(HANDLES[0], HANDLES[1]);
        usize::try_from(most).unwrap_or(usize::MAX)
    }

    /// Bytes that results take up, and that records of further handles may.
    pub fn settled(&self) -> u64 {
        let handles = std::fs::read_dir(self.root.join("private")).map_or(0, |found| found.count() as u64);
        let further = (self.most_handles() as u64).saturating_sub(handles).saturating_mul(HANDLE);
        self.usage(&SETTLED).saturating_add(further.min(self.quota / 4))
    }

    fn usage(&self, folders: &[&str]) -> u64 {
        let taken = |folder: &&str| files::taken_up(&self.root.join(folder), FILE);
        folders.iter().map(taken).fold(0, u64::saturating_add)
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
        match self.disk.free_space(&self.root) {
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

#[cfg(test)]
mod tests {
    use headstart_disk::SystemDisk;
    use headstart_disk::simulated::{Fault, SimulatedDisk};

    use super::*;

    #[test]
    fn private_stages_have_a_part_of_the_disk_whatever_else_is_in_it() {
        let dir = tempfile::tempdir().expect("tempdir");
        let state = State::open(dir.path(), Arc::new(SystemDisk)).expect("opens");
        let room = PrivateRoom::new(&state, Parts::new(0, 400_000));
        assert_eq!(room.settled(), 100_000, "a quarter is for records");
        std::fs::write(state.at("private/x"), [0; 100_000]).expect("writes");
        std::fs::write(state.at("public/x"), [0; 500_000]).expect("writes");
        let used = room.settled() - 100_000;
        assert!((100_000 + FILE..=100_000 + 2 * FILE).contains(&used), "{used}");
        assert!(room.check(150_000).is_ok());
        let failure = room.check(250_000).expect_err("too much");
        assert_eq!(failure.class, FailureClass::DiskFull);
        assert!(failure.help.is_some_and(|help| help.contains("--private-quota")));
        // Folders take up room too.
        for i in 0..50 {
            std::fs::create_dir(state.at(format!("scratch/{i}"))).expect("creates");
        }
        assert!(room.check(150_000).is_err());
    }

    #[test]
    fn how_many_handles_there_are_follows_from_the_part() {
        let dir = tempfile::tempdir().expect("tempdir");
        let state = State::open(dir.path(), Arc::new(SystemDisk)).expect("opens");
        let most = |private| PrivateRoom::new(&state, Parts::new(0, private)).most_handles();
        assert_eq!([0, 1 << 30, 10 << 30, u64::MAX].map(most), [1_000, 8_192, 81_920, 100_000]);
    }

    #[test]
    fn the_reserve_is_there_before_it_is_needed() {
        let dir = tempfile::tempdir().expect("tempdir");
        let disk = SimulatedDisk::new();
        let state = State::open(dir.path(), disk.shared()).expect("opens");
        let room = PrivateRoom::new(&state, Parts::new(0, 1 << 20));
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
