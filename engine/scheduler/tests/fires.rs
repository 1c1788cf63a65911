//! What becomes of fires, case by case.

use std::path::Path;
use std::sync::Arc;

use headstart_cron::Catchup;
use headstart_disk::SystemDisk;
use headstart_disk::simulated::{Fault, SimulatedDisk};
use headstart_scheduler::{
    Action, Cause, Folder, Happened, Held, Overlap, Policy, Request, ScheduleId, State,
};
use jiff::{SignedDuration, Timestamp};

fn policy(cron: &str, timezone: &str) -> Policy {
    Policy {
        cron: Some(cron.to_owned()),
        timezone: timezone.to_owned(),
        overlap: Overlap::Skip,
        catchup: Catchup::Last,
        catchup_window_s: 7 * 24 * 3600,
        catchup_max: 10,
        jitter_s: 0,
        when_changed: Vec::new(),
        after: Vec::new(),
        webhooks: Vec::new(),
    }
}

fn every_minute(overlap: Overlap) -> Policy {
    Policy { overlap, ..policy("* * * * *", "UTC") }
}

fn at(text: &str) -> Timestamp {
    text.parse().expect("a timestamp")
}

fn minute(n: i64) -> Timestamp {
    at("2026-11-30T07:00:00Z") + SignedDuration::from_mins(n)
}

fn id() -> ScheduleId {
    ScheduleId { file: "a.pllm".into(), name: "nightly".into() }
}

fn state(policy: &Policy, now: Timestamp) -> State {
    let mut state = State::new(&id().identity(), "a.pllm", "nightly", None);
    assert!(state.adopt(policy, now).is_empty(), "a new schedule has no past");
    state
}

/// The runs that are started.
fn started(actions: &[Action]) -> Vec<&str> {
    actions.iter().filter_map(start).collect()
}

fn start(action: &Action) -> Option<&str> {
    match action {
        Action::Start { run, .. } => Some(run),
        _ => None,
    }
}

fn skips(state: &State) -> Vec<(u64, String)> {
    let skip = |h: &Happened| match h {
        Happened::Skipped { count, why, .. } => Some((*count, why.clone())),
        _ => None,
    };
    state.history.iter().filter_map(|e| skip(&e.happened)).collect()
}

#[test]
fn a_skipped_fire_is_recorded_with_the_run_that_was_in_its_way() {
    let mut s = state(&every_minute(Overlap::Skip), minute(0));
    let first = s.tick(minute(1));
    let [run] = started(&first)[..] else { panic!("{first:?}") };
    assert!(s.tick(minute(2)).is_empty());
    assert_eq!(skips(&s), [(1, format!("run {run} had not ended (overlap: skip)"))]);
    s.ended(run, "succeeded", None, minute(2));
    assert_eq!(started(&s.tick(minute(3))).len(), 1);
}

#[test]
fn queued_fires_run_in_turn_as_soon_as_the_one_before_has_ended() {
    let mut s = state(&every_minute(Overlap::Queue), minute(0));
    let mut runs: Vec<String> = Vec::new();
    for n in 1..=3 {
        runs.extend(started(&s.tick(minute(n))).iter().map(|r| (*r).to_owned()));
    }
    assert_eq!(runs.len(), 1, "the others wait");
    for n in 1..3 {
        let ended = minute(3) + SignedDuration::from_secs(n);
        s.ended(&runs[n as usize - 1].clone(), "succeeded", None, ended);
        runs.extend(started(&s.tick(ended)).iter().map(|r| (*r).to_owned()));
        assert_eq!(runs.len() as i64, n + 1, "at once");
    }
    for (n, run) in ["0701", "0702", "0703"].iter().zip(&runs) {
        assert!(run.starts_with(&format!("nightly-20261130T{n}-")), "{run}");
    }
    assert_eq!(skips(&s), [], "none is dropped");
}

#[test]
fn allowed_fires_run_side_by_side() {
    let mut s = state(&every_minute(Overlap::Allow), minute(0));
    assert_eq!(started(&s.tick(minute(1))).len(), 1);
    assert_eq!(started(&s.tick(minute(2))).len(), 1);
    assert_eq!(s.running.len(), 2);
}

#[test]
fn a_later_fire_cancels_the_run_and_replaces_what_waits() {
    let mut s = state(&every_minute(Overlap::CancelOther), minute(0));
    let first = s.tick(minute(1));
    let run = started(&first)[0].to_owned();
    assert_eq!(s.tick(minute(2)), [Action::Cancel { run: run.clone() }]);
    assert_eq!(s.tick(minute(3)), [], "once");
    assert_eq!(skips(&s), [(1, "a later fire came (overlap: cancel_other)".to_owned())]);
    // A server that ends before it has cancelled the run does so when it begins again.
    assert_eq!(s.clone().recover(minute(3)).last(), Some(&Action::Cancel { run: run.clone() }));
    s.ended(&run, "cancelled", None, minute(3));
    let next = s.tick(minute(3));
    assert!(started(&next)[0].starts_with("nightly-20261130T0703-"), "{next:?}");
}

