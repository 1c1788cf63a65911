//! What time it is at the engine, as far as the device knows for certain.
//!
//! The device's own clock may be wrong, so it is not asked. What the engine signed at a time, it signed when
//! its clock said so, and since then at least as much has passed as has passed here. So the device knows a
//! time that the engine's clock has reached for sure, and refuses what had expired before that. It learns
//! the time anew from every hello, whose answer cannot be an old one.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use headstart_env::{Clock, Env};
use headstart_transport::signed::Stamp;

/// The engine's time.
pub(crate) struct EngineTime {
    clock: Arc<dyn Clock>,
    /// A time of the engine, and when it was known.
    known: Mutex<Option<(u64, Duration)>>,
}

impl EngineTime {
    pub(crate) fn new(env: &Env) -> Self {
        Self { clock: Arc::clone(&env.clock), known: Mutex::new(None) }
    }

    /// It was `issued_ms` at the engine just now.
    pub(crate) fn learn(&self, issued_ms: u64) {
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = Some((issued_ms, self.clock.elapsed()));
    }

    /// Whether a message that the engine signed has not expired for certain.
    pub(crate) fn takes(&self, stamp: Stamp) -> bool {
        let now = self.clock.elapsed();
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let reached = known.map_or(0, |(at, since)| {
            at.saturating_add(u64::try_from(now.saturating_sub(since).as_millis()).unwrap_or(u64::MAX))
        });
        // A clock here that stood still, as of a machine that slept, is put right by what is newer.
        if stamp.issued_ms > reached {
            *known = Some((stamp.issued_ms, now));
        }
        stamp.expires_ms >= reached.max(stamp.issued_ms)
    }
}

#[cfg(test)]
mod tests {
    use headstart_env::simulated::SimulatedClock;

    use super::*;

    #[test]
    fn a_message_counts_until_it_has_expired_at_the_engine() {
        let clock = SimulatedClock::new();
        let time = EngineTime::new(&Env::simulated(&clock, 1));
        let stamp = |issued_ms, expires_ms| Stamp { fence: 1, issued_ms, expires_ms };
        time.learn(1_000_000);
        assert!(time.takes(stamp(1_000_000, 1_000_100)));
        assert!(!time.takes(stamp(900_000, 999_999)), "it had expired before the device joined");
        clock.advance(Duration::from_millis(100));
        assert!(time.takes(stamp(1_000_000, 1_000_100)));
        clock.advance(Duration::from_millis(1));
        assert!(!time.takes(stamp(1_000_000, 1_000_100)), "time has passed");
        // The device slept: what is newer tells it that more has passed than it noticed.
        assert!(time.takes(stamp(5_000_000, 5_000_100)));
        assert!(!time.takes(stamp(1_000_050, 1_000_150)));
        // The engine's clock was put back: the next hello says so.
        time.learn(2_000_000);
        assert!(time.takes(stamp(2_000_000, 2_000_100)));
    }
}
