//! Claims over a link that loses, repeats and delays.

mod common;

use std::collections::BTreeMap;
use std::time::Duration;

use common::phone::{Phone, begin, done, handle, read, single};
use common::{Bench, Pipeline, options, out};
use headstart_core::{Event, EventKind, LossCause, RunOutcome};
use headstart_driver::hub::Session;
use headstart_driver::{EngineOptions, Hub, RunHandle};
use headstart_dsl::plan::Plan;
use headstart_env::backoff::Backoff;
use headstart_env::simulated::{SimulatedClock, SimulatedRandom};
use headstart_env::{Clock, Random};
use headstart_protocol::expr::Value;
use headstart_protocol::task::Task;
use headstart_protocol::wire::{Claim, Commit, Facts, Grant, Held, Renew, Signed};
use headstart_protocol::{ArtifactType, Expr, Type};
use headstart_transport::Identity;
use headstart_transport::signed::Kind;
use tokio::task::JoinHandle;

fn claim(highest: u64, fences: &[u64]) -> Claim {
    let facts = Facts { threads: 2, memory: 4 << 30, ..Facts::default() };
    Claim { facts, wait_ms: 60_000, held: Some(Held { highest, fences: fences.to_vec() }) }
}

async fn granted(phone: &Phone, claim: Claim) -> Task {
    let signed = phone.hub.claim(&phone.session, claim).await.expect("a session").expect("work");
    let Grant { task, .. } = read(&phone.hub, &phone.identity, &signed, Kind::Grant);
    assert_eq!(task.fence, signed.fence);
    task
}

fn losses(bench: &Bench, run: &RunHandle) -> Vec<LossCause> {
    let events: Vec<Event> = bench.engine.workspace().read_run(run.id()).expect("readable");
    let cause = |e: Event| match e.kind {
        EventKind::LeaseExpired { cause, .. } => cause,
        _ => None,
    };
    events.into_iter().filter_map(cause).collect()
}

/// Stages on the phone, without edges.
fn wide(stages: usize) -> Plan {
    let mut p = Pipeline::default();
    for i in 0..stages {
        let path = Expr::value(Value::Path(format!("{i}")));
        let at = p.add(&format!("mine{i}"), "jsonl", Type::Dataset, &[("path", path)]);
        p.on_phone(at);
    }
    p.plan
}

#[tokio::test]
async fn a_claim_whose_answer_was_lost_is_repeated() {
    let bench = Bench::new();
    let run = begin(&bench, wide(2));
    let phone = Phone::join(bench.engine.hub());
    let first = granted(&phone, claim(0, &[])).await;
    let again = granted(&phone, claim(0, &[])).await;
    assert_eq!(first, again, "the same attempt under the same fence: a device runs it once");
    // It came through. A late duplicate of the first claim gets nothing new.
    let taken = first.fence;
    let second = granted(&phone, claim(taken, &[taken])).await;
    assert_ne!(second.instance, first.instance);
    let duplicate = granted(&phone, claim(0, &[])).await;
    assert_eq!(duplicate.fence, taken, "still open; the device refuses a fence that it took");
    for task in [&first, &second] {
        phone.commit(task.fence, done(handle(ArtifactType::Dataset, &task.name))).await.expect("taken");
    }
    assert_eq!(run.wait().await.expect("ends").outcome, RunOutcome::Succeeded);
    assert_eq!(losses(&bench, &run), []);
}

#[tokio::test]
async fn what_a_device_took_and_does_not_hold_is_offered_again() {
    let bench = Bench::new();
    let run = begin(&bench, single(&[]));
    let phone = Phone::join(bench.engine.hub());
    let first = granted(&phone, claim(0, &[])).await;
    // The device was killed after it took the task; its outcome is not in the outbox.
    let second = granted(&phone, claim(first.fence, &[])).await;
    assert_eq!((second.instance, second.attempt), (first.instance, 2));
    assert!(second.fence > first.fence);
    phone.commit(second.fence, done(handle(ArtifactType::Pllm, "w"))).await.expect("taken");
    assert_eq!(run.wait().await.expect("ends").outcome, RunOutcome::Succeeded);
    assert_eq!(losses(&bench, &run), [LossCause::Device]);
}

