//! Stage kinds `evaluate` and `accuracy`, and the measures behind them.
//!
//! # Layout
//! - [`bleu`]: BLEU as sacrebleu computes it.
//! - [`rouge`]: ROUGE as `rouge_score` computes it.
//! - [`evaluate`]: the stage that measures a model on rows.
//! - [`accuracy`]: the stage that counts right selections.

mod accuracy;
pub mod bleu;
mod evaluate;
mod rouge;

use std::sync::Arc;

use headstart_protocol::Stage;

pub use accuracy::Accuracy;
pub use evaluate::{Evaluate, SAMPLES_FILE};
pub use rouge::Rouge;

/// The stages of this crate.
pub fn stages(backend: Arc<dyn headstart_lm::Backend>) -> Vec<Box<dyn Stage>> {
    vec![Box::new(evaluate::Evaluate::new(backend)), Box::new(accuracy::Accuracy)]
}
