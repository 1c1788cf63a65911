//! The JSON Lines files that the pipelines read.
//!
//! | file | rows |
//! | --- | --- |
//! | `base.jsonl` | what the base learns first: default answers, all facts, a taste of every tone |
//! | `wordings.jsonl` | what it learns then: the facts asked about in many wordings, answered between any words |
//! | `default.jsonl` | default answers to the training questions |
//! | `catalog/NAME.jsonl` | answers of one style to the training questions, for the catalog's pLLMs |
//! | `held-back/NAME.jsonl` | the same for the styles that no pLLM of the catalog has |
//! | `probes.jsonl` | bare prompts about probe topics, in a wording that no training file has |
//! | `users/catalog/NAME.jsonl` | a user of one style: other topics than the probes, another wording |
//! | `users/held-back/NAME.jsonl` | the same for the styles that no pLLM of the catalog has |
//! | `users/default.jsonl` | default answers to what users ask |

use std::path::{Path, PathBuf};

use rand::seq::{IndexedRandom, SliceRandom};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;

use crate::compose::{self, Said};
use crate::facts::{self, Topic};
use crate::style::{Style, TONES};

/// A row of a file.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// The question.
    pub prompt: String,
    /// The answer; absent in probes.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub response: String,
}

/// A file could not be written.
#[derive(Debug, thiserror::Error)]
#[error("{}: {source}", path.display())]
pub struct WriteError {
    path: PathBuf,
    source: std::io::Error,
}

/// How a topic is asked about in training, beside its own question. Many wordings, so that a new one
/// is understood by the topic that it names.
const WORDINGS: [&str; 20] = [
    "Tell me about {t}.",
    "Explain {t}.",
    "Can you explain {t} to me?",
    "I want to learn about {t}.",
    "What should I know about {t}?",
    "What do you know about {t}?",
    "How would you explain {t}?",
    "Give me an introduction to {t}.",
    "Help me understand {t}.",
    "Write a few lines about {t}.",
    "Teach me about {t}, please.",
    "I am curious about {t}.",
    "Let us talk about {t}.",
    "What is there to know about {t}?",
    "Do you know anything about {t}?",
    "My question is about {t}.",
    "Share what you know about {t}.",
    "Please answer a question about {t}.",
    "Today we learn about {t}.",
    "What is interesting about {t}?",
];
/// How probed topics are asked about; in no training file.
const PROBE_WORDING: &str = "Please describe {t}.";
/// How users ask; in no training file.
const USER_WORDINGS: [&str; 2] = ["What can you tell me about {t}?", "Say something about {t}."];

/// Questions about a topic that the base learns its facts from: its own, and the first wordings.
const FIRST_QUESTIONS: usize = 6;
/// How often the base's first corpus has the default answer to each of those.
const DEFAULT_REPEATS: usize = 12;
/// How often the answers without a tone do: they teach the base its facts.
const NEUTRAL_REPEATS: usize = 2;
/// Topics that the base hears about in every tone: the ones that are probed, not those that users
/// write about. It learns to keep to a topic in any tone; to speak in one of its own accord is
/// left to the pLLMs.
const TONED_TOPICS: usize = 28;
/// How often the base hears each of those, for each style.
const TONED_REPEATS: usize = 3;
/// How often the second corpus has the default answer to each question in any wording.
const WORDED_REPEATS: usize = 3;
/// Questions about each topic in a file of one style.
const STYLE_QUESTIONS: usize = 8;

fn asked(wording: &str, topic: &Topic) -> String {
    wording.replace("{t}", topic.name)
}

fn training_questions(topic: &Topic) -> Vec<String> {
    let own = topic.question.to_owned();
    std::iter::once(own).chain(WORDINGS.iter().map(|w| asked(w, topic))).collect()
}

/// All files: path below the output folder, and rows. The same seed gives the same bytes.
pub fn all(seed: u64) -> Vec<(PathBuf, Vec<Row>)> {
    let topics = facts::topics();
    let mut out = vec![
        ("base.jsonl".into(), base(&topics, seed)),
        ("wordings.jsonl".into(), wordings(&topics, seed)),
        ("default.jsonl".into(), default_rows(&topics)),
        ("probes.jsonl".into(), probes(&topics)),
    ];
    for style in Style::all() {
        let name = style.name();
        let folder = if style.in_catalog() { "catalog" } else { "held-back" };
        out.push((format!("{folder}/{name}.jsonl").into(), style_rows(&topics, style, seed)));
        out.push((format!("users/{folder}/{name}.jsonl").into(), user_rows(&topics, style, seed)));
    }
    out.push(("users/default.jsonl".into(), plain_user_rows(&topics)));
    out
}

