//! From a divergence to a few words with coefficients.
//!
//! Words are found in what the lens shows ([`crate::lens`]), which comes from the lexicon's examples: the
//! whitened metric, made for telling the catalog's pLLMs apart, names styles less well.
//!
//! A coefficient is in units of the lexicon's examples: 1 is as strong as they are on average.

use headstart_protocol::Failure;
pub use headstart_protocol::artifacts::{Coefficient, Explanation};
use serde::{Deserialize, Serialize};

use crate::lens::Lens;
use crate::math::{Matrix, axpy, dot, fit, norm};
use headstart_stats::{DRAWS, bootstrap, quantile};

/// How coefficients are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// Non-negative, one word after another, all refitted after each, one word a dimension. Only where
    /// no word is found, words that the style lacks ("less formal").
    Sparse,
    /// All words at once with a penalty; coefficients may be negative ("less formal").
    Ridge,
    /// Orthogonal matching pursuit; coefficients may be negative.
    Omp,
    /// The published method: projections V·v/|v| on a basis of nearly orthogonal words.
    Paper,
}

impl Method {
    /// As a pipeline file and a catalog spell it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sparse => "sparse",
            Self::Ridge => "ridge",
            Self::Omp => "omp",
            Self::Paper => "paper",
        }
    }

    /// The method of this name.
    ///
    /// # Errors
    /// If there is none.
    pub fn named(name: &str) -> Result<Self, Failure> {
        serde_json::from_value(name.into())
            .map_err(|_| Failure::input(format!("there is no method `{name}` of decomposition")))
    }
}

/// Explains divergences by atoms.
pub struct Explainer<'a> {
    /// Names and dimensions of the words, in the order of the atoms.
    pub words: &'a [(String, String)],
    /// The atoms as the lens shows them, a row a word.
    pub atoms: &'a Matrix,
    gram: Matrix,
    method: Method,
    max_words: usize,
    variances: Vec<f64>,
}

/// Penalty of ridge, as a share of the mean squared length of an atom.
const RIDGE: f64 = 0.3;

/// A further word must explain at least this share of the whole.
const LEAST_SHARE: f64 = 0.01;

/// The normal deviate of a 95% interval.
const DEVIATE: f64 = 1.96;

/// A word that is less than this strong, in the strength of its examples, is not worth saying.
const FAINT: f64 = 0.1;

impl<'a> Explainer<'a> {
    /// An explainer with at most `max_words` words an explanation.
    pub fn new(words: &'a [(String, String)], atoms: &'a Matrix, method: Method, max_words: usize) -> Self {
        let variances = vec![0.0; atoms.rows];
        Self { words, atoms, gram: atoms.times_transposed(atoms), method, max_words, variances }
    }

    /// Atoms were averaged from few examples: these are their variances in any one direction.
    pub fn with_variances(self, variances: Vec<f64>) -> Self {
        Self { variances, ..self }
    }

    /// Explains the vector `v`, seen. `rows` are the scalar products of every prompt's seen vector
    /// with every atom (n × words); their mean may differ from that of `v` by a constant shift, such
    /// as a centre that was taken off.
    ///
    /// Returns the words, and the coefficients of all atoms.
    pub fn explain(&self, v: &[f64], rows: &Matrix, seed: u64) -> (Explanation, Vec<f64>) {
        let b = self.atoms.times(v);
        let square = dot(v, v);
        let found = self.solve(&b, square, self.chance(rows));
        let mut dense = vec![0.0; b.len()];
        found.iter().for_each(|&(j, c)| dense[j] = c);
        let mut shown = found.clone();
        if self.method == Method::Sparse {
            shown.retain(|(_, c)| c.abs() >= FAINT);
        }
        shown.sort_by(|x, y| y.1.abs().total_cmp(&x.1.abs()).then(x.0.cmp(&y.0)));
        shown.truncate(self.max_words);
        let mut rest = v.to_vec();
        shown.iter().for_each(|&(j, c)| axpy(&mut rest, -c, self.atoms.row(j)));
        let unexplained = dot(&rest, &rest);
        let intervals = self.intervals(&shown, &b, rows, seed);
        let by_examples = self.by_examples(&shown, unexplained);
        let coefficient = |i: usize| {
            let ((j, c), (low, high), s) = (shown[i], intervals[i], DEVIATE * by_examples[i]);
            Coefficient {
                word: self.words[j].0.clone(),
                coefficient: round(c),
                low: round(c - (c - low.min(c)).hypot(s)),
                high: round(c + (high.max(c) - c).hypot(s)),
            }
        };
        let mut words: Vec<Coefficient> = (0..shown.len()).map(coefficient).collect();
        if self.method == Method::Sparse {
            words.sort_by(|x, y| y.surely().total_cmp(&x.surely()));
        }
        let explained = if square > 0.0 { (1.0 - unexplained / square).clamp(0.0, 1.0) } else { 0.0 };
        (Explanation { words, explained: round(explained) }, dense)
    }

