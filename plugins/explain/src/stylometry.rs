//! Plain stylometric features of a text.
//!
//! Sentence encoders are trained to see what a text is about; mean-pooled and normalised, they
//! barely see how long it is. These counts see exactly that, cost nothing, and can be read.
//!
//! Two kinds of number keep features of short and long texts comparable. A *rate* of `c` hits is
//! ln(1 + 100 c / (words + 10)): hits per hundred words, damped. A *mean* is drawn towards a usual
//! value with the weight of ten words, so that an empty text is usual rather than extreme.

/// A feature's name, what it measures, and its unit: a step that a reader would notice. The unit
/// bounds from below how finely the metric may resolve a feature that hardly varies in the catalog.
pub struct Feature {
    /// Stable name, written into every divergence.
    pub name: &'static str,
    /// What it measures.
    pub doc: &'static str,
    /// A noticeable step.
    pub unit: f64,
}

const fn feature(name: &'static str, unit: f64, doc: &'static str) -> Feature {
    Feature { name, doc, unit }
}

/// All features, in the order in which [`features`] returns them.
pub static FEATURES: &[Feature] = &[
    feature("length", 0.5, "ln(1 + words)"),
    feature("sentence_length", 0.3, "ln(1 + words a sentence)"),
    feature("word_length", 0.4, "mean letters a word"),
    feature("long_words", 0.06, "share of words with eight letters or more"),
    feature("syllables", 0.15, "mean vowel groups a word"),
    feature("variety", 0.1, "different words among the first fifty"),
    feature("exclamation", 0.6, "rate of exclamation marks"),
    feature("question", 0.6, "rate of question marks"),
    feature("emoji", 1.0, "rate of emoji"),
    feature("you", 0.6, "rate of you, your"),
    feature("i", 0.6, "rate of I, me, my"),
    feature("we", 0.6, "rate of we, us, our, let's"),
    feature("contractions", 0.6, "rate of shortened forms such as it's, don't"),
    feature("commas", 0.5, "rate of commas"),
    feature("asides", 0.6, "rate of brackets, dashes, colons and semicolons"),
    feature("quotes", 0.6, "rate of quotation marks"),
    feature("numbers", 0.6, "rate of words with digits"),
    feature("markup", 0.8, "rate of list items, headings and bold or code marks"),
    feature("line_breaks", 0.8, "rate of line breaks"),
    feature("ellipsis", 0.5, "rate of three dots"),
    feature("capitals", 0.5, "rate of words in capitals"),
    feature("lower_start", 0.3, "share of sentences that begin with a small letter"),
    feature("polite", 0.5, "rate of please, thank, sorry, kindly"),
    feature("casual", 0.5, "rate of hey, yeah, gonna, stuff and the like"),
    feature("connectives", 0.5, "rate of therefore, moreover, however and the like"),
    feature("hedges", 0.5, "rate of perhaps, maybe, might and the like"),
    feature("comparisons", 0.5, "rate of like, imagine, as if"),
    feature("abstract_nouns", 0.6, "rate of words in -tion, -ment, -ity, -ism and the like"),
    feature("intensifiers", 0.5, "rate of so, very, really, absolutely and the like"),
    feature("negations", 0.5, "rate of not, no, never"),
];

const YOU: &[&str] = &["you", "your", "yours", "yourself", "you're", "you'll", "you've", "you'd", "u", "ya"];
const I: &[&str] = &["i", "me", "my", "mine", "myself", "i'm", "i'll", "i've", "i'd"];
const WE: &[&str] = &["we", "us", "our", "ours", "let's", "we're", "we'll", "we've", "we'd"];
const POLITE: &[&str] =
    &["please", "thank", "thanks", "sorry", "kindly", "pleasure", "welcome", "appreciate", "grateful"];
const CASUAL: &[&str] = &[
    "hey",
    "hi",
    "yeah",
    "yep",
    "yo",
    "gonna",
    "wanna",
    "gotta",
    "kinda",
    "sorta",
    "stuff",
    "ok",
    "okay",
    "lol",
    "dude",
    "bro",
    "buddy",
    "folks",
    "guys",
    "honey",
    "sweetie",
    "darling",
    "oh",
    "wow",
    "whoa",
    "ha",
    "haha",
    "well",
    "just",
    "basically",
    "cool",
    "awesome",
    "super",
    "bit",
    "lots",
    "cuz",
    "cause",
    "ugh",
    "boom",
    "voila",
    "voilà",
    "yay",
    "alright",
];
const CONNECTIVES: &[&str] = &[
    "therefore",
    "moreover",
    "furthermore",
    "however",
    "consequently",
    "thus",
    "hence",
    "additionally",
    "nevertheless",
    "whereas",
    "thereby",
    "whereby",
    "accordingly",
    "subsequently",
    "respectively",
    "notably",
    "specifically",
    "e.g",
    "i.e",
    "namely",
    "albeit",
    "wherein",
];
const HEDGES: &[&str] = &[
    "perhaps",
    "maybe",
    "might",
    "possibly",
    "probably",
    "seems",
    "seem",
    "could",
    "suppose",
    "guess",
    "somewhat",
    "apparently",
    "likely",
];
const COMPARISONS: &[&str] = &["like", "imagine", "think", "picture", "pretend", "basically"];
const INTENSIFIERS: &[&str] = &[
    "so",
    "very",
    "really",
    "absolutely",
    "totally",
    "truly",
    "incredibly",
    "amazing",
    "fantastic",
    "amazingly",
    "extremely",
    "definitely",
    "certainly",
    "wonderful",
    "love",
    "great",
    "best",
];
const NEGATIONS: &[&str] = &["not", "no", "never", "nothing", "nobody", "without", "cannot"];
const ABSTRACT: &[&str] = &[
    "tion", "tions", "sion", "sions", "ment", "ments", "ness", "ity", "ities", "ism", "ance", "ence", "ology",
];

