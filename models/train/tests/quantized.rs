//! Adapters trained over quantized weights.

#![allow(clippy::unwrap_used, reason = "clippy counts the helpers of a test as no test")]

#[path = "../../lm/tests/quantized/mod.rs"]
mod quantized;

use std::sync::Arc;

use headstart_lm::{Adapter, LoraSpec, Model, Targets};
use headstart_train::{CpuGradients, GradientBackend, Keep, Pass};
use quantized::{batch, close, models, noise, pair};

#[test]
fn gradients_over_a_quantized_base_are_those_over_its_dequantized_weights() {
    let (_own, all) = models();
    for (model, to) in all {
        let pair = pair(&model, to);
        assert!(pair.file.exists());
        let targets = ["q_proj", "v_proj", "down_proj"].map(str::to_owned).to_vec();
        let spec = LoraSpec { rank: 4, alpha: 8.0, rslora: false, targets };
        let mut adapter = Adapter::fresh(&spec, &pair.packed.config, 3).unwrap();
        adapter.values.iter_mut().enumerate().for_each(|(i, v)| *v = noise(v.len(), i as u32));
        let batch = batch(pair.packed.config.vocab);
        let rows: Vec<usize> = (0..8).chain(9..22).collect();
        let ids = rows.iter().map(|r| batch.ids[r + 1]).collect();
        let targets = Targets { rows, ids };
        let run = |model: &Arc<Model>| {
            let backend = CpuGradients::new(model.clone(), Some(&adapter));
            let pass = Pass::plain(0.05, Keep::Input);
            backend.gradients(&adapter.values, &batch, &targets, &pass).unwrap().1
        };
        for (packed, plain) in run(&pair.packed).iter().zip(&run(&pair.plain)) {
            assert!(plain.iter().any(|v| *v != 0.0));
            close("gradient", packed, plain, 1e-4);
        }
    }
}
