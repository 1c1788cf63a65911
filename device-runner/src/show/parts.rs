//! The sections of the owner's page.

use std::fmt::Write;

use headstart_protocol::text::counted;
use headstart_report::Sample;
use serde_json::Value as Json;

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

fn number(value: &Json, name: &str) -> Option<f64> {
    value.get(name).and_then(Json::as_f64)
}

/// The owner's style in words, with bars and intervals.
pub(super) fn style(out: &mut String, name: &str, value: &Json) {
    let Some(user) = value.get("user") else { return };
    let Some(words) = user.get("words").and_then(Json::as_array).filter(|w| !w.is_empty()) else { return };
    heading(out, "How you write", name);
    let top =
        words.iter().filter_map(|w| number(w, "coefficient")).fold(f64::MIN_POSITIVE, |a, x| a.max(x.abs()));
    let width =
        words.iter().filter_map(|w| w.get("word")?.as_str()).map(|w| w.chars().count()).max().unwrap_or(0);
    for w in words {
        let (Some(word), Some(x)) = (w.get("word").and_then(Json::as_str), number(w, "coefficient")) else {
            continue;
        };
        let interval = match (number(w, "low"), number(w, "high")) {
            (Some(low), Some(high)) => format!("  {low:.2} to {high:.2}"),
            _ => String::new(),
        };
        let _ = writeln!(out, "  {word:width$}  {x:>5.2}  {:BAR$}{interval}", bar(x.abs() / top));
    }
    if let Some(share) = number(user, "explained") {
        let _ = writeln!(
            out,
            "  These words explain {:.0}% of how your texts differ from the base model's; the intervals\n  \
             hold it with 95% certainty.",
            share * 100.0
        );
    }
}

/// A bar in eighths of a cell.
fn bar(share: f64) -> String {
    let eighths = (share.clamp(0.0, 1.0) * (BAR * 8) as f64).round() as usize;
    let mut out = "█".repeat(eighths / 8);
    out.extend(['▏', '▎', '▍', '▌', '▋', '▊', '▉'].get((eighths % 8).wrapping_sub(1)));
    out
}

/// What was chosen for the owner, and how sure it is.
pub(super) fn choice(out: &mut String, name: &str, value: &Json) {
    let Some(chosen) = value.get("pllm_name").and_then(Json::as_str) else { return };
    heading(out, "The head start chosen for you", name);
    let mix = numbers(value.get("mix"));
    let abstained = value.get("abstained").and_then(Json::as_bool).unwrap_or(false);
    if abstained {
        out.push_str("  none: no model of the catalog was found to help; yours starts from the base\n");
    } else if mix.len() > 1 {
        let parts: Vec<String> = mix.iter().map(|(n, w)| format!("{w:.2} × {n}")).collect();
        let _ = writeln!(out, "  a mix: {}", parts.join(" + "));
    } else {
        let _ = writeln!(out, "  {chosen}");
    }
    if let Some(text) = value.get("sentence").and_then(Json::as_str) {
        wrapped(out, "  ", text);
    }
    if let Some(sure) = number(value, "confidence") {
        let _ =
            writeln!(out, "  In {:.0} of 100 redraws of your texts the choice stays the same.", sure * 100.0);
    }
    if let Some(line) = value.get("forecast").and_then(headstart_report::view::expected) {
        wrapped(out, "  ", &line);
    }
    let mut near = numbers(value.get("distances"));
    near.sort_by(|a, b| a.1.total_cmp(&b.1));
    if near.len() > 1 {
        let near: Vec<String> = near.iter().take(5).map(|(n, d)| format!("{n} {d:.2}")).collect();
        wrapped(out, "  ", &format!("Nearest first, with distances: {}", near.join(", ")));
    }
}

fn numbers(value: Option<&Json>) -> Vec<(String, f64)> {
    let fields = value.and_then(Json::as_object).into_iter().flatten();
    let mut out: Vec<(String, f64)> = fields.filter_map(|(k, v)| Some((k.clone(), v.as_f64()?))).collect();
    out.sort_by(|a, b| b.1.total_cmp(&a.1));
    out
}

