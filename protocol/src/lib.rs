//! The contract between the engine, its runners and the stages they run.
//!
//! This crate holds types, the registry of stage kinds and a few traits. It does no I/O, so that
//! the language, the engine, the device runner and every stage can depend on it.
//!
//! # Layout
//! - [`digest`]: BLAKE3 digests, the names of everything stored.
//! - [`types`]: the types of the pipeline language, and the fields that a value of a type has.
//! - [`kinds`]: what each stage kind takes, returns and where it may run. One registry for the
//!   checker, the editor, the docs and the runner.
//! - [`declared`]: what a program declares of its custom stages.
//! - [`artifact`]: what a stage makes: a manifest of files, a small value, references.
//! - [`artifacts`]: the values of artifacts, as types.
//! - [`expr`]: arguments, as expressions over outputs, and their resolution to values.
//! - [`numerics`]: what numbers are computed with, as far as it may change bytes.
//! - [`task`]: one attempt of one stage instance, and what became of it.
//! - [`stage`]: the traits that a stage is written against.
//! - [`release`]: what may leave a device, type by type.
//! - [`contract`]: what the owner of a device approves.
//! - [`rows`]: the row format shared by datasets and responses.
//! - [`text`]: plurals, bytes and file names in messages.
//! - [`wire`]: the messages between engine and device.

mod args;
mod artifact;
pub mod artifacts;
mod capped;
pub mod contract;
pub mod declared;
mod digest;
pub mod expr;
mod failure;
pub mod kinds;
mod numerics;
pub mod release;
pub mod rows;
mod stage;
pub mod task;
pub mod text;
mod types;
pub mod wire;

pub use args::Args;
pub use artifact::{ArtifactRef, ArtifactType, FileRef, Manifest};
pub use digest::{Digest, ParseDigestError, canonical_json};
pub use expr::{Expr, MixTerm, Value};
pub use failure::{Failure, FailureClass};
pub use numerics::{NumericRows, Numerics};
pub use rows::RowCache;
pub use stage::{Context, Output, Progress, Stage};
pub use types::Type;

/// Version of the messages in [`wire`] and of [`task::Task`]. Independent of the crate's version.
pub const PROTOCOL_VERSION: u32 = 2;
