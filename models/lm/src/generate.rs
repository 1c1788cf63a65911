//! Answers, many at a time, with a cache of keys and values.
//!
//! Prompts are packed without padding and every active answer advances by one token a step, so no
//! answer depends on which others are made with it: each row of each product is the same bits in
//! any company.

use headstart_kernels::profile::{Part, timed};
use headstart_kernels::{Buffer, KvCache, attend_each};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use crate::api::Watch;
use crate::block::{Batch, BlockRef};
use crate::choose::choose;
use crate::error::LmError;
use crate::net::Net;

/// Answers that advance together at most.
const TOGETHER: usize = 64;

/// How tokens are chosen.
#[derive(Clone, Debug)]
pub struct Sampling<'a> {
    /// Tokens of an answer at most.
    pub max_tokens: usize,
    /// 0 takes the most probable token.
    pub temperature: f64,
    /// Seed; each prompt has its own stream, by its position.
    pub seed: u64,
    /// Tokens that end an answer; not part of it.
    pub eos: &'a [u32],
}

/// An answer in the making.
pub struct Active {
    /// Number of its prompt.
    pub prompt: usize,
    /// Position of its next token.
    pub position: u32,
    /// The token taken last.
    pub next: u32,
    /// Tokens so far.
    pub answer: Vec<u32>,
    rng: ChaCha8Rng,
}

/// Answers prompts (token ids, none empty), in order. An answer ends at an end token, at
/// `max_tokens`, or where the context is full.
///
/// # Errors
/// As [`crate::Decoder::generate`].
pub fn generate(
    net: &Net,
    prompts: &[Vec<u32>],
    sampling: &Sampling,
    watch: &dyn Watch,
) -> Result<Vec<Vec<u32>>, LmError> {
    let context = net.model.config.context;
    if let Some((i, p)) = prompts.iter().enumerate().find(|(_, p)| p.is_empty() || p.len() > context) {
        return Err(LmError::Input(format!(
            "prompt {} has {} tokens; the model reads 1 to {context}",
            i + 1,
            p.len()
        )));
    }
    let longest = prompts.iter().map(Vec::len).max().unwrap_or(0);
    net.limits.check(net.model, longest)?;
    let together = net.limits.together(net.model, (longest + sampling.max_tokens).min(context), TOGETHER)?;
    let mut answers = vec![Vec::new(); prompts.len()];
    let mut done = 0;
    for group in (0..prompts.len()).collect::<Vec<_>>().chunks(together) {
        let finished = |active: Active, answers: &mut Vec<Vec<u32>>, done: &mut u64| {
            *done += 1;
            watch.count("tokens", active.answer.len() as u64);
            watch.progress(*done, prompts.len() as u64, "prompts", &[]);
            answers[active.prompt] = active.answer;
        };
        cached(net, prompts, group, sampling, watch, |a| finished(a, &mut answers, &mut done))?;
        watch.count("forward_passes", group.len() as u64);
    }
    Ok(answers)
}

impl Active {
    /// To a prompt of so many tokens.
    pub fn new(prompt: usize, length: usize, sampling: &Sampling) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(sampling.seed);
        rng.set_stream(prompt as u64);
        Self { prompt, position: length as u32, next: 0, answer: Vec::new(), rng }
    }

    /// Takes the next token from its logits; false where the answer is at its end.
    pub fn take(&mut self, logits: &[f32], sampling: &Sampling, context: usize) -> bool {
        self.next = choose(logits, sampling.temperature, &mut self.rng);
        if sampling.eos.contains(&self.next) || self.answer.len() == sampling.max_tokens {
            return false;
        }
        self.answer.push(self.next);
        self.answer.len() < sampling.max_tokens && (self.position as usize) < context
    }
}

