//! A small model made here, rows that it can learn, and a training that learns them.

#![allow(clippy::unwrap_used, reason = "clippy counts the helpers of a test as no test")]

use std::path::{Path, PathBuf};

use headstart_lm::{LoraSpec, init_model};
use headstart_protocol::rows::Row;
use headstart_train::{Method, TrainSpec};

const WORDS: [&str; 8] = ["red", "green", "blue", "small", "large", "round", "old", "new"];

/// Rows that can be learned: the answer names the question's words in the other order. `ends` are the
/// answers' ends, in turn.
pub fn rows(n: usize, from: usize, ends: &[&str]) -> Vec<Row> {
    let row = |i: usize| {
        let (a, b) = (WORDS[i * 5 % 8], WORDS[i * 3 / 8 % 8]);
        Row::new(format!("Say {a} and {b}."), format!("It is {b} and {a}{}", ends[i % ends.len()]))
    };
    (from..from + n).map(row).collect()
}

/// Writes a model of two layers, whose tokens are those of 64 rows, into the folder `base` of `dir`.
pub fn base(dir: &Path, ends: &[&str]) -> PathBuf {
    let config = dir.join("config.json");
    let json = serde_json::json!({"model_type": "llama", "hidden_size": 48, "intermediate_size": 96,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0, "max_position_embeddings": 64, "tie_word_embeddings": true});
    std::fs::write(&config, json.to_string()).unwrap();
    let corpus: Vec<String> = rows(64, 0, ends).into_iter().flat_map(|r| [r.prompt, r.response]).collect();
    let base = dir.join("base");
    std::fs::create_dir(&base).unwrap();
    init_model(&config, &corpus, 300, 1, &headstart_disk::SystemDisk, &base).unwrap();
    base
}

/// An adapter of rank 4 on some of the projections.
pub fn lora() -> Method {
    let targets = ["q_proj", "v_proj", "up_proj", "down_proj"].map(String::from).to_vec();
    Method::Lora(LoraSpec { rank: 4, alpha: 8.0, rslora: false, targets })
}

/// Twelve steps on 24 rows, with 8 others held back.
pub fn spec(base: &Path, method: Method, ends: &[&str], out: PathBuf) -> TrainSpec {
    TrainSpec {
        model: base.into(),
        adapter: None,
        method,
        data: rows(24, 0, ends),
        eval: rows(8, 24, ends),
        until: None,
        patience: None,
        learning_rate: 1e-2,
        weight_decay: None,
        clip: Some(1.0),
        dropout: 0.0,
        batch: 8,
        max_steps: 12,
        warmup: 2,
        cosine: true,
        eval_every: 4,
        max_tokens: 64,
        seed: 5,
        memory: None,
        resume: None,
        out,
        disk: std::sync::Arc::new(headstart_disk::SystemDisk),
    }
}
