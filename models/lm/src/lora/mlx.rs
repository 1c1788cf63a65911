//! mlx-lm's adapter format (`adapters.safetensors` beside its own adapter_config.json), to and
//! from PEFT's.
//!
//! mlx-lm adds `scale · (x a) b` with a `[in, rank]` and b `[rank, out]`; PEFT adds
//! `alpha / rank · B A x` with A `[rank, in]` and B `[out, rank]`. So A = aᵀ, B = bᵀ and
//! alpha = scale · rank. Numbers keep their stored type and their bits; only where a PEFT adapter
//! has several scales, which mlx-lm cannot say, B takes up the difference.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use headstart_disk::{Disk, read};
use headstart_kernels::Storage;
use safetensors::{Dtype, SafeTensors};
use serde_json::{Value, json};

use super::config::{AdapterConfig, FILE, Targets};
use super::{WEIGHTS_FILE, tensor_name};
use crate::config::{Keys, read_json};
use crate::error::LmError;
use crate::files;
use crate::model::Slot;
use crate::proj::Proj;

/// The weights' file of mlx-lm's adapters.
pub const MLX_WEIGHTS_FILE: &str = "adapters.safetensors";
/// Whether a folder holds an adapter of mlx-lm.
pub fn is_mlx(folder: &Path) -> bool {
    folder.join(MLX_WEIGHTS_FILE).is_file() && !folder.join(WEIGHTS_FILE).is_file()
}

/// A matrix as stored.
struct StoredType {
    dtype: Dtype,
    rows: usize,
    cols: usize,
    bytes: Vec<u8>,
}

/// The LoRA pair of a projection: A `[rank, in]`, B `[out, rank]`.
struct Pair {
    a: StoredType,
    b: StoredType,
}

type Pairs = BTreeMap<(usize, usize), Pair>;

impl StoredType {
    fn width(&self) -> usize {
        match self.dtype {
            Dtype::F32 => 4,
            _ => 2,
        }
    }

    fn transposed(&self) -> Self {
        let (width, mut bytes) = (self.width(), Vec::with_capacity(self.bytes.len()));
        for col in 0..self.cols {
            for row in 0..self.rows {
                let at = (row * self.cols + col) * width;
                bytes.extend_from_slice(&self.bytes[at..at + width]);
            }
        }
        Self { dtype: self.dtype, rows: self.cols, cols: self.rows, bytes }
    }

    /// With rows of zeros below, to so many.
    fn padded(mut self, rows: usize) -> Self {
        self.bytes.resize(rows * self.cols * self.width(), 0);
        self.rows = rows;
        self
    }

    /// Multiplied, as f32.
    fn times(&self, factor: f32) -> Self {
        let mut numbers = vec![0.0; self.rows * self.cols];
        let wide = |b: &[u8]| u16::from_le_bytes([b[0], b[1]]);
        let pairs = || self.bytes.chunks_exact(2).map(wide);
        match self.dtype {
            Dtype::F32 => {
                let all: Vec<f32> = self
                    .bytes
                    .chunks_exact(4)
                    .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
                    .collect();
                Storage::F32(&all).decode(0, &mut numbers);
            }
            Dtype::F16 => {
                let all: Vec<half::f16> = pairs().map(half::f16::from_bits).collect();
                Storage::F16(&all).decode(0, &mut numbers);
            }
            _ => {
                let all: Vec<half::bf16> = pairs().map(half::bf16::from_bits).collect();
                Storage::Bf16(&all).decode(0, &mut numbers);
            }
        }
        numbers.iter_mut().for_each(|n| *n *= factor);
        let bytes = bytemuck::cast_slice(&numbers).to_vec();
        Self { dtype: Dtype::F32, rows: self.rows, cols: self.cols, bytes }
    }

    fn tensor(self, name: String) -> files::Tensor {
        (name, self.dtype, vec![self.rows, self.cols], self.bytes)
    }
}

