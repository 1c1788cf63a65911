//! Blobs, artifacts, runs and secrets of a workspace.

use std::fs;
use std::path::Path;

use headstart_protocol::{Digest, FileRef, Manifest, Output, Type};
use headstart_store::{ContentError, StoreError, Workspace, check_file_name};
use proptest::prelude::*;

fn open(dir: &Path) -> Workspace {
    Workspace::open(dir).expect("opens")
}

fn stored(ws: &Workspace, content: &[u8]) -> FileRef {
    let file = tempfile::NamedTempFile::new().expect("a file");
    fs::write(file.path(), content).expect("written");
    ws.blobs().put_file(file.path()).expect("stored")
}

#[test]
fn imports_and_opens_an_artifact() {
    let dir = tempfile::tempdir().expect("a folder");
    let ws = open(&dir.path().join("ws"));
    let scratch = ws.scratch("pllm[\"a\"]").expect("a folder");
    let source = scratch.path().join("w");
    fs::write(&source, b"weights").expect("written");
    let output = Output::new(Type::Pllm, serde_json::json!({"format": "lora"}))
        .file("adapter/model.safetensors", &source)
        .file("copy", &source);
    let (manifest, reference) = ws.artifacts().import(&output).expect("imports");
    fs::write(&source, b"changed later").expect("written");
    assert_eq!(ws.artifacts().manifest(&reference.id).expect("reads"), Some(manifest.clone()));
    assert!(ws.artifacts().has(&reference.id));
    for _ in 0..2 {
        let folder = ws.artifacts().materialize(&reference.id).expect("opens");
        assert_eq!(fs::read(folder.join("adapter/model.safetensors")).expect("reads"), b"weights");
        assert_eq!(fs::read(folder.join("copy")).expect("reads"), b"weights");
    }
    let size = ws.size();
    assert_eq!((size.blobs, size.blob_bytes, size.manifests), (1, 7, 1));
    drop(ws);
    let ws = open(&dir.path().join("ws"));
    assert_eq!(ws.artifacts().manifest(&reference.id).expect("reads"), Some(manifest));
}

#[test]
fn what_is_missing_is_named() {
    let dir = tempfile::tempdir().expect("a folder");
    let ws = open(dir.path());
    let (absent, id) = (Digest::of(b"absent"), Digest::of(b"nothing"));
    let file = FileRef { digest: absent, size: 6 };
    let manifest = Manifest {
        ty: Type::Dataset,
        files: [("rows.jsonl".to_owned(), file)].into(),
        value: serde_json::Value::Null,
        uses: Default::default(),
    };
    let reference = ws.artifacts().put_manifest(&manifest).expect("stored");
    assert_eq!(ws.artifacts().missing(&manifest), ["rows.jsonl"]);
    assert!(!ws.artifacts().has(&reference.id));
    let error = ws.artifacts().materialize(&reference.id).expect_err("no content");
    assert!(matches!(&error, ContentError::MissingBlob { name, .. } if name == "rows.jsonl"), "{error}");
    let made = fs::read_dir(dir.path().join("open")).into_iter().flatten().count();
    assert_eq!(made, 0, "nothing half-made");
    assert!(matches!(ws.artifacts().materialize(&id), Err(ContentError::MissingArtifact(_))));
    stored(&ws, b"absent");
    ws.artifacts().materialize(&reference.id).expect("complete now");
}

