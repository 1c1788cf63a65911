//! The arguments of a stage, in words.
//!
//! Which private rows a stage reads, how many, and what it asks about them is said by its arguments: paths,
//! `skip`, `take`, `answers`, prompts, seeds, weights. All of them are part of what an owner approves, all together,
//! as the plan and the task have them alike. A value is written down so that no two of different types are written
//! alike. In the place of what is no literal stands [`GIVEN`]: which models are given is approved by digest, what
//! stages make is named by the stages, and what follows from private values is a condition. So an argument that is
//! not given differs from one that is given and absent, and from any other.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Unresolved;
use super::conditions::number;
use crate::artifact::ArtifactType;
use crate::digest::{Digest, canonical_json};
use crate::expr::{Expr, Value, unresolved};
use crate::kinds::{self, DefaultValue};

/// Stands for an artifact, and for what follows from private values.
const GIVEN: &str = "_";
/// Stands for a comparison over a metric, which is approved as a condition.
const CONDITION: &str = "condition";
/// Stands for a value that is absent.
const ABSENT: &str = "nothing";
/// Bytes of an argument that are written out; of a longer one, the beginning and a digest are.
const LONGEST_WRITTEN: usize = 400;
/// Bytes of an argument at most, as it is kept.
pub(super) const LONGEST_ARGUMENT: usize = 600;
/// Arguments of a stage at most.
pub(super) const MOST_ARGUMENTS: usize = 100;

/// A stage, with every argument that stands in the pipeline.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StageArguments {
    /// The stage, as [`super::stage_name`] gives it.
    pub of: String,
    /// The arguments by name, as a pipeline file writes them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub args: BTreeMap<String, String>,
}

impl StageArguments {
    /// Those of a stage of a plan, as far as they are known before the run: what a public result comes to, a
    /// device finds in the task.
    pub fn planned(of: &str, args: &BTreeMap<String, Expr>) -> Self {
        let args = args.iter().map(|(name, e)| (name.clone(), shortened(written(e))));
        Self { of: of.to_owned(), args: args.collect() }
    }

    /// Those of a task.
    ///
    /// # Errors
    /// [`Unresolved`] where an argument has a part that the engine had to resolve, so that it is not known what it
    /// comes to.
    pub fn asked(of: &str, args: &BTreeMap<String, Expr>) -> Result<Self, Unresolved> {
        match args.iter().find(|(_, e)| unresolved(e).is_some()) {
            Some((name, _)) => Err(Unresolved { at: name.clone() }),
            None => Ok(Self::planned(of, args)),
        }
    }

    /// Those that differ from what is taken where nothing is written. That an argument is given which has to be
    /// is no such difference, nor is a condition, which is shown as such.
    pub fn unusual(&self) -> impl Iterator<Item = (&str, &str)> {
        let kind = kinds::find(&self.of);
        let usual = move |name: &str, text: &str| {
            let default = kind.and_then(|k| k.arg(name)).map(|arg| &arg.default);
            match default {
                _ if text == CONDITION => true,
                Some(DefaultValue::Required) => text == GIVEN,
                Some(DefaultValue::Absent) => text == ABSENT,
                Some(DefaultValue::Int(i)) => *text == i.to_string(),
                Some(DefaultValue::Float(x)) => *text == float(*x),
                Some(DefaultValue::Bool(b)) => *text == b.to_string(),
                Some(DefaultValue::Text(t)) => *text == quoted(t),
                None => false,
            }
        };
        let all = self.args.iter().map(|(name, text)| (name.as_str(), text.as_str()));
        all.filter(move |(name, text)| !usual(name, text))
    }

    pub(super) fn is_bounded(&self, longest_name: usize) -> bool {
        self.args.len() <= MOST_ARGUMENTS
            && self
                .args
                .iter()
                .all(|(name, text)| name.len() <= longest_name && text.len() <= LONGEST_ARGUMENT)
    }
}

