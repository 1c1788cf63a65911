//! The backend on MLX against the backend on candle: the same folders in, the same numbers out.
#![cfg(feature = "mlx")]

#[path = "../../lm/tests/tiny_bert/mod.rs"]
#[allow(dead_code, reason = "its plain forward pass is for candle's tests")]
mod tiny_bert;
#[path = "../../lm/tests/tiny_llama/mod.rs"]
mod tiny_llama;

use std::path::{Path, PathBuf};

use headstart_lm::api::{Backend, Decoder, GenerateOptions, Method, TrainSpec, Unwatched};
use headstart_lm::{CandleBackend, LmError};
use headstart_mlx::MlxBackend;
use headstart_protocol::rows::Row;
use tiny_bert::TinyBert;

/// How answers end: with different lengths.
const ENDS: [&str; 3] = ["!", "! Truly, my friend.", "! It is so, and it was so before."];

fn rows(n: usize, from: usize) -> Vec<Row> {
    tiny_llama::rows(n, from, &ENDS)
}

fn base(dir: &Path) -> PathBuf {
    tiny_llama::base(dir, &ENDS)
}

/// Both backends' decoders of the same model, candle's first.
fn decoders(dir: &Path) -> [Box<dyn Decoder>; 2] {
    let base = base(dir);
    [
        CandleBackend::new(2).decoder(&base, None).unwrap(),
        MlxBackend::new().unwrap().decoder(&base, None).unwrap(),
    ]
}

fn close(what: &str, found: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let largest = expected.iter().fold(0f32, |m, v| m.max(v.abs()));
    let worst = found.iter().zip(expected).map(|(f, e)| (f - e).abs()).fold(0.0, f32::max);
    assert!(worst <= tolerance * largest, "{what}: {worst} of {largest}");
}

#[test]
fn scores_and_states_are_candles() {
    let dir = tempfile::tempdir().unwrap();
    let [candle, mlx] = decoders(dir.path());
    assert_eq!(candle.info(), mlx.info());
    let rows = rows(13, 0);
    let scores = |d: &dyn Decoder| d.score(&rows, 64, &Unwatched).unwrap();
    for (a, b) in scores(&*candle).iter().zip(scores(&*mlx)) {
        assert_eq!((a.tokens, a.bytes), (b.tokens, b.bytes));
        assert!((a.nll - b.nll).abs() < 1e-4 * a.nll, "{} and {}", a.nll, b.nll);
    }
    // The last one is longer than the context: read in windows.
    let mut texts: Vec<String> = rows.iter().map(|r| r.response.clone()).collect();
    texts.push(texts.concat());
    let pooled = |d: &dyn Decoder| d.pooled(&texts, &Unwatched).unwrap();
    for (i, (a, b)) in pooled(&*candle).iter().zip(pooled(&*mlx)).enumerate() {
        close(&format!("pooled {i}"), &b, a, 1e-4);
    }
    let next = |d: &dyn Decoder| d.next(&texts[..5], 3, &Unwatched).unwrap();
    for (a, b) in next(&*candle).iter().zip(next(&*mlx)) {
        close("next", &b.hidden, &a.hidden, 1e-4);
        let [p, q] = [a, &b].map(|n| n.top.iter().map(|t| t.1).collect::<Vec<_>>());
        close("probabilities", &q, &p, 1e-4);
    }
}

/// Greedy and drawn with the same seed: candle's answers, alone and among others.
#[test]
fn answers_are_candles_in_any_company() {
    let dir = tempfile::tempdir().unwrap();
    let [candle, mlx] = decoders(dir.path());
    let prompts: Vec<String> =
        rows(9, 3).into_iter().map(|r| r.prompt + &" so".repeat(r.response.len() % 5)).collect();
    for temperature in [0.0, 1.0] {
        let options = GenerateOptions { max_tokens: 14, temperature, seed: 3 };
        let expected = candle.generate(&prompts, &options, &Unwatched).unwrap();
        assert_eq!(mlx.generate(&prompts, &options, &Unwatched).unwrap(), expected);
        assert_eq!(mlx.generate(&prompts[..2], &options, &Unwatched).unwrap(), expected[..2]);
    }
}

