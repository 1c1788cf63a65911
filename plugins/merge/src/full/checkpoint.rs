//! A model's weights on disk, sharded or not: where every tensor lies.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use headstart_disk::read;

use safetensors::Dtype;
use safetensors::tensor::Metadata;
use serde::Deserialize;

use crate::error::MergeError;

/// Name of the file that says which shard holds which tensor.
pub const INDEX_FILE: &str = "model.safetensors.index.json";
const SINGLE_FILE: &str = "model.safetensors";
/// Largest header that is read; safetensors itself allows 100 MB.
const MAX_HEADER: u64 = 100_000_000;

/// A kind of number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    F32,
    F16,
    Bf16,
    /// Anything else, by its size in bytes: never computed with, only compared and copied.
    Other(Dtype, usize),
}

impl Kind {
    pub(super) fn size(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
            Self::Other(_, size) => size,
        }
    }

    pub(super) fn is_float(self) -> bool {
        !matches!(self, Self::Other(..))
    }

    fn of(dtype: Dtype) -> Option<Self> {
        Some(match dtype {
            Dtype::F32 => Self::F32,
            Dtype::F16 => Self::F16,
            Dtype::BF16 => Self::Bf16,
            other if other.bitsize() % 8 == 0 => Self::Other(other, other.bitsize() / 8),
            _ => return None,
        })
    }
}

/// Where a tensor lies.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    /// Index into [`Checkpoint::shards`].
    pub(super) shard: usize,
    pub(super) kind: Kind,
    pub(super) shape: Vec<usize>,
    /// Of its first byte, from the start of the file.
    pub(super) offset: u64,
}

impl Entry {
    pub(super) fn numel(&self) -> usize {
        self.shape.iter().product()
    }
}

/// A file of weights. It is read at positions rather than mapped: memory stays bounded by the
/// buffers, and a file that shrinks meanwhile is an error instead of a crash.
#[derive(Debug)]
pub(super) struct ShardFile {
    pub(super) path: PathBuf,
    pub(super) file: File,
    /// Length and header, as in the file.
    pub(super) header: Vec<u8>,
}

/// A model's weights.
#[derive(Debug)]
pub struct Checkpoint {
    pub(super) folder: PathBuf,
    pub(super) shards: Vec<ShardFile>,
    pub(super) tensors: BTreeMap<String, Entry>,
    /// Whether config.json says that the output layer is the embedding.
    pub(super) tied: bool,
}

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

impl Checkpoint {
    /// Reads the headers of a model's safetensors files.
    ///
    /// # Errors
    /// Missing, cut-off or contradictory files; tensors that the index names but no shard holds.
    pub fn open(folder: &Path) -> Result<Self, MergeError> {
        let index = read_index(folder)?;
        let names = match &index {
            Some(index) => {
                let mut names: Vec<_> = index.weight_map.values().cloned().collect();
                names.sort_unstable();
                names.dedup();
                names
            }
            None => vec![SINGLE_FILE.to_owned()],
        };
        let mut this = Self {
            folder: folder.to_owned(),
            shards: Vec::new(),
            tensors: BTreeMap::new(),
            tied: is_tied(folder)?,
        };
        for name in names {
            this.add_shard(&name)?;
        }
        if let Some(index) = index {
            this.check_index(&index)?;
        }
        Ok(this)
    }

    fn add_shard(&mut self, name: &str) -> Result<(), MergeError> {
        let path = self.folder.join(name);
        let file = read::open(&path).map_err(|e| MergeError::io(&path, e))?;
        let (header, metadata) = read_header(&path, &file)?;
        for tensor in metadata.offset_keys() {
            let info = metadata.info(&tensor).expect("the key is the metadata's own");
            let kind = Kind::of(info.dtype).ok_or_else(|| {
                MergeError::file(
                    &path,
                    format!("tensor `{tensor}` has the unsupported type {:?}", info.dtype),
                )
            })?;
            let entry = Entry {
                shard: self.shards.len(),
                kind,
                shape: info.shape.clone(),
                offset: (header.len() + info.data_offsets.0) as u64,
            };
            if self.tensors.insert(tensor.clone(), entry).is_some() {
                return Err(MergeError::file(&path, format!("tensor `{tensor}` is in another shard too")));
            }
        }
        self.shards.push(ShardFile { path, file, header });
        Ok(())
    }

