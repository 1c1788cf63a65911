//! How devices join, claim, hold their leases and come back.

mod common;

use std::collections::BTreeMap;
use std::time::Duration;

use common::phone::{
    Phone, begin, committed, done, handle, invite, join, personal, plain_join, proven, single,
};
use common::{Bench, Pipeline, options, out, until};
use headstart_core::{Event, EventKind, RunOutcome};
use headstart_driver::hub::codes;
use headstart_driver::{EngineOptions, RunHandle, RunOptions, RunResult, WaitReason};
use headstart_dsl::plan::{Place, Plan};
use headstart_protocol::contract::NOT_APPROVED;
use headstart_protocol::expr::{Expr, Value};
use headstart_protocol::task::{Outcome, Released, Usage};
use headstart_protocol::wire::{Claim, Commit, Committed, Facts, Join, Renew, Renewed};
use headstart_protocol::{
    ArtifactRef, ArtifactType, Digest, Failure, FailureClass, Manifest, Numerics, PROTOCOL_VERSION, Type,
};
use headstart_transport::Identity;
use serde_json::json;

/// The HTTP layer moves these futures between threads.
#[test]
fn calls_may_move_between_threads() {
    fn moves<T: Send>(_: T) {}
    let bench = Bench::new();
    let hub = bench.engine.hub();
    let session = Phone::join(hub).session;
    moves(hub.claim(&session, Claim { facts: Facts::default(), wait_ms: 0, held: None }));
    let outcome = Outcome::Skipped;
    let commit = Commit { fence: 0, outcome, manifests: BTreeMap::new() };
    moves(hub.commit(&session, commit, Digest::of(b"")));
}

#[tokio::test]
async fn a_device_is_known_by_its_key() {
    let mut bench = Bench::new();
    let hub = bench.engine.hub().clone();
    let phone = Phone::join(&hub);
    let me = phone.identity.clone();
    let escape = proven(&hub, &me, Join { device: "../x".into(), ..plain_join() }, None);
    assert_eq!(join(&hub, &me, &escape).expect_err("refused").code, codes::INVALID);
    let old = Join { protocol: PROTOCOL_VERSION + 1, ..proven(&hub, &me, plain_join(), None) };
    assert_eq!(join(&hub, &me, &old).expect_err("refused").code, codes::PROTOCOL);
    let key = phone.identity.public();
    assert_eq!(hub.authenticate(&key, "no session").expect_err("refused").code, codes::UNKNOWN_SESSION);

    let engine = hub.identity().public();
    bench.restarted(options());
    let hub = bench.engine.hub();
    assert_eq!(hub.identity().public(), engine, "the engine's key outlives it");
    assert_eq!(hub.devices()[0].name, "phone");
    join(hub, &me, &proven(hub, &me, plain_join(), None)).expect("it stays paired");
}

#[tokio::test]
async fn an_expired_lease_is_offered_again_and_the_late_twin_is_superseded() {
    let lease = Duration::from_millis(150);
    let (bench, clock) = Bench::simulated(EngineOptions { device_lease: lease, ..options() });
    let run = begin(&bench, single(&[]));
    let mut phone = Phone::join(bench.engine.hub());
    let first = phone.claim().await;
    for _ in 0..4 {
        clock.advance(lease / 2);
        let renew = Renew { fence: first.fence, progress: None };
        assert_eq!(phone.renew(renew).expect("theirs"), Renewed::Ok);
    }
    // Now it falls silent.
    clock.advance(lease);
    let second = phone.claim().await;
    assert_eq!((second.attempt, second.instance), (2, first.instance));
    assert!(second.fence > first.fence);
    let renew = Renew { fence: first.fence, progress: None };
    assert_eq!(phone.renew(renew).expect("theirs"), Renewed::Superseded);
    let output = handle(ArtifactType::Pllm, "weights");
    let late = phone.commit(first.fence, done(output.clone())).await.expect("answered");
    assert_eq!(late, Committed::Superseded);
    for _ in 0..2 {
        let taken = phone.commit(second.fence, done(output.clone())).await.expect("answered");
        assert_eq!(taken, Committed::Accepted, "also when it is said again");
    }
    let result = run.wait().await.expect("ends");
    assert_eq!(result.outcome, RunOutcome::Succeeded);
    let after = phone.commit(second.fence, done(output)).await.expect("answered");
    assert_eq!(after, Committed::Accepted, "also when the run has ended");
    let events: Vec<Event> = bench.engine.workspace().read_run(run.id()).expect("readable");
    let count = |f: &dyn Fn(&EventKind) -> bool| events.iter().filter(|e| f(&e.kind)).count();
    assert_eq!(count(&|k| matches!(k, EventKind::LeaseExpired { .. })), 1);
    assert_eq!(count(&|k| matches!(k, EventKind::Committed { instance: 1, .. })), 1);
    assert_eq!(count(&|k| matches!(k, EventKind::Superseded { .. })), 1);
}

