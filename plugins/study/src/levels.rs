//! The stage kind `levels`: whether coefficients follow the levels of one style.

use headstart_explain::catalog::Catalog;
use headstart_protocol::{Args, Context, Failure, Output, Stage};
use headstart_stats::kendall;

use crate::table::{Cell, Table, TableExt, metrics};

/// Compares the levels of one style.
///
/// The catalog's pLLMs are the levels, in the order of their names. A row a word whose coefficient
/// changes: its coefficients, and Kendall's τ between coefficient and level, which is 1 or -1 where
/// it is monotone. Then a row a level: L1 distances of all coefficients. The value's `monotone` is the
/// share of words, weighted by how much their coefficient changes, that are monotone;
/// `distance_tau` is Kendall's τ between the distance of two levels and how far apart they are.
pub struct Levels;

/// A word must change by this share of the largest change to be shown.
const LEAST_CHANGE: f64 = 0.25;

impl Stage for Levels {
    fn kind(&self) -> &'static str {
        "levels"
    }

    fn run(&self, args: &Args, ctx: &dyn Context) -> Result<Output, Failure> {
        let catalog = Catalog::open(ctx, args.artifact("catalog")?)?;
        let said = catalog.pllms.all()?;
        let mut order: Vec<usize> = (0..said.len()).collect();
        order.sort_by(|&a, &b| said[a].name.cmp(&said[b].name));
        if order.len() < 3 {
            return Err(Failure::input(format!("{} levels have no order to follow", order.len()))
                .help("give a catalog of three levels or more"));
        }
        let levels: Vec<Vec<f64>> = order.iter().map(|&i| catalog.coefficients.row(i)).collect();
        let names = order.iter().map(|&i| said[i].name.clone());
        let columns = ["".to_owned()].into_iter().chain(names.clone()).chain(["τ".to_owned()]);
        let mut table = Table::with_columns(columns);
        let monotone = words(&catalog, &levels, &mut table);
        let distances = |a: &[f64]| -> Vec<f64> { levels.iter().map(|b| l1(a, b)).collect() };
        let (mut apart, mut far) = (Vec::new(), Vec::new());
        for (i, (name, level)) in names.zip(&levels).enumerate() {
            let row = distances(level);
            for (j, d) in row.iter().enumerate().skip(i + 1) {
                apart.push((j - i) as f64);
                far.push(*d);
            }
            let cells = row.into_iter().map(Cell::Number).chain([Cell::Nothing(())]);
            table.rows.push([Cell::Text(format!("L1 from {name}"))].into_iter().chain(cells).collect());
        }
        table.output(ctx, metrics(&[("monotone", monotone), ("distance_tau", kendall(&apart, &far))]))
    }
}

/// Adds a row a word that changes; returns the weighted share of monotone ones.
fn words(catalog: &Catalog, levels: &[Vec<f64>], table: &mut Table) -> f64 {
    let track = |j: usize| -> Vec<f64> { levels.iter().map(|l| l[j]).collect() };
    let change = |t: &[f64]| {
        let (low, high) = t.iter().fold((f64::MAX, f64::MIN), |(l, h), &x| (l.min(x), h.max(x)));
        high - low
    };
    let mut tracks: Vec<(usize, Vec<f64>)> = (0..catalog.about.words.len()).map(|j| (j, track(j))).collect();
    tracks.sort_by(|a, b| change(&b.1).total_cmp(&change(&a.1)).then(a.0.cmp(&b.0)));
    let largest = tracks.first().map_or(0.0, |t| change(&t.1));
    tracks.retain(|t| change(&t.1) > LEAST_CHANGE * largest);
    let places: Vec<f64> = (0..levels.len()).map(|i| i as f64).collect();
    let (mut all, mut monotone) = (0.0, 0.0);
    for (j, t) in &tracks {
        let tau = kendall(&places, t);
        all += change(t);
        if tau.abs() > 1.0 - 1e-9 {
            monotone += change(t);
        }
        let cells = t.iter().map(|x| Cell::Number(*x)).chain([Cell::Number(tau)]);
        table
            .rows
            .push([Cell::Text(catalog.about.words[*j].word.clone())].into_iter().chain(cells).collect());
    }
    if all > 0.0 { monotone / all } else { 0.0 }
}

fn l1(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(x, y)| (x - y).abs()).sum()
}
