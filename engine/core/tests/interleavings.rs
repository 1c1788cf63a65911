//! The state machine over random plans and random interleavings of events, late and wrong ones
//! among them.

mod common;

use std::collections::{BTreeMap, BTreeSet};

use common::*;
use headstart_core::{ApplyError, Event, EventKind, LossCause, RunOutcome, RunState, Status};
use headstart_protocol::{Digest, Failure, FailureClass};
use proptest::prelude::*;

/// What a scheduler, a runner or bad luck tries; numbers pick among what there is.
#[derive(Clone, Copy, Debug)]
enum Try {
    Start(usize),
    Hit(usize),
    Skip(usize),
    Commit(usize),
    Expire(usize),
    Fail(usize, bool),
    Invalidate(usize),
    Quarantine(usize),
    Retry(usize),
}

fn tries(with_invalidation: bool) -> impl Strategy<Value = Try> {
    let n = 0usize..64;
    prop_oneof![
        6 => n.clone().prop_map(Try::Start),
        1 => n.clone().prop_map(Try::Hit),
        1 => n.clone().prop_map(Try::Skip),
        6 => n.clone().prop_map(Try::Commit),
        2 => n.clone().prop_map(Try::Expire),
        2 => (n.clone(), proptest::bool::weighted(0.7)).prop_map(|(i, retry)| Try::Fail(i, retry)),
        u32::from(with_invalidation) => n.clone().prop_map(Try::Invalidate),
        1 => n.clone().prop_map(Try::Quarantine),
        1 => n.prop_map(Try::Retry),
    ]
}

fn graphs() -> impl Strategy<Value = Vec<Vec<u32>>> {
    proptest::collection::vec(proptest::collection::vec(any::<u32>(), 0..4), 1..14).prop_map(|raw| {
        let pick = |(i, raw): (usize, Vec<u32>)| {
            let inputs: BTreeSet<u32> =
                raw.into_iter().filter(|_| i > 0).map(|r| r % i.max(1) as u32).collect();
            inputs.into_iter().collect()
        };
        raw.into_iter().enumerate().map(pick).collect()
    })
}

/// The run as its scheduler sees it, with a simple model beside it.
struct World {
    inputs: Vec<Vec<u32>>,
    state: RunState,
    log: Vec<Event>,
    /// Every attempt that ever started.
    granted: Vec<(u32, u64)>,
    /// Commits that were accepted since the last invalidation.
    commits: BTreeMap<u32, u32>,
    invalidated: bool,
    fence: u64,
    now: u64,
}

impl World {
    fn new(inputs: Vec<Vec<u32>>) -> Self {
        let plan = graph_plan(&inputs);
        let state = RunState::new(plan.clone());
        let mut world = Self {
            inputs,
            state,
            log: Vec::new(),
            granted: Vec::new(),
            commits: BTreeMap::new(),
            invalidated: false,
            fence: 100,
            now: 1000,
        };
        world.apply(started(&plan)).expect("the first event");
        world
    }

    fn apply(&mut self, kind: EventKind) -> Result<(), ApplyError> {
        self.now += 1;
        let event = at(self.now, kind);
        let before = self.state.clone();
        match self.state.apply(&event) {
            Ok(_) => {
                self.log.push(event);
                Ok(())
            }
            Err(e) => {
                assert_eq!(self.state, before, "a refused event changed the state");
                Err(e)
            }
        }
    }

    fn ready(&self, n: usize) -> Option<u32> {
        let ready: Vec<u32> = self.state.ready().collect();
        (!ready.is_empty()).then(|| ready[n % ready.len()])
    }

    fn start(&mut self, instance: u32) {
        self.fence += 3;
        let number = self.state.attempts(instance) + 1;
        self.apply(attempt(instance, number, self.fence)).expect("a ready instance can start");
        self.granted.push((instance, self.fence));
    }

    /// Hands in an outcome of any attempt that ever started, and checks whether it may count.
    fn hand_in(&mut self, n: usize, outcome: impl Fn(u32, u64) -> EventKind) {
        if self.granted.is_empty() {
            return;
        }
        let (instance, fence) = self.granted[n % self.granted.len()];
        let newest = self.granted.iter().filter(|g| g.0 == instance).map(|g| g.1).max();
        let counts = self.state.accepts(instance, fence);
        assert!(!counts || newest == Some(fence), "an attempt that was replaced would count");
        let kind = outcome(instance, fence);
        let is_commit = matches!(kind, EventKind::Committed { .. });
        match self.apply(kind) {
            Ok(()) => {
                assert!(counts);
                if is_commit {
                    *self.commits.entry(instance).or_default() += 1;
                }
            }
            Err(e) => {
                assert!(!counts);
                assert_eq!(e, ApplyError::Superseded { instance, fence });
                self.apply(EventKind::Superseded { instance, fence }).expect("it is superseded");
            }
        }
    }

