//! Arguments: what a kind accepts, and what is given.

use std::collections::BTreeMap;

use headstart_protocol::expr::Condition;
use headstart_protocol::kinds::{Accepts, Arg, DefaultValue, Kind};
use headstart_protocol::{Type, Value};

use super::typed::{OPEN, as_float, as_path, converts, text_of};
use super::typed::{TypedExpr, TypedExprKind};
use super::{Checker, Ctx};
use crate::ast::{self, Expr, ExprKind, Name};
use crate::codes::Code;
use crate::diagnostic::Diagnostic;
use crate::names;
use crate::names::with_article;

impl Checker<'_> {
    /// The arguments of a call, defaults filled in; absent ones and those with errors left out.
    pub(super) fn args(
        &mut self,
        ctx: &mut Ctx,
        kind: &Kind,
        call: &ast::Call,
    ) -> BTreeMap<String, TypedExprKind> {
        let mut given: BTreeMap<&str, &Name> = BTreeMap::new();
        let mut out = BTreeMap::new();
        for (n, arg) in call.args.iter().enumerate() {
            let Some(spec) = self.spec(kind, n, call) else { continue };
            let place = arg.name.as_ref().unwrap_or(&call.name);
            if let Some(first) = given.insert(&spec.name, place) {
                let d = Diagnostic::new(Code::E0105, format!("`{}` is given twice", spec.name))
                    .at(arg.name.as_ref().map_or(arg.value.span, |n| n.span), "given again");
                let d = if first.span == call.name.span {
                    d.see(call.args[0].value.span, format!("the first argument is `{}`", spec.name))
                } else {
                    d.see(first.span, "given here first")
                };
                self.report(d);
                continue;
            }
            if let Some(t) = self.argument(ctx, kind, spec, &arg.value) {
                out.insert(spec.name.clone(), t);
            }
        }
        self.report_missing(kind, call, &given);
        for spec in kind.args.iter().filter(|s| !given.contains_key(s.name.as_str())) {
            let value = match &spec.default {
                DefaultValue::Required | DefaultValue::Absent => continue,
                DefaultValue::Int(i) => Value::Int(*i),
                DefaultValue::Float(x) => Value::Float(*x),
                DefaultValue::Bool(b) => Value::Bool(*b),
                DefaultValue::Text(t) => Value::Text(t.clone()),
            };
            out.insert(spec.name.clone(), TypedExprKind::Const(value));
        }
        self.report_without_effect(ctx, kind, call, &given, &out);
        out
    }

    /// Which argument of the kind is meant.
    fn spec<'k>(&mut self, kind: &'k Kind, n: usize, call: &ast::Call) -> Option<&'k Arg> {
        let arg = &call.args[n];
        let Some(name) = &arg.name else {
            if n == 0 {
                return kind.args.first();
            }
            if let ExprKind::Bad = arg.value.kind {
                return None;
            }
            let d = Diagnostic::new(Code::E0107, "only the first argument may omit its name");
            let given = |a: &Arg| call.args.iter().any(|g| g.name.as_ref().is_some_and(|n| n.text == a.name));
            let free: Vec<&Arg> = kind.args.iter().skip(1).filter(|a| !given(a)).collect();
            let needed: Vec<&Arg> =
                free.iter().copied().filter(|a| a.default == DefaultValue::Required).collect();
            let d = d.at(arg.value.span, "which argument is this?");
            let start = crate::span::Span { end: arg.value.span.start, ..arg.value.span };
            let d = match (needed.as_slice(), free.is_empty()) {
                (_, true) => d.note(format!("`{}` takes no further argument", kind.name)),
                ([one], _) => d
                    .help(format!("write `{}: {}`", one.name, self.sources.text(arg.value.span)))
                    .fix(start, format!("{}: ", one.name)),
                _ => d.help(format!(
                    "write its name in front: {}",
                    names::quoted(free.iter().map(|a| a.name.as_str()), "or")
                )),
            };
            self.report(d);
            return None;
        };
        let found = kind.args.iter().find(|a| a.name == name.text);
        if found.is_none() {
            let known: Vec<&str> = kind.args.iter().map(|a| a.name.as_str()).collect();
            let d = Diagnostic::new(Code::E0104, format!("`{}` has no argument `{}`", kind.name, name.text))
                .at(name.span, "unknown argument")
                .suggest(&name.text, name.span, known.iter().copied())
                .note(names::list_of("its argument", known));
            self.report(d);
        }
        found
    }

    fn report_missing(&mut self, kind: &Kind, call: &ast::Call, given: &BTreeMap<&str, &Name>) {
        let missing: Vec<&Arg> = kind
            .args
            .iter()
            .filter(|a| a.default == DefaultValue::Required && !given.contains_key(a.name.as_str()))
            .collect();
        if missing.is_empty() {
            return;
        }
        // An argument with an error is reported already; it is not reported as missing as well.
        let strangers = call.args.iter().enumerate().filter(|(n, a)| match &a.name {
            Some(name) => !kind.args.iter().any(|k| k.name == name.text),
            None => *n > 0 || matches!(a.value.kind, ExprKind::Bad),
        });
        if strangers.count() > 0 {
            return;
        }
        let list = names::quoted(missing.iter().map(|a| a.name.as_str()), "and");
        let mut d = Diagnostic::new(Code::E0106, format!("missing {list} in the call of `{}`", kind.name))
            .at(call.name.span, format!("{list} missing"));
        for m in missing {
            d = d.help(match is_told(m) {
                true => format!("add `{}: …`", m.name),
                false => format!("add `{}: …`: {}", m.name, m.doc),
            });
        }
        self.report(d);
    }

    fn argument(&mut self, ctx: &mut Ctx, kind: &Kind, spec: &Arg, e: &Expr) -> Option<TypedExprKind> {
        let bare = e.bare();
        for accepts in &spec.accepts {
            match (accepts, &bare.kind) {
                (Accepts::Word(words), _) => {
                    if let Some(done) = self.word(ctx, kind, spec, words, bare) {
                        return done;
                    }
                }
                (Accepts::Condition, _) => return self.condition(ctx, spec, bare),
                _ => {}
            }
        }
        let typed = self.infer(ctx, e)?;
        let optional_ok = spec.default == DefaultValue::Absent;
        let typed = match &typed.ty {
            Type::Optional(inner) if optional_ok => TypedExpr { ty: (**inner).clone(), ..typed },
            Type::Optional(inner) if self.fits(inner, &typed, &spec.accepts).is_some() => {
                self.plain(typed);
                return None;
            }
            _ => typed,
        };
        match self.fits(&typed.ty, &typed, &spec.accepts) {
            Some(_) if !self.is_count(ctx, kind, spec, &typed) => None,
            Some(want) => Some(self.coerce(ctx, typed, &want)),
            None => {
                self.report_mismatch(kind, spec, &typed);
                None
            }
        }
    }

    /// Whether a number, where it is known at check time, is at least 1 where it must be.
    fn is_count(&mut self, ctx: &Ctx, kind: &Kind, spec: &Arg, typed: &TypedExpr) -> bool {
        if !spec.accepts.contains(&Accepts::Count) {
            return true;
        }
        let below = |t: &TypedExprKind| match t {
            TypedExprKind::Const(Value::Int(i)) if *i < 1 => Some(*i),
            _ => None,
        };
        let below = match &typed.kind {
            TypedExprKind::Var(v) => ctx.vars[*v].elements.iter().find_map(|(_, t)| below(t)),
            t => below(t),
        };
        let Some(n) = below else { return true };
        let d = Diagnostic::new(Code::E0219, format!("`{}` of `{}` cannot be {n}", spec.name, kind.name))
            .at(typed.span, "less than 1")
            .note(format!("`{}` is {}", spec.name, spec.doc));
        self.report(d);
        false
    }

    /// The first accepted type that a value fits.
    fn fits(&self, ty: &Type, typed: &TypedExpr, accepts: &[Accepts]) -> Option<Type> {
        let all = || accepts.iter().map(Accepts::ty);
        all().find(|want| want == ty).or_else(|| all().find(|want| converts(ty, want, typed)))
    }

    /// A value as another type that it [`converts`] to.
    pub(super) fn coerce(&mut self, ctx: &mut Ctx, typed: TypedExpr, want: &Type) -> TypedExprKind {
        if typed.ty == *want {
            return typed.kind;
        }
        let scalar = match want {
            Type::List(inner) => inner,
            other => other,
        };
        match scalar {
            Type::Float => as_float(typed.kind),
            Type::Path => {
                self.is_no_path(ctx, &typed.kind, typed.span);
                mark_as_path(ctx, &typed.kind);
                as_path(&self.scopes[ctx.scope].dir, typed.kind)
            }
            _ => typed.kind,
        }
    }

    /// A bare word, or a text known at check time that is one. None: not meant as a word.
    fn word(
        &mut self,
        ctx: &mut Ctx,
        kind: &Kind,
        spec: &Arg,
        words: &[String],
        e: &Expr,
    ) -> Option<Option<TypedExprKind>> {
        let unknown = |word: &str| {
            Diagnostic::new(Code::E0111, format!("`{}` of `{}` cannot be `{word}`", spec.name, kind.name))
                .at(e.span, "unknown word")
                .suggest(word, e.span, words.iter().map(String::as_str))
                .note(format!("it is one of {}", names::quoted(words.iter().map(String::as_str), "or")))
        };
        match &e.kind {
            ExprKind::Name(n) if words.contains(n) => {
                return Some(Some(TypedExprKind::Const(Value::Text(n.clone()))));
            }
            ExprKind::Name(n) => {
                let var = ctx.vars.iter().any(|v| v.name.text == *n);
                if !var && !self.scopes[ctx.scope].names.contains_key(n) {
                    self.report(unknown(n));
                    return Some(None);
                }
            }
            ExprKind::Text(t) => {
                let d = if words.contains(t) {
                    Diagnostic::new(
                        Code::E0111,
                        format!("`{}` is one of a few words, written bare", spec.name),
                    )
                    .at(e.span, "a text")
                    .help(format!("write `{}: {t}`", spec.name))
                } else {
                    unknown(t)
                };
                self.report(d);
                return Some(None);
            }
            _ => return None,
        }
        let Some(typed) = self.infer(ctx, e) else { return Some(None) };
        if typed.ty != Type::Text {
            self.report_mismatch(kind, spec, &typed);
            return Some(None);
        }
        let texts: Vec<String> = match &typed.kind {
            TypedExprKind::Const(Value::Text(t)) => vec![t.clone()],
            TypedExprKind::Var(v) => ctx.vars[*v].elements.iter().filter_map(|(_, t)| text_of(t)).collect(),
            _ => Vec::new(),
        };
        if let Some(bad) = texts.iter().find(|t| !words.contains(t) && *t != OPEN) {
            self.report(unknown(bad));
            return Some(None);
        }
        Some(Some(typed.kind))
    }

    /// `loss < 1.9`: the left side is the bare name of a metric.
    fn condition(&mut self, ctx: &mut Ctx, spec: &Arg, e: &Expr) -> Option<TypedExprKind> {
        let wrong = |at: &Expr, text: &str| {
            Diagnostic::new(Code::E0214, format!("`{}` compares a metric with a number", spec.name))
                .at(at.span, text)
                .help(format!("write, for instance, `{}: loss < 1.9`", spec.name))
        };
        let ExprKind::Compare(left, op, right) = &e.kind else {
            self.report(wrong(e, "no comparison"));
            return None;
        };
        let ExprKind::Name(metric) = &left.bare().kind else {
            self.report(wrong(left, "expected the name of a metric"));
            return None;
        };
        let bound = self.infer(ctx, right)?;
        let bound = match bound.kind {
            TypedExprKind::Const(Value::Int(i)) => i as f64,
            TypedExprKind::Const(Value::Float(x)) => x,
            _ => {
                self.report(wrong(right, "expected a number that is known before the run"));
                return None;
            }
        };
        Some(TypedExprKind::Const(Value::Condition(Condition { metric: metric.clone(), op: *op, bound })))
    }

    fn report_mismatch(&mut self, kind: &Kind, spec: &Arg, typed: &TypedExpr) {
        let wanted: Vec<String> = spec.accepts.iter().map(describe).collect();
        let wanted = names::listed(&wanted, "or");
        let d = Diagnostic::new(
            Code::E0201,
            format!("`{}` takes {wanted} as `{}`, not {}", kind.name, spec.name, with_article(&typed.ty)),
        )
        .at(typed.span, with_article(&typed.ty));
        let d = self.declared_here(d, &typed.kind);
        let accepts = |ty: &Type| spec.accepts.iter().any(|w| w.ty() == *ty);
        let d = match &typed.ty {
            Type::List(t) if accepts(t) => {
                d.help("add `for x in …` and use `x` here, or take one element with `[\"key\"]`")
            }
            t if accepts(&t.clone().list()) => {
                d.help(format!("write a list: `{}: [{}]`", spec.name, self.sources.text(typed.span)))
            }
            Type::Pllm if accepts(&Type::Mix) => {
                d.help(format!("give it a weight: `1.0 * {}`", self.sources.text(typed.span)))
            }
            Type::Text if typed.literal && [Type::Dataset, Type::Model, Type::Space].iter().any(accepts) => {
                let (keyword, call) = match () {
                    () if accepts(&Type::Dataset) => ("dataset", "jsonl"),
                    () if accepts(&Type::Model) => ("model", "local"),
                    () => ("space", "sentence"),
                };
                d.help(format!(
                    "declare it, `{keyword} name = {call}({})`, and write the name here",
                    self.sources.text(typed.span)
                ))
            }
            Type::Text if accepts(&Type::Path) && !typed.literal => {
                d.help("declare the parameter as a `Path`")
            }
            _ => d,
        };
        self.report(if is_told(spec) { d } else { d.note(format!("`{}` is {}", spec.name, spec.doc)) });
    }

    /// Points to the declaration that gives a value its type.
    fn declared_here(&self, d: Diagnostic, t: &TypedExprKind) -> Diagnostic {
        let item = match t {
            TypedExprKind::Item(i) | TypedExprKind::All(i) | TypedExprKind::Key(i, _) => *i,
            TypedExprKind::Instance(n) => self.instances[*n as usize].item as usize,
            _ => return d,
        };
        let decl = &self.items[item].decl;
        let text = match (&decl.ty, self.items[item].keyed) {
            (_, true) => "`for` makes it a list",
            (Some(_), _) => "its type is stated here",
            (None, _) => "declared here",
        };
        let span = decl
            .bindings
            .first()
            .map_or(decl.ty.as_ref().map_or(decl.name.span, |t| t.span), |b| b.name.span);
        d.see(span, text)
    }
}

fn mark_as_path(ctx: &mut Ctx, t: &TypedExprKind) {
    if let TypedExprKind::Var(v) = t {
        ctx.vars[*v].as_path = true;
    }
}

/// Whether an argument's documentation says nothing beyond its name, as in "`prompts` is the prompts".
fn is_told(a: &Arg) -> bool {
    a.doc.is_empty() || a.doc.trim_end_matches('.') == format!("the {}", a.name)
}

/// An accepted form, for people.
fn describe(accepts: &Accepts) -> String {
    match accepts {
        Accepts::Word(words) => format!("one of {}", names::quoted(words.iter().map(String::as_str), "or")),
        other => with_article(other.ty()),
    }
}
