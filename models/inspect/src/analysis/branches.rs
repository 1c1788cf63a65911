//! Which branches are taken, as far as that is known.

use minijinja::machinery::ast::{BinOpKind, Expr, UnaryOpKind};

use super::kinds::Kind;
use super::{Pass, line};
use crate::template::{CONTENT, ROLE};

/// That the role of the message in a variable is a word, or is not.
pub(super) struct Fact {
    variable: String,
    role: String,
    holds: bool,
}

impl Pass<'_> {
    /// Whether a condition holds, where that is always the same. Notes where content decides it.
    pub(super) fn truth(&mut self, e: &Expr) -> Option<bool> {
        match e {
            Expr::Const(c) => return Some(c.value.is_true()),
            Expr::UnaryOp(op) if matches!(op.op, UnaryOpKind::Not) => {
                return self.truth(&op.expr).map(|holds| !holds);
            }
            Expr::BinOp(op) if matches!(op.op, BinOpKind::ScAnd | BinOpKind::ScOr) => {
                let decides = matches!(op.op, BinOpKind::ScOr);
                let left = self.truth(&op.left);
                if left == Some(decides) {
                    return left;
                }
                let right = self.truth(&op.right);
                return if right == Some(decides) || left == right { right } else { None };
            }
            _ => {}
        }
        if let Some((variable, role, equal)) = self.role_compared(e)
            && let Some(holds) = self.known(variable, &role)
        {
            return Some(holds == equal);
        }
        if let Some(holds) = self.tested(e) {
            return Some(holds);
        }
        match self.value(e) {
            Kind::Absent => Some(false),
            Kind::Clean | Kind::Message | Kind::Messages | Kind::Loop | Kind::Namespace => None,
            Kind::Text | Kind::Json | Kind::Mixed => {
                self.conditional("what a message says decides a condition", line(e));
                None
            }
        }
    }

    /// What is known where a condition holds, or does not.
    pub(super) fn assume(&mut self, e: &Expr, holds: bool) {
        match e {
            Expr::UnaryOp(op) if matches!(op.op, UnaryOpKind::Not) => self.assume(&op.expr, !holds),
            Expr::BinOp(op) if matches!(op.op, BinOpKind::ScAnd | BinOpKind::ScOr) => {
                // Both sides of an `and` that holds do; of one that does not hold, one side alone is known
                // where the other holds always. `or` likewise, the other way round.
                let both = matches!(op.op, BinOpKind::ScAnd) == holds;
                let why = self.why.take();
                let (left, right) = (self.truth(&op.left), self.truth(&op.right));
                self.why = why;
                if both || left == Some(!holds) {
                    self.assume(&op.right, holds);
                }
                if both || right == Some(!holds) {
                    self.assume(&op.left, holds);
                }
            }
            _ => {
                if let Some((variable, role, equal)) = self.role_compared(e) {
                    let fact = Fact { variable: variable.to_owned(), role, holds: holds == equal };
                    self.facts.push(fact);
                }
            }
        }
    }

    fn known(&self, variable: &str, role: &str) -> Option<bool> {
        self.facts.iter().filter(|f| f.variable == variable).find_map(|f| match (f.role == role, f.holds) {
            (true, holds) => Some(holds),
            // It is another word.
            (false, true) => Some(false),
            (false, false) => None,
        })
    }

    /// `message.role == "word"`: the variable, the word, and whether equality is asked for.
    fn role_compared<'e>(&self, e: &'e Expr) -> Option<(&'e str, String, bool)> {
        let Expr::BinOp(op) = e else { return None };
        let equal = match op.op {
            BinOpKind::Eq => true,
            BinOpKind::Ne => false,
            _ => return None,
        };
        let role_of = |e: &'e Expr| {
            let (of, name) = key_of(e)?;
            let Expr::Var(v) = of else { return None };
            (name == ROLE && self.kinds.get(v.id) == Kind::Message).then_some(v.id)
        };
        let word = |e: &Expr| match e {
            Expr::Const(c) => c.value.as_str().map(str::to_owned),
            _ => None,
        };
        let (variable, role) = match (role_of(&op.left), role_of(&op.right)) {
            (Some(variable), None) => (variable, word(&op.right)?),
            (None, Some(variable)) => (variable, word(&op.left)?),
            _ => return None,
        };
        Some((variable, role, equal))
    }

    /// A test of a type whose outcome is always the same: what a message says is a text.
    fn tested(&self, e: &Expr) -> Option<bool> {
        let Expr::Test(test) = e else { return None };
        let (of, name) = key_of(&test.expr)?;
        let is_message = match of {
            Expr::Var(v) => self.kinds.get(v.id) == Kind::Message,
            _ => false,
        };
        if !is_message || name != CONTENT || !self.kinds.all_given() {
            return None;
        }
        match test.name {
            "string" | "defined" => Some(true),
            "mapping" | "none" | "undefined" | "number" | "boolean" => Some(false),
            _ => None,
        }
    }
}

/// `of.name` or `of["name"]`.
pub(super) fn key_of<'e, 'a>(e: &'e Expr<'a>) -> Option<(&'e Expr<'a>, &'e str)> {
    match e {
        Expr::GetAttr(a) => Some((&a.expr, a.name)),
        Expr::GetItem(i) => match &i.subscript_expr {
            Expr::Const(c) => c.value.as_str().map(|name| (&i.expr, name)),
            _ => None,
        },
        _ => None,
    }
}
