//! BLEU (Papineni et al., 2002), number for number as sacrebleu 2.x computes it: tokenizer `13a`,
//! case kept, one reference, smoothing `exp`. Scores are 0 to 100.

use std::collections::HashMap;
use std::sync::LazyLock;

use regex::Regex;

/// Longest n-gram that counts.
pub const ORDER: usize = 4;

/// What BLEU is computed from; of a corpus, the sum over its sentences.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// N-grams of the hypothesis that the reference has too, each at most as often as there.
    pub correct: [u64; ORDER],
    /// N-grams of the hypothesis.
    pub total: [u64; ORDER],
    /// Tokens of the hypothesis.
    pub hypothesis: u64,
    /// Tokens of the reference.
    pub reference: u64,
}

impl Counts {
    /// Counts a sentence pair.
    pub fn of(hypothesis: &str, reference: &str) -> Self {
        let (hyp, reference) = (tokenize_13a(hypothesis), tokenize_13a(reference));
        let (hyp, reference): (Vec<&str>, Vec<&str>) = (
            hyp.split(' ').filter(|t| !t.is_empty()).collect(),
            reference.split(' ').filter(|t| !t.is_empty()).collect(),
        );
        let mut counts =
            Self { hypothesis: hyp.len() as u64, reference: reference.len() as u64, ..Self::default() };
        for n in 1..=ORDER {
            let allowed = ngrams(&reference, n);
            let found = ngrams(&hyp, n);
            counts.total[n - 1] = found.values().sum();
            // A sum: the map's order does not matter.
            counts.correct[n - 1] =
                found.iter().map(|(gram, times)| *times.min(allowed.get(gram).unwrap_or(&0))).sum();
        }
        counts
    }

    fn add(&mut self, other: &Self) {
        for n in 0..ORDER {
            self.correct[n] += other.correct[n];
            self.total[n] += other.total[n];
        }
        self.hypothesis += other.hypothesis;
        self.reference += other.reference;
    }

    /// The score. With `effective_order` only orders that the hypothesis is long enough for count,
    /// as befits single sentences.
    pub fn score(&self, effective_order: bool) -> f64 {
        if self.correct.iter().all(|c| *c == 0) {
            return 0.0;
        }
        let mut smoothing = 1.0;
        let mut order = ORDER;
        let mut log_sum = 0.0;
        for n in 0..ORDER {
            if self.total[n] == 0 {
                // Without the effective order a missing precision is 0, and so is the product.
                if !effective_order {
                    return 0.0;
                }
                break;
            }
            order = n + 1;
            let precision = if self.correct[n] == 0 {
                smoothing *= 2.0;
                100.0 / (smoothing * self.total[n] as f64)
            } else {
                100.0 * self.correct[n] as f64 / self.total[n] as f64
            };
            log_sum += precision.ln();
        }
        self.brevity_penalty() * (log_sum / order as f64).exp()
    }

    /// `exp(1 − r/c)` where the hypothesis is shorter than the reference, else 1.
    pub fn brevity_penalty(&self) -> f64 {
        match (self.hypothesis, self.reference) {
            (h, r) if h >= r => 1.0,
            (0, _) => 0.0,
            (h, r) => (1.0 - r as f64 / h as f64).exp(),
        }
    }
}

/// BLEU of a sentence, 0 to 100: sacrebleu's `sentence_bleu`, which uses the effective order.
pub fn sentence(hypothesis: &str, reference: &str) -> f64 {
    Counts::of(hypothesis, reference).score(true)
}

/// BLEU of a corpus of (hypothesis, reference), 0 to 100: sacrebleu's `corpus_bleu`.
pub fn corpus<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> f64 {
    corpus_counts(pairs).score(false)
}

/// Counts of a corpus of (hypothesis, reference).
pub fn corpus_counts<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Counts {
    let mut sum = Counts::default();
    for (hypothesis, reference) in pairs {
        sum.add(&Counts::of(hypothesis, reference));
    }
    sum
}

