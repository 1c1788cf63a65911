//! A plan's items as a picture, and as text for drawing programs: a fan-out is one node with its size, what is
//! private to a device stands inside the device's border.

mod layout;
mod svg;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use crate::plan::{Place, Plan};

pub use svg::svg;

/// One node: an item.
struct Node {
    name: String,
    kind: String,
    count: usize,
    device: Option<String>,
    private: bool,
    released: bool,
}

/// Items as nodes, in the plan's order, and the edges between them.
fn folded(plan: &Plan) -> (Vec<Node>, BTreeSet<(u32, u32)>) {
    let mut nodes: Vec<Node> = plan
        .items
        .iter()
        .map(|i| Node {
            name: i.name.clone(),
            kind: i.kind.clone(),
            count: 0,
            device: None,
            private: false,
            released: false,
        })
        .collect();
    let mut edges = BTreeSet::new();
    for (n, i) in plan.instances.iter().enumerate() {
        let node = &mut nodes[i.item as usize];
        node.count += 1;
        node.private |= i.private_to.is_some();
        node.released |= !i.release.is_empty();
        if let Place::Device(d) = &i.place {
            node.device = Some(d.clone());
        }
        let inputs = plan.inputs(n);
        edges.extend(inputs.into_iter().map(|input| (plan.instances[input as usize].item, i.item)));
    }
    (nodes, edges)
}

/// Numbers of the nodes of each device; those of the server under `None`.
fn by_place(nodes: &[Node]) -> BTreeMap<Option<&str>, Vec<usize>> {
    let mut out: BTreeMap<Option<&str>, Vec<usize>> = BTreeMap::new();
    for (n, node) in nodes.iter().enumerate() {
        out.entry(node.device.as_deref()).or_default().push(n);
    }
    out
}

impl Node {
    fn lines(&self, keyed: bool) -> [String; 2] {
        let count = if keyed { format!(" × {}", self.count) } else { String::new() };
        let mut marks = String::new();
        if self.private {
            marks.push_str(" · private");
        }
        if self.released {
            marks.push_str(" · released");
        }
        [format!("{}{count}", self.name), format!("{}{marks}", self.kind)]
    }
}

/// The plan as a Mermaid flowchart.
pub fn mermaid(plan: &Plan) -> String {
    let (nodes, edges) = folded(plan);
    let mut out = String::from("flowchart LR\n");
    // Names are letters, digits, `_` and `.`; device names are free text.
    let escape = |t: &str| t.replace('"', "#quot;").replace(['\n', '\r'], " ");
    let node = |out: &mut String, indent: &str, n: usize| {
        let keyed = plan.items[n].keyed;
        let (open, close) = if keyed { ("[[", "]]") } else { ("[", "]") };
        let label = nodes[n].lines(keyed).map(|l| escape(&l)).join("<br/>");
        let _ = writeln!(out, "{indent}n{n}{open}\"{label}\"{close}");
    };
    for (d, (place, members)) in by_place(&nodes).into_iter().enumerate() {
        match place {
            None => members.into_iter().for_each(|n| node(&mut out, "  ", n)),
            Some(device) => {
                let _ = writeln!(out, "  subgraph d{d}[\"{}\"]", escape(device));
                members.into_iter().for_each(|n| node(&mut out, "    ", n));
                out.push_str("  end\n");
            }
        }
    }
    for (from, to) in edges {
        let _ = writeln!(out, "  n{from} --> n{to}");
    }
    for (n, o) in plan.outputs.iter().enumerate() {
        let _ = writeln!(out, "  o{n}([\"{}\"])", o.name);
        for from in output_items(plan, n) {
            let arrow = if o.released { "== release ==>" } else { "-.->" };
            let _ = writeln!(out, "  n{from} {arrow} o{n}");
        }
    }
    out
}

/// The plan as a Graphviz digraph.
pub fn dot(plan: &Plan) -> String {
    let (nodes, edges) = folded(plan);
    let escape = |t: &str| t.replace('\\', "\\\\").replace('"', "\\\"").replace(['\n', '\r'], " ");
    let mut out =
        String::from("digraph pipeline {\n  rankdir=LR;\n  node [shape=box, fontname=\"sans-serif\"];\n");
    let node = |out: &mut String, indent: &str, n: usize| {
        let keyed = plan.items[n].keyed;
        let label = nodes[n].lines(keyed).map(|l| escape(&l)).join("\\n");
        let shape = if keyed { ", peripheries=2" } else { "" };
        let style = if nodes[n].private { ", style=dashed" } else { "" };
        let _ = writeln!(out, "{indent}n{n} [label=\"{label}\"{shape}{style}];");
    };
    for (d, (place, members)) in by_place(&nodes).into_iter().enumerate() {
        match place {
            None => members.into_iter().for_each(|n| node(&mut out, "  ", n)),
            Some(device) => {
                let _ = writeln!(out, "  subgraph cluster_{d} {{\n    label=\"{}\";", escape(device));
                members.into_iter().for_each(|n| node(&mut out, "    ", n));
                out.push_str("  }\n");
            }
        }
    }
    for (from, to) in edges {
        let _ = writeln!(out, "  n{from} -> n{to};");
    }
    for (n, o) in plan.outputs.iter().enumerate() {
        let _ = writeln!(out, "  o{n} [label=\"{}\", shape=ellipse];", escape(&o.name));
        for from in output_items(plan, n) {
            let style = if o.released { " [label=release, penwidth=2]" } else { " [style=dotted]" };
            let _ = writeln!(out, "  n{from} -> o{n}{style};");
        }
    }
    out.push_str("}\n");
    out
}

fn output_items(plan: &Plan, n: usize) -> BTreeSet<u32> {
    let mut items = BTreeSet::new();
    plan.outputs[n].value.each_output(&mut |i| {
        items.insert(plan.instances[i as usize].item);
    });
    items
}