/// The features of a text, [`FEATURES`].len() of them; every one is finite for every text.
pub fn features(text: &str) -> Vec<f32> {
    let words = words(text);
    let n = words.len() as f64;
    let rate = |hits: usize| (1.0 + 100.0 * hits as f64 / (n + 10.0)).ln();
    let mean = |sum: f64, usual: f64| (sum + 10.0 * usual) / (n + 10.0);
    let among = |list: &[&str]| rate(words.iter().filter(|w| list.contains(&w.as_str())).count());
    let count = |f: &dyn Fn(&str) -> bool| words.iter().filter(|w| f(w)).count();
    let chars = |f: &dyn Fn(char) -> bool| text.chars().filter(|c| f(*c)).count();
    let letters = |w: &str| w.chars().filter(|c| c.is_alphanumeric()).count();
    let sentences = sentences(text);
    let first: Vec<&String> = words.iter().take(50).collect();
    let mut distinct = first.clone();
    distinct.sort_unstable();
    distinct.dedup();
    let asides = |c: char| matches!(c, '(' | '–' | '—' | ';' | ':' | '[');
    let negated = count(&|w| NEGATIONS.contains(&w) || w.ends_with("n't"));
    let out = [
        (1.0 + n).ln(),
        (1.0 + n / sentences.len().max(1) as f64).ln(),
        mean(words.iter().map(|w| letters(w).min(20) as f64).sum(), 4.6),
        mean(count(&|w| letters(w) >= 8) as f64, 0.18),
        mean(words.iter().map(|w| syllables(w) as f64).sum(), 1.55),
        (distinct.len() as f64 + 8.0) / (first.len() as f64 + 10.0),
        rate(chars(&|c| matches!(c, '!' | '！'))),
        rate(chars(&|c| matches!(c, '?' | '？'))),
        rate(chars(&is_emoji)),
        among(YOU),
        among(I),
        among(WE),
        rate(count(&|w| w.contains('\'') && !w.starts_with('\''))),
        rate(chars(&|c| matches!(c, ',' | '，' | '、'))),
        rate(chars(&asides) + text.matches(" - ").count()),
        rate(chars(&|c| matches!(c, '"' | '“' | '”' | '„' | '«' | '»'))),
        rate(count(&|w| w.chars().any(|c| c.is_ascii_digit()))),
        rate(markup(text)),
        rate(text.trim().lines().count().saturating_sub(1)),
        rate(text.matches("...").count() + chars(&|c| c == '…')),
        rate(capitals(text)),
        lower_starts(&sentences),
        among(POLITE),
        among(CASUAL),
        among(CONNECTIVES),
        among(HEDGES),
        rate(count(&|w| COMPARISONS.contains(&w)) + text.matches("as if").count()),
        rate(count(&|w| ABSTRACT.iter().any(|s| w.len() > s.len() + 2 && w.ends_with(s)))),
        among(INTENSIFIERS),
        rate(negated),
    ];
    out.into_iter().map(|x| x as f32).collect()
}

/// The words of a text in lower case: runs of letters and digits, with apostrophes inside.
/// Characters of scripts without spaces count as a word each.
fn words(text: &str) -> Vec<String> {
    let mut out = Vec::new();
    let mut word = String::new();
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        let apostrophe = matches!(c, '\'' | '’')
            && !word.is_empty()
            && chars.peek().is_some_and(|next| next.is_alphabetic());
        if is_ideograph(c) {
            out.extend((!word.is_empty()).then(|| std::mem::take(&mut word)));
            out.push(c.to_string());
        } else if apostrophe {
            word.push('\'');
        } else if c.is_alphanumeric() {
            word.extend(c.to_lowercase());
        } else if !word.is_empty() {
            out.push(std::mem::take(&mut word));
        }
    }
    out.extend((!word.is_empty()).then_some(word));
    out
}

/// The sentences of a text: ended by a mark before white space, or by the end of a line.
fn sentences(text: &str) -> Vec<&str> {
    let mut out = Vec::new();
    for line in text.lines() {
        let mut start = 0;
        let mut chars = line.char_indices().peekable();
        while let Some((at, c)) = chars.next() {
            let ends = matches!(c, '。' | '！' | '？')
                || (matches!(c, '.' | '!' | '?' | '…')
                    && chars.peek().is_none_or(|(_, next)| {
                        next.is_whitespace() || matches!(next, '"' | '”' | ')' | '*')
                    }));
            if ends {
                out.push(&line[start..at + c.len_utf8()]);
                start = at + c.len_utf8();
            }
        }
        out.push(&line[start..]);
    }
    out.retain(|s| s.chars().any(char::is_alphanumeric));
    out
}

