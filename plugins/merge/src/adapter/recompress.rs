//! Cutting a product to a rank, as well as it can be done, without forming it.
//!
//! With thin QR decompositions `B = Q₁R₁` and `Aᵀ = Q₂R₂` the product is `Q₁ (R₁R₂ᵀ) Q₂ᵀ`. The core
//! is as small as the rank, and its singular value decomposition gives the product's, because `Q₁`
//! and `Q₂` have orthonormal columns. Cutting it is the best approximation of that rank in the
//! Frobenius norm (Eckart–Young), and the norm of the cut part follows from the singular values.
//! Cost: O((in + out) · rank²) instead of O(in · out · min(in, out)).

use faer::diag::Diag;
use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::householder::{
    apply_block_householder_sequence_on_the_left_in_place_scratch,
    apply_block_householder_sequence_on_the_left_in_place_with_conj,
};
use faer::linalg::matmul::matmul;
use faer::linalg::qr::no_pivoting::factor::{qr_in_place, qr_in_place_scratch, recommended_block_size};
use faer::linalg::svd::{ComputeSvdVectors, svd, svd_scratch};
use faer::{Accum, Conj, Mat, Par};
use headstart_lm::Watch;
use rayon::prelude::*;

use super::{Adapter, AdapterReport, Factors, Matrix, ModuleReport};
use crate::error::MergeError;

/// What a cut took away, as squared Frobenius norms.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Truncation {
    /// Of the product before the cut.
    pub whole: f64,
    /// Of what was cut off.
    pub lost: f64,
}

impl Truncation {
    /// Relative error in the Frobenius norm; 0 of a product that is zero.
    pub fn error(&self) -> f64 {
        if self.whole > 0.0 { (self.lost / self.whole).sqrt() } else { 0.0 }
    }
}

/// Cuts every module to at most `rank`; leaves those that fit, and all where `rank` is absent.
pub(super) fn to_rank(
    adapter: Adapter,
    rank: Option<usize>,
    watch: &dyn Watch,
) -> Result<(Adapter, AdapterReport), MergeError> {
    let Adapter { config, modules } = adapter;
    let total = modules.len() as u64;
    let cut: Vec<_> = modules
        .into_par_iter()
        .map(|(name, factors)| {
            if watch.cancelled() {
                return Err(MergeError::Cancelled);
            }
            let (factors, truncation) = match rank {
                Some(rank) if rank < factors.rank() => truncate(&factors, rank)
                    .map_err(|why| MergeError::Internal(format!("`{name}`: {why}")))?,
                // Its norm counts in the relative error of the whole adapter.
                Some(_) => {
                    let whole = norm_squared(&factors);
                    (factors, Truncation { whole, lost: 0.0 })
                }
                None => (factors, Truncation { whole: 0.0, lost: 0.0 }),
            };
            Ok((name, factors, truncation))
        })
        .collect::<Result<_, _>>()?;
    watch.progress(total, total, "modules", &[]);
    let whole: f64 = cut.iter().map(|(.., t)| t.whole).sum();
    let lost: f64 = cut.iter().map(|(.., t)| t.lost).sum();
    let report = |(name, f, t): &(String, Factors, Truncation)| {
        (name.clone(), ModuleReport { rank: f.rank(), error: t.error() })
    };
    let modules_report = cut.iter().map(report).collect();
    let adapter = Adapter { config, modules: cut.into_iter().map(|(n, f, _)| (n, f)).collect() };
    let error = Truncation { whole, lost }.error();
    let parameters = adapter.parameters();
    Ok((adapter, AdapterReport { modules: modules_report, error, parameters }))
}

