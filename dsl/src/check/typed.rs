//! Typed expressions: values with their names resolved, and what can be done with them alone.

use std::sync::Arc;

use headstart_protocol::expr::CompareOp;
use headstart_protocol::{Type, Value};

use crate::ast::{self, Number};
use crate::literal;
use crate::loader;
use crate::span::Span;

/// A typed expression.
#[derive(Clone, Debug)]
pub(super) struct TypedExpr {
    pub(super) kind: TypedExprKind,
    pub(super) ty: Type,
    pub(super) span: Span,
    /// Written as a literal text, so that it may also stand for a path.
    pub(super) literal: bool,
}

/// An expression with its names resolved; loop variables are still open.
#[derive(Clone, Debug)]
pub(super) enum TypedExprKind {
    Const(Value),
    /// Any value: that of an open parameter.
    Open,
    Path(PathValue),
    /// The only instance of an item.
    Item(usize),
    /// One instance of a fan-out.
    Instance(u32),
    /// All instances of a fan-out.
    All(usize),
    /// The instance of a fan-out with the key of a loop variable.
    Key(usize, usize),
    /// A loop variable.
    Var(usize),
    Float(Box<TypedExprKind>),
    /// A text taken as a path of the given folder.
    ToPath(Arc<str>, Box<TypedExprKind>),
    /// A path, and a text below it.
    Join(Box<TypedExprKind>, Box<TypedExprKind>),
    Field(Box<TypedExprKind>, String),
    Or(Vec<TypedExprKind>),
    Not(Box<TypedExprKind>),
    Compare(CompareOp, Box<TypedExprKind>, Box<TypedExprKind>),
    List(Vec<(String, TypedExprKind)>),
    Mix(Vec<Term>),
}

/// A path in two forms: a device gets it as written, the server relative to the file.
#[derive(Clone, Debug)]
pub(super) struct PathValue {
    pub(super) written: Arc<str>,
    pub(super) resolved: Arc<str>,
    /// Found on the engine's machine by `glob`.
    pub(super) globbed: bool,
}

/// A term of a mix: `sign * factors * pllm`.
#[derive(Clone, Debug)]
pub(super) struct Term {
    pub(super) sign: f64,
    pub(super) factors: Vec<TypedExprKind>,
    pub(super) pllm: TypedExprKind,
    pub(super) name: String,
    pub(super) span: Span,
}

/// A loop variable.
pub(super) struct Var {
    pub(super) name: ast::Name,
    pub(super) ty: Type,
    pub(super) literal: bool,
    /// Keys and values.
    pub(super) elements: Arc<Vec<(String, TypedExprKind)>>,
    /// Whether its texts were used as paths: then their keys are those of paths.
    pub(super) as_path: bool,
    /// Whether the elements are all known.
    pub(super) known: bool,
}

impl TypedExpr {
    pub(super) fn new(kind: TypedExprKind, ty: Type, span: Span) -> Self {
        Self { kind, ty, span, literal: false }
    }

    pub(super) fn value(value: Value, ty: Type, span: Span) -> Self {
        Self::new(TypedExprKind::Const(value), ty, span)
    }
}

pub(super) fn number(n: Number) -> (Value, Type) {
    match n {
        Number::Int(i) => (Value::Int(i), Type::Int),
        Number::Float(x) => (Value::Float(x), Type::Float),
        Number::Duration(ms) => (Value::Duration(ms), Type::Duration),
        Number::Bytes(b) => (Value::Bytes(b), Type::Bytes),
    }
}

pub(super) fn as_float(t: TypedExprKind) -> TypedExprKind {
    match t {
        TypedExprKind::Const(Value::Int(i)) => TypedExprKind::Const(Value::Float(i as f64)),
        TypedExprKind::List(items) => {
            TypedExprKind::List(items.into_iter().map(|(k, t)| (k, as_float(t))).collect())
        }
        t @ (TypedExprKind::Const(_) | TypedExprKind::Float(_)) => t,
        t => TypedExprKind::Float(Box::new(t)),
    }
}

