//! What a pipeline writes down as arguments is part of what the owner approves.

use std::collections::BTreeSet;

use headstart_device::{Approval, show};
use headstart_protocol::expr::Value;
use headstart_protocol::task::Task;
use headstart_protocol::{ArtifactRef, Type};

use crate::owner::{Owner, delivered, refused};
use crate::phone::DIARY;

fn rows(owner: &mut Owner, args: &[(&str, Value)]) -> Task {
    let path = ("path", Value::Path("me.jsonl".into()));
    owner.task("jsonl", Type::Dataset, &[&[path], args].concat())
}

fn measured(owner: &mut Owner, mine: &ArtifactRef, answers: i64) -> Task {
    let args = [
        ("data", Value::Artifact(mine.clone())),
        ("answers", Value::Int(answers)),
        ("max_tokens", Value::Int(128)),
    ];
    owner.task("evaluate", Type::Metrics, &args)
}

/// The same number over rows that differ by one says what that row is: each subset is a question of its own.
#[tokio::test]
async fn another_subset_of_the_rows_needs_another_approval() {
    let mut owner = Owner::new(Approval::First).await;
    let t = rows(&mut owner, &[("skip", Value::Int(0))]);
    assert!(delivered(&owner.run(t).await), "the first proposal");
    let others: [&[(&str, Value)]; 6] = [
        &[("skip", Value::Int(1))],
        &[("skip", Value::Int(0)), ("take", Value::Int(1))],
        &[("skip", Value::Int(0)), ("prompt", Value::Text("secret".into()))],
        &[("skip", Value::Int(0)), ("sort", Value::Bool(true))],
        &[],
        &[("skip", Value::Float(0.5))],
    ];
    for other in others {
        let t = rows(&mut owner, other);
        assert!(refused(&owner.run(t).await), "{other:?}");
    }
    let elsewhere = [("path", Value::Path("letters.jsonl".into())), ("skip", Value::Int(0))];
    let t = owner.task("jsonl", Type::Dataset, &elsewhere);
    assert!(refused(&owner.run(t).await));
    let t = rows(&mut owner, &[("skip", Value::Int(0))]);
    assert!(delivered(&owner.run(t).await));
}

#[tokio::test]
async fn the_owner_sees_what_is_unusual_and_the_next_night_needs_no_approval() {
    let mut owner = Owner::new(Approval::Ask).await;
    for _ in 0..2 {
        let t = rows(&mut owner, &[]);
        if delivered(&owner.run(t).await) {
            break;
        }
        owner.approve(BTreeSet::new());
    }
    let mine = owner.engine.output();
    let t = measured(&mut owner, &mine, 1);
    assert!(refused(&owner.run(t).await));
    let page = show::approvals(&owner.place.state()).expect("prints");
    assert!(page.contains("  evaluate with answers: 1\n"), "{page}");
    assert!(page.contains("  jsonl with path: file \"me.jsonl\"\n"), "{page}");
    owner.approve(BTreeSet::new());
    let t = measured(&mut owner, &mine, 1);
    assert!(delivered(&owner.run(t).await));
    let t = measured(&mut owner, &mine, 2);
    assert!(refused(&owner.run(t).await));
    // The next night: other data, hence other handles, and the same pipeline.
    owner.place.write("me.jsonl", &DIARY.repeat(2));
    let t = rows(&mut owner, &[]);
    assert!(delivered(&owner.run(t).await));
    let next = owner.engine.output();
    assert_ne!(next, mine);
    let t = measured(&mut owner, &next, 1);
    assert!(delivered(&owner.run(t).await));
}

/// A proposal that leaves an argument out allows nothing; one that is longer than can be read is approved as it is.
#[tokio::test]
async fn the_device_finds_arguments_out_by_itself() {
    let mut owner = Owner::new(Approval::First).await;
    let t = rows(&mut owner, &[]);
    assert!(delivered(&owner.run(t).await), "the first proposal");
    let approved = |owner: &Owner| {
        owner.contracts().of(&owner.engine.key()).expect("reads").map(|a| a.contract.approved)
    };
    let long = |last: &str| Value::Text("\u{202e}prompt ".repeat(500) + last);
    let mut t = rows(&mut owner, &[("prompt", long("a"))]);
    t.proposal = approved(&owner);
    assert!(refused(&owner.run(t).await));
    let page = show::approvals(&owner.place.state()).expect("prints");
    assert!(page.contains("(5003 bytes,") && !page.contains('\u{202e}') && page.len() < 5000, "{page}");
    owner.approve(BTreeSet::new());
    let mut t = rows(&mut owner, &[("prompt", long("a"))]);
    t.proposal = approved(&owner);
    assert!(delivered(&owner.run(t).await));
    let t = rows(&mut owner, &[("prompt", long("b"))]);
    assert!(refused(&owner.run(t).await), "it differs behind what is shown");
}
