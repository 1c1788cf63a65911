//! A plan as a picture.

use std::collections::BTreeMap;
use std::fmt::Write;

use headstart_protocol::Type;

use super::layout::{self, Layout, layout};
use super::{folded, output_items};
use crate::plan::Plan;

/// Around everything.
const MARGIN: f64 = 20.0;
const NODE_HEIGHT: f64 = 48.0;
const OUTPUT_HEIGHT: f64 = 30.0;
/// How far the sheets of a stack stand out.
const SHEET: f64 = 4.0;
/// Characters of a line in a node at most.
const CHARS: usize = 30;

/// What is drawn as a node.
struct Drawn {
    /// Bold line, plain line.
    lines: [String; 2],
    /// Of a fan-out.
    count: Option<usize>,
    private: bool,
    output: bool,
    /// For readers that point at it.
    title: String,
    lane: usize,
}

struct Edge {
    from: usize,
    to: usize,
    /// Written on it, where it leaves a device.
    release: Option<&'static str>,
}

struct Picture {
    boxes: Vec<Drawn>,
    edges: Vec<Edge>,
    /// The server, then the devices.
    lanes: Vec<String>,
}

/// The plan as an SVG document: items as boxes, fan-outs as stacks with their size, a lane for the
/// server and one for each device, private items with a dashed border and the word `private`. It
/// brings its own background and follows the reader's choice of light or dark.
pub fn svg(plan: &Plan) -> String {
    let picture = Picture::new(plan);
    let nodes: Vec<layout::Node> = picture.boxes.iter().map(Drawn::node).collect();
    let edges: Vec<(usize, usize)> = picture.edges.iter().map(|e| (e.from, e.to)).collect();
    let l = layout(&nodes, &edges, picture.lanes.len());
    let head = heading(plan);
    let foot = footing(plan, &picture);
    let top = MARGIN + if head.is_empty() { 0.0 } else { 30.0 };
    let text_width = foot.iter().map(|f| width(f, 6.2)).fold(width(&head, 8.4), f64::max);
    let total = l.width.max(text_width) + 2.0 * MARGIN;
    let height = top + l.height + 18.0 * foot.len() as f64 + MARGIN + 6.0;
    let mut out = String::new();
    let _ = writeln!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" role=\"img\" width=\"{total:.0}\" height=\"{height:.0}\" viewBox=\"0 0 {total:.0} {height:.0}\" class=\"hs\">"
    );
    let name = if head.is_empty() { "Pipeline" } else { head.as_str() };
    let _ = writeln!(out, "<title>{}</title>", escape(name));
    let _ = writeln!(out, "<style>{STYLE}</style>");
    let _ = writeln!(out, "{ARROWS}");
    let _ = writeln!(out, "<rect class=\"hs-paper\" width=\"{total:.0}\" height=\"{height:.0}\" rx=\"10\"/>");
    if !head.is_empty() {
        let y = MARGIN + 14.0;
        let _ = writeln!(out, "<text class=\"hs-head\" x=\"{MARGIN}\" y=\"{y}\">{}</text>", escape(&head));
    }
    let _ = writeln!(out, "<g transform=\"translate({MARGIN} {top})\">");
    lanes(&mut out, &picture, &l);
    // Lines lie under boxes, words on lines lie above both.
    picture.edges.iter().zip(&l.routes).for_each(|(e, route)| edge(&mut out, e, route));
    picture.boxes.iter().zip(&l.at).zip(&nodes).for_each(|((b, at), n)| draw(&mut out, b, *at, n.width));
    picture.edges.iter().zip(&l.routes).for_each(|(e, route)| edge_label(&mut out, e, route));
    out.push_str("</g>\n");
    for (n, line) in foot.iter().enumerate() {
        let y = top + l.height + 22.0 + 18.0 * n as f64;
        let _ = writeln!(out, "<text class=\"hs-foot\" x=\"{MARGIN}\" y=\"{y:.0}\">{}</text>", escape(line));
    }
    out.push_str("</svg>\n");
    out
}

