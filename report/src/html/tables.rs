//! Tables, samples and the details at the end.

use maud::{Markup, html};

use super::{bar, breakable, capital};
use crate::compare::Pair;
use crate::run::{Output, OutputView, RunReport, Sample};
use crate::terminal::SHOWN;
use crate::text::{counted, grouped, metric, metrics, percent, seconds, spaced};
use crate::view::{Catalog, Numbers, Selection, Share, Style, Word, shares};

const SAMPLES: usize = 3;
const DISTANCES: usize = 5;

/// The nearest pLLMs, with what decided among them.
pub(super) fn distances(s: &Selection) -> Markup {
    if s.distances.len() < 2 {
        return html! {};
    }
    let shown = || s.distances.iter().take(DISTANCES);
    let far = shown().map(|(_, d)| *d).fold(1e-9, f64::max);
    let verified = shown().any(|(name, _)| s.losses.contains_key(name));
    html! {
        table.names {
            thead { tr { th { "nearest" } th.n { "distance" } @if verified { th.n { "loss of the texts" } } } }
            tbody {
                @for (name, d) in shown() {
                    tr {
                        th {
                            @if s.chosen(name) { "▸ " } (breakable(name))
                            (bar("bar under", d / far))
                        }
                        td.n { (format!("{d:.2}")) }
                        @if verified {
                            @let loss = s.losses.get(name);
                            td.n.better[s.chosen(name) && !s.is_mix && loss.is_some()] { (loss.map_or("—".into(), |l| metric(*l))) }
                        }
                    }
                }
            }
        }
        @if verified {
            p.note.apart {
                "The start under which the texts are most likely is chosen: the lowest loss, in nats per token."
                @if let Some(mix) = s.mix_loss { " The mix's is " (metric(mix)) "." }
                @if let Some(base) = s.base_loss { " The base's is " (metric(base)) "." }
            }
        }
    }
}

/// Steps, time and loss with and without.
pub(super) fn head_start(pair: &Pair) -> Markup {
    let rows = [("with", &pair.with), ("without", &pair.without)];
    let most = rows.iter().filter_map(|(_, n)| n.get("steps")).fold(1e-9, f64::max);
    let loss = |n: &Numbers| match (n.get("start_loss"), n.get("loss")) {
        (Some(a), Some(b)) => metrics(a, b).join(" → "),
        (None, Some(b)) => metric(b),
        _ => "—".into(),
    };
    // An engine sees neither unless the device's owner lets it.
    let has = |key: &str| rows.iter().any(|(_, n)| n.get(key).is_some());
    let (timed, aimed) = (has("seconds"), has("reached"));
    html! {
        table {
            thead {
                tr {
                    th {} th.n { "steps" } th.track {}
                    @if timed { th.n { "time" } }
                    th.n { "loss, held back" }
                    @if aimed { th { "goal" } }
                }
            }
            tbody {
                @for (name, n) in rows {
                    tr {
                        th { (name) " the head start" }
                        td.n { (n.get("steps").map_or("—".into(), metric)) }
                        td.track {
                            @if let Some(s) = n.get("steps") {
                                (bar(if name == "with" { "bar" } else { "bar two" }, s / most))
                            }
                        }
                        @if timed { td.n { (n.get("seconds").map_or("—".into(), seconds)) } }
                        td.n { (loss(n)) }
                        @if aimed { td { (n.get("reached").map_or("", |r| if r > 0.0 { "met" } else { "not met" })) } }
                    }
                }
            }
        }
    }
}

/// Measurements before and after.
pub(super) fn before_after(pair: &Pair) -> Markup {
    let rows = SHOWN.iter().filter_map(|(key, label, down)| {
        let (before, after) = (pair.without.get(key)?, pair.with.get(key)?);
        let better = if *down { after < before } else { after > before };
        let better = (better, before == after);
        Some((label, metrics(before, after), better))
    });
    html! {
        table {
            thead { tr { th {} th.n { "before" } th.n { "after" } th {} } }
            tbody {
                @for (label, [before, after], (better, same)) in rows {
                    tr {
                        th { (label) }
                        td.n { (before) }
                        td.n.better[better] { (after) }
                        td { @if better { "better" } @else if same { "the same" } @else { "not better" } }
                    }
                }
            }
        }
    }
}

/// Answers before and after; `own` names the author of the texts.
pub(super) fn samples(pair: &Pair, own: &str) -> Markup {
    html! {
        @if !pair.samples.is_empty() {
            h3.apart { "Sample answers" }
            @for (prompt, reference, before, after) in pair.samples.iter().take(SAMPLES) {
                div.sample {
                    h4 { (prompt) }
                    dl {
                        dt { "before" } dd { (before) }
                        dt { "after" } dd.after { (after) }
                        @if !reference.is_empty() { dt { (own) } dd { (reference) } }
                    }
                }
            }
        }
    }
}

