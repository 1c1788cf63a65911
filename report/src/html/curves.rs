//! Learning curves with and without the head start.

use headstart_protocol::text::plural;
use maud::{Markup, html};

use super::px;
use crate::compare::Pair;
use crate::text::metric;

/// A picture's size, and whether the ends of the curves have labels.
#[derive(Clone, Copy)]
struct Frame {
    width: f64,
    height: f64,
    right: f64,
    labels: bool,
}

const WIDE: Frame = Frame { width: 940.0, height: 340.0, right: 158.0, labels: true };
/// For phones: what the labels say is in the table.
const NARROW: Frame = Frame { width: 342.0, height: 260.0, right: 12.0, labels: false };
const LEFT: f64 = 52.0;
const TOP: f64 = 30.0;
const BOTTOM: f64 = 44.0;

/// Both curves, with the end of each labelled, and its caption.
pub(super) fn figure(pair: &Pair) -> Markup {
    html! {
        figure {
            div.wide { (picture(pair, WIDE)) }
            div.narrow { (picture(pair, NARROW)) }
            figcaption { "Solid: from the chosen start. Dotted: from the base. Each ends where its goal was met, or its steps were used up." }
        }
    }
}

fn picture(pair: &Pair, frame: Frame) -> Markup {
    let (width, height, right) = (frame.width, frame.height, frame.right);
    let all = || pair.with.curve.iter().chain(&pair.without.curve);
    let steps = all().map(|p| p.0).fold(1.0, f64::max);
    let (low, high) = all().fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), p| (l.min(p.1), h.max(p.1)));
    let (low, high) = widened(low, high);
    let x = |s: f64| LEFT + s / steps * (width - LEFT - right);
    let y = |l: f64| TOP + (high - l) / (high - low) * (height - TOP - BOTTOM);
    let path = |curve: &[(f64, f64)]| {
        let to = |(i, (s, l)): (usize, &(f64, f64))| {
            format!("{}{} {}", if i == 0 { "M" } else { "L" }, px(x(*s)), px(y(*l)))
        };
        curve.iter().enumerate().map(to).collect::<String>()
    };
    let ends: Vec<_> = [("with", &pair.with, "one"), ("without", &pair.without, "two")]
        .into_iter()
        .filter_map(|(name, n, class)| Some((name, class, n, *n.curve.last()?)))
        .collect();
    html! {
            svg viewBox=(format!("0 0 {width} {height}")) width=(width) role="img" aria-label="Learning curves with and without the head start" {
                @for tick in ticks(low, high, 4) {
                    line.axis x1=(px(LEFT)) x2=(px(width - right)) y1=(px(y(tick))) y2=(px(y(tick))) {}
                    text.quiet.small x=(px(LEFT - 9.0)) y=(px(y(tick) + 4.0)) text-anchor="end" { (short(tick)) }
                }
                @for tick in ticks(0.0, steps, if frame.labels { 5 } else { 3 }) {
                    text.quiet.small x=(px(x(tick))) y=(px(height - BOTTOM + 18.0)) text-anchor="middle" { (short(tick)) }
                }
                text.quiet.small x=(px(width - right)) y=(px(height - 6.0)) text-anchor="end" { "steps" }
                text.quiet.small x="0" y="12" { "held-back loss, nats per token" }
                @for (name, class, n, end) in &ends {
                    path class=(format!("line-{class}")) d=(path(&n.curve)) {}
                    circle class=(if *class == "one" { "pos" } else { "neg" }) cx=(px(x(end.0))) cy=(px(y(end.1))) r="5" {}
                    @if frame.labels {
                        text class=(format!("halo text-{class}")) x=(px(x(end.0) + 11.0)) y=(px(label_y(y(end.1), name, &ends, &y, &x))) {
                            (name) " · " (metric(end.0)) " " (plural(end.0 as u64, "step"))
                        }
                    }
                }
            }
    }
}

type End<'a> = (&'static str, &'static str, &'a crate::view::Numbers, (f64, f64));

/// The second label steps aside where both would lie on each other.
fn label_y(at: f64, name: &str, ends: &[End<'_>], y: &dyn Fn(f64) -> f64, x: &dyn Fn(f64) -> f64) -> f64 {
    let close = ends.len() == 2
        && (y(ends[0].3.1) - y(ends[1].3.1)).abs() < 16.0
        && (x(ends[0].3.0) - x(ends[1].3.0)).abs() < 130.0;
    at + if close && name == "with" {
        19.0
    } else if close {
        -9.0
    } else {
        4.5
    }
}

fn widened(low: f64, high: f64) -> (f64, f64) {
    if !(low.is_finite() && high.is_finite()) {
        return (0.0, 1.0);
    }
    let margin = ((high - low) * 0.06).max(1e-3);
    ((low - margin).max(0.0), high + margin)
}

/// Round values between two ends.
fn ticks(low: f64, high: f64, about: usize) -> Vec<f64> {
    let rough = (high - low).max(1e-9) / about as f64;
    let power = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].into_iter().map(|m| m * power).find(|s| *s >= rough).unwrap_or(rough);
    let first = (low / step).ceil() as i64;
    let last = (high / step).floor() as i64;
    (first..=last).map(|i| i as f64 * step).collect()
}

fn short(x: f64) -> String {
    let text = format!("{x:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_inside() {
        assert_eq!(ticks(0.0, 310.0, 5), [0.0, 100.0, 200.0, 300.0]);
        assert_eq!(
            ticks(0.48, 2.1, 4).iter().map(|t| short(*t)).collect::<Vec<_>>(),
            ["0.5", "1", "1.5", "2"]
        );
    }
}