fn cached(
    net: &Net,
    prompts: &[Vec<u32>],
    group: &[usize],
    sampling: &Sampling,
    watch: &dyn Watch,
    mut finished: impl FnMut(Active),
) -> Result<(), LmError> {
    let (context, vocab) = (net.model.config.context, net.model.config.vocab);
    let mut caches: Vec<Vec<KvCache>> = (0..net.model.config.layers).map(|_| Vec::new()).collect();
    let mut active = Vec::new();
    let mut last = Vec::new();
    for part in packs(prompts, group, net.limits.tokens) {
        if watch.cancelled() {
            return Err(LmError::Cancelled);
        }
        last.extend_from_slice(&prefill(net, prompts, part, &mut caches));
        active.extend(part.iter().map(|p| Active::new(*p, prompts[*p].len(), sampling)));
    }
    loop {
        let mut logits = Buffer::new(active.len() * vocab);
        net.logits_into(&mut logits, &last, true);
        let each = active.par_iter_mut().zip(logits.par_chunks_exact(vocab));
        let goes_on: Vec<bool> =
            timed(Part::Logits, || each.map(|(a, logits)| a.take(logits, sampling, context)).collect());
        drop(logits);
        let mut keep = goes_on.iter();
        let mut still = Vec::new();
        for a in active {
            if *keep.next().unwrap_or(&false) { still.push(a) } else { finished(a) }
        }
        active = still;
        for layer in &mut caches {
            let mut keep = goes_on.iter();
            layer.retain(|_| *keep.next().unwrap_or(&false));
        }
        if active.is_empty() {
            return Ok(());
        }
        if watch.cancelled() {
            return Err(LmError::Cancelled);
        }
        last = step(net, &mut active, &mut caches).to_vec();
    }
}

/// Consecutive prompts that are read at once.
fn packs<'a>(prompts: &[Vec<u32>], group: &'a [usize], tokens_at_once: usize) -> Vec<&'a [usize]> {
    let (mut out, mut start, mut tokens) = (Vec::new(), 0, 0);
    for (i, p) in group.iter().enumerate() {
        let more = prompts[*p].len();
        if i > start && tokens + more > tokens_at_once {
            out.push(&group[start..i]);
            (start, tokens) = (i, 0);
        }
        tokens += more;
    }
    out.push(&group[start..]);
    out
}

/// Reads prompts; the normed hidden states of their last tokens.
fn prefill(net: &Net, prompts: &[Vec<u32>], part: &[usize], caches: &mut [Vec<KvCache>]) -> Buffer {
    let batch = Batch::pack(part.iter().map(|p| prompts[*p].as_slice()));
    let width = net.model.dims().heads.kv_width();
    let hidden = net.hidden_rounded(&batch, |block, saved| {
        let rows = batch.sequences.iter().map(|s| s.start * width..s.end * width);
        caches[block].extend(rows.map(|r| {
            let mut cache = KvCache::default();
            cache.extend(&saved.k[r.clone()], &saved.v[r], width);
            cache
        }));
    });
    let last: Vec<usize> = batch.sequences.iter().map(|s| s.end - 1).collect();
    net.normed(&hidden, &last)
}

/// Advances all answers by one token; the normed hidden states.
fn step(net: &Net, active: &mut [Active], caches: &mut [Vec<KvCache>]) -> Buffer {
    let ids: Vec<u32> = active.iter().map(|a| a.next).collect();
    let positions: Vec<u32> = active.iter().map(|a| a.position).collect();
    let furthest = positions.iter().max().map_or(0, |p| *p as usize + 1);
    let (dims, rope) = (net.model.dims(), net.model.rope(furthest));
    let heads = dims.heads;
    let mut x = net.embed(&ids);
    for (i, cache) in caches.iter_mut().enumerate() {
        let mut y = vec![0.0; x.len()];
        let mut view = BlockRef { rounded: true, ..net.block(i) };
        // So few rows are not faster in bf16.
        view.linear.iter_mut().for_each(|l| l.weight = l.weight.exact());
        view.step(&dims, &mut y, &x, &positions, &rope, |out, q, k, v| {
            timed(Part::Attention, || attend_each(cache, out, q, k, v, heads));
        });
        x = y;
    }
    active.iter_mut().for_each(|a| a.position += 1);
    net.normed(&x, &(0..active.len()).collect::<Vec<_>>())
}
