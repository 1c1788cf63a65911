//! From resolved expressions to those of the plan, one instance at a time.

use std::collections::BTreeMap;

use headstart_protocol::kinds::Kind;
use headstart_protocol::{Expr, Type, Value};

use super::Checker;
use super::typed::{Term, TypedExprKind, Var};
use crate::codes::Code;
use crate::diagnostic::Diagnostic;
use crate::loader;
use crate::span::Span;

/// Arguments that say what a result is based on, the most telling first.
const LINEAGE: &[&str] = &["base", "from", "model", "mix", "responses", "against", "divergences", "catalog"];

/// One instance's view: the loop variables' current elements.
pub(super) struct Lower<'a, 'l> {
    pub checker: &'a Checker<'l>,
    pub vars: &'a [Var],
    /// For each variable, which element.
    pub at: &'a [usize],
    /// Whether the instance is placed on a device: paths then stay as written.
    pub device: bool,
}

impl Lower<'_, '_> {
    /// The expression for this instance.
    pub fn expr(&self, t: &TypedExprKind) -> Expr {
        match t {
            TypedExprKind::Const(v) => Expr::value(v.clone()),
            // There will be no plan.
            TypedExprKind::Open => Expr::value(Value::Absent),
            TypedExprKind::Path(p) => {
                let path = if self.device { &p.written } else { &p.resolved };
                Expr::value(Value::Path(path.to_string()))
            }
            TypedExprKind::Item(i) => match self.checker.items[*i].instances.clone().next() {
                Some(instance) => Expr::Output { instance },
                // Has an error that is reported; there will be no plan.
                None => Expr::value(Value::Absent),
            },
            TypedExprKind::Instance(n) => Expr::Output { instance: *n },
            TypedExprKind::All(i) => {
                let keys = self.checker.items[*i].keys.iter();
                let items = keys.map(|(k, n)| (k.clone(), Expr::Output { instance: *n })).collect();
                Expr::List { items }
            }
            TypedExprKind::Key(i, v) => match self.checker.items[*i].by_key.get(&self.element(*v).0) {
                Some(n) => Expr::Output { instance: *n },
                None => Expr::value(Value::Absent),
            },
            TypedExprKind::Var(v) => self.expr(&self.element(*v).1),
            TypedExprKind::Float(t) => float(self.expr(t)),
            TypedExprKind::ToPath(dir, t) => self.path(dir, self.expr(t)),
            TypedExprKind::Join(of, part) => joined(self.expr(of), &self.expr(part)),
            TypedExprKind::Field(of, name) => Expr::Field { of: Box::new(self.expr(of)), name: name.clone() },
            TypedExprKind::Or(all) => {
                let mut all: Vec<Expr> = all.iter().map(|t| self.expr(t)).collect();
                let last = all.pop().unwrap_or(Expr::value(Value::Absent));
                all.into_iter()
                    .rev()
                    .fold(last, |second, first| Expr::Or { first: Box::new(first), second: Box::new(second) })
            }
            TypedExprKind::Not(of) => Expr::Not { of: Box::new(self.expr(of)) },
            TypedExprKind::Compare(op, l, r) => {
                Expr::Compare { op: *op, left: Box::new(self.expr(l)), right: Box::new(self.expr(r)) }
            }
            TypedExprKind::List(items) => {
                let items: Vec<_> = items.iter().map(|(k, t)| (k.clone(), self.expr(t))).collect();
                constant_list(items)
            }
            TypedExprKind::Mix(terms) => self.mix(terms),
        }
    }

    /// Whether an argument is known to be absent, and so left out.
    pub fn absent(&self, e: &Expr) -> bool {
        matches!(e, Expr::Value { value: Value::Absent })
    }

    fn element(&self, v: usize) -> &(String, TypedExprKind) {
        &self.vars[v].elements[self.at[v]]
    }

    fn path(&self, dir: &str, e: Expr) -> Expr {
        match e {
            Expr::Value { value: Value::Text(t) } => {
                Expr::value(Value::Path(if self.device { t } else { loader::join(dir, &t) }))
            }
            other => other,
        }
    }

