//! What patterns match, and what they leave out.

use std::fs;
use std::path::Path;

use headstart_files::{LeftOut, Listing, Reason};
use proptest::prelude::*;

/// A folder with these files, empty ones.
fn folder(files: &[&str]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a folder");
    for file in files {
        let path = dir.path().join(file);
        fs::create_dir_all(path.parent().expect("a file is in a folder")).expect("a folder");
        fs::write(path, "").expect("a file");
    }
    dir
}

/// The listing, with paths below `dir`.
fn list(dir: &Path, pattern: &str) -> Listing {
    let prefix = format!("{}/", dir.display());
    let mut listing = headstart_files::list(&format!("{prefix}{pattern}")).expect("the pattern is right");
    let below = |p: &mut String| *p = p.strip_prefix(&prefix).expect("below the folder").to_owned();
    listing.found.iter_mut().for_each(below);
    listing.left_out.iter_mut().for_each(|l| below(&mut l.path));
    listing
}

fn left_out(all: &[(&str, Reason)]) -> Vec<LeftOut> {
    all.iter().map(|(path, reason)| LeftOut { path: (*path).to_owned(), reason: *reason }).collect()
}

#[test]
fn wildcards_match_as_in_a_shell_and_the_result_is_sorted() {
    let dir = folder(&["d/b.jsonl", "d/a.jsonl", "d/x.txt", "d/e/c.jsonl", "d/e/f/a.jsonl", "z"]);
    let found = |pattern| list(dir.path(), pattern).found;
    assert_eq!(found("d/*.jsonl"), ["d/a.jsonl", "d/b.jsonl"]);
    assert_eq!(found("*"), ["d", "z"]);
    assert_eq!(found("**/a.jsonl"), ["d/a.jsonl", "d/e/f/a.jsonl"]);
    assert_eq!(found("d/**/*.jsonl"), ["d/a.jsonl", "d/b.jsonl", "d/e/c.jsonl", "d/e/f/a.jsonl"]);
    assert_eq!(found("**/**/c.jsonl"), ["d/e/c.jsonl"]);
    assert_eq!(found("**"), ["d", "d/e", "d/e/f"]);
    assert_eq!(found("d/?/[a-c].jsonl"), ["d/e/c.jsonl"]);
    assert_eq!(found("d/[!a].jsonl"), ["d/b.jsonl"]);
    assert_eq!(found("*/x.txt"), ["d/x.txt"]);
    assert_eq!(found("d/e"), ["d/e"]);
    assert_eq!(found("no/*"), [""; 0]);
    assert_eq!(found("z/*"), [""; 0]);
    assert!(headstart_files::list("d/a**").is_err());
    assert!(headstart_files::list("d/[a").is_err());
}

#[test]
fn hidden_names_are_left_out_and_reported() {
    let dir = folder(&["a.jsonl", ".b.jsonl", ".git/c.jsonl", "d/.e/f.jsonl", "d/.note", ".x/y/z.jsonl"]);
    let all = list(dir.path(), "**/*.jsonl");
    assert_eq!(all.found, ["a.jsonl"]);
    let hidden = [(".b.jsonl"), (".git"), (".x"), ("d/.e")].map(|p| (p, Reason::Hidden));
    assert_eq!(all.left_out, left_out(&hidden));
    let one = list(dir.path(), "*.jsonl");
    assert_eq!(
        (one.found, one.left_out),
        (vec!["a.jsonl".to_owned()], left_out(&[(".b.jsonl", Reason::Hidden)]))
    );
    // A hidden file that does not match is not worth a word.
    assert_eq!(list(dir.path(), "d/*.jsonl").left_out, []);
    // Who names them gets them.
    assert_eq!(list(dir.path(), ".git/*").found, [".git/c.jsonl"]);
    assert_eq!(list(dir.path(), ".*").found, [".b.jsonl", ".git", ".x"]);
    assert_eq!(list(dir.path(), ".x/**/*.jsonl").found, [".x/y/z.jsonl"]);
}

