//! The catalog: every pLLM's style in kilobytes.
//!
//! | file | holds |
//! | --- | --- |
//! | `catalog.json` | facts of the whole: space, method, words |
//! | `pllms.jsonl` | for people and SQL: a line a pLLM, its words with intervals, provenance |
//! | `catalog.safetensors` | for selection: metric, atoms, and a whitened vector a pLLM, in f16 |
//!
//! What a device downloads to choose among N pLLMs is these three files, and no weights. To choose,
//! vectors are read where they lie in the mapped file, and of the lines those of the nearest.

mod halves;
mod pllms;

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use headstart_disk::{Disk, files, read};
use headstart_protocol::artifacts::{Candidate, Catalog as Summary, Explanation, SpaceKind};
use headstart_protocol::{ArtifactRef, Context, Digest, Failure};
use memmap2::Mmap;
use safetensors::tensor::{Dtype, SafeTensors};
use serde::{Deserialize, Serialize};

pub use self::halves::Halves;
pub use self::pllms::{PllmAbout, Pllms};
use crate::divergence::{Tensor, write_tensors};
use crate::lens::Lens;
use crate::lexicon::Pole;
use crate::math::{Matrix, dot};
use crate::words::{Explainer, Method};

/// Name of the file of facts.
pub const ABOUT_FILE: &str = "catalog.json";
/// Name of the file of pLLMs.
pub const PLLMS_FILE: &str = "pllms.jsonl";
/// Name of the file for selection.
pub const TENSORS_FILE: &str = "catalog.safetensors";
/// Version of the files.
pub const FORMAT: u32 = 4;

/// What `catalog.json` holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct About {
    /// [`FORMAT`].
    pub format: u32,
    /// The space.
    pub space: Digest,
    /// The space's kind.
    pub kind: SpaceKind,
    /// Length of the space's vectors.
    pub d: usize,
    /// Names of the stylometric features.
    pub features: Vec<String>,
    /// How coefficients were found.
    pub method: Method,
    /// Words of an explanation at most.
    pub max_words: usize,
    /// The lexicon's identity.
    pub lexicon: Digest,
    /// How far the covariances of encoder and features were shrunk, 0 to 1.
    pub shrinkage: [f64; 2],
    /// The words, in the order of the atoms.
    pub words: Vec<AtomAbout>,
    /// Words that a summarizer would have answered, over all pLLMs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub candidates: Vec<Candidate>,
    /// How fast the pLLMs were trained, where that is known of enough of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pace: Option<crate::pace::Pace>,
    /// How near those are who write in no style, where a reference tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chance: Option<crate::chance::Chance>,
}

impl About {
    /// Reads the file of facts. Its format is checked first.
    fn read(at: &Path) -> Result<Self, Failure> {
        #[derive(Deserialize)]
        struct Version {
            format: u32,
        }
        let json = read::whole(at, read::FACTS).map_err(|e| Failure::io(at, &e))?;
        let damaged = |e| Failure::input(format!("{}: these are no facts of a catalog: {e}", at.display()));
        let Version { format } = serde_json::from_slice(&json).map_err(damaged)?;
        if format == FORMAT {
            return serde_json::from_slice(&json).map_err(damaged);
        }
        let (age, other) =
            if format < FORMAT { ("an earlier", "") } else { ("a later", "that version, or ") };
        let why = format!(
            "{}: the catalog was published by {age} version of Headstart, in format {format}; this version \
             reads format {FORMAT}",
            at.display()
        );
        Err(Failure::input(why).help(format!(
            "use {other}publish the catalog again: run the pipeline that made it with this version; what it is \
             made from stays cached"
        )))
    }
}

/// Facts of a word.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AtomAbout {
    /// The word.
    pub word: String,
    /// What it is about.
    pub dimension: String,
    /// Which end of the dimension.
    pub pole: Pole,
    /// How one writes then.
    pub adverb: String,
    /// How far chance in the choice of its examples has moved its atom, see [`Lens::atom_variances`].
    #[serde(default)]
    pub variance: f64,
}

/// A catalog, ready for selection.
#[derive(Clone, Debug)]
pub struct Catalog {
    /// What `catalog.json` says.
    pub about: About,
    /// Facts of the pLLMs, in the order of their vectors.
    pub pllms: Pllms,
    /// q × (d + k): from raw to whitened vectors.
    pub factor: Matrix,
    /// How raw vectors are seen when words are looked for.
    pub lens: Lens,
    /// Atoms as the lens shows them, words × (d + k).
    pub atoms: Matrix,
    /// Mean of the pLLMs' raw vectors, of length d + k; explanations are relative to it.
    pub centre: Vec<f64>,
    /// Subtracted from every user's raw vectors, of length d + k.
    pub reference: Vec<f64>,
    /// Whitened vectors, pLLMs × q.
    pub vectors: Halves,
    /// Coefficients of all words, pLLMs × words.
    pub coefficients: Halves,
    /// Lengths of the space's raw vectors before whitening, one a pLLM, for the plain cosine.
    pub lengths: Vec<f32>,
    /// Squared length that each whitened vector has by chance, one a pLLM.
    pub noise: Vec<f32>,
    /// Squared length of each whitened vector.
    pub squares: Vec<f32>,
}

