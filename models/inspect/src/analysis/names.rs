//! What names a template binds. Each of them must mean one thing in all of it: a name that is a function here and
//! a variable there, or two macros, could be called where another is expected.

use std::collections::BTreeSet;

use minijinja::machinery::ast::{Expr, Stmt};

use super::line;

/// Names that can be called, or that the language itself gives a value. No template may bind them.
pub const RESERVED: [&str; 10] = [
    "raise_exception",
    "namespace",
    "range",
    "dict",
    "strftime_now",
    "debug",
    "caller",
    "self",
    "super",
    "loop",
];

/// What a template is given. A macro may not have such a name.
const GIVEN: [&str; 6] =
    ["messages", "tools", "documents", "add_generation_prompt", "bos_token", "eos_token"];

/// Why the names of a template may mean several things; none where each means one.
pub(super) fn ambiguous(statements: &[Stmt]) -> Option<String> {
    let mut names = Names::default();
    names.body(statements);
    if let Some(why) = names.why {
        return Some(why);
    }
    let both = names.macros.iter().find(|name| names.variables.contains(*name));
    both.map(|name| format!("`{name}` is a macro, and assigned to"))
}

#[derive(Default)]
struct Names {
    variables: BTreeSet<String>,
    macros: BTreeSet<String>,
    why: Option<String>,
}

impl Names {
    fn body(&mut self, statements: &[Stmt]) {
        statements.iter().for_each(|s| self.statement(s));
    }

    fn statement(&mut self, statement: &Stmt) {
        match statement {
            Stmt::Template(s) => self.body(&s.children),
            Stmt::EmitExpr(_) | Stmt::EmitRaw(_) | Stmt::Continue(_) | Stmt::Break(_) | Stmt::Do(_) => {}
            Stmt::ForLoop(s) => {
                self.bind(&s.target);
                self.body(&s.body);
                self.body(&s.else_body);
            }
            Stmt::IfCond(s) => {
                self.body(&s.true_body);
                self.body(&s.false_body);
            }
            Stmt::WithBlock(s) => {
                s.assignments.iter().for_each(|(target, _)| self.bind(target));
                self.body(&s.body);
            }
            Stmt::Set(s) => self.bind(&s.target),
            Stmt::SetBlock(s) => {
                self.bind(&s.target);
                self.body(&s.body);
            }
            Stmt::FilterBlock(s) => self.body(&s.body),
            Stmt::Macro(s) => {
                s.args.iter().for_each(|arg| self.bind(arg));
                self.body(&s.body);
                let at = s.span().start_line;
                if RESERVED.contains(&s.name) || GIVEN.contains(&s.name) {
                    self.refuse(format!("a macro is named `{}` (line {at})", s.name));
                } else if !self.macros.insert(s.name.to_owned()) {
                    self.refuse(format!("two macros are named `{}` (line {at})", s.name));
                }
            }
            // The analysis follows none of these, wherever they are.
            Stmt::AutoEscape(_)
            | Stmt::CallBlock(_)
            | Stmt::Block(_)
            | Stmt::Import(_)
            | Stmt::FromImport(_)
            | Stmt::Extends(_)
            | Stmt::Include(_) => {
                self.refuse("a statement that is not followed by this check".to_owned());
            }
        }
    }

    fn bind(&mut self, target: &Expr) {
        match target {
            Expr::Var(v) if RESERVED.contains(&v.id) => {
                self.refuse(format!("`{}` is assigned to (line {})", v.id, line(target)));
            }
            Expr::Var(v) => {
                self.variables.insert(v.id.to_owned());
            }
            Expr::List(list) => list.items.iter().for_each(|item| self.bind(item)),
            // A field of a namespace has no name of its own.
            Expr::GetAttr(_) => {}
            other => {
                self.refuse(format!("this assignment is not followed by this check (line {})", line(other)))
            }
        }
    }

    fn refuse(&mut self, why: String) {
        self.why.get_or_insert(why);
    }
}
