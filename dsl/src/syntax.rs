//! From text to syntax tree. The only module that knows the grammar's rules.
//!
//! - `rules`: the parser that pest makes of the grammar; `rule_names`: its rules in messages.
//! - `pieces`: a file is cut where items start, and only what changed is parsed again.
//! - `builder`, `expr`: from the parser's pairs to the tree.
//! - `failure`, `diagnostics`, `common_mistakes`, `recovery`: what is reported where the grammar does
//!   not accept a text, and how the parse continues behind it. `tokens`, `places`: helpers.

use crate::ast::File;
use crate::diagnostic::Diagnostic;
use crate::span::FileId;

mod builder;
mod common_mistakes;
mod diagnostics;
mod expr;
mod failure;
mod pieces;
mod places;
mod recovery;
mod rule_names;
mod rules;
mod tokens;

pub(crate) use pieces::Parsed;
pub use tokens::MAX_DEPTH;

/// Parses a file. The tree holds every item that was understood.
pub fn parse(file: FileId, text: &str) -> (File, Vec<Diagnostic>) {
    Parsed::default().again(file, text.into()).tree()
}
