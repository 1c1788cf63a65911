//! Tasks that leave open what follows from public values, so that the device would find out by itself what it is:
//! behind what its owner approves, and behind what is charged.

use std::collections::BTreeSet;

use headstart_device::{Allowed, Approval, show};
use headstart_protocol::expr::{CompareOp, Expr, Value};
use headstart_protocol::task::{Outcome, Task};
use headstart_protocol::{ArtifactRef, Digest, FailureClass, Type};
use serde_json::json;

use crate::common::field;
use crate::owner::{Owner, delivered, refused};
use crate::phone::{DIARY, Phone, stages};

fn or(first: Expr, second: Expr) -> Expr {
    Expr::Or { first: Box::new(first), second: Box::new(second) }
}

fn above(left: Expr, right: Expr) -> Expr {
    Expr::Compare { op: CompareOp::Gt, left: Box::new(left), right: Box::new(right) }
}

fn artifact(a: &ArtifactRef) -> Expr {
    Expr::value(Value::Artifact(a.clone()))
}

/// That a task is refused for what it is, before anything private is looked at.
fn does_not_fit(outcome: &Outcome) -> bool {
    match outcome {
        Outcome::Failed { failure } => {
            failure.class == FailureClass::Input
                && failure.message.starts_with("the task does not fit this device")
        }
        _ => false,
    }
}

/// A dataset and a training, approved as they stand.
async fn approved(owner: &mut Owner, model: &ArtifactRef) -> ArtifactRef {
    let mut mine = None;
    for _ in 0..2 {
        let t = owner.task("jsonl", Type::Dataset, &[("path", Value::Path("me.jsonl".into()))]);
        if let Outcome::Succeeded { output, .. } = owner.run(t).await {
            mine = Some(output);
        }
        let t = owner.tuned(model);
        owner.run(t).await;
        owner.approve(BTreeSet::new());
    }
    assert_eq!(owner.ran(), 1);
    mine.expect("approved")
}

/// Every form of expression around a field of a public artifact, or a constant: as a `when`, and as an argument.
#[tokio::test]
async fn a_public_part_that_is_left_open_is_refused() {
    let mut owner = Owner::new(Approval::Ask).await;
    let model = owner.model(&[]);
    let mine = approved(&mut owner, &model).await;
    let numbers = owner.engine.publish(Type::Metrics, &[], json!({ "t": 1, "nothing": null }));
    let (t, rows) = (|| field(&numbers, "t"), || field(&mine, "rows"));
    let (one, absent) = (|| Expr::value(Value::Int(1)), || Expr::value(Value::Absent));
    let list = |e| Expr::List { items: vec![("0".into(), e)] };
    let open = [
        t(),
        above(rows(), t()),
        above(t(), rows()),
        Expr::Not { of: Box::new(above(rows(), t())) },
        or(absent(), one()),
        or(absent(), rows()),
        or(field(&numbers, "nothing"), above(rows(), one())),
        or(rows(), t()),
        list(one()),
        list(t()),
        Expr::Mix { terms: vec![(1.0, "a".into(), artifact(&model))] },
        Expr::Mix { terms: vec![(1.0, "a".into(), or(artifact(&mine), t()))] },
        Expr::Output { instance: 0 },
    ];
    for e in open {
        let mut task = owner.tuned(&model);
        task.when = Some(e.clone());
        assert!(does_not_fit(&owner.run(task).await), "when: {e:?}");
        // Beside the approved arguments, and in the place of one of them.
        for name in ["take", "data"] {
            let mut task = owner.tuned(&model);
            task.args.insert(name.into(), e.clone());
            assert!(does_not_fit(&owner.run(task).await), "{name}: {e:?}");
        }
        let why = owner.told().failure.expect("a reason").message;
        assert!(why.contains("`data` has a part that follows from public values alone"), "{why}");
    }
    // A public `when` was to be decided by the engine.
    for e in [Expr::value(Value::Bool(true)), absent(), artifact(&numbers)] {
        let task = Task { when: Some(e.clone()), ..owner.tuned(&model) };
        assert!(does_not_fit(&owner.run(task).await), "{e:?}");
    }
    assert_eq!(owner.ran(), 1, "nothing ran");
    assert!(owner.pending().is_empty(), "and nobody is asked to approve it");
    let page = show::budget(&owner.place.state()).expect("prints");
    assert_eq!(page.trim(), "no number left this device");
    let task = owner.tuned(&model);
    assert!(delivered(&owner.run(task).await), "what is resolved runs");
}

