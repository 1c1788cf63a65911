//! The encoder's tensors, by published name, checked.

use std::path::Path;

use crate::error::LmError;
use crate::weights::{Weight, Weights};

/// The open weights of an encoder.
pub struct Named {
    weights: Weights,
    prefix: &'static str,
}

impl Named {
    /// Opens the weights of a folder; names may stand with or without the prefix `bert.`.
    ///
    /// # Errors
    /// [`LmError::File`] where there are no weights or they are damaged.
    pub fn open(folder: &Path) -> Result<Self, LmError> {
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

    /// A tensor of the expected shape.
    ///
    /// # Errors
    /// [`LmError::File`] where it is missing or of another shape.
    pub fn get(&self, name: &str, shape: &[usize]) -> Result<Weight, LmError> {
        self.weights.need(&format!("{}{name}", self.prefix), shape)
    }
}