    /// The scalar products of raw rows with all atoms, as [`Explainer::explain`] wants them.
    pub fn products(&self, rows: &Matrix, lens: &Lens) -> Matrix {
        let readers: Vec<Vec<f64>> = self.atoms.iter().map(|a| lens.reader(a)).collect();
        if readers.is_empty() {
            return Matrix::zeros(rows.rows, 0);
        }
        rows.times_transposed(&Matrix::from_rows(&readers))
    }

    /// What one of the better atoms explains of pure noise: the mean variance along an atom over the
    /// number of prompts, times the square of a deviate that one atom in some dozens reaches.
    fn chance(&self, rows: &Matrix) -> f64 {
        let (n, k) = (rows.rows as f64, rows.cols as f64);
        if rows.rows < 2 || rows.cols < 2 {
            return 0.0;
        }
        let mean = rows.mean();
        let mut variance = 0.0;
        for row in rows.iter() {
            for (j, (x, m)) in row.iter().zip(&mean).enumerate() {
                let square = self.gram.data[j * (rows.cols + 1)].max(1e-12);
                variance += (x - m).powi(2) / (square * (n - 1.0) * k);
            }
        }
        k.ln() * variance / n
    }

    /// The coefficients of all atoms in the seen vector `v`.
    pub fn coefficients(&self, v: &[f64]) -> Vec<f64> {
        let mut dense = vec![0.0; self.atoms.rows];
        let found = self.solve(&self.atoms.times(v), dot(v, v), 0.0);
        found.into_iter().for_each(|(j, c)| dense[j] = c);
        dense
    }

    /// Atoms and their coefficients. `chance` is what noise would explain.
    fn solve(&self, b: &[f64], square: f64, chance: f64) -> Vec<(usize, f64)> {
        match self.method {
            Method::Sparse => self.sparse(b, (LEAST_SHARE * square).max(chance)),
            Method::Ridge => fit::ridge(&self.gram, b, self.penalty()).into_iter().enumerate().collect(),
            Method::Omp => self.pursue(b, square),
            Method::Paper => b.iter().copied().enumerate().collect(),
        }
    }

    /// Words that the vector points to, one a dimension. Where it points to none, it is like the others
    /// but for what it lacks: then the words that it points away from, negative.
    fn sparse(&self, b: &[f64], least: f64) -> Vec<(usize, f64)> {
        let apart = |i: usize, j: usize| self.words[i].1 != self.words[j].1;
        let find = |b: &[f64]| fit::forward(&self.gram, b, f64::INFINITY, self.max_words, least, apart);
        let found = find(b);
        if found.iter().any(|(_, c)| *c >= FAINT) {
            return found;
        }
        let away: Vec<f64> = b.iter().map(|x| -x).collect();
        let lacking = find(&away);
        if lacking.iter().all(|(_, c)| *c < FAINT) {
            return found;
        }
        lacking.into_iter().map(|(j, c)| (j, -c)).collect()
    }

    /// Orthogonal matching pursuit: the atom most correlated with the remainder, then a refit.
    fn pursue(&self, b: &[f64], square: f64) -> Vec<(usize, f64)> {
        let k = b.len();
        let mut chosen: Vec<usize> = Vec::new();
        let mut c: Vec<f64> = Vec::new();
        let mut explained = 0.0;
        while chosen.len() < self.max_words {
            let correlation = |j: usize| {
                let fitted: f64 = chosen.iter().zip(&c).map(|(&i, c)| c * self.gram.data[j * k + i]).sum();
                (b[j] - fitted).abs() / self.gram.data[j * (k + 1)].sqrt().max(1e-12)
            };
            let free = (0..k).filter(|j| !chosen.contains(j));
            let Some(next) = free.max_by(|&x, &y| correlation(x).total_cmp(&correlation(y)).then(y.cmp(&x)))
            else {
                break;
            };
            let trial: Vec<usize> = chosen.iter().copied().chain([next]).collect();
            let (g, rhs) = fit::subset(&self.gram, b, &trial);
            let solution = fit::ridge(&g, &rhs, 1e-9 * self.penalty());
            let now = fit::gain(&g, &rhs, &solution);
            if now - explained < LEAST_SHARE * square {
                break;
            }
            (chosen, c, explained) = (trial, solution, now);
        }
        chosen.into_iter().zip(c).collect()
    }

