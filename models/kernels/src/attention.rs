//! Causal attention with grouped heads over sequences packed one behind the other.
//!
//! Scores of a block of queries are made, used and dropped; of the forward pass only the
//! log-sum-exp of each row is kept, from which the backward pass makes the weights again
//! (Dao et al. 2022, FlashAttention, without its tiling of keys).

use std::ops::Range;

use faer::{Accum, MatMut, MatRef, Par, linalg::matmul::matmul};
use rayon::prelude::*;

use super::Shared;
use super::buffer::Buffer;
use super::profile::{Part, timed};
use super::simd;

/// Heads of an attention layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heads {
    /// Query heads.
    pub queries: usize,
    /// Key and value heads; each serves `queries / keys` query heads.
    pub keys: usize,
    /// Width of a head.
    pub dim: usize,
}

impl Heads {
    /// Query heads that share keys and values.
    pub fn group(&self) -> usize {
        self.queries / self.keys
    }

    /// What scores are multiplied with.
    pub fn scale(&self) -> f32 {
        1.0 / (self.dim as f32).sqrt()
    }

    /// Width of a row of queries.
    pub fn q_width(&self) -> usize {
        self.queries * self.dim
    }

    /// Width of a row of keys.
    pub fn kv_width(&self) -> usize {
        self.keys * self.dim
    }
}

/// Query rows whose scores are made at once.
const BLOCK: usize = 64;

/// One head's columns of rows `range` in a matrix of `width`.
fn head(data: &[f32], width: usize, dim: usize, head: usize, range: Range<usize>) -> MatRef<'_, f32> {
    let rows = mat_rows(data, width);
    rows.submatrix(range.start, head * dim, range.len(), dim)
}

fn mat_rows(data: &[f32], width: usize) -> MatRef<'_, f32> {
    MatRef::from_row_major_slice(data, data.len() / width, width)
}

/// A strided matrix that this task alone writes.
///
/// # Safety
/// The elements lie inside the buffer and no other live view overlaps them.
unsafe fn view<'a>(out: Shared, at: usize, rows: usize, cols: usize, stride: usize) -> MatMut<'a, f32> {
    // SAFETY: passed on to the caller.
    unsafe { MatMut::from_raw_parts_mut(out.at(at), rows, cols, stride as isize, 1) }
}

/// Writes the attention's output `[tokens, queries × dim]` and each row's log-sum-exp
/// `[queries, tokens]`. `sequences` cover all rows.
pub fn forward(
    out: &mut [f32],
    lse: &mut [f32],
    qkv: (&[f32], &[f32], &[f32]),
    heads: Heads,
    sequences: &[Range<usize>],
) {
    timed(Part::Attention, || forward_all(out, lse, qkv, heads, sequences));
}

fn forward_all(
    out: &mut [f32],
    lse: &mut [f32],
    (q, k, v): (&[f32], &[f32], &[f32]),
    heads: Heads,
    sequences: &[Range<usize>],
) {
    let tokens = lse.len() / heads.queries;
    let mut tasks = Vec::new();
    for s in sequences {
        for h in 0..heads.queries {
            tasks.extend((s.start..s.end).step_by(BLOCK).map(|first| (s, h, first)));
        }
    }
    let (out, lse) = (Shared::new(out), Shared::new(lse));
    tasks.into_par_iter().for_each(|(s, h, first)| {
        let rows = first..(first + BLOCK).min(s.end);
        let keys = s.start..rows.end;
        let (n, m) = (rows.len(), keys.len());
        let (qw, kw, kv) = (heads.q_width(), heads.kv_width(), h / heads.group());
        let mut scores = Buffer::new(n * m);
        score(
            &mut scores,
            head(q, qw, heads.dim, h, rows.clone()),
            head(k, kw, heads.dim, kv, keys.clone()),
            heads,
        );
        // SAFETY: this task alone has these rows of this head.
        let lse = unsafe { lse.slice(h * tokens + rows.start, n) };
        let mut inverse = [0.0; BLOCK];
        for (i, row) in scores.chunks_exact_mut(m).enumerate() {
            let (seen, unseen) = row.split_at_mut(rows.start + i + 1 - s.start);
            unseen.fill(0.0);
            let top = simd::max(seen);
            let sum = simd::exp_sum(seen, top);
            lse[i] = top + sum.ln();
            inverse[i] = 1.0 / sum;
        }
        // SAFETY: as above.
        let o = unsafe { view(out, rows.start * qw + h * heads.dim, n, heads.dim, qw) };
        let p = MatRef::from_row_major_slice(&scores, n, m);
        matmul(o, Accum::Replace, p, head(v, kw, heads.dim, kv, keys), 1.0, Par::Seq);
        for (i, inverse) in inverse[..n].iter().enumerate() {
            // SAFETY: the view above is no longer used.
            let row = unsafe { out.slice((rows.start + i) * qw + h * heads.dim, heads.dim) };
            simd::scale(row, *inverse);
        }
    });
}