#[tokio::test]
async fn a_device_that_starts_again_is_offered_at_once_what_it_left() {
    let bench = Bench::new();
    let run = begin(&bench, single(&[]));
    let mut phone = Phone::join(bench.engine.hub());
    let first = phone.claim().await;
    let old_session = phone.session.clone();
    let mut phone = Phone::join(bench.engine.hub());
    let second = phone.claim().await;
    assert_eq!(second.instance, first.instance);
    let output = handle(ArtifactType::Pllm, "weights");
    let commit = Commit { fence: first.fence, outcome: done(output.clone()), manifests: BTreeMap::new() };
    let late = committed(&phone.hub, &old_session, &phone.identity, commit).await;
    let late = late.expect("old sessions stay valid");
    assert_eq!(late, Committed::Superseded);
    phone.commit(second.fence, done(output)).await.expect("taken");
    assert_eq!(run.wait().await.expect("ends").outcome, RunOutcome::Succeeded);
}

#[tokio::test]
async fn a_device_that_never_joins_fails_what_waits_for_it_and_says_how_to_join() {
    let (bench, clock) = Bench::simulated(options());
    let (plan, [_, mine, ..]) = personal();
    let patience = Duration::from_millis(100);
    let options = RunOptions {
        device_wait: Some(patience),
        address: Some("https://10.0.0.5:7878".into()),
        ..bench.run_options()
    };
    let run = bench.engine.run(plan, options).expect("begins");
    until(|| waits_for(&bench, &run) == Some(WaitReason::Pairing)).await;
    clock.advance(patience + Duration::from_millis(1));
    let result = run.wait().await.expect("ends");
    assert_eq!((result.outcome, result.failures[0].instance), (RunOutcome::Failed, mine));
    let failure = &result.failures[0].failure;
    assert!(failure.message.contains("device `phone` did not join within 100ms"), "{}", failure.message);
    assert!(failure.message.contains("`mine`"), "{}", failure.message);
    let help = failure.help.as_deref().expect("help");
    assert!(help.contains("headstart devices invite phone --url https://10.0.0.5:7878"), "{help}");
    assert!(help.contains("headstart-device join INVITATION --data FOLDER"), "{help}");
    assert_eq!(result.counts.blocked, 3);
    assert_eq!(result.counts.succeeded, 4, "what needs no device was made");
}

#[tokio::test]
async fn conditions_and_memory_decide_what_a_device_is_offered() {
    let (bench, clock) = Bench::simulated(options());
    let mut plan = single(&[]);
    plan.instances[1].policy.only_when = vec!["charging".into()];
    let run = begin(&bench, plan);
    let mut phone = Phone::join(bench.engine.hub());
    until(|| waits_for(&bench, &run).is_some()).await;
    assert!(phone.claim_with(&[], 0).await.is_none(), "it is not charging");
    let task = phone.claim_with(&["charging"], 5000).await.expect("now it is");
    phone.commit(task.fence, done(handle(ArtifactType::Pllm, "w"))).await.expect("taken");
    run.wait().await.expect("ends");

    let mut plan = single(&[]);
    plan.instances[1].policy.memory = Some(8 << 30);
    plan.instances[1].args.insert("seed".into(), Expr::value(Value::Int(1)));
    let patience = Duration::from_millis(100);
    let options = RunOptions { device_wait: Some(patience), ..bench.run_options() };
    let run = bench.engine.run(plan, options).expect("begins");
    until(|| matches!(waits_for(&bench, &run), Some(WaitReason::Unfit(_)))).await;
    clock.advance(patience + Duration::from_millis(1));
    let result = run.wait().await.expect("ends");
    let message = &result.failures[0].failure.message;
    assert!(message.contains("needs 8192 MiB of memory and the device has 4096 MiB"), "{message}");
}

