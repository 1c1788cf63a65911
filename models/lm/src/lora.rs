//! LoRA adapters in PEFT's format: `adapter_config.json` and `adapter_model.safetensors`.
//!
//! # Layout
//! - `config`: the keys of adapter_config.json, and which modules they mean.
//! - `mlx`: mlx-lm's format, to and from PEFT's.

mod config;
mod mlx;

use std::collections::BTreeSet;
use std::path::Path;

use headstart_disk::Disk;
use headstart_kernels::{Accum, gemm, mat};
use rand::Rng;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use safetensors::Dtype;

use crate::api::LoraSpec;
use crate::config::DecoderConfig;
use crate::error::LmError;
use crate::files;
use crate::model::{Layout, Slot};
use crate::proj::Proj;
use crate::weights::{Weights, not_finite, unread};
pub use config::{AdapterConfig, Targets};
pub use mlx::{is_mlx, mlx_to_peft, peft_to_mlx};

/// The weights' file of an adapter's folder.
pub const WEIGHTS_FILE: &str = "adapter_model.safetensors";

/// The type that an adapter's weights are written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteAs {
    /// 32-bit floats.
    F32,
    /// Half the size; what serving needs.
    Bf16,
}

/// An adapter.
#[derive(Clone, Debug)]
pub struct Adapter {
    /// Its adapter_config.json.
    pub config: AdapterConfig,
    /// Of each block, what the flat values mean; empty where the block has none.
    pub layouts: Vec<Layout>,
    /// Of each block, the values.
    pub values: Vec<Vec<f32>>,
}

/// PEFT's name of a tensor.
pub fn tensor_name(block: usize, slot: Slot) -> String {
    format!("base_model.model.model.layers.{block}.{}", slot.name())
}

impl Adapter {
    /// Reads an adapter's folder for a base of this shape.
    ///
    /// # Errors
    /// [`LmError::File`] with the key of adapter_config.json, or with the tensor that is missing, does not fit
    /// the base, or has a value that is not finite.
    pub fn load(folder: &Path, base: &DecoderConfig) -> Result<Self, LmError> {
        let config = AdapterConfig::load(folder)?;
        let layouts = layouts(&config, base)?;
        let path = folder.join(WEIGHTS_FILE);
        let weights = Weights::open(std::slice::from_ref(&path))?.renamed(without_adapter_name)?;
        let misfit = |why: String| LmError::File {
            path: path.clone(),
            why,
            help: Some("an adapter only fits the base model that it was trained on".into()),
        };
        let mut known = BTreeSet::new();
        let mut values = Vec::new();
        for (block, layout) in layouts.iter().enumerate() {
            // Only what the file holds is made room for: a configuration may state any rank.
            let mut found = Vec::with_capacity(layout.segments.len());
            for s in &layout.segments {
                let name = tensor_name(block, s.slot);
                if let Some(dtype) = weights.unread(&name) {
                    return Err(unread(&path, &name, dtype));
                }
                if !weights.has(&name) {
                    return Err(missing(&path, &name, &weights));
                }
                let tensor = weights.need(&name, &s.shape).map_err(|_| {
                    let found = weights.iter().find(|(n, _)| *n == name).map(|(_, w)| w.shape.clone());
                    let found = found.unwrap_or_default();
                    misfit(format!("tensor {name}: the base takes shape {:?}, found {found:?}", s.shape))
                })?;
                if !tensor.numbers().is_finite() {
                    return Err(not_finite(&path, &name));
                }
                found.push((s.range.clone(), tensor));
                known.insert(name);
            }
            let mut flat = vec![0.0; layout.len()];
            for (range, tensor) in found {
                tensor.numbers().decode(0, &mut flat[range]);
            }
            values.push(flat);
        }
        match weights.iter().find(|(name, _)| !known.contains(*name)) {
            Some((name, w)) => Err(misfit(format!(
                "tensor {name} of shape {:?} has no place in the base or is not a LoRA pair of a \
                 linear layer that adapter_config.json targets",
                w.shape
            ))),
            None => Ok(Self { config, layouts, values }),
        }
    }

