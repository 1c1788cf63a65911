//! The catalog in the plane.

use maud::{Markup, html};

use super::px;
use crate::project::{Plane, plane};
use crate::text::{cut, percent, width};
use crate::view::{Catalog, Selection};

/// A picture's size, and room at its edges.
#[derive(Clone, Copy)]
struct Frame {
    width: f64,
    height: f64,
    edge: f64,
    /// Room for labels at the sides.
    sides: f64,
}

/// For wide pages, with names as labels.
const WIDE: Frame = Frame { width: 940.0, height: 460.0, edge: 46.0, sides: 207.0 };
/// For phones, with numbers as labels and the names in a list.
const NARROW: Frame = Frame { width: 342.0, height: 330.0, edge: 24.0, sides: 60.0 };

/// The map, with its caption; nothing for fewer than three pLLMs.
pub(super) fn figure(catalog: &Catalog, selection: Option<&Selection>) -> Markup {
    if catalog.pllms.len() < 3 {
        return html! {};
    }
    let plane = plane(catalog, selection.map(|s| &s.user));
    let names: Vec<String> = catalog.pllms.iter().map(|(n, _)| cut(n, 36)).collect();
    let numbers: Vec<String> = (1..=names.len()).map(|n| n.to_string()).collect();
    let user = plane.user;
    html! {
        figure {
            div.wide { (picture(catalog, selection, &plane, WIDE, &names)) }
            div.narrow {
                (picture(catalog, selection, &plane, NARROW, &numbers))
                ol.legend { @for (name, _) in &catalog.pllms { li class=[selection.is_some_and(|s| s.chosen(name)).then_some("chosen")] { (name) } } }
            }
            figcaption {
                "Styles that are alike lie close together. "
                @if user.is_some() { "The diamond is the user. " }
                @if selection.is_some_and(|s| !s.abstained) { "The ring marks the choice, which is made in the full space, not on this map. " }
                @if let Some(shown) = plane.shown { "Two dimensions show " (percent(shown)) " of the variation." }
            }
        }
    }
}

/// The points of a plane, with a label for each where there is room.
fn picture(
    catalog: &Catalog,
    selection: Option<&Selection>,
    plane: &Plane,
    frame: Frame,
    names: &[String],
) -> Markup {
    let place = scale(plane, frame);
    let points: Vec<_> = plane.points.iter().map(|p| place(*p)).collect();
    let user = plane.user.map(&place);
    let chosen = |i: usize| selection.is_some_and(|s| s.chosen(&catalog.pllms[i].0));
    let labels = labels(&points, user, names, frame);
    html! {
            svg viewBox=(format!("0 0 {} {}", frame.width, frame.height)) width=(frame.width) role="img" aria-label="The catalog as a map" {
                rect.axis x="0.5" y="0.5" width=(px(frame.width - 1.0)) height=(px(frame.height - 1.0)) rx="4" {}
                @if let Some((ux, uy)) = user {
                    @for i in (0..points.len()).filter(|i| chosen(*i)) {
                        line.link x1=(px(ux)) y1=(px(uy)) x2=(px(points[i].0)) y2=(px(points[i].1)) {}
                    }
                }
                @for (i, (x, y)) in points.iter().enumerate() {
                    circle class=(if chosen(i) { "dot chosen" } else { "dot" }) cx=(px(*x)) cy=(px(*y)) r=(if chosen(i) { "6.5" } else { "4.5" }) {
                        title { (catalog.pllms[i].0) }
                    }
                    @if chosen(i) { circle.mark cx=(px(*x)) cy=(px(*y)) r="10" {} }
                }
                @if let Some((x, y)) = user {
                    path.you d=(format!("M{} {}l8 8l-8 8l-8 -8z", px(x), px(y - 8.0))) {}
                }
                @for (i, label) in labels.iter().enumerate() {
                    @if let Some((x, y, anchor, back)) = label {
                        @if let (Some((bx, by)), Some((px_, py))) = (back, points.get(i)) {
                            line.leader x1=(px(*px_)) y1=(px(*py)) x2=(px(*bx)) y2=(px(*by)) {}
                        }
                        @let class = if i == names.len() { "halo text-two" } else if chosen(i) { "halo text-one" } else { "halo" };
                        text class=(class) x=(px(*x)) y=(px(*y)) text-anchor=(anchor) { (names.get(i).map_or("you", |n| n)) }
                    }
                }
            }
    }
}

