//! Known answers: styles that are sums of known words, in a space whose geometry is known. What is
//! tested is the order of the methods, and that each finds the words where it can.
//!
//! 40 words in 8 groups, 28 pLLMs = 2 × 2 × 7 words, users who show a share of a style, with noise.

use headstart_explain::math::{Matrix, axpy, dot, norm};
use headstart_explain::words::{Explainer, Method, paper_basis};
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

const D: usize = 192;
const GROUPS: usize = 8;
const GROUP: usize = 5;
const USERS: usize = 120;

struct World {
    names: Vec<(String, String)>,
    /// Unit atoms.
    atoms: Matrix,
    /// The three words of each pLLM.
    styles: Vec<[usize; 3]>,
    pllms: Matrix,
    /// Users' vectors, and whose style they show.
    users: Vec<(usize, Vec<f64>)>,
}

fn gauss(rng: &mut ChaCha8Rng, n: usize) -> Vec<f64> {
    (0..n).map(|_| (0..12).map(|_| rng.random::<f64>()).sum::<f64>() - 6.0).collect()
}

fn unit(mut v: Vec<f64>) -> Vec<f64> {
    let n = norm(&v);
    v.iter_mut().for_each(|x| *x /= n);
    v
}

impl World {
    /// `cosine` is that of two words of a group, `offset` the length of what all pLLMs and users
    /// have in common, in lengths of a style, `share` how much of a style users show.
    fn new(cosine: f64, offset: f64, share: f64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(17);
        let mut atoms = Vec::new();
        let mut names = Vec::new();
        for g in 0..GROUPS {
            let common = unit(gauss(&mut rng, D));
            for w in 0..GROUP {
                let mut v: Vec<f64> = common.iter().map(|x| x * cosine.sqrt()).collect();
                axpy(&mut v, (1.0 - cosine).sqrt(), &unit(gauss(&mut rng, D)));
                atoms.push(unit(v));
                names.push((format!("w{g}{w}"), format!("g{g}")));
            }
        }
        let atoms = Matrix::from_rows(&atoms);
        let tones: Vec<usize> = (0..7).map(|t| (2 + t % 6) * GROUP + t / 6).collect();
        let mut styles = Vec::new();
        for e in 0..2 {
            for l in 0..2 {
                styles.extend(tones.iter().map(|&t| [e, GROUP + l, t]));
            }
        }
        // Order matters to the published method; no order is the natural one.
        styles.shuffle(&mut rng);
        let shared: Vec<f64> = unit(gauss(&mut rng, D)).iter().map(|x| x * offset * 3f64.sqrt()).collect();
        let mut vector = |style: &[usize; 3], share: f64, noise: f64| {
            let mut v = shared.clone();
            style.iter().for_each(|&w| axpy(&mut v, share, atoms.row(w)));
            axpy(&mut v, noise / (D as f64).sqrt(), &gauss(&mut rng, D));
            v
        };
        let pllms: Vec<Vec<f64>> = styles.iter().map(|s| vector(s, 1.0, 0.3)).collect();
        let users =
            (0..USERS).map(|u| (u % styles.len(), vector(&styles[u % styles.len()], share, 0.5))).collect();
        Self { names, pllms: Matrix::from_rows(&pllms), atoms, styles, users }
    }

    /// The same with the pLLMs' mean taken off everybody.
    fn centred(mut self) -> Self {
        let mean = self.pllms.mean();
        (0..self.pllms.rows).for_each(|i| axpy(self.pllms.row_mut(i), -1.0, &mean));
        self.users.iter_mut().for_each(|(_, v)| axpy(v, -1.0, &mean));
        self
    }

    /// Names and atoms that a method explains with.
    fn lexicon(&self, method: Method) -> (Vec<(String, String)>, Matrix) {
        if method != Method::Paper {
            return (self.names.clone(), self.atoms.clone());
        }
        let basis = paper_basis(&self.pllms, &self.atoms, &[]);
        let rows: Vec<Vec<f64>> = basis.iter().map(|&j| self.atoms.row(j).to_vec()).collect();
        (basis.iter().map(|&j| self.names[j].clone()).collect(), Matrix::from_rows(&rows))
    }

