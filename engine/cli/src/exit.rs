//! How the command ends: exit codes, and its error message.

use std::fmt;
use std::process::ExitCode;

use headstart_console::color::{Ink, paint};
pub use headstart_console::exit::{FAILED, INPUT, INTERNAL, INTERRUPTED, OUTPUT, SUCCESS};
use headstart_console::{OutputError, errln};

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

    /// Adds what to do about it.
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
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
        Self::input(e)
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
