//! ROUGE (Lin, 2004), number for number as Google's `rouge_score` computes it without a stemmer:
//! lower case, runs of `a` to `z` and digits are words. Scores are F measures, 0 to 1.
//!
//! Text in other scripts has no words by this definition and scores 0, as in `rouge_score`.

use std::collections::BTreeMap;

/// F measures of a pair of texts.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rouge {
    /// Of words.
    pub rouge1: f64,
    /// Of pairs of neighbouring words.
    pub rouge2: f64,
    /// Of the longest common subsequence of words.
    pub rouge_l: f64,
}

impl Rouge {
    /// Scores a hypothesis against a reference.
    pub fn of(hypothesis: &str, reference: &str) -> Self {
        let (hyp, reference) = (words(hypothesis), words(reference));
        Self {
            rouge1: ngrams(&hyp, &reference, 1),
            rouge2: ngrams(&hyp, &reference, 2),
            rouge_l: f_measure(common_subsequence(&hyp, &reference), hyp.len(), reference.len()),
        }
    }

    /// Mean over pairs; all 0 where there is none.
    pub fn mean<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let (mut sum, mut n) = (Self::default(), 0.0);
        for (hypothesis, reference) in pairs {
            let score = Self::of(hypothesis, reference);
            sum.rouge1 += score.rouge1;
            sum.rouge2 += score.rouge2;
            sum.rouge_l += score.rouge_l;
            n += 1.0;
        }
        let n = f64::max(n, 1.0);
        Self { rouge1: sum.rouge1 / n, rouge2: sum.rouge2 / n, rouge_l: sum.rouge_l / n }
    }
}

fn words(text: &str) -> Vec<String> {
    let lower = text.to_lowercase();
    let split = lower.split(|c: char| !(c.is_ascii_lowercase() || c.is_ascii_digit()));
    split.filter(|w| !w.is_empty()).map(str::to_owned).collect()
}

fn ngrams(hypothesis: &[String], reference: &[String], n: usize) -> f64 {
    let count = |words: &[String]| {
        let mut counts: BTreeMap<Vec<String>, usize> = BTreeMap::new();
        for gram in words.windows(n) {
            *counts.entry(gram.to_vec()).or_default() += 1;
        }
        counts
    };
    let (found, wanted) = (count(hypothesis), count(reference));
    let common = found.iter().map(|(gram, times)| *times.min(wanted.get(gram).unwrap_or(&0))).sum();
    f_measure(common, found.values().sum(), wanted.values().sum())
}

fn f_measure(common: usize, hypothesis: usize, reference: usize) -> f64 {
    if common == 0 {
        return 0.0;
    }
    let (precision, recall) = (common as f64 / hypothesis as f64, common as f64 / reference as f64);
    2.0 * precision * recall / (precision + recall)
}

/// Length of the longest common subsequence; O(n·m) time, O(m) memory.
fn common_subsequence(a: &[String], b: &[String]) -> usize {
    let mut lengths = vec![0; b.len() + 1];
    for x in a {
        let mut diagonal = 0;
        for (j, y) in b.iter().enumerate() {
            let above = lengths[j + 1];
            lengths[j + 1] = if x == y { diagonal + 1 } else { above.max(lengths[j]) };
            diagonal = above;
        }
    }
    lengths[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_are_those_of_rouge_score() {
        // Computed with rouge_score, without a stemmer.
        for (hypothesis, reference, expected) in [
            ("the cat sat on the mat", "the cat is on the mat", [0.833333, 0.6, 0.833333]),
            (
                "Sure thing, friend! Here's 3.5 cool facts (really).",
                "Sure! Here are 3.5 facts, friend; really.",
                [0.777778, 0.125, 0.666667],
            ),
            ("a b c", "a b c d e f g", [0.6, 0.5, 0.6]),
            ("", "hello world", [0.0; 3]),
            (
                "Don't stop—it's 10,000 e-mails & counting…",
                "Do not stop: it's 10,000 emails and counting.",
                [0.6, 0.444444, 0.6],
            ),
            (
                "The quick brown fox jumps over the lazy dog .",
                "The quick brown dog jumps over the lazy fox .",
                [1.0, 0.625, 0.777778],
            ),
            ("你好 世界", "你好 世界", [0.0; 3]),
        ] {
            let r = Rouge::of(hypothesis, reference);
            for (found, expected) in [r.rouge1, r.rouge2, r.rouge_l].into_iter().zip(expected) {
                assert!((found - expected).abs() < 5e-7, "{hypothesis}: {r:?}");
            }
        }
    }

    #[test]
    fn means_are_over_pairs() {
        let mean = Rouge::mean([("a", "a"), ("a", "b")]);
        assert_eq!(mean, Rouge { rouge1: 0.5, rouge2: 0.0, rouge_l: 0.5 });
        assert_eq!(Rouge::mean([]), Rouge::default());
    }
}
