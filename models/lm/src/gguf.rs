//! GGUF files: weights as llama.cpp and others store them, mapped and read in place; and what a
//! model's folder needs beside them, made of the file's own metadata.
//!
//! Read are tensors of type f32, f16, bf16, q8_0, q4_0, q4_1, q4_k and q6_k in place, and q5_0, q5_1, q2_k,
//! q3_k and q5_k decoded to f32, of the architectures llama and qwen2. Files of type llama hold the rows of queries and keys pairwise; they are read back into
//! the order of the published weights ([`RowOrder::Pairs`]).

mod write;

use std::collections::HashMap;
use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::Device;
use candle_core::quantized::GgmlDType;
use candle_core::quantized::gguf_file::{Content, TensorInfo, Value};
use candle_core::quantized::tokenizer::TokenizerFromGguf;
use headstart_disk::Disk;
use headstart_kernels::RowOrder;
use serde_json::json;
use tokenizers::Tokenizer;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;

use crate::config::DecoderConfig;
use crate::error::LmError;
use crate::files;
use crate::text::guarded;
use crate::weights::{Mapped, StoredType, Weight, Weights};

pub use headstart_kernels::QuantType;
pub use write::quantize;

/// Architectures that are read, which are `model_type`s too.
const ARCHITECTURES: [&str; 2] = ["llama", "qwen2"];

