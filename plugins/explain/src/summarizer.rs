//! The published method's question (XPerT, Wang et al., MobiSys 2025, figure 6), in both orders.

use std::collections::{BTreeMap, BTreeSet};

use headstart_protocol::artifacts::Candidate;

use crate::contrast::Contrast;
use crate::lexicon::Lexicon;

/// One question in both orders.
pub(crate) struct Window {
    /// The described answer is Response 1.
    pub forth: String,
    /// The described answer is Response 2.
    pub back: String,
}

const QUESTION: &str = "Given the two responses to the same question listed below, which language style is more \
                        characteristic of Response 1 than Response 2? Reply with only one adjective.";

/// Bytes that a token surely holds at least on average, even with a small vocabulary.
const BYTES_PER_TOKEN: usize = 2;

/// The questions about a pair. Answers too long for the model's context are cut into equally many
/// windows on both sides, at white space, so that nothing is left out.
pub(crate) fn windows(pair: &Contrast<'_>, context: usize) -> Vec<Window> {
    let frame = QUESTION.len() + 64;
    let prompt = head(pair.prompt, context * BYTES_PER_TOKEN / 8);
    let room = (context * BYTES_PER_TOKEN).saturating_sub(frame + prompt.len()).max(64) / 2;
    let count = pair.answer.len().max(pair.plain.len()).div_ceil(room).max(1);
    let (answers, plains) = (split(pair.answer, count), split(pair.plain, count));
    let ask = |one: &str, two: &str| {
        format!("{QUESTION}\nQuestion: {prompt}\nResponse 1: {one}\nResponse 2: {two}\nAnswer:")
    };
    let window = |(a, p): (&&str, &&str)| Window { forth: ask(a, p), back: ask(p, a) };
    answers.iter().zip(&plains).map(window).collect()
}

/// The beginning of a text, of `bytes` bytes at most.
fn head(text: &str, bytes: usize) -> &str {
    &text[..boundary(text, bytes)]
}

/// The last character boundary at or before a byte.
fn boundary(text: &str, at: usize) -> usize {
    (0..=at.min(text.len())).rev().find(|&i| text.is_char_boundary(i)).unwrap_or(0)
}

/// `count` parts of about equal length, cut at white space where there is some nearby.
fn split(text: &str, count: usize) -> Vec<&str> {
    let mut cuts = vec![0];
    for i in 1..count {
        let at = boundary(text, text.len() * i / count);
        let back = text[..at].rfind(char::is_whitespace).unwrap_or(at);
        let cut = if at - back <= 40 { back } else { at };
        cuts.push(cut.max(cuts[i - 1]));
    }
    cuts.push(text.len());
    cuts.windows(2).map(|w| text[w[0]..w[1]].trim()).collect()
}

/// Endings of English adjectives, in words of five letters or more.
const ENDINGS: &[&str] = &[
    "al", "ive", "ous", "ful", "ic", "ish", "less", "able", "ible", "ant", "ent", "ary", "ory", "ed", "ing",
    "y", "ate", "some", "ese", "que", "like",
];

/// Endings of nouns and adverbs that end like an adjective.
const NOUNS_AND_ADVERBS: &[&str] = &["ly", "ity", "cy", "gy", "phy"];

/// Adjectives of style that have none of these endings.
const PLAIN: &[&str] = &[
    "blunt", "bold", "brief", "clear", "cold", "cool", "crisp", "curt", "deep", "dense", "direct", "dry",
    "dull", "fair", "firm", "flat", "frank", "free", "grave", "harsh", "kind", "light", "long", "loose",
    "loud", "mild", "modern", "neat", "open", "plain", "poor", "proper", "pure", "raw", "rich", "sharp",
    "short", "smart", "soft", "sparse", "stern", "stiff", "strict", "strong", "subtle", "sweet", "terse",
    "tense", "tight", "vague", "vivid", "warm", "weak", "wise",
];

