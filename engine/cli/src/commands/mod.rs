//! One module a command.

pub(crate) mod adapter;
pub(crate) mod cache;
pub(crate) mod catalog;
pub(crate) mod changes;
pub(crate) mod check;
pub(crate) mod describe;
pub(crate) mod devices;
pub(crate) mod graph;
pub(crate) mod init;
pub(crate) mod logs;
pub(crate) mod lsp;
pub(crate) mod man;
pub(crate) mod model;
pub(crate) mod plan;
pub(crate) mod run;
pub(crate) mod runs;
pub(crate) mod schedules;
pub(crate) mod serve;
pub(crate) mod tokens;
pub(crate) mod verify;
pub(crate) mod why;