impl Picture {
    fn new(plan: &Plan) -> Self {
        let (nodes, edges) = folded(plan);
        let mut lanes = vec!["server".to_owned()];
        lanes.extend(plan.devices());
        let number: BTreeMap<&str, usize> =
            lanes.iter().enumerate().skip(1).map(|(n, d)| (d.as_str(), n)).collect();
        let lane = |device: &Option<String>| {
            device.as_deref().and_then(|d| number.get(d).copied()).unwrap_or_default()
        };
        let conditional: Vec<bool> = (0..plan.items.len() as u32)
            .map(|n| plan.instances.iter().any(|i| i.item == n && i.when.is_some()))
            .collect();
        let mut boxes: Vec<Drawn> = nodes
            .iter()
            .zip(&plan.items)
            .zip(conditional)
            .map(|((n, item), conditional)| Drawn {
                lines: [n.name.clone(), second_line(&n.kind, &item.ty, conditional)],
                count: item.keyed.then_some(n.count),
                private: n.private,
                output: false,
                title: title(&item.name, &item.doc),
                lane: lane(&n.device),
            })
            .collect();
        let edge = |(from, to): (u32, u32)| Edge { from: from as usize, to: to as usize, release: None };
        let mut edges: Vec<Edge> = edges.into_iter().map(edge).collect();
        for (n, o) in plan.outputs.iter().enumerate() {
            let to = boxes.len();
            boxes.push(Drawn {
                lines: [o.name.clone(), String::new()],
                count: None,
                private: false,
                output: true,
                title: title(&format!("output {}", o.name), &o.doc),
                lane: 0,
            });
            let release =
                o.released.then(|| if holds_weights(&o.ty) { "RELEASES A MODEL" } else { "release" });
            edges.extend(output_items(plan, n).into_iter().map(|i| Edge { from: i as usize, to, release }));
        }
        Self { boxes, edges, lanes }
    }
}

fn holds_weights(ty: &Type) -> bool {
    match ty {
        Type::Pllm => true,
        Type::List(t) | Type::Optional(t) => holds_weights(t),
        _ => false,
    }
}

fn second_line(kind: &str, ty: &Type, conditional: bool) -> String {
    let optional = if conditional { " · optional" } else { "" };
    format!("{kind} → {ty}{optional}")
}

fn title(name: &str, doc: &str) -> String {
    if doc.is_empty() { name.to_owned() } else { format!("{name}: {doc}") }
}

/// The first line of the file's documentation, or of its first sentence.
fn heading(plan: &Plan) -> String {
    let first = plan.doc.lines().next().unwrap_or_default().trim();
    first.chars().take(110).collect()
}

/// Schedules, and what the borders mean, as far as they occur.
fn footing(plan: &Plan, p: &Picture) -> Vec<String> {
    let mut out = Vec::new();
    for s in &plan.schedules {
        let run = if s.run.is_empty() { "everything".to_owned() } else { s.run.join(", ") };
        out.push(format!("schedule {}: {} ({}) brings up to date {run}", s.name, s.cron, s.timezone));
    }
    let mut legend = Vec::new();
    if p.boxes.iter().any(|b| b.count.is_some()) {
        legend.push("stack: one for each element");
    }
    if p.boxes.iter().any(|b| b.private) {
        legend.push("dashed: private, stays on its device");
    }
    if p.edges.iter().any(|e| e.release.is_some()) {
        legend.push("heavy arrow: released");
    }
    if !legend.is_empty() {
        out.push(legend.join("   ·   "));
    }
    out
}

impl Drawn {
    fn node(&self) -> layout::Node {
        let lock = if self.private { 78.0 } else { 0.0 };
        let first = width(&clip(&self.lines[0]), 7.9) + self.badge_width() + lock;
        let second = width(&clip(&self.lines[1]), 6.4);
        let least = if self.output { 60.0 } else { 116.0 };
        let height = if self.output { OUTPUT_HEIGHT } else { NODE_HEIGHT };
        layout::Node { lane: self.lane, width: (first.max(second) + 26.0).max(least), height }
    }

    fn badge_width(&self) -> f64 {
        self.badge().map_or(0.0, |b| width(&b, 7.2) + 12.0)
    }

    fn badge(&self) -> Option<String> {
        self.count.map(|n| format!("× {n}"))
    }
}

/// A line's width, estimated: the reader's font is not known. East Asian characters count double.
fn width(text: &str, unit: f64) -> f64 {
    text.chars().map(|c| if c as u32 >= 0x2E80 { 2.0 } else { 1.0 }).sum::<f64>() * unit
}

fn clip(text: &str) -> String {
    if text.chars().count() <= CHARS {
        return text.to_owned();
    }
    text.chars().take(CHARS - 1).chain(['…']).collect()
}

fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            // XML has no other control characters.
            c if c.is_control() && c != '\n' && c != '\t' => out.push(' '),
            c => out.push(c),
        }
    }
    out
}

fn lanes(out: &mut String, p: &Picture, l: &Layout) {
    for (n, (name, (y, height))) in p.lanes.iter().zip(&l.lanes).enumerate() {
        let class = lane_class(n);
        let word = if n == 0 { "server".to_owned() } else { format!("device {name}") };
        let _ = writeln!(
            out,
            "<rect class=\"hs-lane {class}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{height:.1}\" rx=\"8\"/><text class=\"hs-place {class}\" x=\"14\" y=\"{:.1}\">{}</text>",
            l.width,
            y + 20.0,
            escape(&word)
        );
    }
}

