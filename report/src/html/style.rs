//! A style as bars with intervals.

use maud::{Markup, html};

use super::px;
use crate::text::{coefficient, cut};
use crate::view::Style;

const WIDTH: f64 = 440.0;
const ROW: f64 = 30.0;
const LEFT: f64 = 130.0;
const RIGHT: f64 = 56.0;

/// A bar for each word, its 95% interval as a line, its number at the end.
pub(super) fn forest(style: &Style) -> Markup {
    let ends = style.words.iter().flat_map(|w| {
        let (low, high) = w.interval.unwrap_or((w.coefficient, w.coefficient));
        [w.coefficient, low, high]
    });
    let (low, high) = ends.fold((0.0f64, 0.0f64), |(l, h), x| (l.min(x), h.max(x)));
    let span = (high - low).max(1e-9);
    let x = |v: f64| LEFT + (v - low) / span * (WIDTH - LEFT - RIGHT);
    let height = style.words.len() as f64 * ROW + 6.0;
    html! {
        svg viewBox=(format!("0 0 {WIDTH} {height}")) width=(WIDTH) role="img" aria-label="The user's style in words" {
            line.zero x1=(px(x(0.0))) x2=(px(x(0.0))) y1="0" y2=(px(height)) {}
            @for (i, w) in style.words.iter().enumerate() {
                @let y = i as f64 * ROW + ROW / 2.0 + 3.0;
                @let (a, b) = (x(w.coefficient.min(0.0)), x(w.coefficient.max(0.0)));
                text x=(px(LEFT - 12.0)) y=(px(y + 4.5)) text-anchor="end" { (cut(&w.said(), 18)) }
                rect class=(if w.coefficient < 0.0 { "neg" } else { "pos" }) x=(px(a)) y=(px(y - 6.0)) width=(px(b - a)) height="12" rx="2" {
                    title { (w.word) " " (coefficient(w.coefficient)) }
                }
                @if let Some((l, h)) = w.interval {
                    line.whisker x1=(px(x(l))) x2=(px(x(h))) y1=(px(y)) y2=(px(y)) {}
                    @for end in [l, h] { line.whisker x1=(px(x(end))) x2=(px(x(end))) y1=(px(y - 4.0)) y2=(px(y + 4.0)) {} }
                }
                text.strong x=(px(WIDTH)) y=(px(y + 4.5)) text-anchor="end" { (coefficient(w.coefficient)) }
            }
        }
    }
}
