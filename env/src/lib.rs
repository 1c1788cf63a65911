//! Time and chance behind traits, so that everything that decides by them can be tested without
//! sleeping: leases, time limits, retries, waits, identifiers. The disk, a separate crate below the
//! contract, is part of the same [`Env`].
//!
//! # Layout
//! - [`Clock`], [`Random`]: the traits. [`Env`]: both, and a disk.
//! - [`SystemClock`], [`SystemRandom`]: those of the system.
//! - [`simulated`]: a clock that a test moves by hand, and numbers that repeat.
//! - [`backoff`]: pauses that grow.

pub mod backoff;
pub mod simulated;

use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use headstart_disk::{Disk, SystemDisk};

/// A future that is done when a time has come.
pub type Sleep = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Called when a clock was moved by hand.
pub type Wake = Box<dyn Fn() + Send + Sync>;

/// A source of time.
pub trait Clock: Send + Sync {
    /// Milliseconds since 1970-01-01 UTC. The system may set it back.
    fn now_ms(&self) -> u64;

    /// Time that has passed since the clock was made. Never goes back.
    fn elapsed(&self) -> Duration;

    /// Done after this long.
    fn sleep(&self, duration: Duration) -> Sleep;

    /// How long a thread that waits for a message at most this long may really wait for it. `None`
    /// for a clock that is moved by hand: [`Clock::on_advance`] then wakes the thread.
    fn thread_wait(&self, duration: Duration) -> Option<Duration>;

    /// Has `wake` called whenever the clock was moved by hand. The system's clock never is.
    fn on_advance(&self, wake: Wake);
}

/// A source of random numbers, fit for secrets.
pub trait Random: Send + Sync {
    /// Fills bytes.
    ///
    /// # Errors
    /// If the system gives none.
    fn fill(&self, bytes: &mut [u8]) -> std::io::Result<()>;

    /// A number, for spreading things out. Not for secrets: where the system gives no random bytes,
    /// it is 0.
    fn spread(&self) -> u64 {
        let mut bytes = [0; 8];
        // Things that are not spread out only come together.
        let _ = self.fill(&mut bytes);
        u64::from_le_bytes(bytes)
    }
}

/// Time, chance and the disk.
#[derive(Clone)]
pub struct Env {
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Chance.
    pub random: Arc<dyn Random>,
    /// The disk.
    pub disk: Arc<dyn Disk>,
}

impl Env {
    /// Those of the system.
    pub fn system() -> Self {
        Self {
            clock: Arc::new(SystemClock::new()),
            random: Arc::new(SystemRandom),
            disk: Arc::new(SystemDisk),
        }
    }
}

impl Default for Env {
    fn default() -> Self {
        Self::system()
    }
}

impl std::fmt::Debug for Env {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Env").finish_non_exhaustive()
    }
}

/// The system's clock. [`Clock::sleep`] must be called inside a tokio runtime with timers.
#[derive(Clone, Copy, Debug)]
pub struct SystemClock {
    made: Instant,
}

impl SystemClock {
    /// The system's clock, from now on.
    pub fn new() -> Self {
        Self { made: Instant::now() }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    fn now_ms(&self) -> u64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        since.map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
    }

    fn elapsed(&self) -> Duration {
        self.made.elapsed()
    }

    fn sleep(&self, duration: Duration) -> Sleep {
        Box::pin(tokio::time::sleep(duration))
    }

    fn thread_wait(&self, duration: Duration) -> Option<Duration> {
        Some(duration)
    }

    fn on_advance(&self, _: Wake) {}
}

/// The system's random numbers.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemRandom;

impl Random for SystemRandom {
    fn fill(&self, bytes: &mut [u8]) -> std::io::Result<()> {
        getrandom::fill(bytes).map_err(Into::into)
    }
}

/// The output of `work`, or `None` where it takes longer than `limit`.
pub async fn timeout<F: Future>(clock: &dyn Clock, limit: Duration, work: F) -> Option<F::Output> {
    tokio::select! {
        biased;
        output = work => Some(output),
        () = clock.sleep(limit) => None,
    }
}
