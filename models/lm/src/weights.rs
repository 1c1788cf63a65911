//! Weights of a model, memory-mapped from its safetensors files, one or many shards, or from a GGUF
//! file ([`crate::gguf`]).

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use half::{bf16, f16};
use headstart_disk::OtherFile;
use headstart_kernels::{Matrix, Pages, QuantType, QuantizedBlocks, RowOrder, Storage};
use memmap2::Mmap;
use safetensors::{Dtype, SafeTensors};

use crate::error::LmError;

/// A file in memory as far as it has been touched.
pub struct Mapped {
    map: Mmap,
    streamed: AtomicBool,
    bf16: AtomicBool,
}

impl Mapped {
    /// Maps a regular file.
    pub(crate) fn new(path: &Path) -> Result<Self, LmError> {
        let file = headstart_disk::read::open(path).map_err(|e| LmError::io(path, e))?;
        // SAFETY: the file is opened for reading; model folders and artifacts are not changed in place.
        let map = unsafe { Mmap::map(&file) }.map_err(|e| LmError::io(path, e))?;
        Ok(Self { map, streamed: AtomicBool::new(false), bf16: AtomicBool::new(false) })
    }

    /// Its bytes.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.map
    }

    /// Whether its pages are given back to the system as soon as they have been used.
    pub fn streamed(&self) -> bool {
        self.streamed.load(Ordering::Relaxed)
    }
}

impl Pages for Mapped {
    fn release(&self, range: Range<usize>) {
        // SAFETY: the mapping is of a file and never written to, so dropping its pages loses nothing.
        #[cfg(unix)]
        let given = unsafe {
            self.map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, range.start, range.len())
        };
        #[cfg(unix)]
        if let Err(e) = given {
            tracing::debug!("the system keeps pages of a model: {e}");
        }
        #[cfg(not(unix))]
        let _ = range;
    }
}

/// Where a tensor's numbers are.
#[derive(Clone)]
enum Data {
    /// In a mapped file, from a byte offset that fits the type's alignment.
    Mapped(Arc<Mapped>, usize),
    /// In memory, as f32.
    Owned(Arc<Vec<f32>>),
}

/// How a tensor's numbers are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoredType {
    /// 32-bit floats.
    F32,
    /// IEEE half floats.
    F16,
    /// The upper halves of 32-bit floats.
    Bf16,
    /// Quantized blocks.
    Quantized(QuantType),
}

impl StoredType {
    /// Bytes of so many numbers.
    pub fn size(self, numbers: usize) -> usize {
        match self {
            Self::F32 => numbers * 4,
            Self::F16 | Self::Bf16 => numbers * 2,
            Self::Quantized(p) => numbers / p.block() * p.bytes(),
        }
    }

    /// What a mapped tensor's offset must be a multiple of.
    fn align(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
            Self::Quantized(_) => 1,
        }
    }
}

/// A tensor in its stored type.
#[derive(Clone)]
pub struct Weight {
    /// Its shape.
    pub shape: Vec<usize>,
    stored: StoredType,
    data: Data,
    /// In what order its rows lie.
    order: RowOrder,
}

impl Weight {
    /// A tensor in memory.
    pub fn owned(shape: &[usize], numbers: Vec<f32>) -> Self {
        debug_assert_eq!(shape.iter().product::<usize>(), numbers.len());
        let data = Data::Owned(Arc::new(numbers));
        Self { shape: shape.to_vec(), stored: StoredType::F32, data, order: RowOrder::Plain }
    }

    /// A tensor in a mapped file; copied where its offset does not fit its type.
    ///
    /// The caller has checked that the file is long enough.
    pub(crate) fn mapped(shape: &[usize], stored: StoredType, file: &Arc<Mapped>, at: usize) -> Self {
        let data = Data::Mapped(file.clone(), at);
        let weight = Self { shape: shape.to_vec(), stored, data, order: RowOrder::Plain };
        if at.is_multiple_of(stored.align()) { weight } else { weight.realigned(file, at) }
    }

    /// The same with its rows read in another order.
    pub(crate) fn ordered(self, order: RowOrder) -> Self {
        Self { order, ..self }
    }

    /// How its numbers are stored.
    pub fn stored(&self) -> StoredType {
        self.stored
    }

    /// How many numbers it has.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes that it takes in memory once all of it is in use.
    pub fn footprint(&self) -> u64 {
        self.stored.size(self.len()) as u64
    }

    /// Whether its numbers lie in a mapped file, from where they can be streamed.
    pub fn is_mapped(&self) -> bool {
        matches!(self.data, Data::Mapped(..))
    }

