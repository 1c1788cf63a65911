//! Files, as the checker sees them. The language itself does no I/O.

use std::collections::BTreeMap;

/// Reads pipeline files and lists paths.
pub trait FileLoader {
    /// The text of a file, or why it cannot be read.
    fn read(&self, path: &str) -> Result<String, String>;

    /// The paths that match a pattern such as `catalog/*`, sorted, in the pattern's own form:
    /// relative where the pattern is relative.
    fn glob(&self, pattern: &str) -> Result<Vec<String>, String>;
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

    /// `*` stands for any part of one path component. Folders match as well as files.
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

fn matches(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((head, tail)) => text.strip_prefix(head).is_some_and(|rest| {
            rest.char_indices().map(|(i, _)| i).chain([rest.len()]).any(|i| matches(tail, &rest[i..]))
        }),
    }
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
    }
}