/// pLLMs in their own words: an answer beside the base's, the chosen one's unfolded.
pub(super) fn voices(catalog: &Catalog, selection: Option<&Selection>) -> Markup {
    let said = |s: &Style| s.words.iter().map(Word::said).collect::<Vec<_>>().join(", ");
    html! {
        @if !catalog.samples.is_empty() {
            h3.apart { "In their own words" }
            p.note { "For each pLLM the question at which it shows its style most, with its answer and the base's." }
            @for (name, style) in &catalog.pllms {
                @if let Some(s) = catalog.samples.get(name) {
                    details open[selection.is_some_and(|s| s.chosen(name))] {
                        summary { (name) span.note { "  " (said(style)) } }
                        div.sample {
                            h4 { (s.prompt) }
                            dl { dt { "this pLLM" } dd.after { (s.answer) } dt { "the base" } dd { (s.reference) } }
                        }
                    }
                }
            }
        }
    }
}

/// Outputs without a section.
pub(super) fn outputs(report: &RunReport, paired: &[&str]) -> Markup {
    let rest = report.outputs.iter().filter(|o| {
        let told = matches!(o.view, OutputView::Catalog { .. } | OutputView::Selection { .. });
        !told && !paired.contains(&o.name.as_str())
    });
    html! { @for output in rest { (self::output(output)) } }
}

fn output(output: &Output) -> Markup {
    html! {
        section {
            h2 { (capital(&spaced(&output.name))) }
            @if !output.doc.is_empty() { p.note { (output.doc) } }
            @match &output.view {
                OutputView::Text { value } => { pre { (value) } }
                OutputView::Rows { rows, samples } => {
                    p.note { (counted(*rows, "row")) }
                    @for s in samples.iter().take(SAMPLES) { (sample(s)) }
                }
                OutputView::Pllm { .. } => { (numbers(&Numbers::of(&output.view).unwrap_or_default())) }
                OutputView::Metrics { samples, .. } => {
                    @let all = Numbers::of(&output.view).unwrap_or_default();
                    @let parts = shares(&output.view);
                    @if parts.is_empty() { (numbers(&all)) } @else { (accuracy(&parts)) }
                    @for s in samples.iter().take(SAMPLES) { (sample(s)) }
                }
                _ => {}
            }
        }
    }
}

fn sample(s: &Sample) -> Markup {
    html! {
        div.sample {
            h4 { (s.prompt) }
            dl {
                dt { "answer" } dd { (s.answer) }
                @if !s.reference.is_empty() { dt { "reference" } dd { (s.reference) } }
            }
        }
    }
}

fn numbers(n: &Numbers) -> Markup {
    html! {
        table {
            tbody {
                @for (key, x) in &n.all {
                    tr { th { (spaced(key)) } td.n { @if key == "seconds" { (seconds(*x)) } @else { (metric(*x)) } } }
                }
            }
        }
    }
}

fn accuracy(shares: &[Share]) -> Markup {
    let top2 = shares.iter().any(|s| s.top2.is_some());
    html! {
        table {
            thead { tr { th { "group" } th.n { "right" } th.track {} th.n { "95\u{202f}% interval" } th.n { "of" } @if top2 { th.n { "among two" } } } }
            tbody {
                @for s in shares {
                    tr {
                        th { @if s.group.is_empty() { "all" } @else { (s.group) } }
                        td.n { (percent(s.share)) }
                        td.track { (bar("bar", s.share)) }
                        td.n { @if let Some((l, h)) = s.interval { (percent(l)) " to " (percent(h)) } }
                        td.n { @if let Some(n) = s.n { (metric(n)) } }
                        @if top2 { td.n { @if let Some(t) = s.top2 { (percent(t)) } } }
                    }
                }
            }
        }
    }
}

/// What failed, and why; nothing where nothing did.
pub(super) fn failures(report: &RunReport) -> Markup {
    html! {
        @if !report.failures.is_empty() {
            section #failures {
                h2 { "Why it failed" }
                @for f in &report.failures {
                    div.sample {
                        h4 { code { (breakable(&f.name)) } " " span.bad { (f.state.word()) } }
                        p.message { (f.message) }
                        @if let Some(help) = &f.help { p.note { "help: " (help) } }
                        @if f.blocks > 0 { p.note { "blocks " (counted(f.blocks as u64, "stage instance")) } }
                    }
                }
            }
        }
    }
}

/// Parameters, counters and every stage, folded away.
pub(super) fn details(report: &RunReport) -> Markup {
    if report.counters.is_empty() && report.stages.is_empty() && report.params.is_empty() {
        return html! {};
    }
    html! {
        section #details {
            h2 { "Details" }
            @if !report.params.is_empty() {
                h3 { "Parameters" }
                table.params { tbody { @for (name, value) in &report.params { tr { th { (breakable(name)) } td { code { (breakable(value)) } } } } } }
            }
            @if !report.counters.is_empty() {
                h3.apart { "Counters" }
                table { tbody { @for (key, n) in &report.counters { tr { th { (spaced(key)) } td.n { (grouped(*n)) } } } } }
            }
            @if !report.stages.is_empty() {
                details {
                    summary { "All " (counted(report.stages.len() as u64, "stage instance")) }
                    div.scroll {
                        table {
                            thead { tr { th { "stage" } th { "kind" } th { "place" } th { "state" } th.n { "start" } th.n { "time" } } }
                            tbody {
                                @for s in &report.stages {
                                    tr {
                                        th { code { (breakable(&s.name)) } }
                                        td { (s.kind) }
                                        td { (s.place) }
                                        td { (s.state.word()) }
                                        td.n { (seconds(s.start)) }
                                        td.n { (seconds(s.seconds)) }
                                    }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}
