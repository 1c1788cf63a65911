//! From texts to a catalog, and its words judged.

use headstart_explain::catalog::Catalog;
use headstart_explain::decompose::{Member, Settings, build};
use headstart_explain::divergence::{About, Divergence};
use headstart_explain::judge::{Says, chance, judge};
use headstart_explain::math::Matrix;
use headstart_explain::stylometry::{FEATURES, features};
use headstart_explain::{Atoms, Lexicon};
use headstart_protocol::artifacts::SpaceKind;
use headstart_protocol::{ArtifactRef, ArtifactType, Digest};
use headstart_stats::wilson;

pub type Failed = Box<dyn std::error::Error>;

/// A style's answers and the default ones to the same questions.
pub struct Style {
    pub name: String,
    pub traits: Vec<String>,
    /// (answer, default answer)
    pub pairs: Vec<(String, String)>,
}

/// Vectors of texts, in order.
pub type Embedder<'a> = dyn FnMut(&[String]) -> Result<Vec<Vec<f32>>, Failed> + 'a;

/// The lexicon and its atoms in a space.
pub struct Words {
    pub lexicon: Lexicon,
    pub atoms: Atoms,
}

impl Words {
    pub fn embed(embedder: &mut Embedder<'_>) -> Result<Self, Failed> {
        let lexicon = Lexicon::built_in();
        let pairs = lexicon.contrasts();
        let texts: Vec<String> =
            pairs.iter().flat_map(|p| [p.answer.to_owned(), p.plain.to_owned()]).collect();
        let vectors = embedder(&texts)?;
        let differences: Vec<Vec<f32>> = vectors.chunks_exact(2).map(|ab| minus(&ab[0], &ab[1])).collect();
        let atoms = lexicon.atoms_of(&differences);
        Ok(Self { lexicon, atoms })
    }

    /// The catalog of these styles.
    pub fn catalog(&self, styles: &[Style], embedder: &mut Embedder<'_>) -> Result<Catalog, Failed> {
        let mut members = Vec::new();
        for s in styles {
            let rows = raw_rows(&s.pairs, embedder)?;
            let d = rows.cols - FEATURES.len();
            members.push(member_of(&s.name, rows, d));
        }
        self.build(&members)
    }

    pub fn build(&self, members: &[Member]) -> Result<Catalog, Failed> {
        let settings = Settings::default();
        build(members, &self.lexicon, &self.atoms, None, &settings).map_err(|e| e.message.into())
    }
}

fn minus(a: &[f32], b: &[f32]) -> Vec<f32> {
    a.iter().zip(b).map(|(a, b)| a - b).collect()
}

/// How answers differ from the default ones, the space's components first, then features.
pub fn raw_rows(pairs: &[(String, String)], embedder: &mut Embedder<'_>) -> Result<Matrix, Failed> {
    let texts: Vec<String> = pairs.iter().flat_map(|(a, b)| [a.clone(), b.clone()]).collect();
    let vectors = embedder(&texts)?;
    let row = |(ab, (answer, plain)): (&[Vec<f32>], &(String, String))| -> Vec<f64> {
        let f = minus(&features(answer), &features(plain));
        minus(&ab[0], &ab[1]).into_iter().chain(f).map(f64::from).collect()
    };
    Ok(Matrix::from_rows(&vectors.chunks_exact(2).zip(pairs).map(row).collect::<Vec<_>>()))
}

/// A pLLM of these rows, of which the first `d` components are the space's.
pub fn member_of(name: &str, rows: Matrix, d: usize) -> Member {
    let about = About {
        n: rows.rows,
        d,
        k: FEATURES.len(),
        space: Digest::of(b"study"),
        kind: SpaceKind::Sentence,
        features: FEATURES.iter().map(|f| f.name.to_owned()).collect(),
        source: None,
        picked: None,
        forward_passes: 0,
        candidates: Vec::new(),
    };
    let divergence = Divergence { about, rows, model: None, base: None, space: None };
    let artifact = ArtifactRef { id: Digest::of(b"study"), ty: ArtifactType::Divergence, private_to: None };
    Member { name: name.to_owned(), divergence, artifact }
}

/// How many styles have the right words, of how many.
#[derive(Default)]
pub struct Score {
    pub right: usize,
    pub all: usize,
    named: usize,
    traits: usize,
    chance: f64,
}

impl Score {
    /// Judges a catalog's words; prints them if told to.
    pub fn add(&mut self, catalog: &Catalog, styles: &[Style], print: bool) {
        let pllms = catalog.pllms.all().expect("this catalog was never written");
        for (p, style) in pllms.iter().zip(styles) {
            let traits: Vec<&str> = style.traits.iter().map(String::as_str).collect();
            let words: Vec<(&str, f64)> = p.words.iter().map(|w| (w.word.as_str(), w.coefficient)).collect();
            let verdict = judge(&traits, &catalog.about.words, &words);
            self.right += usize::from(verdict.right);
            self.all += 1;
            self.named += verdict.named;
            self.traits += traits.iter().filter(|t| **t != "neutral").count();
            self.chance += chance(&traits, &catalog.about.words);
            if !print {
                continue;
            }
            let mark = if verdict.right { "right" } else { "WRONG" };
            print!("{:<44} {mark}  explained {:.2} ", style.name, p.explained);
            for (w, says) in p.words.iter().zip(&verdict.says) {
                let sign = match says {
                    Says::Right => "+",
                    Says::Wrong => "x",
                    Says::Open => "~",
                };
                print!("  {sign}{} {:.2} [{:.2}, {:.2}]", w.word, w.coefficient, w.low, w.high);
            }
            println!();
        }
    }

    pub fn print(&self, what: &str) {
        let (low, high) = wilson(self.right, self.all);
        println!(
            "{what}: right {} of {}, {:.3} [{low:.3}, {high:.3}]; traits named {} of {}; first word by chance {:.2}\n",
            self.right,
            self.all,
            self.right as f64 / self.all as f64,
            self.named,
            self.traits,
            self.chance / self.all as f64
        );
    }
}
