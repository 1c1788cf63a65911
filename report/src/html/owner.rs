//! The page of a device's owner: everything private, in the owner's words.

use maud::{Markup, html as markup};

use super::{Parts, breakable, capital, curves, document, gantt, heat, map, style, tables};
use crate::owner::OwnerReport;
use crate::terminal::saved_sentence;
use crate::text::{bytes, counted, grouped, listed, percent, seconds, sureness};
use crate::view::Selection;

/// The page as HTML.
pub fn owner_html(owner: &OwnerReport) -> String {
    let parts = Parts::of(&owner.report);
    let title = "What only this device knows";
    let body = markup! {
        (header(owner, &parts, title))
        main {
            (style(&parts))
            (choice(&parts))
            (training(&parts))
            (answers(&parts))
            (catalog(&parts))
            (left(owner))
            (gantt::section(&owner.report))
            (stages(owner))
        }
        footer { p { "Written on this device by headstart-device. It was not sent anywhere, and it loads nothing from the network." } }
    };
    document(title, &body)
}

fn header(owner: &OwnerReport, parts: &Parts, title: &str) -> Markup {
    let (messages, sent) = owner.total();
    let mut figures: Vec<(String, String)> = Vec::new();
    if let Some(saved) = parts.head_start.as_ref().and_then(|p| p.saved("steps")) {
        let word = if saved >= 0.0 { "fewer" } else { "more" };
        figures.push((percent(saved.abs()), format!("{word} training steps than from the base")));
    }
    if let Some(pair) = &parts.before_after
        && let (Some(before), Some(after)) = (pair.without.get("perplexity"), pair.with.get("perplexity"))
    {
        let label = format!("perplexity on your later texts; it was {before:.2}");
        figures.push((format!("{after:.2}"), label));
    }
    if !owner.fates.is_empty() {
        let left = owner.fates.iter().filter(|f| f.left).count();
        let label = format!(
            "of {} results left this device, whole or in part; the others stay here",
            owner.fates.len()
        );
        figures.push((left.to_string(), label));
    }
    if messages > 0 {
        figures.push((bytes(sent), format!("sent in {}", counted(messages, "message"))));
    }
    markup! {
        header {
            p.eyebrow { "Headstart" span aria-hidden="true" { " · " } "for the owner of this device" }
            h1 { (title) }
            p.facts {
                @if !owner.device.is_empty() { span { "device " (owner.device) } }
                @if !owner.report.started.is_empty() { span { (owner.report.started) } }
                span { "run " code { (owner.report.run) } }
                span { (counted(owner.report.stages.len() as u64, "stage instance")) " ran here" }
            }
            p.seal { "Private. Nothing on this page was sent anywhere, except where it says so." }
            (super::figures(&figures))
        }
    }
}

fn style(parts: &Parts) -> Markup {
    let Some(user) = parts.selection.as_ref().map(|s| &s.user).filter(|u| !u.words.is_empty()) else {
        return markup! {};
    };
    let words: Vec<String> = user.words.iter().take(3).map(crate::view::Word::said).collect();
    markup! {
        section #style {
            h2 { "How you write" }
            p.lead { (capital(&listed(&words))) "." }
            (style::forest(user))
            p.note {
                @if let Some(e) = user.explained {
                    "These words explain " (percent(e)) " of how your texts differ from the base model's answers. "
                }
                "A coefficient of 1 is as strong as the lexicon's own examples of the word; the lines are 95\u{202f}% intervals."
            }
        }
    }
}

fn choice(parts: &Parts) -> Markup {
    let Some(s) = &parts.selection else { return markup! {} };
    markup! {
        section #choice {
            h2 { "The head start chosen for you" }
            p.answer { (s.choice()) }
            @if let Some(c) = s.confidence {
                p { (capital(sureness(c))) ": the choice stays the same in " (percent(c)) " of resamples of your texts." }
            }
            @if let Some(sentence) = &s.sentence { p.note { (sentence) } }
            (tables::distances(s))
        }
    }
}

fn training(parts: &Parts) -> Markup {
    let Some(pair) = &parts.head_start else { return markup! {} };
    let has_curve = !pair.with.curve.is_empty() || !pair.without.curve.is_empty();
    markup! {
        section #head-start {
            h2 { "How your model was trained" }
            p.lead { (saved_sentence(pair)) }
            @if has_curve { (curves::figure(pair)) }
            (tables::head_start(pair))
        }
    }
}

fn answers(parts: &Parts) -> Markup {
    let Some(pair) = &parts.before_after else { return markup! {} };
    markup! {
        section #before-after {
            h2 { "Before and after" }
            p.note { "Questions from your later texts, which were not used for training: the answers of the base model, of your model, and your own." }
            (tables::samples(pair, "your own"))
            h3.apart { "Over all of them" }
            (tables::before_after(pair))
        }
    }
}

fn catalog(parts: &Parts) -> Markup {
    let Some(catalog) = &parts.catalog else { return markup! {} };
    let selection: Option<&Selection> = parts.selection.as_ref();
    markup! {
        section #catalog {
            h2 { "You among the catalog" }
            p.note { "The styles that the server has published, and your place among them. The server does not know this picture." }
            (map::figure(catalog, selection))
            (heat::figure(catalog, selection))
        }
    }
}

fn left(owner: &OwnerReport) -> Markup {
    if owner.sent.is_empty() {
        return markup! {};
    }
    let (messages, all) = owner.total();
    let most = owner.sent.iter().map(|s| s.bytes).max().unwrap_or(1).max(1);
    markup! {
        section #left {
            h2 { "What left this device" }
            p.note { "Every message since it joined, by kind. Each one was recorded before it was sent: " code { "headstart-device show --sent" } " lists them." }
            table {
                thead { tr { th { "message" } th.n { "how often" } th.n { "bytes" } th.track {} } }
                tbody {
                    @for s in &owner.sent {
                        tr {
                            th { (s.what) }
                            td.n { (grouped(s.messages)) }
                            td.n { (bytes(s.bytes)) }
                            td.track { @if s.bytes > 0 { (super::bar("bar", s.bytes as f64 / most as f64)) } }
                        }
                    }
                    tr.total { th { "all" } td.n { (grouped(messages)) } td.n { (bytes(all)) } td.track {} }
                }
            }
        }
    }
}

fn stages(owner: &OwnerReport) -> Markup {
    if owner.report.stages.is_empty() {
        return markup! {};
    }
    markup! {
        section #stages {
            h2 { "What ran here" }
            table {
                thead { tr { th { "stage" } th { "kind" } th.n { "time" } th { "its result" } } }
                tbody {
                    @for (i, s) in owner.report.stages.iter().enumerate() {
                        tr {
                            th { code { (breakable(&s.name)) } }
                            td { (s.kind) }
                            td.n { (seconds(s.seconds)) }
                            td {
                                @match owner.fates.get(i) {
                                    Some(fate) if fate.left => { strong { (fate.what) } }
                                    Some(fate) => { (fate.what) }
                                    None if s.state.is_failure() => { "failed" }
                                    None => {}
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}
