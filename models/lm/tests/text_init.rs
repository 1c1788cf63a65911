//! New models: names, shapes, statistics and repeatability of their weights.

#![allow(clippy::unwrap_used, reason = "clippy counts the helpers of a test as no test")]

use std::fs;
use std::path::Path;

use headstart_lm::{LmError, TextCodec, init_model};
use safetensors::SafeTensors;
use serde_json::{Value, json};

fn config() -> Value {
    json!({
        "model_type": "llama", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 8,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64,
        "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": true, "dtype": "float32",
    })
}

fn init(config: &Value, seed: u64, out: &Path) -> Result<(), LmError> {
    let path = out.join("asked.json");
    fs::write(&path, config.to_string()).unwrap();
    let corpus = ["What is rain?".to_owned(), "Falling water, water that falls.".to_owned()];
    init_model(&path, &corpus, 280, seed, &headstart_disk::SystemDisk, out)
}

fn weights(dir: &Path) -> Vec<u8> {
    fs::read(dir.join("model.safetensors")).unwrap()
}

fn deviation(file: &SafeTensors, name: &str) -> f64 {
    let view = file.tensor(name).unwrap();
    let numbers: Vec<f64> =
        view.data().chunks_exact(4).map(|b| f64::from(f32::from_le_bytes(b.try_into().unwrap()))).collect();
    (numbers.iter().map(|x| x * x).sum::<f64>() / numbers.len() as f64).sqrt()
}

#[test]
fn a_new_model_has_the_published_form() {
    let dir = tempfile::tempdir().unwrap();
    init(&config(), 1, dir.path()).unwrap();
    let codec = TextCodec::load(dir.path()).unwrap();
    let written: Value = serde_json::from_slice(&fs::read(dir.path().join("config.json")).unwrap()).unwrap();
    assert_eq!(written["vocab_size"], codec.vocab());
    assert_eq!(written["eos_token_id"], codec.eos()[0]);
    let bytes = weights(dir.path());
    let file = SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(file.len(), 2 + 8 * 9);
    assert_eq!(file.tensor("model.layers.7.self_attn.k_proj.weight").unwrap().shape(), [16, 32]);
    assert_eq!(file.tensor("model.embed_tokens.weight").unwrap().shape(), [codec.vocab(), 32]);
    assert!((deviation(&file, "model.embed_tokens.weight") - 0.02).abs() < 0.001);
    // Residual projections of 8 layers: 0.02 / √16.
    assert!((deviation(&file, "model.layers.0.mlp.down_proj.weight") - 0.005).abs() < 0.0005);
    assert!((deviation(&file, "model.norm.weight") - 1.0).abs() < 1e-9);
}

#[test]
fn the_seed_alone_decides_and_bf16_is_written_where_asked() {
    let dirs: Vec<_> = (0..4).map(|_| tempfile::tempdir().unwrap()).collect();
    init(&config(), 1, dirs[0].path()).unwrap();
    init(&config(), 1, dirs[1].path()).unwrap();
    init(&config(), 2, dirs[2].path()).unwrap();
    let mut half = config();
    half["dtype"] = json!("bfloat16");
    half["tie_word_embeddings"] = json!(false);
    init(&half, 1, dirs[3].path()).unwrap();
    let all: Vec<_> = dirs.iter().map(|d| weights(d.path())).collect();
    assert!(all[0] == all[1] && all[0] != all[2]);
    let file = SafeTensors::deserialize(&all[3]).unwrap();
    assert_eq!(file.tensor("lm_head.weight").unwrap().dtype(), safetensors::Dtype::BF16);
}

#[test]
fn configs_that_cannot_be_are_refused() {
    for (key, value, named) in [
        ("hidden_size", Value::Null, "`hidden_size`"),
        ("model_type", json!("gpt2"), "gpt2"),
        ("attention_bias", json!(true), "`attention_bias`"),
        ("num_key_value_heads", json!(3), "`num_key_value_heads`"),
        ("dtype", json!("float16"), "float16"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let mut bad = config();
        bad[key] = value;
        let message = init(&bad, 0, dir.path()).expect_err(key).to_string();
        assert!(message.contains(named) && message.contains("asked.json"), "{message}");
        assert!(!dir.path().join("model.safetensors").exists());
    }
}