    fn attempt(&mut self, t: Try) {
        match t {
            Try::Start(n) => {
                if let Some(i) = self.ready(n) {
                    self.start(i);
                }
            }
            Try::Hit(n) => {
                if let Some(instance) = self.ready(n) {
                    let output = artifact(headstart_protocol::ArtifactType::Dataset, n as u64);
                    let key = Digest::of(b"key");
                    let released = BTreeMap::new();
                    let hit = EventKind::CacheHit { instance, key, output, released, saved_seconds: 1.0 };
                    self.apply(hit).expect("a ready instance can come from the cache");
                }
            }
            Try::Skip(n) => {
                if let Some(instance) = self.ready(n) {
                    self.apply(EventKind::Skipped { instance, fence: None }).expect("ready");
                }
            }
            Try::Commit(n) => self.hand_in(n, committed),
            Try::Fail(n, retry) => {
                let at = retry.then_some(self.now + 50);
                self.hand_in(n, |i, f| failed(i, f, at));
            }
            Try::Expire(n) => {
                let live: Vec<(u64, u32)> = self.state.running().collect();
                if !live.is_empty() {
                    let (fence, instance) = live[n % live.len()];
                    let causes =
                        [None, Some(LossCause::Stage), Some(LossCause::Engine), Some(LossCause::Device)];
                    let cause = causes[n % causes.len()];
                    self.apply(EventKind::LeaseExpired { instance, fence, cause }).expect("it is live");
                }
            }
            Try::Invalidate(n) => {
                let done = |s: &Status| matches!(s, Status::Done(_));
                let done: Vec<u32> = self.state.statuses().filter(|(_, s)| done(s)).map(|(i, _)| i).collect();
                if !done.is_empty() {
                    let instance = done[n % done.len()];
                    self.apply(EventKind::Invalidated { instance }).expect("it is done");
                    self.commits.remove(&instance);
                    self.invalidated = true;
                }
            }
            Try::Quarantine(n) => {
                if let Some(instance) = self.ready(n)
                    && self.state.stage_losses(instance) > 0
                {
                    let lost = self.state.stage_losses(instance);
                    self.apply(EventKind::Quarantined { instance, lost }).expect("ready");
                }
            }
            Try::Retry(n) => {
                let failed = self.state.statuses().filter(|(_, s)| matches!(s, Status::Failed(_)));
                let failed: Vec<u32> = failed.map(|(i, _)| i).collect();
                if !failed.is_empty() {
                    let instance = failed[n % failed.len()];
                    self.apply(EventKind::RetryRequested { instance }).expect("it failed");
                    assert_eq!(self.state.stage_losses(instance) + self.state.failures(instance), 0);
                }
            }
        }
    }

    fn check(&self) {
        let s = &self.state;
        assert!(self.commits.values().all(|n| *n == 1), "two commits of one instance: {:?}", self.commits);
        let replayed = RunState::replay(s.plan().clone(), &self.log).expect("the log replays");
        assert_eq!(&replayed, s, "replay differs from the live state");
        let over = |i: u32| matches!(s.status(i), Status::Done(_) | Status::Skipped);
        for (i, status) in s.statuses() {
            let inputs_over = self.inputs[i as usize].iter().all(|j| over(*j));
            match status {
                Status::Waiting => assert!(!inputs_over, "{i} starves"),
                Status::Ready { .. } => assert!(inputs_over, "{i} is ready too early"),
                Status::Running(a) => assert!(s.accepts(i, a.fence)),
                _ => {}
            }
            assert_eq!(s.ready().any(|r| r == i), matches!(status, Status::Ready { .. }));
            if !self.invalidated {
                assert_eq!(matches!(status, Status::Blocked { .. }), self.fails_above(i), "{i}: {status:?}");
            }
        }
        let live: Vec<u32> = s.running().map(|(_, i)| i).collect();
        let running = s.statuses().filter(|(_, s)| matches!(s, Status::Running(_)));
        assert_eq!(live.len(), running.count(), "slots are the live leases");
        assert_eq!(s.counts().total() as usize, self.inputs.len());
    }