fn ngrams<'a>(tokens: &'a [&'a str], n: usize) -> HashMap<&'a [&'a str], u64> {
    let mut counts = HashMap::new();
    for gram in tokens.windows(n) {
        *counts.entry(gram).or_insert(0) += 1;
    }
    counts
}

/// The tokenizer of the WMT evaluation script `mteval-v13a`; tokens are joined by single spaces.
pub fn tokenize_13a(text: &str) -> String {
    static RULES: LazyLock<[(Regex, &str); 4]> = LazyLock::new(|| {
        let rule = |pattern: &str| Regex::new(pattern).expect("a valid pattern");
        [
            // Punctuation, apart from full stop, comma, hyphen and apostrophe.
            (rule(r"([\{-~\[-` -&\(-\+:-@/])"), " $1 "),
            // Full stop and comma, unless a digit precedes it.
            (rule(r"([^0-9])([\.,])"), "$1 $2 "),
            // Full stop and comma, unless a digit follows.
            (rule(r"([\.,])([^0-9])"), " $1 $2"),
            // A hyphen behind a digit.
            (rule(r"([0-9])(-)"), "$1 $2 "),
        ]
    });
    let mut text =
        text.trim_end_matches(is_space).replace("<skipped>", "").replace("-\n", "").replace('\n', " ");
    if text.contains('&') {
        // One after another, as there: `&amp;lt;` becomes `<`.
        for (entity, sign) in [("&quot;", "\""), ("&amp;", "&"), ("&lt;", "<"), ("&gt;", ">")] {
            text = text.replace(entity, sign);
        }
    }
    let mut text = format!(" {text} ");
    for (pattern, replacement) in RULES.iter() {
        text = pattern.replace_all(&text, *replacement).into_owned();
    }
    text.split(is_space).filter(|t| !t.is_empty()).collect::<Vec<_>>().join(" ")
}

/// White space as Python sees it: Unicode's, and four separators of ASCII.
fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// (hypothesis, reference, sentence BLEU), as sacrebleu 2.6.0 computes them.
    pub(crate) const GOLDEN: [(&str, &str, f64); 7] = [
        ("the cat sat on the mat", "the cat is on the mat", 37.991784),
        (
            "Sure thing, friend! Here's 3.5 cool facts (really).",
            "Sure! Here are 3.5 facts, friend; really.",
            8.737168,
        ),
        ("a b c", "a b c d e f g", 26.359714),
        ("", "hello world", 0.0),
        (
            "Don't stop—it's 10,000 e-mails & counting…",
            "Do not stop: it's 10,000 emails and counting.",
            4.167252,
        ),
        (
            "The quick brown fox jumps over the lazy dog .",
            "The quick brown dog jumps over the lazy fox .",
            41.535092,
        ),
        ("你好 世界", "你好 世界", 100.0),
    ];

    #[test]
    fn sentences_score_as_in_sacrebleu() {
        for (hypothesis, reference, expected) in GOLDEN {
            let score = sentence(hypothesis, reference);
            assert!((score - expected).abs() < 5e-7, "{hypothesis}: {score} instead of {expected}");
        }
    }

    #[test]
    fn a_corpus_scores_as_in_sacrebleu() {
        let counts = corpus_counts(GOLDEN.iter().map(|(h, r, _)| (*h, *r)));
        assert_eq!(format!("{:.2}", counts.score(false)), "17.29");
        assert_eq!(format!("{:.3}", counts.brevity_penalty()), "0.819");
        let precision = |n: usize| 100.0 * counts.correct[n] as f64 / counts.total[n] as f64;
        let shown: Vec<_> = (0..ORDER).map(|n| format!("{:.1}", precision(n))).collect();
        assert_eq!(shown, ["72.5", "35.3", "17.9", "4.3"]);
    }

    #[test]
    fn a_corpus_too_short_for_four_words_scores_nothing() {
        assert_eq!(corpus([("a b c", "a b c")]), 0.0);
        assert!((sentence("a b c", "a b c") - 100.0).abs() < 1e-9);
        assert_eq!(corpus([]), 0.0);
    }

    #[test]
    fn tokens_are_those_of_13a() {
        for (text, tokens) in [
            ("Hello, world.", "Hello , world ."),
            ("10,000.5 and .5, 3-4 well-known", "10,000.5 and . 5 , 3 - 4 well-known"),
            ("a &lt;b&gt; &amp;lt; &quot;c&quot;", "a < b > < \" c \""),
            ("end-\nof line\nnext", "endof line next"),
            ("<skipped>x\u{1d}y\u{a0}z", "x y z"),
        ] {
            assert_eq!(tokenize_13a(text), tokens);
        }
    }
}