/// Names inside a block: GGUF's and the published ones.
const BLOCK: [(&str, &str); 9] = [
    ("attn_norm", "input_layernorm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("ffn_norm", "post_attention_layernorm"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
];
/// Names outside of blocks.
const OUTSIDE: [(&str, &str); 3] =
    [("token_embd", "model.embed_tokens"), ("output_norm", "model.norm"), ("output", "lm_head")];
/// The widest head that is read.
const WIDEST_HEAD: f64 = 65_536.0;
/// Bytes in which a file's metadata end; those of large vocabularies have 20 MB.
const LONGEST_METADATA: usize = 32 << 20;
/// Divisors of the rotary frequencies.
const ROPE: &str = "rope_freqs.weight";

/// The published name of a tensor, and whether it is one of queries or keys.
fn published(name: &str) -> Option<(String, bool)> {
    let (name, ending) = name.rsplit_once('.')?;
    if let Some((_, known)) = OUTSIDE.iter().find(|(ours, _)| *ours == name) {
        return Some((format!("{known}.{ending}"), false));
    }
    let (block, part) = name.strip_prefix("blk.")?.split_once('.')?;
    let (_, known) = BLOCK.iter().find(|(ours, _)| *ours == part)?;
    Some((format!("model.layers.{block}.{known}.{ending}"), matches!(part, "attn_q" | "attn_k")))
}

/// The only GGUF file of a folder without safetensors weights.
///
/// # Errors
/// [`LmError::File`] where there are several.
pub fn find(folder: &Path) -> Result<Option<PathBuf>, LmError> {
    if folder.join("model.safetensors").exists() || folder.join("model.safetensors.index.json").exists() {
        return Ok(None);
    }
    let Ok(entries) = std::fs::read_dir(folder) else { return Ok(None) };
    let paths = entries.flatten().map(|e| e.path());
    let mut all: Vec<PathBuf> = paths.filter(|p| p.extension().is_some_and(|e| e == "gguf")).collect();
    all.sort();
    match all.as_slice() {
        [] => Ok(None),
        [one] => Ok(Some(one.clone())),
        [first, second, ..] => Err(LmError::File {
            path: folder.into(),
            why: format!("holds several GGUF files: {} and {}", first.display(), second.display()),
            help: Some("leave one in the folder; files split in parts are not read".into()),
        }),
    }
}

/// An open GGUF file.
pub struct Gguf {
    path: PathBuf,
    file: Arc<Mapped>,
    content: Content,
    architecture: String,
}

impl Gguf {
    /// Maps a file and reads its metadata.
    ///
    /// # Errors
    /// [`LmError::File`] where it is none, broken, or of another architecture.
    pub fn open(path: &Path) -> Result<Self, LmError> {
        let file = Arc::new(Mapped::new(path)?);
        // Values take more memory than in the file, so only so many bytes are read as metadata.
        let head = &file.bytes()[..file.bytes().len().min(LONGEST_METADATA)];
        let content = Content::read(&mut Cursor::new(head)).map_err(|e| LmError::File {
            path: path.into(),
            why: format!("cannot be read as GGUF: {e}"),
            help: Some("fetch the file again, or make one with `headstart model quantize`".into()),
        })?;
        let architecture = match content.metadata.get("general.architecture") {
            Some(Value::String(a)) => a.clone(),
            _ => String::new(),
        };
        let this = Self { path: path.into(), file, content, architecture };
        if !ARCHITECTURES.contains(&this.architecture.as_str()) {
            let why = format!("its architecture is {:?}", this.architecture);
            return Err(this.wrong(why, &format!("supported: {}", ARCHITECTURES.join(", "))));
        }
        Ok(this)
    }

    fn wrong(&self, why: String, help: &str) -> LmError {
        LmError::File { path: self.path.clone(), why, help: Some(help.into()) }
    }

    /// A number of the architecture's own metadata.
    fn number(&self, key: &str) -> Option<f64> {
        number(self.content.metadata.get(&format!("{}.{key}", self.architecture))?)
    }

    fn need(&self, key: &str) -> Result<f64, LmError> {
        let missing =
            || self.wrong(format!("metadata `{}.{key}` is missing", self.architecture), "fetch it again");
        self.number(key).ok_or_else(missing)
    }

    /// All tensors that a decoder has, by published name, in place.
    ///
    /// # Errors
    /// [`LmError::File`] naming a tensor of a type that is not read, or cut short.
    pub fn weights(&self) -> Result<Weights, LmError> {
        let half = self.head_dim()? / 2;
        let mut all = Vec::new();
        for (name, info) in &self.content.tensor_infos {
            let Some((published, turned)) = published(name) else {
                if name != ROPE && name.starts_with("blk.") {
                    let why = format!("tensor {name} belongs to no model of type {}", self.architecture);
                    return Err(self.wrong(why, "models with such layers are not supported"));
                }
                continue;
            };
            let shape = info.shape.dims();
            let paired = turned && self.architecture == "llama";
            let order = if paired { RowOrder::Pairs(half) } else { RowOrder::Plain };
            let Some(stored) = stored(info.ggml_dtype) else {
                all.push((published, self.decoded(name, info)?.ordered(order)));
                continue;
            };
            let at = self.place_of(name, info, stored)?;
            if let StoredType::Quantized(p) = stored
                && shape.last().is_none_or(|n| n % p.block() != 0)
            {
                let why = format!("tensor {name} of shape {shape:?} is not in whole blocks of {}", p.block());
                return Err(self.wrong(why, "fetch the file again"));
            }
            all.push((published, Weight::mapped(shape, stored, &self.file, at).ordered(order)));
        }
        Ok(Weights::of(&self.path, all))
    }

    /// A tensor of a type that no kernel reads, as 32-bit floats in memory. llama-quantize writes such
    /// wherever a row is not a multiple of 256 numbers.
    fn decoded(&self, name: &str, info: &TensorInfo) -> Result<Weight, LmError> {
        const DECODED: [GgmlDType; 5] =
            [GgmlDType::Q5_0, GgmlDType::Q5_1, GgmlDType::Q5K, GgmlDType::Q2K, GgmlDType::Q3K];
        let dtype = info.ggml_dtype;
        if !DECODED.contains(&dtype) {
            let why = format!("tensor {name} is of type {dtype:?}");
            return Err(self.wrong(
                why,
                "f32, f16, bf16, q8_0, q4_0, q4_1, q5_0, q5_1, q2_k, q3_k, q4_k, q5_k and q6_k are read: take a Q8_0 \
                 or Q4_K file, or make one with `headstart model quantize`",
            ));
        }
        let shape = info.shape.dims();
        if shape.last().is_none_or(|n| n % dtype.block_size() != 0) {
            let why =
                format!("tensor {name} of shape {shape:?} is not in whole blocks of {}", dtype.block_size());
            return Err(self.wrong(why, "fetch the file again"));
        }
        // At least as long as is needed, so that nothing is made room for that the file does not hold.
        let blocks = self.sized(name, info, |n| n / dtype.block_size() * dtype.type_size())?;
        let broken =
            |e: candle_core::Error| self.wrong(format!("tensor {name}: {e}"), "fetch the file again");
        let raw = &self.file.bytes()[blocks];
        let mut reader = Cursor::new(raw);
        let local = TensorInfo { ggml_dtype: dtype, shape: info.shape.clone(), offset: 0 };
        let tensor = local.read(&mut reader, 0, &Device::Cpu).map_err(broken)?;
        let numbers = tensor.dequantize(&Device::Cpu).and_then(|t| t.flatten_all()?.to_vec1::<f32>());
        Ok(Weight::owned(shape, numbers.map_err(broken)?))
    }

    /// Where a tensor begins in the file, which holds all of it.
    fn place_of(&self, name: &str, info: &TensorInfo, stored: StoredType) -> Result<usize, LmError> {
        Ok(self.sized(name, info, |n| stored.size(n))?.start)
    }

    /// The bytes of a tensor, `size` of its numbers; the file holds all of them.
    fn sized(
        &self,
        name: &str,
        info: &TensorInfo,
        size: impl Fn(usize) -> usize,
    ) -> Result<std::ops::Range<usize>, LmError> {
        let numbers = info.shape.dims().iter().try_fold(1usize, |n, d| n.checked_mul(*d));
        let end = numbers.and_then(|n| {
            let at = self.content.tensor_data_offset.checked_add(info.offset)?;
            // Four bytes a number are the most.
            let size = n.checked_mul(4).map(|_| size(n))?;
            Some((at, at.checked_add(size as u64)?))
        });
        match end {
            Some((at, end)) if end <= self.file.bytes().len() as u64 => Ok(at as usize..end as usize),
            _ => {
                let shape = info.shape.dims();
                let why =
                    format!("is cut short: tensor {name} of shape {shape:?} ends behind the file's end");
                Err(self.wrong(why, "fetch or copy the file again"))
            }
        }
    }

    fn head_dim(&self) -> Result<usize, LmError> {
        let dim = match self.number("attention.key_length") {
            Some(n) => n,
            None => self.need("embedding_length")? / self.need("attention.head_count")?,
        };
        if dim.is_finite() && (1.0..=WIDEST_HEAD).contains(&dim) {
            return Ok(dim as usize);
        }
        Err(self.wrong(format!("its heads are {dim} wide"), "fetch the file again"))
    }

    /// Writes config.json, tokenizer.json and tokenizer_config.json as the published model has them,
    /// made of the metadata.
    ///
    /// # Errors
    /// [`LmError::File`] naming what the metadata lack or what is not supported, [`LmError::Disk`].
    pub fn describe(&self, disk: &dyn Disk, folder: &Path) -> Result<(), LmError> {
        let config = self.config()?;
        DecoderConfig::from_json(&self.path, &config)?;
        files::write_json(disk, &folder.join("config.json"), &config)?;
        let tokenizer = self.tokenizer()?;
        let path = folder.join("tokenizer.json");
        let text =
            tokenizer.to_string(false).map_err(|e| LmError::Internal(format!("{}: {e}", path.display())))?;
        headstart_disk::files::write(disk, &path, text.as_bytes())?;
        let text = |key: &str| tokenizer.id_to_token(self.token(key)? as u32);
        let template = match self.content.metadata.get("tokenizer.chat_template") {
            Some(Value::String(t)) => Some(t),
            _ => None,
        };
        let about = json!({
            "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": text("bos"), "eos_token": text("eos"),
            "chat_template": template, "clean_up_tokenization_spaces": false,
        });
        files::write_json(disk, &folder.join("tokenizer_config.json"), &about)
    }

    fn token(&self, name: &str) -> Option<f64> {
        number(self.content.metadata.get(&format!("tokenizer.ggml.{name}_token_id"))?)
    }

    fn config(&self) -> Result<serde_json::Value, LmError> {
        let size = |key: &str| Ok::<_, LmError>(self.need(key)? as u64);
        let has = |name: &str| self.content.tensor_infos.contains_key(name);
        if self.number("expert_count").is_some_and(|n| n > 0.0) {
            return Err(self.wrong("is a mixture of experts".into(), "such models are not supported"));
        }
        let (head_dim, turned) = (self.head_dim()?, self.number("rope.dimension_count"));
        if turned.is_some_and(|n| n as usize != head_dim) {
            return Err(self.wrong("turns only a part of each head".into(), "such models are not supported"));
        }
        let embedding = self.content.tensor_infos.get("token_embd.weight");
        let vocab = embedding.and_then(|i| i.shape.dims().first().copied()).ok_or_else(|| {
            self.wrong("tensor token_embd.weight is missing".into(), "fetch the file again")
        })?;
        let heads = size("attention.head_count")?;
        let kv = self.number("attention.head_count_kv").map_or(heads, |n| n as u64);
        let bias = has("blk.0.attn_q.bias");
        Ok(json!({
            "model_type": self.architecture, "hidden_size": size("embedding_length")?,
            "intermediate_size": size("feed_forward_length")?, "num_hidden_layers": size("block_count")?,
            "num_attention_heads": heads, "num_key_value_heads": kv, "head_dim": head_dim, "vocab_size": vocab,
            "max_position_embeddings": size("context_length")?,
            "rms_norm_eps": self.need("attention.layer_norm_rms_epsilon")?,
            "rope_theta": self.number("rope.freq_base").unwrap_or(10_000.0),
            "rope_scaling": self.rope_scaling(head_dim)?, "tie_word_embeddings": !has("output.weight"),
            "attention_bias": bias, "mlp_bias": has("blk.0.ffn_gate.bias"), "hidden_act": "silu",
            "bos_token_id": self.token("bos").map(|n| n as u64),
            "eos_token_id": self.token("eos").map(|n| n as u64),
        }))
    }

    /// What config.json calls `rope_scaling`. Llama 3's is stored as a divisor for each frequency.
    fn rope_scaling(&self, head_dim: usize) -> Result<serde_json::Value, LmError> {
        let kind = match self.content.metadata.get(&format!("{}.rope.scaling.type", self.architecture)) {
            Some(Value::String(kind)) => kind.as_str(),
            _ => "none",
        };
        let divisors = self.divisors()?;
        match (kind, divisors) {
            ("linear", None) => {
                Ok(json!({"rope_type": "linear", "factor": self.need("rope.scaling.factor")?}))
            }
            ("none", None) => Ok(serde_json::Value::Null),
            ("none", Some(divisors)) => self.llama3(&divisors, head_dim),
            (other, _) => {
                Err(self.wrong(format!("rope scaling {other:?} is not supported"), "take another model"))
            }
        }
    }

    fn divisors(&self) -> Result<Option<Vec<f32>>, LmError> {
        let Some(info) = self.content.tensor_infos.get(ROPE) else { return Ok(None) };
        if info.ggml_dtype != GgmlDType::F32 {
            return Err(self.wrong(format!("tensor {ROPE} is not of f32"), "fetch the file again"));
        }
        let at = self.place_of(ROPE, info, StoredType::F32)?;
        Ok(Some(Weight::mapped(&[info.shape.elem_count()], StoredType::F32, &self.file, at).to_vec()))
    }

    /// Llama 3's parameters: the factor is the largest divisor, and all published models share the
    /// other three. Checked against every divisor.
    fn llama3(&self, divisors: &[f32], head_dim: usize) -> Result<serde_json::Value, LmError> {
        let factor = divisors.iter().fold(1f32, |m, v| m.max(*v));
        let scaling = json!({"rope_type": "llama3", "factor": factor, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 8192});
        let theta = self.number("rope.freq_base").unwrap_or(10_000.0);
        let frequencies = |scaling: serde_json::Value| {
            let all = json!({"model_type": "llama", "hidden_size": head_dim, "num_attention_heads": 1,
                "head_dim": head_dim, "num_hidden_layers": 1, "vocab_size": 1, "intermediate_size": 1,
                "rope_theta": theta, "rope_scaling": scaling});
            Ok::<_, LmError>(DecoderConfig::from_json(&self.path, &all)?.rope_frequencies())
        };
        let (plain, scaled) = (frequencies(serde_json::Value::Null)?, frequencies(scaling.clone())?);
        let close = |((p, s), d): ((&f32, &f32), &f32)| (p / s / d - 1.0).abs() < 1e-3;
        if plain.len() != divisors.len() || !plain.iter().zip(&scaled).zip(divisors).all(close) {
            let why = format!("tensor {ROPE} holds divisors other than Llama 3's");
            return Err(self.wrong(why, "such models are not supported"));
        }
        Ok(scaling)
    }

    /// The tokenizer of the file's own vocabulary.
    ///
    /// # Errors
    /// [`LmError::File`] where there is none, or of a kind that would split texts in other ways.
    pub fn tokenizer(&self) -> Result<Tokenizer, LmError> {
        const HELP: &str = "put the tokenizer.json and config.json of the published model beside the file";
        let text = |key: &str| match self.content.metadata.get(key) {
            Some(Value::String(s)) => s.as_str(),
            _ => "",
        };
        let (model, pre) = (text("tokenizer.ggml.model"), text("tokenizer.ggml.pre"));
        if model != "gpt2" {
            return Err(self.wrong(format!("its tokenizer is of kind {model:?}, not gpt2"), HELP));
        }
        let mut metadata = self.content.metadata.clone();
        let mut set = |key: &str, value: Value| metadata.insert(format!("tokenizer.ggml.{key}"), value);
        match pre {
            // candle knows it by another name, and lets all unknown ones pass as GPT-2's.
            "llama-bpe" | "llama3" => {
                set("pre", Value::String("llama3".into()));
                set("ignore_merges", Value::Bool(true));
            }
            "qwen2" | "gpt-2" | "smollm" => {}
            _ => return Err(self.wrong(format!("its tokenizer splits texts as {pre:?}"), HELP)),
        }
        let content = Content {
            magic: self.content.magic,
            metadata,
            tensor_infos: HashMap::new(),
            tensor_data_offset: 0,
        };
        let made = guarded(&self.path, || Tokenizer::from_gguf(&content))?;
        let mut made = made.map_err(|e| self.wrong(format!("its tokenizer cannot be read: {e}"), HELP))?;
        // candle puts a space before every text here, and knows nothing of single digits.
        let bytes = ByteLevel::new(false, true, true);
        match pre {
            "smollm" => {
                let parts = vec![Digits::new(true).into(), bytes.into()];
                made.with_pre_tokenizer(Some(Sequence::new(parts)));
            }
            "gpt-2" => {
                made.with_pre_tokenizer(Some(bytes));
            }
            _ => {}
        }
        Ok(made)
    }
}

fn number(value: &Value) -> Option<f64> {
    Some(match value {
        Value::U8(v) => f64::from(*v),
        Value::I8(v) => f64::from(*v),
        Value::U16(v) => f64::from(*v),
        Value::I16(v) => f64::from(*v),
        Value::U32(v) => f64::from(*v),
        Value::I32(v) => f64::from(*v),
        Value::U64(v) => *v as f64,
        Value::I64(v) => *v as f64,
        Value::F32(v) => f64::from(*v),
        Value::F64(v) => *v,
        Value::Bool(_) | Value::String(_) | Value::Array(_) => return None,
    })
}

fn stored(dtype: GgmlDType) -> Option<StoredType> {
    Some(match dtype {
        GgmlDType::F32 => StoredType::F32,
        GgmlDType::F16 => StoredType::F16,
        GgmlDType::BF16 => StoredType::Bf16,
        GgmlDType::Q8_0 => StoredType::Quantized(QuantType::Q8_0),
        GgmlDType::Q4_0 => StoredType::Quantized(QuantType::Q4_0),
        GgmlDType::Q4_1 => StoredType::Quantized(QuantType::Q4_1),
        GgmlDType::Q5_0 => StoredType::Quantized(QuantType::Q5_0),
        GgmlDType::Q5_1 => StoredType::Quantized(QuantType::Q5_1),
        GgmlDType::Q4K => StoredType::Quantized(QuantType::Q4K),
        GgmlDType::Q5K => StoredType::Quantized(QuantType::Q5K),
        GgmlDType::Q6K => StoredType::Quantized(QuantType::Q6K),
        _ => return None,
    })
}
