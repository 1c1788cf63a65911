//! Paths: `glob` and `/`.

use headstart_protocol::{Type, Value};

use super::typed::{OPEN, PathValue, TypedExpr, TypedExprKind, globbed};
use super::{Checker, Ctx};
use crate::ast::{Call, Expr, ExprKind};
use crate::codes::Code;
use crate::diagnostic::Diagnostic;
use crate::loader::{self, Listing};
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
        if self.is_no_path(ctx, &pattern.kind, pattern.span) {
            return None;
        }
        let listing = match self.loader.glob(&full) {
            Ok(listing) => listing,
            Err(why) => {
                let d = Diagnostic::new(Code::E0403, format!("cannot list `{full}`: {why}"));
                self.report(d.at(pattern.span, "this pattern"));
                return None;
            }
        };
        if listing.found.is_empty() && !full.contains(OPEN) {
            let d = Diagnostic::new(Code::W0004, format!("`{full}` matches nothing"))
                .at(pattern.span, "no such file or folder");
            let d = listing.left_out.iter().take(SHOWN).fold(d, |d, l| d.note(left_out(l)));
            self.report(d);
        }
        self.report_left_out(&full, pattern.span, &listing);
        let found = listing.found;
        let items = found
            .into_iter()
            .map(|p| (loader::stem(&p).to_owned(), TypedExprKind::Path(globbed(&p))))
            .collect();
        Some(TypedExpr { kind: TypedExprKind::List(items), ty: Type::Path.list(), span, literal: false })
    }

    /// Says what a pattern leaves out.
    pub(super) fn report_left_out(&mut self, pattern: &str, span: Span, listing: &Listing) {
        let count = listing.left_out.len();
        if count == 0 {
            return;
        }
        let d = Diagnostic::new(
            Code::N0001,
            format!("`{pattern}` leaves out {}", headstart_protocol::text::counted(count, "path")),
        )
        .at(span, format!("matches {}", headstart_protocol::text::counted(listing.found.len(), "path")));
        let d = listing.left_out.iter().take(SHOWN).fold(d, |d, l| d.note(left_out(l)));
        let d = match count > SHOWN {
            true => d.note(format!("and {} more", count - SHOWN)),
            false => d,
        };
        let hidden = listing.left_out.iter().any(|(_, why)| why.starts_with("hidden"));
        self.report(match hidden {
            true => d.help("to list hidden files, write the dot in the pattern, as in `.cache/*`"),
            false => d,
        });
    }

    /// Reports a value that is meant as a path and is none: an address, or a template.
    pub(super) fn is_no_path(&mut self, ctx: &Ctx, t: &TypedExprKind, span: Span) -> bool {
        let found = match t {
            TypedExprKind::Var(v) => ctx.vars[*v].elements.iter().find_map(|(_, t)| no_path(t)),
            TypedExprKind::List(items) => items.iter().find_map(|(_, t)| no_path(t)),
            t => no_path(t),
        };
        let Some(d) = found else { return false };
        self.report(d.at(span, "not a path"));
        true
    }

    /// `folder / "name"`, any number of times.
    pub(super) fn join(&mut self, ctx: &mut Ctx, all: &[Expr], span: Span) -> Option<TypedExpr> {
        let [first, rest @ ..] = all else { return None };
        let head = self.infer(ctx, first);
        let head = head.and_then(|h| self.plain(h)).and_then(|h| self.joined_path(ctx, h, first, rest));
        let head = head?;
        // Every part is checked, so that every error is reported.
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
        let d = no_join("a path on the left of `/`", &typed);
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
            let d = no_join("a text on the right of `/`", &typed);
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
            let d = Diagnostic::new(Code::E0218, "cannot join an absolute path to a path");
            self.report(d.at(typed.span, "an absolute path").help("leave the first `/` out"));
            return None;
        }
        if self.is_no_path(ctx, &typed.kind, typed.span) {
            return None;
        }
        Some(typed.kind)
    }
}

