//! Paths: `glob` and `/`.

use headstart_protocol::{Type, Value};

use super::typed::{OPEN, PathValue, TypedExpr, TypedExprKind, globbed};
use super::{Checker, Ctx};
use crate::ast::{Call, Expr, ExprKind};
use crate::codes::Code;
use crate::diagnostic::Diagnostic;
use crate::loader;
use crate::names::with_article;
use crate::span::Span;

impl Checker<'_> {
    /// `glob(pattern)`: the files and folders of the engine's machine that match, keyed by name.
    pub(super) fn glob(&mut self, ctx: &mut Ctx, call: &Call, span: Span) -> Option<TypedExpr> {
        let pattern = match call.args.as_slice() {
            [one] if one.name.is_none() => self.infer(ctx, &one.value)?,
            _ => {
                let d = Diagnostic::new(Code::E0201, "`glob` takes one pattern").at(span, "");
                self.report(d.help("write `glob(\"catalog/*\")`"));
                return None;
            }
        };
        let full = match &pattern.kind {
            TypedExprKind::Const(Value::Text(text)) => loader::join(&self.scopes[ctx.scope].dir, text),
            TypedExprKind::Path(p) => p.resolved.to_string(),
            _ => {
                self.report(not_a_pattern(&pattern));
                return None;
            }
        };
        let found = match self.loader.glob(&full) {
            Ok(found) => found,
            Err(why) => {
                let d = Diagnostic::new(Code::E0403, format!("cannot list `{full}`: {why}"));
                self.report(d.at(pattern.span, "this pattern"));
                return None;
            }
        };
        if found.is_empty() && !full.contains(OPEN) {
            let d = Diagnostic::new(Code::W0004, format!("`{full}` matches nothing"));
            self.report(d.at(pattern.span, "no such file or folder"));
        }
        let items = found
            .into_iter()
            .map(|p| (loader::stem(&p).to_owned(), TypedExprKind::Path(globbed(&p))))
            .collect();
        Some(TypedExpr { kind: TypedExprKind::List(items), ty: Type::Path.list(), span, literal: false })
    }

    /// `folder / "name"`, any number of times.
    pub(super) fn join(&mut self, ctx: &mut Ctx, all: &[Expr], span: Span) -> Option<TypedExpr> {
        let [first, rest @ ..] = all else { return None };
        let head = self.infer(ctx, first);
        let head = head.and_then(|h| self.plain(h)).and_then(|h| self.joined_path(ctx, h, first, rest));
        let head = head?;
        // Every part is looked at, so that every mistake is told.
        let parts: Vec<Option<TypedExprKind>> = rest.iter().map(|e| self.joined_part(ctx, e)).collect();
        let parts: Vec<TypedExprKind> = parts.into_iter().collect::<Option<_>>()?;
        let t = parts.into_iter().fold(head, below);
        Some(TypedExpr { kind: t, ty: Type::Path, span, literal: false })
    }

    /// The left side of `/`, as a path.
    fn joined_path(
        &mut self,
        ctx: &mut Ctx,
        typed: TypedExpr,
        e: &Expr,
        rest: &[Expr],
    ) -> Option<TypedExprKind> {
        match (&typed.ty, &typed.kind) {
            (Type::Path, _) => return Some(typed.kind),
            // The variable of a list of literal texts may stand for paths.
            (Type::Text, TypedExprKind::Var(_)) if typed.literal => {
                return Some(self.coerce(ctx, typed, &Type::Path));
            }
            _ => {}
        }
        let d = no_join("left of `/` stands a path", &typed);
        self.report(match (&typed.ty, &e.bare().kind, rest.first().map(|e| &e.bare().kind)) {
            (Type::Text, ExprKind::Text(l), Some(ExprKind::Text(r))) => {
                d.help(format!("write one text: {:?}", loader::join(l, r)))
            }
            (Type::Text, ExprKind::Text(_), _) => {
                d.help("give the folder a name: `param folder: Path = \"…\"`")
            }
            (Type::Text, ..) => d.help("declare the parameter as a `Path`"),
            (Type::List(t), ..) if **t == Type::Path => {
                d.help("loop over the list with `for`, and join each element")
            }
            (Type::Int | Type::Float, ..) => d.note("there is no division"),
            _ => d,
        });
        None
    }

    /// The right side of `/`: a text that is a relative path.
    fn joined_part(&mut self, ctx: &mut Ctx, e: &Expr) -> Option<TypedExprKind> {
        let typed = self.infer(ctx, e)?;
        let typed = self.plain(typed)?;
        if typed.ty != Type::Text {
            let d = no_join("right of `/` stands a text", &typed);
            self.report(match &typed.ty {
                Type::Path => d.help("only what is on the left may be a path; declare this as a `Text`"),
                Type::Int | Type::Float => {
                    d.help(format!("write it as a text: \"{}\"", self.sources.text(e.span)))
                }
                _ => d,
            });
            return None;
        }
        let absolute =
            |t: &TypedExprKind| matches!(t, TypedExprKind::Const(Value::Text(t)) if t.starts_with('/'));
        let from_root = match &typed.kind {
            TypedExprKind::Var(v) => ctx.vars[*v].elements.iter().any(|(_, t)| absolute(t)),
            t => absolute(t),
        };
        if from_root {
            let d = Diagnostic::new(Code::E0218, "what is joined to a path does not start with `/`");
            self.report(d.at(typed.span, "an absolute path").help("leave the first `/` out"));
            return None;
        }
        Some(typed.kind)
    }
}

fn no_join(wanted: &str, typed: &TypedExpr) -> Diagnostic {
    let found = with_article(&typed.ty);
    Diagnostic::new(Code::E0218, format!("on the {wanted}, not {found}")).at(typed.span, found)
}

fn not_a_pattern(pattern: &TypedExpr) -> Diagnostic {
    if let Type::Path | Type::Text = pattern.ty {
        return Diagnostic::new(Code::E0201, "the pattern of `glob` cannot change with a loop variable")
            .at(pattern.span, "differs from element to element")
            .help("let one pattern match all of them, as in `glob(\"data/*/*.jsonl\")`");
    }
    Diagnostic::new(Code::E0201, format!("`glob` takes a text or a path, not {}", with_article(&pattern.ty)))
        .at(pattern.span, with_article(&pattern.ty))
}

/// A text below a path, joined at once where both are known.
fn below(of: TypedExprKind, part: TypedExprKind) -> TypedExprKind {
    match (of, part) {
        (TypedExprKind::Path(p), TypedExprKind::Const(Value::Text(t))) => TypedExprKind::Path(PathValue {
            written: loader::join(&p.written, &t).into(),
            resolved: loader::join(&p.resolved, &t).into(),
            globbed: p.globbed,
        }),
        (of, part) => TypedExprKind::Join(Box::new(of), Box::new(part)),
    }
}