    /// How many users are given the pLLM of their style, by nearness of coefficients.
    fn accuracy(&self, method: Method, near: fn(&[f64], &[f64]) -> f64) -> f64 {
        let (names, atoms) = self.lexicon(method);
        let explainer = Explainer::new(&names, &atoms, method, 5);
        let pllms: Vec<Vec<f64>> = self.pllms.iter().map(|v| explainer.coefficients(v)).collect();
        let right = |(style, v): &&(usize, Vec<f64>)| {
            let own = explainer.coefficients(v);
            let best = (0..pllms.len())
                .max_by(|&a, &b| near(&own, &pllms[a]).total_cmp(&near(&own, &pllms[b])).then(b.cmp(&a)));
            best == Some(*style)
        };
        self.users.iter().filter(right).count() as f64 / self.users.len() as f64
    }

    /// Which share of the pLLMs' true words is among the words that are shown.
    fn recall(&self, method: Method) -> f64 {
        let (names, atoms) = self.lexicon(method);
        let explainer = Explainer::new(&names, &atoms, method, 5);
        let mut found = 0;
        for (style, v) in self.styles.iter().zip(self.pllms.iter()) {
            let (e, _) = explainer.explain(v, &Matrix::zeros(0, names.len()), 0);
            let shown = |w: &&usize| e.words.iter().any(|x| x.word == self.names[**w].0);
            found += style.iter().filter(shown).count();
        }
        found as f64 / (3 * self.styles.len()) as f64
    }
}

/// The published method's nearness: minus the sum of absolute differences.
fn l1(a: &[f64], b: &[f64]) -> f64 {
    -a.iter().zip(b).map(|(a, b)| (a - b).abs()).sum::<f64>()
}

fn cosine(a: &[f64], b: &[f64]) -> f64 {
    dot(a, b) / (norm(a) * norm(b)).max(1e-12)
}

const OURS: [Method; 3] = [Method::Sparse, Method::Ridge, Method::Omp];

#[test]
fn where_words_are_orthogonal_every_method_is_right() {
    let world = World::new(0.0, 0.0, 0.7);
    assert!(world.accuracy(Method::Paper, l1) > 0.95);
    assert!(world.recall(Method::Paper) > 0.9);
    for method in OURS {
        assert!(world.accuracy(method, cosine) > 0.95, "{method:?}");
    }
    assert!(world.recall(Method::Sparse) > 0.95);
    assert!(world.recall(Method::Omp) > 0.95);
}

#[test]
fn where_words_are_correlated_the_greedy_basis_loses_the_words_that_matter() {
    let world = World::new(0.5, 0.0, 0.7);
    let paper = world.accuracy(Method::Paper, l1);
    let mild = world.accuracy(Method::Paper, cosine);
    assert!(paper < mild, "the sum of differences punishes a weaker style: {paper} {mild}");
    assert!(world.lexicon(Method::Paper).0.len() < 16, "most words are refused");
    assert!(world.recall(Method::Paper) < 0.6, "{}", world.recall(Method::Paper));
    for method in OURS {
        let ours = world.accuracy(method, cosine);
        assert!(ours > 0.95 && ours >= mild, "{method:?}: {ours} {mild}");
    }
    assert!(world.recall(Method::Sparse) > 0.9, "{}", world.recall(Method::Sparse));
    assert!(world.recall(Method::Omp) > 0.9, "{}", world.recall(Method::Omp));
}

/// With users who show less of a style than the pLLMs, the sum of differences also counts what all have in
/// common, unless it is taken off.
#[test]
fn what_all_pllms_share_must_be_taken_off() {
    let (raw, centred) = (World::new(0.5, 3.0, 0.7), World::new(0.5, 3.0, 0.7).centred());
    let (before, after) = (raw.accuracy(Method::Paper, l1), centred.accuracy(Method::Paper, l1));
    assert!(before < after, "{before} {after}");
}
