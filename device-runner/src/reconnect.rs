//! What a device does about an engine that cannot be reached.

use std::sync::Arc;
use std::time::Duration;

use headstart_env::backoff::{Backoff, ExponentialBackoff};
use headstart_env::{Env, Random};

/// Pauses between tries to reach the engine: short for a while, because an engine is often only
/// restarted, and seconds at last, because it may be away for days.
const RECONNECT: Backoff =
    Backoff { first: Duration::from_millis(100), factor: 1.3, longest: Duration::from_secs(10), tries: None };

/// Pauses before what the engine did not take is sent again, beside other work.
pub(crate) fn resend_pauses(env: &Env) -> ExponentialBackoff {
    RECONNECT.pauses(&*env.random)
}

/// What is done about an engine that cannot be reached: it is logged once, tried again after pauses
/// that grow, and once it is back that is logged too.
pub(crate) struct Reconnect {
    random: Arc<dyn Random>,
    pauses: ExponentialBackoff,
    lost: bool,
}

impl Reconnect {
    pub(crate) fn new(env: &Env) -> Self {
        let random = Arc::clone(&env.random);
        Self { pauses: RECONNECT.pauses(&*random), random, lost: false }
    }

    /// The engine could not be reached: how long to wait before the next try.
    pub(crate) fn failed(&mut self, url: &str, why: &dyn std::fmt::Display) -> Duration {
        if !std::mem::replace(&mut self.lost, true) {
            tracing::warn!("the engine at {url} cannot be reached: {why}; trying again until it can");
        }
        self.pauses.next().unwrap_or(RECONNECT.longest)
    }

    /// The engine answered.
    pub(crate) fn answered(&mut self, url: &str) {
        if std::mem::take(&mut self.lost) {
            tracing::info!("the engine at {url} is back");
        }
        self.pauses = RECONNECT.pauses(&*self.random);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Mutex, PoisonError};

    use headstart_env::simulated::SimulatedClock;

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_lost_engine_is_logged_once_and_so_is_its_return() {
        let lines = Lines::default();
        let writer = lines.clone();
        let log = tracing_subscriber::fmt().with_writer(move || writer.clone()).with_ansi(false).finish();
        let pauses: Vec<Duration> = tracing::subscriber::with_default(log, || {
            let mut reconnect = Reconnect::new(&Env::simulated(&SimulatedClock::new(), 1));
            reconnect.answered("http://engine");
            let pauses = (0..100).map(|_| reconnect.failed("http://engine", &"connection refused")).collect();
            reconnect.answered("http://engine");
            reconnect.answered("http://engine");
            assert!(
                reconnect.failed("http://engine", &"again") < Duration::from_millis(300),
                "from the start"
            );
            pauses
        });
        let text = lines.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let text = String::from_utf8(text).expect("text");
        assert_eq!(text.matches("cannot be reached: connection refused").count(), 1, "{text}");
        assert_eq!(text.matches("is back").count(), 1, "{text}");
        assert_eq!(text.lines().count(), 3, "{text}");
        assert!(pauses[0] < Duration::from_millis(300) && pauses[99] >= RECONNECT.longest, "{pauses:?}");
    }
}
