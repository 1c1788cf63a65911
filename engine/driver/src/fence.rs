//! Fences: numbers that rise over all runs and restarts of a workspace.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use headstart_disk::{Disk, Open, files};
use headstart_store::StoreError;

use crate::error::EngineError;

/// Fences that one reservation gives.
const BLOCK: u64 = 1 << 20;
/// A device that says that it was granted more than this is not believed.
const HIGHEST: u64 = 1 << 62;

/// Gives fences out. Blocks of them are reserved on disk, so a number is never given twice, even
/// by two processes or after a crash.
pub(crate) struct Fences {
    dir: PathBuf,
    disk: Arc<dyn Disk>,
    next: Mutex<(u64, u64)>,
}

impl Fences {
    /// Reserves the first block.
    pub(crate) fn open(workspace: &Path, disk: Arc<dyn Disk>) -> Result<Self, EngineError> {
        let dir = workspace.join("fences");
        files::create_dir(&*disk, &dir).map_err(StoreError::from)?;
        let first = reserve(&*disk, &dir, 0)?;
        Ok(Self { dir, disk, next: Mutex::new((first + 1, first + BLOCK)) })
    }

    /// Gives out only what is higher than a fence that a device was granted: by another process, or before
    /// the workspace was restored from a copy. A device refuses grants that are not.
    pub(crate) fn rise_above(&self, granted: u64) -> Result<(), EngineError> {
        let mut range = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        if granted < range.0 || granted > HIGHEST {
            return Ok(());
        }
        let first = reserve(&*self.disk, &self.dir, granted / BLOCK)?;
        *range = (first + 1, first + BLOCK);
        Ok(())
    }

    /// The next fence.
    pub(crate) fn next(&self) -> Result<u64, EngineError> {
        let mut range = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        if range.0 == range.1 {
            let first = reserve(&*self.disk, &self.dir, 0)?;
            *range = (first + 1, first + BLOCK);
        }
        range.0 += 1;
        Ok(range.0 - 1)
    }
}

/// Takes the block after the highest that anybody took, and after `least`: its first number. A block is taken by
/// creating the empty file of its number, which only one process can.
fn reserve(disk: &dyn Disk, dir: &Path, least: u64) -> Result<u64, EngineError> {
    loop {
        let taken: Vec<u64> = fs::read_dir(dir)
            .map_err(EngineError::io("read", dir))?
            .filter_map(|e| e.ok()?.file_name().to_str()?.parse().ok())
            .collect();
        let highest = taken.iter().copied().max().unwrap_or(0).max(least);
        let mine = dir.join((highest + 1).to_string());
        match disk.open(&mine, Open::New) {
            Ok(file) => {
                file.sync().map_err(EngineError::io("write", &mine))?;
                files::sync_dir(disk, dir).map_err(StoreError::from)?;
                for old in taken.iter().filter(|n| **n < highest) {
                    // Only the highest matters; one that stays does no harm.
                    let _ = disk.remove_file(&dir.join(old.to_string()));
                }
                return Ok((highest + 1) * BLOCK);
            }
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(EngineError::io("create", mine)(e)),
        }
    }
}

#[cfg(test)]
mod tests {
    use headstart_disk::SystemDisk;

    use super::*;

    fn open(dir: &Path) -> Fences {
        Fences::open(dir, Arc::new(SystemDisk)).expect("writable")
    }

    #[test]
    fn fences_rise_over_restarts_and_processes() {
        let dir = tempfile::tempdir().expect("a folder");
        let a = open(dir.path());
        let b = open(dir.path());
        let (a1, b1, a2) = (a.next().expect("a"), b.next().expect("b"), a.next().expect("a"));
        drop((a, b));
        let c1 = open(dir.path()).next().expect("c");
        assert!(a1 < a2 && a2 < b1 && b1 < c1, "{a1} {a2} {b1} {c1}");
    }

    #[test]
    fn an_engine_rises_above_what_another_granted() {
        let dir = tempfile::tempdir().expect("a folder");
        let a = Fences::open(dir.path(), Arc::new(SystemDisk)).expect("writable");
        let b = Fences::open(dir.path(), Arc::new(SystemDisk)).expect("writable");
        let granted = b.next().expect("b");
        assert!(a.next().expect("a") < granted);
        a.rise_above(granted).expect("writable");
        assert!(a.next().expect("a") > granted);
        let count = || fs::read_dir(dir.path().join("fences")).expect("a folder").count();
        let blocks = count();
        a.rise_above(granted).expect("nothing to do");
        assert_eq!(count(), blocks);
    }

    #[test]
    fn a_block_that_is_used_up_is_followed_by_another() {
        let dir = tempfile::tempdir().expect("a folder");
        let f = open(dir.path());
        let first = f.next().expect("first");
        f.next.lock().expect("not poisoned").0 = first + BLOCK - 1;
        let second = f.next().expect("of the next block");
        assert!(second >= first + BLOCK - 1);
        assert!(f.next().expect("third") > second);
    }
}