fn score(scores: &mut [f32], q: MatRef<f32>, k: MatRef<f32>, heads: Heads) {
    let view = MatMut::from_row_major_slice_mut(scores, q.nrows(), k.nrows());
    matmul(view, Accum::Replace, q, k.transpose(), heads.scale(), Par::Seq);
}

/// What the forward pass saw and made.
#[derive(Clone, Copy)]
pub struct Seen<'a> {
    /// Queries, rotated.
    pub q: &'a [f32],
    /// Keys, rotated.
    pub k: &'a [f32],
    /// Values.
    pub v: &'a [f32],
    /// Output.
    pub out: &'a [f32],
    /// Log-sum-exp of each row, `[queries, tokens]`.
    pub lse: &'a [f32],
}

/// Writes the gradients of queries, keys and values.
pub fn backward(
    grads: (&mut [f32], &mut [f32], &mut [f32]),
    dout: &[f32],
    seen: Seen,
    heads: Heads,
    sequences: &[Range<usize>],
) {
    timed(Part::Attention, || backward_all(grads, dout, seen, heads, sequences));
}

fn backward_all(
    (dq, dk, dv): (&mut [f32], &mut [f32], &mut [f32]),
    dout: &[f32],
    seen: Seen,
    heads: Heads,
    sequences: &[Range<usize>],
) {
    if heads.group() == 1 {
        dk.fill(0.0);
        dv.fill(0.0);
        return each_head((dq, dk, dv), dout, seen, heads, sequences);
    }
    // Query heads that share keys write their own parts, added up in order afterwards.
    let (mut wide_k, mut wide_v) = (Buffer::zeros(dq.len()), Buffer::zeros(dq.len()));
    each_head((dq, &mut wide_k, &mut wide_v), dout, seen, heads, sequences);
    for (narrow, wide) in [(dk, &wide_k), (dv, &wide_v)] {
        let rows = narrow.par_chunks_exact_mut(heads.kv_width()).zip(wide.par_chunks_exact(heads.q_width()));
        rows.for_each(|(narrow, wide)| {
            let groups = wide.chunks_exact(heads.group() * heads.dim);
            for (sum, group) in narrow.chunks_exact_mut(heads.dim).zip(groups) {
                sum.copy_from_slice(&group[..heads.dim]);
                group.chunks_exact(heads.dim).skip(1).for_each(|part| simd::add(sum, part));
            }
        });
    }
}

/// As [`backward`], keys and values one a query head.
fn each_head(
    (dq, dk, dv): (&mut [f32], &mut [f32], &mut [f32]),
    dout: &[f32],
    seen: Seen,
    heads: Heads,
    sequences: &[Range<usize>],
) {
    let out = [Shared::new(dq), Shared::new(dk), Shared::new(dv)];
    let tasks: Vec<_> = sequences.iter().flat_map(|s| (0..heads.queries).map(move |h| (s, h))).collect();
    tasks.into_par_iter().for_each(|(s, h)| one_head(out, dout, seen, heads, s, h));
}

