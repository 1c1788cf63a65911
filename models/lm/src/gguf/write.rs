//! Model folders with quantized weights: `model.gguf`, readable by llama.cpp too, beside the other
//! files of the model.

mod vocabulary;

use std::io::{BufWriter, Write};
use std::path::Path;

use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};
use half::f16;
use headstart_disk::{Disk, DiskError, DiskFile};
use headstart_kernels::{QuantType, RowOrder};
use rayon::prelude::*;

use super::{BLOCK, OUTSIDE, ROPE};
use crate::config::{DecoderConfig, RopeScaling};
use crate::error::LmError;
use crate::files;
use crate::weights::{StoredType, Weight, Weights};

/// Tensors begin at multiples of this.
const ALIGNMENT: usize = 32;
/// Numbers that are quantized at once.
const PIECE: usize = 1 << 21;

/// A value of the metadata.
enum Meta {
    U32(u32),
    F32(f32),
    Bool(bool),
    Text(String),
    Texts(Vec<String>),
    Numbers(Vec<i32>),
}

/// A tensor to be written.
struct Planned {
    name: String,
    weight: Weight,
    stored: StoredType,
    order: RowOrder,
}

/// Writes the folder `out`: the model of the folder `model` with its linear layers quantized. It
/// appears only when it is complete.
///
/// With [`QuantType::Q4K`] the embedding and the output layer are written as Q6_K. What has rows that
/// are no whole blocks is written in the next larger form: Q8_0, else f16. Norms and biases stay
/// f32.
///
/// # Errors
/// Those of reading the model, and [`LmError::Disk`].
pub fn quantize(disk: &dyn Disk, model: &Path, out: &Path, to: QuantType) -> Result<(), LmError> {
    let config = DecoderConfig::load(model)?;
    let weights = Weights::open_model(model)?;
    let planned = plan(&config, &weights, to)?;
    let mut metadata = describe(&config, model, to);
    metadata.extend(vocabulary::metadata(model, &config)?);
    files::write_folder(disk, out, |temporary| {
        copy_companions(disk, model, temporary)?;
        let path = temporary.join("model.gguf");
        headstart_disk::files::write_with(disk, &path, |file| {
            write(file, &metadata, &planned).map_err(|e| match e {
                Failed::Io(source) => DiskError::at("write", &path)(source).into(),
                Failed::Model(e) => e,
            })
        })
    })
}

/// Everything of a model's folder but its weights.
fn copy_companions(disk: &dyn Disk, from: &Path, to: &Path) -> Result<(), LmError> {
    for entry in std::fs::read_dir(from).map_err(|e| LmError::io(from, e))?.flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        let ending = path.extension().and_then(|e| e.to_str()).unwrap_or_default();
        let index = name.to_string_lossy().ends_with(".index.json");
        if path.is_file() && !index && ["json", "jinja", "txt", "model", "md"].contains(&ending) {
            headstart_disk::files::copy(disk, &path, &to.join(name))?;
        }
    }
    Ok(())
}

fn plan(c: &DecoderConfig, weights: &Weights, to: QuantType) -> Result<Vec<Planned>, LmError> {
    let mut all = Vec::new();
    let mut add = |ours: String, published: String| -> Result<(), LmError> {
        for ending in ["weight", "bias"] {
            let name = format!("{published}.{ending}");
            let Some((_, weight)) = weights.iter().find(|(n, _)| *n == name) else { continue };
            let head = matches!(ours.as_str(), "token_embd" | "output");
            let turned = c.model_type == "llama" && (ours.ends_with("attn_q") || ours.ends_with("attn_k"));
            let order = if turned { RowOrder::Pairs(c.head_dim / 2) } else { RowOrder::Plain };
            let stored = choose(&weight.shape, to, head);
            all.push(Planned { name: format!("{ours}.{ending}"), weight: weight.clone(), stored, order });
        }
        Ok(())
    };
    for (ours, published) in OUTSIDE {
        if ours != "output" || !c.tied {
            add(ours.into(), published.into())?;
        }
    }
    for i in 0..c.layers {
        for (ours, published) in BLOCK {
            add(format!("blk.{i}.{ours}"), format!("model.layers.{i}.{published}"))?;
        }
    }
    if matches!(c.rope_scaling, RopeScaling::Llama3 { .. }) {
        let plain = DecoderConfig { rope_scaling: RopeScaling::None, ..c.clone() }.rope_frequencies();
        let divisors: Vec<f32> = plain.iter().zip(c.rope_frequencies()).map(|(p, s)| p / s).collect();
        let weight = Weight::owned(&[divisors.len()], divisors);
        all.push(Planned { name: ROPE.into(), weight, stored: StoredType::F32, order: RowOrder::Plain });
    }
    Ok(all)
}

