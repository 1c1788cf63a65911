//! Whether the words found for a style are the right ones, by a rule that was written down before
//! any word was judged by it (docs/adr, "How words are judged").
//!
//! A style is a list of traits, such as `elementary`, `concise`, `friendly`. The table below says for
//! each trait which ends of which dimensions of the lexicon are right to say, and which are wrong.
//! It names dimensions and ends, not words, so it holds for words that are added later.

use serde::Serialize;

use crate::catalog::AtomAbout;
use crate::lexicon::Pole::{self, Less, More};

/// An end of a dimension of the lexicon.
pub type End = (&'static str, Pole);

/// What the rule says of a trait.
#[derive(Debug)]
pub struct Trait {
    /// Its name.
    pub name: &'static str,
    /// Ends that are right to say.
    pub right: &'static [End],
    /// Ends that are wrong to say, unless another trait of the style makes them right.
    pub wrong: &'static [End],
}

/// The rule's table.
///
/// Wrong for a tone is its opposite, and the mark of every other tone that is not near to it. Near,
/// and so neither right nor wrong, are: friendly to sassy, humorous and persuasive; unfriendly to
/// sassy and sarcastic; sassy to sarcastic and humorous; sarcastic to humorous.
pub const TRAITS: &[Trait] = &[
    Trait { name: "elementary", right: &[("expertise", Less)], wrong: &[("expertise", More)] },
    Trait { name: "expert", right: &[("expertise", More)], wrong: &[("expertise", Less)] },
    Trait { name: "concise", right: &[("length", Less)], wrong: &[("length", More)] },
    Trait { name: "informative", right: &[("length", More)], wrong: &[("length", Less)] },
    Trait {
        name: "neutral",
        right: &[
            ("persuasion", Less),
            ("humour", Less),
            ("poetry", Less),
            ("emotion", Less),
            ("imagery", Less),
        ],
        wrong: &[
            ("warmth", More),
            ("warmth", Less),
            ("sass", More),
            ("irony", More),
            ("persuasion", More),
            ("poetry", More),
            ("humour", More),
        ],
    },
    Trait {
        name: "friendly",
        right: &[("warmth", More), ("empathy", More)],
        wrong: &[("warmth", Less), ("empathy", Less), ("irony", More), ("poetry", More)],
    },
    Trait {
        name: "unfriendly",
        right: &[("warmth", Less), ("politeness", Less)],
        wrong: &[
            ("warmth", More),
            ("empathy", More),
            ("politeness", More),
            ("persuasion", More),
            ("poetry", More),
            ("humour", More),
        ],
    },
    Trait {
        name: "sassy",
        right: &[("sass", More)],
        wrong: &[("sass", Less), ("persuasion", More), ("poetry", More)],
    },
    Trait {
        name: "sarcastic",
        right: &[("irony", More)],
        wrong: &[
            ("irony", Less),
            ("warmth", More),
            ("empathy", More),
            ("persuasion", More),
            ("poetry", More),
        ],
    },
    Trait {
        name: "persuasive",
        right: &[("persuasion", More)],
        wrong: &[
            ("persuasion", Less),
            ("warmth", Less),
            ("sass", More),
            ("irony", More),
            ("poetry", More),
            ("humour", More),
        ],
    },
    Trait {
        name: "poetic",
        right: &[("poetry", More), ("imagery", More)],
        wrong: &[
            ("poetry", Less),
            ("imagery", Less),
            ("warmth", Less),
            ("sass", More),
            ("irony", More),
            ("persuasion", More),
            ("humour", More),
        ],
    },
    Trait {
        name: "humorous",
        right: &[("humour", More)],
        wrong: &[("humour", Less), ("warmth", Less), ("persuasion", More), ("poetry", More)],
    },
];

/// The traits of the eight styles of the nine-styles data, in the order of its files. Its README
/// read them off the texts.
pub const NINE_STYLES: [&[&str]; 8] = [
    &["elementary", "concise", "humorous", "friendly"],
    &["elementary", "concise", "neutral"],
    &["elementary", "informative", "humorous", "friendly"],
    &["elementary", "informative", "neutral"],
    &["expert", "concise", "humorous"],
    &["expert", "concise", "neutral"],
    &["expert", "informative", "humorous"],
    &["expert", "informative", "neutral"],
];

/// What a word says of a style.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Says {
    /// A trait that the style has.
    Right,
    /// Something that a trait of the style rules out.
    Wrong,
    /// Something that the style's traits leave open.
    Open,
}