/// Writes an mlx-lm adapter as one of PEFT's.
///
/// # Errors
/// [`LmError::File`] that names a key or a tensor which PEFT's LoRA cannot say: DoRA, full weights,
/// layers other than a block's linear ones.
pub fn mlx_to_peft(disk: &dyn Disk, folder: &Path, out: &Path) -> Result<(), LmError> {
    let path = folder.join(FILE);
    let json = read_json(&path)?;
    let keys = Keys { path: &path, json: &json };
    let kind = keys.get("fine_tune_type").and_then(Value::as_str).unwrap_or("lora");
    if kind != "lora" {
        return Err(keys.wrong("fine_tune_type", format_args!("{kind:?} is not supported; there is lora")));
    }
    let parameters = keys.get("lora_parameters").cloned().unwrap_or(Value::Null);
    let inner = Keys { path: &path, json: &parameters };
    let Some(scale) = inner.number("scale")? else {
        return Err(LmError::File {
            path,
            why: "key `lora_parameters.scale`: missing, so it is not known how strongly the adapter counts"
                .into(),
            help: Some(
                "mlx-lm needs it too: add the scale that it was trained with (mlx-lm's default is 20.0)"
                    .into(),
            ),
        });
    };
    if !scale.is_finite() || inner.flag("use_rslora")?.unwrap_or(false) {
        return Err(inner.wrong("scale", "is not a finite number, or beside `use_rslora`"));
    }
    let dropout = inner.number("dropout")?.unwrap_or(0.0);
    let file = folder.join(MLX_WEIGHTS_FILE);
    let pairs = read(&file, mlx_name)?.into_iter();
    let pairs: Pairs = pairs.map(|(at, p)| (at, Pair { a: p.a.transposed(), b: p.b.transposed() })).collect();
    check(&file, &pairs)?;
    let config = peft_config(path.clone(), &pairs, scale, dropout);
    // The written file is read back: a file that PEFT's reader here would refuse is refused now.
    let written = serde_json::to_string(&config).map_err(|e| LmError::Internal(e.to_string()))?;
    AdapterConfig::from_text(&path, &written)?;
    let mut tensors = Vec::new();
    for ((block, proj), pair) in pairs {
        let p = Proj::ALL[proj];
        tensors.push(pair.a.tensor(tensor_name(block, Slot::LoraA(p, 0, 0.0))));
        tensors.push(pair.b.tensor(tensor_name(block, Slot::LoraB(p))));
    }
    write(disk, folder, out, &config, WEIGHTS_FILE, tensors)
}

/// Writes an adapter of PEFT's as one for mlx-lm.
///
/// # Errors
/// [`LmError::File`] that names a key or a tensor which is not supported.
pub fn peft_to_mlx(disk: &dyn Disk, folder: &Path, out: &Path) -> Result<(), LmError> {
    let config = AdapterConfig::load(folder)?;
    let file = folder.join(WEIGHTS_FILE);
    let pairs = read(&file, peft_name)?;
    check(&file, &pairs)?;
    let mut modules = Vec::new();
    for ((block, proj), pair) in pairs {
        let Some((rank, scale)) = config.module(block, Proj::ALL[proj])? else {
            let name = format!("layers.{block}.{}", Proj::ALL[proj].path());
            return Err(LmError::file(&file, format!("{name} is there, but {FILE} does not target it")));
        };
        if rank != pair.a.rows {
            let name = tensor_name(block, Slot::LoraA(Proj::ALL[proj], 0, 0.0));
            let why = format!("tensor {name} has rank {}, but {FILE} says {rank}", pair.a.rows);
            return Err(LmError::file(&file, why));
        }
        modules.push((block, Proj::ALL[proj], scale, pair));
    }
    let rank = modules.iter().map(|(.., pair)| pair.a.rows).max().unwrap_or(0);
    let scale = modules.first().map_or(1.0, |(_, _, scale, _)| *scale);
    let keys: BTreeSet<&str> = modules.iter().map(|(_, p, ..)| p.path()).collect();
    let mlx = json!({
        "fine_tune_type": "lora",
        // All of them; where the adapter has none, mlx-lm's stays zero.
        "num_layers": -1,
        "lora_parameters": {
            "rank": rank, "scale": f64::from(scale), "dropout": config.dropout, "keys": keys,
        },
    });
    let mut tensors = Vec::new();
    for (block, p, own, pair) in modules {
        let name = |part: &str| format!("model.layers.{block}.{}.{part}", p.path());
        let b = if own == scale { pair.b } else { pair.b.times(own / scale) };
        tensors.push(pair.a.padded(rank).transposed().tensor(name("lora_a")));
        tensors.push(b.transposed().padded(rank).tensor(name("lora_b")));
    }
    write(disk, folder, out, &mlx, MLX_WEIGHTS_FILE, tensors)
}

