//! Decisions over private values in a task, in words.
//!
//! A stage's `when` and its arguments may depend on private values: then they decide whether, on what, or for how
//! long the stage works, and how long it takes tells what they came to. Such a decision has a normal form, which
//! the device computes from the task and the engine from the plan: artifacts are named by the kind of the stage
//! that made them, or by their type where they are public. Digests and handles are no part of it, since they
//! change with every run; numbers, texts, fields and operators are.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde::{Deserialize, Serialize};

use crate::artifact::ArtifactRef;
use crate::expr::{Condition, Expr, Value};

/// Bytes of a condition at most.
pub(super) const LONGEST_CONDITION: usize = 1000;

/// A decision over private values that a stage is given.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StageCondition {
    /// The stage, as [`super::stage_name`] gives it.
    pub of: String,
    /// `when`, or the argument.
    pub at: String,
    /// What decides, such as `select.is_mix` or `loss < 0.41`.
    pub rule: String,
}

/// How an artifact is named in a condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// It is private, and a stage of this name made it.
    Private(String),
    /// It is public, and of this type.
    Public(String),
}

/// What gives artifacts their names: those that stand in an expression, and outputs of a plan's instances.
pub trait Sources {
    /// An artifact.
    fn artifact(&self, artifact: &ArtifactRef) -> Source;

    /// The output of a plan's instance; `None` where none stands in an expression.
    fn output(&self, instance: u32) -> Option<Source>;
}

/// All decisions over private values of a private stage, one an entry: twice where one is made twice.
///
/// A decision of a plan whose public part is known only during the run is left out: a device finds it in the
/// task.
pub fn conditions(
    of: &str,
    args: &BTreeMap<String, Expr>,
    when: Option<&Expr>,
    sources: &dyn Sources,
) -> Vec<StageCondition> {
    let all = when.map(|e| ("when", e)).into_iter().chain(args.iter().map(|(name, e)| (name.as_str(), e)));
    let mut out = Vec::new();
    for (at, expr) in all {
        let mut rules = Vec::new();
        decisions(expr, sources, &mut rules);
        let condition = |rule| StageCondition { of: of.to_owned(), at: at.to_owned(), rule };
        out.extend(rules.into_iter().map(condition));
    }
    out
}

/// The decisions of an expression. A list or a mix is none itself: what is in it was decided by its elements.
fn decisions(expr: &Expr, sources: &dyn Sources, out: &mut Vec<String>) {
    match expr {
        Expr::Output { .. } => {}
        Expr::Value { value } => value.visit(&mut |v| {
            if let Value::Condition(c) = v {
                out.push(condition(c));
            }
        }),
        Expr::List { items } => items.iter().for_each(|(_, e)| decisions(e, sources, out)),
        Expr::Mix { terms } => terms.iter().for_each(|(.., e)| decisions(e, sources, out)),
        // Which of the two it is follows from public values.
        Expr::Or { first, second } if !is_private(first, sources) => {
            decisions(first, sources, out);
            decisions(second, sources, out);
        }
        Expr::Field { .. } | Expr::Or { .. } | Expr::Compare { .. } | Expr::Not { .. } => {
            let mut words = Words { sources, text: String::new() };
            if is_private(expr, sources) && words.expr(expr, false).is_some() {
                out.push(words.text);
            }
        }
    }
}

fn is_private(expr: &Expr, sources: &dyn Sources) -> bool {
    let private = |source| matches!(source, Source::Private(_));
    let mut found = false;
    expr.each_artifact(&mut |a| found |= private(sources.artifact(a)));
    expr.each_output(&mut |i| found |= sources.output(i).is_some_and(private));
    found
}

fn condition(c: &Condition) -> String {
    format!("{} {} {}", c.metric, c.op.symbol(), number(c.bound))
}

/// A number with 15 digits: the last bits of one can change on its way as JSON.
pub(super) fn number(x: f64) -> String {
    let digits: f64 = format!("{x:.14e}").parse().unwrap_or(x);
    digits.to_string()
}

/// An expression being written down. It stops where it is longer than a condition may be.
struct Words<'a> {
    sources: &'a dyn Sources,
    text: String,
}

