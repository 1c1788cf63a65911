//! Decisions over private values in a task, in words.
//!
//! A stage's `when` and its arguments may depend on private values: then they decide whether, on what, or for how
//! long the stage works, and how long it takes tells what they came to. Such a decision has a normal form, which
//! the device computes from the task and the engine from the plan: artifacts are named by the kind of the stage
//! that made them, or by their type where they are public. Digests and handles are no part of it, since they
//! change with every run; numbers, texts, fields and operators are.

mod words;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Unresolved;
use crate::artifact::ArtifactRef;
use crate::expr::{Expr, Value, unresolved};
pub(super) use words::number;
use words::{Words, condition};

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

/// What gives artifacts their names.
pub trait Sources {
    /// An artifact.
    fn artifact(&self, artifact: &ArtifactRef) -> Source;
}

/// What gives outputs of a plan's instances their names.
pub trait PlannedSources: Sources {
    /// The output of an instance.
    fn output(&self, instance: u32) -> Source;
}

/// The decisions over private values of a private stage of a plan, one an entry: twice where one is made twice.
///
/// One whose public part is known only during the run is left out: a device finds it in the task.
pub fn planned_conditions(
    of: &str,
    args: &BTreeMap<String, Expr>,
    when: Option<&Expr>,
    sources: &dyn PlannedSources,
) -> Vec<StageCondition> {
    // A plan's parts that are open are left out where they are met.
    all(of, args, when, Judged::Plan(sources)).unwrap_or_default()
}

/// The decisions over private values of a private task, one an entry: twice where one is made twice. All of them:
/// nothing is left out.
///
/// # Errors
/// [`Unresolved`] where an expression has a part that the engine had to resolve, so that it is not known what
/// decides; or where a `when` asks for nothing private.
pub fn asked_conditions(
    of: &str,
    args: &BTreeMap<String, Expr>,
    when: Option<&Expr>,
    sources: &dyn Sources,
) -> Result<Vec<StageCondition>, Unresolved> {
    all(of, args, when, Judged::Task(sources))
}

fn all(
    of: &str,
    args: &BTreeMap<String, Expr>,
    when: Option<&Expr>,
    judged: Judged<'_>,
) -> Result<Vec<StageCondition>, Unresolved> {
    let mut out = Vec::new();
    let mut add = |at: &str, rules: Result<Vec<String>, Open>| {
        let rules = rules.map_err(|Open| Unresolved { at: at.to_owned() })?;
        let condition = |rule| StageCondition { of: of.to_owned(), at: at.to_owned(), rule };
        out.extend(rules.into_iter().map(condition));
        Ok(())
    };
    if let Some(when) = when {
        add("when", judged.when(when))?;
    }
    for (name, e) in args {
        add(name, judged.argument(e))?;
    }
    Ok(out)
}

/// A part of an expression that is not known.
struct Open;

