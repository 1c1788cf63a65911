//! Losses, gradients and steps held against the reference libraries (PEFT, PyTorch) on small random
//! models.

#![allow(clippy::unwrap_used, reason = "clippy counts the helpers of a test as no test")]

#[path = "../../lm/tests/fixtures/mod.rs"]
mod fixtures;
#[allow(dead_code, reason = "the rest is for other backends")]
mod peers;

use std::sync::Arc;

use fixtures::cases;
use headstart_lm::{Adapter, Model, pack};
use headstart_train::{AdamW, AdamWSpec, CpuGradients, GradientBackend, Keep, Pass, TrainableParams};
use peers::example;

#[test]
fn parity_of_loss_gradients_and_training() {
    for keep in [Keep::Activations, Keep::Input] {
        cases().iter().for_each(|c| peers::parity_of_training(c, &CpuGradients::make, keep));
    }
}

#[test]
fn rows_have_the_gradients_that_they_have_alone() {
    cases().iter().for_each(|c| peers::padding_changes_nothing(c, &CpuGradients::make));
}

/// The same bits on one thread and on several, and whether activations are kept or made again.
#[test]
fn threads_and_checkpointing_do_not_change_a_bit() {
    for case in cases() {
        let run = |threads: usize, keep: Keep| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let model = Arc::new(Model::load(&case.folder.join("model")).unwrap());
                let adapter = Adapter::load(&case.folder.join("adapter"), &model.config).unwrap();
                let mut params = TrainableParams::adapter(&adapter);
                let backend = CpuGradients::new(model, Some(&adapter));
                let rows: Vec<_> = case.rows("input_ids").into_iter().map(|ids| example(ids, 6)).collect();
                let (batch, targets) = pack(&rows);
                let mut optimizer = AdamW::new(&params, AdamWSpec::default());
                for _ in 0..3 {
                    let pass = Pass::plain(0.05, keep);
                    let (_, grads) = backend.gradients(&params.values, &batch, &targets, &pass).unwrap();
                    optimizer.step(&mut params.values, &grads, 1e-2).unwrap();
                }
                params.values
            })
        };
        let first = run(1, Keep::Activations);
        assert_eq!(first, run(3, Keep::Activations), "{}", case.name);
        assert_eq!(first, run(2, Keep::Input), "{}", case.name);
    }
}
