//! What a pipeline file says of a schedule.

use headstart_cron::{Catchup, CronError, Dst, Fire, Overlap, Spec};
use headstart_protocol::Digest;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

/// When a schedule fires, and what becomes of its fires.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// Five-field cron expression; none for a schedule that something else starts.
    pub cron: Option<String>,
    /// IANA time zone of `cron`.
    pub timezone: String,
    /// What happens while the previous run has not ended.
    pub overlap: Overlap,
    /// What happens to missed fires.
    pub catchup: Catchup,
    /// Missed fires older than this many seconds are skipped.
    pub catchup_window_s: u64,
    /// Missed fires that are caught up at most: the latest.
    pub catchup_max: u32,
    /// A run starts up to this many seconds after its fire: how many is the same for each fire of a schedule, and
    /// spreads schedules out.
    pub jitter_s: u64,
    /// Patterns of paths: a change of what they match fires.
    pub when_changed: Vec<String>,
    /// Schedules of the same file: the success of a run of theirs fires.
    pub after: Vec<String>,
    /// Webhooks: a signed call of one fires.
    #[serde(default)]
    pub webhooks: Vec<String>,
}

impl Policy {
    /// Its expression in its zone; none without an expression.
    ///
    /// # Errors
    /// If the expression or the zone is wrong.
    pub fn spec(&self) -> Result<Option<Spec>, CronError> {
        let parse = |cron: &String| Spec::parse(cron, &self.timezone, Dst::Vixie);
        self.cron.as_ref().map(parse).transpose()
    }

    /// Missed fires older than this are skipped.
    pub(crate) fn window(&self) -> SignedDuration {
        SignedDuration::from_secs(i64::try_from(self.catchup_window_s).unwrap_or(i64::MAX))
    }

    /// How long after their fires the runs of a schedule start.
    pub fn delay(&self, schedule: &str) -> SignedDuration {
        if self.jitter_s == 0 {
            return SignedDuration::ZERO;
        }
        let digest = Digest::of(schedule.as_bytes()).to_string();
        let chance =
            u64::from_str_radix(&digest[..16], 16).expect("a digest is written in hexadecimal digits");
        let seconds = chance % self.jitter_s.saturating_add(1);
        SignedDuration::from_secs(i64::try_from(seconds).unwrap_or(0))
    }

    /// The next fire after `now` and when its run starts; none where no time starts one.
    pub fn next(&self, schedule: &str, now: Timestamp) -> Option<(Fire, Timestamp)> {
        let delay = self.delay(schedule);
        let fire = self.spec().ok()??.next(earlier(now, delay))?;
        Some((fire, fire.instant.checked_add(delay).unwrap_or(Timestamp::MAX)))
    }

    /// Whether its fires come at the same times as another's.
    pub(crate) fn same_times(&self, other: &Self) -> bool {
        (&self.cron, &self.timezone) == (&other.cron, &other.timezone)
    }
}

/// A time earlier by `by`; not before the first representable one.
pub(crate) fn earlier(time: Timestamp, by: SignedDuration) -> Timestamp {
    time.checked_sub(by).unwrap_or(Timestamp::MIN)
}
