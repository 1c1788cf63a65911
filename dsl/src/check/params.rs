//! Parameters: their types, and their values from `--set`, imports and defaults.

use std::collections::BTreeMap;

use headstart_protocol::{Type, Value};

use super::typed::{
    PathValue, TypedExpr, TypedExprKind, converts, globbed, is_const, number, open_value, show,
};
use super::{Checker, Ctx, Entity, Mode, ParamValue};
use crate::ast::{self, Expr, ExprKind};
use crate::codes::Code;
use crate::diagnostic::Diagnostic;
use crate::literal;
use crate::loader;
use crate::names;
use crate::names::with_article;
use crate::span::Span;

impl Checker<'_> {
    /// The parameters that a file declares, by name.
    pub(super) fn params_of(&self, scope: usize) -> BTreeMap<String, usize> {
        let param = |(name, (entity, _)): (&String, &(Entity, _))| match entity {
            Entity::Param(p) => Some((name.clone(), *p)),
            _ => None,
        };
        self.scopes[scope].names.iter().filter_map(param).collect()
    }

    /// Hands the values of the command line to the root file's parameters.
    pub(super) fn give_sets(&mut self, sets: &BTreeMap<String, String>) {
        let known = self.params_of(0);
        for (name, value) in sets {
            match known.get(name) {
                Some(p) => self.params[*p].set = Some(value.clone()),
                None => {
                    let d =
                        Diagnostic::new(Code::E0702, format!("cannot find parameter `{name}` in this file"));
                    let d = d.maybe_help(names::did_you_mean(name, known.keys().map(String::as_str)));
                    let list: Vec<&str> = known.keys().map(String::as_str).collect();
                    self.report(match list.is_empty() {
                        true => d.note("the file declares no parameters"),
                        false => d.note(names::list_of("the parameter", list)),
                    });
                }
            }
        }
    }

    /// Works out every parameter of the root file, used or not.
    pub(super) fn check_params(&mut self) {
        for p in 0..self.params.len() {
            if self.params[p].scope == 0 {
                let mut ctx = Ctx::new(0);
                self.param(p, &mut ctx, Span::default());
            }
        }
    }

    /// A type as written; none where it is reported as unknown.
    pub(super) fn ty(&mut self, ty: &ast::Ty) -> Option<Type> {
        let plain = match (&ty.of, ty.name.text.as_str()) {
            (Some(of), "List") => self.ty(of)?.list(),
            (None, name) if Type::from_name(name).is_some() => Type::from_name(name)?,
            (of, name) => {
                let d = match (of, name) {
                    (None, "List") => Diagnostic::new(Code::E0112, "`List` needs the type of its elements")
                        .at(ty.span, "")
                        .help("write, for instance, `List<Path>`"),
                    (Some(_), _) if Type::from_name(name).is_some() => {
                        Diagnostic::new(Code::E0112, format!("`{name}` takes no type argument"))
                            .at(ty.span, "")
                    }
                    _ => Diagnostic::new(Code::E0112, format!("cannot find type `{name}`"))
                        .at(ty.name.span, "unknown type")
                        .suggest(name, ty.name.span, Type::names().chain(["List"]))
                        .note(format!(
                            "the types are {}",
                            names::quoted(Type::names().chain(["List<…>"]), "and")
                        )),
                };
                self.report(d);
                return None;
            }
        };
        Some(if ty.optional { plain.optional() } else { plain })
    }

    /// Whether a name is a parameter that is a number.
    pub(super) fn is_number_param(&self, scope: usize, name: &str) -> bool {
        match self.scopes[scope].names.get(name) {
            Some((Entity::Param(p), _)) => {
                matches!(self.params[*p].ast.ty.name.text.as_str(), "Int" | "Float")
            }
            _ => false,
        }
    }

    /// A parameter's value. What an import gives may be an item; then the item counts as used.
    pub(super) fn param(&mut self, p: usize, ctx: &mut Ctx, span: Span) -> Option<TypedExpr> {
        match &self.params[p].value {
            ParamValue::Done(v, uses) => {
                ctx.uses.extend(uses.iter().map(|i| (*i, span)));
                return v.clone();
            }
            ParamValue::Busy => {
                let name = &self.params[p].ast.name;
                let d =
                    Diagnostic::new(Code::E0401, format!("the parameter `{}` depends on itself", name.text))
                        .at(span, "needed here")
                        .see(name.span, "while its value is computed");
                // Where items are part of the circle, that is reported already.
                if self.params[p].arg.is_none() {
                    self.report(d);
                }
                return None;
            }
            ParamValue::Pending => {}
        }
        self.params[p].value = ParamValue::Busy;
        let mut inner = Ctx::new(self.params[p].scope);
        let value = self.param_value(p, &mut inner);
        let uses: Vec<usize> = inner.uses.iter().map(|(i, _)| *i).collect();
        ctx.uses.extend(uses.iter().map(|i| (*i, span)));
        self.params[p].value = ParamValue::Done(value.clone(), uses);
        value
    }

    fn param_value(&mut self, p: usize, ctx: &mut Ctx) -> Option<TypedExpr> {
        let state = &self.params[p];
        let (param, arg, set) = (state.ast.clone(), state.arg.clone(), state.set.clone());
        let ty = self.ty(&param.ty)?;
        let span = param.name.span;
        if let Some((scope, e)) = arg {
            ctx.scope = scope;
            return self.fitted(ctx, &e, &ty, &param, "parameter");
        }
        let open = self.params[p].scope == 0 && self.mode == Mode::Module;
        let artifacts = holds_artifacts(&ty);
        if open && set.is_none() && (artifacts || param.default.is_none()) {
            self.open.push((param.name.span, param.name.text.clone()));
            return Some(TypedExpr { kind: open_value(&ty), ty, span, literal: false });
        }
        if self.params[p].scope == 0 && artifacts {
            let d = Diagnostic::new(
                Code::E0704,
                format!("a parameter of a pipeline cannot be {}", with_article(&ty)),
            )
            .at(param.ty.span, "made by stages, not set")
            .help("take a `Path` and make it from that; modules that are imported may have such parameters");
            self.report(d);
            return None;
        }
        if let Some(text) = set {
            return match self.read_as(&ty, &text, param.ty.span) {
                Ok(t) => Some(TypedExpr { kind: t, ty, span, literal: false }),
                Err(why) => {
                    let name = &param.name.text;
                    let d =
                        Diagnostic::new(Code::E0703, format!("`--set {name}={text}` does not fit: {why}"));
                    self.report(d.at(param.ty.span, format!("`{name}` is {}", with_article(&ty))));
                    None
                }
            };
        }
        self.default_value(ctx, &param, ty)
    }

    /// What a parameter is where nobody gives it a value.
    fn default_value(&mut self, ctx: &mut Ctx, param: &ast::Param, ty: Type) -> Option<TypedExpr> {
        let span = param.name.span;
        let Some(default) = &param.default else {
            if let Type::Optional(_) = ty {
                let kind = TypedExprKind::Const(Value::Absent);
                return Some(TypedExpr { kind, ty, span, literal: false });
            }
            let name = &param.name.text;
            let d = Diagnostic::new(Code::E0701, format!("the parameter `{name}` has no value"))
                .at(span, "no default")
                .help(format!("give one with `--set {name}=…`, or write a default: `= …`"));
            self.report(d);
            return None;
        };
        let value = self.fitted(ctx, default, &ty, param, "default")?;
        if !ctx.uses.is_empty() || !is_const(&value.kind) {
            let d =
                Diagnostic::new(Code::E0705, "a default is a constant").at(default.span, "made by stages");
            self.report(d.help("write a literal, a list, or `glob(…)`"));
            return None;
        }
        Some(value)
    }

    /// A value given for a parameter, as the parameter's type.
    fn fitted(
        &mut self,
        ctx: &mut Ctx,
        e: &Expr,
        ty: &Type,
        param: &ast::Param,
        what: &str,
    ) -> Option<TypedExpr> {
        let typed = self.infer(ctx, e)?;
        let want = match ty {
            Type::Optional(inner) if typed.ty != *ty => inner,
            other => other,
        };
        let typed = match &typed.ty {
            Type::Optional(inner) if *inner.as_ref() == *want => self.plain(typed)?,
            _ => typed,
        };
        if typed.ty != *want && !converts(&typed.ty, want, &typed) {
            let name = &param.name.text;
            let d = Diagnostic::new(
                Code::E0201,
                format!("the {what} `{name}` is {}, not {}", with_article(ty), with_article(&typed.ty)),
            )
            .at(e.span, with_article(&typed.ty))
            .see(param.ty.span, "its type is stated here");
            let d = match (want, &typed.ty) {
                (Type::List(inner), other) if **inner == *other || typed.literal => {
                    d.help(format!("write a list: `[{}]`", self.sources.text(e.span)))
                }
                (Type::Duration, Type::Int) => d.help("add a unit, as in `30m`"),
                (Type::Bytes, Type::Int) => d.help("add a unit, as in `1GiB`"),
                _ => d,
            };
            self.report(d);
            return None;
        }
        let span = typed.span;
        let t = self.coerce(ctx, typed, want);
        Some(TypedExpr { kind: t, ty: ty.clone(), span, literal: false })
    }

    /// A value of the command line, read as the declared type.
    fn read_as(&mut self, ty: &Type, text: &str, span: Span) -> Result<TypedExprKind, String> {
        let number = || literal::number(text.strip_prefix('-').unwrap_or(text)).map(|n| number(n).0);
        let negative = text.starts_with('-');
        let wrong = |example: &str| Err(format!("expected {}, such as `{example}`", with_article(ty)));
        Ok(match ty {
            Type::Optional(inner) => return self.read_as(inner, text, span),
            Type::Text => TypedExprKind::Const(Value::Text(text.to_owned())),
            Type::Path if loader::scheme(text).is_some() => return Err(ADDRESS.to_owned()),
            Type::Path => {
                TypedExprKind::Path(PathValue { written: text.into(), resolved: text.into(), globbed: false })
            }
            Type::Bool => match text {
                "true" => TypedExprKind::Const(Value::Bool(true)),
                "false" => TypedExprKind::Const(Value::Bool(false)),
                _ => return wrong("true"),
            },
            Type::Int => match number() {
                Ok(Value::Int(i)) => TypedExprKind::Const(Value::Int(if negative { -i } else { i })),
                _ => return wrong("3"),
            },
            Type::Float => match number() {
                Ok(Value::Int(i)) => {
                    TypedExprKind::Const(Value::Float(if negative { -(i as f64) } else { i as f64 }))
                }
                Ok(Value::Float(x)) => TypedExprKind::Const(Value::Float(if negative { -x } else { x })),
                _ => return wrong("0.5"),
            },
            Type::Duration => match number() {
                Ok(v @ Value::Duration(_)) if !negative => TypedExprKind::Const(v),
                _ => return wrong("30m"),
            },
            Type::Bytes => match number() {
                Ok(v @ Value::Bytes(_)) if !negative => TypedExprKind::Const(v),
                _ => return wrong("1GiB"),
            },
            Type::List(inner) => {
                let mut items = Vec::new();
                // Numbers may stand in brackets, as in a file.
                let bare = text.strip_prefix('[').and_then(|t| t.strip_suffix(']'));
                let text = bare.filter(|_| matches!(**inner, Type::Int | Type::Float)).unwrap_or(text);
                for part in text.split(',').map(str::trim).filter(|p| !p.is_empty()) {
                    if **inner == Type::Path && part.contains(['*', '?', '[']) {
                        items.extend(self.listed(part, span)?);
                        continue;
                    }
                    let key = if **inner == Type::Path { loader::stem(part) } else { part };
                    let item = self.read_as(inner, part, span).map_err(|why| format!("`{part}`: {why}"))?;
                    items.push((key.to_owned(), item));
                }
                TypedExprKind::List(items)
            }
            _ => return Err(format!("{} cannot be set", with_article(ty))),
        })
    }

    /// The paths that a pattern of the command line matches.
    fn listed(&mut self, pattern: &str, span: Span) -> Result<Vec<(String, TypedExprKind)>, String> {
        if loader::scheme(pattern).is_some() {
            return Err(ADDRESS.to_owned());
        }
        let listing = self.loader.glob(pattern).map_err(|why| format!("cannot list `{pattern}`: {why}"))?;
        self.report_left_out(pattern, span, &listing);
        let found = listing.found;
        if found.is_empty() {
            return Err(format!("`{pattern}` matches nothing"));
        }
        Ok(found.iter().map(|p| (loader::stem(p).to_owned(), TypedExprKind::Path(globbed(p)))).collect())
    }

    /// Values of the root file's parameters, for people.
    pub(super) fn shown_params(&self) -> BTreeMap<String, String> {
        let of_root = self.params.iter().filter(|p| p.scope == 0);
        let shown = of_root.filter_map(|p| match &p.value {
            ParamValue::Done(Some(v), _) => Some((p.ast.name.text.clone(), show(&v.kind))),
            _ => None,
        });
        shown.collect()
    }
}

fn holds_artifacts(ty: &Type) -> bool {
    match ty {
        Type::List(t) | Type::Optional(t) => holds_artifacts(t),
        t => t.is_artifact() || *t == Type::Mix,
    }
}

/// Why an address is no value of a `Path`.
const ADDRESS: &str =
    "it is an address, and those are not supported yet; download it, and give the path of the file";

/// Whether an expression is a plain name.
pub(super) fn as_name(e: &Expr) -> Option<&str> {
    match &e.bare().kind {
        ExprKind::Name(n) => Some(n),
        _ => None,
    }
}
