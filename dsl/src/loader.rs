//! Files, as the checker sees them. The language itself does no I/O.

use std::collections::BTreeMap;

use headstart_protocol::Digest;
use headstart_protocol::declared::{is_left_out, program_digest};

/// Reads pipeline files and lists paths.
pub trait FileLoader {
    /// The text of a file.
    ///
    /// # Errors
    /// If it cannot be read, in words.
    fn read(&self, path: &str) -> Result<String, String>;

    /// The paths that match a pattern such as `catalog/*`, and what is left out of them.
    ///
    /// # Errors
    /// If the pattern is wrong or a folder cannot be read, in words.
    fn glob(&self, pattern: &str) -> Result<Listing, String>;

    /// The digest of all that a program is made of ([`program_digest`]): every file of its folder,
    /// and what its declaration names in `files`, relative to that folder.
    ///
    /// # Errors
    /// What cannot be read, or cannot be part of a program.
    fn program(&self, path: &str, files: &[String]) -> Result<Digest, ProgramError>;

    /// Looks whether a file can be executed here.
    ///
    /// # Errors
    /// If it cannot, in words.
    fn executable(&self, path: &str) -> Result<(), String> {
        let _ = path;
        Ok(())
    }
}

/// The paths that match a pattern.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// The paths, sorted, in the pattern's own form: relative where the pattern is relative.
    pub found: Vec<String>,
    /// Paths that match by name and are left out all the same, and the reason in words.
    pub left_out: Vec<(String, String)>,
}

/// Why a program cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ProgramError {
    /// What is wrong, where.
    pub message: String,
    /// What to do about it.
    pub help: Option<String>,
    /// The entry of the declaration's `files` that is meant, where it is one.
    pub entry: Option<String>,
}

/// Files in memory, for tests and editors.
#[derive(Clone, Debug, Default)]
pub struct MemoryLoader {
    files: BTreeMap<String, String>,
}

impl MemoryLoader {
    /// No files.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a file.
    #[must_use]
    pub fn with(mut self, path: &str, text: &str) -> Self {
        self.files.insert(clean(path), text.to_owned());
        self
    }
}

impl FileLoader for MemoryLoader {
    fn read(&self, path: &str) -> Result<String, String> {
        self.files.get(&clean(path)).cloned().ok_or_else(|| "there is no such file".to_owned())
    }

    fn executable(&self, path: &str) -> Result<(), String> {
        self.read(path).map(drop)
    }

    fn program(&self, path: &str, files: &[String]) -> Result<Digest, ProgramError> {
        let path = clean(path);
        let dir = folder(&path);
        let wrong = |message: String, entry: Option<&String>| ProgramError {
            message,
            help: None,
            entry: entry.cloned(),
        };
        if !self.files.contains_key(&path) {
            return Err(wrong("there is no such file".to_owned(), None));
        }
        let mut parts = BTreeMap::new();
        let prefix = if dir.is_empty() || dir == "/" { dir.to_owned() } else { format!("{dir}/") };
        for (at, text) in self.files.iter().filter(|(at, _)| at.starts_with(&prefix)) {
            let name = &at[prefix.len()..];
            let is_part =
                name.rsplit_once('/').is_none_or(|(on_the_way, _)| !on_the_way.split('/').any(is_left_out));
            if is_part && !name.starts_with("../") {
                parts.insert(name.to_owned(), Digest::of(text.as_bytes()));
            }
        }
        for file in files {
            let at = join(dir, file);
            let below = format!("{at}/");
            let mut found = self.files.iter().filter(|(f, _)| **f == at || f.starts_with(&below)).peekable();
            if found.peek().is_none() {
                return Err(wrong(format!("`{at}`: there is no such file"), Some(file)));
            }
            let file = clean(file);
            for (f, text) in found {
                parts.insert(format!("{file}{}", &f[at.len()..]), Digest::of(text.as_bytes()));
            }
        }
        Ok(program_digest(path.rsplit('/').next().unwrap_or(&path), &parts))
    }

