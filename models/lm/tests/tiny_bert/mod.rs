//! A small random BERT with a word-piece tokenizer, and its plain forward pass in f64.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::Path;

use safetensors::tensor::{Dtype, TensorView, serialize_to_file};
use serde_json::json;

const WORDS: [&str; 15] = [
    "[PAD]", "[UNK]", "[CLS]", "[SEP]", "rain", "##y", "wind", "the", "and", "a", "day", "sun", ",", "!", ".",
];
const LAYERS: usize = 2;
const HEADS: usize = 4;
const INTERMEDIATE: usize = 24;
const POSITIONS: usize = 64;

type Rows = Vec<Vec<f64>>;

/// Its weights by published name, with shapes.
pub struct TinyBert {
    pub hidden: usize,
    act: String,
    weights: BTreeMap<String, (Vec<usize>, Vec<f32>)>,
}

impl TinyBert {
    pub fn new(seed: u64, act: &str) -> Self {
        let mut this = Self { hidden: 16, act: act.into(), weights: BTreeMap::new() };
        let h = this.hidden;
        let mut state = seed;
        let mut add = |name: String, shape: &[usize], center: f32| {
            let numbers = (0..shape.iter().product()).map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                center + ((state >> 40) as f32 / (1u64 << 24) as f32 - 0.5)
            });
            let numbers = numbers.collect();
            this.weights.insert(name, (shape.to_vec(), numbers));
        };
        add("embeddings.word_embeddings.weight".into(), &[WORDS.len(), h], 0.0);
        add("embeddings.position_embeddings.weight".into(), &[POSITIONS, h], 0.0);
        add("embeddings.token_type_embeddings.weight".into(), &[2, h], 0.0);
        let mut norms = vec!["embeddings.LayerNorm".to_owned()];
        for layer in 0..LAYERS {
            let name = |part: &str| format!("encoder.layer.{layer}.{part}");
            for (part, outer, inner) in [
                ("attention.self.query", h, h),
                ("attention.self.key", h, h),
                ("attention.self.value", h, h),
                ("attention.output.dense", h, h),
                ("intermediate.dense", INTERMEDIATE, h),
                ("output.dense", h, INTERMEDIATE),
            ] {
                add(name(part) + ".weight", &[outer, inner], 0.0);
                add(name(part) + ".bias", &[outer], 0.0);
            }
            norms.extend([name("attention.output.LayerNorm"), name("output.LayerNorm")]);
        }
        for norm in norms {
            add(format!("{norm}.weight"), &[h], 1.0);
            add(format!("{norm}.bias"), &[h], 0.0);
        }
        this
    }

    /// Writes a model folder; tensor names get the prefix.
    pub fn write(&self, dir: &Path, prefix: &str) {
        let config = json!({
            "model_type": "bert", "hidden_size": self.hidden, "num_hidden_layers": LAYERS,
            "num_attention_heads": HEADS, "intermediate_size": INTERMEDIATE, "vocab_size": WORDS.len(),
            "max_position_embeddings": POSITIONS, "type_vocab_size": 2, "layer_norm_eps": 1e-12,
            "hidden_act": self.act,
        });
        fs::write(dir.join("config.json"), config.to_string()).unwrap();
        let vocab: HashMap<&str, usize> = WORDS.iter().enumerate().map(|(i, w)| (*w, i)).collect();
        let special = |id: usize| {
            json!({"id": id, "content": WORDS[id], "single_word": false, "lstrip": false,
                   "rstrip": false, "normalized": false, "special": true})
        };
        let token = |name: &str| json!({"SpecialToken": {"id": name, "type_id": 0}});
        let tokenizer = json!({
            "version": "1.0", "truncation": null, "padding": null,
            "added_tokens": [special(0), special(1), special(2), special(3)],
            "normalizer": {"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
                           "strip_accents": null, "lowercase": true},
            "pre_tokenizer": {"type": "BertPreTokenizer"},
            "post_processor": {
                "type": "TemplateProcessing",
                "single": [token("[CLS]"), {"Sequence": {"id": "A", "type_id": 0}}, token("[SEP]")],
                "pair": [],
                "special_tokens": {
                    "[CLS]": {"id": "[CLS]", "ids": [2], "tokens": ["[CLS]"]},
                    "[SEP]": {"id": "[SEP]", "ids": [3], "tokens": ["[SEP]"]},
                },
            },
            "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": true},
            "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
                      "max_input_chars_per_word": 100, "vocab": vocab},
        });
        fs::write(dir.join("tokenizer.json"), tokenizer.to_string()).unwrap();
        let bytes: Vec<(String, &[usize], Vec<u8>)> = self
            .weights
            .iter()
            .map(|(name, (shape, xs))| {
                let bytes = xs.iter().flat_map(|x| x.to_le_bytes()).collect();
                (format!("{prefix}{name}"), shape.as_slice(), bytes)
            })
            .collect();
        let views = bytes
            .iter()
            .map(|(name, shape, b)| (name, TensorView::new(Dtype::F32, shape.to_vec(), b).unwrap()));
        serialize_to_file(views, None, &dir.join("model.safetensors")).unwrap();
    }

    /// Ids of a text, by greedy word pieces written out here once more.
    pub fn ids(&self, text: &str) -> Vec<u32> {
        let id = |piece: &str| WORDS.iter().position(|w| *w == piece).map(|i| i as u32);
        let spaced = text.replace(',', " , ").replace('!', " ! ");
        let word = |w: &str| -> Vec<u32> {
            if let Some(i) = id(w) {
                return vec![i];
            }
            let stem = w.strip_suffix('y').and_then(id);
            stem.map_or(vec![1], |stem| vec![stem, id("##y").unwrap()])
        };
        spaced.split_whitespace().flat_map(word).collect()
    }

    /// The vector of a text's ids, to which [CLS] and [SEP] are added.
    pub fn embed(&self, ids: &[u32]) -> Vec<f64> {
        let all: Vec<u32> = [2].iter().chain(ids).chain(&[3]).copied().collect();
        let mut x: Rows = all
            .iter()
            .enumerate()
            .map(|(p, id)| {
                let word = self.row("embeddings.word_embeddings.weight", *id as usize);
                let place = self.row("embeddings.position_embeddings.weight", p);
                let kind = self.row("embeddings.token_type_embeddings.weight", 0);
                word.iter().zip(place).zip(kind).map(|((a, b), c)| a + b + c).collect()
            })
            .collect();
        x = self.norm("embeddings.LayerNorm", x);
        for layer in 0..LAYERS {
            let name = |part: &str| format!("encoder.layer.{layer}.{part}");
            let attended = self.attend(&name("attention.self"), &x);
            let attended = self.dense(&name("attention.output.dense"), &attended);
            x = self.norm(&name("attention.output.LayerNorm"), add(&x, &attended));
            let mut inner = self.dense(&name("intermediate.dense"), &x);
            inner.iter_mut().flatten().for_each(|v| *v = self.activate(*v));
            let outer = self.dense(&name("output.dense"), &inner);
            x = self.norm(&name("output.LayerNorm"), add(&x, &outer));
        }
        let n = x.len() as f64;
        let mean: Vec<f64> = (0..self.hidden).map(|c| x.iter().map(|r| r[c]).sum::<f64>() / n).collect();
        let norm = mean.iter().map(|v| v * v).sum::<f64>().sqrt();
        mean.iter().map(|v| v / norm).collect()
    }

    fn row(&self, name: &str, row: usize) -> Vec<f64> {
        let (shape, numbers) = &self.weights[name];
        numbers[row * shape[1]..(row + 1) * shape[1]].iter().map(|x| f64::from(*x)).collect()
    }

    fn vector(&self, name: &str) -> Vec<f64> {
        self.weights[name].1.iter().map(|x| f64::from(*x)).collect()
    }

    fn dense(&self, name: &str, x: &Rows) -> Rows {
        let weight = format!("{name}.weight");
        let bias = self.vector(&format!("{name}.bias"));
        let out = |row: &Vec<f64>| -> Vec<f64> {
            bias.iter().enumerate().map(|(o, b)| b + dot(row, &self.row(&weight, o))).collect()
        };
        x.iter().map(out).collect()
    }

    fn norm(&self, name: &str, x: Rows) -> Rows {
        let gain = self.vector(&format!("{name}.weight"));
        let shift = self.vector(&format!("{name}.bias"));
        let one = |row: Vec<f64>| -> Vec<f64> {
            let n = row.len() as f64;
            let mean = row.iter().sum::<f64>() / n;
            let variance = row.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n;
            let scaled = row.iter().map(|v| (v - mean) / (variance + 1e-12).sqrt());
            scaled.zip(&gain).zip(&shift).map(|((v, g), s)| v * g + s).collect()
        };
        x.into_iter().map(one).collect()
    }

    fn attend(&self, name: &str, x: &Rows) -> Rows {
        let [q, k, v] = ["query", "key", "value"].map(|p| self.dense(&format!("{name}.{p}"), x));
        let head = self.hidden / HEADS;
        let mut out = vec![vec![0.0; self.hidden]; x.len()];
        for h in 0..HEADS {
            let part = h * head..(h + 1) * head;
            for (i, row) in out.iter_mut().enumerate() {
                let score = |j: usize| dot(&q[i][part.clone()], &k[j][part.clone()]) / (head as f64).sqrt();
                let weights: Vec<f64> = (0..x.len()).map(|j| score(j).exp()).collect();
                let total: f64 = weights.iter().sum();
                for c in part.clone() {
                    row[c] = weights.iter().zip(&v).map(|(w, v)| w / total * v[c]).sum();
                }
            }
        }
        out
    }

    fn activate(&self, x: f64) -> f64 {
        match self.act.as_str() {
            "relu" => x.max(0.0),
            "gelu_new" => {
                let u = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3));
                0.5 * x * (1.0 + u.tanh())
            }
            _ => {
                // erf by Simpson's rule: independent of the crate's approximation.
                let z = x / std::f64::consts::SQRT_2;
                let (steps, f) = (2000, |t: f64| (-t * t).exp());
                let d = z / f64::from(steps);
                let inner: f64 =
                    (1..steps).map(|i| f(f64::from(i) * d) * if i % 2 == 1 { 4.0 } else { 2.0 }).sum();
                let erf = 2.0 / std::f64::consts::PI.sqrt() * d / 3.0 * (f(0.0) + inner + f(z));
                0.5 * x * (1.0 + erf)
            }
        }
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn add(a: &Rows, b: &Rows) -> Rows {
    a.iter().zip(b).map(|(a, b)| a.iter().zip(b).map(|(a, b)| a + b).collect()).collect()
}
