//! The grammar, as pest's parser.
#![allow(missing_docs, reason = "generated; the grammar holds the documentation")]

#[derive(pest_derive::Parser)]
#[grammar = "grammar.pest"]
pub struct Grammar;
