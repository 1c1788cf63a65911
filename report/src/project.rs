//! A catalog's styles as points in the plane: the two principal components of their coefficients.

use std::collections::BTreeMap;

use crate::view::{Catalog, Style};

/// Points in the plane.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plane {
    /// A point for each pLLM, in the catalog's order.
    pub points: Vec<(f64, f64)>,
    /// The user's point.
    pub user: Option<(f64, f64)>,
    /// Share of the styles' variation that the plane shows, 0 to 1; none where it was given.
    pub shown: Option<f64>,
}

/// Lays out a catalog, and a user beside it. Coordinates in the catalog are taken as they are, the
/// user then has a point only if the catalog names one `you`.
pub fn plane(catalog: &Catalog, user: Option<&Style>) -> Plane {
    let given: Option<Vec<_>> =
        catalog.pllms.iter().map(|(name, _)| catalog.coordinates.get(name).copied()).collect();
    match given {
        Some(points) if !points.is_empty() => {
            Plane { points, user: catalog.coordinates.get("you").copied(), shown: None }
        }
        _ => principal(catalog, user),
    }
}

fn principal(catalog: &Catalog, user: Option<&Style>) -> Plane {
    let words: BTreeMap<String, usize> = catalog.words().into_iter().zip(0..).collect();
    let row = |style: &Style| {
        let mut row = vec![0.0; words.len()];
        for w in &style.words {
            if let Some(i) = words.get(&w.word) {
                row[*i] = w.coefficient;
            }
        }
        row
    };
    let mut rows: Vec<Vec<f64>> = catalog.pllms.iter().map(|(_, s)| row(s)).collect();
    let n = rows.len().max(1) as f64;
    let mean: Vec<f64> = (0..words.len()).map(|j| rows.iter().map(|r| r[j]).sum::<f64>() / n).collect();
    let centre = |row: &mut Vec<f64>| row.iter_mut().zip(&mean).for_each(|(x, m)| *x -= m);
    rows.iter_mut().for_each(centre);
    let total: f64 = rows.iter().flatten().map(|x| x * x).sum();
    let axes = axes(&rows, words.len());
    let place = |row: &[f64]| (dot(row, &axes[0]), dot(row, &axes[1]));
    let points: Vec<_> = rows.iter().map(|r| place(r)).collect();
    let shown: f64 = points.iter().map(|(x, y)| x * x + y * y).sum();
    let user = user.filter(|u| !u.words.is_empty()).map(|u| {
        let mut row = row(u);
        centre(&mut row);
        place(&row)
    });
    Plane { points, user, shown: (total > 0.0).then(|| (shown / total).min(1.0)) }
}

/// The two leading right singular vectors, by power iteration with deflation from fixed starts.
fn axes(rows: &[Vec<f64>], width: usize) -> [Vec<f64>; 2] {
    const ROUNDS: usize = 300;
    let mut found: Vec<Vec<f64>> = Vec::new();
    for axis in 0..2 {
        // Not orthogonal to anything likely, and the same every time.
        let mut v: Vec<f64> =
            (0..width).map(|j| 1.0 + ((j * (7 + axis * 6) + 3) % 11) as f64 / 11.0).collect();
        for _ in 0..ROUNDS {
            let mut next = vec![0.0; width];
            for row in rows {
                let along = dot(row, &v);
                next.iter_mut().zip(row).for_each(|(n, x)| *n += along * x);
            }
            for f in &found {
                let along = dot(&next, f);
                next.iter_mut().zip(f).for_each(|(n, x)| *n -= along * x);
            }
            let norm = dot(&next, &next).sqrt();
            if norm < 1e-12 {
                v = vec![0.0; width];
                break;
            }
            v = next.into_iter().map(|x| x / norm).collect();
        }
        // The sign is free: the largest component points right, or up.
        let largest = v.iter().copied().fold(0.0f64, |a, x| if x.abs() > a.abs() { x } else { a });
        if largest < 0.0 {
            v.iter_mut().for_each(|x| *x = -*x);
        }
        found.push(v);
    }
    [found[0].clone(), found[1].clone()]
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::Word;

    fn catalog(styles: &[(&str, f64, f64)]) -> Catalog {
        let word = |word: &str, coefficient| Word { word: word.into(), coefficient, interval: None };
        let pllm = |(name, warm, terse): &(&str, f64, f64)| {
            let words = vec![word("warm", *warm), word("terse", *terse)];
            ((*name).to_owned(), Style { words, explained: None })
        };
        Catalog { pllms: styles.iter().map(pllm).collect(), ..Catalog::default() }
    }

    #[test]
    fn two_words_fit_the_plane_and_distances_are_kept() {
        let c = catalog(&[("a", 3.0, 0.0), ("b", -1.0, 0.5), ("c", 0.0, 2.0)]);
        let p = plane(&c, Some(&c.pllms[1].1));
        assert!((p.shown.expect("computed") - 1.0).abs() < 1e-9);
        let gap = |i: usize, j: usize| {
            let ((x, y), (u, v)) = (p.points[i], p.points[j]);
            (x - u).hypot(y - v)
        };
        assert!((gap(0, 2) - 13f64.sqrt()).abs() < 1e-9 && (gap(0, 1) - 16.25f64.sqrt()).abs() < 1e-9);
        let (user, b) = (p.user.expect("laid out"), p.points[1]);
        assert!((user.0 - b.0).hypot(user.1 - b.1) < 1e-9);
    }

    #[test]
    fn nothing_and_one_alone_are_points_too() {
        assert_eq!(plane(&Catalog::default(), None), Plane::default());
        assert_eq!(plane(&catalog(&[("a", 1.0, 0.0)]), None).points, [(0.0, 0.0)]);
    }

    #[test]
    fn given_coordinates_are_taken() {
        let mut c = catalog(&[("a", 1.0, 0.0)]);
        c.coordinates.insert("a".into(), (4.0, 5.0));
        assert_eq!(plane(&c, None).points, [(4.0, 5.0)]);
    }
}