/// Vowel groups, at least one; a mute final e does not count.
fn syllables(word: &str) -> usize {
    let is_vowel = |c: char| "aeiouyäöüáéíóúàèìòùâêîôûå".contains(c);
    let mut groups = 0;
    let mut before = false;
    for c in word.chars() {
        let vowel = is_vowel(c);
        groups += usize::from(vowel && !before);
        before = vowel;
    }
    let mute = word.ends_with('e') && !word.ends_with("le") && groups > 1;
    (groups - usize::from(mute)).clamp(1, 8)
}

fn markup(text: &str) -> usize {
    let is_item = |line: &&str| {
        let line = line.trim_start();
        let number = line.trim_start_matches(|c: char| c.is_ascii_digit());
        line.starts_with("- ")
            || line.starts_with("* ")
            || line.starts_with("• ")
            || line.starts_with('#')
            || (number.len() < line.len() && (number.starts_with(". ") || number.starts_with(") ")))
    };
    text.lines().filter(is_item).count() + text.matches("**").count() / 2 + text.matches('`').count() / 2
}

fn capitals(text: &str) -> usize {
    let is_loud = |w: &&str| {
        let letters: Vec<char> = w.chars().filter(|c| c.is_alphabetic()).collect();
        letters.len() >= 3 && letters.iter().all(|c| c.is_uppercase())
    };
    text.split_whitespace().filter(is_loud).count()
}

fn lower_starts(sentences: &[&str]) -> f64 {
    let lower = |s: &&&str| s.chars().find(|c| c.is_alphabetic()).is_some_and(char::is_lowercase);
    sentences.iter().filter(lower).count() as f64 / (sentences.len() as f64 + 1.0)
}

fn is_emoji(c: char) -> bool {
    matches!(c, '\u{1F300}'..='\u{1FAFF}' | '\u{2600}'..='\u{27BF}' | '\u{1F1E6}'..='\u{1F1FF}'
        | '\u{2B50}' | '\u{2B55}' | '\u{231A}'..='\u{231B}' | '\u{23E9}'..='\u{23FA}')
}

fn is_ideograph(c: char) -> bool {
    matches!(c, '\u{3040}'..='\u{30FF}' | '\u{3400}'..='\u{4DBF}' | '\u{4E00}'..='\u{9FFF}'
        | '\u{F900}'..='\u{FAFF}' | '\u{20000}'..='\u{2FA1F}' | '\u{0E00}'..='\u{0E7F}')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of(text: &str, name: &str) -> f32 {
        let at = FEATURES.iter().position(|f| f.name == name).expect("a feature of this name");
        features(text)[at]
    }

    #[test]
    fn features_see_what_they_are_named_for() {
        let plain = "The water is heated, and the tea is then left to stand for some minutes.";
        let pairs = [
            ("exclamation", "Wow! Heat it! Now!"),
            ("question", "Is it hot? Is it ready?"),
            ("emoji", "Tea time ☕ yes 🎉🎉"),
            ("contractions", "It’s hot, don't touch it, you'll burn."),
            ("markup", "- heat\n- pour\n1. **wait**"),
            ("abstract_nouns", "The extraction of flavour and the movement of immensity."),
            ("lower_start", "heat it. then wait. that's all."),
            ("capitals", "DO NOT touch the HOT pot"),
            ("numbers", "Heat 2 litres to 95 degrees in 2024."),
            ("length", &plain.repeat(4)),
            ("word_length", "Extraordinarily complicated circumstances necessitate deliberation."),
            ("ellipsis", "Well... wait… there"),
        ];
        for (name, text) in pairs {
            assert!(of(text, name) > of(plain, name), "{name}: {} {}", of(text, name), of(plain, name));
        }
    }

    #[test]
    fn an_empty_text_is_short_but_otherwise_usual() {
        assert_eq!(of("", "length"), 0.0);
        assert!((of("", "word_length") - 4.6).abs() < 1e-6);
        assert_eq!(of("", "emoji"), 0.0);
    }

    #[test]
    fn scripts_without_spaces_have_words() {
        assert_eq!(words("你好，世界 ok"), ["你", "好", "世", "界", "ok"]);
        assert_eq!(words("rock'n'roll ‘quoted’ don’t"), ["rock'n'roll", "quoted", "don't"]);
        assert_eq!(sentences("One. Two! e.g.this 3.5\n- three").len(), 4);
    }

    proptest! {
        #[test]
        fn features_are_finite_for_any_text(text in "\\PC{0,200}") {
            let f = features(&text);
            prop_assert_eq!(f.len(), FEATURES.len());
            prop_assert!(f.iter().all(|x| x.is_finite()));
        }
    }
}