impl Catalog {
    /// Writes the files into a folder.
    ///
    /// # Errors
    /// If they cannot be written.
    pub fn write(&self, disk: &dyn Disk, folder: &Path) -> Result<(), Failure> {
        let json = serde_json::to_vec(&self.about).expect("plain facts always serialize");
        let at = folder.join(ABOUT_FILE);
        files::write(disk, &at, &json)?;
        let ends = self.pllms.write(disk, &folder.join(PLLMS_FILE))?;
        let half = |m: &Matrix| (Dtype::F16, vec![m.rows, m.cols], Halves::of(m).bytes());
        let halves = |h: &Halves| (Dtype::F16, vec![h.rows(), h.cols], h.bytes());
        let single = |x: &[f64]| {
            (Dtype::F32, vec![x.len()], x.iter().flat_map(|x| (*x as f32).to_le_bytes()).collect())
        };
        let floats = |x: &[f32]| {
            (Dtype::F32, vec![x.len()], x.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>())
        };
        let named: [(&str, Tensor); 12] = [
            ("factor", half(&self.factor)),
            ("atoms", half(&self.atoms)),
            ("centre", single(&self.centre)),
            ("reference", single(&self.reference)),
            ("vectors", halves(&self.vectors)),
            ("coefficients", halves(&self.coefficients)),
            ("lengths", floats(&self.lengths)),
            ("noise", floats(&self.noise)),
            ("squares", floats(&self.squares)),
            ("scale", single(&self.lens.scale)),
            ("damping", half(&self.lens.damping)),
            ("lines", (Dtype::U32, vec![ends.len()], ends.iter().flat_map(|x| x.to_le_bytes()).collect())),
        ];
        write_tensors(disk, &folder.join(TENSORS_FILE), &named)
    }

    /// Reads a `Catalog` artifact.
    ///
    /// # Errors
    /// If files are missing or damaged, or of another format.
    pub fn open(ctx: &dyn Context, artifact: &ArtifactRef) -> Result<Self, Failure> {
        Self::read(&ctx.open(artifact)?)
    }

    /// Reads the files from a folder.
    ///
    /// # Errors
    /// As [`Catalog::open`].
    pub fn read(folder: &Path) -> Result<Self, Failure> {
        let about = About::read(&folder.join(ABOUT_FILE))?;
        let at = folder.join(TENSORS_FILE);
        let file = read::open(&at).map_err(|e| Failure::io(&at, &e))?;
        // SAFETY: the file is opened for reading; artifacts are not changed in place.
        let map = Arc::new(unsafe { Mmap::map(&file) }.map_err(|e| Failure::io(&at, &e))?);
        let damaged = |why: String| Failure::input(format!("{}: {why}", at.display()));
        let tensors = SafeTensors::deserialize(&map).map_err(|e| damaged(e.to_string()))?;
        let tensors = Tensors { tensors, map: &map };
        let ends = tensors.lines().map_err(damaged)?;
        let pllms = Pllms::open(&folder.join(PLLMS_FILE), ends)?;
        Self::assemble(about, pllms, &tensors).map_err(damaged)
    }

    fn assemble(about: About, pllms: Pllms, tensors: &Tensors<'_>) -> Result<Self, String> {
        let (n, k) = (pllms.len(), about.words.len());
        let raw = about.d + about.features.len();
        let q = tensors.shape("factor")?.first().copied().unwrap_or(0);
        let damped = tensors.shape("damping")?.first().copied().unwrap_or(0);
        let wide = |x: Vec<f32>| x.into_iter().map(f64::from).collect();
        Ok(Self {
            factor: tensors.matrix("factor", q, raw)?,
            lens: Lens {
                scale: wide(tensors.floats("scale", raw)?),
                damping: tensors.matrix("damping", damped, raw)?,
            },
            atoms: tensors.matrix("atoms", k, raw)?,
            centre: wide(tensors.floats("centre", raw)?),
            reference: wide(tensors.floats("reference", raw)?),
            vectors: tensors.halves("vectors", n, q)?,
            coefficients: tensors.halves("coefficients", n, k)?,
            lengths: tensors.floats("lengths", n)?,
            noise: tensors.floats("noise", n)?,
            squares: tensors.floats("squares", n)?,
            pllms,
            about,
        })
    }

    /// Names and dimensions of the words, as [`Explainer`] wants them.
    pub fn word_names(&self) -> Vec<(String, String)> {
        self.about.words.iter().map(|w| (w.word.clone(), w.dimension.clone())).collect()
    }

    /// An explainer with this catalog's atoms and method.
    pub fn explainer<'a>(&'a self, words: &'a [(String, String)]) -> Explainer<'a> {
        let variances = self.about.words.iter().map(|w| w.variance).collect();
        Explainer::new(words, &self.atoms, self.about.method, self.about.max_words).with_variances(variances)
    }