fn choose(shape: &[usize], to: QuantType, head: bool) -> StoredType {
    let [_, cols] = shape else { return StoredType::F32 };
    let wanted = if head && to == QuantType::Q4K { QuantType::Q6K } else { to };
    match [wanted, QuantType::Q8_0].into_iter().find(|p| cols % p.block() == 0) {
        Some(packing) => StoredType::Quantized(packing),
        None => StoredType::F16,
    }
}

fn describe(c: &DecoderConfig, model: &Path, to: QuantType) -> Vec<(String, Meta)> {
    let name = model.file_name().and_then(|n| n.to_str()).unwrap_or("model").to_owned();
    // llama.cpp's numbers of mostly-Q8_0 and mostly-Q4_K files.
    let kind = if to == QuantType::Q8_0 { 7 } else { 15 };
    let general = [
        ("general.architecture", Meta::Text(c.model_type.clone())),
        ("general.name", Meta::Text(name)),
        ("general.file_type", Meta::U32(kind)),
        ("general.quantization_version", Meta::U32(2)),
        ("general.alignment", Meta::U32(ALIGNMENT as u32)),
    ];
    let size = |n: usize| Meta::U32(n as u32);
    let mut own = vec![
        ("context_length", size(c.context)),
        ("embedding_length", size(c.hidden)),
        ("block_count", size(c.layers)),
        ("feed_forward_length", size(c.ffn)),
        ("attention.head_count", size(c.heads)),
        ("attention.head_count_kv", size(c.kv_heads)),
        ("attention.key_length", size(c.head_dim)),
        ("attention.value_length", size(c.head_dim)),
        ("attention.layer_norm_rms_epsilon", Meta::F32(c.norm_eps)),
        ("rope.freq_base", Meta::F32(c.rope_theta as f32)),
        ("rope.dimension_count", size(c.head_dim)),
        ("vocab_size", size(c.vocab)),
    ];
    if let RopeScaling::Linear { factor } = c.rope_scaling {
        own.push(("rope.scaling.type", Meta::Text("linear".into())));
        own.push(("rope.scaling.factor", Meta::F32(factor as f32)));
    }
    let own = own.into_iter().map(|(key, value)| (format!("{}.{key}", c.model_type), value));
    general.into_iter().map(|(key, value)| (key.to_owned(), value)).chain(own).collect()
}

/// Why writing failed.
enum Failed {
    Io(std::io::Error),
    Model(LmError),
}

impl From<std::io::Error> for Failed {
    fn from(e: std::io::Error) -> Self {
        Self::Io(e)
    }
}

fn write(file: &mut dyn DiskFile, metadata: &[(String, Meta)], tensors: &[Planned]) -> Result<(), Failed> {
    let mut header = Vec::new();
    header.extend(b"GGUF");
    header.extend(3u32.to_le_bytes());
    header.extend((tensors.len() as u64).to_le_bytes());
    header.extend((metadata.len() as u64).to_le_bytes());
    for (key, value) in metadata {
        text(&mut header, key);
        put(&mut header, value);
    }
    let mut at = 0;
    for t in tensors {
        text(&mut header, &t.name);
        header.extend((t.weight.shape.len() as u32).to_le_bytes());
        for n in t.weight.shape.iter().rev() {
            header.extend((*n as u64).to_le_bytes());
        }
        header.extend(code(t.stored).to_le_bytes());
        header.extend((at as u64).to_le_bytes());
        at += t.stored.size(t.weight.len()).next_multiple_of(ALIGNMENT);
    }
    let mut file = BufWriter::new(file);
    file.write_all(&header)?;
    pad(&mut file, header.len())?;
    for t in tensors {
        let written = numbers(&mut file, t)?;
        debug_assert_eq!(written, t.stored.size(t.weight.len()));
        pad(&mut file, written)?;
    }
    file.into_inner().map_err(|e| e.into_error())?.sync()?;
    Ok(())
}