/// Whose expressions are judged. Only in a plan may a part be open.
#[derive(Clone, Copy)]
enum Judged<'a> {
    Plan(&'a dyn PlannedSources),
    Task(&'a dyn Sources),
}

impl Judged<'_> {
    /// A part is not known: in a plan it is left to the task.
    fn open(self) -> Result<(), Open> {
        match self {
            Self::Plan(_) => Ok(()),
            Self::Task(_) => Err(Open),
        }
    }

    /// That everything public in a task is a value.
    fn check(self, expr: &Expr) -> Result<(), Open> {
        match self {
            Self::Task(_) if unresolved(expr).is_some() => Err(Open),
            Self::Task(_) | Self::Plan(_) => Ok(()),
        }
    }

    fn artifact(self, artifact: &ArtifactRef) -> Source {
        match self {
            Self::Plan(sources) => sources.artifact(artifact),
            Self::Task(sources) => sources.artifact(artifact),
        }
    }

    fn output(self, instance: u32) -> Result<Source, Open> {
        match self {
            Self::Plan(sources) => Ok(sources.output(instance)),
            Self::Task(_) => Err(Open),
        }
    }

    fn is_private(self, expr: &Expr) -> bool {
        let private = |source| matches!(source, Source::Private(_));
        let mut found = false;
        expr.each_artifact(&mut |a| found |= private(self.artifact(a)));
        expr.each_output(&mut |i| found |= self.output(i).is_ok_and(private));
        found
    }

    /// The decision of a `when`: whatever is private in it decides whether the stage runs.
    fn when(self, expr: &Expr) -> Result<Vec<String>, Open> {
        self.check(expr)?;
        let mut out = Vec::new();
        // One over public values alone is decided before there is a task.
        if self.is_private(expr) {
            self.decision(expr, &mut out)?
        } else {
            self.open()?
        }
        Ok(out)
    }

    fn argument(self, expr: &Expr) -> Result<Vec<String>, Open> {
        self.check(expr)?;
        let mut out = Vec::new();
        self.decisions(expr, &mut out)?;
        Ok(out)
    }

    /// The decisions of an expression. A list or a mix is none itself: what is in it was decided by its elements.
    fn decisions(self, expr: &Expr, out: &mut Vec<String>) -> Result<(), Open> {
        match expr {
            Expr::Output { instance } => self.output(*instance).map(drop),
            Expr::Value { value } => {
                value.visit(&mut |v| {
                    if let Value::Condition(c) = v {
                        out.push(condition(c));
                    }
                });
                Ok(())
            }
            Expr::List { items } => items.iter().try_for_each(|(_, e)| self.decisions(e, out)),
            Expr::Mix { terms } => terms.iter().try_for_each(|(.., e)| self.decisions(e, out)),
            // Which of the two it is follows from public values.
            Expr::Or { first, second } if !self.is_private(first) => {
                self.open()?;
                self.decisions(first, out)?;
                self.decisions(second, out)
            }
            Expr::Field { .. } | Expr::Or { .. } | Expr::Compare { .. } | Expr::Not { .. } => {
                if self.is_private(expr) { self.decision(expr, out) } else { self.open() }
            }
        }
    }

    /// An expression that is a decision.
    fn decision(self, expr: &Expr, out: &mut Vec<String>) -> Result<(), Open> {
        match Words::of(expr, self) {
            Ok(words) => out.push(words),
            Err(Open) => self.open()?,
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::artifact::ArtifactType;
    use crate::digest::Digest;
    use crate::expr::{CompareOp, Condition, MixTerm};

    /// Private artifacts were made by `select`, output 0 is private, 1 is public.
    struct Made;

    impl Sources for Made {
        fn artifact(&self, a: &ArtifactRef) -> Source {
            match a.private_to {
                Some(_) => Source::Private("select".into()),
                None => Source::Public(format!("{:?}", a.ty)),
            }
        }
    }

    impl PlannedSources for Made {
        fn output(&self, instance: u32) -> Source {
            match instance {
                0 => Source::Private("select".into()),
                _ => Source::Public("Pllm".into()),
            }
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

    /// The decisions of an argument of a task.
    fn rules(expr: &Expr) -> Vec<String> {
        let all = asked_conditions("x", &[("arg".to_owned(), expr.clone())].into(), None, &Made);
        rules_of(all.unwrap_or_else(|e| panic!("{expr:?}: {e}")))
    }

    /// Those of a plan.
    fn planned(expr: &Expr) -> Vec<String> {
        rules_of(planned_conditions("x", &[("arg".to_owned(), expr.clone())].into(), None, &Made))
    }

    fn rules_of(all: Vec<StageCondition>) -> Vec<String> {
        all.into_iter().map(|c| c.rule).collect()
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
            (compare(field(pick("x"), "n"), Gt, Value::Absent), vec!["select.n > nothing"]),
            (
                or(
                    pick("x"),
                    Expr::value(Value::List(vec![("0".into(), Value::Int(1)), ("b".into(), Value::Int(2))])),
                ),
                vec!["select or [1, \"b\": 2]"],
            ),
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
        assert_eq!(super::tests::planned(&planned), rules(&asked));
        assert_eq!(super::tests::planned(&field(out(0), "is_mix")), rules(&field(pick("x"), "is_mix")));
        let mix = |first: Expr, second: Expr| Expr::Mix {
            terms: vec![(0.5, "a".into(), first), (-0.5, "b".into(), second)],
        };
        let planned = or(field(out(0), "mix"), mix(out(1), out(1)));
        let base = || artifact("base", ArtifactType::Pllm, false);
        let term = |weight: f64| {
            let Expr::Value { value: Value::Artifact(pllm) } = base() else { unreachable!() };
            MixTerm { weight, pllm, name: "a".into() }
        };
        let asked = or(field(pick("x"), "mix"), Expr::value(Value::Mix(vec![term(0.5), term(-0.5)])));
        assert_eq!(super::tests::planned(&planned), rules(&asked));
        assert_eq!(rules(&asked), ["select.mix or (0.5 * Pllm + -0.5 * Pllm)"]);
        // What only a run knows is left to the device.
        let right = Box::new(field(out(1), "loss"));
        let open = Expr::Compare { op: CompareOp::Lt, left: Box::new(field(out(0), "loss")), right };
        assert_eq!(super::tests::planned(&open), Vec::<String>::new());
        assert_eq!(super::tests::planned(&or(out(1), field(out(0), "pllm"))), ["select.pllm"]);
    }

    /// A decision whose public part nobody has resolved is never left out: the task is refused.
    #[test]
    fn what_is_open_in_a_task_is_refused_in_each_form_of_expression() {
        let public = || artifact("base", ArtifactType::Metrics, false);
        let open = || field(public(), "t");
        let above =
            |left, right| Expr::Compare { op: CompareOp::Gt, left: Box::new(left), right: Box::new(right) };
        let list = |e| Expr::List { items: vec![("k".into(), e)] };
        let mix = |e| Expr::Mix { terms: vec![(1.0, "k".into(), e)] };
        let cases = [
            Expr::Output { instance: 0 },
            or(pick("x"), Expr::Output { instance: 1 }),
            open(),
            above(field(pick("x"), "loss"), open()),
            above(open(), field(pick("x"), "loss")),
            Expr::Not { of: Box::new(above(field(pick("x"), "loss"), open())) },
            or(Expr::value(Value::Absent), Expr::value(Value::Int(1))),
            or(public(), pick("x")),
            or(pick("x"), open()),
            field(or(public(), pick("x")), "loss"),
            list(open()),
            list(or(pick("x"), open())),
            mix(public()),
            mix(or(pick("x"), open())),
        ];
        for expr in cases {
            let args = [("take".to_owned(), expr.clone())].into();
            let e = asked_conditions("x", &args, None, &Made).expect_err("refused");
            assert_eq!(e.at, "take", "{expr:?}");
            let e = asked_conditions("x", &BTreeMap::new(), Some(&expr), &Made).expect_err("refused");
            assert_eq!(e.at, "when", "{expr:?}");
        }
    }

    /// Whether a result is there at all decides, where it stands in a `when`.
    #[test]
    fn whatever_is_private_in_a_when_is_a_decision() {
        let when = |e: &Expr| asked_conditions("x", &BTreeMap::new(), Some(e), &Made).map(rules_of);
        let in_a_list = Expr::List { items: vec![("0".into(), pick("x"))] };
        assert_eq!(when(&pick("x")).expect("judged"), ["select"]);
        assert_eq!(when(&in_a_list).expect("judged"), ["[select]"]);
        assert_eq!(when(&field(pick("x"), "is_mix")).expect("judged"), ["select.is_mix"]);
        assert!(when(&Expr::value(Value::Bool(true))).is_err(), "that was to be decided by the engine");
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
