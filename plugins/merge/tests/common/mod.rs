//! Small adapters and models, written for the tests.
#![allow(dead_code, reason = "each test file uses a part")]

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use half::{bf16, f16};
use headstart_merge::adapter::{CONFIG_FILE, Factors, WEIGHTS_FILE};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::{Value, json};

/// A dense matrix in f64.
pub type Dense = faer::Mat<f64>;

pub fn rng(seed: u64) -> ChaCha8Rng {
    ChaCha8Rng::seed_from_u64(seed)
}

pub fn numbers(rng: &mut ChaCha8Rng, n: usize) -> Vec<f32> {
    (0..n).map(|_| rng.random_range(-1.0f32..1.0)).collect()
}

/// An adapter to write: modules as (path, out, in, rank), with the scaling that its options give.
#[derive(Clone, Debug)]
pub struct AdapterSpec {
    pub modules: Vec<(String, usize, usize, usize)>,
    pub alpha: f64,
    pub rslora: bool,
    pub seed: u64,
}

impl AdapterSpec {
    pub fn new(modules: &[(&str, usize, usize, usize)], alpha: f64, seed: u64) -> Self {
        let modules = modules.iter().map(|(m, o, i, r)| ((*m).to_owned(), *o, *i, *r)).collect();
        Self { modules, alpha, rslora: false, seed }
    }

    fn scaling(&self, rank: usize) -> f64 {
        let rank = rank as f64;
        if self.rslora { self.alpha / rank.sqrt() } else { self.alpha / rank }
    }

    /// Its matrices, with the scaling computed here and not by the code under test.
    pub fn factors(&self) -> BTreeMap<String, Dense> {
        let mut rng = rng(self.seed);
        let dense = |(path, out, inner, rank): &(String, usize, usize, usize)| {
            let (a, b) = (numbers(&mut rng, rank * inner), numbers(&mut rng, out * rank));
            (path.clone(), product(&a, &b, *rank, *inner, *out, self.scaling(*rank)))
        };
        self.modules.iter().map(dense).collect()
    }

    pub fn write(&self, folder: &Path) {
        std::fs::create_dir_all(folder).expect("folder");
        let mut rng = rng(self.seed);
        let mut tensors = Vec::new();
        let mut ranks = BTreeMap::new();
        for (path, out, inner, rank) in &self.modules {
            let name = |half: &str| format!("base_model.model.{path}.lora_{half}.weight");
            tensors.push((name("A"), vec![*rank, *inner], numbers(&mut rng, rank * inner)));
            tensors.push((name("B"), vec![*out, *rank], numbers(&mut rng, out * rank)));
            ranks.insert(path.clone(), *rank);
        }
        save_f32(&folder.join(WEIGHTS_FILE), &tensors);
        let mut names: Vec<_> =
            self.modules.iter().map(|(p, ..)| p.rsplit('.').next().expect("a name").to_owned()).collect();
        names.sort();
        names.dedup();
        write_config(
            folder,
            &json!({
                "peft_type": "LORA", "r": 999, "lora_alpha": self.alpha, "use_rslora": self.rslora,
                "target_modules": names, "rank_pattern": ranks, "bias": "none",
            }),
        );
    }
}

pub fn write_config(folder: &Path, config: &Value) {
    std::fs::write(folder.join(CONFIG_FILE), config.to_string()).expect("config");
}

pub fn product(a: &[f32], b: &[f32], rank: usize, inner: usize, out: usize, scaling: f64) -> Dense {
    Dense::from_fn(out, inner, |i, j| {
        scaling * (0..rank).map(|k| f64::from(b[i * rank + k]) * f64::from(a[k * inner + j])).sum::<f64>()
    })
}

pub fn dense_of(f: &Factors) -> Dense {
    product(&f.a.data, &f.b.data, f.rank(), f.a.cols, f.b.rows, f.scaling)
}

/// Adds `weight · m` to what is at `path`.
pub fn add(sum: &mut BTreeMap<String, Dense>, path: &str, weight: f64, m: &Dense) {
    let scaled = Dense::from_fn(m.nrows(), m.ncols(), |i, j| weight * m[(i, j)]);
    match sum.get_mut(path) {
        Some(s) => *s += scaled,
        None => drop(sum.insert(path.to_owned(), scaled)),
    }
}

