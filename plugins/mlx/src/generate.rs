//! Answers, many at a time, with a cache of keys and values.
//!
//! Prompts of like length are read together, padded at the end; every active answer then advances
//! by one token a step. A sequence does not see the padding, its own or another's, so an answer
//! does not depend on which others are made with it, except that MLX may round the same sum
//! differently in a batch of another shape. Tokens are chosen by the same code, from the same
//! streams of random numbers, as in the backend on candle.

use headstart_lm::LmError;
use headstart_lm::api::Watch;
use headstart_lm::generate::{Active, Sampling};
use headstart_lm::padded::{Padded, padded};
use mlx_rs::error::Result;
use mlx_rs::{Array, ops, transforms};

use crate::net::{Cache, Net, Step, ids, numbers, padded_ids};
use crate::thread::fault;

/// Answers that advance together.
const TOGETHER: usize = 64;
/// Tokens of prompts that are read at once.
const PREFILL: usize = 4096;
/// Places by which a cache grows.
const GROWTH: i32 = 256;

/// Answers prompts (token ids, none empty, none longer than the context), in order.
pub(crate) fn generate(
    net: &Net,
    prompts: &[Vec<u32>],
    sampling: &Sampling,
    watch: &dyn Watch,
) -> std::result::Result<Vec<Vec<u32>>, LmError> {
    let mut answers = vec![Vec::new(); prompts.len()];
    let mut done = 0;
    let all: Vec<&[u32]> = prompts.iter().map(Vec::as_slice).collect();
    for group in padded(&all, PREFILL, TOGETHER) {
        let mut batch = Running::new(net, prompts, &group, sampling).map_err(fault)?;
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
            batch.advance().map_err(fault)?;
        }
        watch.count("forward_passes", group.which.len() as u64);
    }
    Ok(answers)
}

/// A group of answers in the making.
struct Running<'a> {
    net: &'a Net,
    /// In the order of the batch's rows; what is finished is gone and its row goes on idly, until
    /// half of the rows do.
    answers: Vec<Option<Active>>,
    going: usize,
    /// Tokens of each row's prompt.
    lengths: Vec<usize>,
    /// Places that the padded prompts take.
    prompt: i32,
    /// Places taken in all.
    taken: i32,
    caches: Vec<Cache>,
    logits: Vec<f32>,
}

impl<'a> Running<'a> {
    /// Reads a group of prompts.
    fn new(net: &'a Net, prompts: &[Vec<u32>], group: &Padded, sampling: &Sampling) -> Result<Self> {
        let (c, all) = (net.places.config(), &net.arrays);
        let lengths: Vec<usize> = group.which.iter().map(|i| prompts[*i].len()).collect();
        let mut caches = Vec::with_capacity(c.layers);
        let hidden = net.places.run(all, &padded_ids(group), |_, keys, values| {
            caches.push(Cache { keys, values });
            Ok(())
        })?;
        let last: Vec<u32> =
            lengths.iter().enumerate().map(|(row, n)| (row * group.length + n - 1) as u32).collect();
        let last = hidden.reshape(&[-1, c.hidden as i32])?.take_axis(ids(&last, &[last.len() as i32]), 0)?;
        let logits = net.places.logits(all, &net.places.normed(all, &last)?)?;
        transforms::eval(caches.iter().flat_map(|c| [&c.keys, &c.values]).chain([&logits]))?;
        let answers = group.which.iter().zip(&lengths);
        let length = group.length as i32;
        Ok(Self {
            answers: answers.map(|(i, n)| Some(Active::new(*i, *n, sampling))).collect(),
            going: lengths.len(),
            logits: numbers(&logits)?,
            net,
            lengths,
            prompt: length,
            taken: length,
            caches,
        })
    }

    /// Takes each answer's next token; the answers that are at their end.
    fn take(&mut self, sampling: &Sampling) -> Vec<Active> {
        let c = self.net.places.config();
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
        let rows = self.answers.len() as i32;
        let step = Step {
            positions: Array::from_iter(self.answers.iter().map(|a| position(a) as i32), &[rows]),
            mask: self.mask(),
            place: self.taken,
        };
        let next: Vec<u32> = self.answers.iter().map(|a| a.as_ref().map_or(0, |a| a.next)).collect();
        let (places, all) = (&self.net.places, &self.net.arrays);
        let hidden = places.step(all, &ids(&next, &[rows, 1]), &mut self.caches, &step)?;
        let hidden = hidden.reshape(&[rows, -1])?;
        let logits = places.logits(all, &places.normed(all, &hidden)?)?;
        transforms::eval(self.caches.iter().flat_map(|c| [&c.keys, &c.values]).chain([&logits]))?;
        self.logits = numbers(&logits)?;
        self.taken += 1;
        self.answers.iter_mut().flatten().for_each(|a| a.position += 1);
        Ok(())
    }

    /// 0 where a row sees a place, -∞ where not: the places between a prompt's end and the first
    /// answered token are padding.
    fn mask(&self) -> Array {
        let places = self.taken + 1;
        let row = |n: &usize| {
            let n = *n as i32;
            (0..places).map(move |p| if p < n || p >= self.prompt { 0.0 } else { f32::NEG_INFINITY })
        };
        Array::from_iter(self.lengths.iter().flat_map(row), &[self.lengths.len() as i32, 1, 1, places])
    }

    /// Makes room for one more token.
    fn grow(&mut self) -> Result<()> {
        let Some(cache) = self.caches.first() else { return Ok(()) };
        if self.taken < cache.keys.dim(2) {
            return Ok(());
        }
        for cache in &mut self.caches {
            for array in [&mut cache.keys, &mut cache.values] {
                let room = ops::zeros::<f32>(&[array.dim(0), array.dim(1), GROWTH, array.dim(3)])?;
                *array = ops::concatenate(&[&*array, &room], 2)?;
            }
        }
        Ok(())
    }

    /// Gives up the rows of finished answers.
    fn drop_idle(&mut self) -> Result<()> {
        let keep: Vec<u32> =
            (0..self.answers.len() as u32).filter(|&i| self.answers[i as usize].is_some()).collect();
        let rows = ids(&keep, &[keep.len() as i32]);
        for cache in &mut self.caches {
            cache.keys = cache.keys.take_axis(&rows, 0)?;
            cache.values = cache.values.take_axis(&rows, 0)?;
        }
        self.lengths = keep.iter().map(|i| self.lengths[*i as usize]).collect();
        self.answers.retain(Option::is_some);
        Ok(())
    }
}

/// Where an answer's new token stands in its sequence; anywhere for an idle row.
fn position(answer: &Option<Active>) -> u32 {
    answer.as_ref().map_or(0, |a| a.position)
}
