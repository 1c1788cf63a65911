//! [`Decoder`] over a backend's forward passes: texts in, texts and numbers out.

use std::ops::Range;
use std::path::Path;

use headstart_protocol::rows::Row;

use crate::api::{Decoder, GenerateOptions, ModelInfo, NextToken, RowScore, Watch};
use crate::choose;
use crate::config::DecoderConfig;
use crate::error::LmError;
use crate::generate::Sampling;
use crate::rows::{Example, parts};
use crate::text::TextCodec;

/// What a backend computes of a decoder, over token ids. [`TextDecoder`] makes the rest of it.
///
/// The numbers of one sequence must not depend on which others are computed with it.
pub trait Passes: Send {
    /// Shape and constants.
    fn config(&self) -> &DecoderConfig;

    /// Tokens that go through the model at once, single longer sequences aside.
    fn at_once(&self) -> usize {
        4096
    }

    /// Whether a sequence of so many tokens fits the memory that may be used.
    ///
    /// # Errors
    /// [`LmError::Memory`] with what it would take.
    fn fits(&self, _tokens: usize) -> Result<(), LmError> {
        Ok(())
    }

    /// Hidden states after the final norm: of each sequence the rows that are picked,
    /// `rows × hidden` numbers.
    ///
    /// # Errors
    /// What the backend's library or device says.
    fn states(&self, sequences: &[&[u32]], rows: &[Range<usize>]) -> Result<Vec<Vec<f32>>, LmError>;

    /// Logits of normed hidden states, `rows × vocab` numbers.
    ///
    /// # Errors
    /// What the backend's library or device says.
    fn logits(&self, normed: &[f32]) -> Result<Vec<f32>, LmError>;

    /// Negative log-likelihoods in nats of each example's targets, one example's after the other's.
    ///
    /// # Errors
    /// What the backend's library or device says.
    fn losses(&self, examples: &[&Example]) -> Result<Vec<f32>, LmError>;

    /// Answers prompts (token ids, none empty, none longer than the context), in order.
    ///
    /// # Errors
    /// As [`Decoder::generate`].
    fn generate(
        &self,
        prompts: &[Vec<u32>],
        sampling: &Sampling,
        watch: &dyn Watch,
    ) -> Result<Vec<Vec<u32>>, LmError>;
}

/// A causal language model with its tokenizer and prompt format.
pub struct TextDecoder<P> {
    passes: P,
    codec: TextCodec,
    info: ModelInfo,
}

/// What a config says about a model.
pub(crate) fn info(c: &DecoderConfig) -> ModelInfo {
    ModelInfo {
        model_type: c.model_type.clone(),
        parameters: c.parameters(),
        hidden: c.hidden,
        layers: c.layers,
        vocab: c.vocab,
        context: c.context,
    }
}

impl<P: Passes> TextDecoder<P> {
    /// What a model's folder says about text, then the passes that `load` makes of its weights.
    ///
    /// # Errors
    /// Those of [`TextCodec::load`], of `load` and of [`TextCodec::limit_vocab`].
    pub fn new(model: &Path, load: impl FnOnce() -> Result<P, LmError>) -> Result<Self, LmError> {
        let mut codec = TextCodec::load(model)?;
        let passes = load()?;
        codec.limit_vocab(passes.config().vocab)?;
        Ok(Self { info: info(passes.config()), codec, passes })
    }

    /// Hidden states after the final norm of rows that `rows` picks of each sequence, one sequence's
    /// after the other's, given to `each` with the sequence's number.
    fn read(
        &self,
        sequences: &[Vec<u32>],
        rows: impl Fn(usize) -> Range<usize>,
        watch: &dyn Watch,
        mut each: impl FnMut(usize, &[f32]) -> Result<(), LmError>,
    ) -> Result<(), LmError> {
        let mut start = 0;
        while start < sequences.len() {
            if watch.cancelled() {
                return Err(LmError::Cancelled);
            }
            let (mut end, mut tokens) = (start + 1, sequences[start].len());
            while end < sequences.len() && tokens + sequences[end].len() <= self.passes.at_once() {
                tokens += sequences[end].len();
                end += 1;
            }
            self.passes.fits(tokens)?;
            let part: Vec<&[u32]> = sequences[start..end].iter().map(Vec::as_slice).collect();
            let picked: Vec<Range<usize>> = part.iter().map(|s| rows(s.len())).collect();
            for (i, states) in self.passes.states(&part, &picked)?.iter().enumerate() {
                each(start + i, states)?;
            }
            watch.count("forward_passes", (end - start) as u64);
            watch.count("tokens", tokens as u64);
            watch.progress(end as u64, sequences.len() as u64, "texts", &[]);
            start = end;
        }
        Ok(())
    }

    fn score_rows(&self, rows: &[Row], limit: usize, watch: &dyn Watch) -> Result<Vec<RowScore>, LmError> {
        let limit = limit.min(self.info.context);
        let examples: Vec<Example> =
            rows.iter().map(|r| Example::new(&self.codec, r, limit)).collect::<Result<_, _>>()?;
        let mut scores = Vec::with_capacity(rows.len());
        self.passes.fits(examples.iter().map(|e| e.ids.len()).max().unwrap_or(0))?;
        for part in parts(&examples.iter().collect::<Vec<_>>(), self.passes.at_once()) {
            if watch.cancelled() {
                return Err(LmError::Cancelled);
            }
            let losses = self.passes.losses(&part)?;
            let mut left = losses.as_slice();
            for e in &part {
                let (own, rest) = left.split_at(e.targets());
                left = rest;
                scores.push(RowScore {
                    nll: own.iter().map(|l| f64::from(*l)).sum(),
                    tokens: own.len(),
                    bytes: e.bytes,
                });
            }
            watch.count("forward_passes", part.len() as u64);
            watch.count("tokens", part.iter().map(|e| e.ids.len() as u64).sum());
            watch.progress(scores.len() as u64, rows.len() as u64, "rows", &[]);
        }
        Ok(scores)
    }

