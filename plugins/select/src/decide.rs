//! From a user's rows to a choice.

use std::collections::HashSet;
use std::sync::OnceLock;

use headstart_explain::catalog::Catalog;
use headstart_explain::math::{Matrix, axpy, dot};
use headstart_explain::metric::unwhitener;
use headstart_explain::words::Explanation;
use headstart_stats::{DRAWS, bootstrap, derived_seed};

use crate::mix::mix;
use crate::nearest::{Distance, Query, Ranked};

/// pLLMs that are looked at closely: for confidence and for mixes.
pub const CLOSE: usize = 32;

/// How a choice is made.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// The distance.
    pub distance: Distance,
    /// pLLMs in a mix at most.
    pub max_mix: usize,
    /// Seed of the bootstrap.
    pub seed: u64,
}

/// A choice by distance.
#[derive(Clone, Debug)]
pub struct Choice {
    /// The nearest pLLMs, nearest first.
    pub close: Vec<Ranked>,
    /// Share of bootstrap draws over the user's rows in which the nearest is the same.
    pub confidence: f64,
    /// Whether the nearest is no nearer than chance would have it.
    pub abstains: bool,
    /// Places in the catalog and weights, if a mix predicts the user's rows better.
    pub mix: Vec<(usize, f64)>,
}

/// A user's rows in a catalog's terms.
pub struct User<'a> {
    /// The catalog.
    pub catalog: &'a Catalog,
    /// Raw rows with the reference taken off, n × (d + k).
    raw: Matrix,
    /// Whitened rows, n × q.
    pub whitened: Matrix,
    unwhitener: OnceLock<Matrix>,
}

impl<'a> User<'a> {
    /// Puts a user's raw rows into the catalog's metric.
    pub fn new(catalog: &'a Catalog, rows: &Matrix) -> Self {
        let mut raw = rows.clone();
        (0..raw.rows).for_each(|i| axpy(raw.row_mut(i), -1.0, &catalog.reference));
        Self { catalog, whitened: catalog.whiten(rows), raw, unwhitener: OnceLock::new() }
    }

    /// Rows that differ.
    pub fn different(&self) -> u64 {
        let bits = self.raw.iter().map(|row| row.iter().map(|x| x.to_bits()).collect::<Vec<_>>());
        bits.collect::<HashSet<_>>().len() as u64
    }

    /// Ranks the catalog's pLLMs by their distance to the mean of the rows.
    pub fn nearest(&self, distance: Distance, keep: usize) -> Vec<Ranked> {
        self.query(distance, &self.raw.mean(), &self.whitened.mean()).nearest(self.catalog, keep)
    }

    /// How far one pLLM is.
    pub fn ranked(&self, distance: Distance, index: usize) -> Option<Ranked> {
        let query = self.query(distance, &self.raw.mean(), &self.whitened.mean());
        query.nearest_of(self.catalog, &[index])
    }

    fn query(&self, distance: Distance, raw: &[f64], whitened: &[f64]) -> Query {
        let factor = || self.unwhitener.get_or_init(|| unwhitener(&self.catalog.factor));
        Query::new(self.catalog, distance, raw, whitened, factor)
    }

    /// The same user with only some of their rows.
    pub fn part(&self, rows: &[usize]) -> Self {
        let of = |m: &Matrix| {
            let picked: Vec<Vec<f64>> = rows.iter().map(|&i| m.row(i).to_vec()).collect();
            Matrix::from_rows(&picked)
        };
        Self {
            catalog: self.catalog,
            raw: of(&self.raw),
            whitened: of(&self.whitened),
            unwhitener: OnceLock::new(),
        }
    }

    /// Squared length that the mean of the whitened rows has by chance: the variance of the mean,
    /// summed over components. One row does not tell its variance; whitening makes it about one.
    pub fn noise(&self) -> f64 {
        let n = self.whitened.rows.max(1) as f64;
        if self.whitened.rows < 2 {
            return self.whitened.cols as f64;
        }
        let mean = self.whitened.mean();
        let squares: f64 = self.whitened.iter().map(|row| dot(row, row)).sum::<f64>() / n - dot(&mean, &mean);
        squares.max(0.0) / (n - 1.0)
    }

    /// Chooses by distance.
    pub fn choose(&self, settings: &Settings) -> Choice {
        let close = self.nearest(settings.distance, CLOSE);
        let abstains = settings.distance == Distance::Whitened && self.is_chance(&close);
        let among: Vec<usize> = close.iter().map(|r| r.index).collect();
        Choice {
            confidence: self.confidence(settings, &among),
            mix: if abstains { Vec::new() } else { self.mix(&among, settings.max_mix) },
            close,
            abstains,
        }
    }

    /// Whether the best gain is no more than chance gives to a user without any style. The catalog says
    /// how much that is where it knows people's plain texts ([`headstart_explain::Chance`]). Else such a
    /// user's mean is taken for noise, whose variance in each whitened direction is that of the rows over
    /// their number, and the gain is what the best of N pLLMs gains from it.
    pub fn is_chance(&self, close: &[Ranked]) -> bool {
        let n = self.raw.rows.max(1);
        let chance = match &self.catalog.about.chance {
            Some(chance) => chance.of(n),
            None => {
                let candidates = self.catalog.pllms.len().max(1) as f64;
                let variance = n as f64 * self.noise() / self.whitened.cols.max(1) as f64;
                (2.0 * candidates.ln() + 1.0) * variance.clamp(0.0, 2.0) / n as f64
            }
        };
        close.first().is_none_or(|best| best.gain <= chance)
    }

    fn confidence(&self, settings: &Settings, among: &[usize]) -> f64 {
        let n = self.raw.rows;
        let Some(&first) = among.first() else { return 0.0 };
        // Coefficients are refitted in every draw, which costs more than scalar products.
        let draws = if settings.distance == Distance::L1 { DRAWS / 4 } else { DRAWS };
        let same = |times: &Vec<u32>| {
            let weights: Vec<f64> = times.iter().map(|&t| f64::from(t) / n as f64).collect();
            let (raw, whitened) =
                (self.raw.transpose_times(&weights), self.whitened.transpose_times(&weights));
            self.query(settings.distance, &raw, &whitened)
                .nearest_of(self.catalog, among)
                .is_some_and(|r| r.index == first)
        };
        let draws = bootstrap(n, draws, derived_seed(settings.seed, "confidence"));
        draws.iter().filter(|t| same(t)).count() as f64 / draws.len() as f64
    }

    fn mix(&self, among: &[usize], max: usize) -> Vec<(usize, f64)> {
        let vectors: Vec<Vec<f64>> = among.iter().map(|&i| self.catalog.vectors.row(i)).collect();
        let noise: Vec<f64> = among.iter().map(|&i| f64::from(self.catalog.noise[i])).collect();
        let found = mix(&self.whitened, &Matrix::from_rows(&vectors), &noise, max);
        found.into_iter().map(|(at, w)| (among[at], w)).collect()
    }

    /// The user's style in words, relative to the catalog's centre as far as the user shows the
    /// chosen style at all.
    pub fn explain(&self, strength: f64, seed: u64) -> Explanation {
        let names = self.catalog.word_names();
        let explainer = self.catalog.explainer(&names);
        let mut own = self.raw.mean();
        axpy(&mut own, -strength, &self.catalog.centre);
        let products = explainer.products(&self.raw, &self.catalog.lens);
        explainer.explain(&self.catalog.seen(&own), &products, derived_seed(seed, "user")).0
    }
}
