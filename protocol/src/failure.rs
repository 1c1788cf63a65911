//! Why an attempt failed.

use std::path::Path;

use headstart_disk::DiskError;
use serde::{Deserialize, Serialize};

/// Why an attempt failed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// What kind of failure it is; decides about retries.
    pub class: FailureClass,
    /// What happened, where and why: names the file, the tensor, the line.
    #[serde(deserialize_with = "crate::capped::message")]
    pub message: String,
    /// What to do about it.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "crate::capped::message_opt"
    )]
    pub help: Option<String>,
}

/// Kinds of failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureClass {
    /// The input is wrong: retrying cannot help.
    Input,
    /// The owner of a device does not allow what the pipeline asks of it.
    Denied,
    /// Something outside went wrong: retrying may help.
    Transient,
    /// The disk of the machine that runs the stage is full: nothing that the stage did, and nothing that is
    /// remembered of it. A run stops and can be resumed; a device stops and is given the stage again.
    DiskFull,
    /// The machine that runs the stage does not give what every stage needs: permission to write its folders,
    /// processes, open files. Like a full disk, it says nothing about the stage.
    Environment,
    /// The memory limit does not suffice.
    Memory,
    /// The stage was told to stop.
    Cancelled,
    /// It ran past its time limit.
    Timeout,
    /// The runner was lost.
    Lost,
    /// An artifact that the stage needs is gone from where it should be.
    MissingArtifact,
    /// A defect in Headstart.
    Internal,
}

impl FailureClass {
    /// Whether the machine is the cause, and no property of the stage: nothing is remembered against the stage,
    /// which is tried again later.
    pub fn is_environment(self) -> bool {
        matches!(self, Self::DiskFull | Self::Environment)
    }
}

impl Failure {
    /// Wrong input.
    pub fn input(message: impl Into<String>) -> Self {
        Self { class: FailureClass::Input, message: message.into(), help: None }
    }

    /// A failure of any class.
    pub fn new(class: FailureClass, message: impl Into<String>) -> Self {
        Self { class, message: message.into(), help: None }
    }

    /// Says what to do about it.
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// An I/O failure at a path.
    pub fn io(path: &Path, e: &std::io::Error) -> Self {
        Self::of_io(e, format!("{}: {}", path.display(), headstart_disk::reason(e)))
    }

    /// An I/O failure that `message` describes.
    pub fn of_io(e: &std::io::Error, message: String) -> Self {
        let class = match e.kind() {
            _ if headstart_disk::is_full(e) => FailureClass::DiskFull,
            std::io::ErrorKind::OutOfMemory => FailureClass::Memory,
            // The path is wrong, or the file is not what it should be: another try finds the same.
            std::io::ErrorKind::NotFound
            | std::io::ErrorKind::PermissionDenied
            | std::io::ErrorKind::IsADirectory
            | std::io::ErrorKind::NotADirectory
            | std::io::ErrorKind::InvalidInput
            | std::io::ErrorKind::InvalidData
            | std::io::ErrorKind::FileTooLarge => FailureClass::Input,
            _ => FailureClass::Transient,
        };
        let failure = Self::new(class, message);
        match class {
            FailureClass::DiskFull => failure.help(headstart_disk::FULL_HELP),
            FailureClass::Memory => failure.help("raise `memory:` in its settings block"),
            _ => failure,
        }
    }
}

impl From<DiskError> for Failure {
    fn from(e: DiskError) -> Self {
        let message = e.to_string();
        // What is read may be named by the pipeline; what is written is the runner's own.
        if !e.doing.starts_with("read") && headstart_disk::is_refused(&e.source) {
            return Self::new(FailureClass::Environment, message).help(headstart_disk::REFUSED_HELP);
        }
        Self::of_io(&e.source, message)
    }
}
