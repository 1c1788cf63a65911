//! What a content store keeps, and what it does about damage.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use headstart_content::{ContentError, ContentStore, hash_file, read_bounded};
use headstart_disk::files::{self, write_atomic};
use headstart_disk::{Mode, SystemDisk};
use headstart_protocol::{ArtifactRef, Digest, Manifest, Output, Type};
use serde_json::json;

fn store() -> (tempfile::TempDir, ContentStore) {
    let dir = tempfile::tempdir().expect("a folder");
    let store = ContentStore::open(dir.path(), Arc::new(SystemDisk)).expect("opens");
    (dir, store)
}

fn written(dir: &Path, name: &str, content: &str) -> PathBuf {
    let at = dir.join(name);
    std::fs::write(&at, content).expect("writable");
    at
}

fn rows(store: &ContentStore, dir: &Path, content: &str) -> ArtifactRef {
    let at = written(dir, "rows", content).canonicalize().expect("its real path");
    let output = Output::new(Type::Dataset, json!({ "rows": 1 })).file("rows.jsonl", at);
    store.artifacts().import(&output).expect("stored").1
}

#[test]
fn a_file_is_copied_or_moved_and_known_by_its_content() {
    let (dir, store) = store();
    let (kept, given) = (written(dir.path(), "kept", "one"), written(dir.path(), "given", "two"));
    let one = store.blobs().put_file(&kept).expect("stored");
    let two = store.blobs().take_file(&given).expect("stored");
    assert!(kept.exists() && !given.exists());
    assert_eq!(one.digest, Digest::of(b"one"));
    for file in [&one, &two] {
        let path = store.blobs().path(&file.digest).expect("here");
        assert_eq!(hash_file(&path).expect("readable"), *file);
        assert!(path.metadata().expect("a file").permissions().readonly());
    }
    let again = written(dir.path(), "again", "two");
    assert_eq!(store.blobs().take_file(&again).expect("known"), two);
    store.sync().expect("durable");
}

/// Somebody puts a link in the place of a file, or on the way to it, after its path was checked.
#[cfg(unix)]
#[test]
fn a_link_in_the_place_of_a_file_is_not_followed() {
    use std::os::unix::fs::symlink;
    let (dir, store) = store();
    let root = dir.path().canonicalize().expect("its real path");
    let secret = written(&root, "secret", "key");
    symlink(&secret, root.join("rows")).expect("a link");
    std::fs::create_dir(root.join("home")).expect("a folder");
    written(&root.join("home"), "rows", "key");
    symlink(root.join("home"), root.join("sub")).expect("a link");
    for at in [root.join("rows"), root.join("sub/rows")] {
        let output = Output::new(Type::Dataset, json!({ "rows": 1 })).file("rows.jsonl", at.clone());
        let e = store.artifacts().import(&output).expect_err("a link");
        assert!(e.to_string().contains("symbolic link"), "{e}");
    }
    store.blobs().take_file(&root.join("rows")).expect_err("a link");
    assert!(store.blobs().path(&Digest::of(b"key")).is_none(), "nothing of it is in the store");
    assert_eq!(std::fs::read_to_string(secret).expect("untouched"), "key");
}

/// What is open is stored, whatever lies at its path by now.
#[test]
fn an_open_file_is_stored_though_its_path_leads_elsewhere_by_now() {
    let (dir, store) = store();
    let at = written(dir.path(), "rows", "mine");
    let file = std::fs::File::open(&at).expect("opens");
    std::fs::rename(written(dir.path(), "other", "key"), &at).expect("replaced");
    let stored = store.blobs().put_opened(&file, &at).expect("stored");
    assert_eq!(stored.digest, Digest::of(b"mine"));
    assert!(store.blobs().has_whole(&stored));
}

#[test]
fn the_layout_of_a_device_of_version_0_1_is_read() {
    let (dir, store) = store();
    let content = "{\"prompt\":\"p\"}\n";
    let digest = Digest::of(content.as_bytes());
    let file = headstart_protocol::FileRef { digest, size: content.len() as u64 };
    let files = [("rows.jsonl".to_owned(), file)].into();
    let manifest = Manifest { ty: Type::Dataset, files, value: json!({ "rows": 1 }), uses: [].into() };
    for folder in ["blobs", "manifests"] {
        std::fs::create_dir_all(dir.path().join(folder)).expect("writable");
    }
    written(&dir.path().join("blobs"), &digest.to_string(), content);
    // Not canonical: in the order of the fields.
    let json = serde_json::to_string(&manifest).expect("JSON");
    written(&dir.path().join("manifests"), &format!("{}.json", manifest.id()), &json);
    let artifacts = store.artifacts();
    assert_eq!(artifacts.manifest(&manifest.id()).expect("read"), Some(manifest.clone()));
    assert!(artifacts.has(&manifest.id()));
    let folder = artifacts.materialize(&manifest.id()).expect("here");
    assert_eq!(std::fs::read_to_string(folder.join("rows.jsonl")).expect("linked"), content);
    assert_eq!(artifacts.newest(|m| m.ty == Type::Dataset), Some(manifest));
    assert_eq!(artifacts.newest(|m| m.ty == Type::Catalog), None);
}

