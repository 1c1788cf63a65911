//! A plan as a graph, and parts of a plan.

use std::collections::BTreeSet;

use headstart_protocol::Expr;
use petgraph::graph::{DiGraph, NodeIndex};

use crate::plan::Plan;

/// The plan's instances as a graph: node `n` is instance `n`, and an edge leads from an instance to
/// each one that uses its output.
pub fn graph(plan: &Plan) -> DiGraph<u32, ()> {
    let mut g = DiGraph::with_capacity(plan.instances.len(), plan.instances.len());
    for n in 0..plan.instances.len() {
        g.add_node(n as u32);
    }
    for n in 0..plan.instances.len() {
        for input in plan.inputs(n) {
            g.add_edge(NodeIndex::new(input as usize), NodeIndex::new(n), ());
        }
    }
    g
}

impl Plan {
    /// The part of the plan that the named items need, renumbered: the items themselves, what they
    /// refer to, and those outputs and schedules that need nothing else. Unknown names count for
    /// nothing.
    pub fn subset(&self, items: &[String]) -> Plan {
        let wanted: BTreeSet<&str> = items.iter().map(String::as_str).collect();
        let mut keep = vec![false; self.instances.len()];
        // Inputs come before their users: one pass from the end reaches everything.
        for n in (0..self.instances.len()).rev() {
            let item = &self.items[self.instances[n].item as usize];
            keep[n] = keep[n] || wanted.contains(item.name.as_str());
            if keep[n] {
                self.inputs(n).into_iter().for_each(|i| keep[i as usize] = true);
            }
        }
        let used: BTreeSet<u32> =
            self.instances.iter().zip(&keep).filter(|(_, k)| **k).map(|(i, _)| i.item).collect();
        let kept_item = |n: usize| used.contains(&(n as u32)) || wanted.contains(self.items[n].name.as_str());
        let new_item = numbers((0..self.items.len()).map(kept_item));
        let new_instance = numbers(keep.iter().copied());
        let renumber = |e: &Expr| renumbered(e, &|n| new_instance[n as usize]);
        let instances = self.instances.iter().zip(&keep).filter(|(_, k)| **k).map(|(i, _)| {
            let mut i = i.clone();
            i.item = new_item[i.item as usize];
            i.args.values_mut().for_each(|e| *e = renumber(e));
            i.when = i.when.as_ref().map(renumber);
            i
        });
        let complete = |e: &Expr| {
            let mut all = true;
            e.each_output(&mut |n| all &= keep[n as usize]);
            all
        };
        let outputs = self.outputs.iter().filter(|o| complete(&o.value)).map(|o| {
            let mut o = o.clone();
            o.value = renumber(&o.value);
            o
        });
        let kept_name =
            |name: &String| self.items.iter().position(|i| i.name == *name).is_some_and(kept_item);
        Plan {
            doc: self.doc.clone(),
            programs: self.programs.clone(),
            items: (0..self.items.len()).filter(|n| kept_item(*n)).map(|n| self.items[n].clone()).collect(),
            instances: instances.collect(),
            outputs: outputs.collect(),
            schedules: self
                .schedules
                .iter()
                .filter(|s| !s.run.is_empty() && s.run.iter().all(kept_name) || self.is_whole(&keep))
                .cloned()
                .collect(),
            params: self.params.clone(),
        }
    }

    fn is_whole(&self, keep: &[bool]) -> bool {
        keep.iter().all(|k| *k)
    }
}

/// New numbers of what is kept.
fn numbers(kept: impl Iterator<Item = bool>) -> Vec<u32> {
    let mut next = 0;
    kept.map(|k| {
        let n = next;
        next += u32::from(k);
        n
    })
    .collect()
}

/// The expression with every output renumbered.
fn renumbered(e: &Expr, f: &impl Fn(u32) -> u32) -> Expr {
    match e {
        Expr::Output { instance } => Expr::Output { instance: f(*instance) },
        other => other.map_parts(&mut |e| renumbered(e, f)),
    }
}
