//! Reads the hand-written facts and phrases.

/// A topic and its facts.
#[derive(Debug, Clone)]
pub struct Topic {
    /// As it is written in a sentence: `gravity`, `the moon`.
    pub name: &'static str,
    /// A question of its own.
    pub question: &'static str,
    /// For children: the core, then two details.
    pub elementary: [&'static str; 3],
    /// For experts: the core, then two details.
    pub expert: [&'static str; 3],
}

/// The phrases of a tone; the neutral tone has none.
#[derive(Debug, Clone, Default)]
pub struct Phrases {
    /// Said first.
    pub openings: Vec<&'static str>,
    /// Said between sentences.
    pub remarks: Vec<&'static str>,
    /// Said last.
    pub closings: Vec<&'static str>,
}

const FACTS: &str = include_str!("data/facts.txt");
const TONES: &str = include_str!("data/tones.txt");

fn blocks(text: &'static str) -> impl Iterator<Item = Vec<&'static str>> {
    text.split("\n\n").map(|b| b.lines().filter(|l| !l.starts_with('#') && !l.is_empty()).collect())
}

/// The topics, in the order of the file.
///
/// # Panics
/// If the embedded data is not in its documented form; a test reads it all.
pub fn topics() -> Vec<Topic> {
    blocks(FACTS).filter(|b| !b.is_empty()).map(|b| topic(&b)).collect()
}

fn topic(block: &[&'static str]) -> Topic {
    let with = |tag: &str| -> Vec<&'static str> {
        block.iter().filter_map(|l| l.strip_prefix(tag)).map(str::trim).collect()
    };
    let three = |core: &str, detail: &str| -> [&'static str; 3] {
        let mut all = with(core);
        all.extend(with(detail));
        all.try_into().unwrap_or_else(|v| {
            panic!("topic {:?}: expected one core and two details, found {v:?}", block[0])
        })
    };
    Topic {
        name: block[0],
        question: with("? ")
            .first()
            .copied()
            .unwrap_or_else(|| panic!("topic {:?} has no question", block[0])),
        elementary: three("e ", "e+ "),
        expert: three("x ", "x+ "),
    }
}

/// The phrases of the tone of this name.
pub fn phrases(tone: &str) -> Phrases {
    let block = blocks(TONES).find(|b| b.first() == Some(&tone)).unwrap_or_default();
    let with = |tag: &str| block.iter().filter_map(|l| l.strip_prefix(tag)).collect();
    Phrases { openings: with("< "), remarks: with("~ "), closings: with("> ") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::style::TONES;

    #[test]
    fn everything_is_read() {
        let topics = topics();
        assert!(topics.len() >= 50, "{}", topics.len());
        for tone in TONES.iter().filter(|t| **t != "neutral") {
            let p = phrases(tone);
            assert!(p.openings.len() >= 8 && p.remarks.len() >= 3 && p.closings.len() >= 6, "{tone}");
        }
    }
}
