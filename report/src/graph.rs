//! Graphs of pipelines: as a picture, and as text for drawing programs.
//!
//! A [`Graph`] is plain data: nodes, edges and groups. Where it came from is the caller's affair.

mod layout;
mod svg;

use std::fmt::Write;

use headstart_protocol::text::visible;
use serde::{Deserialize, Serialize};

pub use svg::{STYLE, picture, svg};

use crate::run::StageState;

/// The graph to draw.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Graph {
    /// A heading; may be empty.
    pub title: String,
    /// The nodes, in the order in which they are listed.
    pub nodes: Vec<Node>,
    /// The edges. One that names a node that does not exist is not drawn.
    pub edges: Vec<Edge>,
    /// The groups beside the server, such as devices.
    pub groups: Vec<String>,
    /// Lines below the picture.
    pub notes: Vec<String>,
}

/// A node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// How it is made, such as `finetune`; may be empty.
    pub kind: String,
    /// What it is, such as `Pllm`; may be empty.
    pub makes: String,
    /// Its documentation; may be empty.
    pub doc: String,
    /// What it stands for.
    pub role: Role,
    /// For a fan-out, how many elements it has.
    pub count: Option<usize>,
    /// Its group, by number; `None` for the server.
    pub group: Option<usize>,
    /// Whether it stays in its group.
    pub private: bool,
    /// Whether a part of it may leave its group.
    pub released: bool,
    /// Whether it may be absent.
    pub optional: bool,
    /// How far a run is with it; none in a picture of a pipeline.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<NodeProgress>,
}

/// How far a run is with a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeProgress {
    /// The state that is shown for all of it.
    pub state: StageState,
    /// The same in words, such as `12 of 40, 2 running`.
    pub text: String,
}

/// What a node stands for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// An item of the pipeline.
    #[default]
    Item,
    /// An output of the pipeline.
    Output,
}

/// An edge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Edge {
    /// The node that it leaves, by number.
    pub from: usize,
    /// The node that it leads to, by number.
    pub to: usize,
    /// What passes along it.
    pub kind: EdgeKind,
}

/// What passes along an edge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EdgeKind {
    /// An input of an item.
    Input,
    /// The value of an output.
    Output,
    /// The value of an output that leaves its device.
    Release,
    /// Likewise, where the value holds a model.
    ReleaseModel,
}

impl EdgeKind {
    /// The word on the edge.
    fn label(self) -> Option<&'static str> {
        match self {
            Self::Input | Self::Output => None,
            Self::Release => Some("release"),
            Self::ReleaseModel => Some("RELEASES A MODEL"),
        }
    }
}

impl Node {
    /// The name and what is said about it, as two lines of text.
    fn lines(&self) -> Vec<String> {
        let mut first = self.name.clone();
        if let Some(count) = self.count {
            let _ = write!(first, " × {count}");
        }
        let mut second = self.kind.clone();
        for (set, mark) in [(self.private, " · private"), (self.released, " · released")] {
            if set {
                second.push_str(mark);
            }
        }
        if second.is_empty() { vec![first] } else { vec![first, second] }
    }
}

impl Graph {
    /// A node's group; `None` for the server.
    fn group(&self, node: usize) -> Option<usize> {
        self.nodes[node].group.filter(|g| *g < self.groups.len())
    }

    /// Numbers of the nodes of a group, or of the server.
    fn members(&self, group: Option<usize>) -> impl Iterator<Item = usize> + '_ {
        (0..self.nodes.len()).filter(move |n| self.group(*n) == group)
    }

    /// The edges between nodes that exist.
    fn drawn_edges(&self) -> impl Iterator<Item = &Edge> {
        self.edges.iter().filter(|e| e.from < self.nodes.len() && e.to < self.nodes.len())
    }
}

/// The graph as a Mermaid flowchart.
pub fn mermaid(graph: &Graph) -> String {
    // What Mermaid takes for HTML, an entity or the beginning of Markdown.
    let escape = |t: &str| {
        let entity = |c: char| match c {
            '#' | '"' | '<' | '>' | '&' | '`' => format!("#{};", u32::from(c)),
            '\n' => " ".to_owned(),
            c => c.to_string(),
        };
        visible(t).chars().map(entity).collect::<String>()
    };
    let node = |out: &mut String, indent: &str, n: usize| {
        let node = &graph.nodes[n];
        let (open, close) = match (node.role, node.count) {
            (Role::Output, _) => ("([", "])"),
            (Role::Item, Some(_)) => ("[[", "]]"),
            (Role::Item, None) => ("[", "]"),
        };
        let label: Vec<String> = node.lines().iter().map(|l| escape(l)).collect();
        let _ = writeln!(out, "{indent}n{n}{open}\"{}\"{close}", label.join("<br/>"));
    };
    let mut out = String::from("flowchart LR\n");
    graph.members(None).for_each(|n| node(&mut out, "  ", n));
    for (g, name) in graph.groups.iter().enumerate() {
        let _ = writeln!(out, "  subgraph g{g}[\"{}\"]", escape(name));
        graph.members(Some(g)).for_each(|n| node(&mut out, "    ", n));
        out.push_str("  end\n");
    }
    for Edge { from, to, kind } in graph.drawn_edges() {
        let arrow = match (kind, kind.label()) {
            (_, Some(label)) => format!("== {label} ==>"),
            (EdgeKind::Input, None) => "-->".to_owned(),
            (_, None) => "-.->".to_owned(),
        };
        let _ = writeln!(out, "  n{from} {arrow} n{to}");
    }
    out
}

/// The graph as a Graphviz digraph.
pub fn dot(graph: &Graph) -> String {
    let escape = |t: &str| visible(t).replace('\\', "\\\\").replace('"', "\\\"").replace('\n', " ");
    let node = |out: &mut String, indent: &str, n: usize| {
        let node = &graph.nodes[n];
        let label: Vec<String> = node.lines().iter().map(|l| escape(l)).collect();
        let shape = match (node.role, node.count) {
            (Role::Output, _) => ", shape=ellipse",
            (Role::Item, Some(_)) => ", peripheries=2",
            (Role::Item, None) => "",
        };
        let style = if node.private { ", style=dashed" } else { "" };
        let _ = writeln!(out, "{indent}n{n} [label=\"{}\"{shape}{style}];", label.join("\\n"));
    };
    let mut out =
        String::from("digraph pipeline {\n  rankdir=LR;\n  node [shape=box, fontname=\"sans-serif\"];\n");
    graph.members(None).for_each(|n| node(&mut out, "  ", n));
    for (g, name) in graph.groups.iter().enumerate() {
        let _ = writeln!(out, "  subgraph cluster_{g} {{\n    label=\"{}\";", escape(name));
        graph.members(Some(g)).for_each(|n| node(&mut out, "    ", n));
        out.push_str("  }\n");
    }
    for Edge { from, to, kind } in graph.drawn_edges() {
        let style = match (kind, kind.label()) {
            (_, Some(label)) => format!(" [label=\"{label}\", penwidth=2]"),
            (EdgeKind::Input, None) => String::new(),
            (_, None) => " [style=dotted]".to_owned(),
        };
        let _ = writeln!(out, "  n{from} -> n{to}{style};");
    }
    out.push_str("}\n");
    out
}
