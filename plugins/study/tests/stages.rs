//! The stages over small divergences whose styles are known.

use std::sync::Arc;

use headstart_protocol::{ArtifactRef, Output, Stage, Type, Value};
use headstart_testkit::MemoryContext;
use serde_json::json;

#[path = "../../explain/tests/toy/mod.rs"]
mod toy;

use toy::{Toy, divergences, person, value};

fn stage(kind: &str) -> Box<dyn Stage> {
    headstart_study::stages(Arc::new(Toy))
        .into_iter()
        .find(|s| s.kind() == kind)
        .expect("a kind of this crate")
}

/// What four styles write on forty questions, against plain answers, keyed by style.
fn styles(ctx: &MemoryContext) -> (ArtifactRef, Vec<(String, Value)>) {
    let space = toy::space(ctx, "sentence", &toy::model(ctx, "plain"));
    let plain = person(ctx, "plain", 0, 0, 40);
    let drift = |style: &str| {
        let said = person(ctx, style, 40, 0, 40);
        let args = [("responses", value(&said)), ("against", value(&plain)), ("space", value(&space))];
        (style.to_owned(), value(&ctx.run(&*toy::stage("embed"), args).expect("a divergence")))
    };
    (space.clone(), toy::STYLES.iter().map(|s| drift(s)).collect())
}

fn list(numbers: &[f64]) -> Value {
    Value::List(numbers.iter().map(|x| (x.to_string(), Value::Float(*x))).collect())
}

fn ints(numbers: &[i64]) -> Value {
    Value::List(numbers.iter().map(|x| (x.to_string(), Value::Int(*x))).collect())
}

