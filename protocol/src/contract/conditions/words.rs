//! Expressions in words, as conditions have them.

use std::fmt::Write;

use super::{Judged, LONGEST_CONDITION, Open, Source};
use crate::digest::canonical_json;
use crate::expr::{Condition, Expr, Value};

pub(super) fn condition(c: &Condition) -> String {
    format!("{} {} {}", word(&c.metric), c.op.symbol(), number(c.bound))
}

/// A number with 15 digits: the last bits of one can change on its way as JSON.
pub(in super::super) fn number(x: f64) -> String {
    let digits: f64 = format!("{x:.14e}").parse().unwrap_or(x);
    digits.to_string()
}

/// An expression being written down. It stops where it is longer than a condition may be.
pub(super) struct Words<'a> {
    judged: Judged<'a>,
    text: String,
}

impl<'a> Words<'a> {
    /// An expression in words, as far as its parts are known.
    pub(super) fn of(expr: &Expr, judged: Judged<'a>) -> Result<String, Open> {
        let mut words = Self { judged, text: String::new() };
        words.expr(expr, false)?;
        Ok(words.text)
    }

    fn put(&mut self, text: &str) {
        if !self.is_full() {
            self.text.push_str(text);
        }
    }

    fn is_full(&self) -> bool {
        self.text.len() > LONGEST_CONDITION
    }

    fn named(&mut self, source: Source) {
        let (Source::Private(name) | Source::Public(name)) = source;
        self.put(&name);
    }

    /// Writes an expression, as far as its parts are known.
    fn expr(&mut self, expr: &Expr, inside: bool) -> Result<(), Open> {
        if self.is_full() {
            return Ok(());
        }
        let bracketed = inside && matches!(expr, Expr::Or { .. } | Expr::Compare { .. } | Expr::Not { .. });
        if bracketed {
            self.put("(");
        }
        match expr {
            Expr::Value { value } => self.value(value),
            Expr::Output { instance } => {
                let source = self.judged.output(*instance)?;
                self.named(source);
            }
            // What a field of a public output is, a task says as a value.
            Expr::Field { of, .. } if !self.judged.is_private(of) => return Err(Open),
            Expr::Field { of, name } => {
                self.expr(of, true)?;
                self.put(".");
                self.put(&word(name));
            }
            Expr::Or { first, second } => self.both(first, "or", second)?,
            Expr::Compare { op, left, right } => self.both(left, op.symbol(), right)?,
            Expr::Not { of } => {
                self.put("not ");
                self.expr(of, true)?;
            }
            Expr::List { items } => {
                self.put("[");
                for (i, (key, e)) in items.iter().enumerate() {
                    self.key(i, key);
                    self.expr(e, false)?;
                }
                self.put("]");
            }
            Expr::Mix { terms } => {
                self.put("(");
                for (i, (weight, _, e)) in terms.iter().enumerate() {
                    self.weight(i, *weight);
                    self.expr(e, true)?;
                }
                self.put(")");
            }
        }
        if bracketed {
            self.put(")");
        }
        Ok(())
    }

    fn both(&mut self, left: &Expr, between: &str, right: &Expr) -> Result<(), Open> {
        self.expr(left, true)?;
        self.put(&format!(" {between} "));
        self.expr(right, true)
    }

    /// What stands before an element of a list: its key, where that is not its position.
    fn key(&mut self, i: usize, key: &str) {
        self.put(if i == 0 { "" } else { ", " });
        if key != i.to_string() {
            self.put(&format!("{key:?}: "));
        }
    }

    /// What stands before a term of a mix.
    fn weight(&mut self, i: usize, weight: f64) {
        self.put(if i == 0 { "" } else { " + " });
        self.put(&format!("{} * ", number(weight)));
    }

    fn value(&mut self, value: &Value) {
        match value {
            Value::Artifact(a) => self.named(self.judged.artifact(a)),
            Value::Absent => self.put("nothing"),
            Value::Condition(c) => self.put(&condition(c)),
            Value::Float(x) => self.put(&number(*x)),
            Value::List(items) => {
                self.put("[");
                for (i, (key, v)) in items.iter().enumerate().take_while(|(i, _)| *i <= LONGEST_CONDITION) {
                    self.key(i, key);
                    self.value(v);
                }
                self.put("]");
            }
            Value::Mix(terms) => {
                self.put("(");
                for (i, term) in terms.iter().enumerate().take_while(|(i, _)| *i <= LONGEST_CONDITION) {
                    self.weight(i, term.weight);
                    self.named(self.judged.artifact(&term.pllm));
                }
                self.put(")");
            }
            Value::Json(json) => self.put(&canonical_json(json)),
            // As messages show them.
            Value::Bool(_)
            | Value::Int(_)
            | Value::Text(_)
            | Value::Path(_)
            | Value::Duration(_)
            | Value::Bytes(_) => self.put(&value.describe()),
        }
    }
}

/// A field's name; in quotes where it could be taken for something else.
fn word(name: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || c == '_';
    let mut out = String::new();
    if !name.is_empty() && name.chars().all(plain) {
        out.push_str(name);
    } else {
        let _ = write!(out, "{name:?}");
    }
    out
}