/// The server has a colour of its own; devices share four.
fn lane_class(lane: usize) -> String {
    if lane == 0 { "hs-server".to_owned() } else { format!("hs-d{}", (lane - 1) % 4) }
}

fn edge(out: &mut String, e: &Edge, route: &[(f64, f64, f64)]) {
    let Some((_, x, y)) = route.first() else { return };
    let mut path = format!("M{x:.1} {y:.1}");
    for (n, pair) in route.windows(2).enumerate() {
        let ((_, x1, y1), (x2, end, y2)) = (pair[0], pair[1]);
        let last = n + 2 == route.len();
        // The arrow's head takes the last bit.
        let x2 = if last { x2 - 2.0 } else { x2 };
        let bend = (x2 - x1) * 0.55;
        let _ = write!(path, "C{:.1} {y1:.1} {:.1} {y2:.1} {x2:.1} {y2:.1}", x1 + bend, x2 - bend);
        if !last {
            let _ = write!(path, "H{end:.1}");
        }
    }
    let (class, marker) = match e.release {
        Some(_) => ("hs-edge hs-release", "hs-heavy"),
        None => ("hs-edge", "hs-arrow"),
    };
    let _ = writeln!(out, "<path class=\"{class}\" d=\"{path}\" marker-end=\"url(#{marker})\"/>");
}

/// The word on an edge that leaves a device, in its last bend.
fn edge_label(out: &mut String, e: &Edge, route: &[(f64, f64, f64)]) {
    let (Some(word), [.., (_, x1, y1), (x2, _, y2)]) = (e.release, route) else { return };
    let (x, y) = ((x1 + x2) / 2.0, (y1 + y2) / 2.0 + 3.5);
    let _ = writeln!(out, "<text class=\"hs-word\" x=\"{x:.1}\" y=\"{y:.1}\">{word}</text>");
}

fn draw(out: &mut String, b: &Drawn, (x, y): (f64, f64), w: f64) {
    let class = lane_class(b.lane);
    let _ = writeln!(out, "<g transform=\"translate({x:.1} {y:.1})\"><title>{}</title>", escape(&b.title));
    if b.output {
        let _ = writeln!(
            out,
            "<rect class=\"hs-out\" width=\"{w:.1}\" height=\"{OUTPUT_HEIGHT}\" rx=\"15\"/><text class=\"hs-name\" x=\"{:.1}\" y=\"19.5\" text-anchor=\"middle\">{}</text></g>",
            w / 2.0,
            escape(&clip(&b.lines[0]))
        );
        return;
    }
    let dashed = if b.private { " hs-private" } else { "" };
    if b.count.is_some() {
        for n in [2.0, 1.0] {
            let off = n * SHEET;
            let _ = writeln!(
                out,
                "<rect class=\"hs-box {class}{dashed}\" x=\"{off}\" y=\"-{off}\" width=\"{w:.1}\" height=\"{NODE_HEIGHT}\" rx=\"6\"/>"
            );
        }
    }
    let _ = writeln!(
        out,
        "<rect class=\"hs-box {class}{dashed}\" width=\"{w:.1}\" height=\"{NODE_HEIGHT}\" rx=\"6\"/>"
    );
    let _ =
        writeln!(out, "<text class=\"hs-name\" x=\"13\" y=\"20.5\">{}</text>", escape(&clip(&b.lines[0])));
    let _ = writeln!(out, "<text class=\"hs-kind\" x=\"13\" y=\"37\">{}</text>", escape(&clip(&b.lines[1])));
    if let Some(badge) = b.badge() {
        let _ = writeln!(
            out,
            "<text class=\"hs-count {class}\" x=\"{:.1}\" y=\"20.5\" text-anchor=\"end\">{badge}</text>",
            w - 11.0
        );
    }
    if b.private {
        let _ = writeln!(
            out,
            "<path class=\"hs-lock {class}\" transform=\"translate({:.1} 11.5)\" d=\"M0 4h8v6h-8zM1.5 4V2.5a2.5 2.5 0 0 1 5 0V4\"/><text class=\"hs-lockword {class}\" x=\"{:.1}\" y=\"20.5\" text-anchor=\"end\">private</text>",
            w - 72.0 - b.badge_width(),
            w - 11.0 - b.badge_width()
        );
    }
    out.push_str("</g>\n");
}

const ARROWS: &str = "<defs><marker id=\"hs-arrow\" viewBox=\"0 0 8 8\" refX=\"6\" refY=\"4\" markerWidth=\"7\" markerHeight=\"7\" orient=\"auto\"><path class=\"hs-tip\" d=\"M0 .8L7 4L0 7.2z\"/></marker><marker id=\"hs-heavy\" viewBox=\"0 0 8 8\" refX=\"6\" refY=\"4\" markerUnits=\"userSpaceOnUse\" markerWidth=\"11\" markerHeight=\"11\" orient=\"auto\"><path class=\"hs-tip hs-tipheavy\" d=\"M0 .8L7 4L0 7.2z\"/></marker></defs>";

