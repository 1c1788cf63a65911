//! BLEU and ROUGE of 150 pairs of awkward texts (numbers, entities, odd spaces, other scripts), as
//! sacrebleu 2.6.0 and rouge_score 0.1.2 compute them; the texts were drawn from a seeded generator.

use headstart_evaluate::{Rouge, bleu};

#[test]
fn scores_are_those_of_sacrebleu_and_rouge_score() {
    let all: serde_json::Value =
        serde_json::from_str(include_str!("reference-scores.json")).expect("a JSON file");
    let text = |v: &serde_json::Value| v.as_str().expect("text").to_owned();
    let rows = all["rows"].as_array().expect("rows");
    let pairs: Vec<_> = rows.iter().map(|r| (text(&r[0]), text(&r[1]))).collect();
    for ((hypothesis, reference), row) in pairs.iter().zip(rows) {
        let rouge = Rouge::of(hypothesis, reference);
        let found = [bleu::sentence(hypothesis, reference), rouge.rouge1, rouge.rouge2, rouge.rouge_l];
        for (i, score) in found.into_iter().enumerate() {
            let expected = row[i + 2].as_f64().expect("a number");
            let what = &all["columns"][i + 2];
            assert!(
                (score - expected).abs() < 1e-8,
                "{what} of {hypothesis:?} against {reference:?}: {score}"
            );
        }
    }
    let corpus = bleu::corpus(pairs.iter().map(|(h, r)| (h.as_str(), r.as_str())));
    assert!((corpus - all["corpus_bleu"].as_f64().expect("a number")).abs() < 1e-9, "{corpus}");
}