#[test]
fn workspaces_are_left_out_whatever_their_name() {
    let dir =
        folder(&["a/rows.jsonl", "work/open/1/rows.jsonl", "other/open/2/rows.jsonl", "code/workspace.json"]);
    // An editor's file of the same name means nothing.
    fs::write(dir.path().join("work/workspace.json"), "{\"format\":2,\"more\":0}").expect("a file");
    fs::create_dir(dir.path().join("work/blobs")).expect("a folder");
    fs::write(dir.path().join("other/workspace.json"), "{\"format\":1}").expect("a file");
    fs::write(dir.path().join("code/workspace.json"), "{\"format\":1,\"folders\":[]}").expect("a file");
    fs::write(dir.path().join("code/rows.jsonl"), "").expect("a file");
    let workspaces = left_out(&[("other", Reason::Workspace), ("work", Reason::Workspace)]);
    let all = list(dir.path(), "**/rows.jsonl");
    assert_eq!(
        (all.found, all.left_out),
        (vec!["a/rows.jsonl".to_owned(), "code/rows.jsonl".to_owned()], workspaces.clone())
    );
    let top = list(dir.path(), "*");
    assert_eq!((top.found, top.left_out), (vec!["a".to_owned(), "code".to_owned()], workspaces.clone()));
    assert_eq!(list(dir.path(), "*/open/*/rows.jsonl").left_out, workspaces);
    // Not even by name.
    let named = list(dir.path(), "work/open/*/rows.jsonl");
    assert_eq!((named.found, named.left_out.len()), (Vec::new(), 1));
    let file = list(dir.path(), "other/open/2/rows.jsonl");
    assert_eq!((file.found, file.left_out.len()), (Vec::new(), 1));
}

#[cfg(unix)]
#[test]
fn links_that_lead_back_do_not_hang() {
    use std::os::unix::fs::symlink;
    let dir = folder(&["a/x.jsonl", "b/y.jsonl"]);
    let at = |p: &str| dir.path().join(p);
    symlink(dir.path(), at("a/up")).expect("a link");
    symlink(at("b"), at("a/b")).expect("a link");
    symlink(at("a"), at("b/a")).expect("a link");
    symlink(at("nowhere"), at("gone.jsonl")).expect("a link");
    symlink("self", at("self")).expect("a link");
    let listing = list(dir.path(), "**/*.jsonl");
    // Linked folders are searched; a link that leads to nothing is found, and reading it says so.
    assert_eq!(listing.found, ["a/b/y.jsonl", "a/x.jsonl", "b/a/x.jsonl", "b/y.jsonl", "gone.jsonl"]);
    let loops = ["a/b/a", "a/up", "b/a/b", "b/a/up"].map(|p| (p, Reason::Loop));
    assert_eq!(listing.left_out, left_out(&loops));
}

#[cfg(unix)]
#[test]
fn names_that_no_pipeline_could_hold_are_reported() {
    use std::os::unix::ffi::OsStrExt;
    let dir = folder(&["a.jsonl"]);
    let name = std::ffi::OsStr::from_bytes(b"b\xff.jsonl");
    if fs::write(dir.path().join(name), "").is_err() {
        return; // This file system holds no such names.
    }
    let listing = list(dir.path(), "*.jsonl");
    assert_eq!(listing.found, ["a.jsonl"]);
    assert_eq!(listing.left_out.iter().map(|l| l.reason).collect::<Vec<_>>(), [Reason::NotUtf8]);
}

proptest! {
    /// Beside what is reported as left out, a pattern finds what the glob library finds.
    #[test]
    fn as_the_library_finds(
        files in prop::collection::btree_set("[ab.]{1,2}(/[ab.]{1,2}){0,3}", 1..12),
        pattern in r"(\*\*/)?(a|b|\*|\?|\*b)(/(a|\*|\?a))?",
    ) {
        let dir = tempfile::tempdir().expect("a folder");
        for file in files.iter().filter(|f| f.split('/').all(|n| !matches!(n, "." | ".."))) {
            let path = dir.path().join(file);
            let made = fs::create_dir_all(path.parent().expect("a parent"));
            let _ = made.and_then(|()| fs::write(path, ""));
        }
        let listing = list(dir.path(), &pattern);
        let options = ::glob::MatchOptions { require_literal_leading_dot: true, ..Default::default() };
        let whole = format!("{}/{pattern}", dir.path().display());
        let mut theirs: Vec<String> = ::glob::glob_with(&whole, options)
            .expect("a pattern")
            .flatten()
            .map(|p| p.strip_prefix(dir.path()).expect("below").to_string_lossy().into_owned())
            .collect();
        theirs.sort();
        theirs.dedup();
        prop_assert_eq!(&listing.found, &theirs);
        // Everything that a pattern without that rule finds is found, or lies below what is reported.
        let mut naive: Vec<String> = ::glob::glob(&whole)
            .expect("a pattern")
            .flatten()
            .map(|p| p.strip_prefix(dir.path()).expect("below").to_string_lossy().into_owned())
            .collect();
        naive.retain(|p| !listing.found.contains(p));
        for path in naive {
            let told = listing.left_out.iter().any(|l| Path::new(&path).starts_with(&l.path));
            prop_assert!(told, "{} is left out silently: {:?}", path, listing);
        }
    }
}