fn write(
    disk: &dyn Disk,
    from: &Path,
    out: &Path,
    config: &impl serde::Serialize,
    weights: &str,
    tensors: Vec<files::Tensor>,
) -> Result<(), LmError> {
    files::write_folder(disk, out, |temporary| {
        files::write_json(disk, &temporary.join(FILE), config)?;
        // What people say about it goes along.
        let about = from.join("headstart.json");
        if about.is_file() {
            headstart_disk::files::copy(disk, &about, &temporary.join("headstart.json"))?;
        }
        files::write_safetensors(disk, &temporary.join(weights), tensors)
    })
}

/// The configuration at `path` of these pairs, each scaled by `scale`.
fn peft_config(path: PathBuf, pairs: &Pairs, scale: f64, dropout: f64) -> AdapterConfig {
    let mut counts = BTreeMap::new();
    pairs.values().for_each(|p| *counts.entry(p.a.rows).or_insert(0usize) += 1);
    let rank = counts.into_iter().max_by_key(|(rank, n)| (*n, *rank)).map_or(1, |(rank, _)| rank);
    let blocks: BTreeSet<usize> = pairs.keys().map(|(block, _)| *block).collect();
    let projs: BTreeSet<usize> = pairs.keys().map(|(_, proj)| *proj).collect();
    let whole = pairs.len() == blocks.len() * projs.len();
    let module = |(block, proj): &(usize, usize)| format!("layers.{block}.{}", Proj::ALL[*proj].path());
    let targets = match whole {
        true => Targets::Names(projs.iter().map(|p| Proj::ALL[*p].name().to_owned()).collect()),
        false => {
            let all: Vec<String> = pairs.keys().map(|k| module(k).replace('.', r"\.")).collect();
            Targets::Pattern(format!(r"(?:.*\.)?(?:{})", all.join("|")))
        }
    };
    let odd = || pairs.iter().filter(|(_, p)| p.a.rows != rank);
    AdapterConfig {
        path,
        rank,
        alpha: scale * rank as f64,
        rslora: false,
        dropout,
        rank_pattern: odd().map(|(k, p)| (module(k), p.a.rows)).collect(),
        alpha_pattern: odd().map(|(k, p)| (module(k), scale * p.a.rows as f64)).collect(),
        targets,
        exclude: None,
        layers: whole.then(|| blocks.into_iter().collect()),
        compiled: Default::default(),
    }
}

/// Which half of which pair a tensor is.
type Place = Option<(usize, usize, bool)>;

fn mlx_name(name: &str) -> Place {
    let (module, half) = name.rsplit_once('.')?;
    let (block, proj) = module_of(module)?;
    Some((
        block,
        proj,
        match half {
            "lora_a" => true,
            "lora_b" => false,
            _ => return None,
        },
    ))
}

fn peft_name(name: &str) -> Place {
    let name = name.strip_prefix("base_model.model.").unwrap_or(name);
    let (module, half) = name.split_once(".lora_")?;
    let (block, proj) = module_of(module)?;
    Some((
        block,
        proj,
        match half {
            "A.weight" => true,
            "B.weight" => false,
            _ => return None,
        },
    ))
}

