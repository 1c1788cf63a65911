//! Stages on the time line, by place.

use maud::{Markup, html};

use super::px;
use crate::run::{RunReport, StageBar, StageState};
use crate::text::{cut, seconds};

const WIDTH: f64 = 940.0;
const LEFT: f64 = 170.0;
const RIGHT: f64 = 150.0;
const ROW: f64 = 25.0;
const HEAD: f64 = 34.0;

/// The instances of one stage at one place.
struct Lane<'a> {
    stage: &'a str,
    bars: Vec<&'a StageBar>,
}

/// The section; nothing where no stage is known.
pub(super) fn section(report: &RunReport) -> Markup {
    if report.stages.is_empty() {
        return html! {};
    }
    let places = places(report);
    let rows: usize = places.iter().map(|(_, lanes)| lanes.len()).sum();
    let height = places.len() as f64 * HEAD + rows as f64 * ROW + 30.0;
    let end = report.stages.iter().map(|s| s.start + s.seconds).fold(report.seconds, f64::max).max(1e-9);
    let x = |t: f64| LEFT + t / end * (WIDTH - LEFT - RIGHT);
    let mut y = 0.0;
    let laid: Vec<_> = places
        .iter()
        .map(|(place, lanes)| {
            let top = y;
            y += HEAD + lanes.len() as f64 * ROW;
            (place, lanes, top)
        })
        .collect();
    html! {
        section #time {
            h2 { "Where the time went" }
            figure {
                div.narrow { (list(&places)) }
                div.scroll.wide {
                    svg viewBox=(format!("0 0 {WIDTH} {height}")) width=(WIDTH) role="img" aria-label="Stages on the time line" {
                        @for t in [0.0, 0.25, 0.5, 0.75, 1.0] {
                            line.axis x1=(px(x(t * end))) x2=(px(x(t * end))) y1="12" y2=(px(height - 24.0)) {}
                            text.quiet.small x=(px(x(t * end))) y=(px(height - 8.0)) text-anchor="middle" { (seconds(t * end)) }
                        }
                        @for (place, lanes, top) in &laid {
                            text.strong x="0" y=(px(top + 22.0)) { (place) }
                            @for (i, lane) in lanes.iter().enumerate() { (self::lane(lane, top + HEAD + i as f64 * ROW, &x)) }
                        }
                    }
                }
                figcaption.wide {
                    "A lane is a stage, a bar an attempt of it. Filled: succeeded. Outlined: cached. "
                    @if report.stages.iter().any(|b| b.state == StageState::Delivered) {
                        "Dashed: delivered by a device, which alone knows what came of it. "
                    }
                    "The right column sums up each stage."
                }
            }
        }
    }
}

/// The same for phones: what became of each stage, by place.
fn list(places: &[(&str, Vec<Lane<'_>>)]) -> Markup {
    html! {
        @for (place, lanes) in places {
            table {
                thead { tr { th { (place) } th.n {} } }
                tbody { @for lane in lanes { tr { th { (lane.stage) } td.n { (summary(lane)) } } } }
            }
        }
    }
}

fn lane(lane: &Lane<'_>, y: f64, x: &dyn Fn(f64) -> f64) -> Markup {
    html! {
        text.small x="0" y=(px(y + 15.0)) { (cut(lane.stage, 22)) }
        @for bar in &lane.bars {
            @let class = match bar.state {
                StageState::Succeeded | StageState::Running => Some("succeeded"),
                StageState::Delivered => Some("delivered"),
                StageState::Cached => Some("cached"),
                StageState::Failed | StageState::Quarantined | StageState::Interrupted => Some("failed"),
                _ => None,
            };
            @if let Some(class) = class {
                @let width = (x(bar.start + bar.seconds) - x(bar.start)).max(3.0);
                rect class=(class) x=(px(x(bar.start))) y=(px(y + 4.0)) width=(px(width)) height="14" rx="2" fill-opacity=".85" {
                    title { (bar.name) ": " (bar.kind) ", " (bar.state.word()) ", " (seconds(bar.seconds)) }
                }
            }
        }
        text.quiet.small x=(px(WIDTH)) y=(px(y + 15.0)) text-anchor="end" { (summary(lane)) }
    }
}

fn summary(lane: &Lane<'_>) -> String {
    let total: f64 = lane.bars.iter().filter(|b| b.state != StageState::Cached).map(|b| b.seconds).sum();
    let mut parts = Vec::new();
    for state in StageState::ALL.into_iter().filter(|s| *s != StageState::Succeeded) {
        let n = lane.bars.iter().filter(|b| b.state == state).count();
        if n == lane.bars.len() && state == StageState::Delivered {
            return format!("delivered, {}", seconds(total));
        }
        if n == lane.bars.len() && n == 1 {
            return state.word().to_owned();
        }
        if n > 0 {
            parts.push(format!("{n} {}", state.word()));
        }
    }
    let done = lane.bars.iter().filter(|b| b.state == StageState::Succeeded).count();
    if done > 0 {
        parts.insert(0, if done > 1 { format!("{done} in {}", seconds(total)) } else { seconds(total) });
    }
    parts.join(", ")
}

/// Lanes by place, places in the order in which they first appear.
fn places(report: &RunReport) -> Vec<(&str, Vec<Lane<'_>>)> {
    let mut places: Vec<(&str, Vec<Lane<'_>>)> = Vec::new();
    for bar in &report.stages {
        let stage = bar.name.split('[').next().unwrap_or(&bar.name);
        let at = places.iter().position(|(p, _)| *p == bar.place).unwrap_or_else(|| {
            places.push((&bar.place, Vec::new()));
            places.len() - 1
        });
        let lanes = &mut places[at].1;
        match lanes.iter_mut().find(|l| l.stage == stage) {
            Some(lane) => lane.bars.push(bar),
            None => lanes.push(Lane { stage, bars: vec![bar] }),
        }
    }
    places
}