/// An argument as it is written. A form of expression that is added has to be judged here to compile.
fn written(e: &Expr) -> String {
    match e {
        Expr::Value { value } => literal(value),
        Expr::List { items } => listed(items.iter().map(|(key, e)| (key.as_str(), written(e)))),
        Expr::Mix { terms } => mixed(terms.iter().map(|(weight, ..)| *weight)),
        // The output of an instance is an artifact. What the others come to is a condition where it follows from
        // private values, and is known only to a run where it does not: then a task says it as a value.
        Expr::Output { .. }
        | Expr::Field { .. }
        | Expr::Or { .. }
        | Expr::Compare { .. }
        | Expr::Not { .. } => GIVEN.to_owned(),
    }
}

/// A value as it is written. A form of value that is added has to be judged here to compile.
fn literal(value: &Value) -> String {
    match value {
        Value::Absent => ABSENT.to_owned(),
        Value::Bool(b) => b.to_string(),
        Value::Int(i) => i.to_string(),
        Value::Float(x) => float(*x),
        Value::Text(t) => quoted(t),
        Value::Path(p) => format!("file {}", quoted(p)),
        Value::Duration(ms) => format!("{ms} ms"),
        Value::Bytes(b) => format!("{b} bytes"),
        Value::List(items) => listed(items.iter().map(|(key, v)| (key.as_str(), literal(v)))),
        // Whether a private one is absent, only its device knows.
        Value::Artifact(a) if a.ty == ArtifactType::Absent && a.private_to.is_none() => ABSENT.to_owned(),
        Value::Artifact(_) => GIVEN.to_owned(),
        Value::Mix(terms) => mixed(terms.iter().map(|term| term.weight)),
        Value::Condition(_) => CONDITION.to_owned(),
        Value::Json(json) => format!("record {}", canonical_json(json)),
    }
}

/// A list. Keys are written where they are not just the position. How many artifacts a list has is not written:
/// a catalog has others every night.
fn listed<'k>(items: impl Iterator<Item = (&'k str, String)>) -> String {
    let items: Vec<(&str, String)> = items.collect();
    if !items.is_empty() && items.iter().all(|(_, text)| text == GIVEN) {
        return GIVEN.to_owned();
    }
    let item = |(n, (key, text)): (usize, &(&str, String))| match *key == n.to_string() {
        true => text.clone(),
        false => format!("{}: {text}", quoted(key)),
    };
    format!("[{}]", items.iter().enumerate().map(item).collect::<Vec<_>>().join(", "))
}

/// A mix, by its weights.
fn mixed(weights: impl Iterator<Item = f64>) -> String {
    let terms: Vec<String> = weights.map(|weight| format!("{} * {GIVEN}", number(weight))).collect();
    format!("({})", terms.join(" + "))
}

