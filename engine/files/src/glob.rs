//! Files and folders that match a pattern.

use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use ::glob::Pattern;

use crate::workspace::Workspaces;

/// Names that one pattern looks at, at most.
pub const MAX_ENTRIES: usize = 1_000_000;

/// What a pattern matches.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// The paths, sorted, in the pattern's own form: relative where the pattern is relative.
    pub found: Vec<String>,
    /// What matches by name and is left out all the same, and folders that are not searched; sorted.
    pub left_out: Vec<LeftOut>,
}

/// Something that is left out.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LeftOut {
    /// Its path, in the pattern's own form.
    pub path: String,
    /// Why.
    pub reason: Reason,
}

/// Why something is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// Its name starts with a dot.
    Hidden,
    /// It belongs to the engine.
    Workspace,
    /// It is a link to a folder that is being searched already.
    Loop,
    /// Its name is not UTF-8, and could not be written in a pipeline.
    NotUtf8,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Hidden => "hidden: its name starts with a dot",
            Self::Workspace => "part of Headstart's workspace",
            Self::Loop => "a link to a folder that it is in",
            Self::NotUtf8 => "its name is not UTF-8",
        })
    }
}

/// Why a pattern cannot be listed.
#[derive(Debug, thiserror::Error)]
pub enum GlobError {
    /// It is not a pattern.
    #[error("{0}")]
    Pattern(&'static str),
    /// A folder cannot be read.
    #[error("{path}: {source}")]
    Io {
        /// The folder.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// There is too much to look at.
    #[error("there are more than {MAX_ENTRIES} names below `{0}`; name a folder further down")]
    TooMany(String),
}

/// A component of a pattern.
enum Part {
    /// A name without wildcards.
    Name(String),
    /// A name with wildcards, and whether it may match hidden names.
    Wild(Pattern, bool),
    /// `**`: any number of folders.
    Folders,
}

struct Walk<'g> {
    workspaces: Workspaces,
    pattern: &'g str,
    parts: Vec<Part>,
    looked_at: usize,
    found: Vec<String>,
    left_out: Vec<LeftOut>,
}

/// The files and folders that match `pattern`: `*`, `?`, `[a-z]` and `[!a-z]` match within a name, a
/// component `**` matches any number of folders.
///
/// Wildcards do not match names that start with a dot, as in a shell: those must be named, as in
/// `.cache/*`. What belongs to a workspace of the engine is never listed, whatever its name.
///
/// # Errors
/// If the pattern is wrong, a folder cannot be read, or there are more than [`MAX_ENTRIES`] names to
/// look at.
pub fn list(pattern: &str) -> Result<Listing, GlobError> {
    let (start, rest) = match pattern.strip_prefix('/') {
        Some(rest) => (PathBuf::from("/"), rest),
        None => (PathBuf::new(), pattern),
    };
    let parts = rest.split('/').filter(|p| !p.is_empty()).map(part).collect::<Result<_, _>>()?;
    let mut walk = Walk {
        workspaces: Workspaces::new(),
        pattern,
        parts,
        looked_at: 0,
        found: Vec::new(),
        left_out: Vec::new(),
    };
    walk.from(&start, 0, &mut Vec::new())?;
    let Walk { mut found, mut left_out, .. } = walk;
    found.sort();
    found.dedup();
    left_out.sort();
    left_out.dedup();
    Ok(Listing { found, left_out })
}

fn part(text: &str) -> Result<Part, GlobError> {
    Ok(match text {
        "**" => Part::Folders,
        text if !text.contains(['*', '?', '[']) => Part::Name(text.to_owned()),
        text => {
            let pattern = Pattern::new(text).map_err(|e| GlobError::Pattern(e.msg))?;
            Part::Wild(pattern, text.starts_with('.'))
        }
    })
}

impl Walk<'_> {
    /// Matches the components from number `at` below `folder`. `above` holds the folders, without
    /// links, that a `**` has entered on the way here.
    fn from(&mut self, folder: &Path, at: usize, above: &mut Vec<PathBuf>) -> Result<(), GlobError> {
        match self.parts.get(at) {
            None => {
                self.keep(folder);
                Ok(())
            }
            Some(Part::Name(name)) => {
                let path = folder.join(name);
                if fs::symlink_metadata(&path).is_err() {
                    return Ok(());
                }
                self.from(&path, at + 1, above)
            }
            Some(Part::Wild(..)) => self.names(folder, at, above),
            Some(Part::Folders) => {
                if at + 1 < self.parts.len() {
                    self.from(folder, at + 1, above)?;
                }
                self.folders(folder, at, above)
            }
        }
    }

