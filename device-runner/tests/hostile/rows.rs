//! Numbers over a part of the rows: however an engine asks for it, each number has its own rows behind it.

use headstart_device::show;
use headstart_device::{Allowed, history};
use headstart_protocol::expr::{Expr, Value};
use headstart_protocol::release::{ANSWERED_ROWS, SCORED_ROWS};
use headstart_protocol::task::{Outcome, Released, Task};
use headstart_protocol::{ArtifactRef, Output, Stage, Type};
use serde_json::{Value as Json, json};

use crate::common::{field, stages};
use crate::phone::{Phone, stages};

fn row(n: usize, response: &str) -> String {
    format!("{{\"prompt\":\"Day {n}?\",\"response\":\"{response}\"}}\n")
}

fn diary(rows: usize) -> String {
    (0..rows).map(|n| row(n, &format!("Ottilie has {n} crowns."))).collect()
}

/// A phone whose owner lets numbers over twenty rows leave.
async fn phone(diary: &str) -> (Phone, ArtifactRef) {
    let mut phone = Phone::new(diary).await;
    phone.allowed = Allowed::NUMBERS;
    let mine = phone.diary().await;
    (phone, mine)
}

fn measures() -> Box<dyn Stage> {
    stages::fake("evaluate", |_, _| {
        Ok(Output::new(Type::Metrics, json!({ "loss": 1.5, "bleu": 40, "rougeL": 0.5 })))
    })
}

fn path(text: &str) -> Vec<String> {
    text.split('.').filter(|s| !s.is_empty()).map(str::to_owned).collect()
}

fn task(phone: &mut Phone, kind: &str, ty: Type, args: &[(&str, Value)], release: &[&str]) -> Task {
    let mut t = phone.task(kind, ty, args);
    (t.private, t.release) = (true, release.iter().map(|p| path(p)).collect());
    t
}

fn value(a: &ArtifactRef) -> Value {
    Value::Artifact(a.clone())
}

fn told(outcome: &Outcome, path: &str) -> Json {
    let Outcome::Succeeded { released, .. } = outcome else { panic!("{outcome:?}") };
    let Released::Json(value) = &released[path] else { panic!("{released:?}") };
    value.clone()
}

/// What leaves of an evaluation.
async fn evaluated(phone: &mut Phone, args: &[(&str, Value)]) -> Json {
    let t = task(phone, "evaluate", Type::Metrics, args, &[""]);
    told(&phone.run(t, vec![measures()]).await, "")
}

#[tokio::test]
async fn one_answer_is_one_row_and_what_is_over_all_rows_leaves() {
    let (mut phone, mine) = phone(&diary(30)).await;
    let over = |n: i64| [("data", value(&mine)), ("answers", Value::Int(n))];
    for few in [1, 19] {
        assert_eq!(evaluated(&mut phone, &over(few)).await, json!({ "loss": 1.5 }), "{few} answers");
    }
    assert_eq!(evaluated(&mut phone, &over(20)).await, json!({ "bleu": 40, "loss": 1.5, "rougeL": 0.5 }));
    let t = task(&mut phone, "evaluate", Type::Metrics, &over(1), &["bleu", "loss"]);
    let outcome = phone.run(t, vec![measures()]).await;
    assert_eq!((told(&outcome, "bleu"), told(&outcome, "loss")), (Json::Null, json!(1.5)));
    let page = show::summary(&phone.place.state(), None).expect("prints");
    assert!(page.contains("at most 1 row of"), "{page}");
    // That a number stayed is a number too.
    let page = show::budget(&phone.place.state()).expect("prints");
    assert!(page.contains("9 of 50 numbers"), "{page}");
}

