//! Conditions over private values are part of what the owner approves, and cost what a number costs.

use std::collections::BTreeSet;

use headstart_device::{Allowed, Approval, show};
use headstart_protocol::expr::{CompareOp, Condition, Expr, Value};
use headstart_protocol::task::{Outcome, Task};
use headstart_protocol::{ArtifactRef, Type};

use crate::common::field;
use crate::owner::{Owner, delivered, refused};
use crate::phone::{DIARY, Phone, above, stages};

fn compared(left: Expr, op: CompareOp, bound: i64) -> Expr {
    Expr::Compare { op, left: Box::new(left), right: Box::new(Expr::value(Value::Int(bound))) }
}

/// The dataset of an owner who approves what is asked for it.
async fn dataset(owner: &mut Owner) -> ArtifactRef {
    for _ in 0..2 {
        let t = owner.task("jsonl", Type::Dataset, &[("path", Value::Path("me.jsonl".into()))]);
        match owner.run(t).await {
            Outcome::Succeeded { output, .. } => return output,
            _ => owner.approve(BTreeSet::new()),
        }
    }
    panic!("it was approved");
}

#[tokio::test]
async fn another_threshold_field_or_operator_needs_another_approval() {
    let mut owner = Owner::new(Approval::Ask).await;
    let mine = dataset(&mut owner).await;
    let model = owner.model(&[]);
    let when = |owner: &mut Owner, when: Expr| Task { when: Some(when), ..owner.tuned(&model) };
    let rows = |mine: &ArtifactRef| compared(field(mine, "rows"), CompareOp::Gt, 1);
    let t = when(&mut owner, rows(&mine));
    assert!(refused(&owner.run(t).await));
    let page = show::approvals(&owner.place.state()).expect("prints");
    assert!(page.contains("  condition: finetune when jsonl.rows > 1\n"), "{page}");
    owner.approve(BTreeSet::new());
    let t = when(&mut owner, rows(&mine));
    assert!(delivered(&owner.run(t).await));
    assert_eq!(owner.ran(), 1);

    let others = [
        compared(field(&mine, "rows"), CompareOp::Gt, 2),
        compared(field(&mine, "rows"), CompareOp::Ge, 1),
        compared(field(&mine, "turns"), CompareOp::Gt, 1),
        Expr::Not { of: Box::new(rows(&mine)) },
        field(&mine, "rows"),
    ];
    for other in others {
        let t = when(&mut owner, other.clone());
        assert!(refused(&owner.run(t).await), "{other:?}");
    }
    // Within an argument, and how long it works.
    let mut t = owner.tuned(&model);
    let model_of = |a: &ArtifactRef| Box::new(Expr::value(Value::Artifact(a.clone())));
    t.args.insert("from".into(), Expr::Or { first: model_of(&mine), second: model_of(&model) });
    assert!(refused(&owner.run(t).await));
    let until = |bound| Condition { metric: "loss".into(), op: CompareOp::Lt, bound };
    let until = |owner: &mut Owner, bound| {
        let mut t = owner.tuned(&model);
        t.args.insert("until".into(), Expr::value(Value::Condition(until(bound))));
        t
    };
    let t = until(&mut owner, 0.41);
    assert!(refused(&owner.run(t).await));
    assert_eq!(owner.ran(), 1);
    owner.approve(BTreeSet::new());
    let t = until(&mut owner, 0.41);
    assert!(delivered(&owner.run(t).await));
    let t = until(&mut owner, 0.42);
    assert!(refused(&owner.run(t).await));
    assert_eq!(owner.ran(), 2);

    // The next night: other data, hence other handles, and the same pipeline.
    owner.place.write("me.jsonl", &DIARY.repeat(2));
    let next = dataset(&mut owner).await;
    assert_ne!(next, mine);
    let t = when(&mut owner, rows(&next));
    assert!(delivered(&owner.run(t).await));
}

/// A proposal that leaves a condition out allows nothing; one that names it lets it be approved with the rest.
#[tokio::test]
async fn the_device_finds_conditions_out_by_itself() {
    let mut owner = Owner::new(Approval::First).await;
    let model = owner.model(&[]);
    let t = owner.tuned(&model);
    assert!(delivered(&owner.run(t).await), "the first proposal");
    let mut t = owner.tuned(&model);
    let until = Condition { metric: "loss".into(), op: CompareOp::Lt, bound: 1.5 };
    t.args.insert("until".into(), Expr::value(Value::Condition(until)));
    t.proposal = owner.contracts().of(&owner.engine.key()).expect("reads").map(|a| a.contract.approved);
    let fence = t.fence;
    assert!(refused(&owner.run(t.clone()).await));
    let waiting = owner.pending();
    let rules: Vec<&str> = waiting[0].proposal.conditions.iter().map(|c| c.rule.as_str()).collect();
    assert_eq!(rules, ["loss < 1.5"]);
    owner.approve(BTreeSet::new());
    let again = Task { fence: fence + 100, ..t };
    assert!(delivered(&owner.run(again).await));
}

/// A bisection of a private number by how long tasks take costs a number a step, and ends with the budget.
#[tokio::test]
async fn decisions_that_can_be_timed_are_spent_from_the_budget() {
    let mut phone = Phone::new(DIARY).await;
    (phone.allowed, phone.limits.budget) = (Allowed::NUMBERS, 3);
    let mine = phone.diary().await;
    let pick = phone.pick(&mine).await;
    let mut outcomes = Vec::new();
    for bound in [0.5, 0.25, 0.25, 0.375, 0.4375, 0.5] {
        let t = phone.tuned(&mine, Some(above(&pick, "confidence", bound)));
        outcomes.push(refused(&phone.run(t, stages()).await));
    }
    assert_eq!(outcomes, [false, false, false, false, true, false], "the same question is free");
    let page = show::budget(&phone.place.state()).expect("prints");
    assert!(
        page.contains("3 of 3 numbers") && page.contains("time of `when select.confidence > 0.5`"),
        "{page}"
    );
    let why = phone.history()[6].failure.clone().and_then(|f| f.help).expect("a reason");
    assert!(why.contains("headstart-device budget --reset"), "{why}");

    // The owner starts over, and the engine sees that it may offer again what was refused.
    let approvals = |phone: &Phone| phone.engine.lock().joins.last().expect("a join").facts.approvals;
    assert_eq!(approvals(&phone), 0);
    headstart_device::reset_budget(&phone.place.state()).expect("writes");
    let t = phone.tuned(&mine, Some(above(&pick, "confidence", 0.4375)));
    assert!(delivered(&phone.run(t, stages()).await));
    assert_eq!(approvals(&phone), 1);
}
