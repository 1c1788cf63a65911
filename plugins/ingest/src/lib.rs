//! Where everything in a pipeline comes from: the stage kind `ingest` and the sources of models,
//! datasets and spaces.
//!
//! Sources look closely at what they are given, so that a truncated file or a misspelt key is
//! found here, by name and line, and not in the middle of a training.
//!
//! # Layout
//! - [`models`]: `local`, `hf`, `init`.
//! - [`datasets`]: `jsonl`, `blend`, `concat`.
//! - [`spaces`]: `sentence`, `summarizer`, `pooled`.
//! - [`pllms`]: the stage kind `ingest`.
//! - [`folder`]: a model's folder, checked: its files, its config, names and shapes of its tensors.

mod conversation;
mod datasets;
mod folder;
mod models;
mod pllms;
mod spaces;

use std::sync::Arc;

use headstart_lm::Backend;
use headstart_protocol::Stage;

pub use datasets::{Blend, Concat, JsonLines};
pub use models::{Init, Local, hub_cache, snapshot};
pub use pllms::Ingest;
pub use spaces::{Pooled, Sentence, Summarizer};

/// The stages of this crate. None of them computes with a model, so the backend is not used.
pub fn stages(_backend: Arc<dyn Backend>) -> Vec<Box<dyn Stage>> {
    vec![
        Box::new(models::Local),
        Box::new(models::Hub),
        Box::new(models::Init),
        Box::new(datasets::JsonLines),
        Box::new(datasets::Blend),
        Box::new(datasets::Concat),
        Box::new(spaces::Sentence),
        Box::new(spaces::Summarizer),
        Box::new(spaces::Pooled),
        Box::new(pllms::Ingest),
    ]
}
