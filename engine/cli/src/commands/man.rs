//! `headstart man`: man pages.

use clap::CommandFactory;
use headstart_console::errln;
use headstart_console::generate::{self, GenerateError};

use crate::Volume;
use crate::args::{Cli, Man};
use crate::exit::CommandError;

/// Runs the command.
///
/// # Errors
/// If a page cannot be written.
pub fn run(args: &Man, volume: Volume) -> Result<(), CommandError> {
    generate::man(Cli::command(), args.out.as_deref()).map_err(|e| match e {
        GenerateError::Output(e) => CommandError::from(e),
        e @ GenerateError::File { .. } => CommandError::input(e),
    })?;
    if let Some(out) = args.out.as_deref().filter(|_| !volume.quiet) {
        errln!("wrote man pages to {}", out.display());
    }
    Ok(())
}