#[tokio::test]
async fn a_wait_that_is_over_names_the_condition_that_was_not_met() {
    let (bench, clock) = Bench::simulated(options());
    let mut plan = single(&[]);
    plan.instances[1].policy.only_when = vec!["charging".into(), "idle".into()];
    plan.instances[1].policy.wait_ms = Some(60_000);
    let run = begin(&bench, plan);
    let mut phone = Phone::join(bench.engine.hub());
    until(|| waits_for(&bench, &run).is_some()).await;
    assert!(phone.claim_with(&["idle"], 0).await.is_none(), "it is not charging");
    clock.advance(Duration::from_millis(60_001));
    let result = run.wait().await.expect("ends");
    let message = &result.failures[0].failure.message;
    assert!(message.contains("within 60s: `only_when: charging` does not hold there"), "{message}");
}

#[tokio::test]
async fn a_release_that_the_owner_denies_is_named_by_the_engine() {
    let bench = Bench::new();
    let run = begin(&bench, single(&["metrics"]));
    let mut phone = Phone::join(bench.engine.hub());
    let task = phone.claim().await;
    let failure = Failure::new(FailureClass::Denied, "what the device says goes no further: SECRET");
    phone.commit(task.fence, Outcome::Failed { failure }).await.expect("taken");
    let result = run.wait().await.expect("ends");
    let failure = &result.failures[0].failure;
    assert_eq!(failure.class, FailureClass::Denied);
    assert_eq!(failure.message, "the release of `metrics` of `tuned` is denied by device `phone`");
    assert!(failure.help.as_deref().is_some_and(|h| h.contains("--allow-release")));
}

/// It is not offered again before the owner approved something, and the run says what to approve.
#[tokio::test]
async fn what_the_owner_has_not_approved_waits_for_it() {
    let (bench, clock) = Bench::simulated(options());
    let patience = Duration::from_millis(100);
    let options = RunOptions { device_wait: Some(patience), ..bench.run_options() };
    let run = bench.engine.run(single(&["metrics"]), options).expect("begins");
    let mut phone = Phone::join(bench.engine.hub());
    let refuse = || Outcome::Failed { failure: Failure::new(FailureClass::Denied, NOT_APPROVED) };
    let task = phone.claim().await;
    let digest = task.proposal.expect("a proposal").digest();
    phone.commit(task.fence, refuse()).await.expect("taken");
    assert!(phone.claim_with(&[], 0).await.is_none(), "it would refuse it again");
    let refused_again = {
        // It waits for work, so it is present.
        let (hub, session) = (phone.hub.clone(), phone.session.clone());
        tokio::spawn(async move { hub.claim(&session, claim(0, 30_000)).await })
    };
    until(|| waits_for(&bench, &run) == Some(WaitReason::Contract(digest))).await;
    refused_again.abort();
    let task = phone.claim_after(1, &[], 5000).await.expect("the owner approved something");
    assert_eq!(task.attempt, 2);
    phone.commit(task.fence, refuse()).await.expect("taken");
    let (hub, session) = (phone.hub.clone(), phone.session.clone());
    let still_there = tokio::spawn(async move { hub.claim(&session, claim(1, 30_000)).await });
    until(|| matches!(waits_for(&bench, &run), Some(WaitReason::Contract(_)))).await;
    clock.advance(patience + Duration::from_millis(1));
    let result = run.wait().await.expect("ends");
    still_there.abort();
    let failure = &result.failures[0].failure;
    assert!(failure.message.contains("the owner of device `phone` has not approved"), "{failure}");
    assert!(failure.help.as_ref().is_some_and(|h| h.contains(&format!("approve {digest}"))), "{failure:?}");
}