fn spec(base: &Path, out: PathBuf) -> TrainSpec {
    tiny_llama::spec(base, tiny_llama::lora(), &ENDS, out)
}

/// The tensors of a written adapter, by name.
fn adapter(folder: &Path) -> Vec<(String, Vec<f32>)> {
    let bytes = std::fs::read(folder.join("adapter_model.safetensors")).unwrap();
    let all = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let number = |b: &[u8]| f32::from_le_bytes(b.try_into().unwrap());
    let numbers = |data: &[u8]| data.chunks_exact(4).map(number).collect();
    let mut all: Vec<_> = all.iter().map(|(name, t)| (name.to_owned(), numbers(t.data()))).collect();
    all.sort_by(|a, b| a.0.cmp(&b.0));
    all
}

/// One fine-tune on each: the same curve, and the same adapter to rounding. Each backend's adapter
/// has the same loss on the other.
#[test]
fn a_fine_tune_ends_with_candles_adapter() {
    let dir = tempfile::tempdir().unwrap();
    let base = base(dir.path());
    let (candle, mlx) = (CandleBackend::new(2), MlxBackend::new().unwrap());
    let specs = ["candle", "mlx"].map(|name| spec(&base, dir.path().join(name)));
    let reports = [candle.train(&specs[0], &Unwatched).unwrap(), mlx.train(&specs[1], &Unwatched).unwrap()];
    assert!(reports[0].loss < reports[0].start_loss - 0.05, "it learns: {:?}", reports[0].curve);
    for (a, b) in reports[0].curve.iter().zip(&reports[1].curve) {
        assert!(a.0 == b.0 && (a.1 - b.1).abs() < 2e-4 * a.1, "{a:?} and {b:?}");
    }
    assert_eq!((reports[0].steps, reports[0].tokens), (reports[1].steps, reports[1].tokens));
    let adapters = specs.each_ref().map(|s| adapter(&s.out));
    for ((name, a), (other, b)) in adapters[0].iter().zip(&adapters[1]) {
        assert_eq!(name, other);
        close(name, b, a, 5e-3);
    }
    for spec in &specs {
        let [a, b] = [&candle as &dyn Backend, &mlx].map(|backend| {
            let decoder = backend.decoder(&base, Some(&spec.out)).unwrap();
            let scores = decoder.score(&spec.eval, 64, &Unwatched).unwrap();
            let tokens: usize = scores.iter().map(|s| s.tokens).sum();
            scores.iter().map(|s| s.nll).sum::<f64>() / tokens as f64
        });
        assert!((a - reports[0].loss).abs() < 5e-4 && (a - b).abs() < 1e-4, "{a} and {b}");
    }
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

/// What MLX does not train is trained on candle, and written as there.
#[test]
fn all_weights_are_trained_on_candle() {
    let dir = tempfile::tempdir().unwrap();
    let base = base(dir.path());
    let train = |backend: &dyn Backend, name: &str| {
        let spec = TrainSpec { method: Method::Full, max_steps: 2, ..spec(&base, dir.path().join(name)) };
        backend.train(&spec, &Unwatched).unwrap();
        std::fs::read(spec.out.join("model.safetensors")).unwrap()
    };
    assert!(train(&MlxBackend::new().unwrap(), "mlx") == train(&CandleBackend::new(1), "candle"));
}

#[test]
fn sentence_vectors_are_candles() {
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
        let candle = vectors(&CandleBackend::new(2));
        for (text, (a, b)) in texts.iter().zip(candle.iter().zip(vectors(&MlxBackend::new().unwrap()))) {
            close(text, &b, a, 1e-5);
        }
    }
}