/// Plain classes and values, because not every program that shows pictures knows variables.
const STYLE: &str = "
.hs text{font-family:system-ui,-apple-system,'Segoe UI',Roboto,'Helvetica Neue',Arial,sans-serif;fill:#1f1e1b}
.hs .hs-paper{fill:#fbfaf7}
.hs .hs-head{font-size:15px;font-weight:600}
.hs .hs-foot{font-size:11.5px;fill:#5f5b53}
.hs .hs-lane{stroke-width:1}
.hs .hs-place{font-size:11.5px;font-weight:600;letter-spacing:.03em}
.hs .hs-box{fill:#fff;stroke-width:1.3}
.hs .hs-private{stroke-dasharray:5 3.5}
.hs .hs-out{fill:#1f1e1b;stroke:none}
.hs .hs-out+.hs-name{fill:#fbfaf7}
.hs .hs-name{font-size:13px;font-weight:600}
.hs .hs-kind{font-size:11px;fill:#5f5b53}
.hs .hs-count{font-size:12px;font-weight:600}
.hs .hs-lock{fill:none;stroke-width:1.3}
.hs .hs-lockword{font-size:11px;font-weight:600}
.hs .hs-edge{fill:none;stroke:#8d887d;stroke-width:1.3}
.hs .hs-release{stroke:#1f1e1b;stroke-width:2.6}
.hs .hs-tip{fill:#8d887d}
.hs .hs-tipheavy{fill:#1f1e1b}
.hs .hs-word{font-size:11px;font-weight:600;text-anchor:middle;paint-order:stroke;stroke:#fbfaf7;stroke-width:4px;stroke-linejoin:round}
.hs rect.hs-server{stroke:#0b6e6e}.hs .hs-lane.hs-server{fill:#eef5f3;stroke:#c9dedb}.hs text.hs-server{fill:#0b6e6e}
.hs rect.hs-d0,.hs path.hs-d0{stroke:#a4481e}.hs .hs-lane.hs-d0{fill:#faf0ea;stroke:#ecd3c5}.hs text.hs-d0{fill:#a4481e}
.hs rect.hs-d1,.hs path.hs-d1{stroke:#6a3fa0}.hs .hs-lane.hs-d1{fill:#f4eff9;stroke:#ddcfee}.hs text.hs-d1{fill:#6a3fa0}
.hs rect.hs-d2,.hs path.hs-d2{stroke:#1f5fa8}.hs .hs-lane.hs-d2{fill:#edf3fa;stroke:#cbdcee}.hs text.hs-d2{fill:#1f5fa8}
.hs rect.hs-d3,.hs path.hs-d3{stroke:#7a6a10}.hs .hs-lane.hs-d3{fill:#f7f4e3;stroke:#e4dcb4}.hs text.hs-d3{fill:#7a6a10}
@media (prefers-color-scheme:dark){
.hs text{fill:#ebe8e1}
.hs .hs-paper{fill:#15171a}
.hs .hs-foot,.hs .hs-kind{fill:#a9a59b}
.hs .hs-box{fill:#1f2327}
.hs .hs-out{fill:#ebe8e1}
.hs .hs-out+.hs-name{fill:#15171a}
.hs .hs-edge{stroke:#7d796f}
.hs .hs-release{stroke:#ebe8e1}
.hs .hs-tip{fill:#7d796f}
.hs .hs-tipheavy{fill:#ebe8e1}
.hs .hs-word{stroke:#15171a}
.hs rect.hs-server{stroke:#55c7bb}.hs .hs-lane.hs-server{fill:#172422;stroke:#24433f}.hs text.hs-server{fill:#55c7bb}
.hs rect.hs-d0,.hs path.hs-d0{stroke:#eb9a6b}.hs .hs-lane.hs-d0{fill:#2a1e17;stroke:#523626}.hs text.hs-d0{fill:#eb9a6b}
.hs rect.hs-d1,.hs path.hs-d1{stroke:#bd9bea}.hs .hs-lane.hs-d1{fill:#221c2b;stroke:#43345a}.hs text.hs-d1{fill:#bd9bea}
.hs rect.hs-d2,.hs path.hs-d2{stroke:#86b7f0}.hs .hs-lane.hs-d2{fill:#19222d;stroke:#2d435c}.hs text.hs-d2{fill:#86b7f0}
.hs rect.hs-d3,.hs path.hs-d3{stroke:#d8c65c}.hs .hs-lane.hs-d3{fill:#25220f;stroke:#4d4621}.hs text.hs-d3{fill:#d8c65c}
}
";
