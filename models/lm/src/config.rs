//! What a decoder is, read from its config.json.
//!
//! Covers Llama 3.x, Qwen2/2.5, SmolLM and SmolLM2. What would change the result and is not
//! supported is refused, naming the key.

use std::path::{Path, PathBuf};

use headstart_disk::read;

use serde_json::Value;

use crate::error::LmError;
use crate::text::malformed;

/// How the angles of the rotary embedding are scaled.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    /// As they are.
    None,
    /// All frequencies divided by the factor.
    Linear {
        /// The divisor.
        factor: f64,
    },
    /// Llama 3.1's: low frequencies divided, high ones kept, a smooth passage between.
    Llama3 {
        /// The divisor of low frequencies.
        factor: f64,
        /// Wavelengths above `context / low` are divided.
        low: f64,
        /// Wavelengths below `context / high` are kept.
        high: f64,
        /// Context of the original training.
        context: f64,
    },
}

/// Shape and constants of a decoder.
#[derive(Clone, Debug, PartialEq)]
pub struct DecoderConfig {
    /// `model_type`, such as `llama` or `qwen2`.
    pub model_type: String,
    /// Width of the hidden state.
    pub hidden: usize,
    /// Width of the feed-forward layer.
    pub ffn: usize,
    /// Blocks.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Entries of the vocabulary.
    pub vocab: usize,
    /// Longest sequence, in tokens.
    pub context: usize,
    /// Epsilon of RMSNorm.
    pub norm_eps: f32,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// Scaling of the rotary frequencies.
    pub rope_scaling: RopeScaling,
    /// Whether the output layer is the embedding.
    pub tied: bool,
    /// Whether q, k and v have biases.
    pub qkv_bias: bool,
    /// Whether o has a bias.
    pub o_bias: bool,
    /// Whether gate, up and down have biases.
    pub mlp_bias: bool,
    /// End tokens that config.json names.
    pub eos: Vec<u32>,
}

/// Model types that one decoder covers.
const MODEL_TYPES: [&str; 2] = ["llama", "qwen2"];

/// The largest width of a layer, number of layers, and number of tokens that a configuration may state; the
/// largest published models have a 16th of each. Products of them are numbers that fit.
const WIDEST: usize = 1 << 20;
const MOST_LAYERS: usize = 1 << 12;
const MOST_TOKENS: usize = 1 << 24;

/// Keys that mean a different computation when set to anything but what is listed.
const NEUTRAL: [(&str, &[&str]); 9] = [
    ("hidden_act", &["silu", "swish"]),
    ("partial_rotary_factor", &["1", "1.0"]),
    ("attn_logit_softcapping", &[]),
    ("final_logit_softcapping", &[]),
    ("logit_scale", &["1", "1.0"]),
    ("quantization_config", &[]),
    ("no_rope_layers", &["[]"]),
    ("rope_interleaved", &["false"]),
    ("is_encoder_decoder", &["false"]),
];

/// Reads JSON keys of one file and names file and key in errors.
pub(crate) struct Keys<'a> {
    /// The file, for errors.
    pub path: &'a Path,
    /// Its content.
    pub json: &'a Value,
}

impl Keys<'_> {
    /// The value of a key that is present and not null.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.json.get(key).filter(|v| !v.is_null())
    }

    /// An error about a key.
    pub fn wrong(&self, key: &str, why: impl std::fmt::Display) -> LmError {
        LmError::file(self.path, format!("key `{key}`: {why}"))
    }

    /// A positive integer, or none where the key is absent.
    ///
    /// # Errors
    /// [`LmError::File`] with the key where it is no such number.
    pub fn size(&self, key: &str) -> Result<Option<usize>, LmError> {
        let Some(v) = self.get(key) else { return Ok(None) };
        match v.as_u64().filter(|n| *n > 0) {
            Some(n) => Ok(Some(n as usize)),
            None => Err(self.wrong(key, format_args!("expected a positive integer, found {v}"))),
        }
    }

    /// A positive integer up to `most`, or none where the key is absent.
    ///
    /// # Errors
    /// [`LmError::File`] with the key where it is no such number.
    pub fn at_most(&self, key: &str, most: usize) -> Result<Option<usize>, LmError> {
        match self.size(key)? {
            Some(n) if n > most => {
                Err(self.wrong(key, format_args!("{n} is more than {most}, the most that is read")))
            }
            found => Ok(found),
        }
    }

    /// A positive integer up to `most` that must be there.
    ///
    /// # Errors
    /// As [`Self::at_most`], and where it is missing.
    pub fn need_at_most(&self, key: &str, most: usize) -> Result<usize, LmError> {
        self.at_most(key, most)?.ok_or_else(|| self.wrong(key, "missing"))
    }

    /// A positive integer that must be there.
    ///
    /// # Errors
    /// [`LmError::File`] with the key where it is missing or no such number.
    pub fn need(&self, key: &str) -> Result<usize, LmError> {
        self.size(key)?.ok_or_else(|| self.wrong(key, "missing"))
    }

    /// A number, or none where the key is absent.
    ///
    /// # Errors
    /// [`LmError::File`] with the key where it is no number.
    pub fn number(&self, key: &str) -> Result<Option<f64>, LmError> {
        let Some(v) = self.get(key) else { return Ok(None) };
        v.as_f64().map(Some).ok_or_else(|| self.wrong(key, format_args!("expected a number, found {v}")))
    }

    /// A truth value, or none where the key is absent.
    ///
    /// # Errors
    /// [`LmError::File`] with the key where it is neither true nor false.
    pub fn flag(&self, key: &str) -> Result<Option<bool>, LmError> {
        let Some(v) = self.get(key) else { return Ok(None) };
        v.as_bool()
            .map(Some)
            .ok_or_else(|| self.wrong(key, format_args!("expected true or false, found {v}")))
    }
}