#[test]
fn blobs_are_written_once_and_read_only() {
    let dir = tempfile::tempdir().expect("a folder");
    let ws = open(dir.path());
    let big: Vec<u8> = (0..9_000_001u32).map(|i| (i % 251) as u8).collect();
    let source = dir.path().join("big");
    fs::write(&source, &big).expect("written");
    let found = ws.blobs().put_file(&source).expect("stored");
    assert_eq!(found, FileRef { digest: Digest::of(&big), size: big.len() as u64 });
    assert_eq!(stored(&ws, &big), found);
    let path = ws.blobs().path(&found.digest).expect("here");
    assert_eq!(fs::read(&path).expect("reads"), big);
    assert!(fs::metadata(&path).expect("is there").permissions().readonly());
    assert_eq!(ws.size().blobs, 1);
    assert_eq!(stored(&ws, b"").size, 0);
    assert_eq!(ws.blobs().intact(&Digest::of(b"other")).expect("reads"), None);
    assert_eq!(ws.blobs().intact(&found.digest).expect("reads"), Some(path.clone()));
    fs::remove_file(&path).expect("removed");
    fs::write(&path, b"rotten").expect("written");
    assert!(ws.blobs().has(&found.digest) && !ws.blobs().has_whole(&found));
    assert_eq!(ws.blobs().intact(&found.digest).expect("reads"), None);
    assert!(!ws.blobs().has(&found.digest), "a rotten blob is made again");
    fs::create_dir_all(path.parent().expect("a folder")).expect("made");
    fs::write(&path, b"rotten").expect("written");
    assert_eq!(stored(&ws, &big), found);
    assert_eq!(fs::read(&path).expect("reads"), big, "what is stored again replaces what is damaged");
    assert!(ws.blobs().put_file(&dir.path().join("none")).is_err());
}

#[test]
fn the_same_content_from_many_threads_is_one_blob() {
    let dir = tempfile::tempdir().expect("a folder");
    let ws = open(dir.path());
    let output = Output::new(Type::Metrics, serde_json::json!({"loss": 1.5}));
    std::thread::scope(|s| {
        for _ in 0..8 {
            s.spawn(|| {
                for n in 0..20u8 {
                    let found = stored(&ws, &[n; 1000]);
                    assert_eq!(found.digest, Digest::of(&[n; 1000]));
                    let (_, reference) = ws.artifacts().import(&output).expect("imports");
                    ws.artifacts().materialize(&reference.id).expect("opens");
                    ws.sync().expect("syncs");
                }
            });
        }
    });
    assert_eq!((ws.size().blobs, ws.size().manifests), (20, 1));
}

#[test]
fn names_that_lead_elsewhere_are_refused() {
    let dir = tempfile::tempdir().expect("a folder");
    let ws = open(dir.path());
    fs::write(dir.path().join("f"), b"x").expect("written");
    for name in [
        "",
        "/etc/passwd",
        "../up",
        "a/../../b",
        "a//b",
        ".",
        "a/.",
        "a\\b",
        "C:x",
        "nul\0",
        "a/",
        "a.",
        "a /b",
    ] {
        assert!(check_file_name(name).is_err(), "{name:?}");
        let output = Output::new(Type::Dataset, serde_json::Value::Null).file(name, dir.path().join("f"));
        assert!(matches!(ws.artifacts().import(&output), Err(ContentError::BadName { .. })), "{name:?}");
    }
    for name in ["a", "a/b.json", "..a", "a..b/c", ".hidden", "ü/ñ"] {
        check_file_name(name).expect(name);
    }
    let twice = Output::new(Type::Dataset, serde_json::Value::Null);
    let twice = twice.file("f", dir.path().join("f")).file("f", dir.path().join("f"));
    assert!(matches!(ws.artifacts().import(&twice), Err(ContentError::BadName { .. })));
    for (a, b) in [("Chat.jinja", "chat.jinja"), ("a/b", "A/B"), ("K", "\u{212a}")] {
        let output = Output::new(Type::Dataset, serde_json::Value::Null);
        let output = output.file(a, dir.path().join("f")).file(b, dir.path().join("f"));
        assert!(matches!(ws.artifacts().import(&output), Err(ContentError::BadName { .. })), "{a} {b}");
    }
    let inline = Output::new(Type::Int, serde_json::json!(3));
    assert!(matches!(ws.artifacts().import(&inline), Err(ContentError::NotAnArtifact(_))));
    for id in ["", "..", "a/b", ".x", "ü", &"x".repeat(200)] {
        assert!(matches!(ws.create_run(id, &()), Err(StoreError::BadName { .. })), "{id:?}");
    }
}

