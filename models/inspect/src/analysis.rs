//! Whether what a message says can change what a chat template does.
//!
//! Values are followed through the template by kind, without running it. A name means one thing in all of the
//! template: a function, a macro, or a variable whose kind is the join of what it begins with and of all that is
//! assigned to it. So neither order nor scopes matter; passes are made until no kind changes. A value that may
//! be a message or something else is of the kind that nothing may be done with.
//!
//! What a message says may be written, joined to other text, assigned, trimmed of white space, and written as
//! JSON once: that is what can be seen where it is rendered (`text/opaque.rs` of `models/lm`), which gives the
//! template a mark in place of the text. Whatever else is done with it, and whatever is not understood, counts
//! as a condition.
//!
//! A branch that is never taken is not followed: the keys that a message does not have and `tools` and
//! `documents`, as long as nothing is ever assigned to them, are false, and a role that was compared before is
//! known in the branches behind it.

mod branches;
mod expressions;
mod kinds;
mod names;

use minijinja::machinery::ast::{Expr, ForLoop, IfCond, Macro, Stmt};
use minijinja::machinery::{WhitespaceConfig, parse};

use crate::template::{LONGEST, executed};
use branches::Fact;
use kinds::{Kind, Kinds};
pub use names::RESERVED;

/// Passes over a template at most; each raises a kind, and published templates take three or four.
const PASSES: usize = 100;

/// Why a template may treat a message differently by what it says; none where it is known not to.
pub fn judge(source: &str) -> Option<String> {
    if source.len() > LONGEST {
        return Some(format!("it is longer than {LONGEST} bytes"));
    }
    let source = executed(source);
    let whitespace = WhitespaceConfig { trim_blocks: true, lstrip_blocks: true, ..Default::default() };
    let parsed = match parse(&source, "chat", Default::default(), whitespace) {
        Ok(Stmt::Template(parsed)) => parsed,
        Ok(_) => return Some("it is no template".to_owned()),
        Err(e) => return Some(format!("it cannot be read: {e}")),
    };
    if let Some(why) = names::ambiguous(&parsed.children) {
        return Some(why);
    }
    let mut kinds = Kinds::given();
    for _ in 0..PASSES {
        let before = kinds.clone();
        let mut pass = Pass { kinds: &mut kinds, facts: Vec::new(), why: None };
        pass.body(&parsed.children);
        let why = pass.why;
        if kinds == before {
            return why;
        }
    }
    Some("it is too intricate to be understood".to_owned())
}

/// One pass over a template.
struct Pass<'k> {
    kinds: &'k mut Kinds,
    /// What is known of roles here.
    facts: Vec<Fact>,
    /// The first thing done with content that may be a condition.
    why: Option<String>,
}

