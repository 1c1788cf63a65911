//! The page: one self-contained HTML file. Inline style and SVG, no scripts, nothing fetched; light
//! and dark by the reader's preference. Everything that a colour says is also said in text.

mod curves;
mod gantt;
mod heat;
mod map;
mod owner;
mod style;
mod tables;

use std::collections::BTreeMap;

use headstart_protocol::text::visible;
use maud::{DOCTYPE, Markup, PreEscaped, html as markup};

pub use owner::owner_html;

use crate::compare::{self, Pair};
use crate::run::RunReport;
use crate::terminal::saved_sentence;
use crate::text::{counted, percent, seconds, sureness};
use crate::view::{Catalog, Selection};

/// The style of the pages, and of what [`sections`] and [`catalog_section`] give.
pub const STYLE: &str = include_str!("html/page.css");

/// What a run made, as sections of a page that has [`STYLE`]: no style attributes, no scripts.
pub fn sections(report: &RunReport) -> Markup {
    let parts = Parts::of(report);
    shown(&markup! {
        (parts.choice())
        (parts.gain())
        (parts.catalog())
        (tables::outputs(report, &parts.paired()))
    })
}

/// A run's catalog as a section of a page that has [`STYLE`]: words with intervals, map, answers. Nothing where the run
/// has none.
pub fn catalog_section(report: &RunReport) -> Markup {
    // Without the user of the run, who is nobody to the catalog.
    let parts = Parts { selection: None, ..Parts::of(report) };
    shown(&parts.catalog())
}

/// Named numbers of each output that has some.
pub fn numbers(report: &RunReport) -> Vec<(String, BTreeMap<String, f64>)> {
    let of = |o: &crate::run::Output| Some((o.name.clone(), crate::view::Numbers::of(&o.view)?.all));
    report.outputs.iter().filter_map(of).collect()
}

/// Markup in which no text from outside can hide or reverse what is around it.
fn shown(markup: &Markup) -> Markup {
    PreEscaped(visible(&markup.0).into_owned())
}

/// The report as an HTML page.
pub fn html(report: &RunReport) -> String {
    let parts = Parts::of(report);
    let body = markup! {
        (parts.header(report))
        main {
            (tables::failures(report))
            (parts.choice())
            (parts.gain())
            (parts.catalog())
            (tables::outputs(report, &parts.paired()))
            (gantt::section(report))
            (tables::details(report))
        }
        footer { p { "Made by Headstart from run " code { (report.run) } ". This page loads nothing from the network." } }
    };
    document(&format!("{} · Headstart", report.pipeline), &body)
}

/// What a browser may do with the page: use its own styles, and nothing else.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'";

/// A page around its body, in which no text from outside can hide or reverse what is around it.
fn document(title: &str, body: &Markup) -> String {
    let page = markup! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta http-equiv="Content-Security-Policy" content=(POLICY);
                meta name="referrer" content="no-referrer";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (title) }
                style { (PreEscaped(STYLE)) }
            }
            body { (body) }
        }
    };
    visible(&page.into_string()).into_owned()
}

/// A share as a bar, in a picture of its own: a style attribute would not pass a strict policy.
fn bar(class: &str, share: f64) -> Markup {
    markup! { svg class=(class) width=(format!("{:.1}%", 100.0 * share)) height="9" aria-hidden="true" {} }
}

/// A few large numbers, each with what it is.
fn figures(figures: &[(String, String)]) -> Markup {
    markup! {
        @if !figures.is_empty() {
            dl.figures {
                @for (number, label) in figures { div { dt { (label) } dd { (number) } } }
            }
        }
    }
}

/// What the page tells a story of, found among the outputs.
struct Parts {
    catalog: Option<Catalog>,
    selection: Option<Selection>,
    head_start: Option<Pair>,
    before_after: Option<Pair>,
}

impl Parts {
    fn of(report: &RunReport) -> Self {
        let views = || report.outputs.iter().map(|o| &o.view);
        let catalog = views().find_map(Catalog::of);
        let selection = views().find_map(Selection::of);
        Self {
            catalog: catalog.filter(|c| !c.pllms.is_empty()),
            selection,
            head_start: compare::head_start(report),
            before_after: compare::before_after(report),
        }
    }

    /// Names of outputs that have a section.
    fn paired(&self) -> Vec<&str> {
        let pairs = [&self.head_start, &self.before_after];
        pairs.into_iter().flatten().flat_map(|p| [p.names.0.as_str(), p.names.1.as_str()]).collect()
    }