#[test]
fn one_engine_appends_to_a_run_and_anybody_reads() {
    let dir = tempfile::tempdir().expect("a folder");
    let ws = open(dir.path());
    let log = ws.create_run("r-1", &"the plan").expect("creates");
    assert!(matches!(ws.create_run("r-1", &0), Err(StoreError::RunExists(_))));
    let error = ws.open_run("r-1").map(|_| ()).expect_err("busy");
    assert!(error.to_string().contains(&std::process::id().to_string()), "{error}");
    let read = || ws.read_run::<u32>("r-1").expect("reads");
    log.append(&[1, 2]).expect("appends");
    assert_eq!(read(), [1, 2]);
    log.append_lazy(&[3]).expect("appends");
    log.append(&[4]).expect("appends");
    assert_eq!(read(), [1, 2, 3, 4]);
    assert!(ws.is_live("r-1") && ws.runs()[0].live);
    drop(log);
    assert!(!ws.is_live("r-1") && !ws.runs()[0].live);
    let log = ws.open_run("r-1").expect("resumes");
    log.append(&[5]).expect("appends");
    assert_eq!(read(), [1, 2, 3, 4, 5]);
    assert_eq!(ws.read_header::<String>("r-1").expect("reads"), "the plan");
    assert!(matches!(ws.read_run::<u32>("r-2"), Err(StoreError::NoRun(_))));
    ws.create_run("r-0", &()).expect("creates");
    let ids: Vec<String> = ws.runs().into_iter().map(|r| r.id).collect();
    assert_eq!(ids, ["r-1", "r-0"], "oldest first");
}

#[test]
fn a_newer_workspace_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().expect("a folder");
    drop(open(dir.path()));
    let path = dir.path().join("workspace.json");
    fs::write(&path, r#"{"format":99,"new":true}"#).expect("written");
    let error = Workspace::open(dir.path()).map(|_| ()).expect_err("newer");
    assert!(error.to_string().contains("format 99"), "{error}");
    fs::write(&path, "{").expect("written");
    assert!(matches!(Workspace::open(dir.path()), Err(StoreError::Damaged { .. })));
}

#[test]
fn secrets_are_made_once_and_kept_private() {
    let dir = tempfile::tempdir().expect("a folder");
    let ws = open(dir.path());
    let one = ws.secret("handles").expect("made");
    assert_ne!(one, ws.secret("signing").expect("made"));
    assert_eq!(one, open(dir.path()).secret("handles").expect("read"));
    let together: Vec<[u8; 32]> = std::thread::scope(|s| {
        let make = || s.spawn(|| ws.secret("raced").expect("made"));
        let threads: Vec<_> = (0..8).map(|_| make()).collect();
        threads.into_iter().map(|t| t.join().expect("finishes")).collect()
    });
    assert!(together.windows(2).all(|w| w[0] == w[1]));
    assert!(ws.secret("../x").is_err());
    let path = dir.path().join("keys/handles");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(fs::metadata(&path).expect("is there").permissions().mode() & 0o777, 0o600);
    }
    fs::write(&path, b"short").expect("written");
    assert!(matches!(ws.secret("handles"), Err(StoreError::Damaged { .. })));
}

