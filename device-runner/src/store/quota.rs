//! How much public work may place on a device. Counted over public files alone, against a number that was decided
//! when the device started: nothing that private work does changes what there is room for.

use std::path::{Path, PathBuf};

use headstart_disk::files;
use headstart_protocol::Failure;
use headstart_protocol::text::bytes;

use super::parts::FILE;

/// What of the state folder is public work's, and changes only between attempts: contents, of which the other
/// folders of the public store hold links, and messages on their way.
const SETTLED: [&str; 4] = ["public/blobs", "public/manifests", "public/partial", "outbox"];
/// What public stages write while they run.
const RUNNING: [&str; 3] = ["rows/public", "resume-public", "scratch-public"];

/// What there is room for, and what of it is promised.
#[derive(Debug)]
pub struct Room {
    root: PathBuf,
    quota: u64,
    settled: u64,
    new: u64,
}

impl Room {
    /// Of the state folder `root`, in which public work has `quota` bytes.
    pub(super) fn new(root: &Path, quota: u64) -> Self {
        Self { root: root.to_owned(), quota, settled: used(root, &SETTLED), new: 0 }
    }

    /// Promises room for a file of so many bytes more.
    ///
    /// # Errors
    /// [`FailureClass::Input`](headstart_protocol::FailureClass::Input) where there is none.
    pub fn take(&mut self, bytes: u64) -> Result<(), Failure> {
        self.take_all([bytes])
    }

    /// The same for all files of a task.
    ///
    /// # Errors
    /// As [`Room::take`].
    pub fn take_all(&mut self, sizes: impl IntoIterator<Item = u64>) -> Result<(), Failure> {
        for bytes in sizes {
            self.new = self.new.saturating_add(bytes).saturating_add(FILE);
        }
        self.check()
    }

    /// Checks that public work takes up no more than there is for it, with what a stage that runs has written.
    ///
    /// # Errors
    /// As [`Room::take`].
    pub fn check(&self) -> Result<(), Failure> {
        check(self.quota, self.settled.saturating_add(used(&self.root, &RUNNING)), self.new)
    }
}

/// Bytes that these folders take up: by lengths, which are the same wherever the files lie.
fn used(root: &Path, folders: &[&str]) -> u64 {
    folders.iter().fold(0, |sum, folder| {
        let (bytes, number) = files::usage(&root.join(folder));
        sum.saturating_add(bytes).saturating_add(number.saturating_mul(FILE))
    })
}

/// Checks that `new` bytes more fit. Where they do not, the task fails and the device goes on.
fn check(quota: u64, used: u64, new: u64) -> Result<(), Failure> {
    if used.saturating_add(new) <= quota {
        return Ok(());
    }
    let needs = match new {
        0 => String::new(),
        new => format!("the task needs downloads of {}, but ", bytes(new)),
    };
    let m = format!(
        "{needs}public artifacts and files of public stages on this device take up {} of the {} that they may",
        bytes(used),
        bytes(quota)
    );
    Err(Failure::input(m).help(
        "raise --disk-quota or free some of the disk, and start the device again; or remove the folder `public` in \
         the device's state folder: what is needed of it is downloaded again",
    ))
}

#[cfg(test)]
mod tests {
    use headstart_protocol::FailureClass;

    use super::*;

    #[test]
    fn the_quota_bounds_what_comes() {
        assert!(check(100, 40, 60).is_ok());
        for (quota, used, new) in [(100, 40, 61), (0, 0, 1), (100, 101, 0), (u64::MAX - 1, 2, u64::MAX)] {
            let over = check(quota, used, new).expect_err("over the quota");
            assert_eq!(over.class, FailureClass::Input);
        }
    }

    #[test]
    fn public_files_are_counted_once_and_no_others() {
        let dir = tempfile::tempdir().expect("a folder");
        let at = |name: &str| dir.path().join(name);
        for folder in [
            "public/blobs/ab",
            "public/open/x",
            "public/partial",
            "outbox",
            "scratch-public/7",
            "private/h",
            "scratch/8",
            "queue",
            "resume/k",
            "made",
        ] {
            std::fs::create_dir_all(at(folder)).expect("a folder");
        }
        std::fs::write(at("public/blobs/ab/abcd"), [0; 1000]).expect("written");
        std::fs::hard_link(at("public/blobs/ab/abcd"), at("public/open/x/file")).expect("a link");
        for private in [
            "private/h/artifact.json",
            "scratch/8/x",
            "queue/1.json",
            "resume/k/x",
            "made/x",
            "history.jsonl",
        ] {
            std::fs::write(at(private), [0; 5000]).expect("written");
        }
        let room = |quota| Room::new(dir.path(), quota);
        assert!(room(1000 + FILE).check().is_ok());
        assert!(room(1000 + FILE - 1).check().is_err());
        std::fs::write(at("public/partial/ef"), [0; 10]).expect("written");
        std::fs::write(at("outbox/1.json"), [0; 20]).expect("written");
        let mut room = room(1040 + 4 * FILE);
        room.take(10).expect("fits to the byte");
        assert!(room.take(0).is_err(), "a file takes up more than its bytes");
        // A stage that runs writes beside that.
        let room = Room::new(dir.path(), 1040 + 4 * FILE);
        std::fs::write(at("scratch-public/7/x"), [0; 10]).expect("written");
        assert!(room.check().is_ok());
        std::fs::write(at("scratch-public/7/y"), [0; 10]).expect("written");
        assert!(room.check().is_err());
    }
}