/// How a training went: losses, steps, the curve.
pub(super) fn training(out: &mut String, name: &str, value: &Json) {
    let metrics = value.get("metrics").unwrap_or(value);
    let (Some(loss), Some(steps)) = (number(metrics, "loss"), number(metrics, "steps")) else { return };
    heading(out, "Training", name);
    let from = number(metrics, "start_loss").map_or(String::new(), |l| format!("{l:.3} → "));
    let took = number(metrics, "seconds").map_or(String::new(), |s| format!(", {s:.1} s"));
    // A truth value among numbers is 1 or 0. It is there only where there was a target.
    let goal = match number(metrics, "reached") {
        Some(1.0) => ", target reached",
        Some(_) => ", target not reached",
        None => "",
    };
    let steps = counted(steps as u64, "step");
    let _ = writeln!(out, "  loss {from}{loss:.3} in {steps}{took}{goal}");
    let curve = value.get("curve").or_else(|| metrics.get("curve")).and_then(Json::as_array);
    let points: Vec<f64> = curve.into_iter().flatten().filter_map(|p| p.get(1)?.as_f64()).collect();
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
pub(super) fn measurements(out: &mut String, rows: &[(&str, &Json)]) {
    const COLUMNS: [(&str, &str); 6] = [
        ("loss", "loss"),
        ("perplexity", "perplexity"),
        ("bits_per_byte", "bits/byte"),
        ("bleu", "BLEU"),
        ("rougeL", "ROUGE-L"),
        ("rows", "rows"),
    ];
    let used: Vec<_> =
        COLUMNS.iter().filter(|(k, _)| rows.iter().any(|r| number(r.1, k).is_some())).collect();
    if used.is_empty() {
        return;
    }
    let width = rows.iter().map(|r| r.0.chars().count()).max().unwrap_or(0);
    let _ = write!(out, "\nMeasured on your own texts\n  {:width$}", "");
    for (_, title) in &used {
        let _ = write!(out, "  {title:>10}");
    }
    for (name, value) in rows {
        let _ = write!(out, "\n  {name:width$}");
        for (key, _) in &used {
            let cell = match number(value, key) {
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
    use serde_json::json;

    #[test]
    fn the_page_reads_well() {
        let mut out = String::new();
        let pick = json!({
            "pllm_name": "kind", "mix": { "kind": 0.75, "terse": 0.25 }, "abstained": false, "confidence": 0.93,
            "distances": { "terse": 1.5, "kind": 0.5 }, "sentence": "Chosen because you write warmly (0.8).",
            "user": { "explained": 0.64, "words": [
                { "word": "friendly", "coefficient": 0.8, "low": 0.6, "high": 1.0 },
                { "word": "formal", "coefficient": -0.21, "low": -0.4, "high": -0.1 },
            ] },
        });
        style(&mut out, "pick", &pick);
        choice(&mut out, "pick", &pick);
        let metrics = json!({ "loss": 0.5, "start_loss": 2.25, "steps": 40, "seconds": 12.34, "reached": 1 });
        let curve = json!([[0, 2.25], [10, 1.5], [20, 0.75], [30, 0.5]]);
        training(&mut out, "tuned", &json!({ "format": "lora", "metrics": metrics, "curve": curve }));
        measurements(
            &mut out,
            &[("before", &json!({ "loss": 2.0, "rows": 7 })), ("after", &json!({ "loss": 0.5 }))],
        );
        let sample =
            |answer: &str| Sample { prompt: "Why?".into(), reference: "So.".into(), answer: answer.into() };
        answers(&mut out, &[("before".into(), vec![sample("Hm.")]), ("after".into(), vec![sample("So!")])]);
        let expected = "
How you write (pick)
  friendly   0.80  ████████████████████████  0.60 to 1.00
  formal    -0.21  ██████▎                   -0.40 to -0.10
  These words explain 64% of how your texts differ from the base model's; the intervals
  hold it with 95% certainty.

The head start chosen for you (pick)
  a mix: 0.75 × kind + 0.25 × terse
  Chosen because you write warmly (0.8).
  In 93 of 100 redraws of your texts the choice stays the same.
  Nearest first, with distances: kind 0.50, terse 1.50

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