    /// A new adapter: A uniform in ±1/sqrt(in) (Kaiming, a = √5, as PEFT does), B zero.
    ///
    /// # Errors
    /// [`LmError::Input`] for a rank of 0, one above what the base's layers can have, or an unknown
    /// projection.
    pub fn fresh(spec: &LoraSpec, base: &DecoderConfig, seed: u64) -> Result<Self, LmError> {
        let config = AdapterConfig::fresh(spec)?;
        let most = Proj::ALL.iter().flat_map(|p| p.shape(base)).max().unwrap_or(0);
        if spec.rank > most {
            let m = format!(
                "a LoRA adapter of rank {} is larger than the layers of its base: they have {most} rows or columns at most",
                spec.rank
            );
            return Err(LmError::Input(m));
        }
        let layouts = layouts(&config, base)?;
        let values = layouts.iter().enumerate().map(|(block, layout)| {
            let mut flat = vec![0.0; layout.len()];
            for s in &layout.segments {
                let Slot::LoraA(p, ..) = s.slot else { continue };
                let mut rng = ChaCha8Rng::seed_from_u64(seed);
                rng.set_stream((block * Proj::ALL.len() + p as usize) as u64 + 1);
                let bound = 1.0 / (s.shape[1] as f32).sqrt();
                flat[s.range.clone()].fill_with(|| rng.random_range(-bound..bound));
            }
            flat
        });
        Ok(Self { values: values.collect(), config, layouts })
    }

    /// Numbers in all.
    pub fn len(&self) -> usize {
        self.values.iter().map(Vec::len).sum()
    }

    /// Whether it changes no module.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// `weight += scale · B A` for every module that it changes in a block; `full` is the block's
    /// flat vector of all weights.
    pub fn merge_into(&self, block: usize, layout: &Layout, full: &mut [f32]) {
        for a in &self.layouts[block].segments {
            let Slot::LoraA(p, rank, scale) = a.slot else { continue };
            let of = |slot: Slot| self.layouts[block].segments.iter().find(|s| s.slot == slot);
            let target = layout.segments.iter().find(|s| s.slot == Slot::Weight(p));
            let (Some(b), Some(w)) = (of(Slot::LoraB(p)), target) else { continue };
            let (out, inner) = (w.shape[0], w.shape[1]);
            let values = &self.values[block];
            let (b, a) =
                (mat(&values[b.range.clone()], out, rank), mat(&values[a.range.clone()], rank, inner));
            gemm(&mut full[w.range.clone()], Accum::Add, b, a, scale);
        }
    }

    /// Writes the folder, which appears only when it is complete.
    ///
    /// # Errors
    /// [`LmError::Disk`] where a file cannot be written.
    pub fn save(&self, disk: &dyn Disk, folder: &Path, write_as: WriteAs) -> Result<(), LmError> {
        let mut tensors = Vec::new();
        for (block, (layout, values)) in self.layouts.iter().zip(&self.values).enumerate() {
            for s in &layout.segments {
                let part = &values[s.range.clone()];
                let (dtype, bytes) = match write_as {
                    WriteAs::F32 => (Dtype::F32, bytemuck::cast_slice(part).to_vec()),
                    WriteAs::Bf16 => (Dtype::BF16, files::bf16_bytes(part)),
                };
                tensors.push((tensor_name(block, s.slot), dtype, s.shape.clone(), bytes));
            }
        }
        files::write_folder(disk, folder, |temporary| {
            files::write_json(disk, &temporary.join(config::FILE), &self.config)?;
            files::write_safetensors(disk, &temporary.join(WEIGHTS_FILE), tensors)
        })
    }
}

/// PEFT's names of an adapter's tensors do not hold the adapter's own name; files that were saved by
/// hand have that of PEFT's default.
pub fn without_adapter_name(name: &str) -> String {
    match name.strip_suffix(".default.weight") {
        Some(rest) if rest.ends_with(".lora_A") || rest.ends_with(".lora_B") => format!("{rest}.weight"),
        _ => name.to_owned(),
    }
}

