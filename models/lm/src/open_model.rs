//! The weights of a model's folder, in whichever format they are.

use std::path::{Path, PathBuf};

use crate::config::read_json;
use crate::error::LmError;
use crate::gguf::{self, Gguf};
use crate::weights::Weights;

impl Weights {
    /// Opens `model.safetensors`, or the shards that `model.safetensors.index.json` names, or the
    /// only GGUF file where there are neither.
    ///
    /// # Errors
    /// [`LmError::Io`] and [`LmError::File`] where a file is missing, cut short or damaged, or a tensor of the
    /// index is in none of the shards.
    pub fn open_model(folder: &Path) -> Result<Self, LmError> {
        if let Some(path) = gguf::find(folder)? {
            return Gguf::open(&path)?.weights();
        }
        let (single, index) = (folder.join("model.safetensors"), folder.join("model.safetensors.index.json"));
        if single.exists() || !index.exists() {
            return Self::open(&[single]);
        }
        let json = read_json(&index)?;
        let map = json.get("weight_map").and_then(|m| m.as_object());
        let map = map.ok_or_else(|| LmError::file(&index, "key `weight_map`: missing"))?;
        let mut names: Vec<&str> = map.values().filter_map(|v| v.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        if let Some(odd) = names.iter().find(|n| n.contains(['/', '\\'])) {
            return Err(LmError::file(&index, format!("shard {odd:?} is not a plain file name")));
        }
        let files: Vec<PathBuf> = names.into_iter().map(|n| folder.join(n)).collect();
        let all = Self::open(&files)?;
        match map.keys().find(|k| !all.has(k) && all.unread(k).is_none()) {
            Some(k) => Err(LmError::file(&index, format!("tensor {k} is in none of the shards"))),
            None => Ok(all),
        }
    }
}
