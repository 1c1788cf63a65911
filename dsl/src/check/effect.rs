//! What has no effect: arguments that others switch off, and braces that look like templates.

use std::collections::BTreeMap;

use headstart_protocol::kinds::{DefaultValue, Kind, Need};
use headstart_protocol::{Type, Value};

use super::typed::TypedExprKind;
use super::{Checker, Ctx};
use crate::ast::{self, Name};
use crate::codes::Code;
use crate::diagnostic::Diagnostic;
use crate::span::Span;

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

    /// Reports a text with the name of something in braces, which stays as it is written.
    pub(super) fn report_braces(&mut self, ctx: &Ctx, text: &str, span: Span) {
        let Some(name) = braced(text).find(|name| self.is_in_scope(ctx, name)) else { return };
        let d = Diagnostic::new(Code::E0221, format!("`{{{name}}}` in a text is no template"))
            .at(span, format!("stays `{{{name}}}` as it is written"));
        self.report(d.help(template_help(text, name)));
    }

    /// The same for a text that stands for a path, where the name is of nothing in this file.
    pub(super) fn report_braces_in_path(&mut self, ctx: &Ctx, text: &str, span: Span) {
        let Some(name) = braced(text).next() else { return };
        if braced(text).any(|name| self.is_in_scope(ctx, name)) {
            return;
        }
        let d = Diagnostic::new(Code::E0221, format!("`{{{name}}}` in a path is no template"))
            .at(span, format!("stays `{{{name}}}` as it is written"));
        self.report(d.help(template_help(text, name)));
    }

    fn is_in_scope(&self, ctx: &Ctx, name: &str) -> bool {
        ctx.vars.iter().any(|v| v.name.text == name) || self.scopes[ctx.scope].names.contains_key(name)
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

/// Names in braces: the `m` of `models/{m}`.
fn braced(text: &str) -> impl Iterator<Item = &str> + Clone {
    text.split('{').skip(1).filter_map(|part| part.split_once('}')).map(|(name, _)| name).filter(|name| {
        name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.'))
    })
}

/// What to write instead of `models/{m}`.
fn template_help(text: &str, name: &str) -> String {
    match text.strip_suffix(&format!("/{{{name}}}")) {
        Some(folder) if !folder.contains('{') => {
            format!("declare `param folder: Path = {folder:?}`, and write `folder / {name}`")
        }
        _ => "join a path and a text with `/`, as in `folder / name`".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_braces_are_found() {
        let found = |text: &'static str| braced(text).collect::<Vec<_>>();
        assert_eq!(found("models/{m}/{a.b}.json"), ["m", "a.b"]);
        assert!(found("{}{1}{a b}{a-b}{").is_empty());
        assert_eq!(
            template_help("models/{m}", "m"),
            "declare `param folder: Path = \"models\"`, and write `folder / m`"
        );
    }
}
