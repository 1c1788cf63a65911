//! Outputs, and what they release from devices.

use headstart_protocol::Type;
use headstart_protocol::release::released_metric;

use super::lower::Lower;
use super::typed::{TypedExpr, TypedExprKind};
use super::{Checker, Ctx};
use crate::ast::{self, Expr, ExprKind};
use crate::codes::Code;
use crate::diagnostic::Diagnostic;
use crate::names::{self, with_article};
use crate::plan::Output;
use crate::span::Span;

impl Checker<'_> {
    /// The root file's outputs; those with errors left out.
    pub(super) fn outputs(&mut self) -> Vec<Output> {
        let all = self.scopes[0].outputs.clone();
        all.iter().filter_map(|o| self.output(o)).collect()
    }

    fn output(&mut self, o: &ast::Output) -> Option<Output> {
        let mut ctx = Ctx::new(0);
        let (value, release) = self.unwrap_release(&o.value)?;
        let typed = self.infer(&mut ctx, value)?;
        let private = self.private_uses(&ctx);
        let released = match (release, private.first().copied()) {
            (None, None) => false,
            (Some(span), None) => {
                if ctx.uses.iter().all(|(i, _)| self.items[*i].private.is_none()) {
                    let d =
                        Diagnostic::new(Code::W0005, "`release` has no effect: this value is not private");
                    self.report(d.at(span, "").help("remove `release`"));
                }
                false
            }
            // What a module makes stays where it is until another file outputs it.
            (None, Some(_)) if !self.open.is_empty() => false,
            (None, Some((item, span))) => {
                self.not_released(&typed, item, span);
                return None;
            }
            (Some(_), Some((item, span))) => {
                self.release(&typed, item, span)?;
                true
            }
        };
        let value = Lower { checker: self, vars: &[], at: &[], device: false }.expr(&typed.kind);
        Some(Output { name: o.name.text.clone(), doc: o.doc.clone(), value, ty: typed.ty, released })
    }

    /// The content of `release(…)`, and its place.
    pub(super) fn unwrap_release<'e>(&mut self, e: &'e Expr) -> Option<(&'e Expr, Option<Span>)> {
        let ExprKind::Call(call) = &e.bare().kind else { return Some((e, None)) };
        if call.name.text != "release" {
            return Some((e, None));
        }
        match call.args.as_slice() {
            [one] if one.name.is_none() => Some((&one.value, Some(e.span))),
            _ => {
                let d = Diagnostic::new(Code::E0503, "`release` takes one value").at(e.span, "");
                self.report(d.help("write `release(name)` or `release(name.field)`"));
                None
            }
        }
    }

    fn not_released(&mut self, typed: &TypedExpr, item: usize, span: Span) {
        let device = self.items[item].private.as_ref().map(|p| p.device.clone()).unwrap_or_default();
        let d = Diagnostic::new(Code::E0502, format!("this output would leave `{device}` without `release`"))
            .at(span, format!("private to `{device}`"));
        let d = self.private_origin(d, item).note(self.flow_note(item));
        let d = if typed.ty.releasable() {
            d.help(format!("write `release({})` if it may leave", self.sources.text(typed.span)))
        } else {
            d.help(format!(
                "{} never leaves its device; output numbers of it instead",
                with_article(&typed.ty)
            ))
        };
        self.report(d);
    }

    /// Notes on the instances what is released of them.
    fn release(&mut self, typed: &TypedExpr, item: usize, span: Span) -> Option<()> {
        if !typed.ty.releasable() {
            let d =
                Diagnostic::new(Code::E0503, format!("{} can never be released", with_article(&typed.ty)))
                    .at(span, format!("{} of private data", with_article(&typed.ty)));
            let d = self.private_origin(d, item).note(self.flow_note(item));
            let d = d.note(
                "texts and per-prompt vectors stay; metrics, a selection, a mix and a pLLM may be released",
            );
            self.report(d.help("release metrics of it, or leave the output out"));
            return None;
        }
        let mut parts = Vec::new();
        if self.parts(&typed.kind, &mut Vec::new(), &mut parts).is_none() {
            let d = Diagnostic::new(Code::E0503, "only a value or a field of it can be released")
                .at(typed.span, format!("{}, computed from private values", with_article(&typed.ty)));
            self.report(d.help("release the value itself, as in `release(tuned.metrics)`"));
            return None;
        }
        for (n, path) in &parts {
            if let Some(d) = self.undeclared_metric(*n, path, typed.span) {
                self.report(d);
                return None;
            }
        }
        for (n, path) in parts {
            let i = &mut self.instances[n as usize];
            if i.private_to.is_some() && !i.release.contains(&path) {
                i.release.push(path);
            }
        }
        Some(())
    }

    /// A released metric that the stage does not declare.
    fn undeclared_metric(&self, instance: u32, path: &[String], span: Span) -> Option<Diagnostic> {
        let item = &self.items[self.instances[instance as usize].item as usize];
        let (kind, ty) = (item.kind.as_ref()?, item.ty.as_ref()?);
        let is_custom = kind.name.contains('.');
        let whole = match (ty.present(), path) {
            (Type::Metrics, []) => true,
            (Type::Pllm, [metrics]) => metrics == "metrics",
            _ => false,
        };
        let bounded: Vec<&str> =
            kind.metrics.iter().filter(|m| m.bounds.is_some()).map(|m| m.name.as_str()).collect();
        let help = match (bounded.as_slice(), is_custom) {
            ([], true) => {
                "declare them with their bounds in the program: `metrics=[headstart.Number(\"mean\", 0, 100)]`"
                    .to_owned()
            }
            ([], false) => "release the metrics of another stage".to_owned(),
            (some, _) => format!("it declares {}", names::quoted(some.iter().copied(), "and")),
        };
        if whole && bounded.is_empty() {
            let m = format!("`{}` declares no metrics that could be released", kind.name);
            return Some(Diagnostic::new(Code::E0510, m).at(span, "metrics under unknown names").help(help));
        }
        let metric = released_metric(ty, path)?;
        if bounded.contains(&metric) {
            return None;
        }
        let d = match kind.metrics.iter().any(|m| m.name == metric) {
            true => format!("`{}` declares the metric `{metric}` without bounds", kind.name),
            false => format!("`{}` does not declare a metric `{metric}`", kind.name),
        };
        Some(Diagnostic::new(Code::E0510, d).at(span, "cannot be released").help(help))
    }

    /// The instances and field paths that a value consists of.
    fn parts(
        &self,
        t: &TypedExprKind,
        fields: &mut Vec<String>,
        out: &mut Vec<(u32, Vec<String>)>,
    ) -> Option<()> {
        let path = || fields.iter().rev().cloned().collect::<Vec<_>>();
        match t {
            TypedExprKind::Item(i) => out.extend(self.items[*i].instances.clone().map(|n| (n, path()))),
            TypedExprKind::Instance(n) => out.push((*n, path())),
            TypedExprKind::All(i) => out.extend(self.items[*i].keys.iter().map(|(_, n)| (*n, path()))),
            TypedExprKind::Field(of, name) => {
                fields.push(name.clone());
                self.parts(of, fields, out)?;
                fields.pop();
            }
            TypedExprKind::Or(all) => all.iter().try_for_each(|t| self.parts(t, fields, out))?,
            TypedExprKind::List(all) => all.iter().try_for_each(|(_, t)| self.parts(t, fields, out))?,
            TypedExprKind::Const(_) | TypedExprKind::Path(_) | TypedExprKind::Open => {}
            _ => return None,
        }
        Some(())
    }

    /// The items that an output of the root file names, for schedules.
    pub(super) fn output_items(&mut self, name: &str) -> Option<Vec<usize>> {
        let o = self.scopes[0].outputs.iter().find(|o| o.name.text == name)?.clone();
        Some(self.references(0, &[], &[&o.value]).into_iter().map(|(i, _)| i).collect())
    }
}
