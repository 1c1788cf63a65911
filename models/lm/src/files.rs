//! Writing files and folders that appear only when they are complete.

use std::path::{Path, PathBuf};

use half::bf16;
use rayon::prelude::*;
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::Value;

use crate::error::LmError;

/// A tensor to write: name, type, shape, bytes.
pub type Tensor = (String, Dtype, Vec<usize>, Vec<u8>);

/// Fills a temporary folder beside `folder`, then puts it in its place. What was there before
/// goes only then; when `fill` fails, it stays.
///
/// # Errors
/// [`LmError::Io`], and what `fill` gives; then nothing is left of the new folder.
pub fn write_folder(folder: &Path, fill: impl FnOnce(&Path) -> Result<(), LmError>) -> Result<(), LmError> {
    let temporary = beside(folder, "partial");
    let clear = |p: &Path| match std::fs::remove_dir_all(p) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(LmError::io(p, e)),
        _ => Ok(()),
    };
    clear(&temporary)?;
    std::fs::create_dir_all(&temporary).map_err(|e| LmError::io(&temporary, e))?;
    let done = fill(&temporary).and_then(|()| {
        let old = beside(folder, "old");
        clear(&old)?;
        if folder.exists() {
            std::fs::rename(folder, &old).map_err(|e| LmError::io(folder, e))?;
        }
        std::fs::rename(&temporary, folder).map_err(|e| LmError::io(folder, e))?;
        clear(&old)
    });
    if done.is_err() {
        let _ = std::fs::remove_dir_all(&temporary);
    }
    done
}

fn beside(folder: &Path, what: &str) -> PathBuf {
    let name = folder.file_name().and_then(|n| n.to_str()).unwrap_or("out");
    folder.with_file_name(format!(".{name}.{what}-{}", std::process::id()))
}

/// Bytes of a model folder's weights.
pub fn weight_bytes(folder: &Path) -> u64 {
    let files = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let weights = files.filter(|f| f.path().extension().is_some_and(|e| e == "safetensors" || e == "gguf"));
    weights.filter_map(|f| f.metadata().ok()).map(|m| m.len()).sum()
}

/// Writes JSON, indented, with a line break at the end.
///
/// # Errors
/// [`LmError::Io`] where it cannot be written.
pub fn write_json(path: &Path, json: &Value) -> Result<(), LmError> {
    let text = serde_json::to_string_pretty(json).map_err(|e| LmError::Internal(e.to_string()))?;
    std::fs::write(path, text + "\n").map_err(|e| LmError::io(path, e))
}

/// Writes a safetensors file.
///
/// # Errors
/// [`LmError::Io`] where it cannot be written.
pub fn write_safetensors(path: &Path, tensors: Vec<Tensor>) -> Result<(), LmError> {
    let views = tensors.iter().map(|(name, dtype, shape, bytes)| {
        let view = TensorView::new(*dtype, shape.clone(), bytes);
        view.map(|v| (name.as_str(), v)).map_err(|e| LmError::Internal(format!("tensor {name}: {e}")))
    });
    let views = views.collect::<Result<Vec<_>, _>>()?;
    let metadata = [("format".to_owned(), "pt".to_owned())].into();
    safetensors::serialize_to_file(views, Some(metadata), path)
        .map_err(|e| LmError::io(path, std::io::Error::other(e.to_string())))
}

/// Numbers rounded to bf16, as little-endian bytes.
pub fn bf16_bytes(numbers: &[f32]) -> Vec<u8> {
    let mut out = vec![0; numbers.len() * 2];
    out.par_chunks_mut(1 << 16).zip(numbers.par_chunks(1 << 15)).for_each(|(out, numbers)| {
        for (to, v) in out.chunks_exact_mut(2).zip(numbers) {
            to.copy_from_slice(&bf16::from_f32(*v).to_le_bytes());
        }
    });
    out
}
