//! Expressions: operands joined by the binding of their operators.

use headstart_protocol::expr::CompareOp;

use super::builder::{Builder, P, only, parts};
use super::diagnostics;
use super::rules::Rule;
use super::tokens::MAX_DEPTH;
use crate::ast::{Expr, ExprKind};
use crate::span::Span;

impl Builder {
    pub(super) fn expr(&mut self, pair: P<'_>) -> Expr {
        let mut first = None;
        let mut rest: Vec<(P<'_>, Operand)> = Vec::new();
        let mut op = None;
        for p in parts(pair) {
            match (p.as_rule() == Rule::operand, op.take()) {
                (true, None) => first = Some(self.operand(p)),
                (true, Some(op)) => rest.push((op, self.operand(p))),
                (false, _) => op = Some(p),
            }
        }
        let first = first.expect("an expression has an operand");
        if rest.is_empty() {
            return self.negated(first.nots, first.value);
        }
        self.joined(first, rest)
    }

    /// Joins operands by the binding of their operators, loosest first.
    fn joined(&mut self, first: Operand, rest: Vec<(P<'_>, Operand)>) -> Expr {
        let mut all = Vec::new();
        let mut current = vec![];
        let mut head = first;
        for (op, operand) in rest {
            if op.as_rule() == Rule::kw_or {
                let done = std::mem::replace(&mut head, operand);
                all.push(self.compared(done, std::mem::take(&mut current)));
            } else {
                if let Some(not) = operand.nots.first() {
                    self.diags.push(diagnostics::inner_not(*not));
                }
                current.push((op, operand.value));
            }
        }
        all.push(self.compared(head, current));
        flat(all, ExprKind::Or)
    }

    /// `not`s, then at most one comparison of two sums.
    fn compared(&mut self, head: Operand, rest: Vec<(P<'_>, Expr)>) -> Expr {
        let mut sides = vec![(None, head.value, Vec::new())];
        for (op, e) in rest {
            if op.as_rule() == Rule::compare_op {
                sides.push((Some(op), e, Vec::new()));
            } else if let Some((.., side)) = sides.last_mut() {
                side.push((op.as_rule(), e));
            }
        }
        if let Some((Some(op), ..)) = sides.get(2) {
            self.diags.push(diagnostics::chained_comparison(self.span(op)));
        }
        let mut sides = sides.into_iter().map(|(op, e, rest)| (op, sum(e, rest)));
        let (_, mut left) = sides.next().expect("there is a first side");
        if let Some((Some(op), right)) = sides.next() {
            let span = left.span.to(right.span);
            let kind = ExprKind::Compare(Box::new(left), compare_op(op.as_str()), Box::new(right));
            left = Expr { kind, span };
        }
        self.negated(head.nots, left)
    }

    fn negated(&mut self, nots: Vec<Span>, inner: Expr) -> Expr {
        self.prefixed(nots, inner, ExprKind::Not)
    }

    /// Wraps an expression in prefix operators, innermost last.
    fn prefixed(&mut self, ops: Vec<Span>, inner: Expr, wrap: fn(Box<Expr>) -> ExprKind) -> Expr {
        if ops.len() > MAX_DEPTH {
            self.diags.push(diagnostics::too_deep_diagnostic(ops[0], MAX_DEPTH));
            return Expr { kind: ExprKind::Bad, span: inner.span };
        }
        ops.into_iter().rev().fold(inner, |e, op| {
            let span = op.to(e.span);
            Expr { kind: wrap(Box::new(e)), span }
        })
    }

    fn operand(&mut self, pair: P<'_>) -> Operand {
        let (mut nots, mut signs) = (Vec::new(), Vec::new());
        let mut value: Option<Expr> = None;
        for (depth, p) in parts(pair).enumerate() {
            match p.as_rule() {
                Rule::kw_not => {
                    if let Some(sign) = signs.first() {
                        self.diags.push(diagnostics::inner_not(*sign));
                    }
                    nots.push(self.span(&p));
                }
                Rule::minus => signs.push(self.span(&p)),
                Rule::field | Rule::element => {
                    let of = value.take().expect("a field follows a value");
                    value = Some(self.part(of, p, depth));
                }
                _ => value = Some(self.primary(p)),
            }
        }
        let value = value.expect("an operand has a value");
        Operand { nots, value: self.prefixed(signs, value, ExprKind::Minus) }
    }

    /// `of.name` or `of[key]`.
    fn part(&mut self, of: Expr, p: P<'_>, depth: usize) -> Expr {
        let span = of.span.to(self.span(&p));
        if depth >= MAX_DEPTH {
            if depth == MAX_DEPTH {
                self.diags.push(diagnostics::too_deep_diagnostic(self.span(&p), MAX_DEPTH));
            }
            return Expr { kind: ExprKind::Bad, span };
        }
        let is_field = p.as_rule() == Rule::field;
        let inner = only(p);
        let kind = if is_field {
            ExprKind::Field(Box::new(of), self.name(&inner))
        } else {
            ExprKind::Element(Box::new(of), Box::new(self.expr(inner)))
        };
        Expr { kind, span }
    }
}

/// An operand, and the `not`s in front of it, which bind looser than what follows.
struct Operand {
    nots: Vec<Span>,
    value: Expr,
}

/// Products, of joined paths where there are any, added up.
fn sum(first: Expr, rest: Vec<(Rule, Expr)>) -> Expr {
    let mut terms = vec![(false, vec![vec![first]])];
    for (op, e) in rest {
        let last = terms.last_mut().map(|(_, factors)| factors);
        match (op, last) {
            (Rule::slash, Some(factors)) => match factors.last_mut() {
                Some(parts) => parts.push(e),
                None => factors.push(vec![e]),
            },
            (Rule::times, Some(factors)) => factors.push(vec![e]),
            (op, _) => terms.push((op == Rule::minus, vec![vec![e]])),
        }
    }
    let product = |factors: Vec<Vec<Expr>>| {
        flat(factors.into_iter().map(|parts| flat(parts, ExprKind::Join)).collect(), ExprKind::Product)
    };
    let mut terms: Vec<(bool, Expr)> =
        terms.into_iter().map(|(minus, factors)| (minus, product(factors))).collect();
    if terms.len() == 1 {
        return terms.remove(0).1;
    }
    let span = terms[0].1.span.to(terms[terms.len() - 1].1.span);
    Expr { kind: ExprKind::Sum(terms), span }
}

/// One expression as it is, several as a chain.
fn flat(mut all: Vec<Expr>, chain: fn(Vec<Expr>) -> ExprKind) -> Expr {
    if all.len() == 1 {
        return all.remove(0);
    }
    let span = all[0].span.to(all[all.len() - 1].span);
    Expr { kind: chain(all), span }
}

fn compare_op(text: &str) -> CompareOp {
    match text {
        "<" => CompareOp::Lt,
        "<=" => CompareOp::Le,
        ">" => CompareOp::Gt,
        ">=" => CompareOp::Ge,
        "==" => CompareOp::Eq,
        _ => CompareOp::Ne,
    }
}
