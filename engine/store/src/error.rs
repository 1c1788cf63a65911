//! What can go wrong with a workspace.

use std::path::{Path, PathBuf};

use headstart_content::{ContentError, DiskError};

/// Why the store could not do something. The cache never causes one: its failures are
/// logged, set aside and computed again.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Contents could not be read or written.
    #[error(transparent)]
    Content(#[from] ContentError),
    /// A file or folder could not be read or written.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The workspace was written by a newer version.
    #[error(
        "{} is a workspace of format {found}, but this version of Headstart reads up to {ours}; use a newer \
         Headstart, or another folder with --workspace DIR", path.display()
    )]
    Newer {
        /// The workspace.
        path: PathBuf,
        /// Its format version.
        found: u32,
        /// The newest that is understood.
        ours: u32,
    },
    /// A link, in a workspace that may have come with somebody's files.
    #[error(
        "{} is a link, and what is in a workspace is changed and removed; remove the link, or name a folder \
         with --workspace DIR. If the workspace came with somebody's files, it is theirs", .0.display()
    )]
    Link(PathBuf),
    /// A folder that holds other things is no place for a workspace.
    #[error(
        "{} holds other files, such as `{inside}`, and is no workspace; name an empty folder, or one that is not \
         there yet, with --workspace DIR", path.display()
    )]
    Foreign {
        /// The folder.
        path: PathBuf,
        /// Something that is in it.
        inside: String,
    },
    /// A file that Headstart writes does not hold what it should.
    #[error("{}: {why}", path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it, and what to do.
        why: String,
    },
    /// A record inside an event log is damaged. What follows it cannot be trusted to be complete,
    /// so nothing is read past it.
    #[error(
        "{}: the event log is damaged at byte {offset}: {why}; events before it are intact. Restore the file \
         from a copy, or start a new run: cached results stay usable", path.display()
    )]
    CorruptLog {
        /// The log file.
        path: PathBuf,
        /// Offset of the damaged record.
        offset: u64,
        /// What is wrong.
        why: String,
    },
    /// An event could not be read as the type asked for: the log is of another version.
    #[error("{}: event {number} in the record at byte {offset} is not understood: {source}", path.display())]
    UnknownEvent {
        /// The log file.
        path: PathBuf,
        /// Offset of the record.
        offset: u64,
        /// Position of the event in the record, from 1.
        number: usize,
        /// Why not.
        source: serde_json::Error,
    },
    /// There is already a run of this id.
    #[error("run `{0}` exists already")]
    RunExists(String),
    /// There is no run of this id.
    #[error("there is no run `{0}` in this workspace; `headstart runs` lists them")]
    NoRun(String),
    /// Another engine appends to the run.
    #[error("run `{id}` is being executed by another engine{}", pid.map(|p| format!(" (process {p})")).unwrap_or_default())]
    RunBusy {
        /// The run.
        id: String,
        /// Its process, where known.
        pid: Option<u32>,
    },
    /// A name that cannot be used.
    #[error("`{name}` cannot be used as {what}: {why}")]
    BadName {
        /// The name.
        name: String,
        /// What it was to be the name of.
        what: &'static str,
        /// The rule that it breaks.
        why: &'static str,
    },
    /// Something cannot be written as JSON.
    #[error("cannot write {what} as JSON: {source}")]
    Encode {
        /// What was to be written.
        what: &'static str,
        /// Why not.
        source: serde_json::Error,
    },
    /// The event log could not be written earlier, so nothing more may be added to it: what was
    /// lost could be what the new event builds on.
    #[error("the event log of run `{id}` cannot be written any more: {why}")]
    LogBroken {
        /// The run.
        id: String,
        /// The first failure.
        why: String,
    },
}

impl StoreError {
    /// For `map_err`: an I/O failure of `doing` at `path`.
    pub(crate) fn io(doing: &'static str, path: impl AsRef<Path>) -> impl FnOnce(std::io::Error) -> Self {
        move |source| DiskError::at(doing, path.as_ref())(source).into()
    }

    /// What the disk could not do, if that is the cause.
    pub fn disk_error(&self) -> Option<&DiskError> {
        match self {
            Self::Disk(e) | Self::Content(ContentError::Disk(e)) => Some(e),
            _ => None,
        }
    }

    /// A damaged event log.
    pub(crate) fn corrupt(path: &Path, offset: usize, why: &str) -> Self {
        Self::CorruptLog { path: path.to_owned(), offset: offset as u64, why: why.to_owned() }
    }

    /// A damaged file.
    pub(crate) fn damaged(path: &Path, why: impl Into<String>) -> Self {
        Self::Damaged { path: path.to_owned(), why: why.into() }
    }
}
