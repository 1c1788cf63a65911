//! The explicit list of built-in stages: nothing registers itself.
//!
//! It is a separate crate because it links every model library. What finds and runs stages is in
//! `headstart-runner`, which links none, so that the engine's driver and a device library build and
//! test without them.
//!
//! # Layout
//! - [`stages`]: every implementation, in the order of the flow.
//! - [`backend`]: what they compute with.

pub mod backend;

use std::sync::Arc;

pub use headstart_ingest::hub_cache;
use headstart_lm::Backend;
use headstart_protocol::{Args, Context, Failure, Numerics, Output, Stage, kinds};
use headstart_train::TrainingBackend;

/// Every built-in stage, over one backend. Numeric ones say what they compute with.
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
    let numerics = backend::numerics(&*backend);
    let numeric = |stage: Box<dyn Stage>| -> Box<dyn Stage> {
        match kinds::find(stage.kind()) {
            Some(kind) if kind.numeric => Box::new(NumericStage { stage, numerics: numerics.clone() }),
            _ => stage,
        }
    };
    groups.into_iter().flatten().map(numeric).collect()
}

/// A stage together with what it computes with.
struct NumericStage {
    stage: Box<dyn Stage>,
    numerics: Numerics,
}

impl Stage for NumericStage {
    fn kind(&self) -> &str {
        self.stage.kind()
    }

    fn numerics(&self) -> Option<Numerics> {
        Some(self.numerics.clone())
    }

    fn run(&self, args: &Args, ctx: &dyn Context) -> Result<Output, Failure> {
        self.stage.run(args, ctx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exactly_the_numeric_kinds_say_what_they_compute_with() {
        for stage in stages(backend::cpu()) {
            let kind = kinds::find(stage.kind()).expect("a kind of the language");
            assert_eq!(stage.numerics().is_some(), kind.numeric, "{}", kind.name);
            if let Some(numerics) = stage.numerics() {
                assert_eq!((numerics.backend.as_str(), numerics.precision.as_str()), ("cpu", "f32"));
                assert!(numerics.instruction_set.is_some(), "a CPU has one");
            }
        }
    }
}
