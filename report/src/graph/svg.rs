//! A graph as a picture.

use std::fmt::Write;

use headstart_protocol::text::visible;

use super::layout::{self, Layout, layout};
use super::{Edge, EdgeKind, Graph, Node, Role};

/// Around everything.
const MARGIN: f64 = 20.0;
const NODE_HEIGHT: f64 = 48.0;
const OUTPUT_HEIGHT: f64 = 30.0;
/// How far the sheets of a stack stand out.
const SHEET: f64 = 4.0;
/// Characters of the title at most.
const MAX_TITLE: usize = 110;
/// Characters of a line in a node at most.
const CHARS: usize = 30;

/// The graph as an SVG document: items as boxes, fan-outs as stacks with their size, a lane for the
/// server and one for each group, private items with a dashed border and the word `private`. It
/// brings its own background and follows the reader's choice of light or dark.
pub fn svg(graph: &Graph) -> String {
    drawn(graph, STYLE)
}

/// As [`svg`], without its style: for a page that has [`STYLE`].
pub fn picture(graph: &Graph) -> String {
    drawn(graph, "")
}

fn drawn(graph: &Graph, style: &str) -> String {
    let nodes: Vec<layout::Node> = (0..graph.nodes.len()).map(|n| placed(graph, n)).collect();
    let shown: Vec<&Edge> = graph.drawn_edges().collect();
    let edges: Vec<(usize, usize)> = shown.iter().map(|e| (e.from, e.to)).collect();
    let l = layout(&nodes, &edges, graph.groups.len() + 1);
    let head: String = graph.title.trim().chars().take(MAX_TITLE).collect();
    let foot = footing(graph);
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
    if !style.is_empty() {
        let _ = writeln!(out, "<style>{style}</style>");
    }
    let _ = writeln!(out, "{ARROWS}");
    let _ = writeln!(out, "<rect class=\"hs-paper\" width=\"{total:.0}\" height=\"{height:.0}\" rx=\"10\"/>");
    if !head.is_empty() {
        let y = MARGIN + 14.0;
        let _ = writeln!(out, "<text class=\"hs-head\" x=\"{MARGIN}\" y=\"{y}\">{}</text>", escape(&head));
    }
    let _ = writeln!(out, "<g transform=\"translate({MARGIN} {top})\">");
    lanes(&mut out, graph, &l);
    // Lines lie under boxes, words on lines lie above both.
    shown.iter().zip(&l.routes).for_each(|(e, route)| edge(&mut out, e, route));
    for ((node, at), n) in graph.nodes.iter().zip(&l.at).zip(&nodes) {
        draw(&mut out, node, lane_class(n.lane), *at, n.width);
    }
    shown.iter().zip(&l.routes).for_each(|(e, route)| edge_label(&mut out, e, route));
    out.push_str("</g>\n");
    for (n, line) in foot.iter().enumerate() {
        let y = top + l.height + 22.0 + 18.0 * n as f64;
        let _ = writeln!(out, "<text class=\"hs-foot\" x=\"{MARGIN}\" y=\"{y:.0}\">{}</text>", escape(line));
    }
    out.push_str("</svg>\n");
    out
}

/// What the borders mean, as far as they occur, below the graph's notes.
fn footing(graph: &Graph) -> Vec<String> {
    let mut out = graph.notes.clone();
    let mut legend = Vec::new();
    if graph.nodes.iter().any(|n| n.count.is_some()) {
        legend.push("stack: one for each element");
    }
    if graph.nodes.iter().any(|n| n.private) {
        legend.push("dashed: private, stays on its device");
    }
    if graph.drawn_edges().any(|e| e.kind.label().is_some()) {
        legend.push("heavy arrow: released");
    }
    if !legend.is_empty() {
        out.push(legend.join("   ·   "));
    }
    out
}

