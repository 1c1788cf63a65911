//! Who refers to whom: the order of items, cycles, and what nothing uses.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use headstart_protocol::kinds::Accepts;
use petgraph::Direction;
use petgraph::graph::{DiGraph, NodeIndex};
use petgraph::visit::EdgeRef;

use super::{Checker, Entity};
use crate::ast::{self, Expr, ExprKind};
use crate::codes::{Code, Severity};
use crate::diagnostic::Diagnostic;
use crate::span::Span;

/// How many modules a reference may lead through.
const MAX_HOPS: usize = 64;

/// Collects the items that expressions refer to.
struct Refs<'a> {
    bound: &'a [ast::Binding],
    out: Vec<(usize, Span)>,
    /// How many modules led here.
    hops: usize,
    /// Whether it went in circles: then nothing more is followed.
    circular: bool,
}

/// What a name or `module.name` stands for.
pub(super) enum Found {
    Entity(Entity),
    /// An output of a module: the scope and its number.
    Output(usize, usize),
    /// The module has no such name.
    Missing(usize),
}

impl Checker<'_> {
    /// The module that an expression names, if it names one.
    pub(super) fn module(&self, scope: usize, e: &Expr) -> Option<usize> {
        let entity = match &e.kind {
            ExprKind::Name(n) => self.scopes[scope].names.get(n),
            ExprKind::Field(of, n) => self.scopes[self.module(scope, of)?].names.get(&n.text),
            _ => None,
        };
        match entity {
            Some((Entity::Module(m), _)) => Some(*m),
            _ => None,
        }
    }

    /// What `name` means as a member of a module: an output first, then an item.
    pub(super) fn member(&self, module: usize, name: &str) -> Found {
        let scope = &self.scopes[module];
        if let Some(n) = scope.outputs.iter().position(|o| o.name.text == name) {
            return Found::Output(module, n);
        }
        match scope.names.get(name) {
            Some((e, _)) => Found::Entity(*e),
            None => Found::Missing(module),
        }
    }

    fn refs(&mut self, scope: usize, e: &Expr, r: &mut Refs<'_>) {
        match &e.kind {
            ExprKind::Name(n) => {
                if !r.bound.iter().any(|b| b.name.text == *n)
                    && let Some((entity, _)) = self.scopes[scope].names.get(n)
                {
                    self.met(*entity, e.span, r);
                }
            }
            ExprKind::Field(of, name) => match self.module(scope, of) {
                Some(m) => {
                    self.mark_modules(scope, of);
                    match self.member(m, &name.text) {
                        Found::Entity(entity) => self.met(entity, e.span, r),
                        Found::Output(m, n) => {
                            let value = self.scopes[m].outputs[n].value.clone();
                            self.follow(m, &value, e.span, r);
                        }
                        Found::Missing(_) => {}
                    }
                }
                None => self.refs(scope, of, r),
            },
            ExprKind::Element(a, b) | ExprKind::Compare(a, _, b) => {
                self.refs(scope, a, r);
                self.refs(scope, b, r);
            }
            ExprKind::List(all) | ExprKind::Or(all) | ExprKind::Product(all) | ExprKind::Join(all) => {
                all.iter().for_each(|e| self.refs(scope, e, r));
            }
            ExprKind::Sum(all) => all.iter().for_each(|(_, e)| self.refs(scope, e, r)),
            ExprKind::Paren(e) | ExprKind::Not(e) | ExprKind::Minus(e) => self.refs(scope, e, r),
            ExprKind::Call(call) => {
                for (n, arg) in call.args.iter().enumerate() {
                    self.arg_refs(scope, call, n, arg, r);
                }
            }
            ExprKind::Text(_) | ExprKind::Number(..) | ExprKind::Bool(_) | ExprKind::Bad => {}
        }
    }

    /// Bare words and the metric of a condition are no references.
    fn arg_refs(&mut self, scope: usize, call: &ast::Call, n: usize, arg: &ast::Arg, r: &mut Refs<'_>) {
        let accepts = self.scopes[scope].kinds.find(&call.name.text).and_then(|k| match &arg.name {
            Some(name) => k.args.iter().find(|a| a.name == name.text),
            None => k.args.get(n),
        });
        for a in accepts.iter().flat_map(|a| &a.accepts) {
            match (a, &arg.value.bare().kind) {
                (Accepts::Word(words), ExprKind::Name(w)) if words.contains(w) => return,
                (Accepts::Condition, ExprKind::Compare(_, _, bound)) => {
                    return self.refs(scope, bound, r);
                }
                _ => {}
            }
        }
        self.refs(scope, &arg.value, r);
    }

    fn mark_modules(&mut self, scope: usize, e: &Expr) {
        if let Some(m) = self.module(scope, e) {
            self.scopes[m].used = true;
        }
        if let ExprKind::Field(of, _) = &e.kind {
            self.mark_modules(scope, of);
        }
    }

    fn met(&mut self, entity: Entity, span: Span, r: &mut Refs<'_>) {
        match entity {
            Entity::Item(i) => r.out.push((i, span)),
            Entity::Param(p) => {
                self.use_param(p);
                if let Some((scope, value)) = self.params[p].arg.clone() {
                    self.follow(scope, &value, span, r);
                }
            }
            Entity::Module(m) => self.scopes[m].used = true,
            Entity::Program(_) | Entity::Bad => {}
        }
    }

    /// Marks a parameter as used, and those that its default names.
    fn use_param(&mut self, p: usize) {
        if std::mem::replace(&mut self.params[p].used, true) {
            return;
        }
        let (scope, param) = (self.params[p].scope, self.params[p].ast.clone());
        if let Some(default) = &param.default {
            // A default refers to no items; what it refers to needs no order.
            self.refs(scope, default, &mut Refs { bound: &[], out: Vec::new(), hops: 0, circular: false });
        }
    }

    /// Continues in another file; references found there count as made at `span`.
    fn follow(&mut self, scope: usize, value: &Expr, span: Span, r: &mut Refs<'_>) {
        if r.circular {
            return;
        }
        if r.hops >= MAX_HOPS {
            r.circular = true;
            let d = Diagnostic::new(Code::E0401, "modules define each other in a cycle");
            self.report(d.at(span, "leads through the same modules again and again"));
            return;
        }
        let mut inner = Refs { bound: &[], out: Vec::new(), hops: r.hops + 1, circular: false };
        self.refs(scope, value, &mut inner);
        r.circular = inner.circular;
        r.out.extend(inner.out.into_iter().map(|(i, _)| (i, span)));
    }

    /// The items that some expressions refer to, each once, with its first place.
    pub(super) fn references(
        &mut self,
        scope: usize,
        bound: &[ast::Binding],
        exprs: &[&Expr],
    ) -> Vec<(usize, Span)> {
        let mut r = Refs { bound, out: Vec::new(), hops: 0, circular: false };
        for e in exprs {
            self.refs(scope, e, &mut r);
        }
        let mut seen = std::collections::HashSet::new();
        r.out.retain(|(i, _)| seen.insert(*i));
        r.out
    }

    /// Every item after those that it refers to, otherwise in file order. Reports cycles.
    pub(super) fn order(&mut self) -> Vec<usize> {
        for i in 0..self.items.len() {
            let (scope, d) = (self.items[i].scope, self.items[i].decl.clone());
            let mut exprs: Vec<&Expr> = d.bindings.iter().map(|b| &b.list).collect();
            exprs.extend([Some(&d.value), d.on.as_ref(), d.when.as_ref()].into_iter().flatten());
            // A binding's list does not see the variables: they come after it.
            let lists = self.references(scope, &[], &exprs[..d.bindings.len()]);
            let mut found = self.references(scope, &d.bindings, &exprs[d.bindings.len()..]);
            let settings: Vec<&Expr> =
                d.settings.iter().flat_map(|b| &b.settings).map(|s| &s.value).collect();
            found.extend(self.references(scope, &d.bindings, &settings));
            let mut all = lists;
            for f in found {
                if all.iter().all(|(i, _)| *i != f.0) {
                    all.push(f);
                }
            }
            self.items[i].refs = all;
        }
        self.mark_used();
        let mut graph: DiGraph<usize, Span> = DiGraph::new();
        let nodes: Vec<NodeIndex> = (0..self.items.len()).map(|i| graph.add_node(i)).collect();
        for (i, item) in self.items.iter().enumerate() {
            for (to, span) in &item.refs {
                graph.add_edge(nodes[*to], nodes[i], *span);
            }
        }
        for scc in petgraph::algo::tarjan_scc(&graph) {
            let looped = scc.len() > 1 || graph.find_edge(scc[0], scc[0]).is_some();
            if looped {
                self.report_cycle(&graph, &scc);
            }
        }
        file_order(&graph)
    }

    fn mark_used(&mut self) {
        let mut used: Vec<usize> = Vec::new();
        for (i, item) in self.items.iter().enumerate() {
            used.extend(item.refs.iter().map(|(to, _)| *to).filter(|to| *to != i));
        }
        for scope in 0..self.scopes.len() {
            for o in self.scopes[scope].outputs.clone() {
                used.extend(self.references(scope, &[], &[&o.value]).into_iter().map(|(i, _)| i));
            }
        }
        used.into_iter().for_each(|i| self.items[i].used = true);
    }

    /// Shows a shortest cycle through the first item of the component, every edge.
    fn report_cycle(&mut self, graph: &DiGraph<usize, Span>, scc: &[NodeIndex]) {
        let start = *scc.iter().min_by_key(|n| graph[**n]).expect("a component has an item");
        let mut from: BTreeMap<NodeIndex, (NodeIndex, Span)> = BTreeMap::new();
        let mut queue = std::collections::VecDeque::from([start]);
        // Follow uses: from an item to what it refers to.
        'search: while let Some(n) = queue.pop_front() {
            let mut edges: Vec<_> = graph.edges_directed(n, Direction::Incoming).collect();
            edges.sort_by_key(|e| graph[e.source()]);
            for e in edges {
                let next = e.source();
                if scc.contains(&next) && !from.contains_key(&next) {
                    from.insert(next, (n, *e.weight()));
                    if next == start {
                        break 'search;
                    }
                    queue.push_back(next);
                }
            }
        }
        let mut edges = Vec::new();
        let mut at = start;
        while let Some((user, span)) = from.get(&at) {
            edges.push((graph[*user], graph[at], *span));
            at = *user;
            if at == start {
                break;
            }
        }
        edges.reverse();
        let name = |i: usize| format!("`{}`", self.items[i].name);
        let path: Vec<String> =
            edges.iter().map(|(user, ..)| name(*user)).chain([name(graph[start])]).collect();
        let mut d = Diagnostic::new(Code::E0401, format!("{} depends on itself", name(graph[start])));
        for (n, (user, used, span)) in edges.iter().enumerate() {
            let text = format!("{} uses {}", name(*user), name(*used));
            d = if n == 0 { d.at(*span, text) } else { d.see(*span, text) };
        }
        self.report(d.note(format!("the cycle: {}", path.join(" → "))));
    }

    /// Warns of items, parameters and imports of the root file that nothing uses. Where there are
    /// errors they may well be the reason, so then it keeps quiet.
    pub(super) fn report_unused(&mut self) {
        if self.diags.iter().any(|d| d.severity == Severity::Error) {
            return;
        }
        let mut found = Vec::new();
        for (entity, span) in self.scopes[0].names.values() {
            found.extend(match entity {
                // The items of a module can be named from outside.
                Entity::Item(i) if !self.items[*i].used && self.open.is_empty() => {
                    let name = &self.items[*i].name;
                    let d = Diagnostic::new(Code::W0001, format!("`{name}` is never used"));
                    Some(d.at(*span, "").help(format!("add `output {name} = {name}`, or remove it")))
                }
                Entity::Param(p) if !self.params[*p].used => {
                    let name = &self.params[*p].ast.name.text;
                    let d = Diagnostic::new(Code::W0002, format!("the parameter `{name}` is never used"));
                    Some(d.at(*span, "").help("remove it"))
                }
                Entity::Program(p) if !self.programs[*p].used => {
                    let d = Diagnostic::new(Code::W0007, "this program is never used");
                    Some(d.at(*span, "").help("remove it"))
                }
                Entity::Module(m) if !self.scopes[*m].used => {
                    let d = Diagnostic::new(Code::W0003, "this import is never used");
                    Some(d.at(*span, "").help("remove it"))
                }
                _ => None,
            });
        }
        self.diags.extend(found);
    }
}

/// A topological order that keeps the order of the nodes where it can. Nodes of cycles, and what
/// follows from them, come last.
fn file_order(graph: &DiGraph<usize, Span>) -> Vec<usize> {
    let mut open: Vec<usize> =
        graph.node_indices().map(|n| graph.edges_directed(n, Direction::Incoming).count()).collect();
    let mut ready: BinaryHeap<Reverse<usize>> =
        (0..open.len()).filter(|n| open[*n] == 0).map(Reverse).collect();
    let mut out = Vec::with_capacity(open.len());
    while let Some(Reverse(n)) = ready.pop() {
        out.push(n);
        for to in graph.neighbors(NodeIndex::new(n)) {
            open[to.index()] -= 1;
            if open[to.index()] == 0 {
                ready.push(Reverse(to.index()));
            }
        }
    }
    out.extend((0..open.len()).filter(|n| open[*n] > 0));
    out
}
