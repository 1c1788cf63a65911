//! The lexicon: style words, each with contrast pairs that show what it means.
//!
//! A pair is an everyday question with a plain answer and the same answer in the word's style. The
//! word's atom is the mean difference between the two in a space, features included, half of it taken
//! from all words of the same end of its dimension: so a word means in every space what its examples
//! mean there. All texts were written for this project.

use std::collections::BTreeMap;

use headstart_protocol::rows::Row;
use headstart_protocol::{Digest, Failure};
use serde::{Deserialize, Serialize};

use crate::contrast::Contrast;

const TOPICS: &str = include_str!("../lexicon/topics.jsonl");
const WORDS: &str = include_str!("../lexicon/words.jsonl");

/// A prompt of user rows that gives the plain counterpart of a word is `plain:WORD`.
const PLAIN_PREFIX: &str = "plain:";

/// The two ends of a dimension.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Pole {
    /// The end that has more of it.
    #[serde(rename = "+")]
    More,
    /// The end that has less of it.
    #[serde(rename = "-")]
    Less,
}

/// A question with a plain and a styled answer.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Pair {
    /// The question.
    pub prompt: String,
    /// The answer in the word's style.
    pub styled: String,
    /// The answer in no particular style.
    pub plain: String,
}

/// A style word.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Word {
    /// The word, an adjective.
    pub word: String,
    /// What it is about, such as `length`; words of a dimension are synonyms or opposites.
    pub dimension: String,
    /// Which end of the dimension.
    pub pole: Pole,
    /// How one writes then: `concisely`.
    pub adverb: String,
    /// Its examples.
    pub pairs: Vec<Pair>,
}

/// Style words in a fixed order.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Lexicon {
    /// The words.
    pub words: Vec<Word>,
}

#[derive(Deserialize)]
struct TopicLine {
    topic: String,
    prompt: String,
    plain: String,
}

#[derive(Deserialize)]
struct WordLine {
    word: String,
    dimension: String,
    pole: Pole,
    adverb: String,
    texts: BTreeMap<String, String>,
}

fn lines<'a, T: Deserialize<'a>>(text: &'a str) -> impl Iterator<Item = T> {
    let read = |line| serde_json::from_str(line).expect("the embedded lexicon is tested");
    text.lines().filter(|l| !l.is_empty()).map(read)
}

impl Lexicon {
    /// The words that come with Headstart.
    pub fn built_in() -> Self {
        let topics: BTreeMap<String, TopicLine> =
            lines(TOPICS).map(|t: TopicLine| (t.topic.clone(), t)).collect();
        let word = |w: WordLine| {
            let pair = |(topic, styled): (String, String)| {
                let t = &topics[&topic];
                Pair { prompt: t.prompt.clone(), styled, plain: t.plain.clone() }
            };
            let pairs = w.texts.into_iter().map(pair).collect();
            Word { word: w.word, dimension: w.dimension, pole: w.pole, adverb: w.adverb, pairs }
        };
        Self { words: lines(WORDS).map(word).collect() }
    }

    /// Keeps `count` words at most: the first of each end of each dimension, then the second ones, and
    /// so on, so that a small lexicon is about as many things as it can be.
    pub fn limited(mut self, count: usize) -> Self {
        let mut seen: BTreeMap<(&str, bool), usize> = BTreeMap::new();
        let mut ranked: Vec<(usize, usize)> = Vec::new();
        for (i, w) in self.words.iter().enumerate() {
            let rank = seen.entry((w.dimension.as_str(), w.pole == Pole::More)).or_default();
            ranked.push((*rank, i));
            *rank += 1;
        }
        ranked.sort_unstable();
        ranked.truncate(count);
        let kept: Vec<usize> = ranked.into_iter().map(|(_, i)| i).collect();
        let mut i = 0;
        self.words.retain(|_| {
            i += 1;
            kept.contains(&(i - 1))
        });
        self
    }

    /// Adds a user's words: rows with prompt `word` and response `text in that style`. A row with
    /// prompt `plain:word` gives the plain counterpart of the word's row at the same position among
    /// the word's rows; where there is none, the lexicon's plain answers stand in for it, one after
    /// another. A word that the lexicon has is replaced.
    ///
    /// # Errors
    /// If a text is empty, or a word has more plain texts than styled ones.
    pub fn extend(&mut self, rows: &[Row]) -> Result<(), Failure> {
        let plains: Vec<TopicLine> = lines(TOPICS).collect();
        let mut order: Vec<&str> = Vec::new();
        let mut texts: BTreeMap<&str, (Vec<&str>, Vec<&str>)> = BTreeMap::new();
        for (i, row) in rows.iter().enumerate() {
            if row.prompt.trim().is_empty() || row.response.trim().is_empty() {
                return Err(Failure::input(format!("row {} of `words` lacks a word or a text", i + 1)));
            }
            let word = row.prompt.strip_prefix(PLAIN_PREFIX).unwrap_or(&row.prompt).trim();
            if !order.contains(&word) {
                order.push(word);
            }
            let (styled, plain) = texts.entry(word).or_default();
            let side = if row.prompt.starts_with(PLAIN_PREFIX) { plain } else { styled };
            side.push(&row.response);
        }
        for word in order {
            let (styled, plain) = &texts[word];
            if plain.len() > styled.len() {
                return Err(Failure::input(format!(
                    "`words` has {} plain texts for {word:?}, but {} styled ones",
                    plain.len(),
                    styled.len()
                )));
            }
            let pair = |(i, text): (usize, &&str)| {
                let topic = &plains[i % plains.len()];
                let plain = plain.get(i).map_or(topic.plain.as_str(), |p| p);
                Pair { prompt: topic.prompt.clone(), styled: (*text).into(), plain: plain.into() }
            };
            let pairs = styled.iter().enumerate().map(pair).collect();
            let old = self.words.iter().position(|w| w.word == word);
            let new = match old {
                Some(i) => Word { pairs, ..self.words[i].clone() },
                None => Word {
                    word: word.into(),
                    dimension: word.into(),
                    pole: Pole::More,
                    adverb: format!("in a {word} way"),
                    pairs,
                },
            };
            match old {
                Some(i) => self.words[i] = new,
                None => self.words.push(new),
            }
        }
        Ok(())
    }