fn placed(graph: &Graph, n: usize) -> layout::Node {
    let node = &graph.nodes[n];
    let lock = if node.private { 78.0 } else { 0.0 };
    let first = width(&clip(&node.name), 7.9) + badge_width(node) + lock;
    let second = width(&clip(&second_line(node)), 6.4);
    let output = node.role == Role::Output;
    let least = if output { 60.0 } else { 116.0 };
    let height = if output { OUTPUT_HEIGHT } else { NODE_HEIGHT };
    let lane = graph.group(n).map_or(0, |g| g + 1);
    layout::Node { lane, width: (first.max(second) + 26.0).max(least), height }
}

fn second_line(node: &Node) -> String {
    if let Some(progress) = &node.progress {
        return progress.text.clone();
    }
    let optional = if node.optional { " · optional" } else { "" };
    match (node.kind.is_empty(), node.makes.is_empty()) {
        (false, false) => format!("{} → {}{optional}", node.kind, node.makes),
        _ => format!("{}{}{optional}", node.kind, node.makes),
    }
}

/// For readers that point at it.
fn tooltip(node: &Node) -> String {
    let output = if node.role == Role::Output { "output " } else { "" };
    let doc = if node.doc.is_empty() { String::new() } else { format!(": {}", node.doc) };
    format!("{output}{}{doc}", node.name)
}

fn badge(node: &Node) -> Option<String> {
    node.count.map(|n| format!("× {n}"))
}

fn badge_width(node: &Node) -> f64 {
    badge(node).map_or(0.0, |b| width(&b, 7.2) + 12.0)
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
    for c in visible(text).chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            c => out.push(c),
        }
    }
    out
}

fn lanes(out: &mut String, graph: &Graph, l: &Layout) {
    let devices = graph.groups.iter().map(|name| format!("device {name}"));
    for (n, (word, (y, height))) in
        std::iter::once("server".to_owned()).chain(devices).zip(&l.lanes).enumerate()
    {
        let class = lane_class(n);
        let _ = writeln!(
            out,
            "<rect class=\"hs-lane {class}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{height:.1}\" rx=\"8\"/><text class=\"hs-place {class}\" x=\"14\" y=\"{:.1}\">{}</text>",
            l.width,
            y + 20.0,
            escape(&word)
        );
    }
}

/// The server has one colour; devices share four.
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
    let (class, marker) = match e.kind {
        EdgeKind::Release | EdgeKind::ReleaseModel => ("hs-edge hs-release", "hs-heavy"),
        EdgeKind::Input | EdgeKind::Output => ("hs-edge", "hs-arrow"),
    };
    let _ = writeln!(out, "<path class=\"{class}\" d=\"{path}\" marker-end=\"url(#{marker})\"/>");
}

/// The word on an edge that leaves a device, in its last bend.
fn edge_label(out: &mut String, e: &Edge, route: &[(f64, f64, f64)]) {
    let (Some(word), [.., (_, x1, y1), (x2, _, y2)]) = (e.kind.label(), route) else { return };
    let (x, y) = ((x1 + x2) / 2.0, (y1 + y2) / 2.0 + 3.5);
    let _ = writeln!(out, "<text class=\"hs-word\" x=\"{x:.1}\" y=\"{y:.1}\">{word}</text>");
}