    fn check_index(&self, index: &Index) -> Result<(), MergeError> {
        let at = self.folder.join(INDEX_FILE);
        for (tensor, shard) in &index.weight_map {
            match self.tensors.get(tensor) {
                Some(e) if self.shards[e.shard].path.ends_with(shard) => {}
                _ => return Err(MergeError::file(&at, format!("tensor `{tensor}` is not in `{shard}`"))),
            }
        }
        Ok(())
    }

    /// File names of the shards, in order.
    pub fn file_names(&self) -> Vec<String> {
        self.shards.iter().filter_map(|s| Some(s.path.file_name()?.to_string_lossy().into_owned())).collect()
    }

    /// Reads `bytes.len()` bytes from `at` in a shard.
    pub(super) fn read(&self, shard: usize, at: u64, bytes: &mut [u8]) -> Result<(), MergeError> {
        let s = &self.shards[shard];
        s.file.read_exact_at(bytes, at).map_err(|e| MergeError::io(&s.path, e))
    }
}

fn read_index(folder: &Path) -> Result<Option<Index>, MergeError> {
    let path = folder.join(INDEX_FILE);
    let text = match read::text(&path, read::SETTINGS) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(MergeError::io(&path, e)),
    };
    let index: Index =
        serde_json::from_str(&text).map_err(|e| MergeError::file(&path, format!("not an index: {e}")))?;
    if index.weight_map.is_empty() {
        return Err(MergeError::file(&path, "`weight_map` is empty"));
    }
    if let Some(bad) = index.weight_map.values().find(|f| f.contains(['/', '\\']) || f.starts_with('.')) {
        return Err(MergeError::file(&path, format!("`{bad}` is not the name of a file beside it")));
    }
    Ok(Some(index))
}

fn is_tied(folder: &Path) -> Result<bool, MergeError> {
    #[derive(Deserialize)]
    struct Tied {
        #[serde(default)]
        tie_word_embeddings: bool,
    }
    let path = folder.join("config.json");
    let text = read::text(&path, read::SETTINGS).map_err(|e| MergeError::io(&path, e))?;
    let tied: Tied = serde_json::from_str(&text)
        .map_err(|e| MergeError::file(&path, format!("not a model's configuration: {e}")))?;
    Ok(tied.tie_word_embeddings)
}

fn read_header(path: &Path, file: &File) -> Result<(Vec<u8>, Metadata), MergeError> {
    let size = file.metadata().map_err(|e| MergeError::io(path, e))?.len();
    let cut =
        |what: &str| MergeError::file(path, format!("{what}: it may have been cut off, fetch it again"));
    let mut length = [0u8; 8];
    file.read_exact_at(&mut length, 0).map_err(|_| cut("shorter than a safetensors header"))?;
    let n = u64::from_le_bytes(length);
    if n > MAX_HEADER || n + 8 > size {
        return Err(cut("not a whole safetensors file"));
    }
    let mut header = vec![0u8; n as usize + 8];
    file.read_exact_at(&mut header, 0).map_err(|e| MergeError::io(path, e))?;
    let metadata: Metadata = serde_json::from_slice(&header[8..])
        .map_err(|e| MergeError::file(path, format!("bad safetensors header: {e}")))?;
    let expected = (header.len() + metadata.data_len()) as u64;
    if expected != size {
        return Err(cut(&format!("the header promises {expected} bytes, but the file has {size}")));
    }
    Ok((header, metadata))
}