/// A tensor that adapter_config.json asks for is not in the file under its name.
fn missing(path: &Path, name: &str, weights: &Weights) -> LmError {
    let all: Vec<&str> = weights.iter().map(|(name, _)| name).collect();
    let half = name.strip_suffix(".weight").unwrap_or(name);
    let bare = name.strip_prefix(PREFIX).unwrap_or(name);
    let named = all.iter().find_map(|n| {
        let own = n.strip_prefix(half)?.strip_prefix('.')?.strip_suffix(".weight")?;
        Some((*n, own))
    });
    let (why, help) = match (named, all.iter().find(|n| n.ends_with(bare))) {
        (Some((found, own)), _) => (
            format!("tensor {found} carries the adapter's name `{own}`"),
            "save the adapter with PEFT's save_pretrained, which leaves the name out",
        ),
        (None, Some(found)) => (
            format!(
                "tensor {found} is named with the prefix `{}` instead of `{PREFIX}`",
                &found[..found.len() - bare.len()]
            ),
            "save the adapter with PEFT's save_pretrained, or rename its tensors",
        ),
        (None, None) => (
            format!("tensor {name} is missing: adapter_config.json asks for it"),
            "an adapter only fits the base model that it was trained on",
        ),
    };
    LmError::File { path: path.into(), why, help: Some(help.into()) }
}

/// What PEFT puts before the base's own names.
const PREFIX: &str = "base_model.model.";

fn layouts(config: &AdapterConfig, base: &DecoderConfig) -> Result<Vec<Layout>, LmError> {
    let layouts = (0..base.layers).map(|block| {
        let mut layout = Layout::default();
        for p in Proj::ALL {
            let Some((rank, scale)) = config.module(block, p)? else { continue };
            let [out, inner] = p.shape(base);
            layout.push(Slot::LoraA(p, rank, scale), &[rank, inner]);
            layout.push(Slot::LoraB(p), &[out, rank]);
        }
        Ok(layout)
    });
    let layouts = layouts.collect::<Result<Vec<_>, LmError>>()?;
    if layouts.iter().all(Layout::is_empty) {
        return Err(config.wrong("target_modules", "names no linear layer of the base model"));
    }
    Ok(layouts)
}

#[cfg(test)]
mod tests {
    use half::bf16;
    use headstart_disk::SystemDisk;
    use serde_json::json;

    use super::*;