    /// A user's raw per-prompt rows, the reference taken off, whitened: n × q.
    pub fn whiten(&self, rows: &Matrix) -> Matrix {
        let whiten = |row: &[f64]| {
            let shifted: Vec<f64> = row.iter().zip(&self.reference).map(|(x, r)| x - r).collect();
            self.factor.times(&shifted)
        };
        let data: Vec<Vec<f64>> = rows.iter().map(whiten).collect();
        if data.is_empty() { Matrix::zeros(0, self.factor.rows) } else { Matrix::from_rows(&data) }
    }

    /// A raw vector, seen as the atoms are.
    pub fn seen(&self, raw: &[f64]) -> Vec<f64> {
        self.lens.see(raw)
    }

    /// The other pLLMs, nearest first, with their distances in the metric: the length that the
    /// difference of two styles has beyond what chance adds to it, in standard deviations.
    pub fn neighbours(&self, index: usize) -> Vec<(usize, f64)> {
        let own = self.vectors.row(index);
        let distance = |i: usize| {
            let square: f64 = own.iter().zip(self.vectors.row(i)).map(|(a, b)| (a - b).powi(2)).sum();
            (square - f64::from(self.noise[index] + self.noise[i])).max(0.0).sqrt()
        };
        let others = (0..self.pllms.len()).filter(|&i| i != index);
        let mut all: Vec<(usize, f64)> = others.map(|i| (i, distance(i))).collect();
        all.sort_by(|a, b| a.1.total_cmp(&b.1).then(a.0.cmp(&b.0)));
        all
    }

    /// The rows of a divergence, those first that differ most from the base in the way in which
    /// the pLLM at `index` does: by their scalar product with its vector.
    pub fn most_typical(&self, index: usize, rows: &Matrix) -> Vec<usize> {
        let own = self.vectors.row(index);
        let shown: Vec<f64> = rows.iter().map(|row| dot(&self.factor.times(row), &own)).collect();
        let mut order: Vec<usize> = (0..shown.len()).collect();
        order.sort_by(|&a, &b| shown[b].total_cmp(&shown[a]).then(a.cmp(&b)));
        order
    }

    /// The catalog's value: a summary for people.
    ///
    /// # Errors
    /// If the facts of a pLLM are damaged.
    pub fn summary(&self) -> Result<Summary, Failure> {
        let style = |p: PllmAbout| (p.name, Explanation { words: p.words, explained: p.explained });
        Ok(Summary {
            pllms: self.pllms.all()?.into_iter().map(style).collect(),
            words: self.about.words.len(),
            method: self.about.method.name().to_owned(),
            space: self.about.space,
            kind: self.about.kind,
        })
    }
}

/// The tensors of a mapped file.
struct Tensors<'a> {
    tensors: SafeTensors<'a>,
    map: &'a Arc<Mmap>,
}

impl Tensors<'_> {
    fn shape(&self, name: &str) -> Result<Vec<usize>, String> {
        let found = self.tensors.tensor(name).map_err(|_| format!("tensor `{name}` is missing"))?;
        Ok(found.shape().to_vec())
    }

    fn bytes(&self, name: &str, dtype: Dtype, shape: &[usize]) -> Result<&[u8], String> {
        let t = self.tensors.tensor(name).map_err(|_| format!("tensor `{name}` is missing"))?;
        if t.dtype() != dtype || t.shape() != shape {
            return Err(format!(
                "tensor `{name}` is {:?} {:?}, but should be {dtype:?} {shape:?}",
                t.dtype(),
                t.shape()
            ));
        }
        Ok(t.data())
    }

    fn halves(&self, name: &str, rows: usize, cols: usize) -> Result<Halves, String> {
        let bytes = self.bytes(name, Dtype::F16, &[rows, cols])?;
        Ok(Halves::mapped(cols, self.map, self.place(bytes)))
    }

    /// Where bytes of the file lie in it.
    fn place(&self, bytes: &[u8]) -> Range<usize> {
        let start = bytes.as_ptr() as usize - self.map.as_ptr() as usize;
        start..start + bytes.len()
    }

    fn matrix(&self, name: &str, rows: usize, cols: usize) -> Result<Matrix, String> {
        let h = self.halves(name, rows, cols)?;
        Ok(Matrix { rows, cols, data: h.data().iter().map(|x| x.to_f64()).collect() })
    }

    fn floats(&self, name: &str, len: usize) -> Result<Vec<f32>, String> {
        let bytes = self.bytes(name, Dtype::F32, &[len])?;
        Ok(bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
    }

    /// Where the lines of [`PLLMS_FILE`] end.
    fn lines(&self) -> Result<Vec<u32>, String> {
        let shape = self.shape("lines")?;
        let bytes = self.bytes("lines", Dtype::U32, &shape)?;
        Ok(bytes.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
    }
}
