//! Tensors of a safetensors file, by name, checked and as f32.

use std::path::{Path, PathBuf};

use candle_core::safetensors::MmapedSafetensors;
use candle_core::{DType, Device, Tensor};

use crate::error::LmError;

/// An open weights file.
pub(super) struct Weights {
    file: MmapedSafetensors,
    path: PathBuf,
    prefix: &'static str,
}

impl Weights {
    /// Opens the file; names may stand with or without the prefix `bert.`.
    pub(super) fn open(path: &Path) -> Result<Self, LmError> {
        if !path.is_file() {
            return Err(LmError::File {
                path: path.to_owned(),
                why: "the encoder has no weights".into(),
                help: Some(
                    "weights are read from model.safetensors; convert a pytorch_model.bin first".into(),
                ),
            });
        }
        // SAFETY: weights lie in the artifact store or a model folder, where files are replaced,
        // never changed in place; a file cut short while it is read would end the process.
        let file = unsafe { MmapedSafetensors::new(path) };
        let file = file.map_err(|e| {
            LmError::file(path, format!("not a whole safetensors file (truncated or damaged): {e}"))
        })?;
        let bare = file.get("embeddings.word_embeddings.weight").is_ok();
        Ok(Self { file, path: path.to_owned(), prefix: if bare { "" } else { "bert." } })
    }

    /// A tensor of the expected shape, as f32.
    pub(super) fn get(&self, name: &str, shape: &[usize]) -> Result<Tensor, LmError> {
        let name = format!("{}{name}", self.prefix);
        let view = self.file.get(&name);
        let view = view.map_err(|_| LmError::file(&self.path, format!("tensor `{name}` is missing")))?;
        if view.shape() != shape {
            let why =
                format!("tensor `{name}` has shape {:?}, but config.json asks for {shape:?}", view.shape());
            return Err(LmError::file(&self.path, why));
        }
        let tensor = self.file.load(&name, &Device::Cpu).and_then(|t| t.to_dtype(DType::F32));
        tensor.map_err(|e| LmError::file(&self.path, format!("tensor `{name}`: {e}")))
    }
}
