//! `headstart graph`: a pipeline as a picture, or as text for drawing programs.

use std::collections::BTreeSet;

use headstart_dsl::plan::{Place, Plan};
use headstart_protocol::Type;
use headstart_report::graph::{self, Edge, EdgeKind, Graph, Node, Role};

use crate::args::{Graph as Args, Notation};
use crate::exit::CommandError;
use crate::loader;

/// Runs the command.
///
/// # Errors
/// If the file has no plan, or standard output cannot be written.
pub fn run(args: &Args) -> Result<(), CommandError> {
    let graph = of_plan(&loader::plan(&args.pipeline, loader::Notes::Hidden)?);
    Ok(headstart_console::print(&draw(&graph, args.notation))?)
}

fn draw(graph: &Graph, notation: Notation) -> String {
    match notation {
        Notation::Mermaid => graph::mermaid(graph),
        Notation::Dot => graph::dot(graph),
        Notation::Svg => graph::svg(graph),
    }
}

/// A plan's items and outputs: a fan-out is one node with its size, and each device is a group.
fn of_plan(plan: &Plan) -> Graph {
    let groups = plan.devices();
    let mut nodes: Vec<Node> = plan
        .items
        .iter()
        .map(|i| Node {
            name: i.name.clone(),
            kind: i.kind.clone(),
            makes: i.ty.to_string(),
            doc: i.doc.clone(),
            count: i.keyed.then_some(0),
            ..Node::default()
        })
        .collect();
    let mut edges = BTreeSet::new();
    for (n, i) in plan.instances.iter().enumerate() {
        let node = &mut nodes[i.item as usize];
        node.count.iter_mut().for_each(|count| *count += 1);
        node.private |= i.private_to.is_some();
        node.released |= !i.release.is_empty();
        node.optional |= i.when.is_some();
        if let Place::Device(d) = &i.place {
            node.group = groups.iter().position(|g| g == d);
        }
        let inputs = plan.inputs(n);
        edges.extend(inputs.into_iter().map(|input| (plan.instances[input as usize].item, i.item)));
    }
    let edge = |(from, to)| Edge { from: from as usize, to: to as usize, kind: EdgeKind::Input };
    let mut edges: Vec<Edge> = edges.into_iter().map(edge).collect();
    for o in &plan.outputs {
        let kind = match o.released {
            true if holds_weights(&o.ty) => EdgeKind::ReleaseModel,
            true => EdgeKind::Release,
            false => EdgeKind::Output,
        };
        let mut items = BTreeSet::new();
        o.value.each_output(&mut |i| {
            items.insert(plan.instances[i as usize].item);
        });
        edges.extend(items.into_iter().map(|i| Edge { from: i as usize, to: nodes.len(), kind }));
        let (name, doc) = (o.name.clone(), o.doc.clone());
        nodes.push(Node { name, doc, role: Role::Output, ..Node::default() });
    }
    let title = plan.doc.lines().next().unwrap_or_default().to_owned();
    Graph { title, nodes, edges, groups, notes: schedules(plan) }
}

fn schedules(plan: &Plan) -> Vec<String> {
    let line = |s: &headstart_dsl::plan::Schedule| {
        let run = if s.run.is_empty() { "everything".to_owned() } else { s.run.join(", ") };
        format!("schedule {}: {} runs {run}", s.name, s.starts())
    };
    plan.schedules.iter().map(line).collect()
}

fn holds_weights(ty: &Type) -> bool {
    match ty {
        Type::Pllm => true,
        Type::List(t) | Type::Optional(t) => holds_weights(t),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use headstart_dsl::MemoryLoader;

    use super::*;

    /// The design's example, as a reader of each notation gets it.
    #[test]
    fn notations() {
        let source = include_str!("../../../../dsl/tests/files/design.pllm");
        let files = MemoryLoader::new().with("p/design.pllm", source).with("p/catalog/friendly/a", "");
        let files = files.with("p/catalog/concise/a", "").with("p/catalog/formal/a", "");
        let checked = headstart_dsl::check("p/design.pllm", &files, &Default::default());
        let graph = of_plan(&checked.plan.expect("the example has no errors"));
        insta::with_settings!({ omit_expression => true, prepend_module_to_snapshot => false }, {
            insta::assert_snapshot!("graph.mermaid", draw(&graph, Notation::Mermaid));
            insta::assert_snapshot!("graph.dot", draw(&graph, Notation::Dot));
            insta::assert_snapshot!("graph.svg", draw(&graph, Notation::Svg));
        });
    }
}
