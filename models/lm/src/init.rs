//! New models: a byte-level BPE tokenizer trained on a corpus, and seeded random weights.

use std::collections::HashMap;
use std::path::Path;

use half::bf16;
use headstart_disk::Disk;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Map, Value, json};
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{AddedToken, DecoderWrapper, NormalizerWrapper, PostProcessorWrapper, TokenizerBuilder};

use crate::error::LmError;
use crate::files::put_safetensors;
use crate::text::read_json;

/// Begins a user's turn.
pub const USER: &str = "<|user|>";
/// Begins an answer.
pub const ASSISTANT: &str = "<|assistant|>";
/// Ends an answer.
pub const END: &str = "<|end|>";

/// `<|user|>{prompt}<|assistant|>{response}<|end|>`, as transformers renders it.
const CHAT_TEMPLATE: &str = "{% for message in messages %}\
{% if message['role'] == 'user' %}{{ '<|user|>' + message['content'] }}\
{% elif message['role'] == 'assistant' %}{{ '<|assistant|>' + message['content'] + '<|end|>' }}\
{% else %}{{ raise_exception('turns of user and assistant only') }}{% endif %}\
{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}";

/// Standard deviation of new weights, as in the published Llama configuration.
const INIT_STD: f64 = 0.02;

/// Trains a byte-level BPE tokenizer and writes `tokenizer.json` and `tokenizer_config.json` with a
/// chat template, so that transformers loads them too. Returns the number of entries, which is
/// below `vocab` where the corpus has too few pairs to merge. The same corpus gives the same bytes.
///
/// # Errors
/// [`LmError::Input`] where `vocab` has no room for the 256 bytes and three special tokens, or the
/// corpus has no text; [`LmError::Io`] where `out` cannot be written.
pub fn train_tokenizer(
    corpus: &mut dyn Iterator<Item = &str>,
    vocab: usize,
    disk: &dyn Disk,
    out: &Path,
) -> Result<usize, LmError> {
    const SMALLEST: usize = 256 + 3;
    if vocab < SMALLEST {
        return Err(LmError::Input(format!(
            "a vocabulary of {vocab} is too small: 256 bytes and 3 special tokens need {SMALLEST}"
        )));
    }
    let texts: Vec<&str> = corpus.filter(|t| !t.is_empty()).collect();
    if texts.is_empty() {
        return Err(LmError::Input("the tokenizer's corpus has no text".into()));
    }
    let failed = |e: tokenizers::Error| LmError::Internal(format!("training the tokenizer: {e}"));
    let special = [USER, ASSISTANT, END].map(|t| AddedToken::from(t, true));
    let mut trainer = BpeTrainer::builder()
        .vocab_size(vocab)
        .show_progress(false)
        .special_tokens(special.to_vec())
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .build();
    let mut tokenizer = TokenizerBuilder::new()
        .with_model(BPE::default())
        .with_normalizer(None::<NormalizerWrapper>)
        .with_pre_tokenizer(Some(ByteLevel::new(false, true, true)))
        .with_post_processor(None::<PostProcessorWrapper>)
        .with_decoder(Some(DecoderWrapper::ByteLevel(ByteLevel::default())))
        .build()
        .map_err(failed)?;
    tokenizer.train(&mut trainer, texts.into_iter()).map_err(failed)?;
    write_json(disk, &out.join("tokenizer.json"), tokenizer.to_string(true).map_err(failed)?)?;
    let config = json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": END,
        "pad_token": END,
        "additional_special_tokens": [USER, ASSISTANT],
        "clean_up_tokenization_spaces": false,
        "chat_template": CHAT_TEMPLATE,
    });
    write_json(disk, &out.join("tokenizer_config.json"), pretty(&config))?;
    Ok(tokenizer.get_vocab_size(true))
}

/// Makes a new Llama-type model: its tokenizer, config.json with `vocab_size` and `eos_token_id`
/// filled in, and model.safetensors with seeded random weights under the published names.
///
/// Matrices are normal with deviation 0.02, those that write into the residual stream
/// (`o_proj`, `down_proj`) divided by √(2·layers); norms are 1. The weights are bf16 or f32, as the
/// config's `dtype` (or `torch_dtype`) says; f32 where it says nothing.
///
/// # Errors
/// [`LmError::File`] where the config lacks a key or asks for what is not supported; the errors of
/// [`train_tokenizer`].
pub fn init_model(
    config_json: &Path,
    corpus: &[String],
    vocab: usize,
    seed: u64,
    disk: &dyn Disk,
    out: &Path,
) -> Result<(), LmError> {
    let mut config = match read_json(config_json)? {
        Some(Value::Object(config)) => config,
        Some(_) => return Err(LmError::file(config_json, "not a JSON object")),
        None => {
            let missing = std::io::Error::from(std::io::ErrorKind::NotFound);
            return Err(LmError::io(config_json, missing));
        }
    };
    let shape = Shape::read(config_json, &config)?;
    let vocab = train_tokenizer(&mut corpus.iter().map(String::as_str), vocab, disk, out)?;
    // The trainer gives special tokens the first ids, in their order.
    let end = 2;
    config.insert("vocab_size".into(), json!(vocab));
    config.insert("eos_token_id".into(), json!(end));
    config.insert("bos_token_id".into(), Value::Null);
    config.entry("architectures").or_insert(json!(["LlamaForCausalLM"]));
    write_json(disk, &out.join("config.json"), pretty(&Value::Object(config)))?;
    write_json(disk, &out.join("generation_config.json"), pretty(&json!({ "eos_token_id": end })))?;
    write_weights(&shape, vocab, seed, disk, &out.join("model.safetensors"))
}

