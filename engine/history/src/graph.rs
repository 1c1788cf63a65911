//! A plan as a graph, and how far a run is with it.

use std::collections::BTreeSet;

use headstart_dsl::plan::{Place, Plan};
use headstart_protocol::Type;
use headstart_report::StageState;
use headstart_report::graph::{Edge, EdgeKind, Graph, Node, NodeProgress, Role};

use crate::recorded::Recorded;

/// A plan's items and outputs: a fan-out is one node with its size, and each device is a group.
pub fn of_plan(plan: &Plan) -> Graph {
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

/// The graph of a run's plan, in which each item shows how far the run is with it.
pub fn of_run(run: &Recorded) -> Graph {
    let mut graph = of_plan(&run.plan);
    let mut states: Vec<Vec<StageState>> = vec![Vec::new(); run.plan.items.len()];
    for (i, status) in run.state.statuses() {
        states[run.state.instance(i).item as usize].push(run.stage_state(i, status));
    }
    for (node, states) in graph.nodes.iter_mut().zip(&states) {
        node.progress = progress(states);
    }
    // The page has both elsewhere.
    graph.title.clear();
    graph.notes.clear();
    graph
}

/// What is shown for several instances: what needs attention before what runs, before what waits, before what is over.
const FIRST: [StageState; 12] = [
    StageState::Quarantined,
    StageState::Failed,
    StageState::Interrupted,
    StageState::Running,
    StageState::Ready,
    StageState::Waiting,
    StageState::Blocked,
    StageState::Cancelled,
    StageState::Delivered,
    StageState::Succeeded,
    StageState::Cached,
    StageState::Skipped,
];

/// The state of a group of instances; none for an empty one.
pub fn progress(states: &[StageState]) -> Option<NodeProgress> {
    let state = FIRST.into_iter().find(|s| states.contains(s))?;
    let count = |of: StageState| states.iter().filter(|s| **s == of).count();
    let text = match states {
        [one] => one.word().to_owned(),
        all if count(state) == all.len() => format!("{} {}", all.len(), state.word()),
        all => {
            let over = all.iter().filter(|s| is_over(**s)).count();
            let also =
                if is_over(state) { String::new() } else { format!(", {} {}", count(state), state.word()) };
            format!("{over} of {}{also}", all.len())
        }
    };
    Some(NodeProgress { state, text })
}

/// Whether nothing more happens to an instance by itself.
fn is_over(state: StageState) -> bool {
    !matches!(state, StageState::Running | StageState::Ready | StageState::Waiting | StageState::Interrupted)
}
