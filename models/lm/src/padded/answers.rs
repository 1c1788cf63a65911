//! Answers, many at a time, with a cache of keys and values, on a backend that pads.
//!
//! Prompts of like length are read together, padded at the end; every active answer then advances
//! by one token a step. A sequence does not see the padding, its own or another's. Tokens are chosen
//! here, from the same streams of random numbers as on the CPU; where the caches lie and how a token
//! is read is the backend's.

use rayon::prelude::*;

use super::{Padded, padded};
use crate::api::Watch;
use crate::config::DecoderConfig;
use crate::error::LmError;
use crate::generate::{Active, Sampling};

/// Answers that advance together.
const TOGETHER: usize = 64;
/// Tokens of prompts that are read at once, padding included.
const PREFILL: usize = 4096;

/// A model's keys and values of a group's sequences, one a row.
pub trait Caches {
    /// Reads each row's new token; the logits behind them, `rows × vocab` numbers.
    ///
    /// # Errors
    /// What the backend's library or device says.
    fn step(&mut self, rows: &Rows) -> Result<Vec<f32>, LmError>;

    /// Gives up all rows but these, which keep their order.
    ///
    /// # Errors
    /// What the backend's library or device says.
    fn keep(&mut self, rows: &[u32]) -> Result<(), LmError>;
}

/// The contents of the rows of a group's caches. The first places of each row are its prompt, padded
/// to the longest; the tokens of its answer follow, one a step.
pub struct Rows {
    /// What is finished is gone, and its row stays idle until half of the rows are.
    answers: Vec<Option<Active>>,
    /// Tokens of each row's prompt.
    lengths: Vec<usize>,
    /// Places that the padded prompts take.
    prompt: usize,
    /// Places taken in all.
    taken: usize,
}

impl Rows {
    fn new(prompts: &[Vec<u32>], group: &Padded, sampling: &Sampling) -> Self {
        let lengths: Vec<usize> = group.which.iter().map(|i| prompts[*i].len()).collect();
        let answers = group.which.iter().zip(&lengths).map(|(i, n)| Some(Active::new(*i, *n, sampling)));
        Self { answers: answers.collect(), lengths, prompt: group.length, taken: group.length }
    }

    /// How many.
    pub fn count(&self) -> usize {
        self.answers.len()
    }

    /// Place of the caches that the new tokens take.
    pub fn place(&self) -> usize {
        self.taken
    }

    /// Each row's new token; any for an idle row.
    pub fn tokens(&self) -> Vec<u32> {
        self.of(|active| active.next)
    }

    /// The position of each new token in its sequence; anywhere for an idle row.
    pub fn positions(&self) -> Vec<u32> {
        self.of(|active| active.position)
    }

    fn of(&self, what: fn(&Active) -> u32) -> Vec<u32> {
        self.answers.iter().map(|a| a.as_ref().map_or(0, what)).collect()
    }

    /// 0 where a row's new token sees a place, its own included, and -∞ where that is padding,
    /// `rows × (place + 1)` numbers.
    pub fn mask(&self) -> Vec<f32> {
        let places = 0..self.taken + 1;
        let row = |n: &usize| {
            let padding = *n..self.prompt;
            places.clone().map(move |p| if padding.contains(&p) { f32::NEG_INFINITY } else { 0.0 })
        };
        self.lengths.iter().flat_map(row).collect()
    }

    /// Rows of `[rows × length, hidden]` in which the prompts end.
    fn ends(&self) -> Vec<u32> {
        let end = |(row, n): (usize, &usize)| (row * self.prompt + n - 1) as u32;
        self.lengths.iter().enumerate().map(end).collect()
    }

    fn all_done(&self) -> bool {
        self.answers.iter().all(Option::is_none)
    }

    /// Takes each answer's next token; the answers that are at their end.
    fn take(&mut self, logits: &[f32], sampling: &Sampling, c: &DecoderConfig) -> Vec<Active> {
        let end = |(answer, logits): (&mut Option<Active>, &[f32])| {
            let active = answer.as_mut()?;
            if active.take(logits, sampling, c.context) { None } else { answer.take() }
        };
        let rows = self.answers.par_iter_mut().zip(logits.par_chunks_exact(c.vocab));
        rows.filter_map(end).collect()
    }

    /// Where half of the rows are idle: drops those, and returns the rows that are left.
    fn drop_idle(&mut self) -> Option<Vec<u32>> {
        let going = |row: &u32| self.answers[*row as usize].is_some();
        let kept: Vec<u32> = (0..self.answers.len() as u32).filter(going).collect();
        if kept.len() * 2 > self.answers.len() {
            return None;
        }
        self.lengths = kept.iter().map(|row| self.lengths[*row as usize]).collect();
        self.answers.retain(Option::is_some);
        Some(kept)
    }

    fn advanced(&mut self) {
        self.taken += 1;
        self.answers.iter_mut().flatten().for_each(|a| a.position += 1);
    }
}

