//! How much an engine may place on a device: counted over what lies in the public store, before anything
//! is downloaded.

use std::path::Path;

use headstart_disk::{files, free_space};
use headstart_protocol::text::bytes;
use headstart_protocol::{Failure, FailureClass};

use super::room::{FILE, PrivateRoom, RESERVE};

/// Bytes that public artifacts may take up, where the owner says nothing else.
pub const DEFAULT_DISK_QUOTA: u64 = 20 << 30;

/// Folders of the public store that hold contents; the others hold links to them.
const COUNTED: [&str; 3] = ["blobs", "manifests", "partial"];

/// What there is room for, and what of it is promised.
pub struct Room {
    quota: u64,
    used: u64,
    free: Option<u64>,
    new: u64,
}

impl Room {
    /// Of the store below `root`. What private stages may still take up is not free: how much of it they did
    /// must not decide what there is room for.
    pub(super) fn new(root: &Path, quota: u64, private: &PrivateRoom) -> Self {
        let free = free_space(root).ok().map(|free| free.saturating_sub(private.left()));
        Self { quota, used: used(root), free, new: 0 }
    }

    /// Promises room for a file of so many bytes more.
    ///
    /// # Errors
    /// [`FailureClass::Input`] where the quota does not suffice, [`FailureClass::DiskFull`] where the disk
    /// does not.
    pub fn take(&mut self, bytes: u64) -> Result<(), Failure> {
        self.take_all([bytes])
    }

    /// The same for all files of a task, so that the quota speaks before the disk.
    ///
    /// # Errors
    /// As [`Room::take`].
    pub fn take_all(&mut self, sizes: impl IntoIterator<Item = u64>) -> Result<(), Failure> {
        for bytes in sizes {
            self.new = self.new.saturating_add(bytes).saturating_add(FILE);
        }
        check(self.quota, self.used, self.new, self.free)
    }
}

/// Bytes that the store below `root` takes up.
fn used(root: &Path) -> u64 {
    COUNTED.iter().fold(0, |sum, folder| {
        let (bytes, number) = files::usage(&root.join(folder));
        sum.saturating_add(bytes).saturating_add(number.saturating_mul(FILE))
    })
}

/// Checks that `new` bytes more fit into the quota and onto the disk, of which `free` bytes are left; `None`
/// where the system does not say.
///
/// Whether they fit into the quota depends on public artifacts alone, so that the engine may be told. What is
/// free on the disk depends on other programs too: where it does not suffice, the device stops and asks its owner.
fn check(quota: u64, used: u64, new: u64, free: Option<u64>) -> Result<(), Failure> {
    if used.saturating_add(new) > quota {
        let m = format!(
            "the task needs downloads of {}, but the public artifacts on this device take up {} of the {} that \
             they may",
            bytes(new),
            bytes(used),
            bytes(quota)
        );
        return Err(Failure::input(m).help(
            "raise --disk-quota, or remove the folder `public` in the device's state folder: what is needed of it \
             is downloaded again",
        ));
    }
    match free {
        Some(free) if new.saturating_add(RESERVE) > free => {
            let m = format!(
                "the task needs downloads of {}, but {} are free on the disk, of which {} stay free",
                bytes(new),
                bytes(free),
                bytes(RESERVE)
            );
            Err(Failure::new(FailureClass::DiskFull, m).help(headstart_disk::FULL_HELP))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quota_and_free_space_both_bound_what_comes() {
        assert!(check(100, 40, 60, None).is_ok());
        let over = check(100, 40, 61, None).expect_err("over the quota");
        assert_eq!(over.class, FailureClass::Input);
        for huge in [1 << 60, u64::MAX] {
            assert_eq!(
                check(u64::MAX - 1, 2, huge, Some(9 << 30)).expect_err("huge").class,
                match huge {
                    u64::MAX => FailureClass::Input,
                    _ => FailureClass::DiskFull,
                }
            );
        }
        assert!(check(u64::MAX, 0, 8 << 30, Some(9 << 30)).is_ok());
        let full = check(u64::MAX, 0, (8 << 30) + 1, Some(9 << 30)).expect_err("eats the reserve");
        assert_eq!(full.class, FailureClass::DiskFull);
    }

    #[test]
    fn links_to_contents_are_not_counted_twice() {
        let dir = tempfile::tempdir().expect("a folder");
        for folder in ["blobs/ab", "open/x", "partial", "manifests"] {
            std::fs::create_dir_all(dir.path().join(folder)).expect("a folder");
        }
        std::fs::write(dir.path().join("blobs/ab/abcd"), [0; 1000]).expect("written");
        std::fs::hard_link(dir.path().join("blobs/ab/abcd"), dir.path().join("open/x/file")).expect("a link");
        std::fs::write(dir.path().join("partial/ef"), [0; 10]).expect("written");
        assert_eq!(used(dir.path()), 1010 + 2 * FILE);
    }
}