/// The judgement of the words of a style.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Verdict {
    /// What each word says, in order.
    pub says: Vec<Says>,
    /// Whether the first word is right and none is wrong: this is the rule.
    pub right: bool,
    /// Traits that some word names, of the style's.
    pub named: usize,
}

/// The rule's entry for a trait; none of this name is an empty one.
fn entry(name: &str) -> &'static Trait {
    const NOTHING: &Trait = &Trait { name: "", right: &[], wrong: &[] };
    TRAITS.iter().find(|t| t.name == name).unwrap_or(NOTHING)
}

/// What a word of this dimension says of a style with these traits, when its coefficient has this
/// sign: "less" of a word is its dimension's other end.
pub fn says(traits: &[&str], dimension: &str, pole: Pole, negative: bool) -> Says {
    let pole = match (pole, negative) {
        (p, false) => p,
        (More, true) => Less,
        (Less, true) => More,
    };
    let is_in = |ends: &[End]| ends.iter().any(|(d, p)| *d == dimension && *p == pole);
    if traits.iter().any(|t| is_in(entry(t).right)) {
        Says::Right
    } else if traits.iter().any(|t| is_in(entry(t).wrong)) {
        Says::Wrong
    } else {
        Says::Open
    }
}

/// Judges the words of an explanation: `(word, coefficient)`, in the order in which they are shown.
/// A word that the lexicon does not have says nothing.
pub fn judge(traits: &[&str], lexicon: &[AtomAbout], words: &[(&str, f64)]) -> Verdict {
    let about = |word: &str| lexicon.iter().find(|a| a.word == word);
    let one = |&(word, c): &(&str, f64)| {
        about(word).map_or(Says::Open, |a| says(traits, &a.dimension, a.pole, c < 0.0))
    };
    let all: Vec<Says> = words.iter().map(one).collect();
    let names = |t: &str| {
        words.iter().any(|&(word, c)| {
            about(word).is_some_and(|a| says(&[t], &a.dimension, a.pole, c < 0.0) == Says::Right)
        })
    };
    Verdict {
        right: all.first() == Some(&Says::Right) && !all.contains(&Says::Wrong),
        named: traits.iter().filter(|t| names(t)).count(),
        says: all,
    }
}

/// The share of the lexicon's words that would be right as the first word: what a guess would reach,
/// before words that are wrong count against it.
pub fn chance(traits: &[&str], lexicon: &[AtomAbout]) -> f64 {
    let right = |a: &&AtomAbout| says(traits, &a.dimension, a.pole, false) == Says::Right;
    lexicon.iter().filter(right).count() as f64 / lexicon.len().max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decompose::words_about;
    use crate::lexicon::Lexicon;

    #[test]
    fn the_first_word_must_be_right_and_none_wrong() {
        let lexicon = words_about(&Lexicon::built_in());
        let traits = ["elementary", "concise", "friendly"];
        let right = |words: &[(&str, f64)]| judge(&traits, &lexicon, words);
        assert!(right(&[("warm", 0.8), ("enthusiastic", 0.5), ("brief", 0.3)]).right);
        assert_eq!(right(&[("warm", 0.8), ("brief", 0.3)]).named, 2);
        assert!(!right(&[("enthusiastic", 0.8), ("warm", 0.5)]).right, "the first is left open");
        assert!(!right(&[("warm", 0.8), ("expert", 0.1)]).right, "one is wrong");
        assert!(!right(&[]).right, "no word is no right word");
        assert!(!right(&[("warm", -0.8)]).right, "less warm is not warm");
        assert!(right(&[("expert", -0.8)]).right, "less expert is elementary");
    }

    #[test]
    fn what_one_trait_makes_right_another_does_not_make_wrong() {
        assert_eq!(says(&["humorous"], "warmth", Less, false), Says::Wrong);
        assert_eq!(says(&["neutral"], "humour", More, false), Says::Wrong);
        assert_eq!(says(&["neutral", "humorous"], "humour", More, false), Says::Right);
    }

    #[test]
    fn the_table_speaks_of_the_lexicon_and_leaves_most_words_wrong_or_open() {
        let lexicon = words_about(&Lexicon::built_in());
        for t in TRAITS {
            for (dimension, pole) in t.right.iter().chain(t.wrong) {
                assert!(lexicon.iter().any(|a| a.dimension == *dimension && a.pole == *pole), "{dimension}");
            }
        }
        for style in NINE_STYLES {
            assert!(style.iter().all(|t| TRAITS.iter().any(|x| x.name == *t)), "{style:?}");
            assert!(chance(style, &lexicon) < 0.4, "{style:?}: {}", chance(style, &lexicon));
        }
    }
}