/// Answers prompts (token ids, none empty, none longer than the context), in order. `read` reads a
/// group's prompts: their caches, and the logits behind the rows of `[rows × length, hidden]` that
/// it is given, `rows × vocab` numbers.
///
/// # Errors
/// [`LmError::Cancelled`] where `watch` says so, and what `read` and the caches give.
pub fn answers<C: Caches>(
    config: &DecoderConfig,
    prompts: &[Vec<u32>],
    sampling: &Sampling,
    watch: &dyn Watch,
    read: impl Fn(&Padded, &[u32]) -> Result<(C, Vec<f32>), LmError>,
) -> Result<Vec<Vec<u32>>, LmError> {
    let going = || if watch.cancelled() { Err(LmError::Cancelled) } else { Ok(()) };
    let mut answers = vec![Vec::new(); prompts.len()];
    let mut done = 0;
    let all: Vec<&[u32]> = prompts.iter().map(Vec::as_slice).collect();
    for group in padded(&all, PREFILL, TOGETHER) {
        going()?;
        let mut rows = Rows::new(prompts, &group, sampling);
        let (mut caches, mut logits) = read(&group, &rows.ends())?;
        loop {
            for finished in rows.take(&logits, sampling, config) {
                done += 1;
                watch.count("tokens", finished.answer.len() as u64);
                watch.progress(done, prompts.len() as u64, "prompts", &[]);
                answers[finished.prompt] = finished.answer;
            }
            if rows.all_done() {
                break;
            }
            going()?;
            if let Some(kept) = rows.drop_idle() {
                caches.keep(&kept)?;
            }
            logits = caches.step(&rows)?;
            rows.advanced();
        }
        watch.count("forward_passes", group.rows() as u64);
    }
    Ok(answers)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Unwatched;

    const VOCAB: usize = 97;
    const END: u32 = 3;

    /// What follows a sequence: its tokens weighed by where they stand.
    fn next(tokens: impl Iterator<Item = (u32, u32)>) -> u32 {
        tokens.map(|(at, token)| (at + 1) * (token + 1)).sum::<u32>() % VOCAB as u32
    }

    fn logits(next: u32) -> impl Iterator<Item = f32> {
        (0..VOCAB as u32).map(move |token| f32::from(u8::from(token == next)))
    }

    /// A model whose keys are tokens and the places where they stand in their sequences.
    struct Sums {
        rows: Vec<Vec<(u32, u32)>>,
    }

    impl Caches for Sums {
        fn step(&mut self, rows: &Rows) -> Result<Vec<f32>, LmError> {
            assert_eq!(self.rows.len(), rows.count());
            let mask = rows.mask();
            let new = rows.positions().into_iter().zip(rows.tokens());
            let mut all = Vec::new();
            for ((cache, new), mask) in self.rows.iter_mut().zip(new).zip(mask.chunks(rows.place() + 1)) {
                assert_eq!(cache.len(), rows.place());
                cache.push(new);
                let seen = cache.iter().zip(mask).filter(|(_, m)| **m == 0.0);
                all.extend(logits(next(seen.map(|(key, _)| *key))));
            }
            Ok(all)
        }

        fn keep(&mut self, rows: &[u32]) -> Result<(), LmError> {
            self.rows = rows.iter().map(|row| self.rows[*row as usize].clone()).collect();
            Ok(())
        }
    }

    /// Reads a group; positions behind a prompt's end are included, as padding is.
    fn read(group: &Padded, ends: &[u32]) -> Result<(Sums, Vec<f32>), LmError> {
        let rows: Vec<Vec<(u32, u32)>> =
            group.ids.chunks(group.length).map(|ids| (0..).zip(ids.iter().copied()).collect()).collect();
        let last = ends.iter().enumerate().map(|(row, end)| *end as usize - row * group.length);
        let logits = rows.iter().zip(last).flat_map(|(row, last)| logits(next(row[..=last].iter().copied())));
        Ok((Sums { rows: rows.clone() }, logits.collect()))
    }

    /// The answer to a prompt alone, without a cache.
    fn alone(prompt: &[u32], sampling: &Sampling, context: usize) -> Vec<u32> {
        let mut all = prompt.to_vec();
        while all.len() - prompt.len() < sampling.max_tokens && all.len() <= context {
            let next = next((0..).zip(all.iter().copied()));
            if next == END {
                break;
            }
            all.push(next);
        }
        all.split_off(prompt.len())
    }

    #[test]
    fn an_answer_does_not_depend_on_its_company() {
        let folder =
            std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/parity/llama-tied/model");
        let config = DecoderConfig::load(&folder).unwrap();
        let config = DecoderConfig { vocab: VOCAB, context: 40, ..config };
        let prompts: Vec<Vec<u32>> =
            (0..150).map(|i| (0..1 + i % 38).map(|j| (i * 31 + j * 17) % 90).collect()).collect();
        let sampling = Sampling { max_tokens: 30, temperature: 0.0, seed: 0, eos: &[END] };
        let found = answers(&config, &prompts, &sampling, &Unwatched, read).unwrap();
        let lengths: std::collections::BTreeSet<usize> = found.iter().map(Vec::len).collect();
        assert!(lengths.len() > 10, "answers end at different times: {lengths:?}");
        for (prompt, found) in prompts.iter().zip(found) {
            assert_eq!(found, alone(prompt, &sampling, config.context), "{prompt:?}");
        }
    }
}