    fn base() -> DecoderConfig {
        let j = json!({"model_type": "llama", "hidden_size": 8, "intermediate_size": 12,
            "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 20});
        DecoderConfig::from_json(Path::new("config.json"), &j).unwrap()
    }

    fn spec() -> LoraSpec {
        LoraSpec { rank: 2, alpha: 4.0, rslora: false, targets: vec!["q_proj".into(), "down_proj".into()] }
    }

    #[test]
    fn a_configuration_that_states_more_than_the_file_holds_takes_no_memory() {
        let dir = tempfile::tempdir().expect("a folder");
        let folder = dir.path().join("a");
        let spec = LoraSpec { rank: 2, alpha: 4.0, targets: vec!["q_proj".into()], rslora: false };
        let adapter = Adapter::fresh(&spec, &base(), 1).expect("an adapter");
        adapter.save(&SystemDisk, &folder, WriteAs::F32).expect("written");
        let path = folder.join("adapter_config.json");
        let config = std::fs::read_to_string(&path).expect("its configuration");
        let mut config: serde_json::Value = serde_json::from_str(&config).expect("JSON");
        for rank in [65_536u64, 65_537, 2_147_483_648, u64::MAX] {
            config["r"] = json!(rank);
            std::fs::write(&path, config.to_string()).expect("written");
            let error = Adapter::load(&folder, &base()).expect_err("it does not fit").to_string();
            assert!(error.contains("key `r`") || error.contains("the base takes shape"), "{error}");
        }
        let error =
            Adapter::fresh(&LoraSpec { rank: 4_000_000_000, ..spec }, &base(), 1).expect_err("too large");
        assert!(error.to_string().contains("larger than the layers of its base"), "{error}");
    }

    #[test]
    fn what_is_saved_is_what_is_loaded() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("adapter");
        let mut a = Adapter::fresh(&spec(), &base(), 7).unwrap();
        // Numbers that bf16 holds.
        a.values.iter_mut().flatten().for_each(|v| *v = bf16::from_f32(*v).to_f32());
        for write_as in [WriteAs::F32, WriteAs::Bf16] {
            a.save(&SystemDisk, &folder, write_as).unwrap();
            let b = Adapter::load(&folder, &base()).unwrap();
            assert_eq!((&a.values, &a.layouts), (&b.values, &b.layouts));
        }
        let left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().collect();
        assert_eq!(left.len(), 1, "nothing temporary is left");
    }

    #[test]
    fn another_base_is_refused_by_tensor_name() {
        let dir = tempfile::tempdir().unwrap();
        Adapter::fresh(&spec(), &base(), 7)
            .unwrap()
            .save(&SystemDisk, dir.path().join("a").as_path(), WriteAs::F32)
            .unwrap();
        let mut wide = base();
        wide.ffn = 16;
        let e = Adapter::load(&dir.path().join("a"), &wide).unwrap_err().to_string();
        assert!(e.contains("layers.0.mlp.down_proj.lora_A.weight") && e.contains("[2, 16]"), "{e}");
        let mut deep = base();
        deep.layers = 1;
        let e = Adapter::load(&dir.path().join("a"), &deep).unwrap_err().to_string();
        assert!(e.contains("layers.1."), "{e}");
    }

    #[test]
    fn a_value_that_is_not_finite_is_refused_by_tensor_name() {
        let dir = tempfile::tempdir().unwrap();
        for (write_as, odd) in [(WriteAs::F32, f32::NAN), (WriteAs::Bf16, f32::NEG_INFINITY)] {
            let mut a = Adapter::fresh(&spec(), &base(), 7).unwrap();
            let last = a.layouts[1].segments.last().unwrap().clone();
            a.values[1][last.range.end - 1] = odd;
            let folder = dir.path().join("a");
            a.save(&SystemDisk, &folder, write_as).unwrap();
            let e = Adapter::load(&folder, &base()).unwrap_err().to_string();
            assert!(e.contains(&tensor_name(1, last.slot)) && e.contains("not finite"), "{e}");
            let all = Weights::open(&[folder.join(WEIGHTS_FILE)]).unwrap();
            assert!(all.check_finite().unwrap_err().to_string().contains(&tensor_name(1, last.slot)));
        }
    }

    /// Writes an adapter's tensors under other names, or as another type.
    fn rewritten(folder: &Path, name: impl Fn(&str) -> String, double: bool) {
        let path = folder.join(WEIGHTS_FILE);
        let all = Weights::open(std::slice::from_ref(&path)).unwrap();
        let tensors = all.iter().map(|(n, w)| {
            let numbers = w.to_vec();
            let bytes = match double {
                true => numbers.iter().flat_map(|v| f64::from(*v).to_le_bytes()).collect(),
                false => bytemuck::cast_slice(&numbers).to_vec(),
            };
            (name(n), if double { Dtype::F64 } else { Dtype::F32 }, w.shape.clone(), bytes)
        });
        let tensors = tensors.collect();
        std::fs::remove_file(&path).unwrap();
        files::write_safetensors(&SystemDisk, &path, tensors).unwrap();
    }

    #[test]
    fn wide_numbers_and_the_default_name_are_read_and_other_names_are_said() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("a");
        let a = Adapter::fresh(&spec(), &base(), 7).unwrap();
        let saved = || {
            a.save(&SystemDisk, &folder, WriteAs::F32).unwrap();
        };
        let named = |own: &str| {
            let own = format!(".{own}.weight");
            move |n: &str| n.replace(".weight", &own)
        };
        saved();
        rewritten(&folder, named("default"), true);
        assert_eq!(Adapter::load(&folder, &base()).unwrap().values, a.values);
        saved();
        rewritten(&folder, named("style"), false);
        let e = Adapter::load(&folder, &base()).unwrap_err().to_string();
        assert!(e.contains("the adapter's name `style`"), "{e}");
        saved();
        rewritten(&folder, |n| n.replace("base_model.model.", "base_model."), false);
        let e = Adapter::load(&folder, &base()).unwrap_err().to_string();
        assert!(e.contains("prefix `base_model.` instead of `base_model.model.`"), "{e}");
    }

    #[test]
    fn b_starts_at_zero_and_a_within_its_bound() {
        let a = Adapter::fresh(&spec(), &base(), 7).unwrap();
        for s in &a.layouts[0].segments {
            let part = &a.values[0][s.range.clone()];
            match s.slot {
                Slot::LoraB(_) => assert!(part.iter().all(|v| *v == 0.0)),
                _ => {
                    let bound = 1.0 / (s.shape[1] as f32).sqrt();
                    assert!(part.iter().all(|v| v.abs() <= bound) && part.iter().any(|v| *v > bound / 2.0));
                }
            }
        }
        assert_ne!(a.values[0], a.values[1]);
        assert_eq!(a.values, Adapter::fresh(&spec(), &base(), 7).unwrap().values);
    }
}
