//! The encoder's tensors, by published name, checked and as f32.

use std::path::Path;

use candle_core::{Device, Tensor};

use crate::error::LmError;
use crate::weights::Weights;

/// An open weights file.
pub(super) struct Named {
    weights: Weights,
    prefix: &'static str,
}

impl Named {
    /// Opens the weights of a folder; names may stand with or without the prefix `bert.`.
    pub(super) fn open(folder: &Path) -> Result<Self, LmError> {
        let single = folder.join("model.safetensors");
        if !single.is_file() && !folder.join("model.safetensors.index.json").is_file() {
            return Err(LmError::File {
                path: single,
                why: "the encoder has no weights".into(),
                help: Some(
                    "weights are read from safetensors files; convert a pytorch_model.bin first".into(),
                ),
            });
        }
        let weights = Weights::open_model(folder)?;
        let bare = weights.has("embeddings.word_embeddings.weight");
        Ok(Self { weights, prefix: if bare { "" } else { "bert." } })
    }

    /// A tensor of the expected shape, as f32.
    pub(super) fn get(&self, name: &str, shape: &[usize]) -> Result<Tensor, LmError> {
        let weight = self.weights.need(&format!("{}{name}", self.prefix), shape)?;
        Ok(Tensor::from_vec(weight.to_vec(), shape, &Device::Cpu)?)
    }
}