impl Words<'_> {
    fn put(&mut self, text: &str) -> Option<()> {
        if self.text.len() <= LONGEST_CONDITION {
            self.text.push_str(text);
        }
        Some(())
    }

    /// Writes an expression; `None` where it has a part that only a run knows.
    fn expr(&mut self, expr: &Expr, inside: bool) -> Option<()> {
        if self.text.len() > LONGEST_CONDITION {
            return Some(());
        }
        let bracketed = inside && matches!(expr, Expr::Or { .. } | Expr::Compare { .. } | Expr::Not { .. });
        if bracketed {
            self.put("(")?;
        }
        match expr {
            Expr::Value { value } => self.value(value)?,
            Expr::Output { instance } => {
                let (Source::Private(name) | Source::Public(name)) = self.sources.output(*instance)?;
                self.put(&name)?;
            }
            // What a field of a public output is, a task says as a value.
            Expr::Field { of, .. } if !is_private(of, self.sources) => return None,
            Expr::Field { of, name } => {
                self.expr(of, true)?;
                self.put(".")?;
                self.put(&word(name))?;
            }
            Expr::Or { first, second } => self.both(first, "or", second)?,
            Expr::Compare { op, left, right } => self.both(left, op.symbol(), right)?,
            Expr::Not { of } => {
                self.put("not ")?;
                self.expr(of, true)?;
            }
            Expr::List { items } => self.all('[', items.iter().map(|(_, e)| e), ']')?,
            Expr::Mix { terms } => self.all('(', terms.iter().map(|(.., e)| e), ')')?,
        }
        if bracketed { self.put(")") } else { Some(()) }
    }

    fn both(&mut self, left: &Expr, between: &str, right: &Expr) -> Option<()> {
        self.expr(left, true)?;
        self.put(&format!(" {between} "))?;
        self.expr(right, true)
    }

    fn all<'e>(&mut self, open: char, items: impl Iterator<Item = &'e Expr>, close: char) -> Option<()> {
        self.put(&open.to_string())?;
        for (i, e) in items.enumerate() {
            self.put(if i == 0 { "" } else { ", " })?;
            self.expr(e, false)?;
        }
        self.put(&close.to_string())
    }

    fn value(&mut self, value: &Value) -> Option<()> {
        match value {
            Value::Artifact(a) => {
                let (Source::Private(name) | Source::Public(name)) = self.sources.artifact(a);
                self.put(&name)
            }
            Value::Absent => self.put("nothing"),
            Value::Condition(c) => self.put(&condition(c)),
            Value::Float(x) => self.put(&number(*x)),
            Value::List(items) => self.values('[', items.iter().map(|(_, v)| v.clone()), ']'),
            Value::Mix(terms) => self.values('(', terms.iter().map(|t| Value::Artifact(t.pllm.clone())), ')'),
            Value::Json(json) => {
                let text = crate::digest::canonical_json(json);
                self.put(&text)
            }
            // Numbers, truth values, texts and amounts, as messages show them.
            plain => self.put(&plain.describe()),
        }
    }

    fn values(&mut self, open: char, items: impl Iterator<Item = Value>, close: char) -> Option<()> {
        self.put(&open.to_string())?;
        for (i, value) in items.enumerate() {
            if self.text.len() > LONGEST_CONDITION {
                break;
            }
            self.put(if i == 0 { "" } else { ", " })?;
            self.value(&value)?;
        }
        self.put(&close.to_string())
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::artifact::ArtifactType;
    use crate::digest::Digest;
    use crate::expr::CompareOp;

    /// Private artifacts were made by `select`, output 0 is private, 1 is public.
    struct Made;

    impl Sources for Made {
        fn artifact(&self, a: &ArtifactRef) -> Source {
            match a.private_to {
                Some(_) => Source::Private("select".into()),
                None => Source::Public(format!("{:?}", a.ty)),
            }
        }

        fn output(&self, instance: u32) -> Option<Source> {
            Some(match instance {
                0 => Source::Private("select".into()),
                _ => Source::Public("Pllm".into()),
            })
        }
    }

    fn artifact(name: &str, ty: ArtifactType, private: bool) -> Expr {
        let id = Digest::of(name.as_bytes());
        Expr::value(Value::Artifact(ArtifactRef { id, ty, private_to: private.then(|| "phone".into()) }))
    }

    fn pick(name: &str) -> Expr {
        artifact(name, ArtifactType::Selection, true)
    }

    fn field(of: Expr, name: &str) -> Expr {
        Expr::Field { of: Box::new(of), name: name.into() }
    }

    fn or(first: Expr, second: Expr) -> Expr {
        Expr::Or { first: Box::new(first), second: Box::new(second) }
    }

    fn compare(left: Expr, op: CompareOp, right: Value) -> Expr {
        Expr::Compare { op, left: Box::new(left), right: Box::new(Expr::value(right)) }
    }

    fn rules(expr: &Expr) -> Vec<String> {
        let mut out = Vec::new();
        decisions(expr, &Made, &mut out);
        out
    }

    #[test]
    fn what_decides_over_private_values_is_written_down_without_digests() {
        use CompareOp::{Gt, Lt};
        let base = || artifact("base", ArtifactType::Pllm, false);
        let loss = Condition { metric: "loss".into(), op: Lt, bound: 0.41 };
        let not = |e| Expr::Not { of: Box::new(e) };
        let mixed = Expr::Mix { terms: vec![(0.5, "a".into(), field(pick("x"), "pllm"))] };
        let cases = [
            (pick("x"), vec![]),
            (base(), vec![]),
            (field(base(), "metrics"), vec![]),
            (Expr::value(Value::Int(3)), vec![]),
            (Expr::value(Value::Condition(loss)), vec!["loss < 0.41"]),
            (field(pick("x"), "is_mix"), vec!["select.is_mix"]),
            (not(field(pick("x"), "is_mix")), vec!["not select.is_mix"]),
            (compare(field(pick("x"), "n"), Gt, Value::Int(3)), vec!["select.n > 3"]),
            (
                compare(field(pick("x"), "n"), Gt, Value::Float(2.0 / 48.0)),
                vec!["select.n > 0.0416666666666667"],
            ),
            (
                compare(field(pick("x"), "n"), Gt, Value::Float((2.0_f64 / 48.0).next_up())),
                vec!["select.n > 0.0416666666666667"],
            ),
            (compare(field(pick("x"), "n"), Gt, Value::Text("a b".into())), vec!["select.n > \"a b\""]),
            (or(pick("x"), base()), vec!["select or Pllm"]),
            (or(pick("x"), or(pick("y"), base())), vec!["select or (select or Pllm)"]),
            (field(or(pick("x"), pick("y")), "a b"), vec!["(select or select).\"a b\""]),
            (or(base(), field(pick("x"), "pllm")), vec!["select.pllm"]),
            (mixed, vec!["select.pllm"]),
            (
                Expr::List { items: vec![("k".into(), pick("x")), ("l".into(), or(pick("x"), base()))] },
                vec!["select or Pllm"],
            ),
            (
                compare(field(pick("x"), "of"), Gt, Value::Json(json!({"a": 1}))),
                vec!["select.of > {\"a\":1}"],
            ),
        ];
        for (expr, expected) in cases {
            assert_eq!(rules(&expr), expected, "{expr:?}");
        }
    }

    #[test]
    fn a_plan_and_the_task_that_follows_from_it_give_the_same() {
        let out = |instance| Expr::Output { instance };
        let planned = or(out(0), out(1));
        let asked = or(pick("x"), artifact("base", ArtifactType::Pllm, false));
        assert_eq!(rules(&planned), rules(&asked));
        assert_eq!(rules(&field(out(0), "is_mix")), rules(&field(pick("x"), "is_mix")));
        // What only a run knows is left to the device.
        let right = Box::new(field(out(1), "loss"));
        let open = Expr::Compare { op: CompareOp::Lt, left: Box::new(field(out(0), "loss")), right };
        assert_eq!(rules(&open), Vec::<String>::new());
    }

    #[test]
    fn what_is_nested_without_end_is_cut() {
        let mut long = pick("x");
        for _ in 0..100 {
            long = or(pick("x"), Expr::value(Value::Text("y".repeat(100))));
            long = field(long, &"z".repeat(50_000));
        }
        let rules = rules(&long);
        assert!(rules[0].len() > LONGEST_CONDITION && rules[0].len() < 200_000, "{}", rules[0].len());
    }
}