#[tokio::test]
async fn an_outcome_that_is_on_its_way_is_not_lost() {
    let bench = Bench::new();
    let run = begin(&bench, wide(2));
    let phone = Phone::join(bench.engine.hub());
    let first = granted(&phone, claim(0, &[])).await;
    // It is in the outbox: the device asks for other work beside that, also after another join.
    let phone = Phone::join(bench.engine.hub());
    let second = granted(&phone, claim(first.fence, &[first.fence])).await;
    for task in [&second, &first] {
        phone.commit(task.fence, done(handle(ArtifactType::Dataset, &task.name))).await.expect("taken");
    }
    assert_eq!(run.wait().await.expect("ends").outcome, RunOutcome::Succeeded);
    assert_eq!(losses(&bench, &run), []);
}

#[tokio::test]
async fn only_a_device_in_contact_loses_a_lease_by_its_stage() {
    let lease = Duration::from_secs(60);
    let (bench, clock) = Bench::simulated(EngineOptions { device_lease: lease, ..options() });
    let mut plan = single(&[]);
    plan.instances[1].policy.losses = 2;
    let run = begin(&bench, plan);
    let phone = Phone::join(bench.engine.hub());
    let mut fence = 0;
    for heard in [false, false, false, true, true] {
        let task = granted(&phone, claim(fence, &[fence])).await;
        fence = task.fence;
        let before = losses(&bench, &run).len();
        clock.advance(lease / 2);
        if heard {
            bench.engine.hub().authenticate(&phone.identity.public(), &phone.token).expect("in contact");
        }
        clock.advance(lease / 2);
        common::until(|| losses(&bench, &run).len() > before).await;
    }
    let result = run.wait().await.expect("ends");
    assert_eq!(result.outcome, RunOutcome::Failed);
    assert!(result.failures[0].failure.message.contains("quarantined"), "{result:?}");
    use LossCause::{Device, Stage};
    assert_eq!(losses(&bench, &run), [Device, Device, Device, Stage, Stage]);
}

/// How long each stage takes.
const WORK: Duration = Duration::from_secs(2);
/// A way through the link, one way.
const DELAY: Duration = Duration::from_millis(150);
/// What a device waits before it tries again, as `device-runner` does.
const PAUSES: Backoff =
    Backoff { first: Duration::from_millis(100), factor: 1.3, longest: Duration::from_secs(10), tries: None };

/// What becomes of a call.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Arrives,
    /// It never reaches the engine.
    Cut,
    /// Its answer does not come back.
    AnswerLost,
}

/// A link, and the clock of those at its ends.
struct Link {
    clock: SimulatedClock,
    random: SimulatedRandom,
    disturbed: bool,
    hub: Hub,
    session: Session,
    identity: Identity,
    /// Copies of claims that still wait at the engine, or arrive late.
    copies: Vec<JoinHandle<()>>,
}

impl Link {
    fn percent(&self, n: u64) -> bool {
        self.disturbed && self.random.spread() % 100 < n
    }

    fn fate(&self) -> Fate {
        match () {
            () if self.percent(10) => Fate::Cut,
            () if self.percent(15) => Fate::AnswerLost,
            () => Fate::Arrives,
        }
    }

    /// A claim; `None` where it did not come through.
    async fn claim(&mut self, claim: Claim) -> Option<Signed> {
        self.clock.advance(DELAY);
        let fate = self.fate();
        if fate == Fate::Cut {
            return None;
        }
        if self.percent(15) {
            let (hub, session, claim) = (self.hub.clone(), self.session.clone(), claim.clone());
            self.copies.push(tokio::spawn(async move { drop(hub.claim(&session, claim).await) }));
        }
        let answer = self.hub.claim(&self.session, claim).await.expect("a session").expect("work");
        self.clock.advance(DELAY);
        (fate == Fate::Arrives).then_some(answer)
    }

    /// A commit; whether its answer came.
    async fn commit(&self, commit: &Commit) -> bool {
        self.clock.advance(DELAY);
        let fate = self.fate();
        if fate == Fate::Cut {
            return false;
        }
        for _ in 0..1 + u32::from(self.percent(15)) {
            common::phone::committed(&self.hub, &self.session, &self.identity, commit.clone())
                .await
                .expect("answered");
        }
        self.clock.advance(DELAY);
        fate == Fate::Arrives
    }

