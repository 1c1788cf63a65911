//! Parallel answers in several styles, as divergences.

use std::collections::HashMap;
use std::fs;
use std::ops::Range;
use std::path::Path;

use headstart_explain::catalog::Catalog;
use headstart_explain::decompose::{Member, Settings, build};
use headstart_explain::divergence::{About, Divergence};
use headstart_explain::lexicon::Lexicon;
use headstart_explain::math::Matrix;
use headstart_explain::space::SpaceKind;
use headstart_explain::stylometry::{FEATURES, features};
use headstart_explain::words::Method;
use headstart_protocol::Digest;
use headstart_protocol::artifact::{ArtifactRef, ArtifactType};
use rand::Rng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use crate::vectors::Vectors;

/// Answers of every style to the same questions, as raw vectors minus those of the default answer.
pub struct Corpus {
    /// A matrix a style, a row a question.
    rows: Vec<Matrix>,
    d: usize,
    lexicon: Lexicon,
    atoms: Matrix,
}

type Answers = HashMap<String, String>;

fn read(path: &Path) -> Result<(Vec<String>, Answers), Box<dyn std::error::Error>> {
    let mut order = Vec::new();
    let mut answers = Answers::new();
    for line in fs::read_to_string(path)?.lines() {
        let row: serde_json::Value = serde_json::from_str(line)?;
        let text = |key: &str| row[key].as_str().unwrap_or_default().to_owned();
        let question = format!("{}\n{}", text("Context"), text("Input"));
        order.push(question.clone());
        answers.insert(question, text("Response"));
    }
    Ok((order, answers))
}

impl Corpus {
    /// Reads numbered files, and embeds the answers to some of the questions that all files answer.
    pub fn load(
        data: &Path,
        encoder: &Path,
        cache: &Path,
        questions: Range<usize>,
    ) -> Result<Self, Box<dyn std::error::Error>> {
        let (order, plain) = read(&data.join("0.jsonl"))?;
        let mut styles: Vec<Answers> = Vec::new();
        while data.join(format!("{}.jsonl", styles.len() + 1)).exists() {
            styles.push(read(&data.join(format!("{}.jsonl", styles.len() + 1)))?.1);
        }
        let asked: Vec<&String> =
            order.iter().filter(|q| styles.iter().all(|s| s.contains_key(*q))).collect();
        let asked = asked.get(questions.clone()).ok_or("the files share too few questions")?;
        let lexicon = Lexicon::built_in();
        let mut texts: Vec<&str> = Vec::new();
        for answers in styles.iter().chain([&plain]) {
            texts.extend(asked.iter().map(|q| answers[*q].as_str()));
        }
        let pairs = lexicon.contrasts();
        texts.extend(pairs.iter().flat_map(|p| [p.answer, p.plain]));
        let mut vectors = Vectors::open(cache)?;
        vectors.fill(&texts, encoder)?;
        let difference = |a: &str, b: &str| -> Vec<f32> {
            vectors.get(a).iter().zip(vectors.get(b)).map(|(a, b)| a - b).collect()
        };
        let atoms =
            lexicon.atoms_of(&pairs.iter().map(|p| difference(p.answer, p.plain)).collect::<Vec<_>>());
        let row = |a: &str, b: &str| -> Vec<f64> {
            let f = features(a).into_iter().zip(features(b)).map(|(a, b)| a - b);
            difference(a, b).into_iter().chain(f).map(f64::from).collect()
        };
        let matrix = |style: &Answers| {
            Matrix::from_rows(&asked.iter().map(|q| row(&style[*q], &plain[*q])).collect::<Vec<_>>())
        };
        let rows: Vec<Matrix> = styles.iter().map(matrix).collect();
        let d = vectors.get(texts[0]).len();
        Ok(Self { rows, d, lexicon, atoms })
    }

    /// Number of styles.
    pub fn styles(&self) -> usize {
        self.rows.len()
    }

    /// The catalog that these probe questions give.
    pub fn catalog(&self, probes: &[usize], method: Method, seed: u64) -> Catalog {
        let member = |(i, all): (usize, &Matrix)| {
            let rows: Vec<Vec<f64>> = probes.iter().map(|&p| all.row(p).to_vec()).collect();
            let about = About {
                n: probes.len(),
                d: self.d,
                k: FEATURES.len(),
                space: Digest::of(b"study"),
                kind: SpaceKind::Sentence,
                features: FEATURES.iter().map(|f| f.name.to_owned()).collect(),
                candidates: Vec::new(),
            };
            let rows = Matrix::from_rows(&rows);
            let artifact =
                ArtifactRef { id: Digest::of(b"study"), ty: ArtifactType::Divergence, private_to: None };
            let divergence = Divergence { about, rows, model: None, base: None, space: None };
            Member { name: (i + 1).to_string(), divergence, artifact }
        };
        let members: Vec<Member> = self.rows.iter().enumerate().map(member).collect();
        let settings = Settings { method, max_words: 5, seed };
        build(&members, &self.lexicon, &self.atoms, None, &settings).expect("every style has rows")
    }

    /// A user's raw rows: `n` texts on different questions, of which each style has its share, and
    /// the others are default answers. Shares of a text are rounded at random, so that they are
    /// right on average.
    pub fn user(&self, shares: &[(usize, f64)], n: usize, others: &[usize], rng: &mut ChaCha8Rng) -> Matrix {
        let mut questions = others.to_vec();
        questions.shuffle(rng);
        questions.truncate(n);
        let mut styles = Vec::new();
        for &(style, share) in shares {
            let exact = share * n as f64;
            let count = exact.floor() as usize + usize::from(rng.random::<f64>() < exact.fract());
            styles.extend(std::iter::repeat_n(Some(style), count));
        }
        styles.resize(n, None);
        let row = |(q, style): (&usize, &Option<usize>)| match style {
            Some(s) => self.rows[s - 1].row(*q).to_vec(),
            None => vec![0.0; self.rows[0].cols],
        };
        Matrix::from_rows(&questions.iter().zip(&styles).map(row).collect::<Vec<_>>())
    }
}
