//! Answers, many at a time, with a cache of keys and values on the device.
//!
//! Prompts of like length are read together, padded at the end; every active answer then advances
//! by one token a step. A sequence does not see the padding, its own or another's. Tokens are chosen
//! on the host by the same code, from the same streams of random numbers, as on the CPU.

use candle_core::{DType, Result, Tensor};

use super::net::{Net, attention};
use crate::api::Watch;
use crate::error::LmError;
use crate::generate::{Active, Sampling};
use crate::padded::{Padded, padded};

/// Answers that advance together.
const TOGETHER: usize = 64;
/// Tokens of prompts that are read at once, padding included.
const PREFILL: usize = 4096;
/// Places by which a cache grows.
const GROWTH: usize = 256;

/// Answers prompts (token ids, none empty, none longer than the context), in order.
pub(super) fn generate(
    net: &Net,
    prompts: &[Vec<u32>],
    sampling: &Sampling,
    watch: &dyn Watch,
) -> std::result::Result<Vec<Vec<u32>>, LmError> {
    let mut answers = vec![Vec::new(); prompts.len()];
    let mut done = 0;
    let all: Vec<&[u32]> = prompts.iter().map(Vec::as_slice).collect();
    for group in padded(&all, PREFILL, TOGETHER) {
        if watch.cancelled() {
            return Err(LmError::Cancelled);
        }
        let mut batch = Running::new(net, prompts, &group, sampling)?;
        loop {
            for finished in batch.take(sampling) {
                done += 1;
                watch.count("tokens", finished.answer.len() as u64);
                watch.progress(done, prompts.len() as u64, "prompts", &[]);
                answers[finished.prompt] = finished.answer;
            }
            if batch.going == 0 {
                break;
            }
            if watch.cancelled() {
                return Err(LmError::Cancelled);
            }
            batch.advance()?;
        }
        watch.count("forward_passes", group.rows() as u64);
    }
    Ok(answers)
}

/// Keys and values of one block, `[rows, heads, places, width]` each.
struct Cache {
    keys: Tensor,
    values: Tensor,
}

/// A group of answers in the making.
struct Running<'a> {
    net: &'a Net,
    /// In the order of the caches' rows; what is finished is gone and its row goes on idly, until
    /// half of the rows do.
    answers: Vec<Option<Active>>,
    going: usize,
    /// Tokens of each row's prompt.
    lengths: Vec<usize>,
    /// Places that the padded prompts take.
    prompt: usize,
    /// Places taken in all.
    taken: usize,
    caches: Vec<Cache>,
    /// `rows × vocab` numbers.
    logits: Vec<f32>,
}

impl<'a> Running<'a> {
    /// Reads a group of prompts.
    fn new(net: &'a Net, prompts: &[Vec<u32>], group: &Padded, sampling: &Sampling) -> Result<Self> {
        let lengths: Vec<usize> = group.which.iter().map(|i| prompts[*i].len()).collect();
        let mut caches = Vec::with_capacity(net.blocks.len());
        let hidden = net.hidden(&group.ids, group.rows(), |keys, values| {
            caches.push(Cache { keys: roomier(&keys)?, values: roomier(&values)? });
            Ok(())
        })?;
        let last: Vec<u32> =
            lengths.iter().enumerate().map(|(row, n)| (row * group.length + n - 1) as u32).collect();
        let last = hidden.index_select(&net.ids(&last)?, 0)?;
        let answers = group.which.iter().zip(&lengths);
        Ok(Self {
            answers: answers.map(|(i, n)| Some(Active::new(*i, *n, sampling))).collect(),
            going: lengths.len(),
            logits: logits(net, &last)?,
            net,
            lengths,
            prompt: group.length,
            taken: group.length,
            caches,
        })
    }

