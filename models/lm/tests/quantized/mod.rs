//! Models with quantized weights, and the same models with the quantized weights as f32.

#![allow(dead_code, reason = "each test file uses a part of it")]
#![allow(clippy::unwrap_used, reason = "clippy counts the helpers of a test as no test")]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use headstart_lm::gguf::{QuantType, find, quantize};
use headstart_lm::{Batch, Model, Weights};
use safetensors::{Dtype, tensor::TensorView};

/// The model folders of the parity fixtures.
pub fn fixtures() -> Vec<PathBuf> {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("../lm/tests/fixtures/parity");
    let mut all: Vec<PathBuf> =
        std::fs::read_dir(own).unwrap().map(|e| e.unwrap().path().join("model")).collect();
    all.sort();
    all
}

/// Numbers in ±0.1 from their place.
pub fn noise(n: usize, seed: u32) -> Vec<f32> {
    let mut s = seed.wrapping_mul(2_654_435_761).wrapping_add(99);
    let step = |_| {
        s = s.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        ((s >> 8) as f32 / (1 << 23) as f32 - 1.0) * 0.1
    };
    (0..n).map(step).collect()
}

/// A model wide enough for blocks of 256 numbers.
pub fn wide_model(folder: &Path) {
    let (h, ffn, kv, vocab) = (256, 512, 64, 90);
    let config = serde_json::json!({"model_type": "llama", "hidden_size": h, "intermediate_size": ffn,
        "num_hidden_layers": 2, "num_attention_heads": 8, "num_key_value_heads": 2, "vocab_size": vocab,
        "tie_word_embeddings": true, "eos_token_id": 2});
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
    let mut shapes = vec![("model.embed_tokens".to_owned(), vec![vocab, h]), ("model.norm".into(), vec![h])];
    for i in 0..2 {
        let parts: [(&str, Vec<usize>); 9] = [
            ("input_layernorm", vec![h]),
            ("post_attention_layernorm", vec![h]),
            ("self_attn.q_proj", vec![h, h]),
            ("self_attn.k_proj", vec![kv, h]),
            ("self_attn.v_proj", vec![kv, h]),
            ("self_attn.o_proj", vec![h, h]),
            ("mlp.gate_proj", vec![ffn, h]),
            ("mlp.up_proj", vec![ffn, h]),
            ("mlp.down_proj", vec![h, ffn]),
        ];
        shapes.extend(parts.map(|(name, shape)| (format!("model.layers.{i}.{name}"), shape)));
    }
    write(
        folder,
        shapes.iter().enumerate().map(|(seed, (name, shape))| {
            let n = shape.iter().product();
            let numbers = if shape.len() == 1 { vec![1.0; n] } else { noise(n, seed as u32) };
            (format!("{name}.weight"), shape.clone(), numbers)
        }),
    );
}

fn write(folder: &Path, tensors: impl Iterator<Item = (String, Vec<usize>, Vec<f32>)>) {
    let all: Vec<(String, Vec<usize>, Vec<u8>)> = tensors
        .map(|(name, shape, numbers)| (name, shape, numbers.iter().flat_map(|v| v.to_le_bytes()).collect()))
        .collect();
    let views = all.iter().map(|(n, s, b)| (n, TensorView::new(Dtype::F32, s.clone(), b).unwrap()));
    safetensors::serialize_to_file(views, None, &folder.join("model.safetensors")).unwrap();
}

/// The model of a folder quantized, and the same model with the quantized weights as f32.
pub struct Pair {
    _folders: tempfile::TempDir,
    /// Quantized.
    pub packed: Arc<Model>,
    /// With the quantized weights as f32.
    pub plain: Arc<Model>,
    /// The GGUF file.
    pub file: PathBuf,
}

/// Quantizes the model of a folder.
pub fn pair(model: &Path, to: QuantType) -> Pair {
    let folders = tempfile::tempdir().unwrap();
    let (out, plain) = (folders.path().join("packed"), folders.path().join("plain"));
    quantize(&headstart_disk::SystemDisk, model, &out, to).unwrap();
    std::fs::create_dir(&plain).unwrap();
    std::fs::copy(out.join("config.json"), plain.join("config.json")).unwrap();
    let file = find(&out).unwrap().unwrap();
    let weights = Weights::open_model(&out).unwrap();
    write(&plain, weights.iter().map(|(name, w)| (name.to_owned(), w.shape.clone(), w.to_vec())));
    let load = |p: &Path| Arc::new(Model::load(p).unwrap());
    Pair { packed: load(&out), plain: load(&plain), file, _folders: folders }
}

/// Three sequences of 9, 14 and 1 tokens.
pub fn batch(vocab: usize) -> Batch {
    let rows: Vec<Vec<u32>> =
        [9, 14, 1].iter().map(|n| (0..*n).map(|i| ((i * 31 + n) % vocab) as u32).collect()).collect();
    Batch::pack(rows.iter().map(Vec::as_slice))
}

/// Agreement to a share of the largest number expected.
pub fn close(what: &str, found: &[f32], expected: &[f32], share: f32) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let largest = expected.iter().fold(1e-6f32, |m, v| m.max(v.abs()));
    for (i, (f, e)) in found.iter().zip(expected).enumerate() {
        assert!((f - e).abs() <= share * largest, "{what}[{i}]: {f}, expected {e}, largest {largest}");
    }
}

/// Model folders and what they are quantized to.
pub fn models() -> (tempfile::TempDir, Vec<(PathBuf, QuantType)>) {
    let own = tempfile::tempdir().unwrap();
    wide_model(own.path());
    let mut all: Vec<_> = fixtures().into_iter().map(|m| (m, QuantType::Q8_0)).collect();
    all.extend([QuantType::Q8_0, QuantType::Q4K].map(|to| (own.path().to_owned(), to)));
    (own, all)
}
