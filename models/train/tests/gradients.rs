//! Backward passes of the whole model against differences of its loss, for every parameter vector:
//! blocks, embedding (from both of its ends where it is tied), norm, output layer, LoRA pairs.
//!
//! The single operations are held against differences where they are defined, in `headstart-kernels`.

#![allow(clippy::unwrap_used, reason = "clippy counts the helpers of a test as no test")]

use std::path::Path;
use std::sync::Arc;

use headstart_lm::{Adapter, Example, Model, pack};
use headstart_train::{CpuGradients, Dropout, GradientBackend, Keep, Pass, TrainableParams};

fn folder(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../lm/tests/fixtures/parity").join(name)
}

#[expect(clippy::single_range_in_vec_init, reason = "one answer")]
fn rows() -> Vec<Example> {
    let row = |n: u32, first: usize, a: u32| Example {
        ids: (0..n).map(|i| (i * a + 5) % 160).collect(),
        answers: vec![first..n as usize],
        bytes: 0,
        cut: false,
    };
    vec![row(9, 3, 17), row(4, 2, 31), row(13, 1, 7), row(2, 1, 3)]
}

/// A training's parameters and what computes their gradients.
struct Case {
    params: TrainableParams,
    backend: CpuGradients,
    dropout: Option<Dropout>,
}

impl Case {
    fn adapter(name: &str) -> Self {
        let model = Arc::new(Model::load(&folder(name).join("model")).unwrap());
        let adapter = Adapter::load(&folder(name).join("adapter"), &model.config).unwrap();
        let params = TrainableParams::adapter(&adapter);
        Self { params, backend: CpuGradients::new(model, Some(&adapter)), dropout: None }
    }

    fn full(name: &str) -> Self {
        let model = Arc::new(Model::load(&folder(name).join("model")).unwrap());
        let params = TrainableParams::full(&model);
        Self { params, backend: CpuGradients::new(model, None), dropout: None }
    }

    fn pass(&self, rows: &[Example], keep: Keep) -> (f32, Vec<Vec<f32>>) {
        let (batch, targets) = pack(rows);
        let pass = Pass { scale: 0.1, keep, dropout: self.dropout.as_ref() };
        self.backend.gradients(&self.params.values, &batch, &targets, &pass).unwrap()
    }
}

/// Moves each parameter vector along its own gradient, both ways: the loss must change by the
/// gradient's length.
fn agrees_with_differences(mut case: Case, what: &str) {
    let rows = rows();
    let (_, grads) = case.pass(&rows, Keep::Input);
    for (i, grad) in grads.iter().enumerate() {
        let at = case.params.values[i].clone();
        let length = grad.iter().map(|g| g * g).sum::<f32>().sqrt();
        assert!(length > 1e-4, "{what}: parameter {i} has a gradient");
        let step = 4e-3 / length;
        let mut moved = |by: f32| {
            let values = at.iter().zip(grad).map(|(v, g)| v + g / length * by);
            case.params.values[i] = values.collect();
            f64::from(case.pass(&rows, Keep::Activations).0)
        };
        // Fourth order, so that the step may be wide enough for f32.
        let difference = (8.0 * (moved(step) - moved(-step)) - (moved(2.0 * step) - moved(-2.0 * step)))
            / (12.0 * f64::from(step));
        case.params.values[i] = at;
        let ratio = difference / f64::from(length);
        assert!(
            (ratio - 1.0).abs() < 0.02,
            "{what}: parameter {i}: {difference} by differences, {length} by gradient"
        );
    }
}

#[test]
fn of_adapters_with_and_without_dropout() {
    for name in ["llama3-rope-untied", "qwen2-tied"] {
        agrees_with_differences(Case::adapter(name), name);
        let tokens = rows().iter().map(|r| r.ids.len() as u64).sum();
        let dropout = Some(Dropout { share: 0.3, tokens: (0..tokens).collect() });
        agrees_with_differences(Case { dropout, ..Case::adapter(name) }, &format!("{name} with dropout"));
    }
}

#[test]
fn of_all_weights() {
    for name in ["llama-tied", "llama3-rope-untied", "qwen2-tied"] {
        agrees_with_differences(Case::full(name), name);
    }
}

/// An adapter of which the first block has nothing: its gradients are those of the whole adapter's
/// other blocks where the first one's values change nothing.
#[test]
fn of_an_adapter_without_its_first_block() {
    let name = "qwen2-tied";
    let model = Arc::new(Model::load(&folder(name).join("model")).unwrap());
    let mut whole = Adapter::load(&folder(name).join("adapter"), &model.config).unwrap();
    whole.values[0].fill(0.0);
    let mut partial = whole.clone();
    (partial.layouts[0], partial.values[0]) = Default::default();
    let [whole, partial] = [whole, partial].map(|adapter| {
        let params = TrainableParams::adapter(&adapter);
        let case = Case { params, backend: CpuGradients::new(model.clone(), Some(&adapter)), dropout: None };
        case.pass(&rows(), Keep::Activations)
    });
    assert_eq!(whole.0, partial.0);
    assert_eq!(whole.1[1..], partial.1[..]);
}

/// The loss is over tokens, not over rows: four micro-batches of one row, weighted by their tokens,
/// give the gradient of one batch of four, although the rows have 1 to 12 targets.
#[test]
fn four_times_one_row_is_once_four_rows() {
    let case = Case::adapter("qwen2-tied");
    let (_, whole) = case.pass(&rows(), Keep::Activations);
    let parts: Vec<_> =
        rows().iter().map(|row| case.pass(std::slice::from_ref(row), Keep::Activations).1).collect();
    for (i, once) in whole.iter().enumerate() {
        let mut sum = vec![0f32; once.len()];
        for part in &parts {
            sum.iter_mut().zip(&part[i]).for_each(|(s, v)| *s += v);
        }
        let largest = once.iter().fold(0f32, |m, v| m.max(v.abs()));
        let worst = once.iter().zip(&sum).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
        assert!(worst <= 1e-6 * largest, "{worst} of {largest}");
    }
}