    /// Whether an ancestor failed, by definition.
    fn fails_above(&self, i: u32) -> bool {
        self.inputs[i as usize]
            .iter()
            .any(|j| matches!(self.state.status(*j), Status::Failed(_)) || self.fails_above(*j))
    }

    /// Tries all this, and then what is left.
    fn live(mut self, tries: Vec<Try>) {
        for t in tries {
            self.attempt(t);
            self.check();
        }
        self.drain();
    }

    /// Commits everything that can be, until nothing is left.
    fn drain(&mut self) {
        for _ in 0..10_000 {
            let live = self.state.running().next();
            if let Some((fence, instance)) = live {
                self.apply(committed(instance, fence)).expect("live");
            } else if let Some(i) = self.ready(0) {
                self.start(i);
            } else {
                break;
            }
        }
        let c = self.state.counts();
        assert_eq!((c.waiting, c.ready, c.running), (0, 0, 0), "something starved");
        let outcome = self.state.conclusion().expect("nothing is left to do");
        assert_eq!(outcome == RunOutcome::Failed, c.failed > 0);
        self.apply(EventKind::RunFinished { outcome }).expect("it is over");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: headstart_testkit::cases(200, 20_000), ..ProptestConfig::default() })]

    #[test]
    fn invariants_hold_over_every_interleaving(
        graph in graphs(),
        tries in proptest::collection::vec(tries(false), 0..80),
    ) {
        World::new(graph).live(tries);
    }

    #[test]
    fn invariants_hold_when_outputs_get_lost(
        graph in graphs(),
        tries in proptest::collection::vec(tries(true), 0..120),
    ) {
        World::new(graph).live(tries);
    }
}

#[test]
fn a_commit_after_the_lease_counts_until_another_attempt_starts() {
    let mut w = World::new(vec![vec![]]);
    w.start(0);
    let first = w.fence;
    w.apply(lost(0, first, LossCause::Stage)).expect("live");
    assert!(w.state.accepts(0, first), "nobody else has begun");
    w.start(0);
    assert_eq!(
        w.apply(committed(0, first)),
        Err(ApplyError::Superseded { instance: 0, fence: first }),
        "the new attempt counts now"
    );
    let second = w.fence;
    w.apply(committed(0, second)).expect("current");
    assert_eq!(w.state.attempts(0), 2);
}

fn lost(instance: u32, fence: u64, cause: LossCause) -> EventKind {
    EventKind::LeaseExpired { instance, fence, cause: Some(cause) }
}

#[test]
fn only_losses_that_the_stage_can_have_caused_count_against_it() {
    let mut w = World::new(vec![vec![]]);
    for cause in [LossCause::Engine, LossCause::Device, LossCause::Stage, LossCause::Stage] {
        w.start(0);
        w.apply(lost(0, w.fence, cause)).expect("live");
    }
    assert_eq!((w.state.lost(0), w.state.stage_losses(0)), (4, 2));
    w.start(0);
    w.apply(EventKind::LeaseExpired { instance: 0, fence: w.fence, cause: None }).expect("live");
    assert_eq!(w.state.stage_losses(0), 2, "earlier versions did not say whose it was");
    // Its process was killed, and it is tried again.
    w.start(0);
    let failure = Failure::new(FailureClass::Lost, "killed by signal 9");
    let killed =
        EventKind::Failed { instance: 0, fence: Some(w.fence), failure, retry_at_ms: Some(w.now + 9) };
    w.apply(killed).expect("live");
    assert_eq!((w.state.stage_losses(0), w.state.failures(0)), (3, 0), "not one of its retries");
    w.start(0);
    w.apply(EventKind::Checkpointed { instance: 0, fence: w.fence }).expect("live");
    assert_eq!(w.state.stage_losses(0), 0, "it gets further each time");
    w.apply(lost(0, w.fence, LossCause::Stage)).expect("live");
    assert_eq!(w.state.stage_losses(0), 1);
    w.check();
}