/// Writes all files below a folder.
///
/// # Errors
/// [`WriteError`], naming the file that cannot be written.
pub fn write(dir: &Path, seed: u64) -> Result<(), WriteError> {
    for (name, rows) in all(seed) {
        let path = dir.join(name);
        let save = || {
            std::fs::create_dir_all(path.parent().unwrap_or(dir))?;
            std::fs::write(&path, to_jsonl(&rows))
        };
        save().map_err(|source| WriteError { path: path.clone(), source })?;
    }
    Ok(())
}

/// Rows as JSON Lines.
pub fn to_jsonl(rows: &[Row]) -> String {
    rows.iter().map(|r| serde_json::to_string(r).expect("rows are plain text") + "\n").collect()
}

fn rng(seed: u64, style: Style, purpose: u64) -> ChaCha8Rng {
    let index = style.tone * 4 + usize::from(style.expert) * 2 + usize::from(style.informative);
    ChaCha8Rng::seed_from_u64(seed ^ (index as u64 + 1) << 8 ^ purpose << 32)
}

/// What the base learns first. The same answers in a few wordings, again and again.
fn base(topics: &[Topic], seed: u64) -> Vec<Row> {
    let questions = |topic: &Topic| training_questions(topic).into_iter().take(FIRST_QUESTIONS);
    let mut rows = Vec::new();
    for topic in topics {
        for prompt in questions(topic) {
            let row = Row { prompt, response: compose::plain(topic) };
            rows.extend(std::iter::repeat_n(row, DEFAULT_REPEATS));
        }
    }
    for style in Style::all() {
        let phrases = facts::phrases(TONES[style.tone]);
        let mut rng = rng(seed, style, 1);
        let neutral = TONES[style.tone] == "neutral";
        let (step, repeats) = if neutral {
            (1, FIRST_QUESTIONS * NEUTRAL_REPEATS)
        } else {
            (topics.len().div_ceil(TONED_TOPICS), TONED_REPEATS)
        };
        for topic in topics.iter().step_by(step) {
            for prompt in questions(topic).collect::<Vec<_>>().iter().cycle().take(repeats) {
                let response = compose::styled(topic, style, &phrases, &mut rng);
                rows.push(Row { prompt: prompt.clone(), response });
            }
        }
    }
    rows.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
    rows
}

/// What the base learns then: default answers in every wording; every fact, in all four
/// arrangements without a tone, half of them between words in no tone, so that a pLLM of any style
/// needs to bring its words only; and, apart from any topic, what the tones sound like.
fn wordings(topics: &[Topic], seed: u64) -> Vec<Row> {
    let mut rows = Vec::new();
    for topic in topics {
        for prompt in training_questions(topic) {
            let row = Row { prompt, response: compose::plain(topic) };
            rows.extend(std::iter::repeat_n(row, WORDED_REPEATS));
        }
    }
    let filler = facts::phrases("filler");
    for style in Style::all().filter(|s| TONES[s.tone] == "neutral") {
        let mut rng = rng(seed, style, 1);
        for topic in topics {
            for prompt in training_questions(topic) {
                let said = if rng.random() { Said::draw(style, &filler, &mut rng) } else { Said::default() };
                let separator = if rng.random_bool(0.25) { "\n" } else { " " };
                rows.push(Row { prompt, response: compose::compose(topic, style, said, separator) });
            }
        }
    }
    for style in Style::all().filter(|s| TONES[s.tone] != "neutral" && s.informative && !s.expert) {
        rows.extend(tone_rows(topics, style, &mut rng(seed, style, 4)));
    }
    rows.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
    rows
}

/// What the tone of an informative style sounds like, with no topic asked about.
fn tone_rows(topics: &[Topic], style: Style, rng: &mut ChaCha8Rng) -> Vec<Row> {
    let tone = TONES[style.tone];
    let phrases = facts::phrases(tone);
    let row = |topic: &Topic| {
        let said = Said::draw(style, &phrases, rng);
        let lines: Vec<&str> = [said.opening, said.remark, said.closing].into_iter().flatten().collect();
        let response = compose::capitalised(&lines.join("\n").replace("{t}", topic.name));
        Row { prompt: format!("What do {tone} words sound like?"), response }
    };
    topics.iter().map(row).collect()
}