/// What a run places on a device and gives to its stages, as far as it exists, is in the first proposal already.
#[tokio::test]
async fn the_first_proposal_covers_the_run() {
    let bench = Bench::new();
    let (plan, _) = personal();
    let run = begin(&bench, plan.clone());
    let mut phone = Phone::join(bench.engine.hub());
    phone.work(4).await;
    assert_eq!(run.wait().await.expect("ends").outcome, RunOutcome::Succeeded);
    let proposals: Vec<_> = phone.tasks.iter().map(|t| t.proposal.clone().expect("a proposal")).collect();
    let first = &proposals[0];
    let kinds: Vec<&str> = first.stages.iter().map(|s| s.kind.as_str()).collect();
    assert_eq!(kinds, ["embed", "finetune", "jsonl", "select"]);
    assert_eq!(
        first.releases.iter().map(|r| (r.of.as_str(), r.path.as_str())).collect::<Vec<_>>(),
        [("finetune", "metrics")]
    );
    assert!(!first.models.is_empty(), "the base is there before the first private task");
    assert!(proposals.iter().all(|p| p == first), "no task asks for more");
    for id in &first.models {
        phone.hub.manifest(&phone.session, id).expect("the owner may look at it");
    }
}

/// What a device computes with is part of the keys of its numeric stages; one that computes with
/// something else computes again.
#[tokio::test]
async fn a_device_that_computes_with_something_else_finds_nothing_in_the_cache() {
    let bench = Bench::new();
    let hub = bench.engine.hub();
    // `a` is computed once; `tuned` once for each instruction set.
    for (set, cached) in [("neon", 0), ("neon", 2), ("sve", 1)] {
        let mut phone = Phone::join_with(hub, Numerics::new("cpu", "f32").instruction_set(set));
        let run = begin(&bench, single(&[]));
        if cached < 2 {
            let task = phone.claim().await;
            phone.commit(task.fence, done(handle(ArtifactType::Pllm, "w"))).await.expect("taken");
        }
        let result = run.wait().await.expect("ends");
        assert_eq!((result.outcome, result.counts.cached), (RunOutcome::Succeeded, cached), "{set}");
    }
}

/// A public stage on a device, or on the engine.
fn counted(place: Place) -> Plan {
    let mut p = Pipeline::default();
    let a = p.blend("a", 3);
    let sum = p.sum("sum", &[a]);
    p.at(sum).place = place;
    p.output("sum", out(sum), Type::Dataset);
    p.plan
}

/// Nobody checks what a device makes of public inputs, so that a wrong result of one is found by stages that are
/// placed on that very device, and by no others: not by the engine, and not by the device that takes its name.
#[tokio::test]
async fn a_wrong_public_result_of_a_device_is_found_by_no_other() {
    let bench = Bench::new();
    let hub = bench.engine.hub();
    let on = |name: &str| counted(Place::Device(name.to_owned()));
    let run = begin(&bench, on("phone"));
    let mut phone = Phone::join(hub);
    let task = phone.claim().await;
    assert!(!task.private);
    let wrong = Manifest {
        ty: Type::Dataset,
        files: BTreeMap::new(),
        value: json!({ "n": 666 }),
        uses: BTreeMap::new(),
    };
    let output = ArtifactRef::public(&wrong);
    let manifests = BTreeMap::from([(output.id.to_string(), wrong)]);
    phone.commit_with(task.fence, done(output.clone()), manifests).await.expect("taken");
    let result = run.wait().await.expect("ends");
    let given = |result: &RunResult| result.outputs[0].value.clone();
    assert_eq!(given(&result), Some(Value::Artifact(output.clone())));

    // The same stage with the same inputs, on the engine: it computes by itself.
    let result = bench.run(counted(Place::Server)).await;
    assert_eq!((result.outcome, bench.script.calls("concat")), (RunOutcome::Succeeded, 1));
    assert_eq!(bench.number(&result, "sum"), Some(3));
    assert_eq!(bench.run(counted(Place::Server)).await.counts.cached, 2, "and finds its own result again");

    // That device again: what it made is its own.
    let result = begin(&bench, on("phone")).wait().await.expect("ends");
    assert_eq!((result.counts.cached, given(&result)), (2, Some(Value::Artifact(output))));

    // Another device of that name, after the first was revoked, and a device of another name.
    hub.registry().revoke("phone").expect("revoked");
    for (name, secret) in [("phone", 8), ("tablet", 9)] {
        let run = begin(&bench, on(name));
        let identity = Identity::from_secret(&[secret; 32]);
        let what = Join { device: name.into(), kinds: vec!["concat".into()], ..plain_join() };
        let invitation = invite(hub, name);
        let what = proven(hub, &identity, what, Some(&invitation));
        let (session, token) = join(hub, &identity, &what).expect("admitted");
        let mut other = Phone { hub: hub.clone(), session, token, identity, tasks: Vec::new() };
        let task = other.claim().await;
        assert_eq!(task.kind, "concat", "{name} is asked");
        let failure = Failure::input("enough");
        other.commit(task.fence, Outcome::Failed { failure }).await.expect("taken");
        assert_eq!(run.wait().await.expect("ends").outcome, RunOutcome::Failed);
    }
}

