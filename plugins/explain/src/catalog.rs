//! The catalog: every pLLM's style in kilobytes.
//!
//! `catalog.json` is for people and SQL: words with intervals, provenance. `catalog.safetensors` is
//! for selection: the metric, the lexicon's atoms, and a whitened vector a pLLM, in f16. What a
//! device downloads to choose among N pLLMs is these two files, and no weights.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use half::f16;
use half::slice::HalfFloatSliceExt;
use headstart_protocol::{ArtifactRef, Context, Digest, Failure};
use safetensors::tensor::{Dtype, SafeTensors};
use serde::{Deserialize, Serialize};

use crate::divergence::write_tensors;
use crate::lexicon::Pole;
use crate::math::Matrix;
use crate::space::SpaceKind;
use crate::words::{Coefficient, Explainer, Method};

/// Name of the file for people.
pub const ABOUT_FILE: &str = "catalog.json";
/// Name of the file for selection.
pub const TENSORS_FILE: &str = "catalog.safetensors";
/// Version of both files.
pub const FORMAT: u32 = 1;

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
    pub candidates: Vec<crate::space::Candidate>,
    /// The pLLMs, in the order of their vectors.
    pub pllms: Vec<PllmAbout>,
}

/// What is said of a word.
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
}

/// What is said of a pLLM.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PllmAbout {
    /// Its name in the catalog.
    pub name: String,
    /// The pLLM's artifact, where the answers were a model's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pllm: Option<Digest>,
    /// The divergence that it was explained from.
    pub divergence: Digest,
    /// Prompts.
    pub n: usize,
    /// Length of its whitened vector: how far it is from the base, in standard deviations.
    pub strength: f64,
    /// Share that the words explain.
    pub explained: f64,
    /// Its style.
    pub words: Vec<Coefficient>,
}

/// A catalog, ready for selection.
#[derive(Clone, Debug)]
pub struct Catalog {
    /// What `catalog.json` says.
    pub about: About,
    /// q × (d + k): from raw to whitened vectors.
    pub factor: Matrix,
    /// What raw components are multiplied with to explain them, of length d + k: one step is one
    /// noticeable change of a feature, and the encoder has a fixed share.
    pub scale: Vec<f64>,
    /// Scaled atoms, words × (d + k).
    pub atoms: Matrix,
    /// Mean of the pLLMs' raw vectors, of length d + k; explanations are relative to it.
    pub centre: Vec<f64>,
    /// What is taken off every user's raw vectors, of length d + k.
    pub reference: Vec<f64>,
    /// Whitened vectors, pLLMs × q.
    pub vectors: Halves,
    /// Coefficients of all words, pLLMs × words.
    pub coefficients: Halves,
    /// Lengths of the space's raw vectors before whitening, one a pLLM, for the plain cosine.
    pub lengths: Vec<f32>,
    /// Squared length that each whitened vector has by chance, one a pLLM.
    pub noise: Vec<f32>,
}

/// A matrix in f16.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Halves {
    /// Number of columns.
    pub cols: usize,
    /// The numbers, row by row.
    pub data: Vec<f16>,
}

impl Halves {
    /// Rounds a matrix.
    pub fn of(m: &Matrix) -> Self {
        Self { cols: m.cols, data: m.data.iter().map(|x| f16::from_f64(*x)).collect() }
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.data.len() / self.cols.max(1)
    }

    /// Row `i`, widened.
    pub fn row(&self, i: usize) -> Vec<f64> {
        self.data[i * self.cols..(i + 1) * self.cols].iter().map(|x| x.to_f64()).collect()
    }

    /// Writes row `i` as f32, which is exact.
    pub fn row_into(&self, i: usize, out: &mut [f32]) {
        self.data[i * self.cols..(i + 1) * self.cols].convert_to_f32_slice(out);
    }

    fn bytes(&self) -> Vec<u8> {
        self.data.iter().flat_map(|x| x.to_le_bytes()).collect()
    }
}

impl Catalog {
    /// Writes the two files into a folder.
    ///
    /// # Errors
    /// If they cannot be written.
    pub fn write(&self, folder: &Path) -> Result<(), Failure> {
        let json = serde_json::to_vec(&self.about).expect("plain facts always serialize");
        let at = folder.join(ABOUT_FILE);
        fs::write(&at, json).map_err(|e| Failure::io(&at, &e))?;
        let half = |m: &Matrix| (Dtype::F16, vec![m.rows, m.cols], Halves::of(m).bytes());
        let halves = |h: &Halves| (Dtype::F16, vec![h.rows(), h.cols], h.bytes());
        let single = |x: &[f64]| {
            (Dtype::F32, vec![x.len()], x.iter().flat_map(|x| (*x as f32).to_le_bytes()).collect())
        };
        let floats = |x: &[f32]| {
            (Dtype::F32, vec![x.len()], x.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>())
        };
        let named: Vec<(&str, (Dtype, Vec<usize>, Vec<u8>))> = vec![
            ("factor", half(&self.factor)),
            ("atoms", half(&self.atoms)),
            ("centre", single(&self.centre)),
            ("reference", single(&self.reference)),
            ("vectors", halves(&self.vectors)),
            ("coefficients", halves(&self.coefficients)),
            ("lengths", floats(&self.lengths)),
            ("noise", floats(&self.noise)),
            ("scale", single(&self.scale)),
        ];
        let tensors = named.into_iter().map(|(n, (t, s, b))| (n, t, s, b)).collect();
        write_tensors(&folder.join(TENSORS_FILE), tensors)
    }

