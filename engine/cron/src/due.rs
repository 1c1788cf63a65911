//! Due fires, and missed ones.

use std::collections::VecDeque;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::spec::{Fire, Spec};

/// A fire that is no older than this is on time: it is not subject to catch-up.
pub const ON_TIME: SignedDuration = SignedDuration::from_secs(60);

/// Missed fires before the window are counted up to here.
const COUNTED: u64 = 10_000;

/// What happens to fires that were missed, for instance because the engine was not running.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Catchup {
    /// Nothing.
    None,
    /// The last one fires.
    #[default]
    Last,
    /// Each fires, up to a number.
    All,
}

impl Catchup {
    /// The policy that a word of the language names.
    pub fn of(word: &str) -> Option<Self> {
        [Self::None, Self::Last, Self::All].into_iter().find(|c| c.word() == word)
    }

    /// Its word in the language.
    pub fn word(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Last => "last",
            Self::All => "all",
        }
    }
}

/// What happens to a fire while a run of the same schedule has not ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Overlap {
    /// It is skipped, which is recorded.
    #[default]
    Skip,
    /// It waits, behind those that wait already.
    Queue,
    /// It runs beside the other.
    Allow,
    /// The other run is cancelled, and this one starts when it has ended.
    CancelOther,
}

impl Overlap {
    /// The policy that a word of the language names.
    pub fn of(word: &str) -> Option<Self> {
        [Self::Skip, Self::Queue, Self::Allow, Self::CancelOther].into_iter().find(|o| o.word() == word)
    }

    /// Its word in the language.
    pub fn word(self) -> &'static str {
        match self {
            Self::Skip => "skip",
            Self::Queue => "queue",
            Self::Allow => "allow",
            Self::CancelOther => "cancel_other",
        }
    }
}

/// Why missed fires were skipped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WhySkipped {
    /// They are older than the window.
    Window,
    /// The policy catches up fewer.
    Policy,
    /// There are more than the greatest number.
    Max,
}

/// Missed fires that were skipped for the same reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Skipped {
    /// The reason.
    pub why: WhySkipped,
    /// The first of them.
    pub first: Fire,
    /// How many.
    pub count: u64,
    /// Whether counting stopped there, and there are more.
    pub more: bool,
}

/// Due fires.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Due {
    /// Fires that are due now, oldest first.
    pub fires: Vec<Fire>,
    /// What was missed and does not fire; to be recorded.
    pub skipped: Vec<Skipped>,
}

impl Spec {
    /// What of the fires after `last`, the instant of the last that was handled, is due at `now`.
    /// The caller then remembers the instant of the last fire in the answer, fired or skipped, or
    /// simply `now`.
    ///
    /// A new or edited schedule has no `last`, and nothing of its past is due. Missed fires are
    /// caught up if they are no older than `window`, at most `max` of them, the latest.
    pub fn due(
        &self,
        last: Option<Timestamp>,
        now: Timestamp,
        policy: Catchup,
        window: SignedDuration,
        max: usize,
    ) -> Due {
        let mut due = Due::default();
        let Some(last) = last else { return due };
        // Fires at the very edge are inside.
        let edge = |age: SignedDuration| now.checked_sub(age).unwrap_or(Timestamp::MIN);
        let (window, on_time) = (edge(window.max(ON_TIME)), edge(ON_TIME));
        let just_before =
            |t: Timestamp| t.checked_sub(SignedDuration::from_nanos(1)).unwrap_or(Timestamp::MIN);

        let mut too_old = self.fires(last).take_while(|f| f.instant < window);
        if let Some(first) = too_old.next() {
            let count = 1 + too_old.by_ref().take(COUNTED as usize - 1).count() as u64;
            let more = count == COUNTED && too_old.next().is_some();
            due.skipped.push(Skipped { why: WhySkipped::Window, first, count, more });
        }

        let keep = match policy {
            Catchup::None => 0,
            Catchup::Last => max.min(1),
            Catchup::All => max,
        };
        let why = if policy == Catchup::All { WhySkipped::Max } else { WhySkipped::Policy };
        let mut kept: VecDeque<Fire> = VecDeque::new();
        let mut dropped: Option<Skipped> = None;
        for fire in self.fires(last.max(just_before(window))).take_while(|f| f.instant <= now) {
            if fire.instant >= on_time {
                due.fires.push(fire);
                continue;
            }
            kept.push_back(fire);
            if kept.len() > keep
                && let Some(first) = kept.pop_front()
            {
                dropped.get_or_insert(Skipped { why, first, count: 0, more: false }).count += 1;
            }
        }
        // A fire that is on time is the last one: what came before need not be made up for.
        if policy == Catchup::Last
            && !due.fires.is_empty()
            && let Some(first) = kept.pop_front()
        {
            dropped.get_or_insert(Skipped { why, first, count: 0, more: false }).count += 1;
        }
        due.skipped.extend(dropped);
        due.fires.splice(0..0, kept);
        due
    }
}