    /// Words at the other end of a word's dimension.
    pub fn opposites(&self, word: &str) -> Vec<&str> {
        let Some(w) = self.words.iter().find(|w| w.word == word) else { return Vec::new() };
        let is_opposite = |o: &&Word| o.dimension == w.dimension && o.pole != w.pole;
        self.words.iter().filter(is_opposite).map(|o| o.word.as_str()).collect()
    }

    /// Identity of words and examples together.
    pub fn id(&self) -> Digest {
        Digest::of_json(self)
    }

    /// All examples, word after word.
    pub fn contrasts(&self) -> Vec<Contrast<'_>> {
        let pairs = self.words.iter().flat_map(|w| &w.pairs);
        pairs.map(|p| Contrast { prompt: &p.prompt, answer: &p.styled, plain: &p.plain }).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contrast::feature_difference;
    use crate::stylometry::FEATURES;

    #[test]
    fn the_built_in_lexicon_is_whole() {
        let lexicon = Lexicon::built_in();
        assert!(lexicon.words.len() >= 60, "{}", lexicon.words.len());
        let mut names: Vec<_> = lexicon.words.iter().map(|w| &w.word).collect();
        let mut dimensions: Vec<_> = lexicon.words.iter().map(|w| &w.dimension).collect();
        names.sort();
        dimensions.sort();
        names.dedup();
        dimensions.dedup();
        assert_eq!(names.len(), lexicon.words.len());
        assert!(dimensions.len() >= 20, "{dimensions:?}");
        for w in &lexicon.words {
            assert!(w.pairs.len() >= 3 && !w.adverb.is_empty(), "{}", w.word);
            assert!(w.pairs.iter().all(|p| p.styled != p.plain), "{}", w.word);
        }
        assert_eq!(lexicon.opposites("concise"), ["informative", "detailed", "elaborate", "thorough"]);
        assert!(lexicon.opposites("friendly").contains(&"unfriendly"));
    }

    /// Even the features alone tell what the examples of a few words are.
    #[test]
    fn examples_show_what_their_word_means() {
        let lexicon = Lexicon::built_in();
        let at = |name: &str| FEATURES.iter().position(|f| f.name == name).unwrap();
        let expected = [
            ("concise", "length", -1.0),
            ("informative", "length", 1.0),
            ("expert", "word_length", 1.0),
            ("elementary", "word_length", -1.0),
            ("enthusiastic", "exclamation", 1.0),
            ("emoji-rich", "emoji", 1.0),
            ("polite", "polite", 1.0),
            ("informal", "contractions", 1.0),
            ("poetic", "line_breaks", 1.0),
            ("hesitant", "hedges", 1.0),
            ("structured", "markup", 1.0),
        ];
        for (word, feature, sign) in expected {
            let w = lexicon.words.iter().find(|w| w.word == word).unwrap();
            let difference = |p: &Pair| {
                let c = Contrast { prompt: &p.prompt, answer: &p.styled, plain: &p.plain };
                feature_difference(&c)[at(feature)]
            };
            let mean = w.pairs.iter().map(difference).sum::<f32>() / w.pairs.len() as f32;
            assert!(mean * sign > 0.1, "{word}: {feature} changes by {mean}");
        }
    }

    #[test]
    fn a_small_lexicon_is_about_many_things() {
        let small = Lexicon::built_in().limited(30);
        let mut dimensions: Vec<&str> = small.words.iter().map(|w| w.dimension.as_str()).collect();
        dimensions.dedup();
        assert_eq!(small.words.len(), 30);
        assert!(dimensions.len() >= 14, "{dimensions:?}");
        assert_eq!(Lexicon::built_in().limited(1000), Lexicon::built_in());
    }

    #[test]
    fn users_add_words_with_and_without_plain_counterparts() {
        let row = |p: &str, r: &str| Row::new(p, r);
        let mut lexicon = Lexicon::built_in();
        let before = lexicon.id();
        let n = lexicon.words.len();
        lexicon
            .extend(&[row("piratical", "Arr!"), row("plain:piratical", "Yes."), row("piratical", "Ahoy!")])
            .unwrap();
        let w = lexicon.words.last().unwrap();
        assert_eq!((lexicon.words.len(), w.pairs.len()), (n + 1, 2));
        assert_eq!(w.pairs[0].plain, "Yes.");
        assert!(w.pairs[1].plain.len() > 20);
        assert_ne!(lexicon.id(), before);
        let e = lexicon.extend(&[row("x", "")]).unwrap_err();
        assert!(e.message.contains("row 1"), "{}", e.message);
    }
}