#[test]
fn an_interrupted_fire_is_gone_on_with() {
    let dir = tempfile::tempdir().expect("a folder");
    let folder = || Folder::new(dir.path().to_owned(), Arc::new(SystemDisk));
    let mut held = hold(&folder());
    assert!(held.state.adopt(&every_minute(Overlap::Skip), minute(0)).is_empty());
    let actions = held.state.tick(minute(1));
    held.save().expect("saved");
    assert!(folder().hold(&id(), None).expect("readable").is_none(), "one server holds it");
    drop(held);
    let mut held = hold(&folder());
    let [Action::Resume { run, .. }] = &held.state.recover(minute(5))[..] else { panic!("a run") };
    assert_eq!(started(&actions), [run]);
    held.state.ended(run, "succeeded", None, minute(5));
    assert!(held.state.recover(minute(6)).is_empty());
}

fn hold(folder: &Folder) -> Held {
    folder.hold(&id(), None).expect("readable").expect("nobody else holds it")
}

#[test]
fn both_rounds_of_a_fold_are_fires_of_their_own() {
    // Clocks in New York went from 2:00 to 1:00 on 2026-11-01.
    let before = at("2026-11-01T05:00:00Z");
    let mut s =
        state(&Policy { overlap: Overlap::Queue, ..policy("*/30 * * * *", "America/New_York") }, before);
    let mut runs: Vec<String> = Vec::new();
    for n in 1..=4 {
        let now = before + SignedDuration::from_mins(30 * n);
        for run in started(&s.tick(now)) {
            runs.push(run.to_owned());
        }
        s.ended(&runs[runs.len() - 1].clone(), "succeeded", None, now);
    }
    assert_eq!(runs.len(), 4);
    let same_minute: Vec<&String> = runs.iter().filter(|r| r.contains("T0130-")).collect();
    assert_eq!(same_minute.len(), 2, "{runs:?}");
    assert_ne!(same_minute[0], same_minute[1]);
}

#[test]
fn schedules_of_one_name_in_two_files_are_two() {
    let fire = headstart_cron::Spec::parse("0 3 * * *", "UTC", headstart_cron::Dst::Vixie)
        .expect("a schedule")
        .next(minute(0))
        .expect("it fires");
    let fire = headstart_scheduler::Fire::of_time(fire, "UTC", false);
    let other = ScheduleId { file: "b.pllm".into(), ..id() };
    assert_ne!(fire.run_id(&id().identity(), "nightly"), fire.run_id(&other.identity(), "nightly"));
}

#[test]
fn an_edit_loses_nothing_that_was_due_and_makes_up_for_nothing_new() {
    let mut s = state(&policy("5 * * * *", "UTC"), minute(0));
    // Noticed an hour late; 07:05 was due by what the file said before, 07:30 by nothing.
    let actions = s.adopt(&policy("30 * * * *", "Europe/London"), minute(60));
    assert!(actions.is_empty());
    let runs = s.tick(minute(60));
    assert!(started(&runs)[0].starts_with("nightly-20261130T0705-"), "{runs:?}");
    s.ended(started(&runs)[0], "succeeded", None, minute(61));
    assert!(s.tick(minute(62)).is_empty());
    assert_eq!(started(&s.tick(minute(90))).len(), 1);
}

#[test]
fn missed_fires_are_caught_up_as_the_policy_says() {
    let after_a_day = minute(24 * 60);
    let missed = |catchup, catchup_max| {
        let p = Policy { catchup, catchup_max, catchup_window_s: 5 * 3600, ..policy("30 * * * *", "UTC") };
        let mut s = state(&p, minute(0));
        let mut runs = Vec::new();
        loop {
            let actions = s.tick(after_a_day);
            let Some(run) = started(&actions).first().map(|r| (*r).to_owned()) else { break };
            s.ended(&run, "succeeded", None, after_a_day);
            runs.push(run);
        }
        (runs.len(), skips(&s))
    };
    let window = (19, "missed longer ago than `catchup_window`".to_owned());
    let (runs, why) = missed(Catchup::None, 10);
    assert_eq!((runs, &why[..]), (0, &[window.clone(), (5, "missed (catchup: none)".to_owned())][..]));
    let (runs, why) = missed(Catchup::Last, 10);
    assert_eq!(runs, 1);
    assert_eq!(why, [window.clone(), (4, "missed, and a later fire runs (catchup: last)".to_owned())]);
    let (runs, why) = missed(Catchup::All, 3);
    assert_eq!((runs, &why[..]), (3, &[window, (2, "missed, and more than `catchup_max`".to_owned())][..]));
}