/// The engine need not write the number down: one that follows from private values decides as well.
#[tokio::test]
async fn an_argument_that_is_private_itself_bounds_rows_too() {
    let (mut phone, mine) = phone(&diary(30)).await;
    let counts = stages::fake("evaluate", |_, _| Ok(Output::new(Type::Metrics, json!({ "rows": 1 }))));
    let t = task(&mut phone, "evaluate", Type::Metrics, &[("data", value(&mine))], &[]);
    let counted = phone.handle(t, vec![counts]).await;
    let mut t = task(&mut phone, "evaluate", Type::Metrics, &[("data", value(&mine))], &[""]);
    t.args.insert("answers".into(), field(&counted, "rows"));
    assert_eq!(told(&phone.run(t, vec![measures()]).await, ""), json!({ "loss": 1.5 }));
    // Of what was not measured, no rows are behind anything.
    let none = [("data", value(&mine)), ("answers", Value::Int(0))];
    let t = task(&mut phone, "evaluate", Type::Metrics, &none, &[]);
    let likelihood =
        stages::fake("evaluate", |_, _| Ok(Output::new(Type::Metrics, json!({ "loss": 1, "odd": 2 }))));
    let odd = phone.handle(t, vec![likelihood]).await;
    let mut t = task(&mut phone, "evaluate", Type::Metrics, &[("data", value(&mine))], &["loss"]);
    t.args.insert("max_tokens".into(), field(&odd, "odd"));
    assert_eq!(told(&phone.run(t, vec![measures()]).await, "loss"), json!(1.5));
    // A number over one answer decides how many are answered: whatever comes of it is over one answer.
    let one = [("data", value(&mine)), ("answers", Value::Int(1))];
    let t = task(&mut phone, "evaluate", Type::Metrics, &one, &[]);
    let over_one = phone.handle(t, vec![measures()]).await;
    for (name, leaves) in [("bleu", Json::Null), ("loss", json!({ "bleu": 40, "loss": 1.5, "rougeL": 0.5 }))]
    {
        let mut t = task(&mut phone, "evaluate", Type::Metrics, &[("data", value(&mine))], &[""]);
        // Whatever a stage is given counts, also what its kind does not know.
        t.args.insert("other".into(), field(&over_one, name));
        assert_eq!(told(&phone.run(t, vec![measures()]).await, ""), leaves, "decided by {name}");
    }
}

/// The key of the response is the engine's choice too: rows that lack it are no rows of an evaluation.
#[tokio::test]
async fn rows_without_a_response_do_not_count() {
    let bare: String = (0..29).map(|n| row(n, " ")).collect();
    let (mut phone, mine) = phone(&(bare + &row(29, "Ottilie"))).await;
    assert_eq!(evaluated(&mut phone, &[("data", value(&mine))]).await, Json::Null);
}

/// A model's context may be so small that most rows have nothing to be scored; a dataset may name a file twenty
/// times, so that the rows that are answered are all the same.
#[tokio::test]
async fn what_the_stage_counted_bounds_its_numbers() {
    let (mut phone, mine) = phone(&diary(30)).await;
    for (scored, answered, leaves) in [
        (1, 30, json!({ "bleu": 40, "rougeL": 0.5 })),
        (30, 1, json!({ "loss": 1.5 })),
        (1000, 1000, json!({ "bleu": 40, "loss": 1.5, "rougeL": 0.5 })),
    ] {
        let t = task(&mut phone, "evaluate", Type::Metrics, &[("data", value(&mine))], &[""]);
        let counts = stages::fake("evaluate", move |_, ctx| {
            assert!(ctx.is_private() && ctx.least_rows() == 20);
            ctx.count(SCORED_ROWS, scored);
            ctx.count(ANSWERED_ROWS, answered);
            Ok(Output::new(Type::Metrics, json!({ "loss": 1.5, "bleu": 40, "rougeL": 0.5 })))
        });
        assert_eq!(
            told(&phone.run(t, vec![counts]).await, ""),
            leaves,
            "{scored} scored, {answered} answered"
        );
    }
}

/// Arguments of a training with many steps.
fn training(phone: &Phone, data: &ArtifactRef) -> Vec<(&'static str, Value)> {
    vec![
        ("from", value(&phone.base)),
        ("data", value(data)),
        ("batch", Value::Int(8)),
        ("max_steps", Value::Int(400)),
    ]
}

#[tokio::test]
async fn losses_of_the_rows_that_are_held_back_are_over_these() {
    let (mut phone, mine) = phone(&diary(60)).await;
    let args = training(&phone, &mine);
    let t = task(&mut phone, "finetune", Type::Pllm, &args, &["metrics", "metrics.loss"]);
    let outcome = phone.run(t, stages()).await;
    assert_eq!((told(&outcome, "metrics"), told(&outcome, "metrics.loss")), (Json::Null, Json::Null));
    // Enough rows that are held back, or enough of which a tenth is.
    let mut judged = args.clone();
    judged.push(("eval", value(&mine)));
    let t = task(&mut phone, "finetune", Type::Pllm, &judged, &["metrics"]);
    assert_eq!(told(&phone.run(t, stages()).await, "metrics"), json!({ "loss": 1.5, "steps": 40 }));
    phone.place.write("me.jsonl", &diary(200));
    let many = phone.diary().await;
    let args = training(&phone, &many);
    let t = task(&mut phone, "finetune", Type::Pllm, &args, &["metrics"]);
    assert_eq!(told(&phone.run(t, stages()).await, "metrics"), json!({ "loss": 1.5, "steps": 40 }));
}

