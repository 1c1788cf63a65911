//! What the engine resolves, what it leaves to the device, and what goes into cache keys.

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;

use common::*;
use headstart_core::prepare::{Decision, Prepared, catalogs_behind, output_value, prepare};
use headstart_core::{EventKind, PlaceFacts, RunState};
use headstart_dsl::plan::{Instance, Place, Plan};
use headstart_protocol::expr::{CompareOp, Expr, Value, resolve_public, unresolved};
use headstart_protocol::task::{Released, Usage};
use headstart_protocol::{ArtifactRef, ArtifactType, Digest, Manifest, Type};
use serde_json::json;

fn boxed(e: Expr) -> Box<Expr> {
    Box::new(e)
}

fn field(of: Expr, name: &str) -> Expr {
    Expr::Field { of: boxed(of), name: name.into() }
}

fn value(a: &ArtifactRef) -> Expr {
    Expr::value(Value::Artifact(a.clone()))
}

fn on_phone(mut i: Instance) -> Instance {
    i.place = Place::Device("phone".into());
    i.private_to = Some("phone".into());
    i
}

/// catalog (public), mine, pick = select(catalog, user: mine), tuned, on the phone.
fn phone_plan() -> Plan {
    let select = [("catalog", out(0)), ("user", out(1))];
    let from = Expr::Or { first: boxed(out(2)), second: boxed(field(out(2), "pllm")) };
    let mut tuned = on_phone(instance(3, "tuned", "finetune", &[("from", from), ("data", out(1))]));
    tuned.release = vec![vec!["metrics".into()]];
    Plan {
        items: vec![
            item("catalog", "decompose", Type::Catalog),
            item("mine", "blend", Type::Dataset),
            item("pick", "select", Type::Selection),
            item("tuned", "finetune", Type::Pllm),
        ],
        instances: vec![
            instance(0, "catalog", "decompose", &[]),
            on_phone(instance(1, "mine", "blend", &[("share", Expr::value(Value::Float(0.5)))])),
            on_phone(instance(2, "pick", "select", &select)),
            tuned,
        ],
        ..Plan::default()
    }
}

fn run_until(plan: Plan, outputs: &[ArtifactRef]) -> RunState {
    let mut state = RunState::new(Arc::new(plan));
    let first = started(&state.plan().clone());
    state.apply(&at(1, first)).expect("first");
    for (i, output) in outputs.iter().enumerate() {
        let (instance, fence) = (i as u32, i as u64 + 1);
        state.apply(&at(2, attempt(instance, 1, fence))).expect("ready");
        let released = BTreeMap::new();
        let usage = Usage::default();
        let done = EventKind::Committed { instance, fence, output: output.clone(), released, usage };
        state.apply(&at(3, done)).expect("live");
    }
    state
}

fn prepared(state: &RunState, instance: u32, known: &KnownManifests) -> Prepared {
    match prepare(state, instance, known).expect("resolvable") {
        Decision::Run(p) => p,
        Decision::Skip => panic!("skipped"),
    }
}

#[test]
fn what_is_private_stays_an_expression() {
    let pick = private(ArtifactType::Selection, 1);
    let outputs = [artifact(ArtifactType::Catalog, 0), private(ArtifactType::Dataset, 2), pick.clone()];
    let state = run_until(phone_plan(), &outputs);
    // KnownManifests::manifest panics when it is asked for a private manifest.
    let p = prepared(&state, 3, &KnownManifests::default());
    let expected = Expr::Or { first: boxed(value(&pick)), second: boxed(field(value(&pick), "pllm")) };
    assert_eq!(p.args["from"], expected);
    assert!(p.is_private());
    let task = p.task(&state, 3, 1, 9, Vec::new(), Default::default());
    assert!(task.private);
    assert_eq!(task.release, vec![vec!["metrics".to_owned()]]);
}

#[test]
fn public_parts_are_resolved_even_beside_private_ones() {
    let metrics = Manifest {
        ty: Type::Metrics,
        files: BTreeMap::new(),
        value: json!({"loss": 1.5}),
        uses: BTreeMap::new(),
    };
    let m = ArtifactRef::public(&metrics);
    let known = KnownManifests(BTreeMap::from([(m.id, metrics)]));
    let mine = value(&private(ArtifactType::Dataset, 7));
    let expr = Expr::List {
        items: vec![
            ("a".into(), field(value(&m), "loss")),
            ("b".into(), mine.clone()),
            ("c".into(), Expr::value(Value::Absent)),
            ("d".into(), Expr::Or { first: boxed(Expr::value(Value::Absent)), second: boxed(mine.clone()) }),
        ],
    };
    let expected = Expr::List {
        items: vec![
            ("a".into(), Expr::value(Value::Float(1.5))),
            ("b".into(), mine.clone()),
            ("d".into(), mine),
        ],
    };
    assert_eq!(resolve_public(&expr, &known).expect("resolvable"), expected);
    assert_eq!(unresolved(&expected), None, "a device takes it as it is");
}

