//! Reading an adapter's folder.

use std::collections::BTreeMap;
use std::path::Path;

use half::{bf16, f16};
use headstart_disk::read as disk;
use headstart_lm::lora::without_adapter_name;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

use super::{Adapter, Config, Factors, Matrix, WEIGHTS_FILE};
use crate::error::MergeError;

pub(super) fn read(folder: &Path) -> Result<Adapter, MergeError> {
    let config = Config::read(folder)?;
    let path = folder.join(WEIGHTS_FILE);
    let bytes = disk::whole(&path, disk::TENSORS).map_err(|e| MergeError::io(&path, e))?;
    let modules = modules(&bytes, &config).map_err(|why| MergeError::file(&path, why))?;
    Ok(Adapter { config, modules })
}

fn modules(bytes: &[u8], config: &Config) -> Result<BTreeMap<String, Factors>, String> {
    let tensors = SafeTensors::deserialize(bytes)
        .map_err(|e| format!("not a whole safetensors file ({e}); it may have been cut off"))?;
    let mut halves: BTreeMap<String, (Option<Matrix>, Option<Matrix>)> = BTreeMap::new();
    for (name, view) in tensors.iter() {
        let plain = without_adapter_name(name);
        let path = plain.strip_prefix("base_model.model.").unwrap_or(&plain);
        if let Some(module) = path.strip_suffix(".lora_A.weight") {
            halves.entry(module.to_owned()).or_default().0 = Some(matrix(name, &view)?);
        } else if let Some(module) = path.strip_suffix(".lora_B.weight") {
            halves.entry(module.to_owned()).or_default().1 = Some(matrix(name, &view)?);
        } else {
            return Err(format!(
                "tensor `{name}` is neither a lora_A nor a lora_B weight of a linear module"
            ));
        }
    }
    if halves.is_empty() {
        return Err("it holds no LoRA matrix".into());
    }
    let factors = |(module, halves): (String, (Option<Matrix>, Option<Matrix>))| {
        let (a, b) = match halves {
            (Some(a), Some(b)) => (a, b),
            (Some(_), None) => return Err(format!("`{module}` has lora_A but no lora_B")),
            (None, _) => return Err(format!("`{module}` has lora_B but no lora_A")),
        };
        let rank = config.rank_of(&module);
        if a.rows != rank || b.cols != rank {
            return Err(format!(
                "`{module}` has lora_A of shape [{}, {}] and lora_B of shape [{}, {}], but the configuration \
                 gives it rank {rank}",
                a.rows, a.cols, b.rows, b.cols
            ));
        }
        let scaling = config.scaling_of(&module, rank);
        Ok((module, Factors { a, b, scaling }))
    };
    halves.into_iter().map(factors).collect()
}

fn matrix(name: &str, view: &TensorView<'_>) -> Result<Matrix, String> {
    let &[rows, cols] = view.shape() else {
        return Err(format!("tensor `{name}` has shape {:?}, but should be a matrix", view.shape()));
    };
    let bytes = view.data();
    let data: Vec<f32> = match view.dtype() {
        Dtype::F32 => each(bytes, f32::from_le_bytes),
        Dtype::BF16 => each(bytes, |b| bf16::from_le_bytes(b).to_f32()),
        Dtype::F16 => each(bytes, |b| f16::from_le_bytes(b).to_f32()),
        Dtype::F64 => each(bytes, |b| f64::from_le_bytes(b) as f32),
        other => {
            return Err(format!("tensor `{name}` is of type {other:?}; F32, F16, BF16 and F64 are read"));
        }
    };
    if let Some(i) = data.iter().position(|x| !x.is_finite()) {
        return Err(format!("tensor `{name}` holds {} at row {}, column {}", data[i], i / cols, i % cols));
    }
    Ok(Matrix { rows, cols, data })
}

fn each<const N: usize>(bytes: &[u8], decode: impl Fn([u8; N]) -> f32) -> Vec<f32> {
    bytes.as_chunks::<N>().0.iter().map(|b| decode(*b)).collect()
}
