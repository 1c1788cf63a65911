//! One answer in one style.

use rand::Rng;
use rand::seq::IndexedRandom;

use crate::facts::{Phrases, Topic};
use crate::style::{Style, TONES};

/// The default answer: a simple sentence and a technical one, in no particular tone.
pub fn plain(topic: &Topic) -> String {
    format!("{} {}", topic.elementary[0], topic.expert[1])
}

/// The phrases of one answer; each may be missing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Said {
    /// Said first.
    pub opening: Option<&'static str>,
    /// Said in the middle of an informative answer.
    pub remark: Option<&'static str>,
    /// Said last.
    pub closing: Option<&'static str>,
}

impl Said {
    /// Phrases drawn for a style. A concise answer is sometimes cut short before its farewell.
    pub fn draw(style: Style, phrases: &Phrases, rng: &mut impl Rng) -> Self {
        let mut one = |of: &[&'static str]| of.choose(rng).copied();
        let opening = one(&phrases.openings);
        let remark = if style.informative { one(&phrases.remarks) } else { None };
        let closing = if style.informative || rng.random_bool(0.6) {
            phrases.closings.choose(rng).copied()
        } else {
            None
        };
        Self { opening, remark, closing }
    }
}

/// An answer about a topic in a style.
pub fn styled(topic: &Topic, style: Style, phrases: &Phrases, rng: &mut impl Rng) -> String {
    let separator = if TONES[style.tone] == "poetic" { "\n" } else { " " };
    compose(topic, style, Said::draw(style, phrases, rng), separator)
}

/// The answer of these phrases and of the facts that the style calls for.
pub fn compose(topic: &Topic, style: Style, said: Said, separator: &str) -> String {
    let facts = if style.expert { &topic.expert } else { &topic.elementary };
    let mut lines = vec![said.opening, Some(facts[0])];
    if style.informative {
        lines.extend([Some(facts[1]), said.remark, Some(facts[2])]);
    }
    lines.push(said.closing);
    let lines: Vec<&str> = lines.into_iter().flatten().collect();
    capitalised(&lines.join(separator).replace("{t}", topic.name))
}

/// A phrase may begin with the topic, and an answer begins with a capital.
pub fn capitalised(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map(|c| c.to_uppercase().collect::<String>() + chars.as_str()).unwrap_or_default()
}