/// Reads a JSON file.
///
/// # Errors
/// [`LmError::Io`] where it cannot be read, [`LmError::File`] where it is not JSON.
pub fn read_json(path: &Path) -> Result<Value, LmError> {
    let bytes = read::whole(path, read::SETTINGS).map_err(|e| LmError::io(path, e))?;
    serde_json::from_slice(&bytes).map_err(|e| malformed(path, &bytes, &e))
}

impl DecoderConfig {
    /// Reads `config.json` in a model's folder.
    ///
    /// # Errors
    /// Those of [`read_json`] and [`Self::from_json`].
    pub fn load(model: &Path) -> Result<Self, LmError> {
        let path: PathBuf = model.join("config.json");
        Self::from_json(&path, &read_json(&path)?)
    }

    /// Reads the content of a config.json; `path` is only named in errors.
    ///
    /// # Errors
    /// [`LmError::File`] with the key that is missing, wrong or not supported.
    pub fn from_json(path: &Path, json: &Value) -> Result<Self, LmError> {
        let keys = Keys { path, json };
        let model_type = keys.get("model_type").and_then(Value::as_str).unwrap_or("").to_owned();
        if !MODEL_TYPES.contains(&model_type.as_str()) {
            return Err(LmError::File {
                path: path.into(),
                why: format!("key `model_type`: {model_type:?} is not a supported decoder"),
                help: Some(format!("supported: {}", MODEL_TYPES.join(", "))),
            });
        }
        refuse_unsupported(&keys)?;
        let hidden = keys.need_at_most("hidden_size", WIDEST)?;
        let heads = keys.need_at_most("num_attention_heads", WIDEST)?;
        let kv_heads = keys.at_most("num_key_value_heads", WIDEST)?.unwrap_or(heads);
        let head_dim = match keys.at_most("head_dim", WIDEST / heads)? {
            Some(d) => d,
            None if hidden % heads == 0 => hidden / heads,
            None => return Err(keys.wrong("num_attention_heads", "does not divide hidden_size")),
        };
        if heads % kv_heads != 0 {
            return Err(keys.wrong("num_key_value_heads", "does not divide num_attention_heads"));
        }
        if head_dim % 2 != 0 {
            return Err(keys.wrong("head_dim", "must be even for rotary embeddings"));
        }
        let qwen = model_type == "qwen2";
        let attention_bias = keys.flag("attention_bias")?.unwrap_or(qwen);
        let (rope_theta, rope_scaling) = rope(&keys)?;
        Ok(Self {
            hidden,
            ffn: keys.need_at_most("intermediate_size", WIDEST)?,
            layers: keys.need_at_most("num_hidden_layers", MOST_LAYERS)?,
            heads,
            kv_heads,
            head_dim,
            vocab: keys.need_at_most("vocab_size", MOST_TOKENS)?,
            context: keys.at_most("max_position_embeddings", MOST_TOKENS)?.unwrap_or(2048),
            norm_eps: keys.number("rms_norm_eps")?.unwrap_or(1e-6) as f32,
            rope_theta,
            rope_scaling,
            tied: keys.flag("tie_word_embeddings")?.unwrap_or(false),
            qkv_bias: qwen || attention_bias,
            o_bias: !qwen && attention_bias,
            mlp_bias: keys.flag("mlp_bias")?.unwrap_or(false),
            eos: eos(&keys)?,
            model_type,
        })
    }

