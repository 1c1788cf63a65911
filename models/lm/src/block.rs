//! One transformer block, forward and backward, on slices.
//!
//! x1 = x + O(attention(rope(Q n1), rope(K n1), V n1)), n1 = norm1(x);
//! y = x1 + Down(silu(Gate n2) · Up n2), n2 = norm2(x1).

use std::ops::Range;

use headstart_kernels::attention::{self, Heads, Seen};
use headstart_kernels::{Accum, Buffer, LinearGrad, LinearRef, Rope, norm, simd, swiglu};

use crate::proj::Proj;

/// A block's shape.
#[derive(Clone, Copy, Debug)]
pub struct Dims {
    /// Width of the hidden state.
    pub hidden: usize,
    /// Width of the feed-forward layer.
    pub ffn: usize,
    /// Heads of the attention.
    pub heads: Heads,
    /// Epsilon of the norms.
    pub eps: f32,
}

/// A block's weights, wherever they live.
#[derive(Clone, Copy, Debug)]
pub struct BlockRef<'a> {
    /// Weight of the norm before attention.
    pub norm1: &'a [f32],
    /// Weight of the norm before the feed-forward layer.
    pub norm2: &'a [f32],
    /// In the order of [`Proj::ALL`].
    pub linear: [LinearRef<'a>; 7],
    /// Whether products with quantized weights round their rows to 8 bits: faster, for generation.
    pub rounded: bool,
}

/// Where the gradients of a block's weights are added to; none for frozen parts.
#[derive(Debug, Default)]
pub struct BlockGrad<'a> {
    /// Of the norm before attention.
    pub norm1: Option<&'a mut [f32]>,
    /// Of the norm before the feed-forward layer.
    pub norm2: Option<&'a mut [f32]>,
    /// In the order of [`Proj::ALL`].
    pub linear: [LinearGrad<'a>; 7],
}

/// Sequences packed one behind the other, without padding.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Batch {
    /// Token ids of all sequences.
    pub ids: Vec<u32>,
    /// Position of each token in its sequence.
    pub positions: Vec<u32>,
    /// Each sequence's range of tokens.
    pub sequences: Vec<Range<usize>>,
}

impl Batch {
    /// Packs these sequences.
    pub fn pack<'a>(rows: impl IntoIterator<Item = &'a [u32]>) -> Self {
        let mut batch = Self::default();
        for row in rows {
            let start = batch.ids.len();
            batch.ids.extend_from_slice(row);
            batch.positions.extend(0..row.len() as u32);
            batch.sequences.push(start..start + row.len());
        }
        batch
    }

    /// Tokens in all.
    pub fn tokens(&self) -> usize {
        self.ids.len()
    }

    /// Tokens of the longest sequence.
    pub fn longest(&self) -> usize {
        self.sequences.iter().map(Range::len).max().unwrap_or(0)
    }
}

/// What the backward pass needs of the forward pass, and cannot quickly make again.
pub struct Saved {
    inverse1: Buffer,
    inverse2: Buffer,
    q: Buffer,
    /// Keys, rotated: what a generation caches.
    pub k: Buffer,
    /// Values.
    pub v: Buffer,
    attended: Buffer,
    lse: Buffer,
    x1: Buffer,
    gate: Buffer,
    up: Buffer,
    low: [Vec<f32>; 7],
}

impl Saved {
    /// Numbers a token that a block keeps for the backward pass, low ranks aside.
    pub fn per_token(d: &Dims) -> usize {
        let h = d.heads;
        d.hidden + 2 + 2 * h.q_width() + 2 * h.kv_width() + h.queries + 2 * d.ffn
    }
}

