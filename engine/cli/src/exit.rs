//! How the command ends: exit codes and the last words on stderr.

use std::fmt;
use std::process::ExitCode;

/// Everything went well.
pub const OK: u8 = 0;
/// The run failed.
pub const FAILED: u8 = 1;
/// The input is wrong: the command line, the pipeline, a file it names.
pub const INPUT: u8 = 2;
/// A defect in Headstart.
pub const INTERNAL: u8 = 3;

/// Why a command did not succeed.
#[derive(Debug)]
pub struct CommandError {
    code: u8,
    message: String,
    help: Option<String>,
}

impl CommandError {
    /// The input is wrong.
    pub fn input(message: impl fmt::Display) -> Self {
        Self { code: INPUT, message: message.to_string(), help: None }
    }

    /// The run failed.
    pub fn failed(message: impl fmt::Display) -> Self {
        Self { code: FAILED, message: message.to_string(), help: None }
    }

    /// A defect, or a failure of the machine below.
    pub fn internal(message: impl fmt::Display) -> Self {
        Self { code: INTERNAL, message: message.to_string(), help: None }
    }

    /// Everything was already said.
    pub fn silent(code: u8) -> Self {
        Self { code, message: String::new(), help: None }
    }

    /// Says what to do about it.
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// Prints the message and gives the exit code.
    pub fn report(&self) -> ExitCode {
        if !self.message.is_empty() {
            anstream::eprintln!("\x1b[1;31merror\x1b[0m: {}", self.message);
        }
        if let Some(help) = &self.help {
            anstream::eprintln!("  \x1b[36mhelp\x1b[0m: {help}");
        }
        ExitCode::from(self.code)
    }
}

impl From<headstart_store::ContentError> for CommandError {
    fn from(e: headstart_store::ContentError) -> Self {
        headstart_store::StoreError::from(e).into()
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