/// Words with such an ending that name no style: what answers and questions are made of.
const OTHER: &[&str] = &[
    "answer",
    "anything",
    "being",
    "both",
    "characteristic",
    "evening",
    "everything",
    "following",
    "given",
    "going",
    "language",
    "listed",
    "living",
    "many",
    "morning",
    "neither",
    "nothing",
    "only",
    "question",
    "reply",
    "response",
    "sentence",
    "several",
    "something",
    "statement",
    "they",
    "thing",
    "very",
    "why",
];

/// Whether a word reads like an adjective of style: one of the lexicon's or of [`PLAIN`], or by its
/// ending.
fn is_adjective(word: &str, lexicon: &BTreeSet<String>) -> bool {
    let ends = || {
        let has = |list: &[&str]| list.iter().any(|e| word.ends_with(e));
        word.chars().count() >= 5 && has(ENDINGS) && !has(NOUNS_AND_ADVERBS)
    };
    lexicon.contains(word) || PLAIN.contains(&word) || (!OTHER.contains(&word) && ends())
}

/// Whole-word candidates that read like adjectives, by falling mean probability, ties by word. Takes
/// the JSON of `[(token, probability)]`, one a question. A token that only begins a word, such as
/// `inform`, is not a word.
pub(crate) fn candidates<'a>(tops: impl Iterator<Item = &'a String>) -> Vec<Candidate> {
    let lexicon: BTreeSet<String> = Lexicon::built_in().words.into_iter().map(|w| w.word).collect();
    let mut sums: BTreeMap<String, f64> = BTreeMap::new();
    let mut asked = 0usize;
    for top in tops {
        let Ok(top) = serde_json::from_str::<Vec<(String, f64)>>(top) else { continue };
        asked += 1;
        for (token, p) in top {
            let word = token.trim().to_lowercase();
            // A token that begins a word has white space or a capital before it.
            let begins = token.starts_with(|c: char| c.is_whitespace() || c.is_uppercase());
            if begins && word.chars().all(char::is_alphabetic) && is_adjective(&word, &lexicon) {
                *sums.entry(word).or_default() += p;
            }
        }
    }
    let mean = |(word, sum): (String, f64)| Candidate { word, probability: sum / asked.max(1) as f64 };
    let mut all: Vec<Candidate> = sums.into_iter().map(mean).collect();
    all.sort_by(|a, b| b.probability.total_cmp(&a.probability).then_with(|| a.word.cmp(&b.word)));
    all.truncate(50);
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_hold_every_word_of_both_answers_in_both_orders() {
        let answer: Vec<String> = (0..400).map(|i| format!("a{i}")).collect();
        let plain: Vec<String> = (0..150).map(|i| format!("b{i}")).collect();
        let (answer, plain) = (answer.join(" "), plain.join(" "));
        let pair = Contrast { prompt: "why?", answer: &answer, plain: &plain };
        let windows = windows(&pair, 512);
        assert!(windows.len() > 1);
        let all: String = windows.iter().map(|w| w.forth.as_str()).collect();
        assert!(answer.split(' ').chain(plain.split(' ')).all(|w| all.contains(w)));
        for w in &windows {
            let one = w.forth.split("Response 1: ").nth(1).unwrap().split("\nResponse 2").next().unwrap();
            assert!(w.back.contains(&format!("Response 2: {one}\nAnswer:")));
            assert!(w.forth.len() <= 512 * BYTES_PER_TOKEN);
        }
    }

    #[test]
    fn candidates_are_adjectives_averaged_over_questions() {
        let tops = [
            r#"[[" Formal",0.3],["ing",0.5],[" a",0.1],[" Response",0.4],[" inform",0.3],[" the",0.2]]"#,
            r#"[["formal",0.2],["Academic",0.1],[" something",0.1],[" 3y",0.1]]"#,
        ];
        let found = candidates(tops.map(String::from).iter());
        let names: Vec<_> = found.iter().map(|c| (c.word.as_str(), c.probability)).collect();
        assert_eq!(names, [("formal", 0.15), ("academic", 0.05)]);
    }
}
