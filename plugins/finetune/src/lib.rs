//! Stage kind `finetune`: trains an adapter, or all weights, on rows.
//!
//! # Layout
//! - [`stage`]: the stage: from arguments to a training, from its report to a pLLM.
//! - [`split`]: which rows are trained on and which are held back.

pub mod split;
pub mod stage;

use std::sync::Arc;

use headstart_lm::Backend;
use headstart_protocol::Stage;

/// The stages of this crate.
pub fn stages(backend: Arc<dyn Backend>) -> Vec<Box<dyn Stage>> {
    vec![Box::new(stage::Finetune { backend })]
}
