//! Distances from a user to all pLLMs, in one pass over the catalog's matrix.

use headstart_explain::catalog::Catalog;
use headstart_explain::math::{Matrix, axpy, dot};
use headstart_explain::metric::nearness;
use headstart_protocol::Failure;
use rayon::prelude::*;

/// Rows of the catalog that one thread takes at a time.
const CHUNK: usize = 1024;

/// How users are compared with pLLMs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Distance {
    /// Whitened Euclidean distance to the pLLM's vector times a strength between 0 and 1, fitted for
    /// each pLLM: a user who writes in a style only now and then is still near that style. What
    /// chance adds to a vector's length is taken off, else weak styles would seem far from everyone.
    Whitened,
    /// One minus the cosine of the space's vectors, not whitened, features left out, over the
    /// directions that the catalog keeps.
    Cosine,
    /// Sum of absolute differences of the words' coefficients: the published method's.
    L1,
}

impl Distance {
    /// The distance of this name.
    ///
    /// # Errors
    /// If there is none.
    pub fn named(name: &str) -> Result<Self, Failure> {
        match name {
            "whitened" => Ok(Self::Whitened),
            "cosine" => Ok(Self::Cosine),
            "l1" => Ok(Self::L1),
            _ => Err(Failure::input(format!("there is no metric `{name}`"))),
        }
    }
}

/// A pLLM and how far it is from a user.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ranked {
    /// Its place in the catalog.
    pub index: usize,
    /// The distance.
    pub distance: f64,
    /// With [`Distance::Whitened`], how much of the pLLM's style the user shows, 0 to 1; else 1.
    pub strength: f64,
    /// With [`Distance::Whitened`], how much nearer the pLLM is than the base, in squares, negative
    /// where the base is nearer; else 0.
    pub gain: f64,
}

/// A user's vectors, ready to be compared.
pub struct Query {
    distance: Distance,
    /// Multiplied with every row: a whitened vector, or coefficients.
    vector: Vec<f32>,
    /// Squared length of the whitened vector, or length of the raw vector.
    size: f64,
}

impl Query {
    /// Prepares a comparison. `raw` is the mean of the user's raw rows with the catalog's reference
    /// taken off; `whitened` is the same in the metric. `unwhitener` gives
    /// [`headstart_explain::metric::unwhitener`] of the catalog's factor; it is asked for the cosine.
    pub fn new<'a>(
        catalog: &Catalog,
        distance: Distance,
        raw: &[f64],
        whitened: &[f64],
        unwhitener: impl FnOnce() -> &'a Matrix,
    ) -> Self {
        let (vector, size) = match distance {
            Distance::Whitened => (whitened.to_vec(), dot(whitened, whitened)),
            Distance::Cosine => {
                let d = catalog.about.d;
                let mut own = raw.to_vec();
                own[d..].fill(0.0);
                let vector = unwhitener().times(&own);
                let square = dot(&vector, &catalog.factor.times(&own));
                (vector, square.max(0.0).sqrt())
            }
            Distance::L1 => {
                let names = catalog.word_names();
                let mut own = raw.to_vec();
                axpy(&mut own, -1.0, &catalog.centre);
                (catalog.explainer(&names).coefficients(&catalog.seen(&own)), 0.0)
            }
        };
        Self { distance, vector: vector.into_iter().map(|x| x as f32).collect(), size }
    }

    /// Compares with the pLLM at `index`; `row` is room for its vector.
    fn compare(&self, catalog: &Catalog, index: usize, row: &mut [f32]) -> Ranked {
        match self.distance {
            Distance::Whitened => {
                catalog.vectors.row_into(index, row);
                let (product, square) = (product(&self.vector, row), f64::from(catalog.squares[index]));
                let (strength, gain) = nearness(product, square, f64::from(catalog.noise[index]));
                Ranked { index, distance: (self.size - gain).max(0.0).sqrt(), strength, gain }
            }
            Distance::Cosine => {
                catalog.vectors.row_into(index, row);
                let product = product(&self.vector, row);
                let size = self.size * f64::from(catalog.lengths[index]);
                let cosine = if size > 0.0 { product / size } else { 0.0 };
                Ranked { index, distance: 1.0 - cosine, strength: 1.0, gain: 0.0 }
            }
            Distance::L1 => {
                catalog.coefficients.row_into(index, row);
                let distance = self.vector.iter().zip(&*row).map(|(a, b)| f64::from((a - b).abs())).sum();
                Ranked { index, distance, strength: 1.0, gain: 0.0 }
            }
        }
    }

    /// The `keep` nearest pLLMs of the catalog, nearest first; equally near ones in catalog order.
    pub fn nearest(&self, catalog: &Catalog, keep: usize) -> Vec<Ranked> {
        let n = catalog.vectors.rows();
        let chunk = |at: usize| {
            let mut row = vec![0.0; self.vector.len()];
            let all = (at..(at + CHUNK).min(n)).map(|i| self.compare(catalog, i, &mut row));
            shorten(all.collect(), keep)
        };
        let starts: Vec<usize> = (0..n).step_by(CHUNK).collect();
        let best: Vec<Vec<Ranked>> = starts.into_par_iter().map(chunk).collect();
        shorten(best.concat(), keep)
    }

    /// The nearest among the pLLMs at the given places.
    pub fn nearest_of(&self, catalog: &Catalog, among: &[usize]) -> Option<Ranked> {
        let mut row = vec![0.0; self.vector.len()];
        among.iter().map(|&i| self.compare(catalog, i, &mut row)).min_by(order)
    }
}

