//! The files of a `Divergence`: per-prompt vectors and features.

use std::collections::BTreeMap;
use std::path::Path;

use headstart_disk::{Disk, files, read};
use headstart_protocol::artifacts::Artifact;
pub use headstart_protocol::artifacts::Divergence as About;
use headstart_protocol::{ArtifactRef, Context, Failure};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};

use crate::math::Matrix;

/// Name of the file that holds `vectors` [n, d] and `features` [n, k], f32.
pub const VECTORS_FILE: &str = "vectors.safetensors";

/// How answers differ from the base's, one row a prompt: the space's vector, then the features.
#[derive(Clone, Debug)]
pub struct Divergence {
    /// Facts.
    pub about: About,
    /// n × (d + k).
    pub rows: Matrix,
    /// The model whose answers they were; none for a person's texts.
    pub model: Option<ArtifactRef>,
    /// The model that they were compared with, where known.
    pub base: Option<ArtifactRef>,
    /// The space.
    pub space: Option<ArtifactRef>,
}

impl Divergence {
    /// Reads a `Divergence` artifact. `what` names it in errors.
    ///
    /// # Errors
    /// If files are missing, or tensors do not have the shapes that the value states.
    pub fn open(ctx: &dyn Context, artifact: &ArtifactRef, what: &str) -> Result<Self, Failure> {
        let manifest = ctx.manifest(artifact)?;
        let about = About::of(&manifest).map_err(|e| Failure::input(format!("{what}: {e}")))?;
        let path = ctx.open(artifact)?.join(VECTORS_FILE);
        let bytes = read::whole(&path, read::TENSORS).map_err(|e| Failure::io(&path, &e))?;
        let bad = |why: String| Failure::input(format!("{what}: {}: {why}", path.display()));
        let tensors = SafeTensors::deserialize(&bytes).map_err(|e| bad(e.to_string()))?;
        let vectors = read_f32(&tensors, "vectors", &[about.n, about.d]).map_err(&bad)?;
        let features = read_f32(&tensors, "features", &[about.n, about.k]).map_err(&bad)?;
        let mut rows = Matrix::zeros(about.n, about.d + about.k);
        for i in 0..about.n {
            let row = rows.row_mut(i);
            row[..about.d].copy_from_slice(&vectors[i * about.d..(i + 1) * about.d]);
            row[about.d..].copy_from_slice(&features[i * about.k..(i + 1) * about.k]);
        }
        let used = |name: &str| manifest.uses.get(name).cloned();
        Ok(Self { about, rows, model: used("model"), base: used("base"), space: used("space") })
    }

    /// Checks that `other` lives in the same space with the same features.
    ///
    /// # Errors
    /// If not; says in what they differ.
    pub fn same_space(&self, other: &About, what: &str) -> Result<(), Failure> {
        let (a, b) = (&self.about, other);
        let why = if a.space != b.space {
            format!("spaces {} and {} differ", a.space.short(), b.space.short())
        } else if a.d != b.d {
            format!("{} and {} components", a.d, b.d)
        } else if a.features != b.features {
            "the stylometric features differ; one was made by another version".to_owned()
        } else {
            return Ok(());
        };
        Err(Failure::input(format!("{what} cannot be compared: {why}"))
            .help("embed both in the same space, with the same version of Headstart"))
    }
}

/// Writes `vectors` and `features` (row by row) to a safetensors file.
pub(crate) fn write(
    disk: &dyn Disk,
    at: &Path,
    vectors: &[Vec<f32>],
    features: &[Vec<f32>],
) -> Result<(), Failure> {
    let flat = |rows: &[Vec<f32>]| -> Tensor {
        let shape = vec![rows.len(), rows.first().map_or(0, Vec::len)];
        (Dtype::F32, shape, rows.iter().flatten().flat_map(|x| x.to_le_bytes()).collect())
    };
    write_tensors(disk, at, &[("vectors", flat(vectors)), ("features", flat(features))])
}

/// A tensor's type, shape and little-endian bytes.
pub(crate) type Tensor = (Dtype, Vec<usize>, Vec<u8>);

/// Writes named tensors of little-endian bytes.
pub(crate) fn write_tensors(disk: &dyn Disk, at: &Path, tensors: &[(&str, Tensor)]) -> Result<(), Failure> {
    let views: BTreeMap<&str, TensorView<'_>> = tensors
        .iter()
        .map(|(name, (dtype, shape, data))| {
            let view = TensorView::new(*dtype, shape.clone(), data).expect("bytes fit their shape");
            (*name, view)
        })
        .collect();
    let bytes = safetensors::serialize(views, None).expect("valid tensors always serialize");
    Ok(files::write(disk, at, &bytes)?)
}

fn read_f32(tensors: &SafeTensors<'_>, name: &str, shape: &[usize]) -> Result<Vec<f64>, String> {
    let tensor = tensors.tensor(name).map_err(|_| format!("tensor `{name}` is missing"))?;
    if tensor.dtype() != Dtype::F32 || tensor.shape() != shape {
        return Err(format!(
            "tensor `{name}` is {:?} {:?}, but should be F32 {shape:?}",
            tensor.dtype(),
            tensor.shape()
        ));
    }
    let number = |b: &[u8]| f64::from(f32::from_le_bytes(b.try_into().expect("four bytes")));
    let numbers: Vec<f64> = tensor.data().chunks_exact(4).map(number).collect();
    match numbers.iter().position(|x| !x.is_finite()) {
        Some(i) => Err(format!("tensor `{name}`: element {i} is not a number")),
        None => Ok(numbers),
    }
}