    /// `*`, `?` and `[…]` match within one path component, and no hidden name. Folders match as well as
    /// files.
    fn glob(&self, pattern: &str) -> Result<Listing, String> {
        let pattern = clean(pattern);
        let parts: Vec<&str> = pattern.split('/').collect();
        let mut listing = Listing::default();
        for file in self.files.keys() {
            let components: Vec<&str> = file.split('/').collect();
            let Some(head) = components.get(..parts.len()) else { continue };
            if !head.iter().zip(&parts).all(|(c, p)| matches(p, c)) {
                continue;
            }
            let path = head.join("/");
            let hidden = |(c, p): (&&str, &&str)| c.starts_with('.') && !p.starts_with('.');
            match head.iter().zip(&parts).any(hidden) {
                true => listing.left_out.push((path, "hidden: its name starts with a dot".to_owned())),
                false => listing.found.push(path),
            }
        }
        listing.found.sort();
        listing.found.dedup();
        listing.left_out.sort();
        listing.left_out.dedup();
        Ok(listing)
    }
}

/// Whether one path component matches: `*`, `?`, `[1-9]`, `[!ab]` as in a shell.
fn matches(pattern: &str, text: &str) -> bool {
    let Some(p) = pattern.chars().next() else { return text.is_empty() };
    let tail = &pattern[p.len_utf8()..];
    let Some(c) = text.chars().next() else { return p == '*' && matches(tail, text) };
    let rest = &text[c.len_utf8()..];
    match (p, tail.split_once(']')) {
        ('*', _) => matches(tail, text) || matches(pattern, rest),
        ('?', _) => matches(tail, rest),
        ('[', Some((class, tail))) => in_class(class, c) && matches(tail, rest),
        _ => p == c && matches(tail, rest),
    }
}

fn in_class(class: &str, c: char) -> bool {
    let (members, negated) = class.strip_prefix('!').map_or((class, false), |m| (m, true));
    let members: Vec<char> = members.chars().collect();
    let mut at = 0;
    let mut found = false;
    while at < members.len() {
        let range = members.get(at + 1) == Some(&'-') && at + 2 < members.len();
        let last = if range { members[at + 2] } else { members[at] };
        found |= (members[at]..=last).contains(&c);
        at += if range { 3 } else { 1 };
    }
    found != negated
}

/// The scheme of an address such as `https://host/file`, which is no path.
pub(crate) fn scheme(text: &str) -> Option<&str> {
    // Joining paths makes one slash of two.
    let (scheme, rest) = text.split_once(":/")?;
    let letters = |c: char| c.is_ascii_alphanumeric() || "+-.".contains(c);
    let known =
        matches!(scheme.to_ascii_lowercase().as_str(), "http" | "https" | "s3" | "hf" | "gs" | "file");
    let named = scheme.len() > 1 && scheme.starts_with(|c: char| c.is_ascii_alphabetic());
    (known || named && rest.starts_with('/') && scheme.chars().all(letters)).then_some(scheme)
}

/// The folder of a file; empty for a bare name.
pub(crate) fn folder(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(dir, _)| if dir.is_empty() { "/" } else { dir })
}

/// A path written in a file of folder `dir`, as seen from where `dir` is relative to.
pub(crate) fn join(dir: &str, path: &str) -> String {
    if path.starts_with('/') || dir.is_empty() { clean(path) } else { clean(&format!("{dir}/{path}")) }
}

/// A path without `.` and, where possible, without `..`.
pub(crate) fn clean(path: &str) -> String {
    let absolute = path.starts_with('/');
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => match parts.last() {
                Some(last) if *last != ".." => {
                    parts.pop();
                }
                // Above the root is the root.
                None if absolute => {}
                _ => parts.push(".."),
            },
            other => parts.push(other),
        }
    }
    match (absolute, parts.is_empty()) {
        (true, _) => format!("/{}", parts.join("/")),
        (false, true) => ".".to_owned(),
        (false, false) => parts.join("/"),
    }
}

