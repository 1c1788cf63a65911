//! What can stop a device, and the exit code that it stops with.

use std::path::{Path, PathBuf};

use headstart_console::exit;
use headstart_content::ContentError;
use headstart_disk::{DiskError, is_full};

/// Why the device runner stops.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// Something that the caller gave is wrong.
    #[error("{0}")]
    Input(String),
    /// The engine is another than the one that the device is paired with.
    #[error(
        "the engine at {url} has the key {got}, but this device is paired with the key {pinned}; it will \
         not give that engine anything"
    )]
    KeyChanged {
        /// The engine's address.
        url: String,
        /// Fingerprint of the key that it showed.
        got: String,
        /// Fingerprint of the pinned key.
        pinned: String,
        /// The file that holds the pinned key.
        file: PathBuf,
    },
    /// Work was done, but it failed or could not be handed in.
    #[error("{0}")]
    Run(String),
    /// What the device keeps could not be read or written.
    #[error(transparent)]
    Content(#[from] ContentError),
    /// A file of the device's own state could not be read or written.
    #[error("{0}")]
    State(DiskError),
    /// There was no room for what a stage makes. The engine is told nothing of it: the stage is offered
    /// again.
    #[error("`{instance}`: {why}")]
    DiskFull {
        /// The instance that found no room.
        instance: String,
        /// What could not be written, and why.
        why: String,
    },
    /// Standard output could not be written.
    #[error(transparent)]
    Output(#[from] headstart_console::OutputError),
    /// A defect in Headstart.
    #[error("internal: {0}")]
    Internal(String),
}

impl From<DiskError> for DeviceError {
    fn from(e: DiskError) -> Self {
        Self::State(e)
    }
}

impl DeviceError {
    /// An I/O error at a path of the state folder.
    pub fn state(path: &Path, source: std::io::Error) -> Self {
        DiskError::at("use", path)(source).into()
    }

    /// Whether there was no room left on the disk.
    pub fn is_full(&self) -> bool {
        match self {
            Self::Content(ContentError::Disk(e)) | Self::State(e) => is_full(&e.source),
            Self::DiskFull { .. } => true,
            _ => false,
        }
    }

    /// What its owner can do about it, where the message does not say so already.
    pub fn help(&self) -> Option<String> {
        match self {
            Self::KeyChanged { file, .. } => Some(format!(
                "if the engine was replaced on purpose, remove {} and pair again with an invitation",
                file.display()
            )),
            Self::Content(ContentError::Disk(e)) | Self::State(e) if is_full(&e.source) => {
                Some(headstart_disk::FULL_HELP.to_owned())
            }
            Self::DiskFull { .. } => Some(headstart_disk::FULL_HELP.to_owned()),
            _ => None,
        }
    }

    /// The process's exit code, as in [`headstart_console::exit`].
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Input(_) | Self::KeyChanged { .. } => exit::INPUT,
            Self::Run(_) | Self::DiskFull { .. } => exit::FAILED,
            Self::Content(ContentError::Disk(e)) | Self::State(e) if is_full(&e.source) => exit::FAILED,
            Self::Content(_) | Self::State(_) | Self::Internal(_) => exit::INTERNAL,
            Self::Output(_) => exit::OUTPUT,
        }
    }
}