    /// Has its file's pages given back after use, or kept.
    pub fn stream(&self, streamed: bool) {
        if let Data::Mapped(file, _) = &self.data {
            file.streamed.store(streamed, Ordering::Relaxed);
        }
    }

    /// Has products with it made in bf16 where its numbers are bf16, or in f32.
    pub fn multiply_in_bf16(&self, bf16: bool) {
        if let Data::Mapped(file, _) = &self.data {
            file.bf16.store(bf16, Ordering::Relaxed);
        }
    }

    /// Gives its pages back where it is streamed: after rows were read.
    pub fn release(&self) {
        if let Data::Mapped(file, at) = &self.data
            && file.streamed()
        {
            file.release(*at..at + self.stored.size(self.len()));
        }
    }

    /// Its numbers as stored.
    pub fn numbers(&self) -> Storage<'_> {
        match &self.data {
            Data::Owned(v) => Storage::F32(v),
            Data::Mapped(file, at) => {
                let bytes = &file.map[*at..at + self.stored.size(self.len())];
                match self.stored {
                    StoredType::F32 => Storage::F32(bytemuck::cast_slice(bytes)),
                    StoredType::F16 => Storage::F16(bytemuck::cast_slice::<_, f16>(bytes)),
                    StoredType::Bf16 => Storage::Bf16(bytemuck::cast_slice::<_, bf16>(bytes)),
                    StoredType::Quantized(quant) => {
                        Storage::Quantized(QuantizedBlocks { quant, blocks: bytes })
                    }
                }
            }
        }
    }

    /// Whether it is stored as another is, byte for byte.
    fn same_bytes(&self, other: &Self) -> bool {
        let bytes = |w: &Self| match &w.data {
            Data::Owned(_) => None,
            Data::Mapped(file, at) => Some((file.clone(), *at..at + w.stored.size(w.len()))),
        };
        match (bytes(self), bytes(other)) {
            (Some((a, x)), Some((b, y))) if self.stored == other.stored => a.map[x] == b.map[y],
            _ => self.to_vec() == other.to_vec(),
        }
    }

    /// It as a matrix: the first dimension against all others.
    pub fn matrix(&self) -> Matrix<'_> {
        let rows = self.shape.first().copied().unwrap_or(1);
        let pages = match &self.data {
            Data::Mapped(file, at) if file.streamed() => Some((&**file as &dyn Pages, *at)),
            _ => None,
        };
        let bf16 = matches!(&self.data, Data::Mapped(file, _) if file.bf16.load(Ordering::Relaxed));
        Matrix {
            order: self.order,
            pages,
            bf16,
            ..Matrix::new(rows, self.len() / rows.max(1), self.numbers())
        }
    }

    /// All numbers as f32.
    pub fn to_vec(&self) -> Vec<f32> {
        let mut out = vec![0.0; self.len()];
        let matrix = self.matrix();
        out.chunks_mut(matrix.cols.max(1)).enumerate().for_each(|(r, row)| matrix.row(r, row));
        out
    }

    /// It in memory as f32, for weights used so often that decoding each time would cost more.
    pub fn expanded(self) -> Self {
        match (&self.data, self.stored) {
            (Data::Owned(_), _) | (Data::Mapped(..), StoredType::F32 | StoredType::Quantized(_)) => self,
            _ => Self::owned(&self.shape, self.to_vec()),
        }
    }

    /// A copy of a tensor whose offset does not fit its type.
    fn realigned(&self, file: &Mapped, at: usize) -> Self {
        let bytes = &file.map[at..at + self.stored.size(self.len())];
        let halves = bytes.chunks_exact(2).map(|b| [b[0], b[1]]);
        let numbers = match self.stored {
            StoredType::F16 => halves.map(|b| f16::from_le_bytes(b).to_f32()).collect(),
            StoredType::Bf16 => halves.map(|b| bf16::from_le_bytes(b).to_f32()).collect(),
            _ => bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect(),
        };
        Self::owned(&self.shape, numbers)
    }
}

/// The tensors of a model's files, by name.
pub struct Weights {
    tensors: BTreeMap<String, (usize, Weight)>,
    /// Tensors of types that are not read, such as integer buffers.
    unread: BTreeMap<String, (usize, Dtype)>,
    files: Vec<PathBuf>,
}

