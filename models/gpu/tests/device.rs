//! Decoders on a candle device, held against the numbers of the reference libraries and against the
//! CPU kernels. On candle's CPU device, or, in a build with the feature, on the GPU that
//! `HEADSTART_TEST_DEVICE` names: `make test-cuda`, `make test-metal`.

#![allow(clippy::unwrap_used, reason = "clippy counts the helpers of a test as no test")]

#[path = "../../lm/tests/fixtures/mod.rs"]
mod fixtures;
#[path = "../../train/tests/peers/mod.rs"]
mod peers;

use std::sync::Arc;

use candle_core::Device;
use fixtures::{Case, cases};
use headstart_gpu::{DeviceBackend, DeviceGradients, Gpu};
use headstart_lm::{
    Adapter, Backend, CpuBackend, LmError, Model, Net, Passes, Sampling, Unwatched, generate, pack,
};
use headstart_train::{
    CpuGradients, GradientBackend, Keep, Method, Pass, TrainSpec, TrainableParams, TrainingBackend,
};
use peers::{adapter, base, close, example, spec};

fn device() -> Device {
    match std::env::var("HEADSTART_TEST_DEVICE") {
        Ok(name) => name.parse::<Gpu>().unwrap().open().unwrap(),
        Err(_) => Device::Cpu,
    }
}

fn backend() -> DeviceBackend {
    DeviceBackend::new(device())
}

fn passes(case: &Case, adapted: bool) -> impl Passes {
    let adapter = case.folder.join("adapter");
    backend().passes(&case.folder.join("model"), adapted.then_some(adapter.as_path())).unwrap()
}

fn model(case: &Case) -> Arc<Model> {
    Arc::new(Model::load(&case.folder.join("model")).unwrap())
}

/// As `headstart_train::MakeGradients`.
fn gradients(model: &Arc<Model>, adapter: Option<&Adapter>) -> Result<Box<dyn GradientBackend>, LmError> {
    Ok(Box::new(DeviceGradients::new(model, adapter, &device())?))
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
    for keep in [Keep::Activations, Keep::Input] {
        cases().iter().for_each(|c| peers::parity_of_training(c, &gradients, keep));
    }
}

#[test]
fn padding_changes_nothing() {
    cases().iter().for_each(|c| peers::padding_changes_nothing(c, &gradients));
}

/// Gradients of all weights, and of adapters of which the first block has none, are those of the CPU
/// kernels.
#[test]
fn gradients_are_the_cpus() {
    for case in cases() {
        let model = model(&case);
        let mut partial = Adapter::load(&case.folder.join("adapter"), &model.config).unwrap();
        (partial.layouts[0], partial.values[0]) = Default::default();
        let rows = case.rows("input_ids");
        let (batch, targets) = pack(&[example(rows[0].clone(), 6), example(rows[1][..9].to_vec(), 2)]);
        for (adapter, keep) in
            [(None, Keep::Activations), (None, Keep::Input), (Some(&partial), Keep::Activations)]
        {
            let params = adapter.map_or_else(|| TrainableParams::full(&model), TrainableParams::adapter);
            let cpu = CpuGradients::new(model.clone(), adapter);
            let device = gradients(&model, adapter).unwrap();
            let [a, b] = [&cpu as &dyn GradientBackend, &*device].map(|backend| {
                let pass = Pass::plain(0.05, keep);
                let (loss, mut all) = backend.gradients(&params.values, &batch, &targets, &pass).unwrap();
                all.push(vec![loss]);
                all
            });
            a.iter().zip(&b).for_each(|(a, b)| case.close("gradient", b, a));
        }
    }
}

#[test]
fn scores_and_states_are_the_cpus() {
    peers::scores_and_states_are_the_cpus(&backend());
}

#[test]
fn answers_are_the_cpus_in_any_company() {
    peers::answers_are_the_cpus_in_any_company(&backend());
}

/// Answers that outgrow the caches, which first have room for 256 tokens.
#[test]
fn long_answers_are_the_cpus() {
    let dir = tempfile::tempdir().unwrap();
    let base = base(dir.path());
    let config = std::fs::read_to_string(base.join("config.json")).unwrap();
    let mut config: serde_json::Value = serde_json::from_str(&config).unwrap();
    config["max_position_embeddings"] = 400.into();
    std::fs::write(base.join("config.json"), config.to_string()).unwrap();
    let prompts = [vec![5; 9], vec![40, 41, 42], vec![7; 8]];
    let sampling = Sampling { max_tokens: 280, temperature: 1.0, seed: 3, eos: &[] };
    let model = Model::load(&base).unwrap();
    let expected = generate(&Net::new(&model), &prompts, &sampling, &Unwatched).unwrap();
    assert!(expected.iter().all(|answer| answer.len() == 280));
    let passes = backend().passes(&base, None).unwrap();
    assert_eq!(passes.generate(&prompts, &sampling, &Unwatched).unwrap(), expected);
}

