//! Whether an answer can be read, and is in its style: judged by what the generator can say.
//!
//! The rule, fixed before the model that it judges was trained:
//!
//! - An answer is cut into sentences at line breaks and after `.`, `!` and `?`.
//! - A sentence is *sound* if it is, but for at most one word of five or more, a sentence of a fact
//!   about the topic that was asked about, or of a phrase of any tone.
//! - An answer is *readable* if it has sentences, all of them are sound, and none comes twice.
//! - An answer is *in style* if, sentence by sentence and but for the same one word, it is one that
//!   the generator gives for this topic in this style.

use crate::compose::{Said, compose, plain};
use crate::facts::{Phrases, Topic, phrases};
use crate::style::{Style, TONES};

/// What an answer is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// Every sentence is sound and none comes twice.
    pub readable: bool,
    /// It is an answer of the style.
    pub in_style: bool,
    /// The sentences that are not sound, or come twice.
    pub odd: Vec<String>,
}

/// Judges answers.
pub struct Judge {
    tones: Vec<Phrases>,
}

impl Default for Judge {
    fn default() -> Self {
        Self { tones: TONES.iter().map(|t| phrases(t)).chain([phrases("filler")]).collect() }
    }
}

impl Judge {
    /// Judges an answer about a topic: in a style, or, without one, as a default answer.
    pub fn judge(&self, topic: &Topic, style: Option<Style>, answer: &str) -> Verdict {
        let said = sentences(answer);
        let known = self.known(topic);
        let odd: Vec<String> = said
            .iter()
            .enumerate()
            .filter(|(i, s)| !known.iter().any(|k| near(s, k)) || said[..*i].contains(s))
            .map(|(_, s)| s.join(" "))
            .collect();
        let in_style = match style {
            None => alike(&said, &sentences(&plain(topic))),
            Some(style) => self.answers(topic, style).any(|a| alike(&said, &sentences(&a))),
        };
        Verdict { readable: odd.is_empty() && !said.is_empty(), in_style, odd }
    }

    /// Every sentence that may stand in an answer about a topic.
    fn known(&self, topic: &Topic) -> Vec<Vec<String>> {
        let facts = topic.elementary.iter().chain(&topic.expert).copied();
        let phrases = self.tones.iter().flat_map(|p| p.openings.iter().chain(&p.remarks).chain(&p.closings));
        facts.chain(phrases.copied()).flat_map(|s| sentences(&s.replace("{t}", topic.name))).collect()
    }

    /// Every answer that the generator can give about a topic in a style.
    fn answers<'a>(&'a self, topic: &'a Topic, style: Style) -> impl Iterator<Item = String> + 'a {
        let phrases = &self.tones[style.tone];
        let some = |of: &'a [&'static str]| -> Vec<Option<&'static str>> {
            if of.is_empty() { vec![None] } else { of.iter().copied().map(Some).collect() }
        };
        let (openings, remarks) = (some(&phrases.openings), some(&phrases.remarks));
        let mut closings = some(&phrases.closings);
        if !style.informative && !phrases.closings.is_empty() {
            closings.push(None);
        }
        openings.into_iter().flat_map(move |opening| {
            let closings = closings.clone();
            remarks.clone().into_iter().flat_map(move |remark| {
                closings
                    .clone()
                    .into_iter()
                    .map(move |closing| compose(topic, style, Said { opening, remark, closing }, "\n"))
            })
        })
    }
}

/// The sentences of a text, as words in lower case.
fn sentences(text: &str) -> Vec<Vec<String>> {
    let mut out = Vec::new();
    let mut sentence = Vec::new();
    for line in text.lines() {
        for word in line.split_whitespace() {
            sentence.push(word.to_lowercase());
            if word.ends_with(['.', '!', '?']) {
                out.push(std::mem::take(&mut sentence));
            }
        }
        if !sentence.is_empty() {
            out.push(std::mem::take(&mut sentence));
        }
    }
    out
}

fn alike(a: &[Vec<String>], b: &[Vec<String>]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| near(a, b))
}

/// Whether two sentences are the same but for one word put in, left out or exchanged; short ones
/// must be the same.
fn near(a: &[String], b: &[String]) -> bool {
    if a == b {
        return true;
    }
    if b.len() < 5 || a.len().abs_diff(b.len()) > 1 {
        return false;
    }
    let same = a.iter().zip(b).take_while(|(x, y)| x == y).count();
    let (a, b) = (&a[same..], &b[same..]);
    let rest = |of: &[String], skip: usize| of.get(skip..).unwrap_or_default().to_vec();
    match a.len().cmp(&b.len()) {
        std::cmp::Ordering::Less => a == rest(b, 1),
        std::cmp::Ordering::Greater => rest(a, 1) == b,
        std::cmp::Ordering::Equal => rest(a, 1) == rest(b, 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compose::styled;
    use crate::facts::topics;
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    fn style(name: &str) -> Style {
        Style::all().find(|s| s.name() == name).expect("a style")
    }

    #[test]
    fn what_the_generator_says_is_readable_and_in_its_own_style_only() {
        let judge = Judge::default();
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        for topic in topics().iter().step_by(20) {
            for s in Style::all() {
                let answer = styled(topic, s, &phrases(TONES[s.tone]), &mut rng);
                for other in Style::all() {
                    let verdict = judge.judge(topic, Some(other), &answer);
                    assert!(verdict.readable, "{answer}: {:?}", verdict.odd);
                    assert_eq!(verdict.in_style, s == other, "{} as {}: {answer}", s.name(), other.name());
                }
            }
            assert!(judge.judge(topic, None, &plain(topic)).in_style);
        }
    }

    #[test]
    fn garbled_strange_and_repeated_sentences_are_found() {
        let judge = Judge::default();
        let topics = topics();
        let (gravity, rain) = (&topics[0], &topics[1]);
        let s = style("elementary-concise-neutral");
        let odd = |text: &str| judge.judge(gravity, Some(s), text);
        let right = gravity.elementary[0];
        assert!(odd(&right.replace("down", "up")).in_style, "one word may be wrong");
        let garbled = odd("Gravity is the pull that rings the cheese to the ground.");
        assert!(!garbled.readable && !garbled.in_style && garbled.odd.len() == 1);
        assert!(!odd(rain.elementary[0]).readable, "another topic");
        assert!(!odd(&format!("{right} {right}")).readable, "said twice");
        assert!(!odd("").readable);
        assert!(!odd("Mic up.").readable, "short phrases have no word to spare");
    }
}
