//! Over years of restarts, long runs, changes of the clock and two servers, every fire becomes exactly one run or is
//! recorded as skipped.

use std::collections::HashSet;
use std::sync::Arc;

use headstart_cron::{Catchup, Dst, Spec};
use headstart_disk::SystemDisk;
use headstart_scheduler::{Action, Cause, Folder, Happened, Held, Overlap, Policy, ScheduleId};
use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;

const CRONS: &[&str] = &["30 2 * * *", "0 0 * * 1", "15 */6 * * *", "30 1 1,15 * *", "0 12 29 2 *"];
const ZONES: &[&str] =
    &["UTC", "America/New_York", "Europe/London", "Australia/Lord_Howe", "America/Santiago"];

#[derive(Clone, Debug)]
enum Step {
    /// Time goes on.
    Pass(i64),
    /// All runs end.
    End,
    /// The server ends, and another begins after a while.
    Restart(i64),
    /// A second server begins on the workspace.
    Second,
    /// Somebody sets the clock back, by less than a day.
    Back(i64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (1i64..200_000).prop_map(Step::Pass),
        1 => (200_000i64..40_000_000).prop_map(Step::Pass),
        4 => Just(Step::End),
        2 => (0i64..3_000_000).prop_map(Step::Restart),
        1 => Just(Step::Second),
        1 => (1i64..80_000).prop_map(Step::Back),
    ]
}

/// What a schedule was seen to do.
#[derive(Default)]
struct Tally {
    started: HashSet<String>,
    skipped: u64,
    read: usize,
}

impl Tally {
    fn actions(&mut self, actions: &[Action]) {
        for action in actions {
            if let Action::Start { run, .. } = action {
                assert!(self.started.insert(run.clone()), "{run} was started twice");
            }
        }
    }

    /// Reads what is new in the history, of which it keeps the latest.
    fn history(&mut self, held: &mut Held) {
        for entry in held.state.history.iter().skip(self.read) {
            if let Happened::Skipped { count, .. } = &entry.happened {
                self.skipped += count;
            }
        }
        let old = held.state.history.len().saturating_sub(100);
        held.state.history.drain(..old);
        self.read = held.state.history.len();
    }
}

fn scenario(policy: &Policy, steps: &[Step]) {
    let dir = tempfile::tempdir().expect("a folder");
    let folder = Folder::new(dir.path().to_owned(), Arc::new(SystemDisk));
    let id = ScheduleId { file: "a.pllm".into(), name: "s".into() };
    let begun: Timestamp = "2020-01-01T00:00:07Z".parse().expect("a time");
    let mut now = begun;
    let mut latest = now;
    let mut held = folder.hold(&id, None).expect("readable").expect("free");
    let mut tally = Tally::default();
    tally.actions(&held.state.adopt(policy, now));
    for step in steps {
        match step {
            Step::Pass(seconds) => now += SignedDuration::from_secs(*seconds),
            // Further back, a clock is taken to have been wrong before.
            Step::Back(seconds) => {
                now =
                    (now - SignedDuration::from_secs(*seconds)).max(latest - SignedDuration::from_hours(24));
            }
            Step::End => {
                for run in held.state.running.clone() {
                    held.state.ended(&run.run, "succeeded", None, now);
                }
            }
            Step::Second => assert!(folder.hold(&id, None).expect("readable").is_none()),
            Step::Restart(seconds) => {
                let running = held.state.running.len();
                held.save().expect("saved");
                drop(held);
                now += SignedDuration::from_secs(*seconds);
                held = folder.hold(&id, None).expect("readable").expect("free");
                tally.actions(&held.state.adopt(policy, now));
                let resumed = held.state.recover(now);
                let again = resumed.iter().filter(|a| matches!(a, Action::Resume { .. })).count();
                assert_eq!(again, running, "what was running is gone on with");
            }
        }
        latest = latest.max(now);
        tally.actions(&held.state.tick(now));
        tally.history(&mut held);
        if policy.overlap != Overlap::Allow {
            assert!(held.state.running.len() <= 1, "{:?}", held.state.running);
        }
    }
    let spec = Spec::parse(policy.cron.as_deref().expect("a time"), &policy.timezone, Dst::Vixie);
    latest -= policy.delay(&id.identity());
    let due = spec.expect("a schedule").fires(begun).take_while(|f| f.instant <= latest).count() as u64;
    let timed = |f: &headstart_scheduler::Fire| matches!(f.cause, Cause::Time { .. });
    let waiting = held.state.waiting.iter().filter(|f| timed(f)).count() as u64;
    let all = tally.started.len() as u64 + tally.skipped + waiting;
    assert_eq!(all, due, "{} started, {} skipped, {waiting} wait", tally.started.len(), tally.skipped);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(headstart_testkit::cases(64, 5_000)))]
    #[test]
    fn a_fire_is_never_lost_and_never_doubled(
        cron in prop::sample::select(CRONS),
        zone in prop::sample::select(ZONES),
        overlap in prop::sample::select(&[Overlap::Skip, Overlap::Queue, Overlap::Allow, Overlap::CancelOther][..]),
        catchup in prop::sample::select(&[Catchup::None, Catchup::Last, Catchup::All][..]),
        catchup_max in 1u32..20,
        jitter_s in prop::sample::select(&[0u64, 900][..]),
        steps in prop::collection::vec(step(), 1..120),
    ) {
        let policy = Policy {
            cron: Some(cron.to_owned()),
            timezone: zone.to_owned(),
            overlap,
            catchup,
            catchup_window_s: 7 * 24 * 3600,
            catchup_max,
            jitter_s,
            when_changed: Vec::new(),
            after: Vec::new(),
        webhooks: Vec::new(),
        };
        scenario(&policy, &steps);
    }
}