/// What of a Llama config decides about the weights.
struct Shape {
    hidden: usize,
    intermediate: usize,
    layers: usize,
    queries: usize,
    keys: usize,
    tied: bool,
    dtype: Dtype,
}

impl Shape {
    fn read(path: &Path, config: &Map<String, Value>) -> Result<Self, LmError> {
        let optional = |key: &str| config.get(key).and_then(Value::as_u64).map(|n| n as usize);
        let number = |key: &str| match optional(key) {
            Some(n) if n > 0 => Ok(n),
            _ => Err(LmError::file(path, format!("`{key}` is missing or not a positive whole number"))),
        };
        let refuse = |why: String| Err(LmError::file(path, why));
        match config.get("model_type").and_then(Value::as_str) {
            Some("llama") => {}
            other => {
                return refuse(format!("`model_type` is {other:?}, but new models are of type \"llama\""));
            }
        }
        for bias in ["attention_bias", "mlp_bias"] {
            if config.get(bias).and_then(Value::as_bool) == Some(true) {
                return refuse(format!("`{bias}` is true, which new models do not support"));
            }
        }
        let hidden = number("hidden_size")?;
        let heads = number("num_attention_heads")?;
        let kv_heads = optional("num_key_value_heads").unwrap_or(heads);
        if kv_heads == 0 || heads % kv_heads != 0 {
            return refuse(format!(
                "{heads} `num_attention_heads` cannot share {kv_heads} `num_key_value_heads`"
            ));
        }
        let head = optional("head_dim").unwrap_or(hidden / heads);
        if head == 0 || head % 2 != 0 {
            return refuse(format!("a head of {head} numbers cannot be rotated: it must be even"));
        }
        let dtype = config.get("dtype").or_else(|| config.get("torch_dtype")).and_then(Value::as_str);
        let dtype = match dtype {
            None | Some("float32") => Dtype::F32,
            Some("bfloat16") => Dtype::BF16,
            Some(other) => {
                return refuse(format!(
                    "`dtype` is \"{other}\", but new weights are \"float32\" or \"bfloat16\""
                ));
            }
        };
        Ok(Self {
            hidden,
            intermediate: number("intermediate_size")?,
            layers: number("num_hidden_layers")?,
            queries: heads * head,
            keys: kv_heads * head,
            tied: config.get("tie_word_embeddings").and_then(Value::as_bool).unwrap_or(false),
            dtype,
        })
    }

    /// Names and shapes of all tensors, with the deviation of their numbers; `None` for a norm.
    fn tensors(&self, vocab: usize) -> Vec<(String, Vec<usize>, Option<f64>)> {
        let residual = INIT_STD / (2.0 * self.layers as f64).sqrt();
        let (h, i) = (self.hidden, self.intermediate);
        let mut all = vec![("model.embed_tokens.weight".to_owned(), vec![vocab, h], Some(INIT_STD))];
        for layer in 0..self.layers {
            let mut add = |name: &str, shape: &[usize], std: Option<f64>| {
                all.push((format!("model.layers.{layer}.{name}.weight"), shape.to_vec(), std));
            };
            add("input_layernorm", &[h], None);
            add("self_attn.q_proj", &[self.queries, h], Some(INIT_STD));
            add("self_attn.k_proj", &[self.keys, h], Some(INIT_STD));
            add("self_attn.v_proj", &[self.keys, h], Some(INIT_STD));
            add("self_attn.o_proj", &[h, self.queries], Some(residual));
            add("post_attention_layernorm", &[h], None);
            add("mlp.gate_proj", &[i, h], Some(INIT_STD));
            add("mlp.up_proj", &[i, h], Some(INIT_STD));
            add("mlp.down_proj", &[h, i], Some(residual));
        }
        all.push(("model.norm.weight".into(), vec![h], None));
        if !self.tied {
            all.push(("lm_head.weight".into(), vec![vocab, h], Some(INIT_STD)));
        }
        all
    }
}

fn write_weights(
    shape: &Shape,
    vocab: usize,
    seed: u64,
    disk: &dyn Disk,
    path: &Path,
) -> Result<(), LmError> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut all = Vec::new();
    for (name, dims, std) in shape.tensors(vocab) {
        let count: usize = dims.iter().product();
        let numbers: Vec<f32> = match std {
            Some(std) => (0..count).map(|_| (std * normal(&mut rng)) as f32).collect(),
            None => vec![1.0; count],
        };
        let bytes: Vec<u8> = match shape.dtype {
            Dtype::BF16 => numbers.iter().flat_map(|x| bf16::from_f32(*x).to_le_bytes()).collect(),
            _ => numbers.iter().flat_map(|x| x.to_le_bytes()).collect(),
        };
        all.push((name, dims, bytes));
    }
    let views: Result<Vec<_>, _> = all
        .iter()
        .map(|(name, dims, bytes)| Ok((name, TensorView::new(shape.dtype, dims.clone(), bytes)?)))
        .collect();
    let views = views.map_err(|e: safetensors::SafeTensorError| LmError::file(path, e.to_string()))?;
    let about = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    headstart_disk::files::write_with(disk, path, |file| put_safetensors(file, path, views, about))
}

/// A standard normal number, by Box and Muller's transform.
fn normal(rng: &mut ChaCha8Rng) -> f64 {
    // 1 - u lies in (0, 1], where the logarithm is finite.
    let radius = (-2.0 * (1.0 - rng.random::<f64>()).ln()).sqrt();
    radius * (std::f64::consts::TAU * rng.random::<f64>()).cos()
}

fn pretty(value: &Value) -> String {
    serde_json::to_string_pretty(value).expect("a JSON value always serializes")
}

fn write_json(disk: &dyn Disk, path: &Path, text: String) -> Result<(), LmError> {
    Ok(headstart_disk::files::write(disk, path, (text + "\n").as_bytes())?)
}
