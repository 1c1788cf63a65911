//! Files, as the checker sees them. The language itself does no I/O.

use std::collections::BTreeMap;

use headstart_protocol::Digest;

/// Reads pipeline files and lists paths.
pub trait FileLoader {
    /// The text of a file, or why it cannot be read.
    fn read(&self, path: &str) -> Result<String, String>;

    /// The paths that match a pattern such as `catalog/*`, sorted, in the pattern's own form:
    /// relative where the pattern is relative.
    fn glob(&self, pattern: &str) -> Result<Vec<String>, String>;

    /// The digest of a file of any content, or why it cannot be read.
    fn digest(&self, path: &str) -> Result<Digest, String> {
        self.read(path).map(|text| Digest::of(text.as_bytes()))
    }

    /// Whether a file can be executed here, or why not.
    fn executable(&self, path: &str) -> Result<(), String> {
        let _ = path;
        Ok(())
    }
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

    /// `*`, `?` and `[…]` match within one path component. Folders match as well as files.
    fn glob(&self, pattern: &str) -> Result<Vec<String>, String> {
        let pattern = clean(pattern);
        let parts: Vec<&str> = pattern.split('/').collect();
        let mut found: Vec<String> = Vec::new();
        for file in self.files.keys() {
            let components: Vec<&str> = file.split('/').collect();
            let head = components.get(..parts.len());
            if head.is_some_and(|h| h.iter().zip(&parts).all(|(c, p)| matches(p, c))) {
                found.push(components[..parts.len()].join("/"));
            }
        }
        found.sort();
        found.dedup();
        Ok(found)
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
    fn globs_match_folders() {
        let l = MemoryLoader::new().with("c/b/x", "").with("c/a/x", "").with("c/a/y", "").with("d", "");
        assert_eq!(l.glob("c/*").expect("no I/O"), ["c/a", "c/b"]);
        assert_eq!(l.glob("*").expect("no I/O"), ["c", "d"]);
        assert_eq!(l.glob("[b-d]").expect("no I/O"), ["c", "d"]);
        assert_eq!(l.glob("[!c]").expect("no I/O"), ["d"]);
        assert_eq!(l.glob("c/?/x*").expect("no I/O"), ["c/a/x", "c/b/x"]);
    }
}
