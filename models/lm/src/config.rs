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
    let wide = keys.size("sliding_window")?.is_none_or(|window| window >= context);
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
mod tests {
    use super::*;
    use serde_json::json;

    fn read(change: impl FnOnce(&mut Value)) -> Result<DecoderConfig, LmError> {
        let mut j = json!({
            "model_type": "llama", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 160, "rms_norm_eps": 1e-5,
        });
        change(&mut j);
        DecoderConfig::from_json(Path::new("config.json"), &j)
    }

    #[test]
    fn both_spellings_of_rope_mean_the_same() {
        let scaling = json!({"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 64});
        let old = read(|j| {
            j["rope_theta"] = json!(500000.0);
            j["rope_scaling"] = scaling.clone();
        });
        let new = read(|j| {
            j["rope_parameters"] = scaling.clone();
            j["rope_parameters"]["rope_theta"] = json!(500000.0);
        });
        let (old, new) = (old.unwrap(), new.unwrap());
        assert_eq!(old, new);
        let f = old.rope_frequencies();
        assert_eq!(f[0], 1.0, "a short wavelength is kept");
        assert!((f[3] / (500000f64.powf(-0.75) / 32.0) as f32 - 1.0).abs() < 1e-6, "a long one is divided");
    }

    #[test]
    fn a_sliding_window_is_refused_where_it_has_an_effect() {
        let window = |window: Value, first: u64, types: Value| {
            read(|j| {
                j["model_type"] = json!("qwen2");
                j["max_position_embeddings"] = json!(128);
                j["use_sliding_window"] = json!(true);
                j["sliding_window"] = window;
                j["max_window_layers"] = json!(first);
                if !types.is_null() {
                    j["layer_types"] = types;
                }
            })
        };
        let refused = |c: Result<DecoderConfig, LmError>| c.unwrap_err().to_string();
        assert!(refused(window(json!(64), 1, Value::Null)).contains("use_sliding_window"));
        assert!(window(json!(64), 2, Value::Null).is_ok(), "no layer has it");
        assert!(window(json!(128), 0, Value::Null).is_ok(), "it holds the whole context");
        assert!(window(Value::Null, 0, Value::Null).is_ok());
        let types = json!(["full_attention", "sliding_attention"]);
        assert!(refused(window(json!(64), 2, types.clone())).contains("layer_types"));
        assert!(window(json!(256), 0, types).is_ok());
    }

    /// Whatever a configuration states, nothing of that size is made before the weights were seen.
    #[test]
    fn sizes_have_a_largest_value() {
        for key in [
            "hidden_size",
            "intermediate_size",
            "num_hidden_layers",
            "num_attention_heads",
            "num_key_value_heads",
            "head_dim",
            "vocab_size",
            "max_position_embeddings",
        ] {
            for huge in [u64::MAX, 1 << 40, (1 << 24) + 1] {
                let e = read(|j| j[key] = json!(huge)).unwrap_err().to_string();
                assert!(e.contains(key) && e.contains(&huge.to_string()), "{e}");
            }
        }
        let most = read(|j| {
            j["hidden_size"] = json!(1 << 20);
            j["intermediate_size"] = json!(1 << 20);
            j["num_hidden_layers"] = json!(1 << 12);
            j["vocab_size"] = json!(1 << 24);
        });
        assert!(most.unwrap().parameters() > 1 << 50, "counted without overflow");
    }

    #[test]
    fn unsupported_keys_are_named() {
        let cases: [(&str, Value); 6] = [
            ("hidden_act", json!("gelu")),
            ("use_sliding_window", json!(true)),
            ("quantization_config", json!({"bits": 4})),
            ("rope_scaling", json!({"rope_type": "yarn", "factor": 4.0})),
            ("layer_types", json!(["full_attention", "sliding_attention"])),
            ("num_key_value_heads", json!(3)),
        ];
        for (key, value) in cases {
            let e = read(|j| j[key] = value).unwrap_err().to_string();
            assert!(e.contains(key), "{e}");
        }
        assert!(read(|j| j["model_type"] = json!("mamba")).unwrap_err().to_string().contains("model_type"));
    }

    /// What the files published with these models say, and the numbers of weights they have.
    #[test]
    fn published_models_have_their_published_sizes() {
        let read = |j: Value| DecoderConfig::from_json(Path::new("config.json"), &j).unwrap();
        let smollm = read(json!({"model_type": "llama", "attention_bias": false, "hidden_act": "silu",
            "hidden_size": 576, "intermediate_size": 1536, "max_position_embeddings": 2048,
            "num_attention_heads": 9, "num_hidden_layers": 30, "num_key_value_heads": 3, "pretraining_tp": 1,
            "rms_norm_eps": 1e-5, "rope_scaling": null, "rope_theta": 10000.0, "tie_word_embeddings": true,
            "torch_dtype": "bfloat16", "vocab_size": 49152}));
        assert_eq!((smollm.parameters(), smollm.head_dim), (134_515_008, 64));
        let smollm2 = read(json!({"model_type": "llama", "attention_bias": false, "hidden_act": "silu",
            "hidden_size": 960, "intermediate_size": 2560, "is_llama_config": true, "mlp_bias": false,
            "max_position_embeddings": 8192, "num_attention_heads": 15, "num_hidden_layers": 32,
            "num_key_value_heads": 5, "rms_norm_eps": 1e-5, "rope_interleaved": false, "rope_scaling": null,
            "rope_theta": 100000, "tie_word_embeddings": true, "vocab_size": 49152}));
        assert_eq!(smollm2.parameters(), 361_821_120);
        let llama = read(json!({"model_type": "llama", "attention_bias": false, "head_dim": 64,
            "hidden_act": "silu", "hidden_size": 2048, "intermediate_size": 8192, "mlp_bias": false,
            "max_position_embeddings": 131072, "num_attention_heads": 32, "num_hidden_layers": 16,
            "num_key_value_heads": 8, "rms_norm_eps": 1e-5, "rope_scaling": {"factor": 32.0,
                "high_freq_factor": 4.0, "low_freq_factor": 1.0, "original_max_position_embeddings": 8192,
                "rope_type": "llama3"}, "rope_theta": 500000.0, "tie_word_embeddings": true,
            "eos_token_id": [128001, 128008, 128009], "vocab_size": 128256}));
        assert_eq!((llama.parameters(), llama.eos.len()), (1_235_814_400, 3));
        // A window that is switched off, as in all small Qwen2 and Qwen2.5 models.
        let qwen = read(json!({"model_type": "qwen2", "hidden_act": "silu", "hidden_size": 896,
            "intermediate_size": 4864, "max_position_embeddings": 32768, "max_window_layers": 24,
            "num_attention_heads": 14, "num_hidden_layers": 24, "num_key_value_heads": 2,
            "rms_norm_eps": 1e-6, "rope_theta": 1000000.0, "sliding_window": 32768,
            "tie_word_embeddings": true, "use_sliding_window": false, "vocab_size": 151936}));
        assert_eq!((qwen.parameters(), qwen.qkv_bias), (494_032_768, true));
    }

    #[test]
    fn qwen2_has_biases_on_q_k_v_only() {
        let c = read(|j| j["model_type"] = json!("qwen2")).unwrap();
        assert!(c.qkv_bias && !c.o_bias && !c.mlp_bias);
    }
}
