//! The lexicon's words in a space.

use std::collections::BTreeMap;

use headstart_protocol::Failure;

use crate::contrast::{Contrast, feature_difference};
use crate::lexicon::{Lexicon, Pole};
use crate::math::{Matrix, axpy};
use crate::space::Space;

/// How much of a word's atom is its own; the rest is that of all words of the same end of its dimension,
/// of which there are more examples.
const OWN_SHARE: f64 = 0.5;

/// A lexicon in a space. Columns are the space's components, then the features.
#[derive(Clone, Debug, PartialEq)]
pub struct Atoms {
    /// How styled answers differ from plain ones on average, a row a word.
    pub words: Matrix,
    /// The ends of dimensions that have several examples.
    pub ends: Vec<Examples>,
    /// How each word's atom was averaged, a word a row.
    pub averages: Vec<Average>,
}

/// How an atom was averaged from examples.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Average {
    /// Which of [`Atoms::ends`] the word belongs to, if its end has several examples.
    pub end: Option<usize>,
    /// The average's variance over that of one example.
    pub share: f64,
}

/// The examples of all words of an end of a dimension.
#[derive(Clone, Debug, PartialEq)]
pub struct Examples {
    /// How they differ from plain answers on average.
    pub mean: Vec<f64>,
    /// How each differs from the average, a row an example, scaled so that the mean of their squares
    /// estimates the variance.
    pub residuals: Matrix,
}

impl Lexicon {
    /// The words' atoms in a space, as [`Lexicon::atoms_of`] makes them of the space's vectors.
    ///
    /// # Errors
    /// As [`Space::contrasts`].
    pub fn atoms(&self, space: &mut Space<'_>) -> Result<Atoms, Failure> {
        Ok(self.atoms_of(&space.contrasts(&self.contrasts())?.vectors))
    }

    /// The words' atoms. `vectors` are those of [`Lexicon::contrasts`].
    pub fn atoms_of(&self, vectors: &[Vec<f32>]) -> Atoms {
        let pairs = self.contrasts();
        let whole = |(v, p): (&Vec<f32>, &Contrast<'_>)| -> Vec<f64> {
            v.iter().copied().chain(feature_difference(p)).map(f64::from).collect()
        };
        let rows: Vec<Vec<f64>> = vectors.iter().zip(&pairs).map(whole).collect();
        let raw = rows.first().map_or(0, Vec::len);
        let owners: Vec<usize> =
            self.words.iter().enumerate().flat_map(|(i, w)| w.pairs.iter().map(move |_| i)).collect();
        // Words of one end of a dimension are examples of the same thing.
        let mut ends: BTreeMap<(&str, bool), Vec<usize>> = BTreeMap::new();
        for (row, &w) in owners.iter().enumerate() {
            let w = &self.words[w];
            ends.entry((w.dimension.as_str(), w.pole == Pole::More)).or_default().push(row);
        }
        let mut words = Matrix::zeros(self.words.len(), raw);
        let mut several = Vec::new();
        let mut averages = vec![Average { end: None, share: 1.0 }; self.words.len()];
        for members in ends.values() {
            let n = members.len() as f64;
            for w in members.iter().map(|&r| owners[r]) {
                let own = OWN_SHARE.powi(2);
                let share = own / self.words[w].pairs.len() as f64 + (1.0 - own) / n;
                averages[w] = Average { end: (n > 1.0).then_some(several.len()), share };
            }
            let mut mean = vec![0.0; raw];
            members.iter().for_each(|&r| axpy(&mut mean, 1.0 / n, &rows[r]));
            let mut own: Vec<usize> = members.iter().map(|&r| owners[r]).collect();
            own.dedup();
            own.iter().for_each(|&w| axpy(words.row_mut(w), 1.0 - OWN_SHARE, &mean));
            if n > 1.0 {
                let unbiased = (n / (n - 1.0)).sqrt();
                let residual =
                    |&r: &usize| rows[r].iter().zip(&mean).map(|(x, m)| unbiased * (x - m)).collect();
                let residuals: Vec<Vec<f64>> = members.iter().map(residual).collect();
                several.push(Examples { residuals: Matrix::from_rows(&residuals), mean });
            }
        }
        for (row, &w) in rows.iter().zip(&owners) {
            axpy(words.row_mut(w), OWN_SHARE / self.words[w].pairs.len() as f64, row);
        }
        Atoms { words, ends: several, averages }
    }
}
