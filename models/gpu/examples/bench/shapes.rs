//! Models of published shapes with random weights in bf16: speed and memory do not depend on values.

use std::error::Error;
use std::path::Path;

use half::bf16;
use rayon::prelude::*;
use safetensors::{Dtype, tensor::TensorView};
use serde_json::{Value, json};

/// Deviation of the weights' uniform distribution from 0: keeps the residual stream in range.
const SPREAD: f32 = 0.035;

struct Shape {
    hidden: usize,
    ffn: usize,
    layers: usize,
    heads: usize,
    kv_heads: usize,
    vocab: usize,
    rope_theta: f64,
    context: usize,
}

/// The shapes of config.json of SmolLM-135M, SmolLM-360M and Llama-3.2-1B.
fn shape(name: &str) -> Result<Shape, String> {
    let (hidden, ffn, layers, heads, kv_heads, vocab, rope_theta, context) = match name {
        "smollm-135m" => (576, 1536, 30, 9, 3, 49_152, 10_000.0, 2048),
        "smollm-360m" => (960, 2560, 32, 15, 5, 49_152, 10_000.0, 2048),
        "llama-1b" => (2048, 8192, 16, 32, 8, 128_256, 500_000.0, 8192),
        "tiny" => (256, 704, 6, 8, 4, 4096, 10_000.0, 2048),
        _ => return Err(format!("no shape {name:?}: smollm-135m, smollm-360m, llama-1b or tiny")),
    };
    Ok(Shape { hidden, ffn, layers, heads, kv_heads, vocab, rope_theta, context })
}

/// config.json, as transformers reads it.
fn config(s: &Shape) -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu",
        "hidden_size": s.hidden, "intermediate_size": s.ffn, "num_hidden_layers": s.layers,
        "num_attention_heads": s.heads, "num_key_value_heads": s.kv_heads,
        "head_dim": s.hidden / s.heads, "vocab_size": s.vocab, "rms_norm_eps": 1e-5,
        "rope_theta": s.rope_theta, "max_position_embeddings": s.context, "tie_word_embeddings": true,
        "torch_dtype": "bfloat16", "bos_token_id": 1, "eos_token_id": 2,
    })
}

fn tensors(s: &Shape) -> Vec<(String, Vec<usize>)> {
    let (h, kv) = (s.hidden, s.hidden / s.heads * s.kv_heads);
    let mut all = vec![("model.embed_tokens.weight".to_owned(), vec![s.vocab, h])];
    for i in 0..s.layers {
        let parts: [(&str, Vec<usize>); 9] = [
            ("input_layernorm", vec![h]),
            ("self_attn.q_proj", vec![h, h]),
            ("self_attn.k_proj", vec![kv, h]),
            ("self_attn.v_proj", vec![kv, h]),
            ("self_attn.o_proj", vec![h, h]),
            ("post_attention_layernorm", vec![h]),
            ("mlp.gate_proj", vec![s.ffn, h]),
            ("mlp.up_proj", vec![s.ffn, h]),
            ("mlp.down_proj", vec![h, s.ffn]),
        ];
        all.extend(parts.map(|(name, shape)| (format!("model.layers.{i}.{name}.weight"), shape)));
    }
    all.push(("model.norm.weight".into(), vec![h]));
    all
}

/// A number in [-1, 1) from its place (splitmix64).
fn noise(at: u64) -> f32 {
    let mut z = at.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    ((z ^ (z >> 31)) >> 40) as f32 / (1u64 << 23) as f32 - 1.0
}

/// Writes `config.json` and `model.safetensors`.
pub fn write(name: &str, dir: &Path) -> Result<(), Box<dyn Error>> {
    let shape = shape(name)?;
    std::fs::create_dir_all(dir)?;
    std::fs::write(dir.join("config.json"), serde_json::to_string_pretty(&config(&shape))?)?;
    let all = tensors(&shape);
    let data: Vec<Vec<u8>> = all
        .iter()
        .enumerate()
        .map(|(t, (_, dims))| {
            let mut bytes = vec![0; dims.iter().product::<usize>() * 2];
            bytes.par_chunks_mut(1 << 16).enumerate().for_each(|(part, bytes)| {
                for (i, to) in bytes.chunks_exact_mut(2).enumerate() {
                    let at = ((t as u64) << 36) + ((part << 15) + i) as u64;
                    let v = if dims.len() == 1 { 1.0 } else { SPREAD * noise(at) };
                    to.copy_from_slice(&bf16::from_f32(v).to_le_bytes());
                }
            });
            bytes
        })
        .collect();
    let views = all
        .iter()
        .zip(&data)
        .map(|((name, dims), data)| Ok((name, TensorView::new(Dtype::BF16, dims.clone(), data)?)));
    let views: Vec<_> = views.collect::<Result<_, safetensors::SafeTensorError>>()?;
    let about = [("format".to_owned(), "pt".to_owned())].into();
    Ok(safetensors::serialize_to_file(views, Some(about), &dir.join("model.safetensors"))?)
}
