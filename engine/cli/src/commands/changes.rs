//! Differences between two cache keys, in the pipeline's own words: `max_tokens: 48 → 49`.

use std::collections::BTreeMap;

use headstart_core::Difference;
use headstart_dsl::plan::Plan;
use headstart_protocol::artifacts::{Artifact, Divergence, Rows, Selection};
use headstart_protocol::expr::{Expr, Value};
use headstart_protocol::text::{bytes, counted, quoted};
use headstart_protocol::{ArtifactRef, Digest, Type};
use headstart_store::Workspace;
use serde_json::Value as Json;

/// Changed elements of a list that are named at most.
const NAMED: usize = 5;
/// Characters of a value that are shown at most.
const SHOWN: usize = 60;

/// A difference in a line, or in several where a list changed. `args` are the arguments of the instance as
/// the plan has them, `before` those of the run it is compared with.
pub fn lines(
    ws: &Workspace,
    plan: &Plan,
    args: &BTreeMap<String, Expr>,
    before: &BTreeMap<String, Expr>,
    d: &Difference,
) -> Vec<String> {
    let show = |v: &Option<Json>| v.as_ref().map_or("none".to_owned(), |v| text(ws, v));
    let Some(name) = d.what.strip_prefix("args.") else {
        return vec![format!("{}: {} → {}", label(&d.what), show(&d.before), show(&d.after))];
    };
    let from = args.get(name).map(|e| sources(plan, e)).filter(|s| !s.is_empty());
    let from = from.map(|s| format!(", from {}", quoted(s, NAMED))).unwrap_or_default();
    if let (Some(Value::List(old)), Some(Value::List(new))) = (value(&d.before), value(&d.after)) {
        return vec![format!("{name}: {}{from}", elements(&old, &new))];
    }
    let (old, new) = (show(&d.before), show(&d.after));
    let same_words = old == new;
    let refers_elsewhere = same_words && args.get(name) != before.get(name) && from.is_empty();
    vec![match (same_words, refers_elsewhere) {
        (true, true) => format!("{name}: another {old}"),
        (true, false) => format!("{name}: {old} with other content{from}"),
        (false, _) => format!("{name}: {old} → {new}{from}"),
    }]
}

/// What is not an argument.
fn label(what: &str) -> &str {
    match what {
        "kind" => "stage kind",
        "program" => "program of the custom stage",
        "version" => "version of the stage kind",
        "when" => "condition",
        "private_to" => "private to",
        other => other,
    }
}

/// The items that an argument refers to.
fn sources(plan: &Plan, e: &Expr) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    e.each_output(&mut |i| {
        let item = &plan.items[plan.instances[i as usize].item as usize].name;
        if !names.contains(item) {
            names.push(item.clone());
        }
    });
    names
}

fn value(json: &Option<Json>) -> Option<Value> {
    match serde_json::from_value(json.clone()?).ok()? {
        Expr::Value { value } => Some(value),
        _ => None,
    }
}

/// What happened to the elements of a list.
fn elements(old: &[(String, Value)], new: &[(String, Value)]) -> String {
    let find =
        |list: &[(String, Value)], key: &str| list.iter().find(|(k, _)| k == key).map(|(_, v)| v.clone());
    let of = |list: &[(String, Value)], keep: &dyn Fn(&str, &Value) -> bool| -> Vec<String> {
        list.iter().filter(|(k, v)| keep(k, v)).map(|(k, _)| k.clone()).collect()
    };
    let added = of(new, &|k, _| find(old, k).is_none());
    let removed = of(old, &|k, _| find(new, k).is_none());
    let changed = of(new, &|k, v| find(old, k).is_some_and(|o| o != *v));
    let parts = [("changed", changed), ("added", added), ("removed", removed)];
    let parts = parts.into_iter().filter(|(_, names)| !names.is_empty());
    let parts: Vec<String> = parts.map(|(word, names)| format!("{word} {}", quoted(names, NAMED))).collect();
    if parts.is_empty() { "the order of its elements".to_owned() } else { parts.join("; ") }
}

fn text(ws: &Workspace, json: &Json) -> String {
    if let Ok(id) = serde_json::from_value::<Digest>(json.clone()) {
        return id.short();
    }
    match serde_json::from_value::<Expr>(json.clone()) {
        Ok(Expr::Value { value }) => value_text(ws, &value),
        Ok(_) => "an expression over private values".to_owned(),
        Err(_) => cut(&json.to_string()),
    }
}

fn value_text(ws: &Workspace, value: &Value) -> String {
    match value {
        Value::Absent => "none".to_owned(),
        Value::Text(t) | Value::Path(t) => cut(&format!("{t:?}")),
        Value::Float(x) => x.to_string(),
        Value::Duration(ms) if ms % 1000 == 0 => format!("{} s", ms / 1000),
        Value::Bytes(n) => bytes(*n),
        Value::Artifact(a) => artifact(ws, a),
        Value::Mix(terms) => {
            let terms: Vec<String> = terms.iter().map(|t| format!("{} * {}", t.weight, t.name)).collect();
            cut(&terms.join(" + "))
        }
        Value::Json(j) => cut(&j.to_string()),
        other => other.describe(),
    }
}

/// An artifact by what people know of it: its type, and how many rows it has.
fn artifact(ws: &Workspace, a: &ArtifactRef) -> String {
    let ty = format!("{:?}", a.ty);
    let manifest = ws.artifacts().manifest(&a.id).ok().flatten();
    let rows = manifest.and_then(|m| match m.ty {
        Type::Dataset | Type::Responses => Rows::of(&m).ok().map(|rows| rows.rows),
        Type::Divergence => Divergence::of(&m).ok().map(|divergence| divergence.n),
        Type::Selection => Selection::of(&m).ok().map(|selection| selection.n),
        _ => None,
    });
    match rows {
        Some(n) => format!("{ty} of {}", counted(n, "row")),
        None => ty,
    }
}

fn cut(text: &str) -> String {
    headstart_report::text::cut(text, SHOWN)
}