/// The best approximation of `scaling · b · a` by a product of at most `rank`, with scaling 1 and
/// the singular values shared evenly between both factors.
///
/// # Errors
/// If the singular values do not converge, which finite input does not cause.
pub fn truncate(factors: &Factors, rank: usize) -> Result<(Factors, Truncation), String> {
    let b = Mat::from_fn(factors.b.rows, factors.b.cols, |i, j| {
        factors.scaling * f64::from(factors.b.data[i * factors.b.cols + j])
    });
    let at = Mat::from_fn(factors.a.cols, factors.a.rows, |i, j| {
        f64::from(factors.a.data[j * factors.a.cols + i])
    });
    let (q1, r1) = thin_qr(b);
    let (q2, r2) = thin_qr(at);
    let core = product(&r1, &r2.transpose().to_owned());
    let (u, s, v) = thin_svd(&core)?;
    let rank = rank.min(s.len());
    let squares = |s: &[f64]| s.iter().map(|x| x * x).sum::<f64>();
    let truncation = Truncation { whole: squares(&s), lost: squares(&s[rank..]) };
    let root = |m: &Mat<f64>| Mat::from_fn(m.nrows(), rank, |i, j| m[(i, j)] * s[j].sqrt());
    let (left, right) = (product(&q1, &root(&u)), product(&q2, &root(&v)));
    let cut = Factors {
        a: row_major(rank, right.nrows(), |i, j| right[(j, i)]),
        b: row_major(left.nrows(), rank, |i, j| left[(i, j)]),
        scaling: 1.0,
    };
    Ok((cut, truncation))
}

/// `‖scaling · b · a‖²`, as the trace of `(bᵀb)(aaᵀ)`.
fn norm_squared(f: &Factors) -> f64 {
    let rank = f.rank();
    let mut sum = 0.0;
    for i in 0..rank {
        for j in 0..rank {
            let column = |k: usize| f.b.data.iter().skip(k).step_by(rank).map(|x| f64::from(*x));
            let gram_b: f64 = column(i).zip(column(j)).map(|(x, y)| x * y).sum();
            let gram_a: f64 =
                f.a.row(i).iter().zip(f.a.row(j)).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum();
            sum += gram_b * gram_a;
        }
    }
    (f.scaling * f.scaling * sum).max(0.0)
}

fn row_major(rows: usize, cols: usize, entry: impl Fn(usize, usize) -> f64) -> Matrix {
    let entry = &entry;
    let data = (0..rows).flat_map(|i| (0..cols).map(move |j| entry(i, j) as f32)).collect();
    Matrix { rows, cols, data }
}

// Sequential throughout: modules run in parallel, and results must not depend on the thread count.

fn product(a: &Mat<f64>, b: &Mat<f64>) -> Mat<f64> {
    let mut c = Mat::zeros(a.nrows(), b.ncols());
    matmul(&mut c, Accum::Replace, a, b, 1.0, Par::Seq);
    c
}

fn thin_qr(mut m: Mat<f64>) -> (Mat<f64>, Mat<f64>) {
    let (rows, cols) = (m.nrows(), m.ncols());
    let size = rows.min(cols);
    let block = recommended_block_size::<f64>(rows, cols);
    let mut coeff = Mat::zeros(block, size);
    let scratch = qr_in_place_scratch::<f64>(rows, cols, block, Par::Seq, Default::default());
    let mut buffer = MemBuffer::new(scratch);
    let stack = MemStack::new(&mut buffer);
    qr_in_place(m.as_mut(), coeff.as_mut(), Par::Seq, stack, Default::default());
    let r = Mat::from_fn(size, cols, |i, j| if i <= j { m[(i, j)] } else { 0.0 });
    let mut q = Mat::identity(rows, size);
    let scratch = apply_block_householder_sequence_on_the_left_in_place_scratch::<f64>(rows, block, size);
    apply_block_householder_sequence_on_the_left_in_place_with_conj(
        m.as_ref().get(.., ..size),
        coeff.as_ref(),
        Conj::No,
        q.as_mut(),
        Par::Seq,
        MemStack::new(&mut MemBuffer::new(scratch)),
    );
    (q, r)
}

/// Left singular vectors, singular values, right singular vectors.
type Svd = (Mat<f64>, Vec<f64>, Mat<f64>);

fn thin_svd(m: &Mat<f64>) -> Result<Svd, String> {
    let (rows, cols) = (m.nrows(), m.ncols());
    let size = rows.min(cols);
    let (mut u, mut v, mut s) = (Mat::zeros(rows, size), Mat::zeros(cols, size), Diag::zeros(size));
    let thin = ComputeSvdVectors::Thin;
    let scratch = svd_scratch::<f64>(rows, cols, thin, thin, Par::Seq, Default::default());
    svd(
        m.as_ref(),
        s.as_mut(),
        Some(u.as_mut()),
        Some(v.as_mut()),
        Par::Seq,
        MemStack::new(&mut MemBuffer::new(scratch)),
        Default::default(),
    )
    .map_err(|e| format!("singular values did not converge: {e:?}"))?;
    Ok((u, (0..size).map(|i| s.column_vector()[i]).collect(), v))
}