#[test]
fn a_false_public_condition_skips_and_a_private_one_travels() {
    let compare = |of: Expr| Expr::Compare {
        op: CompareOp::Lt,
        left: boxed(field(of, "loss")),
        right: boxed(Expr::value(Value::Float(1.0))),
    };
    let metrics = |loss: f64| Manifest {
        ty: Type::Metrics,
        files: BTreeMap::new(),
        value: json!({ "loss": loss }),
        uses: BTreeMap::new(),
    };
    let plan = |private: bool| {
        let mut second = instance(0, "b", "evaluate", &[]);
        second.when = Some(compare(out(0)));
        let first = instance(0, "a", "evaluate", &[]);
        let first = if private { on_phone(first) } else { first };
        let second = if private { on_phone(second) } else { second };
        Plan {
            items: vec![item("a", "evaluate", Type::Metrics)],
            instances: vec![first, second],
            ..Plan::default()
        }
    };
    for (loss, runs) in [(0.5, true), (1.5, false)] {
        let manifest = metrics(loss);
        let output = ArtifactRef::public(&manifest);
        let known = KnownManifests(BTreeMap::from([(output.id, manifest)]));
        let state = run_until(plan(false), &[output]);
        let decision = prepare(&state, 1, &known).expect("resolvable");
        assert_eq!(matches!(decision, Decision::Run(Prepared { when: None, .. })), runs);
    }
    let state = run_until(plan(true), &[private(ArtifactType::Metrics, 3)]);
    assert!(prepared(&state, 1, &KnownManifests::default()).when.is_some());
}

#[test]
fn keys_know_inputs_and_residency_and_nothing_else() {
    let outputs = [artifact(ArtifactType::Catalog, 0), private(ArtifactType::Dataset, 2)];
    let key = |plan: Plan, outputs: &[ArtifactRef], i: u32| {
        let state = run_until(plan, outputs);
        prepared(&state, i, &KnownManifests::default())
            .preimage(&state, i, &PlaceFacts::default())
            .expect("cacheable")
    };
    let base = key(phone_plan(), &outputs, 2);
    let mut renamed = phone_plan();
    renamed.items[2].name = "choice".into();
    renamed.items[2].line = 99;
    renamed.instances[2].name = "choice".into();
    renamed.instances[2].policy.memory = Some(1);
    renamed.instances[2].policy.retry = 5;
    assert_eq!(key(renamed, &outputs, 2).key(), base.key(), "a name or limit changed the key");

    let other = [artifact(ArtifactType::Catalog, 1), private(ArtifactType::Dataset, 2)];
    let changed = key(phone_plan(), &other, 2);
    let differences = changed.since(&base);
    assert_eq!(differences.len(), 1, "{differences:?}");
    assert_eq!(differences[0].what, "args.catalog");

    let mut public = phone_plan();
    public.instances[1].private_to = None;
    public.instances[1].place = Place::Server;
    let private_key = key(phone_plan(), &outputs[..1], 1);
    let public_key = key(public, &outputs[..1], 1);
    assert_ne!(public_key.key(), private_key.key(), "a private output could be found for a public instance");
    assert_eq!(Digest::of(private_key.json().as_bytes()), private_key.key().0);
}

#[test]
fn what_reads_a_path_has_no_key() {
    let plan = Plan {
        items: vec![item("d", "jsonl", Type::Dataset)],
        instances: vec![instance(0, "d", "jsonl", &[("path", Expr::value(Value::Path("x".into())))])],
        ..Plan::default()
    };
    let state = run_until(plan, &[]);
    assert_eq!(
        prepared(&state, 0, &KnownManifests::default()).preimage(&state, 0, &PlaceFacts::default()),
        None
    );
}

#[test]
fn a_private_choice_brings_its_whole_catalog() {
    let outputs = [artifact(ArtifactType::Catalog, 0), private(ArtifactType::Dataset, 2)];
    let state = run_until(phone_plan(), &outputs);
    assert_eq!(catalogs_behind(&state, 3), [0], "tuned starts from a choice out of the catalog");
    assert_eq!(catalogs_behind(&state, 2), [0; 0], "select itself opens no pLLM …");
    let mut verifying = phone_plan();
    verifying.instances[2].args.insert("verify".into(), out(1));
    let state = run_until(verifying, &outputs);
    assert_eq!(catalogs_behind(&state, 2), [0], "… unless it verifies its shortlist");
}

#[test]
fn of_a_private_output_only_released_parts_exist() {
    let outputs = [
        artifact(ArtifactType::Catalog, 0),
        private(ArtifactType::Dataset, 2),
        private(ArtifactType::Selection, 1),
    ];
    let mut state = run_until(phone_plan(), &outputs);
    state.apply(&at(4, attempt(3, 1, 50))).expect("ready");
    let released = BTreeMap::from([("metrics".to_owned(), Released::Json(json!({"loss": 1.2})))]);
    let output = private(ArtifactType::Pllm, 5);
    let done = EventKind::Committed { instance: 3, fence: 50, output, released, usage: Usage::default() };
    state.apply(&at(5, done)).expect("live");
    let known = KnownManifests::default();
    let of = |e: &Expr| output_value(&state, e, &known).expect("resolvable");
    assert_eq!(of(&field(out(3), "metrics")), Some(Value::Json(json!({"loss": 1.2}))));
    assert_eq!(of(&out(3)), None, "the model itself was not released");
    assert_eq!(of(&out(2)), None);
    let list = Expr::List { items: vec![("k".into(), field(out(3), "metrics"))] };
    assert_eq!(of(&list), Some(Value::List(vec![("k".into(), Value::Json(json!({"loss": 1.2})))])));
}