/// Weights that one row was enough to make say as much of that row as a number over it.
#[tokio::test]
async fn numbers_about_a_model_have_its_rows_behind_them() {
    let (mut phone, mine) = phone(&diary(60)).await;
    let public = diary(500);
    let public = phone.engine.publish(Type::Dataset, &[("rows.jsonl", public.as_bytes())], json!({}));
    let with = |args: &[(&'static str, Value)], name: &'static str, v: Value| {
        let mut args: Vec<_> = args.iter().filter(|(n, _)| *n != name).cloned().collect();
        args.push((name, v));
        args
    };
    let args = with(&training(&phone, &mine), "eval", value(&mine));
    let one_row = with(&with(&args, "batch", Value::Int(1)), "max_steps", Value::Int(1));
    let held_back = training(&phone, &mine);
    for (args, leaves) in [(args, true), (one_row, false), (held_back, false)] {
        let t = task(&mut phone, "finetune", Type::Pllm, &args, &[]);
        let tuned = phone.handle(t, stages()).await;
        let told = evaluated(&mut phone, &[("model", value(&tuned)), ("data", value(&public))]).await;
        assert_eq!(told.is_object(), leaves, "{args:?}");
        // Through a merge, and where it is only one of two that may be meant.
        let term = Value::Mix(vec![headstart_protocol::expr::MixTerm {
            weight: 1.0,
            pllm: tuned.clone(),
            name: "tuned".into(),
        }]);
        let t = task(&mut phone, "merge", Type::Pllm, &[("mix", term)], &[]);
        let merged = phone.handle(t, vec![stages::merge()]).await;
        let mut t = task(&mut phone, "evaluate", Type::Metrics, &[("data", value(&public))], &[""]);
        let boxed = |a: &ArtifactRef| Box::new(Expr::value(value(a)));
        let or = Expr::Or { first: boxed(&merged), second: boxed(&phone.base) };
        t.args.insert("model".into(), or);
        assert_eq!(self::told(&phone.run(t, vec![measures()]).await, "").is_object(), leaves);
    }
}

/// An owner who lets weights leave lets them leave; a curve over three rows is not part of that.
#[tokio::test]
async fn weights_leave_without_numbers_over_few_rows() {
    let (mut phone, mine) = phone(&diary(30)).await;
    phone.allowed.pllm = true;
    let curved = || {
        stages::fake("finetune", |args, ctx| {
            let at = ctx.scratch().join("weights");
            headstart_disk::files::write(ctx.disk(), &at, b"weights")?;
            let value =
                json!({ "format": "lora", "metrics": { "loss": 1.5 }, "curve": [[0, 2.5], [4, 1.5]] });
            let output = Output::new(Type::Pllm, value).file("adapter_model.safetensors", at);
            Ok(output.uses("base", args.artifact("from")?.clone()))
        })
    };
    for (judges, leaves) in [(false, false), (true, true)] {
        let mut args = training(&phone, &mine);
        args.extend(judges.then(|| ("eval", value(&mine))));
        let t = task(&mut phone, "finetune", Type::Pllm, &args, &[""]);
        phone.run(t, vec![curved()]).await;
        let commit = phone.engine.commits().pop().expect("a commit");
        let manifest = commit.manifests.values().next().expect("the weights leave");
        let has =
            |at: &str| manifest.value.pointer(at).is_some_and(|v| !v.as_array().is_some_and(Vec::is_empty));
        assert_eq!((has("/metrics/loss"), has("/curve")), (leaves, leaves), "{}", manifest.value);
    }
}

/// A choice by one embedded row, or by texts of which one is private.
#[tokio::test]
async fn a_choice_by_one_row_stays() {
    let (mut phone, mine) = phone(&diary(30)).await;
    let space =
        phone.engine.publish_using(Type::Space, &[], json!({ "kind": "pooled" }), &[("model", &phone.base)]);
    for (rows, leaves) in [(Some(1), false), (Some(20), true), (None, true)] {
        let mut args =
            vec![("responses", value(&mine)), ("against", value(&phone.base)), ("space", value(&space))];
        args.extend(rows.map(|n| ("rows", Value::Int(n))));
        let t = task(&mut phone, "embed", Type::Divergence, &args, &[]);
        let me = phone.handle(t, vec![stages::embed()]).await;
        let args = [("catalog", value(&phone.catalog)), ("user", value(&me))];
        let t = task(&mut phone, "select", Type::Selection, &args, &["confidence", ""]);
        let chooses = stages::fake("select", |args, ctx| {
            let catalog = ctx.manifest(args.artifact("catalog")?)?;
            let value = json!({ "pllm_name": "kind", "is_mix": false, "abstained": false, "confidence": 0.5,
                "mix": {} });
            Ok(Output::new(Type::Selection, value).uses("pllm", catalog.uses["pllm:kind"].clone()))
        });
        let Outcome::Succeeded { released, .. } = phone.run(t, vec![chooses]).await else { panic!() };
        let nothing = Released::Json(Json::Null);
        assert!(released.values().all(|part| (*part != nothing) == leaves), "{rows:?}: {released:?}");
    }
}

/// Fifty rows of which one is private are one row.
#[tokio::test]
async fn a_share_of_the_rows_is_a_part_of_them() {
    let (mut phone, mine) = phone(&diary(60)).await;
    let public = diary(60);
    let public =
        phone.engine.publish(Type::Dataset, &[("rows.jsonl", public.as_bytes())], json!({ "n": 60 }));
    let copies = || {
        stages::fake("blend", |args, ctx| {
            let from = ctx.open(args.artifact("styled")?)?.join("rows.jsonl");
            Ok(Output::new(Type::Dataset, json!({ "rows": 50 })).file("rows.jsonl", from))
        })
    };
    for (styled, plain, share, leaves) in [
        (&mine, &public, 0.02, false),
        (&mine, &public, 0.9, true),
        (&public, &mine, 0.98, false),
        (&public, &mine, 0.1, true),
        (&mine, &mine, 0.5, true),
    ] {
        let args = [
            ("styled", value(styled)),
            ("plain", value(plain)),
            ("share", Value::Float(share)),
            ("rows", Value::Int(50)),
        ];
        let t = task(&mut phone, "blend", Type::Dataset, &args, &[]);
        let user = phone.handle(t, vec![copies()]).await;
        let told = evaluated(&mut phone, &[("data", value(&user))]).await;
        assert_eq!(told.is_object(), leaves, "{share}");
    }
}

/// Of how many rows somebody made a model in the data folder, nobody knows.
#[tokio::test]
async fn a_model_in_the_data_folder_is_one_row() {
    let (mut phone, mine) = phone(&diary(30)).await;
    std::fs::create_dir(phone.place.data().join("mine")).expect("a folder");
    phone.place.write("mine/adapter_model.safetensors", "weights");
    let args = [("base", value(&phone.base)), ("source", Value::Path("mine".into()))];
    let t = task(&mut phone, "ingest", Type::Pllm, &args, &[]);
    let own = phone.handle(t, vec![stages::ingest()]).await;
    let over = [("model", value(&own)), ("data", value(&mine))];
    assert_eq!(evaluated(&mut phone, &over).await, Json::Null);
    assert!(evaluated(&mut phone, &over[1..]).await.is_object());
}

/// What a device kept before it counted number by number is one row, unless it is rows.
#[tokio::test]
async fn what_an_earlier_version_kept_is_counted_again() {
    let (mut phone, mine) = phone(&diary(30)).await;
    let args = training(&phone, &mine);
    let t = task(&mut phone, "finetune", Type::Pllm, &args, &[]);
    let tuned = phone.handle(t, stages()).await;
    for handle in [&mine, &tuned] {
        let at = phone.place.state().join("private").join(handle.id.to_string()).join("artifact.json");
        let mut held: Json = serde_json::from_slice(&std::fs::read(&at).expect("kept")).expect("JSON");
        let fields = held.as_object_mut().expect("an object");
        assert!(fields.remove("lineage").is_some());
        fields.insert("rows".into(), json!(30));
        std::fs::write(&at, held.to_string()).expect("writes");
    }
    assert!(evaluated(&mut phone, &[("data", value(&mine))]).await.is_object());
    let both = [("data", value(&mine)), ("model", value(&tuned))];
    assert_eq!(evaluated(&mut phone, &both).await, Json::Null);
    assert!(phone.history().iter().all(|e| e.ended == history::Ended::Succeeded));
}