    /// The names of a folder that match a component with wildcards.
    fn names(&mut self, folder: &Path, at: usize, above: &mut Vec<PathBuf>) -> Result<(), GlobError> {
        let last = at + 1 == self.parts.len();
        for name in self.entries(folder)? {
            let Some(Part::Wild(pattern, hidden)) = self.parts.get(at) else { break };
            if !pattern.matches(&name.to_string_lossy()) {
                continue;
            }
            let path = folder.join(&name);
            if !last && !path.is_dir() {
                continue;
            }
            match (name.to_str(), hidden) {
                (None, _) => self.leave_out(&path, Reason::NotUtf8),
                (Some(n), false) if n.starts_with('.') => self.leave_out(&path, Reason::Hidden),
                _ if !last && self.is_workspace(&path) => self.leave_out(&path, Reason::Workspace),
                _ => self.from(&path, at + 1, above)?,
            }
        }
        Ok(())
    }

    /// The folders below one, for `**`.
    fn folders(&mut self, folder: &Path, at: usize, above: &mut Vec<PathBuf>) -> Result<(), GlobError> {
        if above.is_empty() {
            above.extend(fs::canonicalize(or_here(folder)));
            let entered = self.folders(folder, at, above);
            above.clear();
            return entered;
        }
        for name in self.entries(folder)? {
            let path = folder.join(&name);
            if !path.is_dir() {
                continue;
            }
            let Ok(real) = fs::canonicalize(&path) else { continue };
            let reason = match name.to_str() {
                None => Some(Reason::NotUtf8),
                Some(n) if n.starts_with('.') => Some(Reason::Hidden),
                _ if self.workspaces.holds(&real) => Some(Reason::Workspace),
                _ if above.contains(&real) => Some(Reason::Loop),
                _ => None,
            };
            if let Some(reason) = reason {
                self.leave_out(&path, reason);
                continue;
            }
            if at + 1 == self.parts.len() {
                self.keep(&path);
            } else {
                self.from(&path, at + 1, &mut above.clone())?;
            }
            above.push(real);
            let done = self.folders(&path, at, above);
            above.pop();
            done?;
        }
        Ok(())
    }

    fn is_workspace(&self, path: &Path) -> bool {
        fs::canonicalize(path).is_ok_and(|real| self.workspaces.holds(&real))
    }

    /// The names in a folder, sorted; none where it is no folder.
    fn entries(&mut self, folder: &Path) -> Result<Vec<OsString>, GlobError> {
        let folder = or_here(folder);
        if !folder.is_dir() {
            return Ok(Vec::new());
        }
        let wrong = |source| GlobError::Io { path: folder.display().to_string(), source };
        let mut names = Vec::new();
        for entry in fs::read_dir(folder).map_err(wrong)? {
            names.push(entry.map_err(wrong)?.file_name());
            self.looked_at += 1;
            if self.looked_at > MAX_ENTRIES {
                let base = self.pattern.split(['*', '?', '[']).next().unwrap_or_default();
                return Err(GlobError::TooMany(if base.is_empty() { "." } else { base }.to_owned()));
            }
        }
        names.sort();
        Ok(names)
    }

    /// A path that matches the whole pattern.
    fn keep(&mut self, path: &Path) {
        match (path.to_str(), fs::canonicalize(path)) {
            (None, _) => self.leave_out(path, Reason::NotUtf8),
            (_, Ok(real)) if self.workspaces.holds(&real) => self.leave_out(path, Reason::Workspace),
            (Some(path), _) => self.found.push(path.to_owned()),
        }
    }

    fn leave_out(&mut self, path: &Path, reason: Reason) {
        // A workspace is more than hidden.
        let workspace = reason == Reason::Hidden && self.is_workspace(path);
        let reason = if workspace { Reason::Workspace } else { reason };
        self.left_out.push(LeftOut { path: path.to_string_lossy().into_owned(), reason });
    }
}

fn or_here(folder: &Path) -> &Path {
    if folder.as_os_str().is_empty() { Path::new(".") } else { folder }
}
