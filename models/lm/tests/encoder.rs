//! The sentence encoder against an independent plain implementation in f64, on a small random
//! model; windows, independence of batch and threads, faults. (`encoder_parity.rs` holds it
//! against published weights.)

#![allow(clippy::unwrap_used, reason = "clippy counts the helpers of a test as no test")]

mod tiny_bert;

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use headstart_lm::encoder::BertEncoder;
use headstart_lm::{Encoder, LmError, Unwatched, Watch};
use tiny_bert::TinyBert;

const TEXTS: [&str; 7] = [
    "rain",
    "the wind and the rain",
    "",
    "a rainy day, a windy day",
    "unknownword the sun!",
    "the sun and the wind and the rain and a day and the sun and the wind and the rain and a day",
    "the the the",
];

fn texts() -> Vec<String> {
    TEXTS.map(str::to_owned).to_vec()
}

fn encode(dir: &Path, threads: usize, texts: &[String]) -> Vec<Vec<f32>> {
    BertEncoder::load(dir, threads).unwrap().encode(texts, &Unwatched).unwrap()
}

fn assert_close(found: &[f32], expected: &[f64], what: &str) {
    assert_eq!(found.len(), expected.len());
    for (f, e) in found.iter().zip(expected) {
        assert!((f64::from(*f) - e).abs() < 2e-6, "{what}: {f} is not {e}");
    }
}

#[test]
fn equals_the_plain_implementation() {
    for (prefix, act) in [("", "gelu"), ("bert.", "gelu_new"), ("", "relu")] {
        let bert = TinyBert::new(7, act);
        let dir = tempfile::tempdir().unwrap();
        bert.write(dir.path(), prefix);
        for (text, vector) in texts().iter().zip(encode(dir.path(), 2, &texts())) {
            assert_close(&vector, &bert.embed(&bert.ids(text)), text);
        }
    }
}

#[test]
fn long_texts_are_read_in_windows_averaged_by_tokens() {
    let bert = TinyBert::new(8, "gelu");
    let dir = tempfile::tempdir().unwrap();
    bert.write(dir.path(), "");
    fs::write(dir.path().join("sentence_bert_config.json"), r#"{"max_seq_length": 10}"#).unwrap();
    let text = TEXTS[5].to_owned();
    let ids = bert.ids(&text);
    // 23 tokens in windows of 8 beside [CLS] and [SEP]: three of about equal length.
    assert_eq!(ids.len(), 23);
    let mut sum = vec![0.0; bert.hidden];
    for window in [&ids[..7], &ids[7..15], &ids[15..]] {
        let weight = window.len() as f64;
        sum.iter_mut().zip(bert.embed(window)).for_each(|(s, x)| *s += weight * x);
    }
    let norm = sum.iter().map(|x| x * x).sum::<f64>().sqrt();
    let expected: Vec<f64> = sum.iter().map(|x| x / norm).collect();
    assert_close(&encode(dir.path(), 1, std::slice::from_ref(&text))[0], &expected, "windows");

    let truncating = BertEncoder::load(dir.path(), 1).unwrap().truncating();
    let first = truncating.encode(&[text], &Unwatched).unwrap();
    assert_close(&first[0], &bert.embed(&ids[..8]), "truncated");
}

#[test]
fn a_vector_depends_on_its_text_alone() {
    let dir = tempfile::tempdir().unwrap();
    TinyBert::new(9, "gelu").write(dir.path(), "");
    // More than one batch.
    let many: Vec<String> = (0..60).flat_map(|_| texts()).collect();
    let together = encode(dir.path(), 3, &many);
    assert!(together == encode(dir.path(), 1, &many), "threads");
    for (text, vector) in many.iter().zip(&together).take(TEXTS.len()) {
        assert!(&encode(dir.path(), 1, std::slice::from_ref(text))[0] == vector, "alone: {text}");
        let length: f32 = vector.iter().map(|x| x * x).sum();
        assert!((length - 1.0).abs() < 1e-6);
    }
}

#[derive(Default)]
struct Counts {
    passes: AtomicU64,
    last: AtomicU64,
    stop: bool,
}

impl Watch for Counts {
    fn progress(&self, done: u64, total: u64, _unit: &str, _metrics: &[(&str, f64)]) {
        assert_eq!(total, TEXTS.len() as u64);
        self.last.fetch_max(done, Ordering::SeqCst);
    }
    fn count(&self, counter: &'static str, n: u64) {
        if counter == "forward_passes" {
            self.passes.fetch_add(n, Ordering::SeqCst);
        }
    }
    fn cancelled(&self) -> bool {
        self.stop
    }
}

#[test]
fn work_is_counted_and_stops_on_request() {
    let dir = tempfile::tempdir().unwrap();
    TinyBert::new(10, "gelu").write(dir.path(), "");
    let encoder = BertEncoder::load(dir.path(), 2).unwrap();
    let counts = Counts::default();
    encoder.encode(&texts(), &counts).unwrap();
    assert_eq!((counts.passes.into_inner(), counts.last.into_inner()), (7, 7));
    let stop = Counts { stop: true, ..Counts::default() };
    assert!(matches!(encoder.encode(&texts(), &stop), Err(LmError::Cancelled)));
    assert!(encoder.encode(&[], &Unwatched).unwrap().is_empty());
}

#[test]
fn faults_name_file_and_tensor() {
    let bert = TinyBert::new(11, "gelu");
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path();
    let error = || BertEncoder::load(at, 1).err().expect("should not load").to_string();
    let expect = |parts: &[&str]| {
        let message = error();
        assert!(parts.iter().all(|p| message.contains(p)), "{message}");
    };
    expect(&["config.json", "no model folder"]);
    bert.write(at, "");
    let config = fs::read_to_string(at.join("config.json")).unwrap();
    for (from, to, parts) in [
        ("\"bert\"", "\"roberta\"", ["config.json", "roberta"]),
        ("\"gelu\"", "\"swish\"", ["hidden_act", "swish"]),
        ("\"num_hidden_layers\":2", "\"num_hidden_layers\":3", ["model.safetensors", "encoder.layer.2."]),
        ("\"intermediate_size\":24", "\"intermediate_size\":25", ["intermediate.dense.weight", "[24, 16]"]),
        ("\"vocab_size\"", "\"vocab\"", ["config.json", "`vocab_size`"]),
    ] {
        assert!(config.contains(from), "{from}");
        fs::write(at.join("config.json"), config.replace(from, to)).unwrap();
        expect(&parts);
    }
    // Too few for the tokens that open and close a text, and one between them.
    let mut short: serde_json::Value = serde_json::from_str(&config).unwrap();
    short["max_position_embeddings"] = 2.into();
    fs::write(at.join("config.json"), short.to_string()).unwrap();
    expect(&["config.json", "`max_position_embeddings` 2 is less than 3 tokens"]);
    fs::write(at.join("config.json"), &config).unwrap();
    fs::create_dir(at.join("1_Pooling")).unwrap();
    fs::write(at.join("1_Pooling/config.json"), r#"{"pooling_mode": "attention"}"#).unwrap();
    expect(&["1_Pooling", "`attention`"]);
    fs::write(at.join("1_Pooling/config.json"), r#"{"pooling_mode_mean_tokens": true}"#).unwrap();
    let weights = fs::read(at.join("model.safetensors")).unwrap();
    fs::write(at.join("model.safetensors"), &weights[..weights.len() - 8]).unwrap();
    expect(&["model.safetensors", "cut short"]);
    fs::remove_file(at.join("model.safetensors")).unwrap();
    expect(&["model.safetensors", "no weights"]);
}
