//! What becomes of fires.

use std::collections::VecDeque;

use headstart_cron::{Catchup, Due, ON_TIME, Overlap, Spec, WhySkipped};
use jiff::{SignedDuration, Timestamp};

use crate::fire::{Cause, Fire, Happened};
use crate::policy::{Policy, earlier};
use crate::state::{Action, Running, State};

/// Runs of one schedule at once at most, with `overlap: allow`; further fires wait.
const MOST_AT_ONCE: usize = 16;
/// Fires that wait at most; further ones are skipped.
const MOST_WAITING: usize = 1000;
/// Fires of a backfill at most.
pub(crate) const MOST_BACKFILLED: usize = 1000;
/// A clock that shows less than what was handled by more than this was wrong then: fires do not wait for it.
const SET_BACK: SignedDuration = SignedDuration::from_hours(25);

impl State {
    /// Takes over what the file says now. What was due by what it said before is not lost; new times count from now
    /// on. A policy whose expression is wrong never fires; the language refuses it before.
    #[must_use]
    pub fn adopt(&mut self, policy: &Policy, now: Timestamp) -> Vec<Action> {
        let before = self.policy.clone();
        if before.as_ref() == Some(policy) {
            return Vec::new();
        }
        let mut actions = Vec::new();
        if !before.as_ref().is_some_and(|b| b.same_times(policy)) {
            if before.is_some() {
                actions = self.take_due(now);
                self.handled = Some(now);
            }
            self.handled.get_or_insert(now);
        }
        self.seen.retain(|pattern, _| policy.when_changed.contains(pattern));
        self.policy = Some(policy.clone());
        self.note(now, Happened::Adopted);
        actions
    }

    /// The file does not have the schedule any more: it fires no longer. What runs goes on.
    pub fn remove(&mut self, now: Timestamp) {
        if self.policy.take().is_some() {
            self.drop_waiting(now, "the schedule was removed from its file");
            self.handled = None;
            self.note(now, Happened::Removed);
        }
    }

    /// What a server goes on with when it begins.
    #[must_use]
    pub fn recover(&mut self, now: Timestamp) -> Vec<Action> {
        let left: Vec<Running> = self.running.clone();
        let mut actions = Vec::new();
        for Running { fire, run } in left {
            self.note(now, Happened::Resumed { run: run.clone() });
            actions.push(Action::Resume { fire, run: run.clone() });
            // Its server may have ended before it had cancelled the run.
            let replaced = self.policy.as_ref().is_some_and(|p| p.overlap == Overlap::CancelOther);
            if replaced && !self.waiting.is_empty() {
                actions.push(Action::Cancel { run });
            }
        }
        actions
    }

    /// What is to be done now.
    #[must_use]
    pub fn tick(&mut self, now: Timestamp) -> Vec<Action> {
        let mut actions = self.take_due(now);
        actions.extend(self.cancel_others(now));
        actions.extend(self.start_waiting(now));
        actions
    }

    /// A run has ended: `succeeded`, `failed`, `cancelled`, or `not started` for a reason.
    pub fn ended(&mut self, run: &str, outcome: &str, problem: Option<String>, now: Timestamp) {
        let Some(at) = self.running.iter().position(|r| r.run == run) else { return };
        let Running { fire, run } = self.running.remove(at);
        self.note(now, Happened::Ended { fire, run, outcome: outcome.to_owned(), problem });
    }

    /// Somebody paused it: its times are skipped until it is resumed, and only what somebody asks for starts. What
    /// runs goes on.
    #[must_use]
    pub fn pause(&mut self, now: Timestamp) -> Vec<Action> {
        if self.paused {
            return Vec::new();
        }
        let actions = self.take_due(now);
        self.paused = true;
        self.note(now, Happened::Paused);
        actions
    }

    /// Somebody resumed it. What it missed meanwhile is not made up for.
    pub fn resume(&mut self, now: Timestamp) {
        if self.paused {
            // While it is paused, all that is due is skipped.
            self.take_due(now);
            self.paused = false;
            self.note(now, Happened::Continued);
        }
    }