impl BlockRef<'_> {
    fn run(&self, p: Proj, y: &mut [f32], x: &[f32], n: usize) -> Vec<f32> {
        let linear = &self.linear[p as usize];
        if self.rounded { linear.forward_rounded(y, x, n) } else { linear.forward(y, x, n) }
    }

    /// Products of several layers with the same rows.
    fn run_together<const N: usize>(
        &self,
        all: [(Proj, &mut [f32]); N],
        x: &[f32],
        n: usize,
    ) -> [Vec<f32>; N] {
        let all = all.map(|(p, y)| (&self.linear[p as usize], y));
        match self.rounded {
            true => LinearRef::forward_rounded_together(all, x, n),
            false => all.map(|(linear, y)| linear.forward(y, x, n)),
        }
    }

    /// Queries, keys (both rotated) and values of x, its norm kept.
    fn project(&self, d: &Dims, x: &[f32], positions: &[u32], rope: &Rope) -> Projected {
        let (n, h) = (positions.len(), d.heads);
        let (mut inverse, mut normed) = (Buffer::new(n), Buffer::new(n * d.hidden));
        norm::forward(&mut normed, &mut inverse, x, self.norm1, d.eps);
        let mut q = Buffer::new(n * h.q_width());
        let (mut k, mut v) = (Buffer::new(n * h.kv_width()), Buffer::new(n * h.kv_width()));
        let all = [(Proj::Q, &mut q[..]), (Proj::K, &mut k[..]), (Proj::V, &mut v[..])];
        let low = self.run_together(all, &normed, n);
        rope.rotate(&mut q, h.q_width(), positions, 1.0);
        rope.rotate(&mut k, h.kv_width(), positions, 1.0);
        Projected { inverse, q, k, v, low }
    }

    /// Everything behind the attention; writes y.
    fn finish(&self, d: &Dims, y: &mut [f32], x: &[f32], attended: &[f32]) -> Finished {
        let n = x.len() / d.hidden;
        let mut x1 = Buffer::new(n * d.hidden);
        let low_o = self.run(Proj::O, &mut x1, attended, n);
        simd::par_add(&mut x1, x);
        let (mut inverse, mut normed) = (Buffer::new(n), Buffer::new(n * d.hidden));
        norm::forward(&mut normed, &mut inverse, &x1, self.norm2, d.eps);
        let (mut gate, mut up, mut act) =
            (Buffer::new(n * d.ffn), Buffer::new(n * d.ffn), Buffer::new(n * d.ffn));
        let both = [(Proj::Gate, &mut gate[..]), (Proj::Up, &mut up[..])];
        let [low_gate, low_up] = self.run_together(both, &normed, n);
        swiglu::forward(&mut act, &gate, &up);
        let low_down = self.run(Proj::Down, y, &act, n);
        simd::par_add(y, &x1);
        Finished { x1, inverse, gate, up, low: [low_o, low_gate, low_up, low_down] }
    }

    /// Writes y for whole sequences.
    pub fn forward(&self, d: &Dims, y: &mut [f32], x: &[f32], batch: &Batch, rope: &Rope) -> Saved {
        let p = self.project(d, x, &batch.positions, rope);
        let n = batch.tokens();
        let (mut attended, mut lse) = (Buffer::new(n * d.heads.q_width()), Buffer::new(n * d.heads.queries));
        attention::forward(&mut attended, &mut lse, (&p.q, &p.k, &p.v), d.heads, &batch.sequences);
        let f = self.finish(d, y, x, &attended);
        let ([a, b, c], [o, g, u, w]) = (p.low, f.low);
        Saved {
            inverse1: p.inverse,
            q: p.q,
            k: p.k,
            v: p.v,
            attended,
            lse,
            x1: f.x1,
            inverse2: f.inverse,
            gate: f.gate,
            up: f.up,
            low: [a, b, c, o, g, u, w],
        }
    }

    /// Writes y for one new token of each of several sequences. `attend` is given the queries, keys
    /// and values of all of them and writes what they attend to.
    pub fn step(
        &self,
        d: &Dims,
        y: &mut [f32],
        x: &[f32],
        positions: &[u32],
        rope: &Rope,
        attend: impl FnOnce(&mut [f32], &[f32], &[f32], &[f32]),
    ) {
        let p = self.project(d, x, positions, rope);
        let mut attended = Buffer::new(p.q.len());
        attend(&mut attended, &p.q, &p.k, &p.v);
        self.finish(d, y, x, &attended);
    }

    /// Adds the gradients of the weights to `grad` and writes that of x to `dx`, where wanted. What a
    /// layer read is made again only where its weights or its adapter are trained.
    #[expect(clippy::too_many_arguments, reason = "the forward pass's operands and results")]
    pub fn backward(
        &self,
        d: &Dims,
        grad: &mut BlockGrad,
        dx: Option<&mut [f32]>,
        dy: &[f32],
        x: &[f32],
        s: Saved,
        batch: &Batch,
        rope: &Rope,
    ) {
        let dx1 = self.backward_ffn(d, grad, dy, &s);
        let (n, h) = (batch.tokens(), d.heads);
        let mut dout = Buffer::new(n * h.q_width());
        self.back(Proj::O, Some((&mut dout, Accum::Replace)), grad, &dx1, &s.attended, &s, n);
        let (mut dq, mut dk, mut dv) =
            (Buffer::new(n * h.q_width()), Buffer::new(n * h.kv_width()), Buffer::new(n * h.kv_width()));
        let seen = Seen { q: &s.q, k: &s.k, v: &s.v, out: &s.attended, lse: &s.lse };
        attention::backward((&mut dq, &mut dk, &mut dv), &dout, seen, h, &batch.sequences);
        rope.rotate(&mut dq, h.q_width(), &batch.positions, -1.0);
        rope.rotate(&mut dk, h.kv_width(), &batch.positions, -1.0);
        let wanted = dx.is_some() || grad.norm1.is_some();
        let mut dnormed = if wanted { Buffer::new(n * d.hidden) } else { Buffer::new(0) };
        let mut normed = Buffer::new(n * d.hidden);
        if [Proj::Q, Proj::K, Proj::V].iter().any(|p| grad.linear[*p as usize].wants_input()) {
            norm::again(&mut normed, &s.inverse1, x, self.norm1);
        }
        let mut accum = Accum::Replace;
        for (p, dy) in [(Proj::Q, &dq), (Proj::K, &dk), (Proj::V, &dv)] {
            let to = wanted.then_some((&mut dnormed[..], accum));
            self.back(p, to, grad, dy, &normed, &s, n);
            accum = Accum::Add;
        }
        if !wanted {
            return;
        }
        let mut spare = Buffer::new(if dx.is_some() { 0 } else { n * d.hidden });
        let dx = dx.unwrap_or(&mut spare);
        dx.copy_from_slice(&dx1);
        norm::backward(dx, grad.norm1.as_deref_mut(), &dnormed, x, &s.inverse1, self.norm1);
    }

    /// The gradient of x1, from that of y.
    fn backward_ffn(&self, d: &Dims, grad: &mut BlockGrad, dy: &[f32], s: &Saved) -> Buffer {
        let n = dy.len() / d.hidden;
        let (mut dact, mut act) = (Buffer::new(n * d.ffn), Buffer::new(n * d.ffn));
        if grad.linear[Proj::Down as usize].wants_input() {
            swiglu::forward(&mut act, &s.gate, &s.up);
        }
        self.back(Proj::Down, Some((&mut dact, Accum::Replace)), grad, dy, &act, s, n);
        drop(act);
        let (mut dgate, mut dup) = (Buffer::new(n * d.ffn), Buffer::new(n * d.ffn));
        swiglu::backward((&mut dgate, &mut dup), (&s.gate, &s.up), &dact);
        drop(dact);
        let (mut dnormed, mut normed) = (Buffer::new(n * d.hidden), Buffer::new(n * d.hidden));
        if [Proj::Gate, Proj::Up].iter().any(|p| grad.linear[*p as usize].wants_input()) {
            norm::again(&mut normed, &s.inverse2, &s.x1, self.norm2);
        }
        self.back(Proj::Gate, Some((&mut dnormed, Accum::Replace)), grad, &dgate, &normed, s, n);
        self.back(Proj::Up, Some((&mut dnormed, Accum::Add)), grad, &dup, &normed, s, n);
        let mut dx1 = Buffer::new(n * d.hidden);
        dx1.copy_from_slice(dy);
        norm::backward(&mut dx1, grad.norm2.as_deref_mut(), &dnormed, &s.x1, &s.inverse2, self.norm2);
        dx1
    }

    #[expect(clippy::too_many_arguments, reason = "one call for each of seven layers")]
    fn back(
        &self,
        p: Proj,
        dx: Option<(&mut [f32], Accum)>,
        grad: &mut BlockGrad,
        dy: &[f32],
        x: &[f32],
        s: &Saved,
        n: usize,
    ) {
        self.linear[p as usize].backward(dx, &mut grad.linear[p as usize], dy, x, &s.low[p as usize], n);
    }
}

struct Projected {
    inverse: Buffer,
    q: Buffer,
    k: Buffer,
    v: Buffer,
    low: [Vec<f32>; 3],
}

struct Finished {
    x1: Buffer,
    inverse: Buffer,
    gate: Buffer,
    up: Buffer,
    low: [Vec<f32>; 4],
}
