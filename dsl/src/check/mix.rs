//! Signed numbers, and mixes: weights times pLLMs.

use headstart_protocol::{Type, Value};

use super::typed::{Term, TypedExpr, TypedExprKind};
use super::{Checker, Ctx};
use crate::ast::{Expr, ExprKind};
use crate::codes::Code;
use crate::diagnostic::Diagnostic;
use crate::names::with_article;

impl Checker<'_> {
    /// `-3`, or a mix such as `0.6 * a + 0.4 * b`.
    pub(super) fn arithmetic(&mut self, ctx: &mut Ctx, e: &Expr) -> Option<TypedExpr> {
        if let ExprKind::Minus(inner) = &e.kind
            && let ExprKind::Number(..) = &inner.bare().kind
        {
            let typed = self.infer(ctx, inner)?;
            let value = match typed.kind {
                TypedExprKind::Const(Value::Int(i)) => Value::Int(-i),
                TypedExprKind::Const(Value::Float(x)) => Value::Float(-x),
                _ => {
                    let d = Diagnostic::new(Code::E0201, "this cannot be negative");
                    self.report(d.at(e.span, format!("a negative {}", typed.ty)));
                    return None;
                }
            };
            return Some(TypedExpr { kind: TypedExprKind::Const(value), span: e.span, ..typed });
        }
        let mut terms = Vec::new();
        let ok = self.terms(ctx, e, 1.0, &[], &mut terms);
        let t = TypedExprKind::Mix(terms);
        ok.then_some(TypedExpr { kind: t, ty: Type::Mix, span: e.span, literal: false })
    }

    /// Collects the terms of `sign * factors * e`. False where an error is reported.
    fn terms(
        &mut self,
        ctx: &mut Ctx,
        e: &Expr,
        sign: f64,
        factors: &[TypedExprKind],
        out: &mut Vec<Term>,
    ) -> bool {
        match &e.kind {
            ExprKind::Paren(inner) => self.terms(ctx, inner, sign, factors, out),
            ExprKind::Minus(inner) => self.terms(ctx, inner, -sign, factors, out),
            ExprKind::Sum(all) => {
                let mut ok = true;
                // Every term is checked, so that every error is reported.
                for (minus, e) in all {
                    ok &= self.terms(ctx, e, if *minus { -sign } else { sign }, factors, out);
                }
                ok
            }
            ExprKind::Product(all) => self.product(ctx, e, all, sign, factors, out),
            _ => {
                let Some(typed) = self.infer(ctx, e) else { return false };
                let Some(typed) = self.plain(typed) else { return false };
                if typed.ty != Type::Pllm {
                    self.not_a_term(&typed);
                    return false;
                }
                let name = self.term_name(ctx, e, &typed.kind);
                out.push(Term { sign, factors: factors.to_vec(), pllm: typed.kind, name, span: e.span });
                true
            }
        }
    }

    fn product(
        &mut self,
        ctx: &mut Ctx,
        whole: &Expr,
        all: &[Expr],
        mut sign: f64,
        factors: &[TypedExprKind],
        out: &mut Vec<Term>,
    ) -> bool {
        let mut factors = factors.to_vec();
        let mut rest: Option<&Expr> = None;
        for e in all {
            let mut inner = e.bare();
            while let ExprKind::Minus(i) = &inner.kind {
                sign = -sign;
                inner = i.bare();
            }
            match self.weight(ctx, inner) {
                Some(w) => factors.push(w),
                None if rest.is_none() => rest = Some(inner),
                None => {
                    let d = Diagnostic::new(Code::E0209, "a term of a mix must be numbers times one pLLM");
                    self.report(d.at(whole.span, "more than one factor is no number"));
                    return false;
                }
            }
        }
        match rest {
            Some(e) => self.terms(ctx, e, sign, &factors, out),
            None => {
                let d = Diagnostic::new(Code::E0209, "numbers can only be multiplied with pLLMs");
                self.report(d.at(whole.span, "no pLLM in this term").help("write `0.6 * name`"));
                false
            }
        }
    }

    /// A number known at check time, or one that a loop variable gives.
    fn weight(&mut self, ctx: &mut Ctx, e: &Expr) -> Option<TypedExprKind> {
        let is_number = match &e.kind {
            ExprKind::Number(..) => true,
            ExprKind::Name(n) => match ctx.vars.iter().find(|v| v.name.text == *n) {
                Some(v) => matches!(v.ty, Type::Int | Type::Float),
                None => self.is_number_param(ctx.scope, n),
            },
            _ => false,
        };
        if !is_number {
            return None;
        }
        let typed = self.infer(ctx, e)?;
        match typed.ty {
            Type::Int | Type::Float => Some(typed.kind),
            _ => None,
        }
    }

    fn not_a_term(&mut self, typed: &TypedExpr) {
        let d = Diagnostic::new(Code::E0209, format!("a mix adds pLLMs, not {}", with_article(&typed.ty)));
        let d = d.at(typed.span, with_article(&typed.ty));
        let d = match typed.ty {
            Type::Int | Type::Float => d.help("a number is the weight of a pLLM: `0.6 * name`"),
            Type::Text | Type::Path => d.help("texts are written whole; `/` joins a path and a text"),
            Type::Mix => d.help("merge the mix first; the resulting pLLM can be mixed again"),
            Type::List(_) => d.help("take elements by their keys: `0.6 * list[\"key\"]`"),
            Type::Model => d.help("a mix weighs pLLMs, not their base"),
            _ => d,
        };
        self.report(d);
    }

    /// What a term is called: the key of its element, or what is written.
    fn term_name(&self, ctx: &Ctx, e: &Expr, t: &TypedExprKind) -> String {
        match t {
            TypedExprKind::Instance(n) => self.instances[*n as usize].key.clone().unwrap_or_default(),
            TypedExprKind::Item(i) => self.items[*i].name.clone(),
            TypedExprKind::Var(v) | TypedExprKind::Key(_, v) => format!("{{{}}}", ctx.vars[*v].name.text),
            _ => e.spelled(),
        }
    }
}