fn no_join(wanted: &str, typed: &TypedExpr) -> Diagnostic {
    let found = with_article(&typed.ty);
    Diagnostic::new(Code::E0218, format!("expected {wanted}, found {found}")).at(typed.span, found)
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

/// How many of the paths that are left out are listed.
const SHOWN: usize = 8;

fn left_out((path, why): &(String, String)) -> String {
    format!("`{path}` is left out: {why}")
}

/// What is wrong with a text that is meant as a path, if it cannot be one.
fn no_path(t: &TypedExprKind) -> Option<Diagnostic> {
    match t {
        TypedExprKind::Const(Value::Text(text)) => wrong_path(text),
        _ => None,
    }
}

/// What is wrong with a text that is meant as a path: an address, or braces that are meant to be
/// replaced.
pub(super) fn wrong_path(text: &str) -> Option<Diagnostic> {
    if let Some(scheme) = loader::scheme(text) {
        let d = Diagnostic::new(Code::E0404, format!("`{text}` is an address, not a path"));
        return Some(match scheme.to_ascii_lowercase().as_str() {
            "file" => d.help("write the path alone, without `file://`"),
            "hf" => d.note("addresses are not supported yet").help(
                "write `hf(\"owner/name\")` for a model, which is downloaded by itself; download other files and write their path",
            ),
            _ => d.note("addresses are not supported yet").help("download it, and write the path of the file"),
        });
    }
    let (name, rest) = placeholder(text)?;
    let d = Diagnostic::new(Code::E0405, format!("braces are not replaced in a text: `{text}`"))
        .note("there are no templates: a value is passed by its name");
    let components: Vec<&str> = text.split('/').collect();
    let whole = |c: &&str| placeholder(c).is_none_or(|(_, rest)| rest.is_empty());
    Some(match components.as_slice() {
        [_] if rest.is_empty() => d.help(format!("write the name alone: `{name}`")),
        // An absolute path has no first component to start from.
        [first, rest @ ..] if components.iter().all(whole) && !first.is_empty() => {
            let part = |c: &str| placeholder(c).map_or_else(|| format!("{c:?}"), |(name, _)| name.to_owned());
            let (first, rest): (String, Vec<String>) = match placeholder(first) {
                Some((name, _)) => (name.to_owned(), rest.iter().map(|c| part(c)).collect()),
                None => ("folder".to_owned(), rest.iter().map(|c| part(c)).collect()),
            };
            let joined = format!("`{first} / {}`", rest.join(" / "));
            match placeholder(components[0]) {
                Some(_) => d.help(format!("join paths with `/`: {joined}")),
                None => d.help(format!(
                    "join paths with `/`: {joined}, with `param folder: Path = {:?}`",
                    components[0]
                )),
            }
        }
        _ => d.help("list the paths, or let a pattern match them: `for x in glob(\"folder/*\")`"),
    })
}

/// The name in the first `{name}` or `${name}` of a text, and what is around it.
fn placeholder(text: &str) -> Option<(&str, String)> {
    let mut from = 0;
    while let Some(open) = text[from..].find('{').map(|i| i + from) {
        let inside = &text[open + 1..];
        let len = inside.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(inside.len());
        let name = &inside[..len];
        if inside[len..].starts_with('}') && name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') {
            let before = text[..open].strip_suffix('$').unwrap_or(&text[..open]);
            return Some((name, format!("{before}{}", &inside[len + 1..])));
        }
        from = open + 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn help(text: &str) -> Option<String> {
        wrong_path(text).map(|d| d.help.join("; "))
    }

    #[test]
    fn templates_are_rewritten() {
        let has = |text: &str, part: &str| {
            let help = help(text).expect(text);
            assert!(help.contains(part), "{text}: {help}");
        };
        has("models/{m}", "`folder / m`, with `param folder: Path = \"models\"`");
        has("models/{m}/x.jsonl", "`folder / m / \"x.jsonl\"`");
        has("{root}/a", "`root / \"a\"`");
        has("${m}", "`m`");
        has("a-{m}.jsonl", "glob");
        has("/abs/{m}", "glob");
        has("data/a-{m}", "glob");
        for fine in ["a{", "a}", "{}", "{1}", "a{b c}", "{{", "x{2}y", "models/a,b"] {
            assert_eq!(help(fine), None, "{fine}");
        }
    }
}
