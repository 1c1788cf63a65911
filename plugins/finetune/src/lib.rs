//! Stage kind `finetune`: trains an adapter, or all weights, on rows.
//!
//! # Layout
//! - [`stage`]: the stage: from arguments to a training, from its report to a pLLM.
//! - [`split`]: which rows are trained on and which are held back.

mod split;
mod stage;

use std::sync::Arc;

use headstart_protocol::Stage;
use headstart_train::TrainingBackend;

pub use stage::{Finetune, PROJECTIONS};

/// The stages of this crate.
pub fn stages(backend: Arc<dyn TrainingBackend>) -> Vec<Box<dyn Stage>> {
    vec![Box::new(stage::Finetune { backend })]
}
