//! The sections of the owner's page.

use std::fmt::Write;

use headstart_protocol::artifacts::{ArtifactError, Explanation, Metrics, Pllm, Selection};
use headstart_protocol::text::counted;
use headstart_report::text::percent;
use headstart_report::{Sample, expected};

/// Columns of the page.
const WIDTH: usize = 96;
/// Cells of a full bar.
const BAR: usize = 24;
/// Answers shown at most.
const ANSWERS: usize = 3;
/// Characters of an answer shown at most.
const ANSWER: usize = 320;

fn heading(out: &mut String, title: &str, name: &str) {
    let _ = writeln!(out, "\n{title} ({name})");
}

/// That a value cannot be shown.
pub(super) fn unreadable(out: &mut String, name: &str, why: &ArtifactError) {
    let _ = writeln!(out, "\n{name}: {why}");
}

/// The owner's style in words, with bars and intervals.
pub(super) fn style(out: &mut String, name: &str, user: &Explanation) {
    let words = &user.words;
    if words.is_empty() {
        return;
    }
    heading(out, "How you write", name);
    let top = words.iter().fold(f64::MIN_POSITIVE, |a, w| a.max(w.coefficient.abs()));
    let width = words.iter().map(|w| w.word.chars().count()).max().unwrap_or(0);
    for w in words {
        let bar = bar(w.coefficient.abs() / top);
        let _ = writeln!(
            out,
            "  {:width$}  {:>5.2}  {bar:BAR$}  {:.2} to {:.2}",
            w.word, w.coefficient, w.low, w.high
        );
    }
    let _ = writeln!(
        out,
        "  These words explain {} of how your texts differ from the base model's answers.\n  \
         The ranges are 95\u{202f}% intervals.",
        percent(user.explained)
    );
}

/// A bar in eighths of a cell.
fn bar(share: f64) -> String {
    let eighths = (share.clamp(0.0, 1.0) * (BAR * 8) as f64).round() as usize;
    let mut out = "█".repeat(eighths / 8);
    out.extend(['▏', '▎', '▍', '▌', '▋', '▊', '▉'].get((eighths % 8).wrapping_sub(1)));
    out
}

/// What was chosen for the owner, and how sure it is.
pub(super) fn choice(out: &mut String, name: &str, selection: &Selection) {
    heading(out, "The head start chosen for you", name);
    let mix = selection.heaviest_first();
    if selection.abstained {
        out.push_str("  none: no model of the catalog was found to help; yours starts from the base\n");
    } else if selection.is_mix && !mix.is_empty() {
        let parts: Vec<String> = mix.iter().map(|(n, w)| format!("{w:.2} × {n}")).collect();
        wrapped(out, "  ", &format!("a mix: {}", parts.join(" + ")));
    } else if let Some(chosen) = &selection.pllm_name {
        let _ = writeln!(out, "  {chosen}");
    }
    if let Some(text) = &selection.sentence {
        wrapped(out, "  ", text);
    }
    let _ = writeln!(
        out,
        "  The choice stays the same in {:.0} of 100 resamples of your texts.",
        selection.confidence * 100.0
    );
    if let Some(line) = expected(&selection.forecast) {
        wrapped(out, "  ", &line);
    }
    let near = selection.nearest_first();
    if near.len() > 1 {
        let near: Vec<String> = near.iter().take(5).map(|(n, d)| format!("{n} {d:.2}")).collect();
        wrapped(out, "  ", &format!("nearest first, with distances: {}", near.join(", ")));
    }
}

/// How a training went: losses, steps, the curve.
pub(super) fn training(out: &mut String, name: &str, pllm: &Pllm) {
    let Some(training) = pllm.training() else { return };
    let Some(loss) = training.loss else { return };
    heading(out, "Training", name);
    let from = training.start_loss.map_or(String::new(), |l| format!("{l:.3} → "));
    let took = training.seconds.map_or(String::new(), |s| format!(", {s:.1} s"));
    let goal = match training.reached {
        Some(true) => ", target reached",
        Some(false) => ", target not reached",
        None => "",
    };
    let steps = counted(training.steps as u64, "step");
    let _ = writeln!(out, "  loss {from}{loss:.3} in {steps}{took}{goal}");
    let points: Vec<f64> = pllm.curve.iter().map(|p| p.1).collect();
    if points.len() > 1 {
        let _ = writeln!(out, "  {}", sparkline(&points));
    }
}

fn sparkline(points: &[f64]) -> String {
    const LEVELS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let low = points.iter().copied().fold(f64::INFINITY, f64::min);
    let high = points.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let level = |x: &f64| {
        let share = if high > low { (x - low) / (high - low) } else { 0.0 };
        LEVELS[((share * 7.0).round() as usize).min(7)]
    };
    let every = points.len().div_ceil(WIDTH - 4);
    points.iter().step_by(every).map(level).collect()
}

