//! The heat map of coefficients: pLLMs by words.

use maud::{Markup, html};

use super::px;
use crate::text::{coefficient, cut, percent, width};
use crate::view::{Catalog, Selection, Style};

const CELL: (f64, f64) = (43.0, 27.0);
const TOP: f64 = 92.0;
const RIGHT: f64 = 84.0;
/// Characters of a name at most.
const NAME: usize = 36;
/// More would not be read.
const MAX_WORDS: usize = 18;
const MAX_ROWS: usize = 60;

struct Row<'a> {
    name: &'a str,
    style: &'a Style,
    kind: Kind,
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    You,
    Chosen,
    Other,
}

/// The map, with its caption.
pub(super) fn figure(catalog: &Catalog, selection: Option<&Selection>) -> Markup {
    let rows = rows(catalog, selection);
    let words = words(catalog, &rows);
    let left_out = catalog.pllms.len() + usize::from(rows[0].kind == Kind::You) - rows.len();
    let scale = rows.iter().flat_map(|r| &r.style.words).map(|w| w.coefficient.abs()).fold(1e-9, f64::max);
    let explained = rows.iter().any(|r| r.style.explained.is_some());
    // Chosen names are bold, behind a mark.
    let label = |r: &Row<'_>| match r.kind {
        Kind::Other => 7.1 * width(r.name).min(NAME) as f64,
        _ => 8.3 * width(r.name).min(NAME) as f64 + 18.0,
    };
    let left = 38.0 + rows.iter().map(label).fold(0.0, f64::max);
    let wide = left + words.len() as f64 * CELL.0 + if explained { RIGHT } else { 46.0 };
    let height = TOP + rows.len() as f64 * CELL.1 + 4.0;
    html! {
        figure {
            div.narrow { (list(&rows)) }
            div.scroll.wide {
                svg viewBox=(format!("0 0 {wide} {height}")) width=(wide) role="img" aria-label="Coefficients of every pLLM" {
                    @for (j, word) in words.iter().enumerate() {
                        @let x = left + (j as f64 + 0.5) * CELL.0 + 3.0;
                        text transform=(format!("translate({} {}) rotate(-48)", px(x), px(TOP - 10.0))) { (cut(word, 15)) }
                    }
                    @if explained { text.quiet.small x=(px(wide)) y=(px(TOP - 10.0)) text-anchor="end" { "explained" } }
                    @for (i, row) in rows.iter().enumerate() { (self::row(row, i, &words, scale, (left, wide))) }
                }
            }
            figcaption.wide {
                "Rows are pLLMs, columns words of the lexicon; an empty cell is no part of the style. Shade shows size, "
                "the sign is in the number: positive in teal, negative in rust. "
                @if explained { "On the right, the share of the style that its words explain. " }
                @if rows[0].kind == Kind::You { "The first row is the user. " }
                @if left_out > 0 { (left_out) " further pLLMs are not shown." }
            }
        }
    }
}

/// The same for phones: each style's words below its name.
fn list(rows: &[Row<'_>]) -> Markup {
    html! {
        dl.styles {
            @for row in rows {
                dt class=[(row.kind != Kind::Other).then_some("strong")] {
                    @if row.kind == Kind::Chosen { "▸ " } (row.name)
                    @if let Some(e) = row.style.explained { span.note { " " (percent(e)) " explained" } }
                }
                dd {
                    @if row.style.words.is_empty() { "no word describes it" }
                    @for (i, w) in row.style.words.iter().enumerate() {
                        @if i > 0 { " · " }
                        (w.word) " " b { (coefficient(w.coefficient)) }
                    }
                }
            }
        }
    }
}

fn row(row: &Row<'_>, i: usize, words: &[String], scale: f64, (left, right): (f64, f64)) -> Markup {
    let y = TOP + i as f64 * CELL.1;
    let middle = px(y + CELL.1 / 2.0 + 4.5);
    let name = match row.kind {
        Kind::You => "you".to_owned(),
        Kind::Chosen => format!("▸ {}", cut(row.name, NAME)),
        Kind::Other => cut(row.name, NAME),
    };
    html! {
        text class=[(row.kind != Kind::Other).then_some("strong")] x=(px(left - 12.0)) y=(middle) text-anchor="end" { (name) }
        @for (j, word) in words.iter().enumerate() {
            @let c = row.style.coefficient(word);
            @let x = left + j as f64 * CELL.0;
            rect.empty x=(px(x + 1.0)) y=(px(y + 1.0)) width=(px(CELL.0 - 2.0)) height=(px(CELL.1 - 2.0)) rx="2" {}
            @if c != 0.0 {
                rect class=(if c < 0.0 { "neg heat" } else { "pos heat" }) x=(px(x + 1.0)) y=(px(y + 1.0)) width=(px(CELL.0 - 2.0)) height=(px(CELL.1 - 2.0)) rx="2"
                    fill-opacity=(format!("{:.2}", (c.abs() / scale).clamp(0.12, 1.0))) {
                    title { (row.name) ", " (word) ": " (coefficient(c)) }
                }
                text.small x=(px(x + CELL.0 / 2.0)) y=(middle) text-anchor="middle" { (coefficient(c)) }
            }
        }
        @if let Some(e) = row.style.explained { text.quiet.small x=(px(right)) y=(middle) text-anchor="end" { (percent(e)) } }
    }
}

/// The user first, then pLLMs by their strongest word, so that neighbours are alike.
fn rows<'a>(catalog: &'a Catalog, selection: Option<&'a Selection>) -> Vec<Row<'a>> {
    let order = catalog.words();
    let lead = |style: &Style| {
        let first = style.words.first();
        let at = first.map_or(usize::MAX, |w| order.iter().position(|o| *o == w.word).unwrap_or(usize::MAX));
        (at, first.map_or(0.0, |w| -w.coefficient))
    };
    let kind = |name: &str| {
        if selection.is_some_and(|s| s.chosen(name)) { Kind::Chosen } else { Kind::Other }
    };
    let mut rows: Vec<_> =
        catalog.pllms.iter().map(|(name, style)| Row { name, style, kind: kind(name) }).collect();
    rows.sort_by(|a, b| {
        let ((i, x), (j, y)) = (lead(a.style), lead(b.style));
        i.cmp(&j).then(x.total_cmp(&y)).then(a.name.cmp(b.name))
    });
    // What was chosen is shown, however long the catalog.
    let mut shown = 0;
    rows.retain(|r| {
        shown += 1;
        shown <= MAX_ROWS || r.kind == Kind::Chosen
    });
    let user = selection.map(|s| &s.user).filter(|u| !u.words.is_empty());
    if let Some(style) = user {
        rows.insert(0, Row { name: "you", style, kind: Kind::You });
    }
    rows
}

/// The words of the rows: in the order in which the rows lead to them.
fn words(catalog: &Catalog, rows: &[Row<'_>]) -> Vec<String> {
    let mut words = catalog.words();
    for w in rows.iter().flat_map(|r| &r.style.words) {
        if !words.contains(&w.word) {
            words.push(w.word.clone());
        }
    }
    // The user's own words have a column, however rare they are in the catalog.
    let own: Vec<&str> = match rows.first() {
        Some(row) if row.kind == Kind::You => row.style.words.iter().map(|w| w.word.as_str()).collect(),
        _ => Vec::new(),
    };
    let mut room = MAX_WORDS.saturating_sub(own.len());
    words.retain(|w| {
        let is_own = own.contains(&w.as_str());
        let kept = is_own || room > 0;
        room -= usize::from(kept && !is_own);
        kept
    });
    words
}
