//! Backward passes of the whole model against differences of its loss, for every parameter vector:
//! blocks, embedding (from both of its ends where it is tied), norm, output layer, LoRA pairs.
//!
//! The single operations are held against differences where they are defined, in `kernels`.

#![allow(clippy::unwrap_used, reason = "clippy counts the helpers of a test as no test")]

use std::path::Path;
use std::sync::Arc;

use candle_core::{Device, Tensor};
use headstart_lm::lora::Adapter;
use headstart_lm::model::Model;
use headstart_lm::net::{Dropout, Net};
use headstart_lm::ops::block::Keep;
use headstart_lm::rows::{Example, pack};

fn folder(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/parity").join(name)
}

#[expect(clippy::single_range_in_vec_init, reason = "one answer")]
fn rows() -> Vec<Example> {
    let row = |n: u32, first: usize, a: u32| Example {
        ids: (0..n).map(|i| (i * a + 5) % 160).collect(),
        answers: vec![first..n as usize],
        cut: false,
    };
    vec![row(9, 3, 17), row(4, 2, 31), row(13, 1, 7), row(2, 1, 3)]
}

fn loss(net: &Net, rows: &[Example], keep: Keep) -> Tensor {
    let (batch, targets) = pack(rows);
    net.loss(&batch, &targets, 0.1, keep).unwrap()
}

/// Moves each parameter vector along its own gradient, both ways: the loss must change by the
/// gradient's length.
fn agrees_with_differences(net: &Net, what: &str) {
    let rows = rows();
    let value = || f64::from(loss(net, &rows, Keep::Activations).to_scalar::<f32>().unwrap());
    let grads = loss(net, &rows, Keep::Input).backward().unwrap();
    for (i, (.., var)) in net.parameters().into_iter().enumerate() {
        let at = var.as_tensor().copy().unwrap();
        let grad = grads.get(&var).unwrap();
        let length = grad.sqr().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap().sqrt();
        assert!(length > 1e-4, "{what}: parameter {i} has a gradient");
        let step = 4e-3 / f64::from(length);
        let moved = |by: f64| {
            let direction = ((grad / f64::from(length)).unwrap() * by).unwrap();
            var.set(&(&at + direction).unwrap()).unwrap();
            value()
        };
        // Fourth order, so that the step may be wide enough for f32.
        let difference =
            (8.0 * (moved(step) - moved(-step)) - (moved(2.0 * step) - moved(-2.0 * step))) / (12.0 * step);
        var.set(&at).unwrap();
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
        let model = Arc::new(Model::load(&folder(name).join("model")).unwrap());
        let adapter = Adapter::load(&folder(name).join("adapter"), &model.config).unwrap();
        let mut net = Net::new(model, adapter.overlay(&Device::Cpu).unwrap());
        agrees_with_differences(&net, name);
        let tokens = rows().iter().map(|r| r.ids.len() as u64).sum();
        net.dropout = Some(Dropout { share: 0.3, tokens: Arc::new((0..tokens).collect()) });
        agrees_with_differences(&net, &format!("{name} with dropout"));
    }
}

#[test]
fn of_all_weights() {
    for name in ["llama-tied", "llama3-rope-untied", "qwen2-tied"] {
        let model = Arc::new(Model::load(&folder(name).join("model")).unwrap());
        let overlay = Net::full_overlay(&model, &Device::Cpu).unwrap();
        agrees_with_differences(&Net::new(model, overlay), name);
    }
}

/// The loss is over tokens, not over rows: four micro-batches of one row, weighted by their tokens,
/// give the gradient of one batch of four, although the rows have 1 to 12 targets.
#[test]
fn four_times_one_row_is_once_four_rows() {
    let name = "qwen2-tied";
    let model = Arc::new(Model::load(&folder(name).join("model")).unwrap());
    let adapter = Adapter::load(&folder(name).join("adapter"), &model.config).unwrap();
    let net = Net::new(model, adapter.overlay(&Device::Cpu).unwrap());
    let rows = rows();
    let whole = loss(&net, &rows, Keep::Activations).backward().unwrap();
    let parts: Vec<_> = rows
        .iter()
        .map(|row| loss(&net, std::slice::from_ref(row), Keep::Activations).backward().unwrap())
        .collect();
    for (.., var) in net.parameters() {
        let numbers = |t: &Tensor| t.to_vec1::<f32>().unwrap();
        let once = numbers(whole.get(&var).unwrap());
        let mut sum = vec![0f32; once.len()];
        for part in &parts {
            sum.iter_mut().zip(numbers(part.get(&var).unwrap())).for_each(|(s, v)| *s += v);
        }
        let largest = once.iter().fold(0f32, |m, v| m.max(v.abs()));
        let worst = once.iter().zip(&sum).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
        assert!(worst <= 1e-6 * largest, "{worst} of {largest}");
    }
}
