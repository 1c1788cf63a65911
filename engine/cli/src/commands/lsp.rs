//! `headstart lsp`: the language server, for editors.

use crate::exit::CommandError;
use crate::loader::Disk;

/// Serves an editor on standard input and output.
///
/// # Errors
/// If the connection to the editor fails.
pub fn run() -> Result<(), CommandError> {
    headstart_lsp::run_stdio(Disk).map_err(CommandError::internal)
}
