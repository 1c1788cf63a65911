//! Pauses between tries: they grow, and vary, so that what failed together does not return together.

use std::time::Duration;

pub use backon::ExponentialBackoff;
use backon::{BackoffBuilder, ExponentialBuilder};

use crate::Random;

/// How pauses grow.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Backoff {
    /// The first pause; each varies between its length and twice that.
    pub first: Duration,
    /// How much longer each pause is than the one before.
    pub factor: f32,
    /// No pause is longer, before it is varied.
    pub longest: Duration,
    /// How often is tried again; `None` for ever.
    pub tries: Option<usize>,
}

impl Backoff {
    /// The pauses from the first on. They end where no more tries are due.
    pub fn pauses(&self, random: &dyn Random) -> ExponentialBackoff {
        let builder = ExponentialBuilder::new()
            .with_min_delay(self.first)
            .with_factor(self.factor)
            .with_max_delay(self.longest)
            .with_jitter()
            .with_jitter_seed(random.spread());
        match self.tries {
            Some(tries) => builder.with_max_times(tries).build(),
            None => builder.without_max_times().build(),
        }
    }

    /// The pause after this many failures, the first being 0; `None` where no more tries are due.
    pub fn after(&self, failures: usize, random: &dyn Random) -> Option<Duration> {
        self.pauses(random).nth(failures)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simulated::SimulatedRandom;

    #[test]
    fn pauses_double_up_to_a_limit_vary_and_end() {
        let ms = Duration::from_millis;
        let backoff = Backoff { first: ms(100), factor: 2.0, longest: ms(400), tries: Some(5) };
        let seen: Vec<Duration> = backoff.pauses(&SimulatedRandom::new(1)).collect();
        assert_eq!(seen.len(), 5);
        for (pause, least) in seen.iter().zip([100, 200, 400, 400, 400]) {
            assert!(*pause >= ms(least) && *pause <= ms(2 * least), "{pause:?} for {least}");
        }
        assert_eq!(backoff.after(5, &SimulatedRandom::new(1)), None);
        let other: Vec<Duration> = backoff.pauses(&SimulatedRandom::new(2)).collect();
        assert_ne!(seen, other);
        let endless = Backoff { tries: None, ..backoff };
        assert!(endless.after(10_000, &SimulatedRandom::new(1)).is_some());
    }
}