/// A float, which no whole number is written like.
fn float(x: f64) -> String {
    let text = number(x);
    let whole = text.chars().all(|c| c.is_ascii_digit() || c == '-');
    if whole { format!("{text}.0") } else { text }
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// A text that is not too long to be shown. What is cut off counts by its digest.
fn shortened(text: String) -> String {
    if text.len() <= LONGEST_WRITTEN {
        return text;
    }
    let digest = Digest::of(text.as_bytes());
    let start: String = text.chars().take(LONGEST_WRITTEN / 4).collect();
    format!("{start}… ({} bytes, {digest})", text.len())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::artifact::ArtifactRef;
    use crate::expr::{CompareOp, Condition, MixTerm};

    fn arguments(kind: &str, args: &[(&str, Value)]) -> StageArguments {
        let args = args.iter().map(|(k, v)| ((*k).to_owned(), Expr::value(v.clone()))).collect();
        StageArguments::asked(kind, &args).expect("values")
    }

    fn artifact(name: &[u8], ty: ArtifactType, private: bool) -> Value {
        let private_to = private.then(|| "phone".to_owned());
        Value::Artifact(ArtifactRef { id: Digest::of(name), ty, private_to })
    }

    #[test]
    fn all_that_is_written_down_counts_and_what_runs_make_does_not() {
        let data = |name: &[u8]| artifact(name, ArtifactType::Dataset, false);
        let one =
            |id: &[u8], n: i64| arguments("evaluate", &[("data", data(id)), ("answers", Value::Int(n))]);
        assert_eq!(one(b"tonight", 3), one(b"tomorrow", 3));
        assert_ne!(one(b"tonight", 3), one(b"tonight", 1));
        let texts = Value::List(vec![
            ("0".into(), Value::Text("a \"b\"".into())),
            ("1".into(), Value::Text("c".into())),
        ]);
        let named = Value::List(vec![("first".into(), Value::Int(1)), ("1".into(), Value::Int(2))]);
        let loss = Condition { metric: "loss".into(), op: CompareOp::Lt, bound: 0.4 };
        let MixTerm { pllm, .. } = term(1.0, false);
        let all = arguments(
            "tools.all",
            &[
                ("path", Value::Path("me.jsonl".into())),
                ("texts", texts),
                ("named", named),
                ("share", Value::Float(0.1)),
                ("none", Value::Absent),
                ("gone", artifact(b"x", ArtifactType::Absent, false)),
                ("held", artifact(b"x", ArtifactType::Absent, true)),
                ("wait", Value::Duration(1000)),
                ("size", Value::Bytes(5)),
                ("sort", Value::Bool(true)),
                ("until", Value::Condition(loss)),
                ("record", Value::Json(json!({ "n": 5 }))),
                ("mix", Value::Mix(vec![term(0.5, false), term(-0.25, true)])),
                ("many", Value::List(vec![("a".into(), Value::Artifact(pllm))])),
                ("few", Value::List(vec![])),
            ],
        );
        let shown: Vec<String> = all.args.iter().map(|(k, v)| format!("{k}: {v}")).collect();
        assert_eq!(
            shown,
            [
                "few: []",
                "gone: nothing",
                "held: _",
                "many: _",
                "mix: (0.5 * _ + -0.25 * _)",
                "named: [\"first\": 1, 2]",
                "none: nothing",
                "path: file \"me.jsonl\"",
                "record: record {\"n\":5}",
                "share: 0.1",
                "size: 5 bytes",
                "sort: true",
                "texts: [\"a \\\"b\\\"\", \"c\"]",
                "until: condition",
                "wait: 1000 ms"
            ]
        );
    }

    fn term(weight: f64, private: bool) -> MixTerm {
        let Value::Artifact(pllm) = artifact(b"p", ArtifactType::Pllm, private) else { unreachable!() };
        MixTerm { weight, pllm, name: "p".into() }
    }

    /// A stage reads a `take` of another type as one that is not there.
    #[test]
    fn values_of_different_types_are_never_written_alike() {
        let five = [
            Value::Absent,
            Value::Int(5),
            Value::Float(5.0),
            Value::Text("5".into()),
            Value::Path("5".into()),
            Value::Duration(5),
            Value::Bytes(5),
            Value::Json(json!(5)),
            Value::List(vec![("0".into(), Value::Int(5))]),
            Value::Mix(vec![term(5.0, false)]),
            artifact(b"5", ArtifactType::Metrics, false),
            Value::Text("_".into()),
            Value::Text("nothing".into()),
            Value::Text("condition".into()),
        ];
        let mut written: Vec<String> = five.iter().map(literal).collect();
        written.sort();
        written.dedup();
        assert_eq!(written.len(), five.len(), "{written:?}");
        assert_ne!(arguments("jsonl", &[]), arguments("jsonl", &[("take", Value::Absent)]));
        assert_ne!(literal(&Value::Float(-2.0)), literal(&Value::Int(-2)));
    }

    /// Nobody knows what a public part that is left open comes to, so a task with one is not judged at all.
    #[test]
    fn each_form_of_expression_is_judged_or_refused() {
        let public = || Expr::value(artifact(b"x", ArtifactType::Metrics, false));
        let private = || Expr::value(artifact(b"x", ArtifactType::Metrics, true));
        let boxed = Box::new;
        let field = |of| Expr::Field { of: boxed(of), name: "n".into() };
        let or = |a, b| Expr::Or { first: boxed(a), second: boxed(b) };
        let above = |a, b| Expr::Compare { op: CompareOp::Gt, left: boxed(a), right: boxed(b) };
        let list = |e| Expr::List { items: vec![("0".into(), e)] };
        let mix = |e| Expr::Mix { terms: vec![(0.5, "a".into(), e)] };
        let five = || Expr::value(Value::Int(5));
        let asked = |e: Expr| StageArguments::asked("jsonl", &[("take".to_owned(), e)].into());
        let open = [
            Expr::Output { instance: 0 },
            field(public()),
            or(Expr::value(Value::Absent), five()),
            or(public(), private()),
            or(private(), field(public())),
            above(field(private()), field(public())),
            above(five(), five()),
            Expr::Not { of: boxed(field(public())) },
            list(five()),
            list(or(private(), field(public()))),
            mix(public()),
            mix(or(private(), field(public()))),
        ];
        for expr in open {
            let e = asked(expr.clone()).expect_err("refused");
            assert_eq!(e.at, "take", "{expr:?}");
        }
        let judged = [
            (five(), "5"),
            (private(), "_"),
            (field(private()), "_"),
            (or(private(), five()), "_"),
            (above(field(private()), five()), "_"),
            (Expr::Not { of: boxed(field(private())) }, "_"),
            (Expr::List { items: vec![("0".into(), five()), ("1".into(), private())] }, "[5, _]"),
            (list(private()), "_"),
            (mix(private()), "(0.5 * _)"),
        ];
        for (expr, text) in judged {
            assert_eq!(asked(expr.clone()).expect("resolved").args["take"], text, "{expr:?}");
        }
    }

    #[test]
    fn a_list_is_the_same_in_a_plan_and_in_a_task() {
        let items = || [("0", Value::Int(5)), ("1", Value::Int(10))].map(|(k, v)| (k.to_owned(), v));
        let plan = Expr::List { items: items().map(|(k, v)| (k, Expr::value(v))).into() };
        let task = Expr::value(Value::List(items().into()));
        let of = |e: Expr| StageArguments::planned("scale", &[("sizes".to_owned(), e)].into());
        assert_eq!(of(plan.clone()), of(task.clone()));
        assert_eq!(
            of(task.clone()),
            StageArguments::asked("scale", &[("sizes".to_owned(), task)].into()).expect("resolved")
        );
        let later = Expr::Output { instance: 0 };
        let mixed = Expr::List { items: vec![("0".into(), plan), ("1".into(), later.clone())] };
        assert_eq!(of(mixed).args["sizes"], "[[5, 10], _]");
        let made = Expr::value(Value::List(vec![("a".into(), artifact(b"a", ArtifactType::Pllm, false))]));
        assert_eq!(
            of(Expr::List { items: vec![("0".into(), later.clone()), ("1".into(), later)] }),
            of(made)
        );
    }

    #[test]
    fn a_mix_is_the_same_in_a_plan_and_in_a_task() {
        let terms = [0.6, -0.2].map(|weight| (weight, "a".to_owned(), Expr::Output { instance: 0 }));
        let plan = Expr::Mix { terms: terms.into() };
        let task = Expr::value(Value::Mix(vec![term(0.6, false), term(-0.2, false)]));
        let of = |e: Expr| StageArguments::planned("merge", &[("mix".to_owned(), e)].into());
        assert_eq!(of(plan), of(task));
    }

    #[test]
    fn a_long_argument_is_cut_and_counts_whole() {
        let text = |last: &str| arguments("jsonl", &[("prompt", Value::Text("é".repeat(900) + last))]);
        let (a, b) = (text("a"), text("b"));
        assert_ne!(a, b);
        assert!(a.is_bounded(200) && a.args["prompt"].contains("… (1803 bytes, "), "{}", a.args["prompt"]);
    }

    #[test]
    fn what_is_usual_need_not_be_shown() {
        let made = |ty| artifact(b"x", ty, false);
        let a = arguments(
            "evaluate",
            &[
                ("answers", Value::Int(1)),
                ("max_tokens", Value::Int(128)),
                ("model", made(ArtifactType::Model)),
                ("data", made(ArtifactType::Dataset)),
            ],
        );
        assert_eq!(a.unusual().collect::<Vec<_>>(), [("answers", "1")]);
        // One that need not be given, and one of another type than it should be.
        let a = arguments("jsonl", &[("take", made(ArtifactType::Metrics)), ("skip", Value::Float(0.0))]);
        assert_eq!(a.unusual().collect::<Vec<_>>(), [("skip", "0.0"), ("take", "_")]);
        assert_eq!(arguments("x.y", &[("n", Value::Int(3))]).unusual().count(), 1);
    }
}
