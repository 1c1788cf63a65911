//! The explicit list of built-in stages: nothing registers itself.
//!
//! It is a crate of its own because it links every model library. What finds and runs stages is in
//! `headstart-runner`, which links none, so that the engine's driver and a device library build and
//! test without them.
//!
//! # Layout
//! - [`stages`]: every implementation, in the order of the flow.
//! - [`backend`]: what they compute with.

pub mod backend;

use std::sync::Arc;

use headstart_lm::Backend;
use headstart_protocol::Stage;
use headstart_train::TrainingBackend;

/// Every built-in stage, over one backend.
pub fn stages(backend: Arc<dyn TrainingBackend>) -> Vec<Box<dyn Stage>> {
    let inference = || -> Arc<dyn Backend> { backend.clone() };
    let groups = [
        headstart_ingest::stages(inference()),
        headstart_explain::stages(inference()),
        headstart_select::stages(inference()),
        headstart_merge::stages(inference()),
        headstart_finetune::stages(backend.clone()),
        headstart_evaluate::stages(inference()),
        headstart_study::stages(inference()),
    ];
    groups.into_iter().flatten().collect()
}