    /// Reads a `Catalog` artifact.
    ///
    /// # Errors
    /// If files are missing or damaged, or of another format.
    pub fn open(ctx: &dyn Context, artifact: &ArtifactRef) -> Result<Self, Failure> {
        Self::read(&ctx.open(artifact)?)
    }

    /// Reads the two files from a folder.
    ///
    /// # Errors
    /// As [`Catalog::open`].
    pub fn read(folder: &Path) -> Result<Self, Failure> {
        let at = folder.join(ABOUT_FILE);
        let json = fs::read(&at).map_err(|e| Failure::io(&at, &e))?;
        let about: About = serde_json::from_slice(&json)
            .map_err(|e| Failure::input(format!("{}: no catalog of this version: {e}", at.display())))?;
        if about.format != FORMAT {
            let why = format!("{}: format {}, but {FORMAT} is read", at.display(), about.format);
            return Err(Failure::input(why).help("run `decompose` again with this version of Headstart"));
        }
        let at = folder.join(TENSORS_FILE);
        let bytes = fs::read(&at).map_err(|e| Failure::io(&at, &e))?;
        let tensors =
            SafeTensors::deserialize(&bytes).map_err(|e| Failure::input(format!("{}: {e}", at.display())))?;
        Self::assemble(about, &tensors).map_err(|why| Failure::input(format!("{}: {why}", at.display())))
    }

    fn assemble(about: About, tensors: &SafeTensors<'_>) -> Result<Self, String> {
        let (n, k) = (about.pllms.len(), about.words.len());
        let raw = about.d + about.features.len();
        let q = tensors.tensor("factor").map_err(|_| "tensor `factor` is missing")?.shape()[0];
        let halves = |name: &str, rows: usize, cols: usize| {
            let bytes = tensor(tensors, name, Dtype::F16, &[rows, cols])?;
            let number = |b: &[u8]| f16::from_le_bytes([b[0], b[1]]);
            Ok::<_, String>(Halves { cols, data: bytes.chunks_exact(2).map(number).collect() })
        };
        let matrix = |name: &str, rows: usize, cols: usize| {
            let h = halves(name, rows, cols)?;
            Ok::<_, String>(Matrix { rows, cols, data: h.data.iter().map(|x| x.to_f64()).collect() })
        };
        let single = |name: &str, len: usize| {
            let bytes = tensor(tensors, name, Dtype::F32, &[len])?;
            let number = |b: &[u8]| f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
            Ok::<Vec<f32>, String>(bytes.chunks_exact(4).map(number).collect())
        };
        let wide = |x: Vec<f32>| x.into_iter().map(f64::from).collect();
        Ok(Self {
            factor: matrix("factor", q, raw)?,
            scale: wide(single("scale", raw)?),
            atoms: matrix("atoms", k, raw)?,
            centre: wide(single("centre", raw)?),
            reference: wide(single("reference", raw)?),
            vectors: halves("vectors", n, q)?,
            coefficients: halves("coefficients", n, k)?,
            lengths: single("lengths", n)?,
            noise: single("noise", n)?,
            about,
        })
    }

    /// Names and dimensions of the words, as [`Explainer`] wants them.
    pub fn word_names(&self) -> Vec<(String, String)> {
        self.about.words.iter().map(|w| (w.word.clone(), w.dimension.clone())).collect()
    }

    /// An explainer with this catalog's atoms and method.
    pub fn explainer<'a>(&'a self, words: &'a [(String, String)]) -> Explainer<'a> {
        Explainer::new(words, &self.atoms, self.about.method, self.about.max_words)
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

    /// A raw vector, scaled as the atoms are.
    pub fn scaled(&self, raw: &[f64]) -> Vec<f64> {
        raw.iter().zip(&self.scale).map(|(x, s)| x * s).collect()
    }

    /// The catalog's value: a summary for people, a pLLM's words by name.
    pub fn summary(&self) -> serde_json::Value {
        let pllms: BTreeMap<&str, serde_json::Value> = self
            .about
            .pllms
            .iter()
            .map(|p| (p.name.as_str(), serde_json::json!({ "words": p.words, "explained": p.explained })))
            .collect();
        serde_json::json!({
            "pllms": pllms,
            "words": self.about.words.len(),
            "method": self.about.method,
            "space": self.about.space,
            "kind": self.about.kind,
        })
    }
}

fn tensor<'a>(
    tensors: &'a SafeTensors<'_>,
    name: &str,
    dtype: Dtype,
    shape: &[usize],
) -> Result<&'a [u8], String> {
    let t = tensors.tensor(name).map_err(|_| format!("tensor `{name}` is missing"))?;
    if t.dtype() != dtype || t.shape() != shape {
        return Err(format!(
            "tensor `{name}` is {:?} {:?}, but should be {dtype:?} {shape:?}",
            t.dtype(),
            t.shape()
        ));
    }
    Ok(t.data())
}