    fn mix(&self, terms: &[Term]) -> Expr {
        let mut out: Vec<(f64, String, Expr)> = Vec::with_capacity(terms.len());
        for term in terms {
            let weight = term.factors.iter().fold(term.sign, |w, t| w * self.number(t));
            let mut name = match &term.pllm {
                TypedExprKind::Var(v) | TypedExprKind::Key(_, v) => self.element(*v).0.clone(),
                _ => term.name.clone(),
            };
            let pllm = self.expr(&term.pllm);
            // Two elements of one key: then the full name.
            if out.iter().any(|(_, n, _)| *n == name)
                && let Expr::Output { instance } = &pllm
            {
                name = self.checker.instances[*instance as usize].name.clone();
            }
            out.push((weight, name, pllm));
        }
        Expr::Mix { terms: out }
    }

    fn number(&self, t: &TypedExprKind) -> f64 {
        match self.expr(t) {
            Expr::Value { value: Value::Int(i) } => i as f64,
            Expr::Value { value: Value::Float(x) } => x,
            // Only numbers are taken as weights.
            _ => f64::NAN,
        }
    }

    /// A diagnostic where the pLLMs of a mix are of different bases.
    pub fn base_clash(&self, t: &TypedExprKind) -> Option<(Span, Diagnostic)> {
        let TypedExprKind::Mix(terms) = t else { return None };
        let mut first: Option<(u32, Span)> = None;
        for term in terms {
            let Some(base) = self.checker.base_of(&self.expr(&term.pllm)) else { continue };
            match first {
                None => first = Some((base, term.span)),
                Some((other, span)) if other != base => {
                    let name = |n: u32| &self.checker.instances[n as usize].name;
                    let d = Diagnostic::new(Code::E0210, "the pLLMs of a mix must have the same base")
                        .at(term.span, format!("its base is `{}`", name(base)))
                        .see(span, format!("its base is `{}`", name(other)))
                        .help("mix only pLLMs that were made from the same model");
                    return Some((term.span, d));
                }
                Some(_) => {}
            }
        }
        None
    }
}

fn float(e: Expr) -> Expr {
    match e {
        Expr::Value { value: Value::Int(i) } => Expr::value(Value::Float(i as f64)),
        other => other,
    }
}

/// Both sides are known at check time: no stage makes a path or a text.
fn joined(of: Expr, part: &Expr) -> Expr {
    match (of, part) {
        (Expr::Value { value: Value::Path(p) }, Expr::Value { value: Value::Text(t) }) => {
            Expr::value(Value::Path(loader::join(&p, t)))
        }
        (of, _) => of,
    }
}

/// A list whose elements are all known is itself a value.
fn constant_list(items: Vec<(String, Expr)>) -> Expr {
    if !items.iter().all(|(_, e)| matches!(e, Expr::Value { .. })) {
        return Expr::List { items };
    }
    let values = items.into_iter().filter_map(|(k, e)| match e {
        Expr::Value { value } => Some((k, value)),
        _ => None,
    });
    Expr::value(Value::List(values.collect()))
}

impl Checker<'_> {
    /// The model that an instance is, or is based on, as far as the file tells.
    pub(super) fn base(
        &self,
        kind: Option<&Kind>,
        number: u32,
        args: &BTreeMap<String, Expr>,
    ) -> Option<u32> {
        if kind?.returns == Type::Model {
            return Some(number);
        }
        LINEAGE.iter().find_map(|name| self.base_of(args.get(*name)?))
    }

    fn base_of(&self, e: &Expr) -> Option<u32> {
        match e {
            Expr::Output { instance } => self.bases.get(*instance as usize).copied().flatten(),
            Expr::Field { of, .. } => self.base_of(of),
            Expr::Or { first, second } => {
                let first = self.base_of(first)?;
                (self.base_of(second)? == first).then_some(first)
            }
            Expr::List { items } => self.common_base(items.iter().map(|(_, e)| e)),
            Expr::Mix { terms } => self.common_base(terms.iter().map(|(.., e)| e)),
            Expr::Value { .. } | Expr::Compare { .. } | Expr::Not { .. } => None,
        }
    }

    fn common_base<'e>(&self, mut all: impl Iterator<Item = &'e Expr>) -> Option<u32> {
        let first = self.base_of(all.next()?)?;
        all.all(|e| self.base_of(e) == Some(first)).then_some(first)
    }
}
