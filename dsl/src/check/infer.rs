//! Types of expressions.

use headstart_protocol::expr::CompareOp;
use headstart_protocol::{Type, Value};

use super::refs::Found;
use super::typed::{TypedExpr, TypedExprKind, as_float, is_open, number};
use super::{Checker, Ctx, Entity};
use crate::ast::{Call, Expr, ExprKind, Name};
use crate::codes::Code;
use crate::diagnostic::Diagnostic;
use crate::loader;
use crate::names::{self, with_article};
use crate::span::Span;

impl Checker<'_> {
    /// The type and meaning of an expression; none where an error in it is reported.
    pub(super) fn infer(&mut self, ctx: &mut Ctx, e: &Expr) -> Option<TypedExpr> {
        let span = e.span;
        match &e.kind {
            ExprKind::Bad => None,
            ExprKind::Paren(inner) => self.infer(ctx, inner),
            ExprKind::Bool(b) => Some(TypedExpr::value(Value::Bool(*b), Type::Bool, span)),
            ExprKind::Number(n, _) => {
                let (value, ty) = number(*n);
                Some(TypedExpr::value(value, ty, span))
            }
            ExprKind::Text(t) => {
                let typed = TypedExpr::value(Value::Text(t.clone()), Type::Text, span);
                Some(TypedExpr { literal: true, ..typed })
            }
            ExprKind::Name(n) => self.name(ctx, n, span),
            ExprKind::Field(of, name) => self.field(ctx, of, name, span),
            ExprKind::Element(of, key) => self.element(ctx, of, key, span),
            ExprKind::List(all) => self.list(ctx, all, span),
            ExprKind::Or(all) => self.or(ctx, all, span),
            ExprKind::Not(inner) => {
                let inner = self.infer(ctx, inner)?;
                let inner = self.plain(inner)?;
                if inner.ty != Type::Bool {
                    let d = Diagnostic::new(
                        Code::E0206,
                        format!("`not` takes true or false, not {}", with_article(&inner.ty)),
                    );
                    self.report(d.at(inner.span, with_article(&inner.ty)));
                    return None;
                }
                Some(TypedExpr::new(TypedExprKind::Not(Box::new(inner.kind)), Type::Bool, span))
            }
            ExprKind::Compare(l, op, r) => self.compare(ctx, l, *op, r, span),
            ExprKind::Minus(_) | ExprKind::Sum(_) | ExprKind::Product(_) => self.arithmetic(ctx, e),
            ExprKind::Join(all) => self.join(ctx, all, span),
            ExprKind::Call(call) => self.called(ctx, call, span),
        }
    }

    fn name(&mut self, ctx: &mut Ctx, n: &str, span: Span) -> Option<TypedExpr> {
        if let Some(at) = ctx.vars.iter().position(|v| v.name.text == n) {
            let v = &ctx.vars[at];
            let typed = TypedExpr::new(TypedExprKind::Var(at), v.ty.clone(), span);
            return v.known.then_some(TypedExpr { literal: v.literal, ..typed });
        }
        match self.scopes[ctx.scope].names.get(n).map(|(e, _)| *e) {
            Some(entity) => self.entity(ctx, entity, span),
            None => {
                self.unknown_name(ctx, n, span);
                None
            }
        }
    }

    fn entity(&mut self, ctx: &mut Ctx, entity: Entity, span: Span) -> Option<TypedExpr> {
        match entity {
            Entity::Item(i) => self.item_ref(ctx, i, span),
            Entity::Param(p) => {
                let value = self.param(p, ctx, span)?;
                Some(TypedExpr { span, literal: false, ..value })
            }
            Entity::Module(_) => {
                let d = Diagnostic::new(Code::E0201, "a module is not a value").at(span, "an imported file");
                self.report(d.help("name something in it, as in `module.item`"));
                None
            }
            Entity::Program(_) => {
                let name = self.sources.text(span).to_owned();
                self.program_is_no_value(&Name { text: name, span });
                None
            }
            Entity::Bad => None,
        }
    }

    fn field(&mut self, ctx: &mut Ctx, of: &Expr, name: &Name, span: Span) -> Option<TypedExpr> {
        if let Some(module) = self.module(ctx.scope, of) {
            return match self.member(module, &name.text) {
                Found::Entity(entity) => self.entity(ctx, entity, span),
                Found::Output(m, n) => {
                    let value = self.scopes[m].outputs[n].value.clone();
                    let mut inner = Ctx::new(m);
                    // Only the file that is run releases.
                    let (value, _) = self.unwrap_release(&value)?;
                    let typed = self.infer(&mut inner, value)?;
                    ctx.uses.extend(inner.uses.into_iter().map(|(i, _)| (i, span)));
                    Some(TypedExpr { span, ..typed })
                }
                Found::Missing(m) => {
                    let scope = &self.scopes[m];
                    let known = scope.outputs.iter().map(|o| o.name.text.as_str());
                    let known = known.chain(scope.names.keys().map(String::as_str));
                    let text = format!("`{}` declares no `{}`", scope.path, name.text);
                    let d = Diagnostic::new(Code::E0101, text).at(name.span, "not in this module");
                    let d = d.suggest(&name.text, name.span, known);
                    self.report(d);
                    None
                }
            };
        }
        let of = self.infer(ctx, of)?;
        let (inner, optional) = match &of.ty {
            Type::Optional(t) => ((**t).clone(), true),
            t => (t.clone(), false),
        };
        let Some(ty) = inner.field(&name.text) else {
            self.report_no_field(&of, &inner, name);
            return None;
        };
        let ty = if optional { ty.optional() } else { ty };
        Some(TypedExpr::new(TypedExprKind::Field(Box::new(of.kind), name.text.clone()), ty, span))
    }

    fn report_no_field(&mut self, of: &TypedExpr, ty: &Type, name: &Name) {
        let d = Diagnostic::new(Code::E0108, format!("{} has no field `{}`", with_article(ty), name.text))
            .at(name.span, "unknown field")
            .see(of.span, format!("this is {}", with_article(&of.ty)));
        let fields: Vec<&str> = ty.fields().iter().map(|(n, ..)| *n).collect();
        let d = d.suggest(&name.text, name.span, fields.iter().copied());
        let d = match ty {
            Type::List(t) if t.field(&name.text).is_some() => d.help(format!(
                "take one element, as in `…[\"key\"].{}`, or loop over the list with `for`",
                name.text
            )),
            _ if fields.is_empty() => d.note(format!("{} has no fields", with_article(ty))),
            _ => d.note(names::list_of("its field", fields)),
        };
        self.report(d);
    }

    fn element(&mut self, ctx: &mut Ctx, of: &Expr, key: &Expr, span: Span) -> Option<TypedExpr> {
        let list = self.infer(ctx, of);
        let key_typed = self.key(ctx, key);
        let (list, key_typed) = (list?, key_typed?);
        let Type::List(element) = &list.ty else {
            let d = Diagnostic::new(Code::E0213, format!("{} has no elements", with_article(&list.ty)))
                .at(key.span, "a key")
                .see(list.span, format!("this is {}, not a list", with_article(&list.ty)));
            self.report(d.help("remove the key"));
            return None;
        };
        let mut ty = (**element).clone();
        let t = match (&list.kind, key_typed) {
            (TypedExprKind::All(i), found) => {
                if self.items[*i].optional {
                    ty = ty.optional();
                }
                self.instance_of(ctx, *i, found, key.span)?
            }
            (TypedExprKind::List(items), Key::Text(k)) => match items.iter().find(|(n, _)| *n == k) {
                Some((_, t)) => t.clone(),
                None if is_open(&k) || items.iter().any(|(k, _)| is_open(k)) => TypedExprKind::Open,
                None => {
                    let d = Diagnostic::new(Code::E0109, format!("the list has no element {k:?}"))
                        .at(key.span, "unknown key")
                        .suggest_text(&k, key.span, items.iter().map(|(n, _)| n.as_str()));
                    self.report(d);
                    return None;
                }
            },
            _ => {
                let d = Diagnostic::new(Code::E0213, "the elements of this list are not known by key");
                self.report(d.at(span, ""));
                return None;
            }
        };
        Some(TypedExpr::new(t, ty, span))
    }

    /// The instance of an item that a key names.
    fn instance_of(&mut self, ctx: &Ctx, i: usize, found: Key, span: Span) -> Option<TypedExprKind> {
        let item = &self.items[i];
        if !item.done {
            return None;
        }
        let open = item.keys.iter().any(|(k, _)| is_open(k));
        match found {
            Key::Text(k) => match item.by_key.get(&k) {
                Some(n) => Some(TypedExprKind::Instance(*n)),
                None if open || is_open(&k) => Some(TypedExprKind::Open),
                None => {
                    self.report_no_key(&k, span, i);
                    None
                }
            },
            Key::Var(v) => {
                let mut known = ctx.vars[v].elements.iter().filter(|(k, _)| !open && !is_open(k));
                if let Some((k, _)) = known.find(|(k, _)| !item.by_key.contains_key(k)) {
                    self.report_no_key(k, span, i);
                    return None;
                }
                Some(TypedExprKind::Key(i, v))
            }
        }
    }

    /// A key: a text, or a loop variable, which stands for its own key.
    fn key(&mut self, ctx: &mut Ctx, e: &Expr) -> Option<Key> {
        if let ExprKind::Name(n) = &e.bare().kind
            && let Some(v) = ctx.vars.iter().position(|v| v.name.text == *n)
        {
            return ctx.vars[v].known.then_some(Key::Var(v));
        }
        let key = self.infer(ctx, e)?;
        match key.kind {
            TypedExprKind::Const(Value::Text(t)) => Some(Key::Text(t)),
            // Numbers are keys as they are written.
            TypedExprKind::Const(Value::Int(_) | Value::Float(_)) => match &e.bare().kind {
                ExprKind::Number(_, raw) => Some(Key::Text(raw.clone())),
                _ => None,
            },
            _ => {
                let d = Diagnostic::new(Code::E0213, "a key must be a text or a loop variable");
                self.report(d.at(e.span, with_article(&key.ty)));
                None
            }
        }
    }

    fn report_no_key(&mut self, key: &str, span: Span, item: usize) {
        let i = &self.items[item];
        let d = Diagnostic::new(Code::E0109, format!("`{}` has no element {key:?}", i.name))
            .at(span, "unknown key")
            .see(
                i.decl.name.span,
                format!("declared here with {}", headstart_protocol::text::counted(i.keys.len(), "element")),
            )
            .suggest_text(key, span, i.keys.iter().map(|(k, _)| k.as_str()));
        let shown: Vec<String> = i.keys.iter().take(8).map(|(k, _)| k.clone()).collect();
        let more = i.keys.len().saturating_sub(shown.len());
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        let d = if shown.is_empty() {
            d
        } else {
            d.note(format!("{}{more}", names::list_of("its key", shown.iter().map(String::as_str))))
        };
        self.report(d);
    }

    fn list(&mut self, ctx: &mut Ctx, all: &[Expr], span: Span) -> Option<TypedExpr> {
        let typed: Vec<Option<TypedExpr>> = all.iter().map(|e| self.infer(ctx, e)).collect();
        let typed: Vec<TypedExpr> = typed.into_iter().collect::<Option<_>>()?;
        let mut ty = typed.first().map_or(Type::Text, |t| t.ty.clone());
        let literal = typed.iter().all(|t| t.literal);
        let mut items = Vec::with_capacity(typed.len());
        for (t, e) in typed.into_iter().zip(all) {
            let key = self.key_of(ctx, e, &t);
            match (&ty, &t.ty) {
                (a, b) if a == b => {}
                (Type::Int, Type::Float) => ty = Type::Float,
                (Type::Float, Type::Int) => {}
                (first, other) => {
                    let d = Diagnostic::new(Code::E0208, "the elements of a list must have the same type")
                        .at(t.span, with_article(other))
                        .see(all[0].span, format!("the first element is {}", with_article(first)));
                    self.report(d);
                    return None;
                }
            }
            items.push((key, t.kind));
        }
        if ty == Type::Float {
            items = items.into_iter().map(|(k, t)| (k, as_float(t))).collect();
        }
        let typed = TypedExpr::new(TypedExprKind::List(items), ty.list(), span);
        Some(TypedExpr { literal, ..typed })
    }

    /// The key of a list's element: its own key, its name, or its text.
    fn key_of(&self, ctx: &Ctx, e: &Expr, t: &TypedExpr) -> String {
        match (&t.kind, &e.bare().kind) {
            (TypedExprKind::Path(p), _) => loader::stem(&p.resolved).to_owned(),
            (TypedExprKind::Const(Value::Text(t)), _) => t.clone(),
            (_, ExprKind::Number(_, raw)) => raw.clone(),
            (TypedExprKind::Instance(n), _) => self.instances[*n as usize].key.clone().unwrap_or_default(),
            (TypedExprKind::Item(i), _) => self.items[*i].name.clone(),
            (TypedExprKind::Var(v), _) => ctx.vars[*v].name.text.clone(),
            _ => e.spelled(),
        }
    }

    fn or(&mut self, ctx: &mut Ctx, all: &[Expr], span: Span) -> Option<TypedExpr> {
        let typed: Vec<Option<TypedExpr>> = all.iter().map(|e| self.infer(ctx, e)).collect();
        let typed: Vec<TypedExpr> = typed.into_iter().collect::<Option<_>>()?;
        let strip = |t: &Type| match t {
            Type::Optional(inner) => (**inner).clone(),
            t => t.clone(),
        };
        let ty = strip(&typed[0].ty);
        for (n, t) in typed.iter().enumerate() {
            let last = n + 1 == typed.len();
            if !last && !matches!(t.ty, Type::Optional(_)) {
                let d = Diagnostic::new(Code::E0204, "the right side of this `or` is never used")
                    .at(t.span, format!("{}, which is always there", with_article(&t.ty)))
                    .see(all[n + 1].span, "never used");
                let d = d.note("`a or b` is `a` where it is there, and `b` otherwise");
                self.report(d.help("remove the `or`, or make the left side with `when`"));
                return None;
            }
            if strip(&t.ty) != ty {
                let d = Diagnostic::new(Code::E0215, "both sides of `or` must have one type")
                    .at(t.span, with_article(strip(&t.ty)))
                    .see(typed[0].span, with_article(&ty));
                self.report(d);
                return None;
            }
        }
        let ty = match typed.last().map(|t| &t.ty) {
            Some(Type::Optional(_)) => ty.optional(),
            _ => ty,
        };
        Some(TypedExpr::new(TypedExprKind::Or(typed.into_iter().map(|t| t.kind).collect()), ty, span))
    }

    /// A value that is surely there.
    pub(super) fn plain(&mut self, t: TypedExpr) -> Option<TypedExpr> {
        let Type::Optional(inner) = &t.ty else { return Some(t) };
        let d = Diagnostic::new(Code::E0203, format!("this {inner} may be absent"))
            .at(t.span, format!("{}", t.ty));
        let d = self.where_optional(d, &t.kind);
        self.report(d.help("add an alternative: `… or other`"));
        None
    }

    /// Points to the `when` that makes a value optional.
    pub(super) fn where_optional(&self, d: Diagnostic, t: &TypedExprKind) -> Diagnostic {
        let item = match t {
            TypedExprKind::Item(i) => *i,
            TypedExprKind::Instance(n) => self.instances[*n as usize].item as usize,
            TypedExprKind::Field(of, _) => return self.where_optional(d, of),
            _ => return d,
        };
        match &self.items[item].decl.when {
            Some(when) => {
                d.see(when.span, format!("`{}` is made only when this is true", self.items[item].name))
            }
            None => d,
        }
    }

    fn compare(&mut self, ctx: &mut Ctx, l: &Expr, op: CompareOp, r: &Expr, span: Span) -> Option<TypedExpr> {
        let (left, right) = (self.infer(ctx, l), self.infer(ctx, r));
        let (left, right) = (self.plain(left?), self.plain(right?));
        let (left, right) = (left?, right?);
        let class = |t: &Type| match t {
            Type::Int | Type::Float => 0,
            Type::Bool => 1,
            Type::Text => 2,
            Type::Duration => 3,
            Type::Bytes => 4,
            _ => 9,
        };
        let (cl, cr) = (class(&left.ty), class(&right.ty));
        let equality = matches!(op, CompareOp::Eq | CompareOp::Ne);
        if cl != cr || cl > 2 || (cl > 0 && !equality) {
            let what = if cl == cr && cl <= 2 {
                format!(
                    "`{}` compares numbers; {} can only be equal or not",
                    op.symbol(),
                    with_article(&left.ty)
                )
            } else {
                format!("{} cannot be compared with {}", with_article(&left.ty), with_article(&right.ty))
            };
            let d = Diagnostic::new(Code::E0207, what).at(span, "").see(left.span, with_article(&left.ty));
            self.report(d.see(right.span, with_article(&right.ty)));
            return None;
        }
        Some(TypedExpr::new(
            TypedExprKind::Compare(op, Box::new(left.kind), Box::new(right.kind)),
            Type::Bool,
            span,
        ))
    }

    fn called(&mut self, ctx: &mut Ctx, call: &Call, span: Span) -> Option<TypedExpr> {
        match call.name.text.as_str() {
            "glob" => self.glob(ctx, call, span),
            "release" => {
                let d = Diagnostic::new(Code::E0504, "`release` is only allowed in an output")
                    .at(span, "not an output's value");
                self.report(d.help("write `output name = release(…)`"));
                None
            }
            "device" => {
                let d = Diagnostic::new(Code::E0212, "`device(…)` is a place, not a value").at(span, "");
                self.report(d.help("write it in the settings: `{ on: device(\"…\") }`"));
                None
            }
            name => {
                let known = self.scopes[ctx.scope].kinds.find(name).is_some();
                if !known && self.report_no_stage(ctx.scope, call) {
                    return None;
                }
                let d = if known {
                    Diagnostic::new(
                        Code::E0212,
                        format!("stage kind `{name}` cannot be used inside an expression"),
                    )
                    .at(span, "a stage inside another expression")
                    .help(format!("give it a name: `stage …: … = {name}(…)`, and use the name here"))
                } else {
                    Diagnostic::new(Code::E0212, format!("cannot find function `{name}`"))
                        .at(call.name.span, "unknown")
                        .suggest(name, call.name.span, ["glob", "release"])
                        .note("only `glob`, and `release` in outputs, can be called in an expression")
                };
                self.report(d);
                None
            }
        }
    }
}

enum Key {
    Text(String),
    Var(usize),
}
