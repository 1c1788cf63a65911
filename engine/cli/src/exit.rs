//! How the command ends: exit codes, and its error message.

use std::fmt;
use std::process::ExitCode;

use headstart_console::color::{Ink, paint};
pub use headstart_console::exit::{FAILED, INPUT, INTERNAL, INTERRUPTED, OUTPUT, SUCCESS};
use headstart_console::{OutputError, errln};
use headstart_disk::DiskError;
use headstart_driver::EngineError;
use headstart_store::StoreError;

/// Why a command did not succeed.
#[derive(Debug)]
pub struct CommandError {
    code: u8,
    message: String,
    help: Option<String>,
}

impl CommandError {
    fn new(code: u8, message: impl fmt::Display) -> Self {
        Self { code, message: message.to_string(), help: None }
    }

    /// The input is wrong.
    pub fn input(message: impl fmt::Display) -> Self {
        Self::new(INPUT, message)
    }

    /// The run failed.
    pub fn failed(message: impl fmt::Display) -> Self {
        Self::new(FAILED, message)
    }

    /// A defect, or a failure of the machine below.
    pub fn internal(message: impl fmt::Display) -> Self {
        Self::new(INTERNAL, message)
    }

    /// Somebody stopped it.
    pub fn interrupted(message: impl fmt::Display) -> Self {
        Self::new(INTERRUPTED, message)
    }

    /// Everything was already printed.
    pub fn silent(code: u8) -> Self {
        Self::new(code, "")
    }

    /// A run that could not go on; one that found no room can be resumed.
    pub fn of_run(e: &EngineError) -> Self {
        match e {
            EngineError::Environment { failure, .. } => Self::failed(e).help(match &failure.help {
                Some(help) => format!("{help}: it resumes the run"),
                None => format!("{}: it resumes the run", headstart_disk::FULL_HELP),
            }),
            EngineError::LogBroken { .. } | EngineError::Store(StoreError::LogBroken { .. }) => {
                Self::failed(e).help(
                    "free some space there, or allow this user to write there; the same command then resumes the run",
                )
            }
            _ => Self::failed(e),
        }
    }

    /// `message`, where `cause` is what the disk could not do: a disk that is full or may not be written is no wrong
    /// input.
    fn of_disk(cause: Option<&DiskError>, message: impl fmt::Display) -> Self {
        match cause {
            Some(e) if headstart_disk::is_full(&e.source) => {
                Self::failed(message).help(headstart_disk::FULL_HELP)
            }
            Some(e) if !e.doing.starts_with("read") && headstart_disk::is_refused(&e.source) => {
                Self::failed(message).help(headstart_disk::REFUSED_HELP)
            }
            _ => Self::input(message),
        }
    }

    /// Adds what to do about it.
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// The exit code.
    #[cfg(test)]
    pub fn code(&self) -> u8 {
        self.code
    }

    /// The message.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Prints the message and gives the exit code.
    pub fn report(&self) -> ExitCode {
        if !self.message.is_empty() {
            errln!("{}: {}", paint(Ink::Error, "error"), self.message);
        }
        if let Some(help) = &self.help {
            errln!("  {}: {help}", paint(Ink::Help, "help"));
        }
        ExitCode::from(self.code)
    }
}

impl From<DiskError> for CommandError {
    fn from(e: DiskError) -> Self {
        Self::of_disk(Some(&e), &e)
    }
}

impl From<EngineError> for CommandError {
    fn from(e: EngineError) -> Self {
        Self::of_disk(e.disk_error(), &e)
    }
}

impl From<headstart_lm::LmError> for CommandError {
    fn from(e: headstart_lm::LmError) -> Self {
        match headstart_protocol::Failure::from(e) {
            full if full.class == headstart_protocol::FailureClass::DiskFull => full.into(),
            other => Self { help: other.help, ..Self::input(other.message) },
        }
    }
}

impl From<headstart_store::ContentError> for CommandError {
    fn from(e: headstart_store::ContentError) -> Self {
        headstart_store::StoreError::from(e).into()
    }
}

impl From<OutputError> for CommandError {
    fn from(e: OutputError) -> Self {
        Self::new(OUTPUT, e)
    }
}

impl From<headstart_store::StoreError> for CommandError {
    fn from(e: headstart_store::StoreError) -> Self {
        Self::of_disk(e.disk_error(), &e)
    }
}

impl From<headstart_protocol::Failure> for CommandError {
    fn from(f: headstart_protocol::Failure) -> Self {
        use headstart_protocol::FailureClass as C;
        let code = match f.class {
            C::Input | C::MissingArtifact => INPUT,
            C::Internal => INTERNAL,
            _ => FAILED,
        };
        Self { code, message: f.message, help: f.help }
    }
}
