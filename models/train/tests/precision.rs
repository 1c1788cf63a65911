//! Gradients with products of bf16: near those with products of f32.

#![allow(clippy::unwrap_used, reason = "clippy counts the helpers of a test as no test")]

#[path = "../../lm/tests/fixtures/mod.rs"]
mod fixtures;
#[allow(dead_code, reason = "the rest is for other backends")]
mod peers;

use std::path::Path;
use std::sync::Arc;

use fixtures::cases;
use headstart_lm::{Adapter, Model, Precision, Weights, pack};
use headstart_train::{CpuGradients, GradientBackend, Keep, Pass, TrainableParams};
use peers::example;
use safetensors::{Dtype, tensor::TensorView};

/// A model with the upper halves of its weights.
fn halved(model: &Path) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(model.join("config.json"), folder.path().join("config.json")).unwrap();
    let weights = Weights::open_model(model).unwrap();
    let upper = |v: f32| ((v.to_bits() >> 16) as u16).to_le_bytes();
    let bytes = |v: Vec<f32>| v.into_iter().flat_map(upper).collect::<Vec<u8>>();
    let all: Vec<_> = weights.iter().map(|(name, w)| (name, w.shape.clone(), bytes(w.to_vec()))).collect();
    let views = all.iter().map(|(n, s, b)| (*n, TensorView::new(Dtype::BF16, s.clone(), b).unwrap()));
    safetensors::serialize_to_file(views, None, &folder.path().join("model.safetensors")).unwrap();
    folder
}

#[test]
fn gradients_in_bf16_are_near_those_in_f32() {
    for case in cases() {
        let folder = halved(&case.folder.join("model"));
        let run = |precision: Precision| {
            let model = Arc::new(Model::load_in(folder.path(), precision).unwrap());
            let adapter = Adapter::load(&case.folder.join("adapter"), &model.config).unwrap();
            let params = TrainableParams::adapter(&adapter);
            let backend = CpuGradients::new(model, Some(&adapter));
            let rows: Vec<_> = case.rows("input_ids").into_iter().map(|ids| example(ids, 6)).collect();
            let (batch, targets) = pack(&rows);
            let pass = Pass::plain(0.05, Keep::Activations);
            let (loss, grads) = backend.gradients(&params.values, &batch, &targets, &pass).unwrap();
            (loss, grads.concat())
        };
        let ((exact, a), (loss, b)) = (run(Precision::F32), run(Precision::Bf16));
        assert!((loss / exact - 1.0).abs() < 0.01, "{}: {loss} and {exact}", case.name);
        let dot = |a: &[f32], b: &[f32]| -> f64 {
            a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
        };
        let cosine = dot(&a, &b) / (dot(&a, &a) * dot(&b, &b)).sqrt();
        assert!(cosine > 0.999, "{}: cosine {cosine}", case.name);
        assert_eq!(a != b, headstart_kernels::isa::bf16(), "in bf16 where the processor has it");
    }
}