/// From the plane to the picture, the same scale in both directions.
fn scale(plane: &Plane, frame: Frame) -> impl Fn((f64, f64)) -> (f64, f64) + use<> {
    let all = || plane.points.iter().chain(&plane.user);
    let range = |f: fn(&(f64, f64)) -> f64| {
        all().map(f).fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), x| (l.min(x), h.max(x)))
    };
    let ((x0, x1), (y0, y1)) = (range(|p| p.0), range(|p| p.1));
    let across = (frame.width - frame.sides) / (x1 - x0).max(1e-9);
    let fit = across.min((frame.height - 2.0 * frame.edge) / (y1 - y0).max(1e-9));
    let (cx, cy) = ((x0 + x1) / 2.0, (y0 + y1) / 2.0);
    move |(x, y)| (frame.width / 2.0 + (x - cx) * fit, frame.height / 2.0 - (y - cy) * fit)
}

/// Where a label is: its anchor's place, the side, and the point of a line back to what it names.
type Label = Option<(f64, f64, &'static str, Option<(f64, f64)>)>;

/// A place for each label, and one for the user behind them: the nearest one where it covers neither
/// a point nor another label; a label that had to step aside has a line back. None where there is no
/// such place.
fn labels(points: &[(f64, f64)], user: Option<(f64, f64)>, names: &[String], frame: Frame) -> Vec<Label> {
    let mut taken: Vec<[f64; 4]> =
        points.iter().chain(&user).map(|(x, y)| [x - 8.0, y - 8.0, x + 8.0, y + 8.0]).collect();
    let mut put = |at: (f64, f64), name: &str| -> Label {
        let w = width(name) as f64 * 7.4;
        let boxed = |x: f64, y: f64, left: bool| {
            let start = if left { x - w } else { x };
            [start, y - 12.0, start + w, y + 3.0]
        };
        let free = |b: &[f64; 4]| {
            let inside = b[0] > 4.0 && b[2] < frame.width - 4.0 && b[1] > 2.0 && b[3] < frame.height - 2.0;
            inside && !taken.iter().any(|t| b[0] < t[2] && t[0] < b[2] && b[1] < t[3] && t[1] < b[3])
        };
        for (dx, dy) in OFFSETS {
            for left in [false, true] {
                let (x, y) = (at.0 + if left { -dx } else { dx }, at.1 + 4.5 + dy);
                let b = boxed(x, y, left);
                if free(&b) {
                    taken.push(b);
                    let back = (dy.abs() > 16.0).then_some((x, y - 4.5));
                    return Some((x, y, if left { "end" } else { "start" }, back));
                }
            }
        }
        None
    };
    // The user's label first, because it must be there.
    let you = user.and_then(|u| put(u, "you"));
    let mut all: Vec<Label> = points.iter().zip(names).map(|(p, n)| put(*p, n)).collect();
    all.push(you);
    all
}

/// How far a label may stand from its point, nearest first.
const OFFSETS: [(f64, f64); 13] = [
    (14.0, 0.0),
    (10.0, -16.0),
    (10.0, 16.0),
    (24.0, -30.0),
    (24.0, 30.0),
    (30.0, -46.0),
    (30.0, 46.0),
    (36.0, -62.0),
    (36.0, 62.0),
    (42.0, -78.0),
    (42.0, 78.0),
    (48.0, -94.0),
    (48.0, 94.0),
];
