//! One module a command.

pub mod adapter;
pub mod cache;
pub mod catalog;
pub mod changes;
pub mod check;
pub mod describe;
pub mod graph;
pub mod init;
pub mod lsp;
pub mod man;
pub mod model;
pub mod plan;
pub mod run;
pub mod runs;
pub mod serve;
pub mod why;