    fn penalty(&self) -> f64 {
        let k = self.gram.rows.max(1);
        RIDGE * (0..self.gram.rows).map(|i| self.gram.data[i * (k + 1)]).sum::<f64>() / k as f64
    }

    /// Standard errors of the coefficients in `shown` that come from the atoms: with other examples of their
    /// words they would be others. To first order, moving the atoms A by D moves the coefficients c by
    /// (A Aᵀ)⁻¹ (D r − A Dᵀ c), where r is what is left unexplained. The two parts do not vary together, for
    /// r is orthogonal to the atoms. Only the sparse method doubts its atoms.
    fn by_examples(&self, shown: &[(usize, f64)], unexplained: f64) -> Vec<f64> {
        if self.method != Method::Sparse || shown.is_empty() {
            return vec![0.0; shown.len()];
        }
        let chosen: Vec<usize> = shown.iter().map(|&(j, _)| j).collect();
        let (g, _) = fit::subset(&self.gram, &self.variances, &chosen);
        let g = inverse(&g, 1e-9 * self.penalty());
        let along: f64 = shown.iter().map(|&(j, c)| c * c * self.variances[j]).sum();
        let error = |i: usize| {
            let across: f64 =
                chosen.iter().enumerate().map(|(k, &j)| g.row(i)[k].powi(2) * self.variances[j]).sum();
            (across * unexplained + g.row(i)[i] * along).max(0.0).sqrt()
        };
        (0..shown.len()).map(error).collect()
    }

    /// 95% intervals of the coefficients of the atoms in `shown`, over resampled prompts.
    fn intervals(&self, shown: &[(usize, f64)], b: &[f64], rows: &Matrix, seed: u64) -> Vec<(f64, f64)> {
        let n = rows.rows;
        if n == 0 {
            return shown.iter().map(|&(_, c)| (c, c)).collect();
        }
        let chosen: Vec<usize> = match self.method {
            Method::Ridge => (0..b.len()).collect(),
            _ => shown.iter().map(|&(j, _)| j).collect(),
        };
        let (g, rhs) = fit::subset(&self.gram, b, &chosen);
        // Sparse words are all of one sign.
        let sign = if shown.iter().any(|&(_, c)| c < 0.0) { -1.0 } else { 1.0 };
        let mean = rows.mean();
        let inverse = match self.method {
            Method::Ridge => Some(inverse(&g, self.penalty())),
            Method::Omp => Some(inverse(&g, 1e-9 * self.penalty())),
            _ => None,
        };
        let mut draws: Vec<Vec<f64>> = Vec::new();
        for times in bootstrap(n, DRAWS, seed) {
            let mut drawn: Vec<f64> = rhs.clone();
            for (i, &t) in times.iter().enumerate().filter(|(_, t)| **t > 0) {
                let weight = f64::from(t) / n as f64;
                drawn.iter_mut().zip(&chosen).for_each(|(x, &j)| *x += weight * rows.row(i)[j]);
            }
            drawn.iter_mut().zip(&chosen).for_each(|(x, &j)| *x -= mean[j]);
            draws.push(match (&inverse, self.method) {
                (Some(m), _) => m.times(&drawn),
                (None, Method::Paper) => drawn,
                (None, _) => {
                    drawn.iter_mut().for_each(|x| *x *= sign);
                    fit::bounded(&g, &drawn, f64::INFINITY).into_iter().map(|c| sign * c).collect()
                }
            });
        }
        let place = |j: usize| chosen.iter().position(|&c| c == j).expect("shown words were chosen");
        let interval = |&(j, _): &(usize, f64)| {
            let mut values: Vec<f64> = draws.iter().map(|d| d[place(j)]).collect();
            (quantile(&mut values, 0.025), quantile(&mut values, 0.975))
        };
        shown.iter().map(interval).collect()
    }
}

/// (`g` + `lambda` I)⁻¹ for a positive semidefinite matrix and a positive penalty.
fn inverse(g: &Matrix, lambda: f64) -> Matrix {
    let mut g = g.clone();
    let floor = lambda.max(1e-12);
    (0..g.rows).for_each(|i| g.data[i * (g.cols + 1)] += floor);
    let lower = g.cholesky().unwrap_or_else(|| {
        // Rounding can spoil a nearly singular matrix; more penalty fixes it.
        (0..g.rows).for_each(|i| g.data[i * (g.cols + 1)] *= 1.0 + 1e-6);
        g.cholesky().expect("a penalised Gram matrix is positive definite")
    });
    lower.invert_lower().gram_of_columns()
}

