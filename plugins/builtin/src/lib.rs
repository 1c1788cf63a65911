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

/// Every built-in stage, over one backend.
pub fn stages(backend: Arc<dyn Backend>) -> Vec<Box<dyn Stage>> {
    let groups = [
        headstart_ingest::stages,
        headstart_explain::stages,
        headstart_select::stages,
        headstart_merge::stages,
        headstart_finetune::stages,
        headstart_evaluate::stages,
        headstart_study::stages,
    ];
    groups.into_iter().flat_map(|stages| stages(Arc::clone(&backend))).collect()
}