    fn renew(&self, fence: u64) {
        self.clock.advance(DELAY);
        if self.fate() != Fate::Cut {
            for _ in 0..1 + u32::from(self.percent(15)) {
                self.hub.renew(&self.session, Renew { fence, progress: None }).expect("theirs");
            }
        }
        self.clock.advance(DELAY);
    }
}

/// Does all stages of a run, as a device does; how long that took, and how often an attempt was lost.
async fn simulated(seed: u64, disturbed: bool) -> (Duration, usize) {
    let (bench, clock) = Bench::simulated(options());
    let run = begin(&bench, chain(6, 2));
    let phone = Phone::join(bench.engine.hub());
    let (hub, session, identity) = (phone.hub.clone(), phone.session.clone(), phone.identity.clone());
    let random = SimulatedRandom::new(seed);
    let mut link =
        Link { clock: clock.clone(), random, disturbed, hub, session, identity, copies: Vec::new() };
    let begun = clock.elapsed();
    let (mut highest, mut outbox) = (0, BTreeMap::<u64, Commit>::new());
    let mut left = 12;
    let mut pauses = PAUSES.pauses(&link.random);
    while left > 0 || !outbox.is_empty() {
        let mut failed = false;
        for fence in outbox.keys().copied().collect::<Vec<_>>() {
            if link.commit(&outbox[&fence]).await {
                outbox.remove(&fence);
            } else {
                failed = true;
            }
        }
        // What the engine waits for has to come through before it has other work.
        if left > 0 && !failed {
            let held: Vec<u64> = outbox.keys().copied().collect();
            match link.claim(claim(highest, &held)).await {
                Some(signed) => {
                    let Grant { task, .. } = read(&link.hub, &link.identity, &signed, Kind::Grant);
                    assert!(task.fence > highest, "seed {seed}: it would not run this again");
                    highest = task.fence;
                    clock.advance(WORK / 2);
                    link.renew(task.fence);
                    clock.advance(WORK / 2);
                    let outcome = done(handle(ArtifactType::Dataset, &task.name));
                    outbox.insert(
                        task.fence,
                        Commit { fence: task.fence, outcome, manifests: BTreeMap::new() },
                    );
                    left -= 1;
                }
                None => failed = true,
            }
        }
        if failed {
            clock.advance(pauses.next().expect("without end"));
        } else {
            pauses = PAUSES.pauses(&link.random);
        }
    }
    let took = clock.elapsed() - begun;
    let result = run.wait().await.expect("ends");
    assert_eq!(result.outcome, RunOutcome::Succeeded, "seed {seed}");
    link.copies.iter().for_each(JoinHandle::abort);
    (took, losses(&bench, &run).len())
}

/// Chains of private stages on the phone.
fn chain(length: usize, chains: usize) -> Plan {
    let mut p = Pipeline::default();
    for c in 0..chains {
        let path = Expr::value(Value::Path(format!("{c}")));
        let mut last = p.add(&format!("mine{c}"), "jsonl", Type::Dataset, &[("path", path)]);
        p.on_phone(last);
        for i in 1..length {
            last = p.add(&format!("c{c}n{i}"), "finetune", Type::Dataset, &[("data", out(last))]);
            p.on_phone(last);
        }
    }
    p.plan
}

#[tokio::test]
async fn a_bad_link_costs_less_than_three_times_the_time() {
    let (undisturbed, lost) = simulated(0, false).await;
    assert_eq!(lost, 0);
    let least = (WORK + 6 * DELAY) * 12;
    assert!(undisturbed >= least, "{undisturbed:?} for 12 stages, each with three calls: {least:?}");
    for seed in 1..=u64::from(headstart_testkit::cases(20, 2000)) {
        let (took, lost) = simulated(seed, true).await;
        assert!(
            took < 3 * undisturbed,
            "seed {seed}: {took:?}, and {undisturbed:?} over a link that is well"
        );
        assert_eq!(lost, 0, "seed {seed}: a lost answer costs no lease");
    }
}