/// The published method's basis (Wang et al., algorithm 1), with the defects of its published code
/// corrected: the greatest absolute cosine is tested rather than the sum of signed ones, and remainders
/// are vectors. pLLMs are taken in order; while a pLLM's remainder is longer than `ERROR` of its vector, the next
/// candidate word is examined, and taken if its cosine with every word taken so far is below `ORTHO`.
///
/// `candidates` are each pLLM's words by falling probability, as a summarizer would have answered
/// them. Where a pLLM has none, all words are candidates, the nearest to the remainder first.
/// Returns indices of atoms in the order of acceptance.
pub fn paper_basis(pllms: &Matrix, atoms: &Matrix, candidates: &[Vec<usize>]) -> Vec<usize> {
    const ERROR: f64 = 0.5;
    const ORTHO: f64 = 0.3;
    let lengths: Vec<f64> = atoms.iter().map(|a| norm(a).max(1e-12)).collect();
    let cosine = |i: usize, j: usize| dot(atoms.row(i), atoms.row(j)) / (lengths[i] * lengths[j]);
    let mut basis: Vec<usize> = Vec::new();
    for (p, v) in pllms.iter().enumerate() {
        let mut rest = v.to_vec();
        let remove = |rest: &mut Vec<f64>, j: usize| {
            let c = dot(rest, atoms.row(j)) / lengths[j].powi(2);
            axpy(rest, -c, atoms.row(j));
        };
        basis.iter().for_each(|&j| remove(&mut rest, j));
        let mut examined = basis.clone();
        let own = candidates.get(p).filter(|c| !c.is_empty());
        while norm(&rest) > ERROR * norm(v) {
            let nearness = |j: usize| dot(&rest, atoms.row(j)) / lengths[j];
            let next = match own {
                Some(words) => words.iter().copied().find(|j| !examined.contains(j)),
                None => (0..atoms.rows)
                    .filter(|j| !examined.contains(j))
                    .max_by(|&x, &y| nearness(x).total_cmp(&nearness(y)).then(y.cmp(&x))),
            };
            let Some(next) = next else { break };
            examined.push(next);
            if basis.iter().all(|&j| cosine(next, j).abs() < ORTHO) {
                basis.push(next);
                remove(&mut rest, next);
            }
        }
    }
    basis
}

/// Rounds to four significant digits.
pub(crate) fn significant(x: f64) -> f64 {
    format!("{x:.3e}").parse().unwrap_or(x)
}

