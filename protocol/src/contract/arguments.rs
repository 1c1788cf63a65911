//! Literal arguments of a stage, in words.
//!
//! Which private rows a stage reads, how many, and what it asks about them is said by its arguments: paths,
//! `skip`, `take`, `answers`, prompts, seeds. Those that a pipeline writes down are part of what an owner
//! approves, all of them and together, as the plan and the task have them alike. Artifacts are not: which models
//! are given is approved by digest, and what stages make is named by the stages. Nor is what follows from private
//! values, which is a condition.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::conditions::number;
use crate::digest::Digest;
use crate::expr::{Expr, Value};
use crate::kinds::{self, DefaultValue};

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
    /// Those of a stage.
    pub fn of(of: &str, args: &BTreeMap<String, Expr>) -> Self {
        let written = |(name, e): (&String, &Expr)| Some((name.clone(), shortened(written(e)?)));
        Self { of: of.to_owned(), args: args.iter().filter_map(written).collect() }
    }

    /// Those that differ from what is taken where nothing is written.
    pub fn unusual(&self) -> impl Iterator<Item = (&str, &str)> {
        let kind = kinds::find(&self.of);
        let usual = move |name: &str, text: &str| {
            let arg = kind.and_then(|k| k.arg(name));
            arg.is_some_and(|arg| default(&arg.default).as_deref() == Some(text))
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

fn written(e: &Expr) -> Option<String> {
    match e {
        Expr::Value { value } => literal(value),
        Expr::List { items } => listed(items.iter().map(|(_, e)| written(e))),
        _ => None,
    }
}

/// A value as it is written; `None` of what is no literal: an artifact, a mix, a value of an artifact's field, and
/// a condition over private values, which is approved as such.
fn literal(value: &Value) -> Option<String> {
    Some(match value {
        Value::Bool(b) => b.to_string(),
        Value::Int(i) => i.to_string(),
        Value::Float(x) => number(*x),
        Value::Text(t) => quoted(t),
        Value::Path(p) => format!("file {}", quoted(p)),
        Value::Duration(ms) => format!("{ms} ms"),
        Value::Bytes(b) => format!("{b} bytes"),
        Value::List(items) => return listed(items.iter().map(|(_, v)| literal(v))),
        Value::Absent | Value::Artifact(_) | Value::Mix(_) | Value::Condition(_) | Value::Json(_) => {
            return None;
        }
    })
}

/// A list, in which `_` is what is not written down; `None` where nothing in it is.
fn listed(items: impl Iterator<Item = Option<String>>) -> Option<String> {
    let items: Vec<Option<String>> = items.collect();
    let words = || items.iter().map(|item| item.as_deref().unwrap_or("_")).collect::<Vec<_>>();
    items.iter().any(Option::is_some).then(|| format!("[{}]", words().join(", ")))
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

fn default(value: &DefaultValue) -> Option<String> {
    Some(match value {
        DefaultValue::Required | DefaultValue::Absent => return None,
        DefaultValue::Int(i) => i.to_string(),
        DefaultValue::Float(x) => number(*x),
        DefaultValue::Bool(b) => b.to_string(),
        DefaultValue::Text(t) => quoted(t),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::artifact::{ArtifactRef, ArtifactType};

    fn arguments(kind: &str, args: &[(&str, Value)]) -> StageArguments {
        let args = args.iter().map(|(k, v)| ((*k).to_owned(), Expr::value(v.clone()))).collect();
        StageArguments::of(kind, &args)
    }

    #[test]
    fn all_that_is_written_down_counts_and_what_runs_make_does_not() {
        let data = |name: &[u8]| {
            Value::Artifact(ArtifactRef { id: Digest::of(name), ty: ArtifactType::Dataset, private_to: None })
        };
        let one =
            |id: &[u8], n: i64| arguments("evaluate", &[("data", data(id)), ("answers", Value::Int(n))]);
        assert_eq!(one(b"tonight", 3), one(b"tomorrow", 3));
        assert_ne!(one(b"tonight", 3), one(b"tonight", 1));
        let texts = Value::List(vec![
            ("0".into(), Value::Text("a \"b\"".into())),
            ("1".into(), Value::Text("c".into())),
        ]);
        let all = arguments(
            "tools.all",
            &[
                ("path", Value::Path("me.jsonl".into())),
                ("texts", texts),
                ("share", Value::Float(0.1)),
                ("none", Value::Absent),
                ("wait", Value::Duration(1000)),
                ("sort", Value::Bool(true)),
            ],
        );
        let shown: Vec<String> = all.args.iter().map(|(k, v)| format!("{k}: {v}")).collect();
        assert_eq!(
            shown,
            [
                "path: file \"me.jsonl\"",
                "share: 0.1",
                "sort: true",
                "texts: [\"a \\\"b\\\"\", \"c\"]",
                "wait: 1000 ms"
            ]
        );
    }

    #[test]
    fn a_list_is_the_same_in_a_plan_and_in_a_task() {
        let items = || [("0", Value::Int(5)), ("1", Value::Int(10))].map(|(k, v)| (k.to_owned(), v));
        let plan = Expr::List { items: items().map(|(k, v)| (k, Expr::value(v))).into() };
        let task = Expr::value(Value::List(items().into()));
        let of = |e: Expr| StageArguments::of("scale", &[("sizes".to_owned(), e)].into());
        assert_eq!(of(plan.clone()), of(task));
        let private = Expr::Output { instance: 0 };
        let mixed = Expr::List { items: vec![("0".into(), plan), ("1".into(), private.clone())] };
        assert_eq!(of(mixed).args["sizes"], "[[5, 10], _]");
        assert!(of(Expr::List { items: vec![("0".into(), private)] }).args.is_empty());
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
        let a = arguments("evaluate", &[("answers", Value::Int(1)), ("max_tokens", Value::Int(128))]);
        assert_eq!(a.unusual().collect::<Vec<_>>(), [("answers", "1")]);
        assert_eq!(arguments("x.y", &[("n", Value::Int(3))]).unusual().count(), 1);
    }
}
