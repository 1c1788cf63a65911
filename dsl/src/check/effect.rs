//! Arguments that have no effect, because others switch them off.

use std::collections::BTreeMap;

use headstart_protocol::kinds::{DefaultValue, Kind, Need};
use headstart_protocol::{Type, Value};

use super::typed::TypedExprKind;
use super::{Checker, Ctx};
use crate::ast::{self, Name};
use crate::codes::Code;
use crate::diagnostic::Diagnostic;

impl Checker<'_> {
    /// Reports arguments that are given and have no effect. `args` are those given and the defaults;
    /// whatever is known only later is taken to have one.
    pub(super) fn report_without_effect(
        &mut self,
        ctx: &Ctx,
        kind: &Kind,
        call: &ast::Call,
        given: &BTreeMap<&str, &Name>,
        args: &BTreeMap<String, TypedExprKind>,
    ) {
        for spec in &kind.args {
            let Some(place) = given.get(spec.name.as_str()) else { continue };
            let Some(need) = spec.needs.iter().find(|n| self.fails(ctx, kind, n, args)) else { continue };
            let message = format!("`{}` of `{}` has no effect here", spec.name, kind.name);
            let d = Diagnostic::new(Code::E0220, message).at(place.span, "has no effect");
            let d = match call.args.iter().find(|a| a.name.as_ref().is_some_and(|n| n.text == need.arg())) {
                Some(other) => d.see(other.value.span, format!("because `{}` is this", need.arg())),
                None => d,
            };
            let d = d.note(format!("it has an effect only where {}", need.describe()));
            self.report(d.help(format!("leave `{}` out", spec.name)));
        }
    }

    /// Whether it is known that a need is not met.
    fn fails(&self, ctx: &Ctx, kind: &Kind, need: &Need, args: &BTreeMap<String, TypedExprKind>) -> bool {
        let Some(other) = args.get(need.arg()) else {
            // One that is missing but required has a mistake that is reported already.
            return kind.arg(need.arg()).is_some_and(|a| a.default == DefaultValue::Absent);
        };
        match need {
            Need::Given(_) => false,
            Need::Word(_, words) => {
                all_known(ctx, other, &|v| matches!(v, Value::Text(t) if !words.contains(&t.as_str())))
            }
            Need::AboveZero(_) => all_known(ctx, other, &|v| match v {
                Value::Int(i) => *i <= 0,
                Value::Float(x) => *x <= 0.0,
                _ => false,
            }),
            Need::Of(_, types) => self.type_of_item(other).is_some_and(|ty| !types.contains(&ty)),
        }
    }

    /// The type of what an expression refers to, where it is an item.
    fn type_of_item(&self, t: &TypedExprKind) -> Option<Type> {
        let item = match t {
            TypedExprKind::Item(i) | TypedExprKind::Key(i, _) => *i,
            TypedExprKind::Instance(n) => self.instances.get(*n as usize)?.item as usize,
            _ => return None,
        };
        self.items[item].ty.as_ref().map(|ty| ty.present().clone())
    }
}

/// Whether all values that an expression can have are known, and like this.
fn all_known(ctx: &Ctx, t: &TypedExprKind, like: &dyn Fn(&Value) -> bool) -> bool {
    let one = |t: &TypedExprKind| matches!(t, TypedExprKind::Const(v) if like(v));
    match t {
        TypedExprKind::Var(v) => {
            let elements = &ctx.vars[*v].elements;
            !elements.is_empty() && elements.iter().all(|(_, t)| one(t))
        }
        TypedExprKind::Float(inner) => all_known(ctx, inner, like),
        t => one(t),
    }
}