/// GGUF's number of a tensor's type.
fn code(stored: StoredType) -> u32 {
    match stored {
        StoredType::F32 => 0,
        StoredType::F16 => 1,
        StoredType::Quantized(QuantType::Q4_0) => 2,
        StoredType::Quantized(QuantType::Q4_1) => 3,
        StoredType::Quantized(QuantType::Q5_0) => 6,
        StoredType::Quantized(QuantType::Q5_1) => 7,
        StoredType::Quantized(QuantType::Q8_0) => 8,
        StoredType::Quantized(QuantType::Q4K) => 12,
        StoredType::Quantized(QuantType::Q5K) => 13,
        StoredType::Quantized(QuantType::Q6K) => 14,
        StoredType::Bf16 => 30,
    }
}

fn text(to: &mut Vec<u8>, text: &str) {
    to.extend((text.len() as u64).to_le_bytes());
    to.extend(text.as_bytes());
}

fn put(to: &mut Vec<u8>, value: &Meta) {
    let kind: u32 = match value {
        Meta::U32(_) => 4,
        Meta::F32(_) => 6,
        Meta::Bool(_) => 7,
        Meta::Text(_) => 8,
        Meta::Texts(_) | Meta::Numbers(_) => 9,
    };
    to.extend(kind.to_le_bytes());
    match value {
        Meta::U32(v) => to.extend(v.to_le_bytes()),
        Meta::F32(v) => to.extend(v.to_le_bytes()),
        Meta::Bool(v) => to.push(u8::from(*v)),
        Meta::Text(v) => text(to, v),
        Meta::Texts(all) => {
            to.extend(8u32.to_le_bytes());
            to.extend((all.len() as u64).to_le_bytes());
            all.iter().for_each(|v| text(to, v));
        }
        Meta::Numbers(all) => {
            to.extend(5u32.to_le_bytes());
            to.extend((all.len() as u64).to_le_bytes());
            all.iter().for_each(|v| to.extend(v.to_le_bytes()));
        }
    }
}

fn pad(file: &mut impl Write, written: usize) -> std::io::Result<()> {
    file.write_all(&[0; ALIGNMENT][..written.next_multiple_of(ALIGNMENT) - written])
}

/// Writes a tensor's numbers, some rows at a time.
fn numbers(file: &mut impl Write, t: &Planned) -> Result<usize, Failed> {
    let matrix = t.weight.matrix();
    let (rows, cols) = (matrix.rows, matrix.cols.max(1));
    let mut written = 0;
    let at_once = (PIECE / cols).max(1);
    for first in (0..rows).step_by(at_once) {
        let mut part = vec![0.0; at_once.min(rows - first) * cols];
        part.par_chunks_mut(cols).enumerate().for_each(|(r, row)| matrix.row(t.order.row(first + r), row));
        let bytes = encode(&part, cols, t.stored).map_err(Failed::Model)?;
        file.write_all(&bytes)?;
        written += bytes.len();
    }
    Ok(written)
}

fn encode(numbers: &[f32], cols: usize, stored: StoredType) -> Result<Vec<u8>, LmError> {
    let dtype = match stored {
        StoredType::F32 => return Ok(bytemuck::cast_slice(numbers).to_vec()),
        StoredType::Bf16 => return Ok(files::bf16_bytes(numbers)),
        StoredType::F16 => return Ok(numbers.iter().flat_map(|v| f16::from_f32(*v).to_le_bytes()).collect()),
        StoredType::Quantized(QuantType::Q8_0) => GgmlDType::Q8_0,
        StoredType::Quantized(QuantType::Q4_0) => GgmlDType::Q4_0,
        StoredType::Quantized(QuantType::Q4_1) => GgmlDType::Q4_1,
        StoredType::Quantized(QuantType::Q5_0) => GgmlDType::Q5_0,
        StoredType::Quantized(QuantType::Q5_1) => GgmlDType::Q5_1,
        StoredType::Quantized(QuantType::Q4K) => GgmlDType::Q4K,
        StoredType::Quantized(QuantType::Q5K) => GgmlDType::Q5K,
        StoredType::Quantized(QuantType::Q6K) => GgmlDType::Q6K,
    };
    let parts: Result<Vec<Vec<u8>>, candle_core::Error> = numbers
        .par_chunks(cols * 16)
        .map(|rows| {
            let rows = Tensor::from_slice(rows, (rows.len() / cols, cols), &Device::Cpu)?;
            Ok(QTensor::quantize(&rows, dtype)?.data()?.into_owned())
        })
        .collect();
    Ok(parts?.concat())
}