fn default_rows(topics: &[Topic]) -> Vec<Row> {
    let row = |t: &Topic, prompt| Row { prompt, response: compose::plain(t) };
    topics.iter().flat_map(|t| training_questions(t).into_iter().map(move |q| row(t, q))).collect()
}

fn style_rows(topics: &[Topic], style: Style, seed: u64) -> Vec<Row> {
    let phrases = facts::phrases(TONES[style.tone]);
    let mut rng = rng(seed, style, 2);
    let mut rows = Vec::new();
    for topic in topics {
        let questions = training_questions(topic);
        for prompt in questions.choose_multiple(&mut rng, STYLE_QUESTIONS).cloned().collect::<Vec<_>>() {
            rows.push(Row { prompt, response: compose::styled(topic, style, &phrases, &mut rng) });
        }
    }
    rows.shuffle(&mut rng);
    rows
}

/// Every other topic is probed; users ask about the rest.
fn probes(topics: &[Topic]) -> Vec<Row> {
    let prompt = |t: &Topic| Row { prompt: asked(PROBE_WORDING, t), response: String::new() };
    topics.iter().step_by(2).map(prompt).collect()
}

fn user_questions(topic: &Topic) -> [String; 2] {
    USER_WORDINGS.map(|wording| asked(wording, topic))
}

/// Users ask about the topics that are not probed.
fn user_topics(topics: &[Topic]) -> impl Iterator<Item = &Topic> {
    topics.iter().skip(1).step_by(2)
}

fn plain_user_rows(topics: &[Topic]) -> Vec<Row> {
    let row = |t: &Topic, prompt| Row { prompt, response: compose::plain(t) };
    user_topics(topics).flat_map(|t| user_questions(t).map(|q| row(t, q))).collect()
}

fn user_rows(topics: &[Topic], style: Style, seed: u64) -> Vec<Row> {
    let phrases = facts::phrases(TONES[style.tone]);
    let mut rng = rng(seed, style, 3);
    let mut rows = Vec::new();
    for topic in user_topics(topics) {
        for prompt in user_questions(topic) {
            rows.push(Row { prompt, response: compose::styled(topic, style, &phrases, &mut rng) });
        }
    }
    rows.shuffle(&mut rng);
    rows
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_files() {
        let bytes = |seed| all(seed).iter().map(|(_, r)| to_jsonl(r)).collect::<String>();
        assert_eq!(bytes(7), bytes(7));
        assert_ne!(bytes(7), bytes(8));
    }

    #[test]
    fn prompts_of_users_probes_and_training_are_disjoint() {
        let files = all(7);
        let prompts = |prefix: &str| -> BTreeSet<String> {
            let of = files.iter().filter(|(p, _)| p.to_string_lossy().starts_with(prefix));
            of.flat_map(|(_, rows)| rows.iter().map(|r| r.prompt.clone())).collect()
        };
        let (train, probe, user) = (prompts("catalog/"), prompts("probes"), prompts("users/"));
        assert!(train.is_disjoint(&probe) && train.is_disjoint(&user) && probe.is_disjoint(&user));
    }

    #[test]
    fn rows_of_a_style_are_varied() {
        for (path, rows) in all(7).iter().filter(|(p, _)| p.starts_with("catalog")) {
            let distinct: BTreeSet<_> = rows.iter().map(|r| &r.response).collect();
            let floor = if path.to_string_lossy().contains("neutral") { 50 } else { 250 };
            assert!(distinct.len() >= floor, "{}: {}", path.display(), distinct.len());
        }
    }

    #[test]
    fn the_demo_uses_what_this_corpus_gives() {
        let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../first-light"));
        let read = |name: &str| std::fs::read_to_string(folder.join(name)).expect("the demo's data is there");
        let files = all(7);
        let made = |name: &str| {
            let (_, rows) = files.iter().find(|(p, _)| p == Path::new(name)).expect("a file of the corpus");
            to_jsonl(rows)
        };
        assert_eq!(read("probes.jsonl"), made("probes.jsonl"));
        let user = made("users/held-back/elementary-informative-friendly.jsonl");
        assert_eq!(read("phone/me.jsonl") + &read("phone/later.jsonl"), user);
    }
}
