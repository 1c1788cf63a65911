//! Time that a test moves, and chance that repeats.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use headstart_disk::SystemDisk;

use crate::{Clock, Env, Random, Sleep, Wake};

/// 2026-01-01 00:00 UTC, where a simulated clock begins.
const BEGINNING_MS: u64 = 1_767_225_600_000;

/// A clock that moves only when a test moves it. Clones are one clock.
#[derive(Clone, Default)]
pub struct SimulatedClock {
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    state: Mutex<State>,
    /// Called after the clock was moved.
    wakes: Mutex<Vec<Wake>>,
}

#[derive(Default)]
struct State {
    now: Duration,
    /// What sleeps, by when it is to be woken and in the order in which it began.
    sleepers: BTreeMap<(Duration, u64), Waker>,
    begun: u64,
}

impl SimulatedClock {
    /// A clock at its beginning.
    pub fn new() -> Self {
        Self::default()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Moves the clock, and wakes everything whose time has come.
    pub fn advance(&self, by: Duration) {
        let due = {
            let mut state = self.state();
            state.now += by;
            let later = (state.now.saturating_add(Duration::from_nanos(1)), 0);
            let later = state.sleepers.split_off(&later);
            std::mem::replace(&mut state.sleepers, later)
        };
        due.into_values().for_each(Waker::wake);
        let wakes = self.inner.wakes.lock().unwrap_or_else(PoisonError::into_inner);
        wakes.iter().for_each(|wake| wake());
    }

    /// How many sleep now. Lets a test wait until what it watches has come to rest.
    pub fn sleepers(&self) -> usize {
        self.state().sleepers.len()
    }
}

impl Clock for SimulatedClock {
    fn now_ms(&self) -> u64 {
        BEGINNING_MS + u64::try_from(self.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn elapsed(&self) -> Duration {
        self.state().now
    }

    fn sleep(&self, duration: Duration) -> Sleep {
        let mut state = self.state();
        state.begun += 1;
        let key = (state.now.saturating_add(duration), state.begun);
        Box::pin(Sleeper { clock: self.clone(), key })
    }

    fn thread_wait(&self, duration: Duration) -> Option<Duration> {
        duration.is_zero().then_some(duration)
    }

    fn on_advance(&self, wake: Wake) {
        self.inner.wakes.lock().unwrap_or_else(PoisonError::into_inner).push(wake);
    }
}

/// Something that sleeps by a simulated clock.
struct Sleeper {
    clock: SimulatedClock,
    key: (Duration, u64),
}

impl Future for Sleeper {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.clock.state();
        if state.now >= self.key.0 {
            return Poll::Ready(());
        }
        state.sleepers.insert(self.key, cx.waker().clone());
        Poll::Pending
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        self.clock.state().sleepers.remove(&self.key);
    }
}

/// Numbers that are the same for the same seed.
#[derive(Debug)]
pub struct SimulatedRandom(Mutex<u64>);

impl SimulatedRandom {
    /// The numbers of a seed.
    pub fn new(seed: u64) -> Self {
        Self(Mutex::new(seed))
    }
}

impl Random for SimulatedRandom {
    fn fill(&self, bytes: &mut [u8]) -> std::io::Result<()> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for chunk in bytes.chunks_mut(8) {
            // SplitMix64: enough for a test, and the same everywhere.
            *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = *state;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            chunk.copy_from_slice(&(z ^ (z >> 31)).to_le_bytes()[..chunk.len()]);
        }
        Ok(())
    }
}

impl Env {
    /// Time that `clock` gives, the random numbers of a seed, and the system's disk.
    pub fn simulated(clock: &SimulatedClock, seed: u64) -> Self {
        Self {
            clock: Arc::new(clock.clone()),
            random: Arc::new(SimulatedRandom::new(seed)),
            disk: Arc::new(SystemDisk),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[test]
    fn what_sleeps_wakes_when_its_time_has_come() {
        let clock = SimulatedClock::new();
        let mut sleep = clock.sleep(Duration::from_secs(60));
        let mut cx = Context::from_waker(Waker::noop());
        assert!(sleep.as_mut().poll(&mut cx).is_pending());
        assert!(sleep.as_mut().poll(&mut cx).is_pending());
        assert_eq!(clock.sleepers(), 1, "asked twice, it sleeps once");
        let woken = Arc::new(AtomicU32::new(0));
        let count = Arc::clone(&woken);
        clock.on_advance(Box::new(move || {
            count.fetch_add(1, Ordering::SeqCst);
        }));
        let before = clock.now_ms();
        clock.advance(Duration::from_secs(59));
        assert!(sleep.as_mut().poll(&mut cx).is_pending());
        clock.advance(Duration::from_secs(1));
        assert!(sleep.as_mut().poll(&mut cx).is_ready());
        assert_eq!((clock.now_ms() - before, woken.load(Ordering::SeqCst)), (60_000, 2));
        assert_eq!(clock.sleepers(), 0);
        let mut given_up = clock.sleep(Duration::from_secs(1));
        assert!(given_up.as_mut().poll(&mut cx).is_pending());
        drop(given_up);
        assert_eq!(clock.sleepers(), 0);
    }

    #[test]
    fn numbers_repeat_by_seed() {
        let numbers = |seed| {
            let random = SimulatedRandom::new(seed);
            [random.spread(), random.spread()]
        };
        assert_eq!(numbers(1), numbers(1));
        assert_ne!(numbers(1), numbers(2));
        assert_ne!(numbers(1)[0], numbers(1)[1]);
    }
}
