//! The same numbers of the reference libraries that the CPU backend is held against
//! (models/train/tests/parity.rs), through MLX.
#![cfg(feature = "mlx")]
#![allow(clippy::unwrap_used, reason = "clippy counts the helpers of a test as no test")]

#[path = "../../lm/tests/fixtures/mod.rs"]
mod fixtures;
#[path = "../../train/tests/peers/mod.rs"]
#[allow(dead_code, reason = "the other half is for tests/cpu.rs")]
mod peers;

use std::sync::Arc;

use fixtures::{Case, cases};
use headstart_lm::{Adapter, LmError, Model};
use headstart_mlx::{MlxGradients, MlxPasses};
use headstart_train::{GradientBackend, Keep};

fn passes(case: &Case, adapted: bool) -> MlxPasses {
    let adapter = case.folder.join("adapter");
    MlxPasses::load(&case.folder.join("model"), adapted.then_some(adapter.as_path())).unwrap()
}

/// As `headstart_train::MakeGradients`.
fn gradients(model: &Arc<Model>, adapter: Option<&Adapter>) -> Result<Box<dyn GradientBackend>, LmError> {
    Ok(Box::new(MlxGradients::new(model, adapter.expect("cases have adapters"))?))
}

#[test]
fn parity_of_logits_and_hidden_states() {
    cases().iter().for_each(|c| peers::parity_of_states(c, &passes(c, false), &passes(c, true)));
}

#[test]
fn parity_of_greedy_tokens() {
    cases().iter().for_each(|c| peers::parity_of_greedy_tokens(c, &passes(c, false)));
}

#[test]
fn parity_of_loss_gradients_and_training() {
    cases().iter().for_each(|c| peers::parity_of_training(c, &gradients, Keep::Activations));
}

#[test]
fn padding_changes_nothing() {
    cases().iter().for_each(|c| peers::padding_changes_nothing(c, &gradients));
}