    fn header(&self, report: &RunReport) -> Markup {
        markup! {
            header {
                p.eyebrow { "Headstart" span aria-hidden="true" { " · " } "run report" }
                h1 { (breakable(&report.pipeline)) }
                p.facts {
                    @if !report.started.is_empty() { span { (report.started) } }
                    span { "run " code { (report.run) } }
                    @if !report.outcome.is_empty() { span { (report.outcome) } }
                    span { (seconds(report.seconds)) }
                    span { (counted(report.stages.len() as u64, "stage instance")) }
                }
                (self.figures(report))
            }
        }
    }

    /// A few large numbers.
    fn figures(&self, report: &RunReport) -> Markup {
        let mut figures: Vec<(String, String)> = Vec::new();
        if let Some(saved) = self.head_start.as_ref().and_then(|p| p.saved("steps")) {
            let word = if saved >= 0.0 { "fewer" } else { "more" };
            figures.push((percent(saved.abs()), format!("{word} training steps with the head start")));
        }
        if let Some(c) = self.selection.as_ref().and_then(|s| s.confidence) {
            figures.push((percent(c), "of resampled choices are the same".into()));
        }
        if let Some(c) = &self.catalog {
            figures.push((c.pllms.len().to_string(), "pLLMs explained in words".into()));
        }
        if let Some(passes) = report.counters.get("forward_passes") {
            figures.push((crate::text::grouped(*passes), "forward passes, one for each sequence".into()));
        }
        self::figures(&figures)
    }

    fn choice(&self) -> Markup {
        let Some(s) = &self.selection else { return markup! {} };
        markup! {
            section #choice {
                h2 { "The choice" }
                @if let Some(sentence) = &s.sentence { blockquote { (sentence) } }
                div.columns {
                    div {
                        h3 { "Chosen" }
                        p.answer { (s.choice()) }
                        @if let Some(c) = s.confidence {
                            p.note { (capital(sureness(c))) ": the choice stays the same in " (percent(c)) " of resamples of the texts." }
                        }
                        @if let Some(expected) = &s.expected { p.note { (capital(expected)) "." } }
                        (tables::distances(s))
                    }
                    @if !s.user.words.is_empty() {
                        div {
                            h3 { "The user's own style" }
                            (style::forest(&s.user))
                            @if let Some(e) = s.user.explained {
                                p.note { "These words explain " (percent(e)) " of it. Lines are 95\u{202f}% intervals." }
                            }
                        }
                    }
                }
            }
        }
    }

    fn gain(&self) -> Markup {
        let has_curve = |p: &&Pair| !p.with.curve.is_empty() || !p.without.curve.is_empty();
        markup! {
            @if let Some(pair) = &self.head_start {
                section #head-start {
                    h2 { "The head start" }
                    p.lead { (saved_sentence(pair)) }
                    (tables::head_start(pair))
                    @if has_curve(&pair) { (curves::figure(pair)) }
                }
            }
            @if let Some(pair) = &self.before_after {
                section #before-after {
                    h2 { "Before and after" }
                    p.note { "Measured on rows held back from training." }
                    (tables::before_after(pair))
                    (tables::samples(pair, "the user's own"))
                }
            }
        }
    }

    fn catalog(&self) -> Markup {
        let Some(catalog) = &self.catalog else { return markup! {} };
        markup! {
            section #catalog {
                h2 { "The catalog" }
                p.note { "How each pLLM's answers differ from the base's, in words. A coefficient of 1 is as strong as the lexicon's own examples of the word." }
                (heat::figure(catalog, self.selection.as_ref()))
                (map::figure(catalog, self.selection.as_ref()))
                (tables::voices(catalog, self.selection.as_ref()))
            }
        }
    }
}

fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |c| c.to_uppercase().chain(chars).collect())
}

/// A name that may be broken after its separators, so that it is not broken inside of a word.
fn breakable(name: &str) -> Markup {
    let parts = name.split_inclusive(['/', '_', '-', '[', ',']);
    markup! { @for (i, part) in parts.enumerate() { @if i > 0 { wbr; } (part) } }
}

/// A coordinate of a picture, to a tenth of a pixel.
fn px(x: f64) -> String {
    let text = format!("{x:.1}");
    text.strip_suffix(".0").map_or(text.clone(), str::to_owned)
}