/// A text as a path of the folder `dir`; the elements of a list then get the keys of paths.
pub(super) fn as_path(dir: &Arc<str>, t: TypedExprKind) -> TypedExprKind {
    match t {
        TypedExprKind::Const(Value::Text(text)) => {
            let resolved = loader::join(dir, &text).into();
            TypedExprKind::Path(PathValue { written: text.into(), resolved, globbed: false })
        }
        TypedExprKind::List(items) => {
            let each = items.into_iter().map(|(k, t)| (loader::stem(&k).to_owned(), as_path(dir, t)));
            TypedExprKind::List(each.collect())
        }
        t => TypedExprKind::ToPath(dir.clone(), Box::new(t)),
    }
}

pub(super) fn text_of(t: &TypedExprKind) -> Option<String> {
    match t {
        TypedExprKind::Const(Value::Text(t)) => Some(t.clone()),
        _ => None,
    }
}

/// Whether a value of type `ty` may stand where `want` is wanted: an integer for a float, a literal
/// text for a path, the empty list for any list.
pub(super) fn converts(ty: &Type, want: &Type, typed: &TypedExpr) -> bool {
    match (ty, want) {
        (Type::Int, Type::Float) => true,
        (Type::Text, Type::Path) => typed.literal,
        (Type::List(a), Type::List(b)) => {
            let empty = matches!(&typed.kind, TypedExprKind::List(items) if items.is_empty());
            empty || (matches!(typed.kind, TypedExprKind::List(_)) && (a == b || converts(a, b, typed)))
        }
        _ => false,
    }
}

/// A path that was found on the engine's machine.
pub(super) fn globbed(path: &str) -> PathValue {
    PathValue { written: path.into(), resolved: path.into(), globbed: true }
}

/// What an open text, path or key says; it is taken for any other.
pub(super) const OPEN: &str = "…";

/// A value that stands for any of its type. A list has one element, which stands for any number.
pub(super) fn open_value(ty: &Type) -> TypedExprKind {
    match ty {
        Type::List(of) => TypedExprKind::List(vec![(OPEN.to_owned(), open_value(of))]),
        Type::Text => TypedExprKind::Const(Value::Text(OPEN.to_owned())),
        Type::Path => {
            TypedExprKind::Path(PathValue { written: OPEN.into(), resolved: OPEN.into(), globbed: false })
        }
        Type::Bool => TypedExprKind::Const(Value::Bool(true)),
        Type::Int => TypedExprKind::Const(Value::Int(1)),
        Type::Float => TypedExprKind::Const(Value::Float(0.5)),
        Type::Duration => TypedExprKind::Const(Value::Duration(60_000)),
        Type::Bytes => TypedExprKind::Const(Value::Bytes(1 << 30)),
        _ => TypedExprKind::Open,
    }
}

/// Whether a key holds that of an open list's element.
pub(super) fn is_open(key: &str) -> bool {
    key.split(',').any(|k| k == OPEN)
}

pub(super) fn is_const(t: &TypedExprKind) -> bool {
    match t {
        TypedExprKind::Const(_) | TypedExprKind::Path(_) => true,
        TypedExprKind::List(items) => items.iter().all(|(_, t)| is_const(t)),
        TypedExprKind::Float(t) | TypedExprKind::ToPath(_, t) => is_const(t),
        TypedExprKind::Join(l, r) => is_const(l) && is_const(r),
        _ => false,
    }
}

/// How many elements of a list are shown.
const SHOWN: usize = 8;

pub(super) fn show(t: &TypedExprKind) -> String {
    match t {
        TypedExprKind::Path(p) => p.resolved.to_string(),
        TypedExprKind::Const(Value::Text(t)) => t.clone(),
        TypedExprKind::Const(Value::Absent) => "none".to_owned(),
        TypedExprKind::Const(Value::Duration(ms)) => literal::show_duration(*ms),
        TypedExprKind::Const(Value::Bytes(b)) => literal::show_bytes(*b),
        TypedExprKind::Const(v) => v.describe(),
        TypedExprKind::List(items) => {
            let mut parts: Vec<String> = items.iter().take(SHOWN).map(|(_, t)| show(t)).collect();
            if items.len() > SHOWN {
                parts.push(format!("and {} more", items.len() - SHOWN));
            }
            parts.join(", ")
        }
        TypedExprKind::Float(t) | TypedExprKind::ToPath(_, t) => show(t),
        _ => "…".to_owned(),
    }
}