fn draw(out: &mut String, node: &Node, class: String, (x, y): (f64, f64), w: f64) {
    let name = escape(&clip(&node.name));
    let _ =
        writeln!(out, "<g transform=\"translate({x:.1} {y:.1})\"><title>{}</title>", escape(&tooltip(node)));
    if node.role == Role::Output {
        let _ = writeln!(
            out,
            "<rect class=\"hs-out\" width=\"{w:.1}\" height=\"{OUTPUT_HEIGHT}\" rx=\"15\"/><text class=\"hs-name\" x=\"{:.1}\" y=\"19.5\" text-anchor=\"middle\">{}</text></g>",
            w / 2.0,
            name
        );
        return;
    }
    let dashed = if node.private { " hs-private" } else { "" };
    let state = node.progress.as_ref().map(|p| format!(" hs-state-{}", p.state.word())).unwrap_or_default();
    if node.count.is_some() {
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
        "<rect class=\"hs-box {class}{dashed}{state}\" width=\"{w:.1}\" height=\"{NODE_HEIGHT}\" rx=\"6\"/>"
    );
    if !state.is_empty() {
        let _ = writeln!(
            out,
            "<rect class=\"hs-state{state}\" x=\"0.7\" y=\"8\" width=\"4\" height=\"{}\" rx=\"2\"/>",
            NODE_HEIGHT - 16.0
        );
    }
    let _ = writeln!(out, "<text class=\"hs-name\" x=\"13\" y=\"20.5\">{}</text>", name);
    let _ = writeln!(
        out,
        "<text class=\"hs-kind\" x=\"13\" y=\"37\">{}</text>",
        escape(&clip(&second_line(node)))
    );
    if let Some(badge) = badge(node) {
        let _ = writeln!(
            out,
            "<text class=\"hs-count {class}\" x=\"{:.1}\" y=\"20.5\" text-anchor=\"end\">{badge}</text>",
            w - 11.0
        );
    }
    if node.private {
        let _ = writeln!(
            out,
            "<path class=\"hs-lock {class}\" transform=\"translate({:.1} 11.5)\" d=\"M0 4h8v6h-8zM1.5 4V2.5a2.5 2.5 0 0 1 5 0V4\"/><text class=\"hs-lockword {class}\" x=\"{:.1}\" y=\"20.5\" text-anchor=\"end\">private</text>",
            w - 72.0 - badge_width(node),
            w - 11.0 - badge_width(node)
        );
    }
    out.push_str("</g>\n");
}

const ARROWS: &str = "<defs><marker id=\"hs-arrow\" viewBox=\"0 0 8 8\" refX=\"6\" refY=\"4\" markerWidth=\"7\" markerHeight=\"7\" orient=\"auto\"><path class=\"hs-tip\" d=\"M0 .8L7 4L0 7.2z\"/></marker><marker id=\"hs-heavy\" viewBox=\"0 0 8 8\" refX=\"6\" refY=\"4\" markerUnits=\"userSpaceOnUse\" markerWidth=\"11\" markerHeight=\"11\" orient=\"auto\"><path class=\"hs-tip hs-tipheavy\" d=\"M0 .8L7 4L0 7.2z\"/></marker></defs>";

/// The style of pictures. Plain classes and values, because not every program that shows pictures knows variables.
pub const STYLE: &str = "
.hs text{font-family:system-ui,-apple-system,'Segoe UI',Roboto,'Helvetica Neue',Arial,sans-serif;fill:#1f1e1b}
.hs .hs-paper{fill:#fbfaf7}
.hs .hs-head{font-size:15px;font-weight:600}
.hs .hs-foot{font-size:11.5px;fill:#5f5b53}
.hs .hs-lane{stroke-width:1}
.hs .hs-place{font-size:11.5px;font-weight:600;letter-spacing:.03em}
.hs .hs-box{fill:#fff;stroke-width:1.3}
.hs .hs-state{stroke:none;fill:none}
.hs .hs-state.hs-state-running{fill:#b07a00}.hs .hs-state.hs-state-succeeded,.hs .hs-state.hs-state-delivered,.hs .hs-state.hs-state-cached{fill:#0b6e6e}
.hs .hs-state.hs-state-failed,.hs .hs-state.hs-state-quarantined,.hs .hs-state.hs-state-interrupted{fill:#a3261f}
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
.hs .hs-state.hs-state-running{fill:#e3b341}.hs .hs-state.hs-state-succeeded,.hs .hs-state.hs-state-delivered,.hs .hs-state.hs-state-cached{fill:#55c7bb}
.hs .hs-state.hs-state-failed,.hs .hs-state.hs-state-quarantined,.hs .hs-state.hs-state-interrupted{fill:#ff8d84}
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