    /// Adds a fire that no time brought: it runs, after what runs and waits already.
    pub fn request(&mut self, cause: Cause) {
        let fire = Fire { cause };
        // A run that waits will see what changed meanwhile, too.
        let pattern = |f: &Fire| match &f.cause {
            Cause::Changed { pattern, .. } => Some(pattern.clone()),
            _ => None,
        };
        let covered =
            pattern(&fire).is_some_and(|p| self.waiting.iter().any(|f| pattern(f).as_ref() == Some(&p)));
        if !covered && !self.knows(&fire) {
            self.enqueue(fire);
        }
    }

    /// Adds the fires of a range of times, `from` excluded and `to` included; gives how many.
    pub fn backfill(&mut self, from: Timestamp, to: Timestamp) -> usize {
        let Some((spec, timezone)) = self.spec() else { return 0 };
        let fires: Vec<Fire> = spec
            .fires(from)
            .take_while(|f| f.instant <= to)
            .take(MOST_BACKFILLED)
            .map(|f| Fire::of_time(f, &timezone, true))
            .collect();
        let count = fires.len();
        for fire in fires {
            // One that waits already is not asked for twice; one that ran before runs again.
            if !self.waiting.contains(&fire) && !self.running.iter().any(|r| r.fire == fire) {
                self.enqueue(fire);
            }
        }
        count
    }

    /// What a pattern matches now, as a digest: fires where it is other than before and stays so until the next look,
    /// since files may still be written.
    pub fn look(&mut self, pattern: &str, found: &str, now: Timestamp) {
        let Some(seen) = self.seen.get(pattern) else {
            self.seen.insert(pattern.to_owned(), found.to_owned());
            self.unsaved = true;
            return;
        };
        if seen == found {
            self.settling.remove(pattern);
            return;
        }
        if self.settling.get(pattern).is_none_or(|s| s != found) {
            self.settling.insert(pattern.to_owned(), found.to_owned());
            return;
        }
        self.settling.remove(pattern);
        self.seen.insert(pattern.to_owned(), found.to_owned());
        self.unsaved = true;
        let cause = Cause::Changed { pattern: pattern.to_owned(), at: now };
        match self.paused {
            true => self.skip(now, Fire { cause }, 1, "the schedule is paused"),
            false => self.request(cause),
        }
    }

    /// When something is to be done without anybody asking; none where no time starts anything.
    pub fn wakes(&self, now: Timestamp) -> Option<Timestamp> {
        let policy = self.policy.as_ref()?;
        policy.next(&self.schedule, now.max(self.handled.unwrap_or(now))).map(|(_, starts)| starts)
    }

    fn spec(&self) -> Option<(Spec, String)> {
        let policy = self.policy.as_ref()?;
        Some((policy.spec().ok()??, policy.timezone.clone()))
    }

    /// Decides about the fires that are due.
    fn take_due(&mut self, now: Timestamp) -> Vec<Action> {
        let (Some((spec, timezone)), Some(policy)) = (self.spec(), self.policy.clone()) else {
            return Vec::new();
        };
        let now_of_fires = earlier(now, policy.delay(&self.schedule));
        if let Some(handled) = self.handled
            && handled.duration_since(now) > SET_BACK
        {
            self.note(now, Happened::ClockSetBack { from: handled });
            self.handled = Some(now_of_fires);
        }
        let most = usize::try_from(policy.catchup_max).unwrap_or(usize::MAX);
        let due = spec.due(self.handled, now_of_fires, policy.catchup, policy.window(), most);
        self.handled = Some(self.handled.map_or(now_of_fires, |handled| handled.max(now_of_fires)));
        if self.paused {
            self.skip_paused(due, &timezone, now);
            return Vec::new();
        }
        for skipped in &due.skipped {
            let first = Fire::of_time(skipped.first, &timezone, false);
            self.skip(now, first, skipped.count, why_missed(skipped.why, policy.catchup));
        }
        let mut actions = Vec::new();
        for fire in due.fires {
            let late = fire.instant < earlier(now_of_fires, ON_TIME);
            let fire = Fire::of_time(fire, &timezone, false);
            if self.knows(&fire) {
                continue;
            }
            match late {
                // What is made up for never overlaps.
                true => self.enqueue(fire),
                false => actions.extend(self.on_time(fire, policy.overlap, now)),
            }
        }
        actions
    }