/// Asks for work, once the owner approved something so often.
fn claim(approvals: u64, wait_ms: u64) -> Claim {
    let facts = Facts { memory: 4 << 30, approvals, ..Facts::default() };
    Claim { facts, wait_ms, held: None }
}

/// Why the run's first offer is not taken.
fn waits_for(bench: &Bench, run: &RunHandle) -> Option<WaitReason> {
    bench.engine.hub().device_waits(run.id()).first().map(|wait| wait.why.clone())
}

#[tokio::test]
async fn a_cancelled_run_tells_its_devices() {
    let bench = Bench::new();
    let run = begin(&bench, single(&[]));
    let mut phone = Phone::join(bench.engine.hub());
    let task = phone.claim().await;
    run.cancel();
    let renew = || phone.renew(Renew { fence: task.fence, progress: None }).expect("theirs");
    until(|| renew() != Renewed::Ok).await;
    assert_eq!(renew(), Renewed::Cancel);
    let failure = Failure::new(FailureClass::Cancelled, "stopped");
    phone.commit(task.fence, Outcome::Failed { failure }).await.expect("taken");
    let result = run.wait().await.expect("ends");
    assert_eq!((result.outcome, result.counts.failed), (RunOutcome::Cancelled, 0));
}

#[tokio::test]
async fn a_device_goes_on_over_a_restart_of_the_engine() {
    let mut bench = Bench::new();
    let old = begin(&bench, single(&["metrics"]));
    let mut phone = Phone::join(bench.engine.hub());
    let task = phone.claim().await;
    let id = bench.interrupted(old.id(), "resumed");
    let early = Phone::join(bench.engine.hub());
    let renew = Renew { fence: task.fence, progress: None };
    assert_eq!(early.renew(renew).expect("may be"), Renewed::Ok);
    let resumed = bench.engine.resume(&id, bench.run_options()).expect("resumes");
    let stale = Renew { fence: task.fence, progress: None };
    let hub = bench.engine.hub();
    let e = hub.authenticate(&phone.identity.public(), &phone.token).expect_err("restarted");
    assert_eq!(e.code, codes::UNKNOWN_SESSION);
    let again = Phone::join(hub);
    assert_eq!(again.renew(stale).expect("adopted"), Renewed::Ok);
    let released = BTreeMap::from([("metrics".to_owned(), Released::Json(json!({"loss": 0.5})))]);
    let output = handle(ArtifactType::Pllm, "weights");
    let outcome = Outcome::Succeeded { output, released, usage: Usage::default() };
    assert_eq!(again.commit(task.fence, outcome).await.expect("taken"), Committed::Accepted);
    let result = resumed.wait().await.expect("ends");
    assert_eq!(result.outcome, RunOutcome::Succeeded);
    assert_eq!((result.counts.succeeded, result.counts.delivered), (1, 1));
    old.cancel();
}