#[test]
fn a_person_releases_a_quarantined_stage_of_a_run_that_has_ended() {
    // 2 needs 0 and 1; both fail.
    let mut w = World::new(vec![vec![], vec![], vec![0, 1], vec![0]]);
    for i in [0, 1] {
        w.start(i);
        w.apply(lost(i, w.fence, LossCause::Stage)).expect("live");
        w.apply(EventKind::Quarantined { instance: i, lost: 1 }).expect("ready");
    }
    w.apply(EventKind::RunFinished { outcome: RunOutcome::Failed }).expect("nothing is left");
    w.apply(EventKind::RetryRequested { instance: 0 }).expect("it failed");
    w.check();
    assert_eq!(w.state.outcome(), None, "the run is open again");
    assert!(matches!(w.state.status(0), Status::Ready { .. }) && w.state.stage_losses(0) == 0);
    assert_eq!(w.state.status(2), &Status::Blocked { because: 1 }, "the other still fails");
    assert_eq!(w.state.status(3), &Status::Waiting);
    let again = w.apply(EventKind::RetryRequested { instance: 0 });
    assert!(matches!(again, Err(ApplyError::WrongStatus { .. })), "{again:?}");
    w.apply(EventKind::RunResumed {}).expect("live");
    w.drain();
}

#[test]
fn a_cancelled_run_is_resumed_and_one_that_ended_is_not() {
    let mut w = World::new(vec![vec![], vec![0]]);
    w.apply(EventKind::CancelRequested {}).expect("live");
    w.apply(EventKind::RunFinished { outcome: RunOutcome::Cancelled }).expect("nothing runs");
    w.apply(EventKind::RunResumed {}).expect("cancelled is not over for good");
    assert!(!w.state.cancelling() && w.state.outcome().is_none());
    w.drain();
    assert_eq!(w.state.outcome(), Some(RunOutcome::Succeeded));
    assert_eq!(w.apply(EventKind::RunResumed {}), Err(ApplyError::Finished));
    // So did earlier versions: a run that was killed while it was cancelled, resumed, ended as cancelled.
    let mut w = World::new(vec![vec![]]);
    w.start(0);
    w.apply(EventKind::CancelRequested {}).expect("live");
    w.apply(EventKind::RunResumed {}).expect("live");
    w.apply(EventKind::LeaseExpired { instance: 0, fence: w.fence, cause: None }).expect("running");
    w.apply(EventKind::RunFinished { outcome: RunOutcome::Cancelled }).expect("as recorded then");
    w.check();
}

#[test]
fn cancelling_starts_nothing_and_keeps_what_is_done() {
    let mut w = World::new(vec![vec![], vec![], vec![0]]);
    w.start(0);
    let fence = w.fence;
    w.apply(EventKind::CancelRequested {}).expect("live");
    assert_eq!(w.apply(attempt(1, 1, fence + 1)), Err(ApplyError::Cancelling));
    assert_eq!(w.state.conclusion(), None, "one still runs");
    w.apply(committed(0, fence)).expect("a commit counts while draining");
    assert_eq!(w.state.conclusion(), Some(RunOutcome::Cancelled));
    w.apply(EventKind::RunFinished { outcome: RunOutcome::Cancelled }).expect("over");
    assert_eq!(w.apply(EventKind::CancelRequested {}), Err(ApplyError::Finished));
}

#[test]
fn a_run_cannot_be_declared_a_success_too_early() {
    let mut w = World::new(vec![vec![], vec![0]]);
    let early = w.apply(EventKind::RunFinished { outcome: RunOutcome::Succeeded });
    assert!(matches!(early, Err(ApplyError::NotOver { unsettled: 2, .. })), "{early:?}");
    let fail =
        EventKind::Failed { instance: 0, fence: None, failure: Failure::input("no"), retry_at_ms: None };
    w.apply(fail).expect("ready");
    assert_eq!(w.state.status(1), &Status::Blocked { because: 0 });
    assert_eq!(w.state.conclusion(), Some(RunOutcome::Failed));
}

#[test]
fn a_hundred_thousand_instances_fold() {
    // A fan-out of 50,000, each with a follower, and one that needs them all.
    let n = 50_000u32;
    let mut inputs: Vec<Vec<u32>> = vec![vec![]; n as usize];
    inputs.extend((0..n).map(|i| vec![i]));
    inputs.push((n..2 * n).collect());
    let plan = graph_plan(&inputs);
    let begun = std::time::Instant::now();
    let mut state = RunState::new(plan.clone());
    let mut queue = state.apply(&at(0, started(&plan))).expect("first").ready;
    let mut fence = 0;
    while let Some(i) = queue.pop() {
        fence += 1;
        state.apply(&at(fence, attempt(i, 1, fence))).expect("ready");
        queue.extend(state.apply(&at(fence, committed(i, fence))).expect("live").ready);
    }
    assert_eq!(state.conclusion(), Some(RunOutcome::Succeeded));
    let bound = std::time::Duration::from_secs(5);
    headstart_testkit::assert_within("100,001 instances folded", begun.elapsed(), bound);
}
