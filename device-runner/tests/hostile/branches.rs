//! Conditions over private values, asked again and again.

use headstart_device::history::Ended;
use headstart_protocol::Type;
use headstart_protocol::expr::{Expr, Value};

use crate::common::field;
use crate::phone::{DIARY, Phone, above, shape, stages};

/// 48 tasks, each with another bound on how sure the choice is: a bisection that would give the number to
/// many digits, if any of them said whether it ran or failed.
#[tokio::test]
async fn forty_eight_conditions_say_nothing() {
    let mut phone = Phone::new(DIARY).await;
    let mine = phone.diary().await;
    let pick = phone.pick(&mine).await;
    let mut seen = Vec::new();
    for n in 0..24 {
        let bound = f64::from(n) / 24.0;
        // The condition itself, then a task that cannot run without what it made.
        let t = phone.tuned(&mine, Some(above(&pick, "confidence", bound)));
        seen.push(shape(&phone.run(t, stages()).await));
        let gate = phone.engine.output();
        let mut t = phone.task("evaluate", Type::Metrics, &[("data", Value::Artifact(mine.clone()))]);
        t.args.insert("data".into(), field(&gate, "base"));
        t.private = true;
        let told = shape(&phone.run(t, stages()).await);
        seen.push(told.replace("\"Metrics\"", "\"Pllm\""));
    }
    assert_eq!(seen.len(), 48);
    assert!(seen.iter().all(|s| *s == seen[0]), "{seen:#?}");
    // It did come to different things: the test can fail.
    let ended: Vec<Ended> = phone.history().iter().map(|e| e.ended).collect();
    for each in [Ended::Succeeded, Ended::Skipped, Ended::Failed] {
        assert!(ended.contains(&each), "{each:?} in {ended:?}");
    }
    phone.assert_silent();
}

/// Names of what was chosen, by asking for a field that only one of them has.
#[tokio::test]
async fn a_field_that_may_not_exist_says_nothing() {
    let mut phone = Phone::new(DIARY).await;
    let mine = phone.diary().await;
    let pick = phone.pick(&mine).await;
    let mut seen = Vec::new();
    for name in ["pllm:kind", "pllm:terse", "no such field"] {
        let mut t = phone.task("evaluate", Type::Metrics, &[]);
        t.args.insert("data".into(), field(&pick, name));
        t.private = true;
        seen.push(shape(&phone.run(t, stages()).await));
    }
    let text = |s: &str| Box::new(Expr::value(Value::Text(s.into())));
    for name in ["kind", "terse"] {
        let op = headstart_protocol::expr::CompareOp::Eq;
        let is = Expr::Compare { op, left: Box::new(field(&pick, "pllm_name")), right: text(name) };
        let t = phone.tuned(&mine, Some(is));
        seen.push(shape(&phone.run(t, stages()).await).replace("\"Pllm\"", "\"Metrics\""));
    }
    assert!(seen.iter().all(|s| *s == seen[0]), "{seen:#?}");
}
