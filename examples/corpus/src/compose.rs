//! One answer in one style.

use rand::Rng;
use rand::seq::IndexedRandom;

use crate::facts::{Phrases, Topic};
use crate::style::Style;

/// The default answer: a simple sentence and a technical one, in no particular tone.
pub fn plain(topic: &Topic) -> String {
    format!("{} {}", topic.elementary[0], topic.expert[1])
}

/// An answer about a topic in a style.
pub fn styled(topic: &Topic, style: Style, phrases: &Phrases, rng: &mut impl Rng) -> String {
    let mut lines: Vec<String> = Vec::new();
    let mut say = |text: Option<&&'static str>| {
        if let Some(text) = text {
            lines.push(text.replace("{t}", topic.name));
        }
    };
    let facts = if style.expert { &topic.expert } else { &topic.elementary };
    say(phrases.openings.choose(rng));
    say(Some(&facts[0]));
    if style.informative {
        say(Some(&facts[1]));
        say(phrases.remarks.choose(rng));
        say(Some(&facts[2]));
    }
    // A concise answer is sometimes cut short before its farewell.
    if style.informative || rng.random_bool(0.6) {
        say(phrases.closings.choose(rng));
    }
    let separator = if crate::style::TONES[style.tone] == "poetic" { "\n" } else { " " };
    let text = lines.join(separator);
    // A phrase may begin with the topic.
    let mut chars = text.chars();
    chars.next().map(|c| c.to_uppercase().collect::<String>() + chars.as_str()).unwrap_or_default()
}
