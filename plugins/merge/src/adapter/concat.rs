//! The exact merge: stack every `A`, put the scaled `B`s beside each other.

use std::collections::{BTreeMap, BTreeSet};

use super::{Adapter, Config, Factors, Matrix};
use crate::error::MergeError;

/// The exact weighted sum of adapters, given as (name, weight, adapter). A module's rank is the sum
/// of its ranks in the terms that have it; its scaling is 1.
///
/// # Errors
/// A module that has different shapes in two terms, both of which are named, and one whose numbers are too
/// large for F32.
///
/// # Panics
/// If there is no term.
pub fn concatenate(terms: &[(&str, f64, &Adapter)]) -> Result<Adapter, MergeError> {
    let names: BTreeSet<&String> = terms.iter().flat_map(|(_, _, a)| a.modules.keys()).collect();
    let mut modules = BTreeMap::new();
    for name in names {
        let parts: Vec<_> = terms
            .iter()
            .filter_map(|(term, weight, adapter)| Some((*term, *weight, adapter.modules.get(name)?)))
            .collect();
        same_shape(name, &parts)?;
        let stacked = stack(&parts);
        if stacked.b.data.iter().any(|x| !x.is_finite()) {
            return Err(MergeError::mix(
                format!("`{name}`: its merged lora_B holds numbers beyond what F32 holds"),
                "use smaller weights",
            ));
        }
        modules.insert(name.clone(), stacked);
    }
    Ok(Adapter { config: Config::of_merge(terms), modules })
}

fn same_shape(module: &str, parts: &[(&str, f64, &Factors)]) -> Result<(), MergeError> {
    let shape = |f: &Factors| (f.b.rows, f.a.cols);
    let (first, _, f) = parts[0];
    match parts.iter().find(|(_, _, g)| shape(g) != shape(f)) {
        None => Ok(()),
        Some((other, _, g)) => Err(MergeError::mix(
            format!(
                "`{module}` is {:?} (out, in) in `{first}` but {:?} in `{other}`: they cannot have the same base",
                shape(f),
                shape(g)
            ),
            "ingest both adapters again over the base that they were trained on",
        )),
    }
}

fn stack(parts: &[(&str, f64, &Factors)]) -> Factors {
    let rank: usize = parts.iter().map(|(_, _, f)| f.rank()).sum();
    let (out, inner) = (parts[0].2.b.rows, parts[0].2.a.cols);
    let a = parts.iter().flat_map(|(_, _, f)| f.a.data.iter().copied()).collect();
    let mut b = Vec::with_capacity(out * rank);
    for row in 0..out {
        for (_, weight, f) in parts {
            // One rounding: the factor stays in f64 until it has met the entry.
            let factor = weight * f.scaling;
            b.extend(f.b.row(row).iter().map(|x| (factor * f64::from(*x)) as f32));
        }
    }
    Factors {
        a: Matrix { rows: rank, cols: inner, data: a },
        b: Matrix { rows: out, cols: rank, data: b },
        scaling: 1.0,
    }
}