    /// Takes each answer's next token; the answers that are at their end.
    fn take(&mut self, sampling: &Sampling) -> Vec<Active> {
        let c = &self.net.config;
        let mut finished = Vec::new();
        for (answer, logits) in self.answers.iter_mut().zip(self.logits.chunks_exact(c.vocab)) {
            if let Some(mut active) = answer.take() {
                match active.take(logits, sampling, c.context) {
                    true => *answer = Some(active),
                    false => finished.push(active),
                }
            }
        }
        self.going -= finished.len();
        finished
    }

    /// Reads each answer's new token.
    fn advance(&mut self) -> Result<()> {
        if self.going * 2 <= self.answers.len() {
            self.drop_idle()?;
        }
        self.grow()?;
        let (net, rows) = (self.net, self.answers.len());
        let of = |token: fn(&Active) -> u32| -> Vec<u32> {
            self.answers.iter().map(|a| a.as_ref().map_or(0, token)).collect()
        };
        let places = net.single(&of(|a| a.position), self.mask()?)?;
        let mut x = net.embedded(&net.ids(&of(|a| a.next))?)?;
        for (block, cache) in net.blocks.iter().zip(&self.caches) {
            let (q, k, v) = block.project(&net.dims, &x, rows, &places, None)?;
            cache.keys.slice_set(&k, 2, self.taken)?;
            cache.values.slice_set(&v, 2, self.taken)?;
            let seen = |t: &Tensor| t.narrow(2, 0, self.taken + 1);
            let attended =
                attention(&net.dims.heads, &q, &seen(&cache.keys)?, &seen(&cache.values)?, &places.masks[0])?;
            x = block.finish(&net.dims, &x, &attended, None)?;
        }
        self.logits = logits(net, &x)?;
        self.taken += 1;
        self.answers.iter_mut().flatten().for_each(|a| a.position += 1);
        Ok(())
    }

    /// 0 where a row sees a place, -∞ where not: the places between a prompt's end and the first
    /// answered token are padding. `[rows, 1, 1, places]`.
    fn mask(&self) -> Result<Tensor> {
        let places = self.taken + 1;
        let row = |n: &usize| {
            let n = *n;
            (0..places).map(move |p| if p < n || p >= self.prompt { 0.0 } else { f32::NEG_INFINITY })
        };
        let all: Vec<f32> = self.lengths.iter().flat_map(row).collect();
        Tensor::from_vec(all, (self.lengths.len(), 1, 1, places), &self.net.device)
    }

    /// Makes room for one more token.
    fn grow(&mut self) -> Result<()> {
        for cache in &mut self.caches {
            if cache.keys.dim(2)? == self.taken {
                *cache = Cache { keys: roomier(&cache.keys)?, values: roomier(&cache.values)? };
            }
        }
        Ok(())
    }

    /// Gives up the rows of finished answers.
    fn drop_idle(&mut self) -> Result<()> {
        let keep: Vec<u32> =
            (0..self.answers.len() as u32).filter(|&i| self.answers[i as usize].is_some()).collect();
        let rows = self.net.ids(&keep)?;
        for cache in &mut self.caches {
            cache.keys = cache.keys.index_select(&rows, 0)?;
            cache.values = cache.values.index_select(&rows, 0)?;
        }
        self.lengths = keep.iter().map(|i| self.lengths[*i as usize]).collect();
        self.answers.retain(Option::is_some);
        Ok(())
    }
}

/// Keys or values with room for more places.
fn roomier(old: &Tensor) -> Result<Tensor> {
    let (rows, heads, places, width) = old.dims4()?;
    let new = Tensor::zeros((rows, heads, places + GROWTH, width), DType::F32, old.device())?;
    new.slice_set(&old.contiguous()?, 2, 0)?;
    Ok(new)
}

/// Logits of hidden states before the final norm, on the host.
fn logits(net: &Net, hidden: &Tensor) -> Result<Vec<f32>> {
    net.logits(&net.normed(hidden)?)?.flatten_all()?.to_vec1()
}