/// With dropout too: which numbers it sets to zero does not depend on the device.
#[test]
fn a_fine_tune_ends_with_the_cpus_adapter() {
    peers::a_fine_tune_ends_with_the_cpus_adapter(&backend(), |_| {});
    peers::a_fine_tune_ends_with_the_cpus_adapter(&backend(), |spec| spec.dropout = 0.2);
}

/// A limit is kept by smaller steps and checkpointed blocks, with the same result to rounding, or
/// refused with the figure that would do.
#[test]
fn a_training_keeps_its_limit() {
    let dir = tempfile::tempdir().unwrap();
    let base = base(dir.path());
    let train = |name: &str, memory: Option<u64>| {
        let spec = TrainSpec { memory, max_steps: 4, ..spec(&base, dir.path().join(name)) };
        backend().train(&spec, &Unwatched).map(|_| adapter(&spec.out))
    };
    let free = train("free", None).unwrap();
    let Err(LmError::Memory(why)) = train("refused", Some(1 << 20)) else { panic!("expected a refusal") };
    assert!(!dir.path().join("refused").exists(), "a refusal writes nothing");
    let words: Vec<&str> = why.split(' ').collect();
    let least: u64 = words[words.iter().position(|w| *w == "least").unwrap() + 1].parse().unwrap();
    let tight = train("tight", Some(least << 20)).unwrap();
    free.iter().zip(&tight).for_each(|((name, a), (_, b))| close(name, b, a, 5e-3));
}

#[test]
fn all_weights_are_trained_as_on_the_cpu() {
    let dir = tempfile::tempdir().unwrap();
    let base = base(dir.path());
    let train = |backend: &dyn TrainingBackend, name: &str| {
        let spec = TrainSpec { method: Method::Full, ..spec(&base, dir.path().join(name)) };
        let report = backend.train(&spec, &Unwatched).unwrap();
        let written = CpuBackend::new(1).decoder(&spec.out, None).unwrap();
        let scores = written.score(&spec.eval, 64, &Unwatched).unwrap();
        (report, scores.iter().map(|s| s.nll).sum::<f64>())
    };
    let ((a, scored), (b, also)) = (train(&CpuBackend::new(2), "cpu"), train(&backend(), "device"));
    assert!(a.loss < a.start_loss - 0.5 && a.trainable == b.trainable, "{a:?}");
    for ((step, a), (also, b)) in a.curve.iter().zip(&b.curve) {
        assert!(step == also && (a - b).abs() < 1e-3 * a, "{step}: {a} and {b}");
    }
    assert!((scored - also).abs() < 5e-3 * scored, "{scored} and {also}");
}

/// Quantized weights are widened on the device: the numbers of the CPU, which multiplies them packed.
#[test]
fn quantized_weights_are_widened() {
    let dir = tempfile::tempdir().unwrap();
    let base = base(dir.path());
    let packed = dir.path().join("packed");
    headstart_lm::gguf::quantize(
        &headstart_disk::SystemDisk,
        &base,
        &packed,
        headstart_lm::gguf::QuantType::Q8_0,
    )
    .unwrap();
    let rows = peers::rows(5, 0);
    let [a, b] = [&CpuBackend::new(2) as &dyn Backend, &backend()]
        .map(|backend| backend.decoder(&packed, None).unwrap().score(&rows, 64, &Unwatched).unwrap());
    for (a, b) in a.iter().zip(&b) {
        assert!((a.nll - b.nll).abs() < 1e-4 * a.nll, "{} and {}", a.nll, b.nll);
    }
}

#[test]
fn a_gpu_that_is_not_built_in_is_refused_with_what_to_do() {
    assert_eq!("cuda:3".parse::<Gpu>().unwrap(), Gpu::Cuda(3));
    assert!("tpu".parse::<Gpu>().unwrap_err().contains("cuda") && "cuda:x".parse::<Gpu>().is_err());
    for gpu in [Gpu::Cuda(0), Gpu::Metal].into_iter().filter(|gpu| !gpu.is_built()) {
        let why = gpu.open().unwrap_err().to_string();
        assert!(why.contains(&format!("--features {gpu}")) && why.contains("choose `cpu`"), "{why}");
    }
}
