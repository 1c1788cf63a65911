//! What expressions come to.

use minijinja::machinery::ast::{
    BinOpKind, Call, CallArg, CallType, Const, Expr, Filter, IfExpr, List, Map, Test, UnaryOpKind,
};
use minijinja::value::ValueKind;

use super::branches::key_of;
use super::kinds::{self, Kind};
use super::names::RESERVED;
use super::{Pass, line};
use crate::template::{CONTENT, ROLE};

/// Filters that leave a text as it is, but for white space at its ends.
const PLAIN_FILTERS: [&str; 3] = ["trim", "string", "safe"];
/// Methods of a text that take white space off its ends.
const TRIMS: [&str; 4] = ["strip", "lstrip", "rstrip", "trim"];
/// Functions that see nothing but their arguments.
const FUNCTIONS: [&str; 5] = ["raise_exception", "namespace", "range", "dict", "strftime_now"];
/// Tests that ask for the type of a value alone.
const TYPE_TESTS: [&str; 12] = [
    "defined",
    "undefined",
    "none",
    "string",
    "mapping",
    "iterable",
    "sequence",
    "number",
    "boolean",
    "true",
    "false",
    "integer",
];

impl Pass<'_> {
    /// The kind of an expression's value. Notes where content decides it.
    pub(super) fn value(&mut self, e: &Expr) -> Kind {
        match e {
            Expr::Const(_) => Kind::Clean,
            Expr::Var(v) if self.is_callable(v.id) => {
                self.conditional("a function or macro is used as a value", line(e))
            }
            Expr::Var(v) => self.kinds.get(v.id),
            Expr::GetAttr(_) | Expr::GetItem(_) => self.item(e),
            Expr::Slice(s) => {
                for bound in [&s.start, &s.stop, &s.step].into_iter().flatten() {
                    self.clean(bound, "a slice");
                }
                match self.value(&s.expr) {
                    kind @ (Kind::Clean | Kind::Absent | Kind::Messages) => kind,
                    _ => self.conditional("what a message says is cut into pieces", line(e)),
                }
            }
            Expr::UnaryOp(op) => match op.op {
                UnaryOpKind::Not => {
                    self.truth(&op.expr);
                    Kind::Clean
                }
                UnaryOpKind::Neg => self.clean(&op.expr, "arithmetic"),
            },
            Expr::BinOp(op) => self.operation(op.op, &op.left, &op.right, e),
            Expr::Compare(c) => {
                self.clean(&c.expr, "a comparison");
                for op in &c.ops {
                    self.clean(&op.expr, "a comparison");
                }
                Kind::Clean
            }
            Expr::IfExpr(i) => self.one_of_two(i),
            Expr::Filter(f) => {
                let kind = f.expr.as_ref().map_or(Kind::Clean, |e| self.value(e));
                self.filter(f, kind, line(e))
            }
            Expr::Test(t) => self.test(t, line(e)),
            Expr::Call(c) => self.call(c, line(e)),
            Expr::List(l) => self.list(l, line(e)),
            Expr::Map(m) => self.map(m, line(e)),
        }
    }

    fn one_of_two(&mut self, e: &IfExpr) -> Kind {
        let known = self.truth(&e.test_expr);
        let mut kind = None;
        if known != Some(false) {
            kind = Some(self.value(&e.true_expr));
        }
        if known != Some(true) {
            let other = e.false_expr.as_ref().map_or(Kind::Clean, |other| self.value(other));
            kind = Some(kind.map_or(other, |kind| kind.join(other)));
        }
        kind.unwrap_or(Kind::Mixed)
    }

    fn list(&mut self, list: &List, line: u32) -> Kind {
        let kinds = list.items.iter().map(|item| self.value(item)).collect::<Vec<_>>();
        if kinds.iter().all(|k| k.is_clean()) {
            Kind::Clean
        } else if kinds.iter().all(|k| k.is_clean() || *k == Kind::Message) {
            self.kinds.makes_message();
            Kind::Messages
        } else {
            self.conditional("what a message says is put into a list", line)
        }
    }

    /// Whether a name can be called: as a value it could be called where the call is not followed.
    fn is_callable(&self, name: &str) -> bool {
        self.kinds.macro_of(name).is_some() || (name != "loop" && RESERVED.contains(&name))
    }

    /// Something that must not depend on what a message says.
    fn clean(&mut self, e: &Expr, what: &str) -> Kind {
        if !self.value(e).is_clean() {
            self.conditional(format!("what a message says decides {what}"), line(e));
        }
        Kind::Clean
    }

    /// `of.name`, `of[item]`.
    fn item(&mut self, e: &Expr) -> Kind {
        let (of, subscript) = match e {
            Expr::GetAttr(a) => (&a.expr, None),
            Expr::GetItem(i) => (&i.expr, Some(&i.subscript_expr)),
            _ => return Kind::Mixed,
        };
        let name = key_of(e).map(|(_, name)| name);
        let kind = self.value(of);
        if let (Some(subscript), None) = (subscript, name) {
            self.clean(subscript, "an index");
        }
        match (kind, name) {
            (Kind::Clean, _) => Kind::Clean,
            (Kind::Absent, _) => Kind::Absent,
            (Kind::Message, Some(ROLE)) => Kind::Clean,
            (Kind::Message, Some(CONTENT) | None) => Kind::Text,
            (Kind::Message, Some(_)) => self.other_key(),
            (Kind::Messages, None) => Kind::Message,
            (Kind::Loop, Some("previtem" | "nextitem")) => self.kinds.item(),
            (
                Kind::Loop,
                Some(
                    "index" | "index0" | "revindex" | "revindex0" | "first" | "last" | "length" | "depth"
                    | "depth0",
                ),
            ) => Kind::Clean,
            (Kind::Namespace, Some(name)) => self.kinds.get(&kinds::field(name)),
            _ => self.conditional("what a message says is looked into", line(e)),
        }
    }

    /// What stands under a key of a message that is neither its role nor its content: a message that was
    /// given has no other.
    fn other_key(&self) -> Kind {
        if self.kinds.all_given() { Kind::Absent } else { Kind::Clean }
    }

    fn operation(&mut self, op: BinOpKind, left: &Expr, right: &Expr, e: &Expr) -> Kind {
        match op {
            BinOpKind::ScAnd | BinOpKind::ScOr => {
                // The value is one of the two sides; which one is the truth of the left.
                self.truth(left);
                let (left, right) = (self.value(left), self.value(right));
                left.join(right)
            }
            BinOpKind::Add | BinOpKind::Concat => match (self.value(left), self.value(right)) {
                (a, b) if a.is_plain() && b.is_plain() => a.join(b).join(Kind::Clean),
                // `~` writes both as a text.
                _ if matches!(op, BinOpKind::Concat) => {
                    self.conditional("a whole message is written", line(e))
                }
                (Kind::Messages, Kind::Messages) => Kind::Messages,
                (Kind::Messages, other) | (other, Kind::Messages) if other.is_clean() => {
                    self.kinds.makes_message();
                    Kind::Messages
                }
                _ => self.conditional("a message is joined to something else", line(e)),
            },
            BinOpKind::Eq | BinOpKind::Ne => {
                let (a, b) = (self.value(left), self.value(right));
                // A text is never equal to a value of another type.
                let other_type = |e: &Expr| match e {
                    Expr::Const(c) => is_no_text(c),
                    _ => false,
                };
                let fine = (a.is_clean() && b.is_clean())
                    || (a.is_text() && other_type(right))
                    || (b.is_text() && other_type(left));
                if !fine {
                    self.conditional("what a message says is compared", line(e));
                }
                Kind::Clean
            }
            BinOpKind::In => {
                self.clean(left, "a search");
                match self.value(right) {
                    // The keys of a message are fixed.
                    Kind::Clean | Kind::Absent | Kind::Message => Kind::Clean,
                    _ => self.conditional("what a message says is searched", line(e)),
                }
            }
            _ => {
                self.clean(left, "arithmetic or a comparison");
                self.clean(right, "arithmetic or a comparison")
            }
        }
    }

    fn filter(&mut self, f: &Filter, kind: Kind, line: u32) -> Kind {
        let first = match f.args.first() {
            Some(CallArg::Pos(Expr::Const(c))) => c.value.as_str(),
            Some(CallArg::Kwarg("attribute", Expr::Const(c))) => c.value.as_str(),
            _ => None,
        };
        self.clean_args(&f.args, "a filter");
        match (kind, f.name) {
            (Kind::Clean | Kind::Absent, _) => Kind::Clean,
            (Kind::Text | Kind::Json, name) if PLAIN_FILTERS.contains(&name) && f.args.is_empty() => kind,
            // Each time it is written as JSON, its quotation marks become more.
            (Kind::Text, "tojson") if f.args.is_empty() => Kind::Json,
            (Kind::Json, "tojson") => self.conditional("what a message says is written as JSON twice", line),
            (Kind::Messages, "length" | "count") => Kind::Clean,
            (Kind::Messages, "list" | "reverse") => Kind::Messages,
            (Kind::Messages, "first" | "last") => Kind::Message,
            (Kind::Messages, "selectattr" | "rejectattr") if first.is_some_and(is_other_key) => {
                Kind::Messages
            }
            (Kind::Messages, "map") if first.is_some_and(is_other_key) && is_attribute(&f.args) => {
                Kind::Clean
            }
            (_, name) => self.conditional(format!("what a message says goes through `{name}`"), line),
        }
    }

    /// A chain of filters over a block: its innermost has no operand.
    pub(super) fn filtered(&mut self, e: &Expr, written: Kind) -> Kind {
        match e {
            Expr::Filter(f) => {
                let kind = f.expr.as_ref().map_or(written, |inner| self.filtered(inner, written));
                self.filter(f, kind, line(e))
            }
            other => self.conditional("a filter that is not followed", line(other)),
        }
    }

    fn test(&mut self, t: &Test, line: u32) -> Kind {
        self.clean_args(&t.args, "a test");
        if let Expr::Var(v) = &t.expr
            && self.is_callable(v.id)
            && matches!(t.name, "defined" | "undefined")
        {
            return Kind::Clean;
        }
        let kind = self.value(&t.expr);
        let by_type = TYPE_TESTS.contains(&t.name) && t.args.is_empty();
        if !(kind.is_clean() || (by_type && kind != Kind::Mixed)) {
            self.conditional(format!("what a message says is tested by `{}`", t.name), line);
        }
        Kind::Clean
    }

    pub(super) fn call(&mut self, c: &Call, line: impl Into<u32>) -> Kind {
        let line = line.into();
        match c.identify_call() {
            CallType::Function(name) if self.kinds.macro_of(name).is_some() => self.call_macro(name, c, line),
            CallType::Function("namespace") => {
                for arg in &c.args {
                    match arg {
                        CallArg::Kwarg(name, e) => match self.value(e) {
                            kind if kind.is_plain() => self.kinds.raise(&kinds::field(name), kind),
                            _ => {
                                self.conditional("a message is put into a namespace", line);
                            }
                        },
                        _ => {
                            self.conditional("a namespace begins with fields that are not known", line);
                        }
                    }
                }
                Kind::Namespace
            }
            CallType::Function(name) if FUNCTIONS.contains(&name) => {
                self.clean_args(&c.args, "a function");
                Kind::Clean
            }
            CallType::Function(name) => {
                self.conditional(format!("the function `{name}` is not known to this check"), line)
            }
            CallType::Method(of, name) => self.method(of, name, &c.args, line),
            CallType::Block(_) | CallType::Object(_) => {
                self.conditional("this call is not followed by this check", line)
            }
        }
    }

    fn method(&mut self, of: &Expr, name: &str, args: &[CallArg], line: u32) -> Kind {
        self.clean_args(args, "a method");
        let first = match args.first() {
            Some(CallArg::Pos(Expr::Const(c))) => c.value.as_str(),
            _ => None,
        };
        match (self.value(of), name) {
            (Kind::Clean | Kind::Absent, _) => Kind::Clean,
            (kind @ (Kind::Text | Kind::Json), name) if TRIMS.contains(&name) && args.is_empty() => kind,
            (Kind::Message, "get") if args.len() == 1 => match first {
                Some(ROLE) => Kind::Clean,
                Some(CONTENT) => Kind::Text,
                Some(_) => self.other_key(),
                None => Kind::Text,
            },
            (Kind::Loop, "cycle") => Kind::Clean,
            (_, name) => self.conditional(format!("what a message says goes through `{name}()`"), line),
        }
    }

    fn call_macro(&mut self, name: &str, c: &Call, line: u32) -> Kind {
        let Some(known) = self.kinds.macro_of(name).cloned() else { return Kind::Mixed };
        for (i, arg) in c.args.iter().enumerate() {
            let (param, e) = match arg {
                CallArg::Pos(e) => (known.params.get(i).map(String::as_str), e),
                CallArg::Kwarg(param, e) => (Some(*param), e),
                CallArg::PosSplat(e) | CallArg::KwargSplat(e) => (None, e),
            };
            let kind = self.value(e);
            match param {
                Some(param) => self.kinds.raise(param, kind),
                None if kind.is_clean() => {}
                None => {
                    self.conditional("a macro gets arguments that are not followed", line);
                }
            }
        }
        known.written
    }

    fn map(&mut self, m: &Map, line: u32) -> Kind {
        let (mut message, mut clean_keys) = (false, true);
        for (key, value) in m.keys.iter().zip(&m.values) {
            self.clean(key, "a key");
            let kind = self.value(value);
            let name = match key {
                Expr::Const(c) => c.value.as_str(),
                _ => None,
            };
            match kind {
                kind if kind.is_clean() && name.is_some() => {}
                kind if kind.is_clean() => clean_keys = false,
                Kind::Text if name == Some(CONTENT) => message = true,
                _ => {
                    return self.conditional("what a message says is put into a dictionary", line);
                }
            }
        }
        match (message, clean_keys) {
            (false, _) => Kind::Clean,
            (true, true) => {
                self.kinds.makes_message();
                Kind::Message
            }
            (true, false) => self.conditional("a message is made with keys that are not known", line),
        }
    }

    fn clean_args(&mut self, args: &[CallArg], what: &str) {
        for arg in args {
            let (CallArg::Pos(e) | CallArg::Kwarg(_, e) | CallArg::PosSplat(e) | CallArg::KwargSplat(e)) =
                arg;
            self.clean(e, &format!("an argument of {what}"));
        }
    }
}

fn is_no_text(c: &Const) -> bool {
    matches!(c.value.kind(), ValueKind::Bool | ValueKind::None | ValueKind::Number)
}

/// Whether an attribute is none of the content: minijinja takes `content.7` for a path.
fn is_other_key(key: &str) -> bool {
    key != CONTENT && !key.contains('.')
}

/// `map(attribute="key")`: the other form calls a filter.
fn is_attribute(args: &[CallArg]) -> bool {
    matches!(args, [CallArg::Kwarg("attribute", _)])
}
