//! The catalog in the plane.

use maud::{Markup, html};

use super::px;
use crate::project::{Plane, plane};
use crate::text::{cut, percent, width};
use crate::view::{Catalog, Selection};

const SIZE: (f64, f64) = (940.0, 460.0);
const EDGE: f64 = 46.0;
/// Labels beyond this many would cover each other.
const MAX_LABELS: usize = 80;

/// The map, with its caption; nothing for fewer than three pLLMs.
pub(super) fn figure(catalog: &Catalog, selection: Option<&Selection>) -> Markup {
    if catalog.pllms.len() < 3 {
        return html! {};
    }
    let plane = plane(catalog, selection.map(|s| &s.user));
    let place = scale(&plane);
    let points: Vec<_> = plane.points.iter().map(|p| place(*p)).collect();
    let user = plane.user.map(&place);
    let chosen = |i: usize| selection.is_some_and(|s| s.chosen(&catalog.pllms[i].0));
    let names: Vec<String> = catalog.pllms.iter().map(|(n, _)| cut(n, 24)).collect();
    let labels = labels(&points, user, &names);
    html! {
        figure {
            div.scroll {
            svg viewBox=(format!("0 0 {} {}", SIZE.0, SIZE.1)) width=(SIZE.0) role="img" aria-label="The catalog as a map" {
                rect.axis x="0.5" y="0.5" width=(px(SIZE.0 - 1.0)) height=(px(SIZE.1 - 1.0)) rx="4" {}
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
                    @if let Some((x, y, anchor)) = label {
                        @let class = if i == names.len() { "halo text-two" } else if chosen(i) { "halo text-one" } else { "halo" };
                        text class=(class) x=(px(*x)) y=(px(*y)) text-anchor=(anchor) { (names.get(i).map_or("you", |n| n)) }
                    }
                }
            }
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

/// From the plane to the picture, the same scale in both directions.
fn scale(plane: &Plane) -> impl Fn((f64, f64)) -> (f64, f64) + use<> {
    let all = || plane.points.iter().chain(&plane.user);
    let range = |f: fn(&(f64, f64)) -> f64| {
        all().map(f).fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), x| (l.min(x), h.max(x)))
    };
    let ((x0, x1), (y0, y1)) = (range(|p| p.0), range(|p| p.1));
    // Room for labels at the sides.
    let fit = ((SIZE.0 - 4.5 * EDGE) / (x1 - x0).max(1e-9)).min((SIZE.1 - 2.0 * EDGE) / (y1 - y0).max(1e-9));
    let (cx, cy) = ((x0 + x1) / 2.0, (y0 + y1) / 2.0);
    move |(x, y)| (SIZE.0 / 2.0 + (x - cx) * fit, SIZE.1 / 2.0 - (y - cy) * fit)
}

type Label = Option<(f64, f64, &'static str)>;

/// A place for each label, and one for the user behind them: on the first side where it covers
/// neither a point nor another label; none where there is no such side.
fn labels(points: &[(f64, f64)], user: Option<(f64, f64)>, names: &[String]) -> Vec<Label> {
    let mut taken: Vec<[f64; 4]> =
        points.iter().chain(&user).map(|(x, y)| [x - 8.0, y - 8.0, x + 8.0, y + 8.0]).collect();
    let mut put = |at: (f64, f64), name: &str, must: bool| {
        let w = width(name) as f64 * 7.4;
        let sides = [
            (at.0 + 16.0, at.1 + 4.5, "start", [0.0, w]),
            (at.0 - 16.0, at.1 + 4.5, "end", [-w, 0.0]),
            (at.0, at.1 - 15.0, "middle", [-w / 2.0, w / 2.0]),
            (at.0, at.1 + 25.0, "middle", [-w / 2.0, w / 2.0]),
        ];
        let boxed =
            |s: &(f64, f64, &'static str, [f64; 2])| [s.0 + s.3[0], s.1 - 12.0, s.0 + s.3[1], s.1 + 3.0];
        let free = |b: &[f64; 4]| {
            let inside = b[0] > 4.0 && b[2] < SIZE.0 - 4.0 && b[1] > 2.0 && b[3] < SIZE.1 - 2.0;
            inside && !taken.iter().any(|t| b[0] < t[2] && t[0] < b[2] && b[1] < t[3] && t[1] < b[3])
        };
        let side = sides.iter().find(|s| free(&boxed(s))).or(must.then_some(&sides[0]))?;
        taken.push(boxed(side));
        Some((side.0, side.1, side.2))
    };
    // The user's label first, because it must be there.
    let you = user.and_then(|u| put(u, "you", true));
    let few = points.len() <= MAX_LABELS;
    let mut all: Vec<Label> = points.iter().zip(names).map(|(p, n)| put(*p, n, few)).collect();
    all.push(you);
    all
}
