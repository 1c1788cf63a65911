//! Stage kind `merge`: pLLMs of one base, combined by weights.
//!
//! Adapters are merged exactly, by concatenation, or to a given rank with a known error; full
//! weights are streamed with bounded memory. Results depend on the inputs and the seed alone, not
//! on the number of threads.
//!
//! # Layout
//! - [`stage`]: the stage: the mix's terms, their common base, the output.
//! - [`adapter`]: LoRA adapters in PEFT's format.
//! - [`full`]: full weights: task arithmetic, linear, TIES, DARE.
//! - [`error`]: what can be wrong.

pub mod adapter;
mod error;
pub mod full;
mod stage;

use std::sync::Arc;

use headstart_protocol::Stage;

pub use error::MergeError;
pub use stage::Merge;

/// The stages of this crate. A merge runs no model, so the backend goes unused.
pub fn stages(_backend: Arc<dyn headstart_lm::Backend>) -> Vec<Box<dyn Stage>> {
    vec![Box::new(stage::Merge)]
}
