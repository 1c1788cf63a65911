//! Workspaces of the engine, as they lie among a user's files.

use std::path::{Path, PathBuf};

/// The file that every workspace has.
const MARKER: &str = "workspace.json";

/// What the engine puts into a workspace.
const OWN: &[&str] = &[
    MARKER,
    "blobs",
    "cache",
    "devices",
    "hub",
    "keys",
    "lock",
    "manifests",
    "open",
    "resume",
    "runs",
    "schedules",
    "scratch",
    "unsynced",
];

/// Knows which folders are workspaces.
#[derive(Clone, Debug, Default)]
pub(crate) struct Workspaces {
    /// The working folder, absolute and without links.
    here: PathBuf,
}

impl Workspaces {
    pub fn new() -> Self {
        Self { here: std::env::current_dir().and_then(|p| p.canonicalize()).unwrap_or_default() }
    }

    /// Whether a path, absolute and without links, is part of a workspace. Where somebody works inside
    /// of a workspace, only what the engine puts there is.
    pub fn holds(&self, path: &Path) -> bool {
        path.ancestors().any(|folder| {
            if !is_root(folder) {
                return false;
            }
            if !self.here.starts_with(folder) {
                return true;
            }
            let inside = path.strip_prefix(folder).ok().and_then(|p| p.components().next());
            inside.is_some_and(|first| {
                let first = first.as_os_str().to_string_lossy();
                OWN.contains(&first.split('.').next().unwrap_or_default()) || OWN.contains(&&*first)
            })
        })
    }
}

/// Whether a folder is the root of a workspace, whatever its name. Editors have files of the marker's
/// name with other content.
fn is_root(folder: &Path) -> bool {
    let Ok(text) = headstart_disk::read::whole(&folder.join(MARKER), headstart_disk::read::SETTINGS) else {
        return false;
    };
    let Ok(serde_json::Value::Object(object)) = serde_json::from_slice(&text) else { return false };
    let format = object.get("format").is_some_and(serde_json::Value::is_u64);
    format && (object.len() == 1 || folder.join("blobs").is_dir())
}