    fn pooled_texts(&self, texts: &[String], watch: &dyn Watch) -> Result<Vec<Vec<f32>>, LmError> {
        let mut windows = Vec::new();
        let mut owner = Vec::new();
        for (i, text) in texts.iter().enumerate() {
            let ids = self.codec.text_ids(text)?;
            for window in ids.chunks(self.info.context) {
                windows.push(window.to_vec());
                owner.push(i);
            }
        }
        let hidden = self.info.hidden;
        let mut sums = vec![(vec![0f64; hidden], 0usize); texts.len()];
        self.read(
            &windows,
            |n| 0..n,
            watch,
            |i, states| {
                let (sum, tokens) = &mut sums[owner[i]];
                for row in states.chunks_exact(hidden) {
                    sum.iter_mut().zip(row).for_each(|(s, v)| *s += f64::from(*v));
                    *tokens += 1;
                }
                Ok(())
            },
        )?;
        let mean = |(sum, n): (Vec<f64>, usize)| sum.iter().map(|s| (s / n.max(1) as f64) as f32).collect();
        Ok(sums.into_iter().map(mean).collect())
    }

    fn next_tokens(
        &self,
        prompts: &[String],
        top: usize,
        watch: &dyn Watch,
    ) -> Result<Vec<NextToken>, LmError> {
        let ids = self.prompts(prompts)?;
        let mut out = Vec::with_capacity(prompts.len());
        self.read(
            &ids,
            |n| n - 1..n,
            watch,
            |_, state| {
                let logits = self.passes.logits(state)?;
                out.push(NextToken { hidden: state.to_vec(), top: self.most_probable(&logits, top) });
                Ok(())
            },
        )?;
        Ok(out)
    }

    fn most_probable(&self, logits: &[f32], top: usize) -> Vec<(String, f32)> {
        let largest = logits.iter().fold(f32::NEG_INFINITY, |m, l| m.max(*l));
        let sum: f64 = logits.iter().map(|l| f64::from(l - largest).exp()).sum();
        let probability = |i: usize| (f64::from(logits[i] - largest).exp() / sum) as f32;
        let tokens = choose::largest(logits, top).into_iter();
        tokens.map(|i| (self.codec.token_text(i as u32), probability(i))).collect()
    }

    /// Prompts as ids, each within the context.
    fn prompts(&self, prompts: &[String]) -> Result<Vec<Vec<u32>>, LmError> {
        self.within_context(prompts.iter().map(|p| self.codec.prompt_ids(p)))
    }

    /// Ids of prompts, refused where they have none or more than the context.
    fn within_context(
        &self,
        prompts: impl Iterator<Item = Result<Vec<u32>, LmError>>,
    ) -> Result<Vec<Vec<u32>>, LmError> {
        let read = |(i, ids): (usize, Result<Vec<u32>, LmError>)| {
            let ids = ids?;
            match ids.len() {
                0 => Err(LmError::Input(format!("prompt {} has no tokens", i + 1))),
                n if n > self.info.context => Err(LmError::Input(format!(
                    "prompt {} has {n} tokens, more than the model's context of {}",
                    i + 1,
                    self.info.context
                ))),
                _ => Ok(ids),
            }
        };
        prompts.enumerate().map(read).collect()
    }

    fn answers(
        &self,
        ids: &[Vec<u32>],
        options: &GenerateOptions,
        watch: &dyn Watch,
    ) -> Result<Vec<String>, LmError> {
        let sampling = Sampling {
            max_tokens: options.max_tokens,
            temperature: options.temperature,
            seed: options.seed,
            eos: self.codec.eos(),
        };
        let answers = self.passes.generate(ids, &sampling, watch)?;
        Ok(answers.iter().map(|a| self.codec.decode(a).trim().to_owned()).collect())
    }
}

impl<P: Passes> Decoder for TextDecoder<P> {
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    fn generate(
        &self,
        prompts: &[String],
        options: &GenerateOptions,
        watch: &dyn Watch,
    ) -> Result<Vec<String>, LmError> {
        self.answers(&self.prompts(prompts)?, options, watch)
    }

    fn answer(
        &self,
        rows: &[Row],
        options: &GenerateOptions,
        watch: &dyn Watch,
    ) -> Result<Vec<String>, LmError> {
        let ids = self.within_context(rows.iter().map(|row| self.codec.question_ids(row)))?;
        self.answers(&ids, options, watch)
    }

    fn references(&self, rows: &[Row]) -> Result<Vec<String>, LmError> {
        rows.iter().map(|row| self.codec.rendered_response(row)).collect()
    }

    fn score(&self, rows: &[Row], max_tokens: usize, watch: &dyn Watch) -> Result<Vec<RowScore>, LmError> {
        self.score_rows(rows, max_tokens, watch)
    }

    fn pooled(&self, texts: &[String], watch: &dyn Watch) -> Result<Vec<Vec<f32>>, LmError> {
        self.pooled_texts(texts, watch)
    }

    fn next(&self, prompts: &[String], top: usize, watch: &dyn Watch) -> Result<Vec<NextToken>, LmError> {
        self.next_tokens(prompts, top, watch)
    }
}