#[test]
fn after_a_power_failure_the_newest_contents_are_checked() {
    let dir = tempfile::tempdir().expect("a folder");
    let ws = open(dir.path());
    let (good, bad) = (stored(&ws, b"good"), stored(&ws, b"bad"));
    let (_, reference) =
        ws.artifacts().import(&Output::new(Type::Metrics, serde_json::json!({"loss": 2}))).expect("imports");
    ws.artifacts().materialize(&reference.id).expect("opens");
    let tear = |d: &Digest| {
        let path = ws.blobs().path(d).expect("here");
        fs::remove_file(&path).expect("removed");
        fs::write(&path, b"\0\0\0").expect("written");
    };
    // A process that died while the system went on loses nothing, so nothing is checked.
    let marker = dir.path().join("unsynced/process-x");
    if let Ok(boot) = fs::read_to_string("/proc/sys/kernel/random/boot_id") {
        fs::write(&marker, boot.trim()).expect("written");
        tear(&bad.digest);
        let other = open(dir.path());
        assert!(!marker.exists() && other.blobs().has(&bad.digest));
    }
    fs::write(&marker, "another boot").expect("written");
    if ws.blobs().has(&bad.digest) {
        tear(&bad.digest);
    }
    let other = open(dir.path());
    assert!(!marker.exists());
    assert!(other.blobs().has(&good.digest) && other.artifacts().has(&reference.id));
    assert!(!other.blobs().has(&bad.digest));
    assert!(!dir.path().join("open").exists());
    other.artifacts().materialize(&reference.id).expect("opens again");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(headstart_testkit::cases(30, 3_000)))]

    #[test]
    fn storing_twice_is_storing_once(contents in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..50), 1..10)) {
        let dir = tempfile::tempdir().expect("a folder");
        let ws = open(dir.path());
        let first: Vec<FileRef> = contents.iter().map(|c| stored(&ws, c)).collect();
        let size = ws.size();
        let again: Vec<FileRef> = contents.iter().map(|c| stored(&ws, c)).collect();
        prop_assert_eq!(&first, &again);
        prop_assert_eq!(size, ws.size());
        for (content, file) in contents.iter().zip(&first) {
            let path = ws.blobs().path(&file.digest).expect("here");
            prop_assert_eq!(&fs::read(path).expect("reads"), content);
        }
    }
}

#[test]
#[cfg(unix)]
fn a_workspace_with_links_is_refused_and_nothing_elsewhere_is_touched() {
    let dir = tempfile::tempdir().expect("a folder");
    let elsewhere = dir.path().join("elsewhere");
    std::fs::create_dir_all(elsewhere.join("docs")).expect("writable");
    std::fs::write(elsewhere.join("letter"), "dear").expect("writable");
    for (n, name) in ["resume", "runs", "blobs", "blobs/new", "manifests/new", "scratch"].iter().enumerate() {
        let workspace = dir.path().join(n.to_string());
        drop(Workspace::open(&workspace).expect("opens"));
        let link = workspace.join(name);
        let _ = std::fs::remove_dir_all(&link);
        std::fs::create_dir_all(link.parent().expect("a folder")).expect("writable");
        std::os::unix::fs::symlink(&elsewhere, &link).expect("links");
        let refused = Workspace::open(&workspace).map(drop).expect_err("refused");
        assert!(matches!(refused, StoreError::Link(_)), "{name}: {refused}");
        assert!(elsewhere.join("docs").is_dir() && elsewhere.join("letter").is_file(), "{name}");
    }
}

#[test]
#[cfg(unix)]
fn a_folder_of_somebody_is_not_made_a_workspace() {
    let dir = tempfile::tempdir().expect("a folder");
    let (theirs, link) = (dir.path().join("theirs"), dir.path().join("link"));
    std::fs::create_dir_all(theirs.join("resume/mine")).expect("writable");
    std::os::unix::fs::symlink(&theirs, &link).expect("links");
    assert!(matches!(Workspace::open(&link).map(drop), Err(StoreError::Link(_))));
    let refused = Workspace::open(&theirs).map(drop).expect_err("it holds other things");
    assert!(matches!(&refused, StoreError::Foreign { inside, .. } if inside == "resume"), "{refused}");
    assert!(theirs.join("resume/mine").is_dir() && !theirs.join("keys").exists());
    // What a power cut left of a workspace, and one that lies behind its owner's link, are opened.
    let (cut, own) = (dir.path().join("cut"), dir.path().join("own"));
    std::fs::create_dir_all(&cut).expect("writable");
    std::fs::write(cut.join(".gitignore"), "*\n").expect("writable");
    drop(Workspace::open(&cut).expect("opens"));
    std::os::unix::fs::symlink(&cut, &own).expect("links");
    drop(Workspace::open(&own).expect("opens"));
}
