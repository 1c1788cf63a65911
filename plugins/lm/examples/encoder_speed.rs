//! Measures the sentence encoder: `encoder_speed MODEL_DIR FILE.jsonl [TEXTS] [THREADS]`.
//!
//! Texts are the values of all text keys of the file's rows, in order. The first pass warms up;
//! the best of three counts.

use std::time::Instant;

use headstart_lm::api::Unwatched;
use headstart_lm::encoder::load_encoder;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [model, file, rest @ ..] = args.as_slice() else {
        return Err("usage: encoder_speed MODEL_DIR FILE.jsonl [TEXTS] [THREADS]".into());
    };
    let count = rest.first().map_or(Ok(500), |n| n.parse())?;
    let threads = rest.get(1).map_or(Ok(2), |n| n.parse())?;
    let mut texts = Vec::new();
    for line in std::fs::read_to_string(file)?.lines() {
        let row: serde_json::Map<String, serde_json::Value> = serde_json::from_str(line)?;
        texts.extend(row.values().filter_map(|v| v.as_str()).filter(|t| !t.is_empty()).map(str::to_owned));
    }
    texts.truncate(count);
    let encoder = load_encoder(model.as_ref(), threads)?;
    encoder.encode(&texts, &Unwatched)?;
    let mut best = f64::INFINITY;
    for _ in 0..3 {
        let start = Instant::now();
        encoder.encode(&texts, &Unwatched)?;
        best = best.min(start.elapsed().as_secs_f64());
    }
    let words: usize = texts.iter().map(|t| t.split_whitespace().count()).sum();
    println!(
        "{} texts of {:.1} words on {threads} threads: {best:.3} s, {:.0} texts/s, {:.0} words/s",
        texts.len(),
        words as f64 / texts.len() as f64,
        texts.len() as f64 / best,
        words as f64 / best
    );
    Ok(())
}
