//! Writing files and folders that appear only when they are complete.

use std::collections::HashMap;
use std::io::{BufWriter, Write};
use std::path::Path;

use half::bf16;
use headstart_disk::{Disk, DiskError, DiskFile};
use rayon::prelude::*;
use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo, TensorView};
use serde::Serialize;

use crate::error::LmError;

/// A tensor to write: name, type, shape, bytes.
pub type Tensor = (String, Dtype, Vec<usize>, Vec<u8>);

/// Fills a temporary folder beside `folder`, then puts it in its place. What was there before
/// goes only then; when `fill` fails, it stays.
///
/// # Errors
/// [`LmError::Disk`], and what `fill` gives; then nothing is left of the new folder.
pub fn write_folder(
    disk: &dyn Disk,
    folder: &Path,
    fill: impl FnOnce(&Path) -> Result<(), LmError>,
) -> Result<(), LmError> {
    headstart_disk::files::create_dir_atomic(disk, folder, |_| true, fill).map(drop)
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
/// [`LmError::Disk`] where it cannot be written.
pub fn write_json(disk: &dyn Disk, path: &Path, json: &impl Serialize) -> Result<(), LmError> {
    let text = serde_json::to_string_pretty(json).map_err(|e| LmError::Internal(e.to_string()))?;
    Ok(headstart_disk::files::write(disk, path, (text + "\n").as_bytes())?)
}

/// Writes a safetensors file.
///
/// # Errors
/// [`LmError::Disk`] where it cannot be written.
pub fn write_safetensors(disk: &dyn Disk, path: &Path, tensors: Vec<Tensor>) -> Result<(), LmError> {
    let views = tensors.iter().map(|(name, dtype, shape, bytes)| {
        let view = TensorView::new(*dtype, shape.clone(), bytes);
        view.map(|v| (name.as_str(), v)).map_err(|e| LmError::Internal(format!("tensor {name}: {e}")))
    });
    let views = views.collect::<Result<Vec<_>, _>>()?;
    let metadata = [("format".to_owned(), "pt".to_owned())].into();
    headstart_disk::files::write_with(disk, path, |file| put_safetensors(file, path, views, metadata))
}

/// Writes tensors as `safetensors::serialize_to_file` does, byte for byte, but into an open file and with
/// the disk's own errors. Holds no copy of them.
///
/// # Errors
/// [`LmError::Disk`] where `file`, which is that of `path`, cannot be written.
pub fn put_safetensors<N: AsRef<str>>(
    file: &mut dyn DiskFile,
    path: &Path,
    mut tensors: Vec<(N, TensorView<'_>)>,
    metadata: HashMap<String, String>,
) -> Result<(), LmError> {
    // The largest types first, so that each tensor begins at a multiple of its type's size.
    tensors.sort_by(|(left_name, left), (right_name, right)| {
        right.dtype().cmp(&left.dtype()).then_with(|| left_name.as_ref().cmp(right_name.as_ref()))
    });
    let mut end = 0;
    let infos = tensors.iter().map(|(name, view)| {
        let begin = end;
        end += view.data().len();
        let info =
            TensorInfo { dtype: view.dtype(), shape: view.shape().to_vec(), data_offsets: (begin, end) };
        (name.as_ref().to_owned(), info)
    });
    let internal = |e: &dyn std::fmt::Display| LmError::Internal(format!("{}: {e}", path.display()));
    let header = Metadata::new(Some(metadata), infos.collect()).map_err(|e| internal(&e))?;
    let mut header = serde_json::to_vec(&header).map_err(|e| internal(&e))?;
    header.resize(header.len().next_multiple_of(8), b' ');
    let mut out = BufWriter::with_capacity(1 << 20, file);
    let mut write = || {
        out.write_all(&(header.len() as u64).to_le_bytes())?;
        out.write_all(&header)?;
        tensors.iter().try_for_each(|(_, view)| out.write_all(view.data()))?;
        out.flush()
    };
    Ok(write().map_err(DiskError::at("write", path))?)
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

#[cfg(test)]
mod tests {
    use headstart_disk::SystemDisk;

    use super::*;

    #[test]
    fn tensors_are_written_as_the_safetensors_crate_writes_them() {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().join("model.safetensors");
        let tensors: Vec<Tensor> = vec![
            ("b".into(), Dtype::F32, vec![2], vec![1; 8]),
            ("z".into(), Dtype::BF16, vec![1, 3], vec![2; 6]),
            ("a".into(), Dtype::F32, vec![1], vec![3; 4]),
            ("c".into(), Dtype::F64, vec![0], vec![]),
        ];
        let views = tensors.iter().map(|t| (&t.0, TensorView::new(t.1, t.2.clone(), &t.3).unwrap()));
        let metadata = [("format".to_owned(), "pt".to_owned())].into();
        let expected = safetensors::serialize(views, Some(metadata)).unwrap();
        write_safetensors(&SystemDisk, &at, tensors).unwrap();
        assert_eq!(std::fs::read(&at).unwrap(), expected);
    }
}
