//! The same numbers of the reference libraries that the backend on candle is held against
//! (models/lm/tests/parity.rs), through MLX.
#![cfg(feature = "mlx")]
#![allow(clippy::unwrap_used, reason = "clippy counts the helpers of a test as no test")]

#[path = "../../lm/tests/fixtures/mod.rs"]
mod fixtures;
#[path = "../../lm/tests/fixtures/peers.rs"]
#[allow(dead_code, reason = "the other half is for tests/candle.rs")]
mod peers;

use std::sync::Arc;

use fixtures::{Case, cases};
use headstart_lm::lora::Adapter;
use headstart_lm::model::Model;
use headstart_lm::net::Net;
use headstart_lm::ops::block::Keep;
use headstart_mlx::MlxPasses;
use headstart_mlx::train::Trainer;

fn passes(case: &Case, adapted: bool) -> MlxPasses {
    let adapter = case.folder.join("adapter");
    MlxPasses::load(&case.folder.join("model"), adapted.then_some(adapter.as_path())).unwrap()
}

/// The adapter over a net whose losses and gradients MLX computes, as in a training.
fn net(case: &Case) -> Net {
    let model = Arc::new(Model::load(&case.folder.join("model")).unwrap());
    let adapter = Adapter::load(&case.folder.join("adapter"), &model.config).unwrap();
    let mut net = Net::new(model, adapter.overlay(&candle_core::Device::Cpu).unwrap());
    net.foreign = Some(Box::new(Trainer::new(&net.model, &adapter).unwrap()));
    net
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
    cases().iter().for_each(|c| peers::parity_of_training(c, &net(c), Keep::Activations));
}

#[test]
fn padding_changes_nothing() {
    cases().iter().for_each(|c| peers::padding_changes_nothing(c, &net(c)));
}