/// A bisection by thresholds that stand in public artifacts: neither approved nor charged, it never ended.
#[tokio::test]
async fn thresholds_in_public_artifacts_ask_nothing() {
    let mut phone = Phone::new(DIARY).await;
    phone.allowed = Allowed::NUMBERS;
    let mine = phone.diary().await;
    let pick = phone.pick(&mine).await;
    for n in 0..8 {
        let threshold = phone.engine.publish(Type::Metrics, &[], json!({ "t": f64::from(n) / 8.0 }));
        let when = above(field(&pick, "confidence"), field(&threshold, "t"));
        let t = phone.tuned(&mine, Some(when));
        assert!(does_not_fit(&phone.run(t, stages()).await));
    }
    assert!(phone.history()[2..].iter().all(|e| e.failure.is_some()), "none was run");
    let page = show::budget(&phone.place.state()).expect("prints");
    assert_eq!(page.trim(), "no number left this device");
    phone.assert_silent();
}

/// One that an earlier version took over is not worked on either.
#[tokio::test]
async fn what_waits_in_the_queue_is_judged_too() {
    let mut phone = Phone::new(DIARY).await;
    let mine = phone.diary().await;
    let threshold = phone.engine.publish(Type::Metrics, &[], json!({ "t": 1 }));
    let t = phone.tuned(&mine, Some(above(field(&mine, "rows"), field(&threshold, "t"))));
    let queued = json!({ "task": t, "handle": Digest::of(b"promised"), "since": "2026-11-30T00:00:00Z", "models": [] });
    let at = phone.place.state().join(format!("queue/{:020}.json", t.fence));
    std::fs::write(at, queued.to_string()).expect("writes");
    let t = phone.task("jsonl", Type::Dataset, &[("path", Value::Path("me.jsonl".into()))]);
    phone.run(Task { private: true, ..t }, stages()).await;
    let failed = phone.history().into_iter().find(|e| e.kind == "finetune").expect("it left the queue");
    let why = failed.failure.expect("it was not run").message;
    assert!(why.contains("`when` has a part that follows from public values alone"), "{why}");
}

/// An argument that is absent, or an artifact, or a number of another type is another argument than one that is
/// not given.
#[tokio::test]
async fn whatever_is_given_is_approved() {
    let mut owner = Owner::new(Approval::Ask).await;
    let model = owner.model(&[]);
    let mine = approved(&mut owner, &model).await;
    let rows = owner.engine.publish(Type::Dataset, &[("rows.jsonl", b"{}\n")], json!({ "rows": 1 }));
    let gone = ArtifactRef { ty: headstart_protocol::ArtifactType::Absent, ..rows.clone() };
    let others = [
        ("eval", Value::Artifact(mine.clone())),
        ("eval", Value::Artifact(rows)),
        ("eval", Value::Absent),
        ("max_steps", Value::Absent),
        ("max_steps", Value::Json(json!(5))),
        ("data", Value::Artifact(mine)),
        ("data", Value::Text("me.jsonl".into())),
    ];
    for (name, value) in others {
        let mut t = owner.tuned(&model);
        t.args.insert(name.into(), Expr::value(value.clone()));
        assert!(refused(&owner.run(t).await), "{name}: {value:?}");
    }
    // The engine cannot say of what it publishes that it is not there.
    let mut t = owner.tuned(&model);
    t.args.insert("eval".into(), Expr::value(Value::Artifact(gone)));
    assert!(!delivered(&owner.run(t).await));
    assert_eq!(owner.ran(), 1);
    let page = show::approvals(&owner.place.state()).expect("prints");
    assert!(page.contains("  finetune with data: file \"me.jsonl\", eval: _\n"), "{page}");
}
