//! Replacing files without a trace.

use std::fs;

use headstart_disk::SystemDisk;
use headstart_disk::files;

fn replace(file: &std::path::Path, content: &[u8]) -> Result<(), headstart_disk::DiskError> {
    files::replace(&SystemDisk, file, content)
}

fn names(dir: &std::path::Path) -> Vec<String> {
    let entries = fs::read_dir(dir).expect("the folder").flatten();
    let mut names: Vec<String> = entries.map(|e| e.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[test]
fn files_beside_it_are_untouched() {
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("tab.pllm");
    let beside = ["tab.pllm.new", "tab.pllm.tmp", "tab.new", "tab.pllm~", ".tab.pllm.new"];
    for name in beside.iter().chain(&["tab.pllm"]) {
        fs::write(dir.path().join(name), "notes").expect("a file");
    }
    let before = names(dir.path());
    replace(&file, b"new").expect("it can be written");
    assert_eq!(fs::read_to_string(&file).expect("the file"), "new");
    assert_eq!(names(dir.path()), before, "nothing is left behind");
    for name in beside {
        assert_eq!(fs::read_to_string(dir.path().join(name)).expect("the file"), "notes", "{name}");
    }
}

#[cfg(unix)]
#[test]
fn permissions_and_links_stay() {
    use std::os::unix::fs::{PermissionsExt, symlink};
    let dir = tempfile::tempdir().expect("a folder");
    let (file, link) = (dir.path().join("real/a.pllm"), dir.path().join("a.pllm"));
    fs::create_dir(dir.path().join("real")).expect("a folder");
    fs::write(&file, "old").expect("a file");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).expect("permissions");
    symlink("real/a.pllm", &link).expect("a link");
    replace(&link, b"new").expect("it can be written");
    assert!(fs::symlink_metadata(&link).expect("the link").is_symlink());
    assert_eq!(fs::read_to_string(&file).expect("the file"), "new");
    assert_eq!(fs::metadata(&file).expect("the file").permissions().mode() & 0o777, 0o640);
    assert_eq!(names(dir.path()), ["a.pllm", "real"]);
}

#[test]
fn what_cannot_be_replaced_stays() {
    let dir = tempfile::tempdir().expect("a folder");
    assert!(replace(dir.path(), b"new").is_err(), "a folder");
    assert!(replace(&dir.path().join("no/such/folder"), b"new").is_err());
    let file = dir.path().join("read-only");
    fs::write(&file, "old").expect("a file");
    let mut permissions = fs::metadata(&file).expect("the file").permissions();
    permissions.set_readonly(true);
    fs::set_permissions(&file, permissions).expect("permissions");
    assert!(replace(&file, b"new").is_err(), "its owner does not want it changed");
    assert_eq!(fs::read_to_string(&file).expect("the file"), "old");
    assert_eq!(names(dir.path()), ["read-only"]);
}

#[test]
fn a_new_file_is_created() {
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("new");
    replace(&file, b"text").expect("it can be written");
    assert_eq!(fs::read_to_string(&file).expect("the file"), "text");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = fs::metadata(&file).expect("the file").permissions().mode();
        assert_eq!(mode & 0o400, 0o400);
        assert_eq!(mode & 0o111, 0, "not executable");
    }
}