/// Rounds to four decimals: more would be noise, and cost bytes on the wire.
pub(crate) fn round(x: f64) -> f64 {
    (x * 1e4).round() / 1e4 + 0.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    fn words() -> Vec<(String, String)> {
        let pairs = [("concise", "length"), ("brief", "length"), ("warm", "warmth"), ("formal", "formality")];
        pairs.map(|(w, d)| (w.to_owned(), d.to_owned())).to_vec()
    }

    /// Four atoms, the second nearly a synonym of the first.
    fn atoms() -> Matrix {
        Matrix::from_rows(&[
            vec![2.0, 0.0, 0.0, 0.0, 0.0, 0.0],
            vec![1.8, 0.6, 0.0, 0.0, 0.0, 0.0],
            vec![0.0, 0.0, 3.0, 0.0, 0.0, 0.0],
            vec![0.0, 0.0, 0.5, 2.0, 0.0, 0.0],
        ])
    }

    /// Prompts' vectors around 0.8 concise + 0.5 formal.
    fn prompts() -> Matrix {
        let mut rng = ChaCha8Rng::seed_from_u64(5);
        let a = atoms();
        let row = |_| {
            let mut v: Vec<f64> = (0..6).map(|_| rng.random::<f64>() - 0.5).collect();
            axpy(&mut v, 0.8, a.row(0));
            axpy(&mut v, 0.5, a.row(3));
            v
        };
        Matrix::from_rows(&(0..60).map(row).collect::<Vec<_>>())
    }

    fn explain(method: Method) -> Explanation {
        let (words, atoms, prompts) = (words(), atoms(), prompts());
        let explainer = Explainer::new(&words, &atoms, method, 3);
        explainer.explain(&prompts.mean(), &prompts.times_transposed(&atoms), 1).0
    }

    #[test]
    fn every_method_finds_the_words_and_their_intervals_hold_the_truth() {
        for method in [Method::Sparse, Method::Omp] {
            let e = explain(method);
            let names: Vec<_> = e.words.iter().map(|w| w.word.as_str()).collect();
            assert_eq!(names, ["concise", "formal"], "{method:?}");
            for (w, truth) in e.words.iter().zip([0.8, 0.5]) {
                assert!(w.low <= truth && truth <= w.high && w.high - w.low < 0.3, "{method:?} {w:?}");
            }
            assert!(e.explained > 0.9, "{}", e.explained);
        }
        let ridge = explain(Method::Ridge);
        assert!(ridge.words.iter().any(|w| w.word == "formal" && w.low > 0.0), "{ridge:?}");
    }

    #[test]
    fn a_style_that_only_lacks_something_says_so() {
        let (words, atoms) = (words(), atoms());
        let mut prompts = prompts();
        prompts.data.iter_mut().for_each(|x| *x = -*x);
        let explainer = Explainer::new(&words, &atoms, Method::Sparse, 3);
        let (e, _) = explainer.explain(&prompts.mean(), &prompts.times_transposed(&atoms), 1);
        let names: Vec<_> = e.words.iter().map(|w| w.word.as_str()).collect();
        assert_eq!(names, ["concise", "formal"]);
        assert!(
            e.words.iter().all(|w| w.low <= w.coefficient && w.coefficient <= w.high && w.high < 0.0),
            "{e:?}"
        );
        assert!(e.explained > 0.9, "{}", e.explained);
    }

    /// Where much is left unexplained, an atom of few examples may have met some of that by chance: its
    /// word is less sure, though it is stronger.
    #[test]
    fn the_surest_word_comes_first() {
        let (words, atoms, prompts) = (words(), atoms(), prompts());
        let mut v = prompts.mean();
        v[4] += 6.0;
        let explain = |variances: Vec<f64>| {
            let explainer = Explainer::new(&words, &atoms, Method::Sparse, 3).with_variances(variances);
            explainer.explain(&v, &prompts.times_transposed(&atoms), 1).0
        };
        let (sure, doubted) = (explain(vec![0.0; 4]), explain(vec![0.05, 0.0, 0.0, 0.0]));
        let names = |e: &Explanation| e.words.iter().map(|w| w.word.clone()).collect::<Vec<_>>();
        assert_eq!(
            (names(&sure), names(&doubted)),
            (strings(["concise", "formal"]), strings(["formal", "concise"]))
        );
        let (before, after) = (&sure.words[0], &doubted.words[1]);
        assert_eq!(before.coefficient, after.coefficient, "doubt does not weaken a word");
        // The atom's length is 2, and the other word's atom is orthogonal to it.
        let c = after.coefficient;
        let unexplained = (1.0 - doubted.explained) * dot(&v, &v);
        let error = (0.05 * unexplained / 16.0 + 0.05 * c * c / 4.0).sqrt();
        assert!((c - after.low - (c - before.low).hypot(1.96 * error)).abs() < 2e-3, "{before:?} {after:?}");
    }

    fn strings(all: [&str; 2]) -> Vec<String> {
        all.map(str::to_owned).to_vec()
    }

    #[test]
    fn the_same_seed_gives_the_same_explanation() {
        assert_eq!(explain(Method::Sparse), explain(Method::Sparse));
    }

    #[test]
    fn a_vector_that_no_word_points_to_is_left_unexplained() {
        let (words, atoms) = (words(), atoms());
        let v = [0.0, 0.0, 0.0, 0.0, 1.0, 1.0];
        let (e, dense) =
            Explainer::new(&words, &atoms, Method::Sparse, 3).explain(&v, &Matrix::zeros(0, 4), 0);
        assert_eq!((e.words.len(), e.explained), (0, 0.0));
        assert!(dense.iter().all(|c| *c == 0.0));
    }

    #[test]
    fn the_papers_basis_takes_no_synonyms() {
        let v = Matrix::from_rows(&[vec![1.0, 0.1, 0.0, 0.0, 0.0, 0.0], vec![0.0, 0.0, 1.0, 1.0, 0.0, 0.0]]);
        let basis = paper_basis(&v, &atoms(), &[]);
        assert!(basis.contains(&0) ^ basis.contains(&1), "{basis:?}");
        // A summarizer's words come in its own order: the synonym first, then nothing that fits.
        assert_eq!(paper_basis(&v, &atoms(), &[vec![1, 0, 3], vec![1]]), [1]);
        let e = explain(Method::Paper);
        assert_eq!(e.words[0].word, "concise");
    }
}
