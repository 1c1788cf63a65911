//! A plan as a graph, and parts of a plan.

use std::collections::BTreeSet;

use headstart_protocol::Expr;
use petgraph::graph::{DiGraph, NodeIndex};

use crate::plan::{Instance, Plan};

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
        let of_item = |i: &Instance| wanted.contains(self.items[i.item as usize].name.as_str());
        self.kept(self.instances.iter().map(of_item).collect(), &wanted)
    }

    /// The plan that brings up to date what is named, and what that needs. A name is that of an item,
    /// of an instance (`said["friendly"]`, or `said[friendly]`), of an output, or of a module, which
    /// stands for its items.
    ///
    /// # Errors
    /// The first name that the plan does not have.
    pub fn only(&self, names: &[String]) -> Result<Plan, UnknownName> {
        let mut keep = vec![false; self.instances.len()];
        let mut items: BTreeSet<&str> = BTreeSet::new();
        for name in names {
            let within = format!("{name}.");
            let known = items.len();
            let named = self.items.iter().filter(|i| i.name == *name || i.name.starts_with(&within));
            items.extend(named.map(|i| i.name.as_str()));
            let mut found = items.len() > known || items.contains(name.as_str());
            for (n, _) in self.instances.iter().enumerate().filter(|(_, i)| i.is_called(name)) {
                keep[n] = true;
                found = true;
            }
            for output in self.outputs.iter().filter(|o| o.name == *name) {
                output.value.each_output(&mut |n| keep[n as usize] = true);
                found = true;
            }
            if !found {
                return Err(UnknownName(name.clone()));
            }
        }
        for (n, i) in self.instances.iter().enumerate() {
            keep[n] |= items.contains(self.items[i.item as usize].name.as_str());
        }
        Ok(self.kept(keep, &items))
    }

    /// The names that [`Plan::only`] knows: items, outputs, modules.
    pub fn names(&self) -> BTreeSet<&str> {
        let modules = self.items.iter().filter_map(|i| i.name.rsplit_once('.').map(|(m, _)| m));
        let items = self.items.iter().map(|i| i.name.as_str());
        items.chain(modules).chain(self.outputs.iter().map(|o| o.name.as_str())).collect()
    }

    /// The plan of the marked instances, and what they need; `wanted` items stay where they have none.
    fn kept(&self, mut keep: Vec<bool>, wanted: &BTreeSet<&str>) -> Plan {
        // Inputs come before their users: one pass from the end reaches everything.
        for n in (0..self.instances.len()).rev() {
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

/// A name that a plan does not have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the pipeline has no stage, output or module `{0}`")]
pub struct UnknownName(pub String);

/// New numbers of the nodes that are kept.
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