#[test]
fn an_incomplete_folder_is_made_again() {
    let (dir, store) = store();
    let artifact = rows(&store, dir.path(), "a row\n");
    let folder = store.artifacts().materialize(&artifact.id).expect("made");
    std::fs::remove_file(folder.join("rows.jsonl")).expect("removable");
    let again = store.artifacts().materialize(&artifact.id).expect("made");
    assert_eq!(std::fs::read_to_string(again.join("rows.jsonl")).expect("there"), "a row\n");
}

#[test]
fn a_damaged_manifest_is_named_and_replaced_by_the_right_one() {
    let (dir, store) = store();
    let artifact = rows(&store, dir.path(), "a row\n");
    let manifest = store.artifacts().manifest(&artifact.id).expect("read").expect("here");
    let hex = artifact.id.to_string();
    let at = dir.path().join("manifests").join(&hex[..2]).join(format!("{hex}.json"));
    std::fs::remove_file(&at).expect("removable");
    std::fs::write(&at, "{}").expect("writable");
    let error = store.artifacts().manifest(&artifact.id).expect_err("damaged");
    assert!(
        matches!(&error, ContentError::Damaged { path, .. } if path.ends_with(&hex) || *path == at),
        "{error}"
    );
    store.artifacts().put_manifest(&manifest).expect("written again");
    assert_eq!(store.artifacts().manifest(&artifact.id).expect("read"), Some(manifest));
}

#[test]
fn small_files_are_written_whole_and_read_up_to_a_limit() {
    let dir = tempfile::tempdir().expect("a folder");
    let at = dir.path().join("new folder/file");
    assert_eq!(read_bounded(&at, 10).expect("nothing there"), None);
    write_atomic(&SystemDisk, &at, b"0123456789", Mode::Secret).expect("written");
    assert_eq!(read_bounded(&at, 10).expect("read"), Some(b"0123456789".to_vec()));
    let error = read_bounded(&at, 9).expect_err("too large");
    assert!(error.to_string().ends_with("has 10 bytes, but at most 9 are read"), "{error}");
    write_atomic(&SystemDisk, &at, b"short", Mode::Normal).expect("replaced");
    assert_eq!(read_bounded(&at, 10).expect("read"), Some(b"short".to_vec()));
    let left: Vec<_> = std::fs::read_dir(at.parent().expect("a folder")).expect("readable").collect();
    assert_eq!(left.len(), 1, "no temporary file is left");
}

#[test]
fn a_folder_appears_whole_or_not_at_all() {
    let dir = tempfile::tempdir().expect("a folder");
    let target = dir.path().join("run");
    let build = |content: &'static str| {
        move |at: &Path| -> Result<(), ContentError> {
            Ok(write_atomic(&SystemDisk, &at.join("f"), content.as_bytes(), Mode::Normal)?)
        }
    };
    let failed: Result<Option<()>, ContentError> = files::create_dir_atomic(
        &SystemDisk,
        &target,
        |_| true,
        |at| {
            build("half")(at)?;
            Err(ContentError::MissingArtifact(Digest::of(b"x")))
        },
    );
    assert!(failed.is_err() && !target.exists());
    assert_eq!(
        files::create_dir_atomic(&SystemDisk, &target, |_| false, build("first")).expect("made"),
        Some(())
    );
    assert_eq!(
        files::create_dir_atomic(&SystemDisk, &target, |_| false, build("second")).expect("kept"),
        None
    );
    assert_eq!(std::fs::read_to_string(target.join("f")).expect("there"), "first");
    assert_eq!(
        files::create_dir_atomic(&SystemDisk, &target, |_| true, build("third")).expect("replaced"),
        Some(())
    );
    assert_eq!(std::fs::read_to_string(target.join("f")).expect("there"), "third");
    assert_eq!(std::fs::read_dir(dir.path()).expect("readable").count(), 1, "nothing else is left");
}
