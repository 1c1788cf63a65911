//! Parallel answers in several styles.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use headstart_explain::judge::NINE_STYLES;

use crate::table::{Failed, Score, Style, Words};
use crate::vectors::Vectors;

/// Questions of a catalog, and catalogs.
const PROBES: usize = 50;
const CATALOGS: usize = 6;

type Answers = HashMap<String, String>;

fn read(path: &Path) -> Result<(Vec<String>, Answers), Failed> {
    let mut order = Vec::new();
    let mut answers = Answers::new();
    for line in fs::read_to_string(path)?.lines() {
        let row: serde_json::Value = serde_json::from_str(line)?;
        let text = |key: &str| row[key].as_str().unwrap_or_default().to_owned();
        let question = format!("{}\n{}", text("Context"), text("Input"));
        order.push(question.clone());
        answers.insert(question, text("Response"));
    }
    Ok((order, answers))
}

pub fn run(data: &Path, encoder: &Path, cache: &Path, first: usize) -> Result<(), Failed> {
    let (order, plain) = read(&data.join("0.jsonl"))?;
    let styles: Result<Vec<Answers>, Failed> =
        (1..=NINE_STYLES.len()).map(|i| Ok(read(&data.join(format!("{i}.jsonl")))?.1)).collect();
    let styles = styles?;
    let shared: Vec<&String> = order.iter().filter(|q| styles.iter().all(|s| s.contains_key(*q))).collect();
    let mut vectors = Vectors::open(cache)?;
    let mut embedder = |texts: &[String]| vectors.of(texts, encoder);
    let words = Words::embed(&mut embedder)?;
    let mut score = Score::default();
    for i in 0..CATALOGS {
        let from = first + i * PROBES;
        let asked = shared.get(from..from + PROBES).ok_or("the files share too few questions")?;
        let style = |(n, answers): (usize, &Answers)| Style {
            name: format!("{} ({})", n + 1, NINE_STYLES[n].join(", ")),
            traits: NINE_STYLES[n].iter().map(|t| (*t).to_owned()).collect(),
            pairs: asked.iter().map(|q| (answers[*q].clone(), plain[*q].clone())).collect(),
        };
        let styles: Vec<Style> = styles.iter().enumerate().map(style).collect();
        score.add(&words.catalog(&styles, &mut embedder)?, &styles, i == 0);
        if i == 0 {
            score.print("eight styles, the first fifty questions");
        }
    }
    score.print(&format!(
        "eight styles, {CATALOGS} catalogs of {PROBES} questions each, from question {first}"
    ));
    Ok(())
}