/// A table of measurements, a row a stage.
pub(super) fn measurements(out: &mut String, rows: &[(&str, Metrics)]) {
    const COLUMNS: [(&str, &str); 6] = [
        ("loss", "loss"),
        ("perplexity", "perplexity"),
        ("bits_per_byte", "bits/byte"),
        ("bleu", "BLEU"),
        ("rougeL", "ROUGE-L"),
        ("rows", "rows"),
    ];
    let used: Vec<_> = COLUMNS.iter().filter(|(k, _)| rows.iter().any(|r| r.1.get(k).is_some())).collect();
    if used.is_empty() {
        return;
    }
    let width = rows.iter().map(|r| r.0.chars().count()).max().unwrap_or(0);
    let _ = write!(out, "\nMeasured on your own texts\n  {:width$}", "");
    for (_, title) in &used {
        let _ = write!(out, "  {title:>10}");
    }
    for (name, metrics) in rows {
        let _ = write!(out, "\n  {name:width$}");
        for (key, _) in &used {
            let cell = match metrics.get(key) {
                Some(x) if x.fract() == 0.0 && x.abs() < 1e9 => format!("{x}"),
                Some(x) => format!("{x:.3}"),
                None => "–".to_owned(),
            };
            let _ = write!(out, "  {cell:>10}");
        }
    }
    out.push('\n');
}

/// Answers to the same prompts, side by side.
pub(super) fn answers(out: &mut String, by_stage: &[(String, Vec<Sample>)]) {
    let Some((_, first)) = by_stage.iter().find(|(_, s)| !s.is_empty()) else { return };
    out.push_str("\nAnswers\n");
    let width = by_stage.iter().map(|(n, _)| n.chars().count()).max().unwrap_or(0).max("you".len());
    for sample in first.iter().take(ANSWERS) {
        wrapped(out, "  “", &format!("{}”", sample.prompt));
        let mut say = |who: &str, what: &str| {
            let cut: String = what.split_whitespace().collect::<Vec<_>>().join(" ");
            let dots = if cut.chars().count() > ANSWER { " …" } else { "" };
            let cut: String = cut.chars().take(ANSWER).collect();
            wrapped(out, &format!("    {who:width$}  "), &format!("{cut}{dots}"));
        };
        say("you", &sample.reference);
        for (name, samples) in by_stage {
            if let Some(same) = samples.iter().find(|s| s.prompt == sample.prompt) {
                say(name, &same.answer);
            }
        }
    }
}

/// Text behind `first`, broken between words and indented alike.
pub(super) fn wrapped(out: &mut String, first: &str, text: &str) {
    let indent = first.chars().count();
    let (mut line, mut used) = (first.to_owned(), indent);
    for word in text.split_whitespace() {
        let n = word.chars().count();
        if used > indent && used + 1 + n > WIDTH {
            let _ = writeln!(out, "{}", line.trim_end());
            (line, used) = (" ".repeat(indent), indent);
        }
        if used > indent {
            line.push(' ');
            used += 1;
        }
        line.push_str(word);
        used += n;
    }
    let _ = writeln!(out, "{}", line.trim_end());
}

#[cfg(test)]
mod tests {
    use super::*;
    use headstart_protocol::artifacts::Artifact;
    use serde_json::json;

    #[test]
    fn the_page_reads_well() {
        let mut out = String::new();
        let pick = json!({
            "pllm_name": "kind", "is_mix": true, "mix": { "kind": 0.75, "terse": 0.25 }, "abstained": false, "confidence": 0.93,
            "distances": { "terse": 1.5, "kind": 0.5 }, "sentence": "Chosen because you write warmly (0.8).",
            "user": { "explained": 0.64, "words": [
                { "word": "friendly", "coefficient": 0.8, "low": 0.6, "high": 1.0 },
                { "word": "formal", "coefficient": -0.21, "low": -0.4, "high": -0.1 },
            ] },
        });
        let pick = Selection::read(&pick).expect("a selection");
        style(&mut out, "pick", &pick.user);
        choice(&mut out, "pick", &pick);
        let metrics = json!({ "loss": 0.5, "start_loss": 2.25, "steps": 40, "seconds": 12.34, "reached": 1 });
        let curve = json!([[0, 2.25], [10, 1.5], [20, 0.75], [30, 0.5]]);
        let tuned = Pllm::read(&json!({ "format": "lora", "metrics": metrics, "curve": curve }));
        training(&mut out, "tuned", &tuned.expect("a pLLM"));
        let loss = |loss: f64| Metrics::default().with("loss", loss);
        measurements(&mut out, &[("before", loss(2.0).with("rows", 7usize)), ("after", loss(0.5))]);
        let sample =
            |answer: &str| Sample { prompt: "Why?".into(), reference: "So.".into(), answer: answer.into() };
        answers(&mut out, &[("before".into(), vec![sample("Hm.")]), ("after".into(), vec![sample("So!")])]);
        let expected = "
How you write (pick)
  friendly   0.80  ████████████████████████  0.60 to 1.00
  formal    -0.21  ██████▎                   -0.40 to -0.10
  These words explain 64\u{202f}% of how your texts differ from the base model's answers.
  The ranges are 95\u{202f}% intervals.

The head start chosen for you (pick)
  a mix: 0.75 × kind + 0.25 × terse
  Chosen because you write warmly (0.8).
  The choice stays the same in 93 of 100 resamples of your texts.
  nearest first, with distances: kind 0.50, terse 1.50

Training (tuned)
  loss 2.250 → 0.500 in 40 steps, 12.3 s, target reached
  █▅▂▁

Measured on your own texts
                loss        rows
  before           2           7
  after        0.500           –

Answers
  “Why?”
    you     So.
    before  Hm.
    after   So!
";
        assert_eq!(out, expected, "{out}");
    }
}