fn order(a: &Ranked, b: &Ranked) -> std::cmp::Ordering {
    a.distance.total_cmp(&b.distance).then(a.index.cmp(&b.index))
}

fn shorten(mut all: Vec<Ranked>, keep: usize) -> Vec<Ranked> {
    if keep < all.len() && keep > 0 {
        all.select_nth_unstable_by(keep - 1, order);
    }
    all.truncate(keep);
    all.sort_by(order);
    all
}

/// a·b, in sixteen partial sums of fixed order.
fn product(a: &[f32], b: &[f32]) -> f64 {
    let mut sums = [0f32; 16];
    let (xs, ys) = (a.chunks_exact(16), b.chunks_exact(16));
    let tail: f32 = xs.remainder().iter().zip(ys.remainder()).map(|(x, y)| x * y).sum();
    for (x, y) in xs.zip(ys) {
        for i in 0..16 {
            sums[i] += x[i] * y[i];
        }
    }
    f64::from(sums.iter().sum::<f32>() + tail)
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::f16;
    use headstart_explain::Lens;
    use headstart_explain::catalog::{About, Halves};
    use headstart_explain::words::Method;
    use headstart_protocol::Digest;
    use headstart_protocol::artifacts::SpaceKind;
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    /// A catalog without words, with random vectors; nothing is said of its pLLMs.
    fn catalog(n: usize, q: usize) -> Catalog {
        let mut rng = ChaCha8Rng::seed_from_u64(9);
        let data = (0..n * q).map(|_| f16::from_f32(rng.random::<f32>() - 0.5)).collect();
        let mut factor = Matrix::zeros(q, q);
        for i in 0..q {
            factor.row_mut(i)[i] = 0.5;
            factor.row_mut(i)[i / 2] += 0.25;
        }
        let about = About {
            format: 1,
            space: Digest::of(b"s"),
            kind: SpaceKind::Sentence,
            d: q,
            features: Vec::new(),
            method: Method::Sparse,
            max_words: 5,
            lexicon: Digest::of(b"l"),
            shrinkage: [0.0; 2],
            words: Vec::new(),
            candidates: Vec::new(),
            pace: None,
            chance: None,
        };
        let vectors = Halves::new(q, data);
        Catalog {
            about,
            pllms: Vec::new().into(),
            squares: vectors.squares(),
            vectors,
            factor,
            atoms: Matrix::zeros(0, q),
            centre: vec![0.0; q],
            reference: vec![0.0; q],
            coefficients: Halves::default(),
            lengths: vec![1.0; n],
            noise: vec![0.25; n],
            lens: Lens::plain(q),
        }
    }

    #[test]
    fn the_ranking_is_that_of_the_formula() {
        let catalog = catalog(3000, 20);
        let mut rng = ChaCha8Rng::seed_from_u64(2);
        let user: Vec<f64> = (0..20).map(|_| rng.random::<f64>() - 0.5).collect();
        let query =
            Query::new(&catalog, Distance::Whitened, &user, &user, || unreachable!("only the cosine asks"));
        let distance = |i: usize| {
            let m = catalog.vectors.row(i);
            let own = dot(&m, &m) - 0.25;
            let a = (dot(&user, &m) / own).clamp(0.1, 1.0);
            (dot(&user, &user) - 2.0 * a * dot(&user, &m) + a * a * own).sqrt()
        };
        let found = query.nearest(&catalog, 7);
        let mut all: Vec<(f64, usize)> = (0..3000).map(|i| (distance(i), i)).collect();
        all.sort_by(|a, b| a.0.total_cmp(&b.0));
        for (f, (d, i)) in found.iter().zip(&all) {
            assert!(f.index == *i && (f.distance - d).abs() < 1e-5, "{f:?} {d} {i}");
        }
        assert_eq!(query.nearest_of(&catalog, &[5, found[0].index, 9]).unwrap().index, found[0].index);
    }

    /// The aim is 50 ms; the bound leaves room for a busy machine.
    #[test]
    fn a_hundred_thousand_pllms_are_ranked_in_milliseconds() {
        let catalog = catalog(100_000, 414);
        let user: Vec<f64> = (0..414).map(|i| (i as f64).sin()).collect();
        let query =
            Query::new(&catalog, Distance::Whitened, &user, &user, || unreachable!("only the cosine asks"));
        let fastest = (0..5)
            .map(|_| {
                let start = std::time::Instant::now();
                assert_eq!(query.nearest(&catalog, 32).len(), 32);
                start.elapsed()
            })
            .min()
            .unwrap();
        println!("100,000 pLLMs: {fastest:?}");
        assert!(fastest.as_millis() <= 150, "{fastest:?}");
    }
}