impl Weights {
    /// Tensors that were found in another file.
    pub(crate) fn of(file: &Path, tensors: Vec<(String, Weight)>) -> Self {
        let tensors = tensors.into_iter().map(|(name, w)| (name, (0, w))).collect();
        Self { tensors, unread: BTreeMap::new(), files: vec![file.into()] }
    }

    /// Opens these safetensors files.
    ///
    /// # Errors
    /// [`LmError::Io`] and [`LmError::File`] where a file is missing, cut short or damaged.
    pub fn open(files: &[PathBuf]) -> Result<Self, LmError> {
        let (mut tensors, mut unread) = (BTreeMap::new(), BTreeMap::new());
        for (i, file) in files.iter().enumerate() {
            let (opened, others) = map_file(file)?;
            tensors.extend(opened.into_iter().map(|(name, w)| (name, (i, w))));
            unread.extend(others.into_iter().map(|(name, dtype)| (name, (i, dtype))));
        }
        Ok(Self { tensors, unread, files: files.to_vec() })
    }

    /// The same under other names.
    ///
    /// # Errors
    /// [`LmError::File`] where two tensors would have one name.
    pub(crate) fn renamed(self, name: impl Fn(&str) -> String) -> Result<Self, LmError> {
        let count = self.tensors.len();
        let tensors: BTreeMap<_, _> = self.tensors.into_iter().map(|(n, w)| (name(&n), w)).collect();
        let unread = self.unread.into_iter().map(|(n, d)| (name(&n), d)).collect();
        if tensors.len() < count {
            let path = self.files.first().map_or(Path::new(""), PathBuf::as_path);
            return Err(LmError::file(path, "holds tensors both with and without the adapter's name"));
        }
        Ok(Self { tensors, unread, files: self.files })
    }

    /// The type of a tensor that is there but of a type that is not read.
    pub fn unread(&self, name: &str) -> Option<Dtype> {
        self.unread.get(name).map(|(_, dtype)| *dtype)
    }

    /// Refuses weights and biases of types that are not read.
    ///
    /// # Errors
    /// [`LmError::File`] with the first such tensor.
    pub fn check_types(&self) -> Result<(), LmError> {
        let ends = |name: &str| name.ends_with(".weight") || name.ends_with(".bias");
        match self.unread.iter().find(|(name, _)| ends(name)) {
            Some((name, (i, dtype))) => Err(unread(&self.files[*i], name, *dtype)),
            None => Ok(()),
        }
    }

    /// Refuses an output layer that is written out although the configuration ties it to the
    /// embedding, unless the two are the same: one of both is wrong, and which one is not known.
    ///
    /// # Errors
    /// [`LmError::File`] with the key to correct.
    pub fn check_tied(&self, tied: bool) -> Result<(), LmError> {
        let (Some((i, head)), Some((_, embed))) =
            (self.tensors.get("lm_head.weight"), self.tensors.get("model.embed_tokens.weight"))
        else {
            return Ok(());
        };
        if !tied || (head.shape == embed.shape && head.same_bytes(embed)) {
            return Ok(());
        }
        Err(LmError::File {
            path: self.files[*i].clone(),
            why: "tensor lm_head.weight differs from model.embed_tokens.weight, but config.json ties them".into(),
            help: Some(
                "set `tie_word_embeddings` to false in config.json, as transformers does on loading, or take \
                 lm_head.weight out of the file"
                    .into(),
            ),
        })
    }

    /// Names and tensors, in order of names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Weight)> {
        self.tensors.iter().map(|(name, (_, w))| (name.as_str(), w))
    }

    /// Looks at every number once.
    ///
    /// # Errors
    /// [`LmError::File`] with the first tensor that has a NaN or an infinity in it.
    pub fn check_finite(&self) -> Result<(), LmError> {
        match self.iter().find(|(_, w)| !w.numbers().is_finite()) {
            None => Ok(()),
            Some((name, _)) => Err(not_finite(self.file_of(name), name)),
        }
    }

    /// Whether there is a tensor of this name.
    pub fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// The file that a tensor is in, or the first one.
    pub fn file_of(&self, name: &str) -> &Path {
        let i = self.tensors.get(name).map_or(0, |(i, _)| *i);
        self.files.get(i).map_or(Path::new("model.safetensors"), PathBuf::as_path)
    }

    /// A tensor of this name and shape.
    ///
    /// # Errors
    /// [`LmError::File`] where it is missing or of another shape.
    pub fn need(&self, name: &str, shape: &[usize]) -> Result<Weight, LmError> {
        if let Some((i, dtype)) = self.unread.get(name) {
            return Err(unread(&self.files[*i], name, *dtype));
        }
        let Some((_, w)) = self.tensors.get(name) else {
            return Err(LmError::File {
                path: self.file_of(name).into(),
                why: format!("tensor {name} is missing"),
                help: Some(
                    "config.json asks for it; are all shards there, and is config.json the model's own?"
                        .into(),
                ),
            });
        };
        if w.shape != shape {
            let why = format!("tensor {name}: expected shape {shape:?} by config.json, found {:?}", w.shape);
            return Err(LmError::file(self.file_of(name), why));
        }
        Ok(w.clone())
    }
}