    fn skip_paused(&mut self, due: Due, timezone: &str, now: Timestamp) {
        let firsts = due.skipped.iter().map(|s| s.first).chain(due.fires.iter().copied());
        let count = due.skipped.iter().map(|s| s.count).sum::<u64>() + due.fires.len() as u64;
        if let Some(first) = firsts.min_by_key(|f| f.instant) {
            self.skip(now, Fire::of_time(first, timezone, false), count, "the schedule is paused");
        }
    }

    /// Decides about a fire whose time has just come.
    fn on_time(&mut self, fire: Fire, overlap: Overlap, now: Timestamp) -> Vec<Action> {
        let others = self.running.len() + self.waiting.len();
        match overlap {
            _ if others == 0 => vec![self.start(fire, now)],
            Overlap::Skip => {
                let why = match self.running.first() {
                    Some(r) => format!("run {} had not ended (overlap: skip)", r.run),
                    None => "an earlier fire still waited (overlap: skip)".to_owned(),
                };
                self.skip(now, fire, 1, why);
                Vec::new()
            }
            Overlap::Allow if self.running.len() < MOST_AT_ONCE => vec![self.start(fire, now)],
            Overlap::Queue | Overlap::Allow => {
                self.enqueue(fire);
                Vec::new()
            }
            Overlap::CancelOther => {
                self.drop_waiting(now, "a later fire came (overlap: cancel_other)");
                self.enqueue(fire);
                Vec::new()
            }
        }
    }

    /// With `overlap: cancel_other`, cancels what is in the way of a fire, once.
    fn cancel_others(&mut self, now: Timestamp) -> Vec<Action> {
        let replaces = self.policy.as_ref().is_some_and(|p| p.overlap == Overlap::CancelOther);
        if !replaces || self.paused || self.waiting.iter().all(Fire::is_asked_for) {
            return Vec::new();
        }
        let cancelled = |h: &Happened, of: &str| matches!(h, Happened::Cancelled { run } if run == of);
        let is_new = |r: &&Running| !self.history.iter().any(|e| cancelled(&e.happened, &r.run));
        let runs: Vec<String> = self.running.iter().filter(is_new).map(|r| r.run.clone()).collect();
        for run in &runs {
            self.note(now, Happened::Cancelled { run: run.clone() });
        }
        runs.into_iter().map(|run| Action::Cancel { run }).collect()
    }

    fn start(&mut self, fire: Fire, now: Timestamp) -> Action {
        let run = fire.run_id(&self.schedule, &self.name);
        self.running.push(Running { fire: fire.clone(), run: run.clone() });
        self.note(now, Happened::Started { fire: fire.clone(), run: run.clone() });
        Action::Start { fire, run }
    }

    fn start_waiting(&mut self, now: Timestamp) -> Vec<Action> {
        if !self.running.is_empty() {
            return Vec::new();
        }
        let next = self.waiting.iter().position(|f| !self.paused || f.is_asked_for());
        let fire = next.and_then(|at| self.waiting.remove(at));
        fire.map(|fire| self.start(fire, now)).into_iter().collect()
    }

    fn enqueue(&mut self, fire: Fire) {
        if self.waiting.len() < MOST_WAITING {
            self.waiting.push_back(fire);
            self.unsaved = true;
        } else {
            let at = fire.at();
            self.skip(at, fire, 1, format!("{MOST_WAITING} fires waited already"));
        }
    }

    fn drop_waiting(&mut self, now: Timestamp, why: &str) {
        let dropped: VecDeque<Fire> = std::mem::take(&mut self.waiting);
        let count = dropped.len() as u64;
        if let Some(first) = dropped.into_iter().next() {
            self.skip(now, first, count, why);
        }
    }
}

fn why_missed(why: WhySkipped, catchup: Catchup) -> &'static str {
    match (why, catchup) {
        (WhySkipped::Window, _) => "missed longer ago than `catchup_window`",
        (WhySkipped::Max, _) => "missed, and more than `catchup_max`",
        (WhySkipped::Policy, Catchup::None) => "missed (catchup: none)",
        (WhySkipped::Policy, _) => "missed, and a later fire runs (catchup: last)",
    }
}
