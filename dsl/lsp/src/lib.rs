//! Language server of Headstart's pipeline language.
//!
//! Speaks the Language Server Protocol over any [`lsp_server::Connection`]: diagnostics while
//! typing and their fixes, hover, definitions, references, renaming, completion, the arguments of a
//! call, formatting, document symbols, folding.
//! Everything it knows comes from [`headstart_dsl::analyze`]; files come through a
//! [`FileLoader`], with the editor's unsaved texts in front.
//!
//! # Layout
//! - [`run`], [`run_stdio`]: the loop over messages (`server`).
//! - `documents`: open files, the protocol's positions, and addresses.
//! - `diagnostics`: the checker's diagnostics. `hover`, `complete`, `signature`, `names` (definition, references,
//!   rename), `outline` (document symbols, folding), `actions` (fixes): one module a question.
//! - `scan`: what the text in front of the cursor is in the middle of.

mod actions;
mod complete;
mod diagnostics;
mod documents;
mod hover;
mod names;
mod outline;
mod scan;
mod server;
mod signature;

use headstart_dsl::FileLoader;
use lsp_server::Connection;

/// Why the server ended early.
#[derive(Debug, thiserror::Error)]
pub enum LspError {
    /// The client broke the protocol, or went away in the middle of it.
    #[error("the editor's connection broke: {0}")]
    Protocol(#[from] lsp_server::ProtocolError),
    /// Standard input or output failed.
    #[error("the editor's connection failed: {0}")]
    Io(#[from] std::io::Error),
    /// A message cannot be written or read as JSON.
    #[error("a message of the editor's connection is not understood: {0}")]
    Json(#[from] serde_json::Error),
    /// The client no longer listens.
    #[error("the editor went away")]
    Closed,
}

/// Serves an editor on standard input and output until it says goodbye.
///
/// # Errors
/// As [`run`], and [`LspError`] where standard input or output fails.
pub fn run_stdio(loader: impl FileLoader) -> Result<(), LspError> {
    let (connection, threads) = Connection::stdio();
    run(&connection, &loader)?;
    // The threads end when both ends of the connection are gone.
    drop(connection);
    threads.join()?;
    Ok(())
}

/// Serves an editor on a connection until it says goodbye.
///
/// # Errors
/// [`LspError`] where a message cannot be read or sent.
pub fn run(connection: &Connection, loader: &dyn FileLoader) -> Result<(), LspError> {
    server::run(connection, loader)
}