#[test]
fn a_paused_schedule_records_what_it_skips_and_runs_what_is_asked_for() {
    let mut s = state(&every_minute(Overlap::Skip), minute(0));
    assert!(s.pause(minute(0)).is_empty());
    assert!(s.tick(minute(3)).is_empty());
    assert_eq!(skips(&s), [(3, "the schedule is paused".to_owned())]);
    s.request(Cause::Manual { at: minute(3) });
    let by_hand = s.tick(minute(3));
    assert_eq!(started(&by_hand).len(), 1);
    s.ended(started(&by_hand)[0], "succeeded", None, minute(3));
    s.resume(minute(4));
    assert!(s.tick(minute(4)).is_empty(), "what was missed meanwhile is not made up for");
    assert_eq!(started(&s.tick(minute(5))).len(), 1);
}

#[test]
fn a_backfill_runs_each_time_of_its_range_in_turn_also_again() {
    let mut s = state(&policy("0 3 * * *", "UTC"), minute(0));
    for _ in 0..2 {
        assert_eq!(s.backfill(at("2026-10-01T03:00:00Z"), at("2026-10-03T03:00:00Z")), 2);
        for day in ["20261002", "20261003"] {
            let actions = s.tick(minute(1));
            let [run] = started(&actions)[..] else { panic!("{actions:?}") };
            assert!(run.starts_with(&format!("nightly-{day}T0300-")), "{run}");
            s.ended(run, "succeeded", None, minute(1));
        }
        assert!(s.tick(minute(1)).is_empty());
    }
}

#[test]
fn a_change_fires_once_and_the_first_look_does_not() {
    let triggered = Policy { cron: None, when_changed: vec!["adapters/*".into()], ..policy("", "UTC") };
    let mut s = state(&triggered, minute(0));
    s.look("adapters/*", "a", minute(0));
    assert!(s.tick(minute(0)).is_empty());
    for (n, found) in ["b", "c", "c", "c"].into_iter().enumerate() {
        s.look("adapters/*", found, minute(1));
        assert_eq!(s.waiting.len(), usize::from(n >= 2), "when it has settled, and once");
    }
    assert_eq!(started(&s.tick(minute(2))).len(), 1);
    assert_eq!(s.wakes(minute(2)), None);
}

#[test]
fn a_clock_that_was_wrong_does_not_stop_a_schedule() {
    let mut s = state(&every_minute(Overlap::Queue), minute(0));
    let far = at("2099-01-01T00:00:00Z");
    loop {
        let actions = s.tick(far);
        let Some(run) = started(&actions).first().map(|r| (*r).to_owned()) else { break };
        s.ended(&run, "succeeded", None, far);
    }
    assert!(s.tick(minute(1)).is_empty());
    assert_eq!(started(&s.tick(minute(2))).len(), 1);
    assert!(s.history.iter().any(|e| matches!(e.happened, Happened::ClockSetBack { .. })));
}

#[test]
fn a_fire_is_not_doubled_when_the_clock_goes_back() {
    let mut s = state(&every_minute(Overlap::Queue), minute(0));
    let first = s.tick(minute(1));
    s.ended(started(&first)[0], "succeeded", None, minute(1));
    assert!(s.tick(minute(0)).is_empty());
    assert!(s.tick(minute(1)).is_empty());
    assert_eq!(started(&s.tick(minute(2))).len(), 1);
}

#[test]
fn jitter_is_the_same_for_each_fire_and_within_its_bound() {
    let p = Policy { jitter_s: 600, ..policy("0 3 * * *", "UTC") };
    let delay = p.delay(&id().identity());
    assert!(delay <= SignedDuration::from_secs(600));
    let mut s = state(&p, minute(0));
    let fire = at("2026-12-01T03:00:00Z");
    assert_eq!(s.wakes(minute(0)), Some(fire + delay));
    assert!(s.tick(fire + delay - SignedDuration::from_secs(1)).is_empty());
    assert_eq!(started(&s.tick(fire + delay)).len(), 1);
}

