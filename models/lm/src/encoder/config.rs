//! The settings of an encoder, read and checked.

use std::path::Path;

use headstart_kernels::encoder::Activation;
use serde_json::Value;

use super::sentence::{SHORTEST_WINDOW, Sentence};
use crate::error::LmError;
use crate::text::read_json;

/// What the forward pass needs to know.
#[derive(Clone, Debug)]
pub struct Config {
    /// Width of the hidden state.
    pub hidden: usize,
    /// Blocks.
    pub layers: usize,
    /// Heads of the attention; divides `hidden`.
    pub heads: usize,
    /// Width of the feed-forward layer.
    pub intermediate: usize,
    /// Entries of the vocabulary.
    pub vocab: usize,
    /// Positions that have an embedding.
    pub positions: usize,
    /// Token types that have an embedding; only the first is used.
    pub types: usize,
    /// Epsilon of the layer norms.
    pub epsilon: f32,
    /// Function of the feed-forward layer.
    pub activation: Activation,
    /// Tokens of a window at most, those that open and close it included.
    pub window: usize,
    /// What sentence-transformers does with texts and with the hidden states of their tokens.
    pub sentence: Sentence,
}

/// Window where sentence_bert_config.json does not say.
const DEFAULT_WINDOW: usize = 256;

impl Config {
    /// Reads and checks the files of a folder, its weights and tokenizer aside.
    ///
    /// # Errors
    /// [`LmError::File`] with the key that is missing or wrong, [`LmError::Unsupported`] for other
    /// architectures and poolings.
    pub fn read(folder: &Path) -> Result<Self, LmError> {
        let path = folder.join("config.json");
        let json = read_json(&path)?.ok_or_else(|| LmError::File {
            path: path.clone(),
            why: "there is no such file, so this is no model folder".into(),
            help: Some("name the folder that holds config.json, tokenizer.json and model.safetensors".into()),
        })?;
        let optional = |key: &str| json.get(key).and_then(Value::as_u64).map(|n| n as usize);
        let number = |key: &str| match optional(key) {
            Some(n) if n > 0 => Ok(n),
            _ => Err(LmError::file(&path, format!("`{key}` is missing or not a positive whole number"))),
        };
        let word = |key: &str| json.get(key).and_then(Value::as_str);
        let unsupported = |what: String| Err(LmError::Unsupported(format!("{}: {what}", path.display())));
        match word("model_type") {
            Some("bert") => {}
            other => {
                let found = other.unwrap_or("(missing)");
                return unsupported(format!(
                    "`model_type` is {found}; sentence encoders must be of type bert"
                ));
            }
        }
        if let Some(kind) = word("position_embedding_type").filter(|k| *k != "absolute") {
            return unsupported(format!("`position_embedding_type` {kind}; only absolute is supported"));
        }
        let activation = match word("hidden_act").unwrap_or("gelu") {
            "gelu" => Activation::Gelu,
            "gelu_new" | "gelu_pytorch_tanh" => Activation::GeluTanh,
            "relu" => Activation::Relu,
            other => {
                return unsupported(format!("`hidden_act` {other}; gelu, gelu_new and relu are supported"));
            }
        };
        let (hidden, heads) = (number("hidden_size")?, number("num_attention_heads")?);
        if hidden % heads != 0 {
            let why = format!("`hidden_size` {hidden} is not a multiple of `num_attention_heads` {heads}");
            return Err(LmError::file(&path, why));
        }
        let positions = number("max_position_embeddings")?;
        if positions < SHORTEST_WINDOW {
            let why = format!("`max_position_embeddings` {positions} is less than {SHORTEST_WINDOW} tokens");
            return Err(LmError::file(&path, why));
        }
        let sentence = Sentence::read(folder)?;
        Ok(Self {
            hidden,
            heads,
            positions,
            layers: number("num_hidden_layers")?,
            intermediate: number("intermediate_size")?,
            vocab: number("vocab_size")?,
            types: optional("type_vocab_size").unwrap_or(2),
            epsilon: json.get("layer_norm_eps").and_then(Value::as_f64).unwrap_or(1e-12) as f32,
            activation,
            window: sentence.window.unwrap_or(DEFAULT_WINDOW).min(positions),
            sentence,
        })
    }
}