fn module_of(module: &str) -> Option<(usize, usize)> {
    let (block, path) = module.strip_prefix("model.layers.")?.split_once('.')?;
    let proj = Proj::ALL.iter().position(|p| p.path() == path)?;
    Some((block.parse().ok()?, proj))
}

/// The pairs of a file, as stored.
fn read(path: &Path, place: fn(&str) -> Place) -> Result<Pairs, LmError> {
    let bytes = read::whole(path, read::TENSORS).map_err(|e| LmError::io(path, e))?;
    let all = SafeTensors::deserialize(&bytes)
        .map_err(|e| LmError::file(path, format!("not a whole safetensors file: {e}")))?;
    let mut halves: BTreeMap<(usize, usize), [Option<StoredType>; 2]> = BTreeMap::new();
    for (name, view) in all.iter() {
        let wrong = |why: &str| LmError::file(path, format!("tensor {name} {why}"));
        let Some((block, proj, is_a)) = place(name) else {
            return Err(wrong("is not of a LoRA pair of a block's linear layer, and is not supported"));
        };
        let [rows, cols] = *view.shape() else { return Err(wrong("is not a matrix")) };
        if !matches!(view.dtype(), Dtype::F32 | Dtype::F16 | Dtype::BF16) {
            return Err(wrong(&format!("is of type {:?}; f32, f16 and bf16 are read", view.dtype())));
        }
        let stored = StoredType { dtype: view.dtype(), rows, cols, bytes: view.data().to_vec() };
        halves.entry((block, proj)).or_default()[usize::from(!is_a)] = Some(stored);
    }
    let whole = |(at, [a, b]): ((usize, usize), [Option<StoredType>; 2])| match (a, b) {
        (Some(a), Some(b)) => Ok((at, Pair { a, b })),
        _ => {
            let name = format!("layers.{}.{}", at.0, Proj::ALL[at.1].path());
            Err(LmError::file(path, format!("{name} has one half of a LoRA pair only")))
        }
    };
    let pairs: Pairs = halves.into_iter().map(whole).collect::<Result<_, _>>()?;
    if pairs.is_empty() {
        return Err(LmError::file(path, "holds no LoRA pair"));
    }
    Ok(pairs)
}

/// Both halves of a pair, as PEFT turns them, must have one rank.
fn check(path: &Path, pairs: &Pairs) -> Result<(), LmError> {
    match pairs.iter().find(|(_, p)| p.a.rows != p.b.cols || p.a.rows == 0) {
        None => Ok(()),
        Some(((block, proj), p)) => {
            let name = format!("layers.{block}.{}", Proj::ALL[*proj].path());
            let why = format!("{name}: the halves of the pair have ranks {} and {}", p.a.rows, p.b.cols);
            Err(LmError::file(path, why))
        }
    }
}

#[cfg(test)]
mod tests {
    use headstart_disk::SystemDisk;

    use super::*;
    use crate::config::DecoderConfig;
    use crate::lora::{Adapter, WriteAs};
    use crate::model::Layout;

    fn base() -> DecoderConfig {
        let j = json!({"model_type": "llama", "hidden_size": 8, "intermediate_size": 12,
            "num_hidden_layers": 3, "num_attention_heads": 2, "vocab_size": 20});
        DecoderConfig::from_json(Path::new("config.json"), &j).unwrap()
    }

    /// What an adapter adds to a block's weights.
    fn delta(folder: &Path, block: usize) -> Vec<f32> {
        let layout = Layout::full(&base());
        let mut full = vec![0.0; layout.len()];
        Adapter::load(folder, &base()).unwrap().merge_into(block, &layout, &mut full);
        full
    }

