//! Shell completions and man pages, made from the command line's own definition.

use std::fs;
use std::path::{Path, PathBuf};

use clap::Command;
pub use clap_complete::Shell;

use crate::{OutputError, print};

/// A page could not be made or written.
#[derive(Debug, thiserror::Error)]
pub enum GenerateError {
    /// The folder of pages.
    #[error("cannot write man pages to {}: {source}", path.display())]
    File {
        /// Which folder.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Standard output.
    #[error(transparent)]
    Output(#[from] OutputError),
}

/// Prints the completion script of a command for a shell.
///
/// # Errors
/// If standard output cannot be written.
pub fn completions(mut command: Command, shell: Shell) -> Result<(), OutputError> {
    let name = command.get_name().to_owned();
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, name, &mut script);
    print(&String::from_utf8_lossy(&script))
}

/// Prints the man page of a command; with `out`, writes one for it and one for each subcommand there.
///
/// # Errors
/// If standard output or a file cannot be written.
pub fn man(mut command: Command, out: Option<&Path>) -> Result<(), GenerateError> {
    let Some(out) = out else {
        command.build();
        let mut page = Vec::new();
        clap_mangen::Man::new(command).render(&mut page).map_err(OutputError::from)?;
        return Ok(print(&String::from_utf8_lossy(&page))?);
    };
    fs::create_dir_all(out)
        .and_then(|()| clap_mangen::generate_to(command, out))
        .map_err(|source| GenerateError::File { path: out.to_owned(), source })
}
