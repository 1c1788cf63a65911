//! Stage kinds that measure how well personalization works, so that a study is a pipeline.
//!
//! # Layout
//! - [`simulate`]: how often simulated users are given the right pLLM; [`world`] draws them.
//! - [`scale`]: what a selection costs by the size of the catalog.
//! - [`levels`]: whether coefficients follow the levels of one style.
//! - [`savings`]: steps, seconds and rows that a head start saves.
//! - [`table`]: tables, and the stage that puts metrics into one.
//! - [`arguments`]: lists of numbers among a stage's arguments.

mod arguments;
mod levels;
mod savings;
mod scale;
mod simulate;
mod table;
mod world;

use std::sync::Arc;

use headstart_lm::Backend;
use headstart_protocol::Stage;

/// The stages of this crate, computing with `backend`.
pub fn stages(backend: Arc<dyn Backend>) -> Vec<Box<dyn Stage>> {
    vec![
        Box::new(simulate::Simulate { backend }),
        Box::new(scale::Scale),
        Box::new(levels::Levels),
        Box::new(savings::Savings),
        Box::new(table::TableStage),
    ]
}