    /// An adapter of PEFT's with numbers everywhere.
    fn peft(folder: &Path, change: impl FnOnce(&mut Value)) {
        let mut json = json!({"peft_type": "LORA", "r": 2, "lora_alpha": 6, "lora_dropout": 0.1,
            "target_modules": ["q_proj", "down_proj"]});
        change(&mut json);
        let config = AdapterConfig::from_text(Path::new(FILE), &json.to_string()).unwrap();
        let layouts = super::super::layouts(&config, &base()).unwrap();
        let numbers = |l: &Layout| (0..l.len()).map(|i| ((i * 37 % 101) as f32 - 50.0) / 64.0).collect();
        let values = layouts.iter().map(numbers).collect();
        Adapter { config, layouts, values }.save(&SystemDisk, folder, WriteAs::Bf16).unwrap();
    }

    fn there_and_back(change: impl FnOnce(&mut Value)) -> (Value, Value, f32) {
        let dir = tempfile::tempdir().unwrap();
        let [first, mlx, second] = ["first", "mlx", "second"].map(|n| dir.path().join(n));
        peft(&first, change);
        assert!(!is_mlx(&first));
        peft_to_mlx(&SystemDisk, &first, &mlx).unwrap();
        assert!(is_mlx(&mlx));
        mlx_to_peft(&SystemDisk, &mlx, &second).unwrap();
        let worst = (0..3).flat_map(|b| {
            let (a, b) = (delta(&first, b), delta(&second, b));
            a.into_iter().zip(b).map(|(a, b)| (a - b).abs()).collect::<Vec<_>>()
        });
        let worst = worst.fold(0f32, f32::max);
        (read_json(&mlx.join(FILE)).unwrap(), read_json(&second.join(FILE)).unwrap(), worst)
    }

    #[test]
    fn one_scale_goes_there_and_back_bit_for_bit() {
        let (mlx, peft, worst) = there_and_back(|_| {});
        assert_eq!(worst, 0.0);
        assert_eq!(
            mlx["lora_parameters"],
            json!({"rank": 2, "scale": 3.0, "dropout": 0.1, "keys": ["mlp.down_proj", "self_attn.q_proj"]})
        );
        assert_eq!((&peft["lora_alpha"], &peft["r"]), (&json!(6.0), &json!(2)));
        assert_eq!(peft["target_modules"], json!(["q_proj", "down_proj"]));
    }

    #[test]
    fn several_ranks_and_scales_keep_what_they_add() {
        let (mlx, _, worst) = there_and_back(|j| {
            j["use_rslora"] = json!(true);
            j["rank_pattern"] = json!({"layers.1.self_attn.q_proj": 4});
            j["alpha_pattern"] = json!({"down_proj": 5});
            j["layers_to_transform"] = json!([1, 2]);
        });
        assert!(worst < 1e-6, "{worst}");
        assert_eq!(mlx["lora_parameters"]["rank"], 4);
    }

    #[test]
    fn what_peft_or_mlx_cannot_say_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let (first, mlx) = (dir.path().join("first"), dir.path().join("mlx"));
        peft(&first, |_| {});
        peft_to_mlx(&SystemDisk, &first, &mlx).unwrap();
        let out = dir.path().join("out");
        let config = read_json(&mlx.join(FILE)).unwrap();
        let mut dora = config.clone();
        dora["fine_tune_type"] = json!("dora");
        files::write_json(&SystemDisk, &mlx.join(FILE), &dora).unwrap();
        let e = mlx_to_peft(&SystemDisk, &mlx, &out).unwrap_err().to_string();
        assert!(e.contains("fine_tune_type") && e.contains("dora"), "{e}");
        files::write_json(&SystemDisk, &mlx.join(FILE), &config).unwrap();
        let odd = vec![("model.embed_tokens.lora_a".into(), Dtype::F32, vec![1, 1], vec![0; 4])];
        files::write_safetensors(&SystemDisk, &mlx.join(MLX_WEIGHTS_FILE), odd).unwrap();
        let e = mlx_to_peft(&SystemDisk, &mlx, &out).unwrap_err().to_string();
        assert!(e.contains("model.embed_tokens.lora_a") && !out.exists(), "{e}");
    }
}