impl Pass<'_> {
    /// Notes that content decides something, at a line of the template.
    fn conditional(&mut self, what: impl Into<String>, line: impl Into<u32>) -> Kind {
        if self.why.is_none() {
            self.why = Some(format!("{} (line {})", what.into(), line.into()));
        }
        Kind::Clean
    }

    /// Follows statements; what they write.
    fn body(&mut self, statements: &[Stmt]) -> Kind {
        statements.iter().fold(Kind::Clean, |written, s| written.join(self.statement(s)))
    }

    fn statement(&mut self, statement: &Stmt) -> Kind {
        match statement {
            Stmt::Template(s) => self.body(&s.children),
            Stmt::EmitRaw(_) | Stmt::Continue(_) | Stmt::Break(_) => Kind::Clean,
            Stmt::EmitExpr(s) => match self.value(&s.expr) {
                kind if kind.is_plain() => kind.written(),
                _ => self.conditional("it writes a whole message", line(&s.expr)),
            },
            Stmt::ForLoop(s) => self.for_loop(s),
            Stmt::IfCond(s) => self.branches(s),
            Stmt::WithBlock(s) => {
                for (target, value) in &s.assignments {
                    let kind = self.value(value);
                    self.assign(target, kind);
                }
                self.body(&s.body)
            }
            Stmt::Set(s) => {
                let kind = self.value(&s.expr);
                self.assign(&s.target, kind);
                Kind::Clean
            }
            Stmt::SetBlock(s) => {
                let written = self.body(&s.body);
                let kind = match &s.filter {
                    None => written,
                    Some(filter) => self.filtered(filter, written),
                };
                self.assign(&s.target, kind);
                Kind::Clean
            }
            Stmt::FilterBlock(s) => {
                let written = self.body(&s.body);
                self.filtered(&s.filter, written).written()
            }
            Stmt::Macro(s) => {
                self.define(s);
                Kind::Clean
            }
            Stmt::Do(s) => {
                self.call(&s.call, s.span().start_line);
                Kind::Clean
            }
            Stmt::AutoEscape(s) => self.unknown("autoescape", s.span().start_line),
            Stmt::CallBlock(s) => self.unknown("a call block", s.span().start_line),
            Stmt::Block(s) => self.unknown("a block", s.span().start_line),
            Stmt::Import(s) => self.unknown("an import", s.span().start_line),
            Stmt::FromImport(s) => self.unknown("an import", s.span().start_line),
            Stmt::Extends(s) => self.unknown("inheritance", s.span().start_line),
            Stmt::Include(s) => self.unknown("an include", s.span().start_line),
        }
    }

    fn branches(&mut self, s: &IfCond) -> Kind {
        let known = self.truth(&s.expr);
        let mut written = Kind::Clean;
        for (taken, body) in [(true, &s.true_body), (false, &s.false_body)] {
            if known != Some(!taken) {
                let before = self.facts.len();
                self.assume(&s.expr, taken);
                written = written.join(self.body(body));
                self.facts.truncate(before);
            }
        }
        written
    }

    fn unknown(&mut self, what: &str, line: impl Into<u32>) -> Kind {
        self.conditional(format!("{what} is not followed by this check"), line)
    }

    fn for_loop(&mut self, s: &ForLoop) -> Kind {
        let items = self.value(&s.iter);
        let item = match items {
            Kind::Messages => Kind::Message,
            // Keys of a message are fixed.
            Kind::Clean | Kind::Absent | Kind::Message => Kind::Clean,
            _ => self.conditional("what a message says decides how often a loop runs", line(&s.iter)),
        };
        if s.recursive {
            self.unknown("a recursive loop", line(&s.iter));
        }
        // What is known of a message may not be known of the next.
        let facts = std::mem::take(&mut self.facts);
        match (&s.target, item) {
            (Expr::Var(_), item) => self.assign(&s.target, item),
            (_, Kind::Clean) => self.assign(&s.target, Kind::Clean),
            _ => {
                self.unknown("a message that is taken apart", line(&s.target));
            }
        }
        self.kinds.loops_over(item);
        if let Some(filter) = &s.filter_expr {
            self.truth(filter);
        }
        // The truth of the iterated value is not asked: both bodies may run.
        let written = self.body(&s.body).join(self.body(&s.else_body));
        self.facts = facts;
        written
    }

    /// Joins what is assigned to a variable, a field of a namespace, or several of them.
    fn assign(&mut self, target: &Expr, kind: Kind) {
        // A variable that held a message may hold another now.
        self.facts.clear();
        match target {
            Expr::Var(v) => self.kinds.raise(v.id, kind),
            Expr::GetAttr(a) => match &a.expr {
                Expr::Var(_) if kind.is_plain() => self.kinds.raise(&kinds::field(a.name), kind),
                _ => {
                    self.conditional("a message is put into a namespace", a.span().start_line);
                }
            },
            Expr::List(list) if kind == Kind::Clean => {
                for target in &list.items {
                    self.assign(target, Kind::Clean);
                }
            }
            other => {
                self.unknown("this assignment", line(other));
            }
        }
    }

    /// A macro is followed once, with the join of the arguments of all calls.
    fn define(&mut self, s: &Macro) {
        for default in &s.defaults {
            if self.value(default) != Kind::Clean {
                self.unknown("a default that holds content", line(default));
            }
        }
        let facts = std::mem::take(&mut self.facts);
        let names: Vec<String> = s
            .args
            .iter()
            .map(|arg| match arg {
                Expr::Var(v) => v.id.to_owned(),
                _ => String::new(),
            })
            .collect();
        let written = self.body(&s.body);
        self.facts = facts;
        // Defaults, which may be anything that is clean, are those of the last parameters.
        for name in names.iter().rev().take(s.defaults.len()) {
            self.kinds.raise(name, Kind::Clean);
        }
        self.kinds.define(s.name, names, written);
    }
}

/// The line of an expression.
fn line(e: &Expr) -> u32 {
    u32::from(e.span().start_line)
}

#[cfg(test)]
mod tests;
