//! The 28 styles of the demonstration corpus.

use std::path::Path;

use headstart_corpus::style::TONES;
use headstart_corpus::{compose, facts, style};
use headstart_lm::{Backend, CpuBackend, GenerateOptions, Watch};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use crate::table::{Failed, Score, Style, Words};

pub struct Silent;
impl Watch for Silent {}

/// Longest answer of a pLLM, in tokens.
const ANSWER: usize = 96;

pub fn run(model: &Path, catalog: Option<&Path>) -> Result<(), Failed> {
    let backend = CpuBackend::new(2);
    let decoder = backend.decoder(model, None)?;
    let mut embedder = |texts: &[String]| Ok(decoder.pooled(texts, &Silent)?);
    let words = Words::embed(&mut embedder)?;
    let mut show = |what: &str, styles: &[Style]| -> Result<(), Failed> {
        let mut score = Score::default();
        score.add(&words.catalog(styles, &mut embedder)?, styles, true);
        score.print(what);
        Ok(())
    };
    show("catalog styles on probe topics (tuned on)", &texts(|s| s.in_catalog(), 0))?;
    show("held-back styles on users' topics", &texts(|s| !s.in_catalog(), 1))?;
    show("all 28 on users' topics", &texts(|_| true, 1))?;
    if let Some(folder) = catalog {
        show("the pLLMs' own answers", &answers(&backend, model, folder)?)?;
    }
    Ok(())
}

fn traits(s: style::Style) -> Vec<String> {
    let expertise = if s.expert { "expert" } else { "elementary" };
    let length = if s.informative { "informative" } else { "concise" };
    [expertise, length, TONES[s.tone]].map(str::to_owned).to_vec()
}

/// Texts of some styles on every other topic, from the first or the second on.
fn texts(wanted: impl Fn(style::Style) -> bool, from: usize) -> Vec<Style> {
    let topics = facts::topics();
    let of = |s: style::Style| {
        let phrases = facts::phrases(TONES[s.tone]);
        let mut rng = ChaCha8Rng::seed_from_u64(11);
        let pair = |t: &facts::Topic| (compose::styled(t, s, &phrases, &mut rng), compose::plain(t));
        let pairs = topics.iter().skip(from).step_by(2).map(pair).collect();
        Style { name: s.name(), traits: traits(s), pairs }
    };
    style::Style::all().filter(|s| wanted(*s)).map(of).collect()
}

/// What the pLLMs of a folder answer to the probes, and the base.
fn answers(backend: &CpuBackend, model: &Path, folder: &Path) -> Result<Vec<Style>, Failed> {
    let prompts: Vec<String> =
        facts::topics().iter().step_by(2).map(|t| format!("Please describe {}.", t.name)).collect();
    let options = GenerateOptions { max_tokens: ANSWER, temperature: 0.0, seed: 0 };
    let ask = |adapter: Option<&Path>| -> Result<Vec<String>, Failed> {
        Ok(backend.decoder(model, adapter)?.generate(&prompts, &options, &Silent)?)
    };
    let plain = ask(None)?;
    let mut styles = Vec::new();
    for s in style::Style::all() {
        let adapter = folder.join(s.name());
        if adapter.is_dir() {
            let pairs = ask(Some(&adapter))?.into_iter().zip(plain.iter().cloned()).collect();
            styles.push(Style { name: s.name(), traits: traits(s), pairs });
        }
    }
    Ok(styles)
}