fn one_head([dq, dk, dv]: [Shared; 3], dout: &[f32], seen: Seen, heads: Heads, s: &Range<usize>, h: usize) {
    let (dim, qw, kw, kv) = (heads.dim, heads.q_width(), heads.kv_width(), h / heads.group());
    let tokens = seen.lse.len() / heads.queries;
    let largest = BLOCK.min(s.len()) * s.len();
    let (mut weights, mut dscores) = (Buffer::new(largest), Buffer::new(largest));
    for first in s.clone().step_by(BLOCK) {
        let rows = first..(first + BLOCK).min(s.end);
        let keys = s.start..rows.end;
        let (n, m) = (rows.len(), keys.len());
        let (p, ds) = (&mut weights[..n * m], &mut dscores[..n * m]);
        let (q, k) = (head(seen.q, qw, dim, h, rows.clone()), head(seen.k, kw, dim, kv, keys.clone()));
        let (go, v) = (head(dout, qw, dim, h, rows.clone()), head(seen.v, kw, dim, kv, keys.clone()));
        score(p, q, k, heads);
        let view_ds = MatMut::from_row_major_slice_mut(ds, n, m);
        matmul(view_ds, Accum::Replace, go, v.transpose(), 1.0, Par::Seq);
        for (i, (p, ds)) in p.chunks_exact_mut(m).zip(ds.chunks_exact_mut(m)).enumerate() {
            let at = rows.start + i;
            let count = at + 1 - s.start;
            p[count..].fill(0.0);
            ds[count..].fill(0.0);
            simd::exp_sum(&mut p[..count], seen.lse[h * tokens + at]);
            let own = at * qw + h * dim..at * qw + (h + 1) * dim;
            let delta = simd::dot(&dout[own.clone()], &seen.out[own]);
            softmax_backward(&mut ds[..count], &p[..count], delta);
        }
        let (p, ds) = (MatRef::from_row_major_slice(p, n, m), MatRef::from_row_major_slice(ds, n, m));
        // SAFETY: this task alone has this head's columns of this sequence's rows.
        let (vq, vk, vv) = unsafe {
            (
                view(dq, rows.start * qw + h * dim, n, dim, qw),
                view(dk, s.start * qw + h * dim, m, dim, qw),
                view(dv, s.start * qw + h * dim, m, dim, qw),
            )
        };
        matmul(vq, Accum::Replace, ds, k, heads.scale(), Par::Seq);
        matmul(vk, Accum::Add, ds.transpose(), q, heads.scale(), Par::Seq);
        matmul(vv, Accum::Add, p.transpose(), go, 1.0, Par::Seq);
    }
}

simd::vectorized! {
    /// ds = p (ds - delta).
    fn softmax_backward(ds: &mut [f32], p: &[f32], delta: f32) {
        for (ds, p) in ds.iter_mut().zip(p) {
            *ds = p * (*ds - delta);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::{KvCache, attend_each};
    use crate::testing::{Tensors, check_gradients};

    const HEADS: Heads = Heads { queries: 4, keys: 2, dim: 3 };

    fn run(t: &Tensors, heads: Heads, sequences: &[Range<usize>]) -> (Vec<f32>, Vec<f32>) {
        let n = t.get(0).len() / heads.q_width();
        let (mut out, mut lse) = (vec![0.0; n * heads.q_width()], vec![0.0; n * heads.queries]);
        forward(&mut out, &mut lse, (t.get(0), t.get(1), t.get(2)), heads, sequences);
        (out, lse)
    }

    fn inputs(n: usize, heads: Heads) -> Tensors {
        let mut t = Tensors::new(21);
        for width in [heads.q_width(), heads.kv_width(), heads.kv_width()] {
            t.push(n * width);
        }
        t
    }

    #[test]
    fn gradients_agree_with_differences() {
        let sequences = [0..5, 5..6, 6..9];
        let t = inputs(9, HEADS);
        let probe = Tensors::numbers(9 * HEADS.q_width(), 4);
        let (out, lse) = run(&t, HEADS, &sequences);
        let seen = Seen { q: t.get(0), k: t.get(1), v: t.get(2), out: &out, lse: &lse };
        let mut g: Vec<Vec<f32>> = (0..3).map(|i| vec![1.0; t.get(i).len()]).collect();
        let [dq, dk, dv] = g.as_mut_slice() else { unreachable!() };
        backward((dq, dk, dv), &probe, seen, HEADS, &sequences);
        check_gradients(&t, &g, |t| simd::dot(&run(t, HEADS, &sequences).0, &probe));
    }

    #[test]
    fn long_sequences_agree_with_one_token_at_a_time() {
        let n = 150; // more than two blocks of queries
        for heads in [HEADS, Heads { queries: 2, keys: 1, dim: 90 }] {
            let t = inputs(n, heads);
            let (out, _) = run(&t, heads, std::slice::from_ref(&(0..n)));
            let (qw, kw) = (heads.q_width(), heads.kv_width());
            let mut cache = KvCache::default();
            for at in 0..n {
                let mut one = vec![0.0; qw];
                let [q, k, v] = [(0, qw), (1, kw), (2, kw)].map(|(i, w)| &t.get(i)[at * w..(at + 1) * w]);
                attend_each(std::slice::from_mut(&mut cache), &mut one, q, k, v, heads);
                for (a, b) in one.iter().zip(&out[at * qw..]) {
                    assert!((a - b).abs() < 1e-5, "token {at}: {a} and {b}");
                }
            }
        }
    }
}
