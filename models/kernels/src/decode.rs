//! Attention of one new token over the keys and values that its sequence has left.

use super::attention::Heads;
use super::buffer::Buffer;
use super::{Shared, simd, team};

/// Tokens whose keys lie together, a column of them side by side: scores of so many tokens are made
/// at once, without sums across a register.
const TOGETHER: usize = 16;

/// Keys and values of one sequence in one block.
#[derive(Default)]
pub struct KvCache {
    tokens: usize,
    /// `[tokens / 16, width, 16]`.
    k: Vec<f32>,
    /// `[tokens, width]`.
    v: Vec<f32>,
}

impl KvCache {
    /// Adds rows of keys and values, `width` numbers each.
    pub fn extend(&mut self, k: &[f32], v: &[f32], width: usize) {
        for row in k.chunks_exact(width) {
            let (block, within) = (self.tokens / TOGETHER * TOGETHER * width, self.tokens % TOGETHER);
            if within == 0 {
                self.k.resize(block + TOGETHER * width, 0.0);
            }
            let lanes = self.k[block + within..].iter_mut().step_by(TOGETHER);
            lanes.zip(row).for_each(|(to, k)| *to = *k);
            self.tokens += 1;
        }
        self.v.extend_from_slice(v);
    }

    /// What the last token that was added attends to with the queries of key head `head`:
    /// `[heads.group() × dim]` of both.
    fn attend(&self, out: &mut [f32], q: &[f32], heads: Heads, head: usize) {
        let (dim, width) = (heads.dim, heads.kv_width());
        let mut weights = Buffer::new(self.tokens.next_multiple_of(TOGETHER));
        let at = head * dim;
        for (out, q) in out.chunks_exact_mut(dim).zip(q.chunks_exact(dim)) {
            scores(&mut weights, q, &self.k, at, width, heads.scale());
            let weights = &mut weights[..self.tokens];
            let top = simd::max(weights);
            let sum = simd::exp_sum(weights, top);
            mixture(out, weights, &self.v, at, width);
            simd::scale(out, 1.0 / sum);
        }
    }
}

/// Adds one token to each of several sequences and writes what it attends to: rows of `q`, `k`, `v`
/// and `out` are of one sequence each.
///
/// # Panics
/// If there are not as many rows as caches.
pub fn attend_each(caches: &mut [KvCache], out: &mut [f32], q: &[f32], k: &[f32], v: &[f32], heads: Heads) {
    /// Numbers of keys that a task reads at least.
    const TASK: usize = 1 << 15;
    let (wide, narrow, group) = (heads.q_width(), heads.kv_width(), heads.group() * heads.dim);
    let n = caches.len();
    assert!(out.len() >= n * wide && q.len() >= n * wide, "a row of queries for each cache");
    assert!(k.len() >= n * narrow && v.len() >= n * narrow, "a row of keys and values for each cache");
    for (i, cache) in caches.iter_mut().enumerate() {
        let row = i * narrow..(i + 1) * narrow;
        cache.extend(&k[row.clone()], &v[row], narrow);
    }
    let (caches, out) = (&*caches, Shared::new(out));
    let longest = caches.iter().map(|c| c.tokens).max().unwrap_or(0);
    // Of one sequence all heads where they are little work.
    let together = (TASK / (longest * heads.dim).max(1)).clamp(1, heads.keys);
    let tasks = heads.keys.div_ceil(together);
    team::for_each(n * tasks, |task| {
        let (i, first) = (task / tasks, task % tasks * together);
        for head in first..(first + together).min(heads.keys) {
            let at = i * wide + head * group;
            // SAFETY: each task has sequences and heads of its own.
            let out = unsafe { out.slice(at, group) };
            caches[i].attend(out, &q[at..at + group], heads, head);
        }
    });
}

simd::vectorized! {
    /// scale · q·k of all tokens, over columns `at..` of the keys.
    fn scores(out: &mut [f32], q: &[f32], k: &[f32], at: usize, width: usize, scale: f32) {
        /// Sums that are made beside each other, so that none waits for the one before it.
        const PARTS: usize = 4;
        for (out, k) in out.chunks_exact_mut(TOGETHER).zip(k.chunks_exact(TOGETHER * width)) {
            let mut sums = [[0f32; TOGETHER]; PARTS];
            let (k, _) = k[at * TOGETHER..][..q.len() * TOGETHER].as_chunks::<TOGETHER>();
            let (fours, rest) = q.as_chunks::<PARTS>();
            let (whole, last) = k.split_at(fours.len() * PARTS);
            for (q, k) in fours.iter().zip(whole.as_chunks::<PARTS>().0) {
                for p in 0..PARTS {
                    add::<TOGETHER, FMA>(&mut sums[p], q[p], &k[p]);
                }
            }
            for (p, (q, k)) in rest.iter().zip(last).enumerate() {
                add::<TOGETHER, FMA>(&mut sums[p], *q, k);
            }
            for (t, out) in out.iter_mut().enumerate() {
                *out = scale * ((sums[0][t] + sums[1][t]) + (sums[2][t] + sums[3][t]));
            }
        }
    }

    /// Σ weight · v over the rows of values, at columns `at..`.
    fn mixture(out: &mut [f32], weights: &[f32], v: &[f32], at: usize, width: usize) {
        let (wide, rest) = out.as_chunks_mut::<64>();
        let after = at + 64 * wide.len();
        for (i, out) in wide.iter_mut().enumerate() {
            columns::<64, FMA>(out, weights, v, at + 64 * i, width);
        }
        let (narrow, rest) = rest.as_chunks_mut::<8>();
        let last = after + 8 * narrow.len();
        for (i, out) in narrow.iter_mut().enumerate() {
            columns::<8, FMA>(out, weights, v, after + 8 * i, width);
        }
        for (i, out) in rest.iter_mut().enumerate() {
            columns::<1, FMA>(std::array::from_mut(out), weights, v, last + i, width);
        }
    }
}

/// `N` columns of a mixture.
#[inline(always)]
fn columns<const N: usize, const FMA: bool>(
    out: &mut [f32; N],
    weights: &[f32],
    v: &[f32],
    at: usize,
    width: usize,
) {
    let mut sums = [0f32; N];
    for (w, v) in weights.iter().zip(v.chunks_exact(width)) {
        if let Some(v) = v[at..].first_chunk() {
            add::<N, FMA>(&mut sums, *w, v);
        }
    }
    *out = sums;
}

#[inline(always)]
fn add<const N: usize, const FMA: bool>(sums: &mut [f32; N], a: f32, b: &[f32; N]) {
    for i in 0..N {
        sums[i] = simd::fma::<FMA>(a, b[i], sums[i]);
    }
}