pub fn distance(a: &Dense, b: &Dense) -> f64 {
    assert_eq!((a.nrows(), a.ncols()), (b.nrows(), b.ncols()));
    (a - b).norm_l2()
}

pub fn save_f32(path: &Path, tensors: &[(String, Vec<usize>, Vec<f32>)]) {
    let bytes: Vec<Vec<u8>> =
        tensors.iter().map(|(.., data)| data.iter().flat_map(|x| x.to_le_bytes()).collect()).collect();
    let views = tensors.iter().zip(&bytes).map(|((name, shape, _), bytes)| {
        (name.clone(), TensorView::new(Dtype::F32, shape.clone(), bytes).expect("tensor"))
    });
    safetensors::serialize_to_file(views, None, path).expect("written");
}

/// A tensor of a model.
#[derive(Clone, Debug)]
pub struct Param {
    pub name: String,
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    pub data: Vec<f32>,
}

impl Param {
    pub fn new(name: &str, dtype: Dtype, shape: &[usize], data: Vec<f32>) -> Self {
        assert_eq!(shape.iter().product::<usize>(), data.len());
        Self {
            name: name.into(),
            dtype,
            shape: shape.into(),
            data: data.into_iter().map(|x| rounded(dtype, x)).collect(),
        }
    }

    pub fn bytes(&self) -> Vec<u8> {
        let encode = |x: &f32| match self.dtype {
            Dtype::F32 => x.to_le_bytes().to_vec(),
            Dtype::F16 => f16::from_f32(*x).to_le_bytes().to_vec(),
            Dtype::BF16 => bf16::from_f32(*x).to_le_bytes().to_vec(),
            Dtype::I64 => (*x as i64).to_le_bytes().to_vec(),
            other => panic!("{other:?}"),
        };
        self.data.iter().flat_map(encode).collect()
    }
}

pub fn rounded(dtype: Dtype, x: f32) -> f32 {
    match dtype {
        Dtype::F16 => f16::from_f32(x).to_f32(),
        Dtype::BF16 => bf16::from_f32(x).to_f32(),
        _ => x,
    }
}

/// Writes a model; `shards` are the numbers of tensors in each file, empty for a single file.
pub fn write_model(folder: &Path, tied: bool, params: &[Param], shards: &[usize]) {
    std::fs::create_dir_all(folder).expect("folder");
    let config = json!({"model_type": "llama", "tie_word_embeddings": tied});
    std::fs::write(folder.join("config.json"), config.to_string()).expect("config");
    std::fs::write(folder.join("tokenizer.json"), "{}").expect("tokenizer");
    if shards.is_empty() {
        return save(&folder.join("model.safetensors"), params);
    }
    let mut map = serde_json::Map::new();
    let mut rest = params;
    for (i, n) in shards.iter().enumerate() {
        let (now, later) = rest.split_at(*n);
        let name = format!("model-{:05}-of-{:05}.safetensors", i + 1, shards.len());
        save(&folder.join(&name), now);
        now.iter().for_each(|p| drop(map.insert(p.name.clone(), json!(name))));
        rest = later;
    }
    assert!(rest.is_empty());
    let index = json!({"metadata": {}, "weight_map": map});
    std::fs::write(folder.join("model.safetensors.index.json"), index.to_string()).expect("index");
}

fn save(path: &Path, params: &[Param]) {
    let bytes: Vec<_> = params.iter().map(Param::bytes).collect();
    let views = params
        .iter()
        .zip(&bytes)
        .map(|(p, b)| (p.name.clone(), TensorView::new(p.dtype, p.shape.clone(), b).expect("tensor")));
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    safetensors::serialize_to_file(views, Some(metadata), path).expect("written");
}

/// Every tensor's bytes in a folder's safetensors files.
pub fn read_model(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut all = BTreeMap::new();
    for entry in std::fs::read_dir(folder).expect("folder") {
        let path = entry.expect("entry").path();
        if path.extension().is_some_and(|e| e == "safetensors") {
            let bytes = std::fs::read(&path).expect("file");
            let tensors = safetensors::SafeTensors::deserialize(&bytes).expect("whole");
            for (name, view) in tensors.iter() {
                all.insert(name.to_owned(), view.data().to_vec());
            }
        }
    }
    all
}