#[test]
fn requests_are_taken_once() {
    let dir = tempfile::tempdir().expect("a folder");
    let folder = Folder::new(dir.path().to_owned(), Arc::new(SystemDisk));
    let mut held = hold(&folder);
    assert!(held.state.adopt(&policy("0 3 * * *", "UTC"), minute(0)).is_empty());
    folder.ask(&id(), &Request::Run { at: minute(0) }, minute(0)).expect("asked");
    folder.ask(&id(), &Request::Pause, minute(1)).expect("asked");
    assert!(folder.has_requests(&id()));
    write_beside(dir.path(), "{\"unknown\": 1}");
    let (actions, wrong) = held.take_requests(minute(2)).expect("written");
    assert!(actions.is_empty(), "the run waits for its turn");
    assert_eq!(wrong.len(), 1, "what is none is named: {wrong:?}");
    assert!(!folder.has_requests(&id()));
    assert!(held.state.paused);
    assert_eq!(started(&held.state.tick(minute(2))).len(), 1, "asked for, so paused or not");
    assert_eq!(folder.read(&id()).expect("readable").map(|s| s.paused), Some(true));
}

fn write_beside(dir: &Path, text: &str) {
    let requests = std::fs::read_dir(dir).expect("readable").flatten();
    let dir = requests.map(|e| e.path()).find(|p| p.extension().is_some_and(|e| e == "requests"));
    std::fs::write(dir.expect("requests").join("9.json"), text).expect("written");
}

#[test]
fn a_damaged_or_later_state_is_named_and_hides_no_other() {
    let dir = tempfile::tempdir().expect("a folder");
    let folder = Folder::new(dir.path().to_owned(), Arc::new(SystemDisk));
    let mut held = hold(&folder);
    assert!(held.state.adopt(&policy("0 3 * * *", "UTC"), minute(0)).is_empty());
    held.save().expect("saved");
    std::fs::write(dir.path().join("torn.json"), "{\"schema\":1").expect("written");
    std::fs::write(dir.path().join("later.json"), "{\"schema\":999}").expect("written");
    let all = folder.list();
    assert_eq!(all.iter().filter(|s| s.is_ok()).count(), 1);
    let errors: Vec<String> = all.into_iter().filter_map(|s| s.err().map(|e| e.to_string())).collect();
    assert!(errors.iter().any(|e| e.contains("torn.json is damaged")), "{errors:?}");
    assert!(errors.iter().any(|e| e.contains("later version")), "{errors:?}");
}

#[test]
fn what_version_0_1_had_handled_stays_handled() {
    let dir = tempfile::tempdir().expect("a folder");
    let digest = headstart_protocol::Digest::of(b"nightly 0 3 * * * UTC").short();
    std::fs::write(dir.path().join(format!("nightly-{digest}")), "2026-11-28T12:00:00Z").expect("written");
    let folder = Folder::new(dir.path().to_owned(), Arc::new(SystemDisk));
    let mut held = folder.hold(&id(), Some(("0 3 * * *", "UTC"))).expect("readable").expect("free");
    assert!(held.state.adopt(&policy("0 3 * * *", "UTC"), minute(0)).is_empty());
    let runs = held.state.tick(minute(0));
    assert!(started(&runs)[0].starts_with("nightly-20261130T0300-"), "the last missed one: {runs:?}");
}

#[test]
fn only_decisions_are_written_and_one_that_cannot_be_is_made_again() {
    let dir = tempfile::tempdir().expect("a folder");
    let disk = SimulatedDisk::new();
    let folder = Folder::new(dir.path().to_owned(), Arc::new(disk.clone()));
    let mut held = hold(&folder);
    assert!(held.state.adopt(&policy("0 3 * * *", "UTC"), minute(0)).is_empty());
    held.save_or_revert().expect("saved");
    // A second that brings nothing is nothing to write.
    let writes = disk.writes();
    for n in 1..60 {
        assert!(held.state.tick(minute(n)).is_empty());
        held.save_or_revert().expect("nothing to save");
    }
    assert_eq!(disk.writes(), writes);
    // The fire comes, and the disk does not take it: it is due again a second later, as the same run.
    let three = at("2026-12-01T03:00:00Z");
    disk.fail_from(disk.writes(), Fault::Full);
    let first = started(&held.state.tick(three)).first().map(|run| (*run).to_owned()).expect("due");
    assert!(held.save_or_revert().is_err());
    disk.repair();
    let later = three + SignedDuration::from_secs(1);
    assert_eq!(started(&held.state.tick(later)), [first.as_str()]);
    held.save_or_revert().expect("saved");
    assert_eq!(folder.read(&id()).expect("readable").map(|s| s.running.len()), Some(1));
    // An end that cannot be written is not forgotten.
    disk.fail_from(disk.writes(), Fault::Full);
    held.state.ended(&first, "succeeded", None, later);
    assert!(held.save_if_changed().is_err());
    assert!(held.state.running.is_empty());
    disk.repair();
    held.save_if_changed().expect("saved");
    assert_eq!(folder.read(&id()).expect("readable").map(|s| s.running.len()), Some(0));
}
