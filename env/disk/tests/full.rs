//! A disk that fails at each write in turn: what was there stays, and nothing half-written is left.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use headstart_disk::simulated::{Fault, SimulatedDisk};
use headstart_disk::{Disk, DiskError, Mode, files};

/// Every file below a folder, with its content.
fn tree(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a folder").flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(dir).expect("below").to_string_lossy().into_owned();
                found.insert(name, fs::read(&path).expect("a file"));
            }
        }
    }
    found
}

/// Does `work` on a disk that fails at its first write, then at its second, until it gets through. Each time
/// the folder must be as before, or as afterwards, and the error must name a file and the cause.
#[track_caller]
fn at_each_write(fault: Fault, work: impl Fn(&dyn Disk, &Path) -> Result<(), DiskError>) {
    let dir = tempfile::tempdir().expect("a folder");
    let made = |to: &Path| {
        fs::create_dir(to.join("folder")).expect("writable");
        for name in ["file", "source", "folder/inside"] {
            fs::write(to.join(name), "old").expect("writable");
        }
    };
    let undisturbed = dir.path().join("undisturbed");
    fs::create_dir(&undisturbed).expect("writable");
    made(&undisturbed);
    let before = tree(&undisturbed);
    let disk = SimulatedDisk::new();
    work(&disk, &undisturbed).expect("a disk that works");
    let (writes, after) = (disk.writes(), tree(&undisturbed));
    assert!(writes > 1 && before != after);
    for at in 1..=writes {
        let place = dir.path().join(format!("at-{at}"));
        fs::create_dir(&place).expect("writable");
        made(&place);
        let disk = SimulatedDisk::new();
        disk.fail_from(at, fault);
        let error = work(&disk, &place).expect_err("a disk that fails");
        let (kind, said) = match fault {
            Fault::Full => (ErrorKind::StorageFull, "the disk is full"),
            Fault::Denied => (ErrorKind::PermissionDenied, "permission denied"),
            Fault::Broken => (ErrorKind::Other, "Input/output error"),
            Fault::PowerOff => (ErrorKind::Other, "the power is off"),
        };
        assert_eq!(error.source.kind(), kind);
        let text = error.to_string();
        assert!(text.ends_with(said) && text.contains(&place.display().to_string()), "write {at}: {text}");
        assert!(!disk.hit().is_empty());
        let left = tree(&place);
        assert!(left == before || left == after, "write {at} of {writes}: {:?}", left.keys());
        disk.repair();
        work(&disk, &place).expect("a disk that works again");
        assert_eq!(tree(&place), after, "write {at} of {writes}, and again");
    }
}

#[test]
fn a_write_is_whole_or_not_at_all() {
    for fault in [Fault::Full, Fault::Denied, Fault::Broken] {
        at_each_write(fault, |disk, dir| {
            files::write_atomic(disk, &dir.join("file"), b"something new", Mode::Secret)
        });
        at_each_write(fault, |disk, dir| {
            files::write_atomic(disk, &dir.join("deep/er/file"), b"something new", Mode::Normal)
        });
        at_each_write(fault, |disk, dir| files::replace(disk, &dir.join("file"), b"something new"));
        at_each_write(fault, |disk, dir| files::replace(disk, &dir.join("new"), b"something new"));
        at_each_write(fault, |disk, dir| {
            files::copy_atomic(disk, &dir.join("source"), &dir.join("deep/copy"), Mode::Normal)
        });
    }
}

#[test]
fn a_folder_is_whole_or_not_at_all() {
    let fill = |disk: &dyn Disk, dir: &Path, name: &str| {
        let made = files::create_dir_atomic(
            disk,
            &dir.join(name),
            |_| true,
            |new| {
                files::write(disk, &new.join("a"), b"one")?;
                files::copy(disk, &dir.join("source"), &new.join("b"))?;
                files::write_atomic(disk, &new.join("c"), b"three", Mode::ReadOnly)
            },
        );
        made.map(|made| assert_eq!(made, Some(())))
    };
    for fault in [Fault::Full, Fault::Denied, Fault::Broken] {
        at_each_write(fault, |disk, dir| fill(disk, dir, "new"));
        at_each_write(fault, |disk, dir| fill(disk, dir, "folder"));
    }
}

#[test]
fn what_was_not_synced_is_lost_with_the_power() {
    let dir = tempfile::tempdir().expect("a folder");
    let disk = SimulatedDisk::new();
    let at = |name: &str| dir.path().join(name);
    files::write_atomic(&disk, &at("kept"), b"first", Mode::Normal).expect("written");
    files::write(&disk, &at("new"), b"nobody asked for it to last").expect("written");
    disk.open(&at("kept"), headstart_disk::Open::Append)
        .expect("opens")
        .write_all(b", second")
        .expect("written");
    disk.rename(&at("new"), &at("renamed")).expect("renamed");
    let boot = disk.boot_id();
    disk.lose_unsynced().expect("a folder");
    assert_eq!(tree(dir.path()), [("kept".to_owned(), b"first".to_vec())].into());
    assert_ne!(disk.boot_id(), boot);
    let mut open = disk.open(&at("kept"), headstart_disk::Open::Append).expect("opens");
    open.write_all(b", second").expect("written");
    open.sync().expect("synced");
    disk.lose_unsynced().expect("a folder");
    assert_eq!(tree(dir.path())["kept"], b"first, second");
}
