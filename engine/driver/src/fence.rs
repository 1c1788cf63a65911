//! Fences: numbers that rise over all runs and restarts of a workspace.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use headstart_disk::{Disk, Open, files};
use headstart_store::StoreError;

use crate::error::EngineError;

/// Fences that one reservation gives.
const BLOCK: u64 = 1 << 20;
/// The number of the highest block. No workspace comes near it by handing fences out.
const HIGHEST: u64 = (1 << 62) / BLOCK;

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

    /// Gives out only what is higher than a fence that a device says it was granted; a device refuses grants that
    /// are not. Believed is what a process of this workspace handed out, and what is `proven`: before the workspace
    /// was restored from a copy, its engine signed that grant. False for anything else, which changes nothing.
    pub(crate) fn rise_above(&self, granted: u64, proven: bool) -> Result<bool, EngineError> {
        let mut range = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        if granted < range.0 {
            return Ok(true);
        }
        let block = granted / BLOCK;
        if !proven && taken(&self.dir)?.into_iter().max().is_none_or(|highest| block > highest) {
            return Ok(false);
        }
        let first = reserve(&*self.disk, &self.dir, block)?;
        *range = (first + 1, first + BLOCK);
        Ok(true)
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

/// The numbers of the blocks that are taken.
fn taken(dir: &Path) -> Result<Vec<u64>, EngineError> {
    let found = fs::read_dir(dir).map_err(EngineError::io("read", dir))?;
    Ok(found.filter_map(|e| e.ok()?.file_name().to_str()?.parse().ok()).collect())
}

/// Takes the block after the highest that anybody took, and after `least`: its first number. A block is taken by
/// creating the empty file of its number, which only one process can.
fn reserve(disk: &dyn Disk, dir: &Path, least: u64) -> Result<u64, EngineError> {
    loop {
        let taken = taken(dir)?;
        let highest = taken.iter().copied().max().unwrap_or(0).max(least);
        if highest >= HIGHEST {
            let other =
                format!("no engine handed out {highest} blocks of fences; remove what is no file of it");
            return Err(EngineError::io("use", dir)(std::io::Error::other(other)));
        }
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
        assert!(a.rise_above(granted, false).expect("writable"));
        assert!(a.next().expect("a") > granted);
        let count = || fs::read_dir(dir.path().join("fences")).expect("a folder").count();
        let blocks = count();
        assert!(a.rise_above(granted, false).expect("nothing to do"));
        assert_eq!(count(), blocks);
    }

    #[test]
    fn what_nobody_handed_out_raises_nothing() {
        let dir = tempfile::tempdir().expect("a folder");
        let a = open(dir.path());
        let next = a.next().expect("a");
        for granted in [next + BLOCK, 1 << 40, (1 << 62) - 1, 1 << 62, u64::MAX] {
            assert!(!a.rise_above(granted, false).expect("reads"), "{granted}");
        }
        assert_eq!(a.next().expect("a"), next + 1);
        // What the engine itself signed, before its workspace was restored.
        assert!(a.rise_above(1 << 40, true).expect("writable"));
        assert!(a.next().expect("a") > 1 << 40);
        assert!(open(dir.path()).next().expect("b") > 1 << 40);
        // A file of somebody else's is named, and gives no number.
        let at = dir.path().join("fences").join(u64::MAX.to_string());
        fs::write(&at, "").expect("written");
        let e = Fences::open(dir.path(), Arc::new(SystemDisk)).err().expect("refused");
        assert!(e.to_string().contains("fences"), "{e}");
        fs::remove_file(&at).expect("removed");
        assert!(open(dir.path()).next().is_ok());
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
