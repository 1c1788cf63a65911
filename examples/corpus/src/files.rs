//! The JSON Lines files that the pipelines read.
//!
//! | file | rows |
//! | --- | --- |
//! | `base.jsonl` | what the base is trained on: default answers, all facts, a taste of every tone |
//! | `default.jsonl` | default answers to the training questions |
//! | `catalog/NAME.jsonl` | answers of one style to the training questions, for the catalog's pLLMs |
//! | `held-back/NAME.jsonl` | the same for the styles that no pLLM of the catalog has |
//! | `probes.jsonl` | bare prompts about probe topics, in a wording that no training file has |
//! | `users/NAME.jsonl` | a user of one style: other topics than the probes, another wording |

use std::path::{Path, PathBuf};

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use serde::Serialize;

use crate::compose;
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

/// How often the default answers stand in the base's corpus for each wording of the question.
const DEFAULT_REPEATS: usize = 12;
/// How often the answers without a tone do: they teach the base its facts.
const NEUTRAL_REPEATS: usize = 2;
/// Topics that the base hears about in every tone: the ones that are probed, not those that users
/// write about. It learns to keep to a topic in any tone; to speak in one of its own accord is
/// left to the pLLMs.
const TONED_TOPICS: usize = 28;
/// How often the base hears each of those, for each style.
const TONED_REPEATS: usize = 3;

fn training_questions(topic: &Topic) -> [String; 6] {
    let t = topic.name;
    [
        topic.question.to_owned(),
        format!("Tell me about {t}."),
        format!("Explain {t}."),
        format!("Can you explain {t} to me?"),
        format!("I want to learn about {t}."),
        format!("What should I know about {t}?"),
    ]
}

/// All files: path below the output folder, and rows. The same seed gives the same bytes.
pub fn all(seed: u64) -> Vec<(PathBuf, Vec<Row>)> {
    let topics = facts::topics();
    let mut out = vec![
        ("base.jsonl".into(), base(&topics, seed)),
        ("default.jsonl".into(), default_rows(&topics)),
        ("probes.jsonl".into(), probes(&topics)),
    ];
    for style in Style::all() {
        let name = style.name();
        let folder = if style.in_catalog() { "catalog" } else { "held-back" };
        out.push((format!("{folder}/{name}.jsonl").into(), style_rows(&topics, style, seed)));
        out.push((format!("users/{name}.jsonl").into(), user_rows(&topics, style, seed)));
    }
    out
}

/// Writes all files below a folder.
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

fn base(topics: &[Topic], seed: u64) -> Vec<Row> {
    let mut rows = Vec::new();
    for topic in topics {
        for prompt in training_questions(topic) {
            let row = Row { prompt, response: compose::plain(topic) };
            rows.extend(std::iter::repeat_n(row, DEFAULT_REPEATS));
        }
    }
    for style in Style::all() {
        let phrases = facts::phrases(TONES[style.tone]);
        let mut rng = rng(seed, style, 1);
        let neutral = TONES[style.tone] == "neutral";
        let (step, repeats) = if neutral {
            (1, 6 * NEUTRAL_REPEATS)
        } else {
            (topics.len().div_ceil(TONED_TOPICS), TONED_REPEATS)
        };
        for topic in topics.iter().step_by(step) {
            let questions = training_questions(topic);
            for prompt in questions.iter().cycle().take(repeats) {
                let response = compose::styled(topic, style, &phrases, &mut rng);
                rows.push(Row { prompt: prompt.clone(), response });
            }
        }
    }
    rows.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
    rows
}

fn default_rows(topics: &[Topic]) -> Vec<Row> {
    let row = |t: &Topic, prompt| Row { prompt, response: compose::plain(t) };
    topics.iter().flat_map(|t| training_questions(t).map(|q| row(t, q))).collect()
}

fn style_rows(topics: &[Topic], style: Style, seed: u64) -> Vec<Row> {
    let phrases = facts::phrases(TONES[style.tone]);
    let mut rng = rng(seed, style, 2);
    let mut rows = Vec::new();
    for topic in topics {
        for prompt in training_questions(topic) {
            rows.push(Row { prompt, response: compose::styled(topic, style, &phrases, &mut rng) });
        }
    }
    rows.shuffle(&mut rng);
    rows
}

/// Every other topic is probed; users ask about the rest.
fn probes(topics: &[Topic]) -> Vec<Row> {
    let prompt = |t: &Topic| Row { prompt: format!("Please describe {}.", t.name), response: String::new() };
    topics.iter().step_by(2).map(prompt).collect()
}

fn user_rows(topics: &[Topic], style: Style, seed: u64) -> Vec<Row> {
    let phrases = facts::phrases(TONES[style.tone]);
    let mut rng = rng(seed, style, 3);
    let mut rows = Vec::new();
    for topic in topics.iter().skip(1).step_by(2) {
        let t = topic.name;
        for prompt in [format!("What can you tell me about {t}?"), format!("Say something about {t}.")] {
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
        let user = made("users/elementary-informative-friendly.jsonl");
        assert_eq!(read("phone/me.jsonl") + &read("phone/later.jsonl"), user);
    }
}