/// The key of a path: its last component, without the extension. What follows a dot counts as an
/// extension only if it starts with a letter: `v1.2` is a name.
pub(crate) fn stem(path: &str) -> &str {
    let last = path.trim_end_matches('/').rsplit('/').next().unwrap_or(path);
    match last.rsplit_once('.') {
        Some((stem, ext)) if !stem.is_empty() && ext.starts_with(|c: char| c.is_ascii_alphabetic()) => stem,
        _ => last,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_joined_textually() {
        assert_eq!(join("pipelines/lib", "../data/./x.jsonl"), "pipelines/data/x.jsonl");
        assert_eq!(join("", "./x"), "x");
        assert_eq!(join("a", "../../x"), "../x");
        assert_eq!(join("a", "/b/../c"), "/c");
        assert_eq!(join("/", "c"), "/c");
        assert_eq!(folder("/x.pllm"), "/");
    }

    #[test]
    fn keys_of_paths() {
        assert_eq!(stem("data/style_1.jsonl"), "style_1");
        assert_eq!(stem("catalog/friendly-v1.2/"), "friendly-v1.2");
        assert_eq!(stem(".hidden"), ".hidden");
    }

    #[test]
    fn a_program_is_made_of_its_folder_and_what_it_declares() {
        let files = MemoryLoader::new().with("s/t.py", "1").with("s/lib/a.py", "2").with("words.txt", "3");
        let digest = |l: &MemoryLoader, files: &[&str]| {
            l.program("s/t.py", &files.iter().map(|f| (*f).to_owned()).collect::<Vec<_>>()).expect("a digest")
        };
        let first = digest(&files, &[]);
        let changed = |path: &str, declared: &[&str]| {
            digest(&files, declared) != digest(&files.clone().with(path, "changed"), declared)
        };
        assert!(changed("s/t.py", &[]) && changed("s/lib/a.py", &[]) && changed("s/new.txt", &[]));
        assert!(!changed("words.txt", &[]) && changed("words.txt", &["../words.txt"]));
        assert!(!changed("s/.git/x", &[]) && !changed("s/lib/__pycache__/x", &[]) && changed("s/.env", &[]));
        assert!(!changed("p.pllm", &[]));
        assert_eq!(digest(&files, &["lib/a.py"]), first, "naming what counts anyway changes nothing");
        let elsewhere = MemoryLoader::new().with("x/y/t.py", "1").with("x/y/lib/a.py", "2");
        assert_eq!(elsewhere.program("x/y/t.py", &[]).expect("a digest"), first);
        let other = elsewhere.with("x/y/u.py", "1");
        assert_ne!(other.program("x/y/t.py", &[]), other.program("x/y/u.py", &[]), "which one is started");
        let missing = files.program("s/t.py", &["../no.txt".to_owned()]).expect_err("missing");
        assert_eq!(missing.entry.as_deref(), Some("../no.txt"));
    }

    #[test]
    fn globs_match_folders() {
        let l = MemoryLoader::new().with("c/b/x", "").with("c/a/x", "").with("c/a/y", "").with("d", "");
        let found = |pattern| l.glob(pattern).expect("no I/O").found;
        assert_eq!(found("c/*"), ["c/a", "c/b"]);
        assert_eq!(found("*"), ["c", "d"]);
        assert_eq!(found("[b-d]"), ["c", "d"]);
        assert_eq!(found("[!c]"), ["d"]);
        assert_eq!(found("c/?/x*"), ["c/a/x", "c/b/x"]);
    }

    #[test]
    fn hidden_names_are_left_out() {
        let l = MemoryLoader::new().with("c/.x", "").with("c/y", "").with(".d/y", "");
        let listing = l.glob("c/*").expect("no I/O");
        assert_eq!(listing.found, ["c/y"]);
        assert_eq!(listing.left_out[0].0, "c/.x");
        assert_eq!(l.glob("*").expect("no I/O").left_out[0].0, ".d");
        assert_eq!(l.glob(".d/*").expect("no I/O").found, [".d/y"]);
    }

    #[test]
    fn addresses_are_no_paths() {
        let yes = ["https://a/b", "http:/a", "s3://bucket/x", "hf://Qwen/x", "HTTPS://a", "git+ssh://a"];
        assert!(yes.iter().all(|t| scheme(t).is_some()));
        let no = ["a/b", "/a:/b", "c:/models", "a b://c", "models/http:x", "x:y", "", "data:/x", "1a://b"];
        assert_eq!(no.iter().filter(|t| scheme(t).is_some()).collect::<Vec<_>>(), [&""; 0]);
    }
}
