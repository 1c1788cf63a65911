//! Rows as token ids, which of them are predicted, and how they are packed.

use std::ops::Range;

use headstart_protocol::rows::Row;

use crate::block::Batch;
use crate::error::LmError;
use crate::text::TextCodec;

/// A row as tokens.
#[derive(Clone, Debug, PartialEq)]
pub struct Example {
    /// Prompt and response, the end token included, cut at the limit; in a conversation, all of it.
    pub ids: Vec<u32>,
    /// The tokens that count: those of answers.
    pub answers: Vec<Range<usize>>,
    /// Bytes of what the answers say, as far as their tokens are here.
    pub bytes: usize,
    /// Whether it was cut.
    pub cut: bool,
}

impl Example {
    /// Tokenizes a row, at most `limit` tokens of it.
    ///
    /// # Errors
    /// [`LmError::File`] where the chat template fails.
    pub fn new(codec: &TextCodec, row: &Row, limit: usize) -> Result<Self, LmError> {
        let mut tokens = codec.row_tokens(row)?;
        let cut = tokens.ids.len() > limit;
        tokens.ids.truncate(limit);
        let (mut answers, mut bytes) = (Vec::new(), 0);
        for answer in &tokens.answers {
            // The very first token has nothing to be predicted from.
            let (start, end) = (answer.tokens.start.max(1), answer.tokens.end.min(limit));
            if start < end {
                bytes += answer.bytes[end - 1 - answer.tokens.start];
                answers.push(start..end);
            }
        }
        Ok(Self { ids: tokens.ids, answers, bytes, cut })
    }

    /// Places of the tokens that are predicted, rising; never 0.
    pub fn predicted(&self) -> impl Iterator<Item = usize> + '_ {
        self.answers.iter().cloned().flatten()
    }

    /// Tokens that are predicted.
    pub fn targets(&self) -> usize {
        self.answers.iter().map(Range::len).sum()
    }
}

/// Which tokens are predicted from which.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Targets {
    /// Rows of the hidden state that predict.
    pub rows: Vec<usize>,
    /// The token that each predicts.
    pub ids: Vec<u32>,
}

/// Packs examples and lists their targets.
pub fn pack<'a>(examples: impl IntoIterator<Item = &'a Example> + Clone) -> (Batch, Targets) {
    let batch = Batch::pack(examples.clone().into_iter().map(|e| e.ids.as_slice()));
    let mut targets = Targets::default();
    for (s, e) in batch.sequences.iter().zip(examples) {
        targets.rows.extend(e.predicted().map(|i| s.start + i - 1));
        targets.ids.extend(e.predicted().map(|i| e.ids[i]));
    }
    (batch, targets)
}

/// Cuts a list into consecutive parts of at most `budget` tokens, at least one example each.
pub fn parts<'a>(examples: &[&'a Example], budget: usize) -> Vec<Vec<&'a Example>> {
    let mut out: Vec<Vec<&Example>> = Vec::new();
    let mut tokens = 0;
    for e in examples {
        match out.last_mut() {
            Some(part) if tokens + e.ids.len() <= budget => part.push(e),
            _ => {
                out.push(vec![e]);
                tokens = 0;
            }
        }
        tokens += e.ids.len();
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(clippy::single_range_in_vec_init, reason = "one answer")]
    fn example(n: usize, first: usize) -> Example {
        Example { ids: (0..n as u32).collect(), answers: vec![first..n], bytes: 0, cut: false }
    }

    #[test]
    fn targets_are_the_next_tokens_behind_the_prompt() {
        let two = Example { answers: vec![1..2, 3..4], ..example(5, 3) };
        let rows = [example(5, 3), example(4, 1), two];
        let (batch, targets) = pack(&rows);
        assert_eq!(batch.ids, [0, 1, 2, 3, 4, 0, 1, 2, 3, 0, 1, 2, 3, 4]);
        assert_eq!(batch.positions, batch.ids, "each sequence counts from 0");
        assert_eq!(targets.rows, [2, 3, 5, 6, 7, 9, 11]);
        assert_eq!(targets.ids, [3, 4, 1, 2, 3, 1, 3]);
    }

    #[test]
    fn parts_keep_the_budget_and_the_order() {
        let rows = [example(5, 1), example(4, 1), example(9, 1), example(2, 1), example(3, 1)];
        let all: Vec<&Example> = rows.iter().collect();
        let lens: Vec<Vec<usize>> =
            parts(&all, 9).iter().map(|p| p.iter().map(|e| e.ids.len()).collect()).collect();
        assert_eq!(lens, [vec![5, 4], vec![9], vec![2, 3]]);
    }
}