/// A needed tensor of a type that is not read.
pub(crate) fn unread(path: &Path, tensor: &str, dtype: Dtype) -> LmError {
    LmError::File {
        path: path.into(),
        why: format!("tensor {tensor} is of type {dtype:?}; F32, F16, BF16 and F64 are read"),
        help: Some("load the file where it was made and save it as bfloat16".into()),
    }
}

/// A tensor with a NaN or an infinity in it.
pub(crate) fn not_finite(path: &Path, tensor: &str) -> LmError {
    LmError::File {
        path: path.into(),
        why: format!("tensor {tensor} has a value that is not finite (NaN or infinity)"),
        help: Some(
            "the training that made it diverged, or the file is damaged; use an earlier checkpoint".into(),
        ),
    }
}

/// The tensors of a file, and those of types that are not read.
type Opened = (Vec<(String, Weight)>, Vec<(String, Dtype)>);

fn map_file(path: &Path) -> Result<Opened, LmError> {
    let wrong = |why: String| LmError::File {
        path: path.into(),
        why,
        help: Some("fetch or copy the file again".into()),
    };
    let file = Arc::new(Mapped::new(path)?);
    let map = file.bytes();
    let size = map.len() as u64;
    if let Some(other) = OtherFile::of(map) {
        return Err(LmError::File {
            path: path.into(),
            why: format!("is {}, not a safetensors file", other.what),
            help: Some(other.help.into()),
        });
    }
    if size < 8 {
        return Err(wrong(format!("is not a safetensors file: it has {size} bytes")));
    }
    let header = u64::from_le_bytes([map[0], map[1], map[2], map[3], map[4], map[5], map[6], map[7]]);
    if header > 1 << 30 || map.get(8) != Some(&b'{') {
        return Err(wrong("is not a safetensors file".into()));
    }
    if header + 8 > size {
        return Err(wrong(format!(
            "is cut short: its header alone takes {} bytes, the file has {size}",
            header + 8
        )));
    }
    let (read, metadata) = match SafeTensors::read_metadata(map) {
        Ok(ok) => ok,
        Err(safetensors::SafeTensorError::MetadataIncompleteBuffer) => {
            let end = header_end(&map[8..8 + header as usize]).map(|n| n + 8 + header);
            if let Some(end) = end.filter(|end| *end < size) {
                return Err(wrong(format!(
                    "is longer than it should be: its tensors end at byte {end}, the file has {size}"
                )));
            }
            let end = end.map_or(String::from("more"), |n| n.to_string());
            return Err(wrong(format!("is cut short: its header promises {end} bytes, the file has {size}")));
        }
        Err(e) => return Err(wrong(format!("has a broken header: {e}"))),
    };
    let (mut out, mut unread) = (Vec::new(), Vec::new());
    for (name, info) in metadata.tensors() {
        let (from, to) = info.data_offsets;
        let stored = match info.dtype {
            Dtype::F32 => StoredType::F32,
            Dtype::F16 => StoredType::F16,
            Dtype::BF16 => StoredType::Bf16,
            Dtype::F64 => {
                let bytes = map[8 + read + from..8 + read + to].as_chunks::<8>().0;
                let numbers = bytes.iter().map(|b| f64::from_le_bytes(*b) as f32).collect();
                out.push((name, Weight::owned(&info.shape, numbers)));
                continue;
            }
            // Integer buffers such as position ids are never needed; `need` names one that is.
            other => {
                unread.push((name, other));
                continue;
            }
        };
        out.push((name, Weight::mapped(&info.shape, stored, &file, 8 + read + from)));
    }
    Ok((out, unread))
}

/// Where the header says that the data ends.
fn header_end(header: &[u8]) -> Option<u64> {
    let json: serde_json::Value = serde_json::from_slice(header).ok()?;
    json.as_object()?.values().filter_map(|t| t.get("data_offsets")?.get(1)?.as_u64()).max()
}

#[cfg(test)]
mod tests;
