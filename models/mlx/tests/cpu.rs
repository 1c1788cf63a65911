//! The backend on MLX against the CPU backend: the same folders in, the same numbers out.
#![cfg(feature = "mlx")]
#![allow(clippy::unwrap_used, reason = "clippy counts the helpers of a test as no test")]

#[path = "../../lm/tests/fixtures/mod.rs"]
#[allow(dead_code, reason = "fixtures are for tests/parity.rs")]
mod fixtures;
#[path = "../../train/tests/peers/mod.rs"]
#[allow(dead_code, reason = "the other half is for tests/parity.rs")]
mod peers;
#[path = "../../lm/tests/tiny_bert/mod.rs"]
#[allow(dead_code, reason = "its plain forward pass is for the CPU's tests")]
mod tiny_bert;

use headstart_lm::{Backend, CpuBackend, LmError, Unwatched};
use headstart_mlx::MlxBackend;
use headstart_train::{Method, TrainSpec, TrainingBackend};
use peers::{adapter, base, close, spec};
use tiny_bert::TinyBert;

#[test]
fn scores_and_states_are_the_cpus() {
    peers::scores_and_states_are_the_cpus(&MlxBackend::new().unwrap());
}

#[test]
fn answers_are_the_cpus_in_any_company() {
    peers::answers_are_the_cpus_in_any_company(&MlxBackend::new().unwrap());
}

#[test]
fn a_fine_tune_ends_with_the_cpus_adapter() {
    peers::a_fine_tune_ends_with_the_cpus_adapter(&MlxBackend::new().unwrap(), |_| {});
}

/// The same training twice gives the same bytes; a limit is kept by smaller steps, or refused with
/// the figure that would do.
#[test]
fn a_training_is_repeatable_and_keeps_its_limit() {
    let dir = tempfile::tempdir().unwrap();
    let base = base(dir.path());
    let mlx = MlxBackend::new().unwrap();
    let train = |name: &str, memory: Option<u64>| {
        let spec = TrainSpec { memory, max_steps: 4, ..spec(&base, dir.path().join(name)) };
        mlx.train(&spec, &Unwatched)
            .map(|_| std::fs::read(spec.out.join("adapter_model.safetensors")).unwrap())
    };
    let first = train("a", None).unwrap();
    assert!(first == train("b", None).unwrap());
    let Err(LmError::Memory(why)) = train("c", Some(1 << 20)) else { panic!("expected a refusal") };
    let words: Vec<&str> = why.split(' ').collect();
    let least: u64 = words[words.iter().position(|w| *w == "least").unwrap() + 1].parse().unwrap();
    assert!(!dir.path().join("c").exists(), "a refusal writes nothing");
    train("d", Some(least << 20)).unwrap();
    let [a, d] = ["a", "d"].map(|name| adapter(&dir.path().join(name)));
    a.iter().zip(&d).for_each(|((name, a), (_, d))| close(name, d, a, 5e-3));
}

/// What MLX does not train is trained on the CPU, and written as there.
#[test]
fn all_weights_are_trained_on_the_cpu() {
    let dir = tempfile::tempdir().unwrap();
    let base = base(dir.path());
    let train = |backend: &dyn TrainingBackend, name: &str| {
        let spec = TrainSpec { method: Method::Full, max_steps: 2, ..spec(&base, dir.path().join(name)) };
        backend.train(&spec, &Unwatched).unwrap();
        std::fs::read(spec.out.join("model.safetensors")).unwrap()
    };
    assert!(train(&MlxBackend::new().unwrap(), "mlx") == train(&CpuBackend::new(1), "cpu"));
}

#[test]
fn sentence_vectors_are_the_cpus() {
    let texts = [
        "rain",
        "the wind and the rain",
        "",
        "a rainy day, a windy day",
        "unknownword the sun!",
        "the sun and the wind and the rain and a day and the sun and the wind and the rain and a day",
    ];
    let texts = texts.map(String::from);
    for (prefix, act) in [("", "gelu"), ("bert.", "gelu_new"), ("", "relu")] {
        let dir = tempfile::tempdir().unwrap();
        TinyBert::new(7, act).write(dir.path(), prefix);
        std::fs::write(dir.path().join("sentence_bert_config.json"), r#"{"max_seq_length": 10}"#).unwrap();
        let vectors = |b: &dyn Backend| b.encoder(dir.path()).unwrap().encode(&texts, &Unwatched).unwrap();
        let cpu = vectors(&CpuBackend::new(2));
        for (text, (a, b)) in texts.iter().zip(cpu.iter().zip(vectors(&MlxBackend::new().unwrap()))) {
            close(text, &b, a, 1e-5);
        }
    }
}
