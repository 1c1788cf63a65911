//! The demonstration model as it is in the repository, asked in wordings that no training has seen.
//! The whole table: `cargo run -p headstart-corpus --example readability -- MODEL CATALOG`.

use std::path::Path;

use headstart_corpus::facts::{Topic, topics};
use headstart_corpus::readable::Judge;
use headstart_corpus::style::Style;
use headstart_lm::{GenerateOptions, Unwatched};
use headstart_train::default_backend;

/// Shares of (readable answers, answers in their style).
fn shares(model: &mut dyn headstart_lm::Decoder, style: Option<Style>, topics: &[&Topic]) -> (f64, f64) {
    let wordings = ["What can you tell me about {t}?", "Say something about {t}."];
    let prompts: Vec<String> =
        topics.iter().enumerate().map(|(i, t)| wordings[i % 2].replace("{t}", t.name)).collect();
    let options = GenerateOptions { max_tokens: 128, temperature: 0.0, seed: 0 };
    let answers = model.generate(&prompts, &options, &Unwatched).expect("the model answers");
    let judge = Judge::default();
    let verdicts: Vec<_> = topics.iter().zip(&answers).map(|(t, a)| judge.judge(t, style, a)).collect();
    let share = |of: fn(&headstart_corpus::readable::Verdict) -> bool| {
        verdicts.iter().filter(|v| of(v)).count() as f64 / verdicts.len() as f64
    };
    (share(|v| v.readable), share(|v| v.in_style))
}

#[test]
fn answers_to_unseen_wordings_are_readable_and_in_style() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let backend = default_backend();
    let all = topics();
    // The topics that users write about.
    let asked: Vec<&Topic> = all.iter().skip(1).step_by(6).collect();
    let model = examples.join("models/tiny");
    let mut base = backend.decoder(&model, None).expect("the model is there");
    let (readable, default) = shares(base.as_mut(), None, &asked);
    assert!(readable >= 0.9 && default >= 0.9, "the base: {readable:.2} readable, {default:.2} as trained");
    let mut sum = (0.0, 0.0);
    let styles: Vec<Style> = Style::all().filter(|s| s.in_catalog()).collect();
    for style in &styles {
        let adapter = examples.join("catalog").join(style.name());
        let mut model = backend.decoder(&model, Some(&adapter)).expect("the catalog has it");
        let (readable, in_style) = shares(model.as_mut(), Some(*style), &asked);
        println!("{:40} {readable:.2} readable, {in_style:.2} in style", style.name());
        sum = (sum.0 + readable, sum.1 + in_style);
    }
    let n = styles.len() as f64;
    let (readable, in_style) = (sum.0 / n, sum.1 / n);
    assert!(
        readable >= 0.9 && in_style >= 0.8,
        "the catalog: {readable:.2} readable, {in_style:.2} in style"
    );
}