#[test]
fn simulated_users_are_given_their_style() {
    let ctx = MemoryContext::new();
    let (_, drift) = styles(&ctx);
    let small = [("probes", Value::Int(15)), ("splits", Value::Int(2)), ("users_each", Value::Int(4))];
    let run = |more: &[(&'static str, Value)]| {
        let mut args = vec![("styles", Value::List(drift.clone())), ("texts", ints(&[12]))];
        args.extend(small.iter().cloned());
        args.extend(more.iter().cloned());
        ctx.value_of(&ctx.run(&*stage("simulate"), args).expect("a table"))
    };
    let of = |said: &serde_json::Value, row: usize, column: usize| {
        said["table"]["rows"][row][column]["value"].as_f64()
    };
    let all = run(&[("shares", list(&[0.0, 0.9]))]);
    assert_eq!(all["n"], 64.0, "four styles, four users, two splits, two shares: {all}");
    let columns = &all["table"]["columns"];
    assert_eq!(columns, &json!(["texts", "share of users", "s = 0", "s = 0.9"]));
    assert!(of(&all, 0, 3) > Some(0.95), "nearest is right at .9: {all}");
    assert!(of(&all, 1, 2) > Some(0.9), "who writes in no style starts from the base: {all}");
    assert!(of(&all, 1, 3) < Some(0.1), "and nobody else does: {all}");
    let paper = run(&[("shares", list(&[0.9])), ("similarity", Value::Text("pllm".into()))]);
    assert!(of(&paper, 0, 2) > Some(0.9), "a pLLM of nine tenths: {paper}");
    let mixed = run(&[("shares", list(&[1.0])), ("mixed", Value::Int(2))]);
    assert_eq!(mixed["table"]["rows"][1][1], "given a mix");
    assert!(of(&mixed, 0, 2) > Some(0.9), "the nearest is one of the two: {mixed}");
}

#[test]
fn too_few_questions_are_told() {
    let ctx = MemoryContext::new();
    let (_, drift) = styles(&ctx);
    let args = [("styles", Value::List(drift)), ("probes", Value::Int(15)), ("texts", ints(&[30]))];
    let why = ctx.run(&*stage("simulate"), args).expect_err("25 questions are left");
    assert!(why.message.contains("25 questions") && why.message.contains("30 texts"), "{why:?}");
}

#[test]
fn a_catalog_is_resampled_to_any_size() {
    let ctx = MemoryContext::new();
    let (_, _, drift) = divergences(&ctx, "sentence");
    let catalog =
        ctx.run(&*toy::stage("decompose"), [("divergences", Value::List(drift.clone()))]).expect("a catalog");
    let Value::Artifact(user) = &drift[0].1 else { panic!("an artifact") };
    let args = [("catalog", value(&catalog)), ("user", value(user)), ("sizes", ints(&[4, 300]))];
    let said = ctx.value_of(&ctx.run(&*stage("scale"), args).expect("a table"));
    let rows = said["table"]["rows"].as_array().expect("rows");
    let cell = |r: usize, c: usize| rows[r][c].as_f64().expect("a number");
    assert_eq!((cell(0, 0), cell(1, 0)), (4.0, 300.0));
    assert!(cell(1, 2) < 2048.0, "bytes a pLLM: {said}");
    assert!(cell(1, 5) > 0.0 && cell(1, 6) == 0.0, "{said}");
    assert_eq!(cell(1, 7), 300.0 * 20.0, "every pLLM on every text");
    assert!(cell(1, 8) > 0.0, "bytes of the weights are known: {said}");
}

#[test]
fn levels_of_a_style_are_monotone() {
    let ctx = MemoryContext::new();
    let space = toy::space(&ctx, "sentence", &toy::model(&ctx, "plain"));
    let plain = person(&ctx, "plain", 0, 0, 24);
    let level = |i: usize| {
        let said = person(&ctx, "formal", 6 * i, 0, 24);
        let args = [("responses", value(&said)), ("against", value(&plain)), ("space", value(&space))];
        (i.to_string(), value(&ctx.run(&*toy::stage("embed"), args).expect("a divergence")))
    };
    let args =
        [("divergences", Value::List((1..=4).map(level).collect())), ("method", Value::Text("ridge".into()))];
    let catalog = ctx.run(&*toy::stage("decompose"), args).expect("a catalog");
    let said = ctx.value_of(&ctx.run(&*stage("levels"), [("catalog", value(&catalog))]).expect("a table"));
    assert!(said["monotone"].as_f64() > Some(0.8), "{said}");
    assert!(said["distance_tau"].as_f64() > Some(0.8), "{said}");
}

#[test]
fn savings_are_counted_by_user_and_group() {
    let ctx = MemoryContext::new();
    let pllm = |curve: serde_json::Value| {
        let metrics = json!({ "steps": 40, "seconds": 20.0 });
        value(&ctx.put(Output::new(Type::Pllm, json!({ "curve": curve, "metrics": metrics }))))
    };
    let key = |u: usize| format!("u{u},{}", if u < 2 { "near" } else { "far" });
    let scratch = |u: usize| (key(u), pllm(json!([[0, 5.0], [20, 3.0], [40, 1.0 + u as f64 / 100.0]])));
    let tuned = |u: usize| (key(u), pllm(json!([[0, if u < 2 { 1.1 } else { 4.0 }], [40, 1.0]])));
    let pick = |u: usize| {
        let cost = json!({
            "is_mix": false, "abstained": false, "confidence": 1.0, "cost": { "forward_passes": 48 },
        });
        (key(u), value(&ctx.put(Output::new(Type::Selection, cost))))
    };
    let all = |f: &dyn Fn(usize) -> (String, Value)| Value::List((0..4).map(f).collect());
    let args = [("tuned", all(&tuned)), ("scratch", all(&scratch)), ("selections", all(&pick))];
    let said = ctx.value_of(&ctx.run(&*stage("savings"), args).expect("a table"));
    assert_eq!((&said["n"], &said["not_reached"]), (&json!(4.0), &json!(0.0)));
    let rows = said["table"]["rows"].as_array().expect("rows");
    let names: Vec<_> = rows.iter().map(|r| r[0].as_str().expect("a group")).collect();
    assert_eq!(names, ["all", "near", "far"]);
    // 48 passes are three steps of eight rows; without a step of training those are the whole cost.
    assert_eq!(rows[1][4], 3.0);
    let saved = |r: usize| rows[r][5]["value"].as_f64().expect("an estimate");
    assert!(saved(1) > 0.9 && saved(2) < 0.1, "{said}");
}

#[test]
fn a_table_has_its_files() {
    let ctx = MemoryContext::new();
    let metrics = |x: f64| value(&ctx.put(Output::new(Type::Metrics, json!({ "loss": x }))));
    let rows = Value::List(vec![("a".into(), metrics(1.0)), ("b".into(), metrics(2.5))]);
    let table = ctx.run(&*stage("table"), [("rows", rows)]).expect("a table");
    let manifest = ctx.manifest_of(&table);
    assert_eq!(manifest.files.keys().collect::<Vec<_>>(), ["table.json", "table.md"]);
    assert_eq!(manifest.value["table"]["rows"], json!([["a", 1.0], ["b", 2.5]]));
}