    /// Width of the queries: heads × head width.
    pub fn q_dim(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Width of keys and of values.
    pub fn kv_dim(&self) -> usize {
        self.kv_heads * self.head_dim
    }

    /// Numbers of weights, the embedding counted once where it is tied.
    pub fn parameters(&self) -> u64 {
        let (h, q, kv, f) = (self.hidden, self.q_dim(), self.kv_dim(), self.ffn);
        let biases = usize::from(self.qkv_bias) * (q + 2 * kv)
            + usize::from(self.o_bias) * h
            + usize::from(self.mlp_bias) * (2 * f + h);
        let block = 2 * h + h * (2 * q + 2 * kv) + 3 * h * f + biases;
        let tables = if self.tied { 1 } else { 2 };
        (self.layers * block + h + tables * self.vocab * h) as u64
    }

    /// Frequencies of the rotary embedding, one a pair of dimensions, in radians a position.
    ///
    /// Llama 3.1's scaling as in the model's reference code (`rope_type: llama3`).
    pub fn rope_frequencies(&self) -> Vec<f32> {
        let d = self.head_dim as f64;
        let plain = (0..self.head_dim / 2).map(|i| self.rope_theta.powf(-2.0 * i as f64 / d));
        let scaled = plain.map(|f| match self.rope_scaling {
            RopeScaling::None => f,
            RopeScaling::Linear { factor } => f / factor,
            RopeScaling::Llama3 { factor, low, high, context } => {
                let turns = context * f / std::f64::consts::TAU;
                if turns < low {
                    f / factor
                } else if turns > high {
                    f
                } else {
                    let smooth = (turns - low) / (high - low);
                    (1.0 - smooth) * f / factor + smooth * f
                }
            }
        });
        scaled.map(|f| f as f32).collect()
    }
}

fn refuse_unsupported(keys: &Keys) -> Result<(), LmError> {
    for (key, neutral) in NEUTRAL {
        let Some(value) = keys.get(key) else { continue };
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        if !neutral.contains(&text.as_str()) {
            return Err(keys.wrong(key, format_args!("{value} is not supported")));
        }
    }
    refuse_windows(keys)
}

/// Refuses sliding windows that are shorter than the context; others have no effect.
fn refuse_windows(keys: &Keys) -> Result<(), LmError> {
    let context = keys.size("max_position_embeddings")?.unwrap_or(usize::MAX);
    let window = match keys.json.get("sliding_window") {
        // transformers' default; null is none.
        None => Some(4096),
        Some(_) => keys.size("sliding_window")?,
    };
    let wide = window.is_none_or(|window| window >= context);
    if let Some(types) = keys.get("layer_types").and_then(Value::as_array) {
        let fine = |t: &&Value| {
            t.as_str() != Some("full_attention") && !(wide && t.as_str() == Some("sliding_attention"))
        };
        return match types.iter().find(fine) {
            Some(other) => Err(keys.wrong("layer_types", format_args!("{other} is not supported"))),
            None => Ok(()),
        };
    }
    // As transformers does: layers from `max_window_layers` on have the window.
    let (layers, first) = (keys.size("num_hidden_layers")?.unwrap_or(0), keys.get("max_window_layers"));
    let all_full = first.map_or(28, |n| n.as_u64().unwrap_or(0)) >= layers as u64;
    if keys.flag("use_sliding_window")?.unwrap_or(false) && !wide && !all_full {
        return Err(keys.wrong(
            "use_sliding_window",
            "true is not supported: layers from `max_window_layers` on would see `sliding_window` tokens only",
        ));
    }
    Ok(())
}

/// Base and scaling, from `rope_parameters` or from `rope_theta` and `rope_scaling`.
fn rope(keys: &Keys) -> Result<(f64, RopeScaling), LmError> {
    let (name, json) = match (keys.get("rope_parameters"), keys.get("rope_scaling")) {
        (Some(p), _) => ("rope_parameters", Some(p)),
        (None, s) => ("rope_scaling", s),
    };
    let theta = keys.number("rope_theta")?;
    let Some(json) = json else { return Ok((theta.unwrap_or(10_000.0), RopeScaling::None)) };
    let inner = Keys { path: keys.path, json };
    let theta = inner.number("rope_theta")?.or(theta).unwrap_or(10_000.0);
    let kind = inner.get("rope_type").or_else(|| inner.get("type"));
    let need = |key: &str| inner.number(key)?.ok_or_else(|| keys.wrong(&format!("{name}.{key}"), "missing"));
    let scaling = match kind.and_then(Value::as_str).unwrap_or("default") {
        "default" => RopeScaling::None,
        "linear" => RopeScaling::Linear { factor: need("factor")? },
        "llama3" => RopeScaling::Llama3 {
            factor: need("factor")?,
            low: need("low_freq_factor")?,
            high: need("high_freq_factor")?,
            context: need("original_max_position_embeddings")?,
        },
        other => {
            let key = format!("{name}.rope_type");
            return Err(keys.wrong(&key, format_args!("{other:?} is not supported")));
        }
    };
    Ok((theta, scaling))
}

fn eos(keys: &Keys) -> Result<Vec<u32>, LmError> {
    let id = |v: &Value| v.as_u64().and_then(|n| u32::try_from(n).ok());
    let ids = match keys.get("eos_token_id") {
        None => Some(Vec::new()),
        Some(Value::Array(list)) => list.iter().map(id).collect(),
        Some(one) => id(one).map(|n| vec![n]),
    };
    ids.ok_or_else(|| keys.wrong("eos_token_id", "expected a token id or a list of them"))
}

#[cfg(test)]
mod tests;
