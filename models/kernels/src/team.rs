//! Fork and join for the many small products of one step of generation.
//!
//! A pool that sleeps between tasks takes longer to wake than such a product takes. The threads of a
//! [`Team`] wait for the next product by spinning for some microseconds, then let other threads run,
//! and sleep when nothing has come for a while: between steps of other work they cost nothing.

use std::any::Any;
use std::cell::{Cell, UnsafeCell};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rayon::prelude::*;

/// How long a thread spins for work, and how long it then lets others run before it sleeps.
const SPIN: Duration = Duration::from_micros(40);
const YIELD: Duration = Duration::from_micros(300);

/// Bits of [`Shared::state`] for the pieces of a job, and for those that are taken.
const COUNT: u32 = 20;
const MASK: u64 = (1 << COUNT) - 1;

/// Pieces of a job at most.
const MOST: usize = MASK as usize;

/// Threads that wait for pieces of work beside the one that leads them.
pub struct Team {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    led: AtomicBool,
}

thread_local! {
    /// The team that this thread leads, unless it works on a piece.
    static LED: Cell<Option<*const Shared>> = const { Cell::new(None) };
}

/// What a job's pieces do.
type Work = *const (dyn Fn(usize) + Sync);

struct Shared {
    /// Number of the job, its pieces, and those that are taken. A piece is taken by exchanging the
    /// whole word, so that no thread takes a piece of a job that has ended.
    state: AtomicU64,
    /// Valid while a piece is taken and not done.
    work: UnsafeCell<Option<Work>>,
    done: AtomicUsize,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    closed: AtomicBool,
    sleeping: AtomicUsize,
    lock: Mutex<()>,
    wake: Condvar,
}

// SAFETY: `work` is written by the leader while no piece is taken, and read by threads that have
// taken one; it points to something that can be shared.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Team {
    /// With so many threads, the one that leads included.
    pub fn new(threads: usize) -> Self {
        let shared = Arc::new(Shared {
            state: AtomicU64::new(0),
            work: UnsafeCell::new(None),
            done: AtomicUsize::new(0),
            panic: Mutex::new(None),
            closed: AtomicBool::new(false),
            sleeping: AtomicUsize::new(0),
            lock: Mutex::new(()),
            wake: Condvar::new(),
        });
        let start = |i: usize| {
            let shared = shared.clone();
            let thread = std::thread::Builder::new().name(format!("team-{i}"));
            // Where the system starts no more threads, those that are there do the work.
            thread.spawn(move || shared.help()).ok()
        };
        let threads = (1..threads).filter_map(start).collect();
        Self { shared, threads, led: AtomicBool::new(false) }
    }

    /// Does some work whose [`for_each`] is shared with the team. Where another thread leads it
    /// already, the work runs as without a team.
    pub fn lead<T>(&self, work: impl FnOnce() -> T) -> T {
        if self.threads.is_empty() || LED.get().is_some() || self.led.swap(true, Ordering::Acquire) {
            return work();
        }
        struct Leading<'a>(&'a AtomicBool);
        impl Drop for Leading<'_> {
            fn drop(&mut self) {
                LED.set(None);
                self.0.store(false, Ordering::Release);
            }
        }
        let _leading = Leading(&self.led);
        LED.set(Some(Arc::as_ptr(&self.shared)));
        work()
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        self.shared.closed.store(true, Ordering::SeqCst);
        self.shared.wake_all();
        for thread in self.threads.drain(..) {
            // A helper catches what its pieces panic with.
            let _ = thread.join();
        }
    }
}

/// Does pieces `0..count` of some work, in any order and on any thread: on the team that this thread
/// leads, or on the rayon pool that it is in.
pub fn for_each(count: usize, work: impl Fn(usize) + Sync + Send) {
    if count <= 1 {
        return (0..count).for_each(work);
    }
    match LED.get() {
        Some(shared) if count <= MOST => {
            // While the leader works on a piece, it leads nothing.
            LED.set(None);
            // SAFETY: the team outlives `Team::lead`, which set the pointer.
            let panic = unsafe { &*shared }.run(count, &work);
            LED.set(Some(shared));
            if let Some(panic) = panic {
                resume_unwind(panic);
            }
        }
        _ => (0..count).into_par_iter().with_max_len(1).for_each(work),
    }
}

impl Shared {
    /// Runs a job with the team; what one of its pieces panicked with.
    fn run(&self, count: usize, work: &(dyn Fn(usize) + Sync)) -> Option<Box<dyn Any + Send>> {
        // SAFETY: no piece is taken: the job before has ended, and its leader was this thread. The
        // lifetime is left out because this function returns when all pieces are done.
        unsafe {
            let work: Work = std::mem::transmute::<&(dyn Fn(usize) + Sync), Work>(work);
            *self.work.get() = Some(work);
        }
        self.done.store(0, Ordering::Relaxed);
        let job = (self.state.load(Ordering::Relaxed) >> (2 * COUNT)).wrapping_add(1);
        self.state.store(job << (2 * COUNT) | (count as u64) << COUNT, Ordering::SeqCst);
        if self.sleeping.load(Ordering::SeqCst) > 0 {
            self.wake_all();
        }
        while self.piece() {}
        let mut idle = Idle::default();
        while self.done.load(Ordering::Acquire) < count {
            idle.wait();
        }
        self.panic.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Does a piece; false where there is none.
    fn piece(&self) -> bool {
        let state = self.state.load(Ordering::Acquire);
        let (count, next) = ((state >> COUNT) & MASK, state & MASK);
        if next >= count {
            return false;
        }
        if self.state.compare_exchange_weak(state, state + 1, Ordering::AcqRel, Ordering::Relaxed).is_err() {
            return true;
        }
        // SAFETY: a piece is taken, so the job's work is there until it is done.
        let result = catch_unwind(AssertUnwindSafe(|| unsafe {
            if let Some(work) = *self.work.get() {
                (*work)(next as usize);
            }
        }));
        if let Err(panic) = result {
            *self.panic.lock().unwrap_or_else(PoisonError::into_inner) = Some(panic);
        }
        self.done.fetch_add(1, Ordering::Release);
        true
    }

    fn help(&self) {
        let mut idle = Idle::default();
        while !self.closed.load(Ordering::Relaxed) {
            if self.piece() {
                idle = Idle::default();
            } else if !idle.wait() {
                self.sleep();
                idle = Idle::default();
            }
        }
    }

    /// Sleeps until there is a job.
    fn sleep(&self) {
        let mut guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        self.sleeping.fetch_add(1, Ordering::SeqCst);
        loop {
            let state = self.state.load(Ordering::SeqCst);
            if state & MASK < (state >> COUNT) & MASK || self.closed.load(Ordering::SeqCst) {
                break;
            }
            guard = self.wake.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
        self.sleeping.fetch_sub(1, Ordering::SeqCst);
    }

    fn wake_all(&self) {
        let _guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        self.wake.notify_all();
    }
}

/// A thread without work.
#[derive(Default)]
struct Idle {
    turns: u32,
    since: Option<Instant>,
}

impl Idle {
    /// Waits a moment; false where it has waited so long that it may as well sleep.
    fn wait(&mut self) -> bool {
        /// Turns between looks at the clock.
        const TURNS: u32 = 16;
        self.turns = self.turns.wrapping_add(1);
        if !self.turns.is_multiple_of(TURNS) {
            std::hint::spin_loop();
            return true;
        }
        let waited = self.since.get_or_insert_with(Instant::now).elapsed();
        if waited > SPIN {
            std::thread::yield_now();
        }
        waited <= YIELD
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_piece_is_done_once_job_after_job() {
        let team = Team::new(4);
        team.lead(|| {
            for count in (0..200).chain([5000]) {
                let seen: Vec<AtomicUsize> = (0..count).map(|_| AtomicUsize::new(0)).collect();
                for_each(count, |i| {
                    seen[i].fetch_add(1, Ordering::Relaxed);
                });
                assert!(seen.iter().all(|s| s.load(Ordering::Relaxed) == 1), "{count} pieces");
            }
        });
    }

    #[test]
    fn pieces_may_have_pieces_and_leaders_may_meet() {
        let (team, sum) = (Team::new(3), AtomicUsize::new(0));
        std::thread::scope(|s| {
            for _ in 0..3 {
                s.spawn(|| {
                    team.lead(|| {
                        for _ in 0..50 {
                            for_each(7, |_| for_each(3, |i| _ = sum.fetch_add(i, Ordering::Relaxed)));
                        }
                    });
                });
            }
        });
        assert_eq!(sum.into_inner(), 3 * 50 * 7 * 3);
    }

    #[test]
    fn a_panic_comes_out_when_all_pieces_have_ended_and_the_team_goes_on() {
        let team = Team::new(3);
        let ended = AtomicUsize::new(0);
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            team.lead(|| {
                for_each(20, |i| {
                    assert!(i != 11, "piece 11");
                    ended.fetch_add(1, Ordering::Relaxed);
                });
            });
        }));
        assert!(panicked.is_err());
        assert_eq!(ended.into_inner(), 19);
        let again = AtomicUsize::new(0);
        team.lead(|| for_each(9, |_| _ = again.fetch_add(1, Ordering::Relaxed)));
        assert_eq!(again.into_inner(), 9);
    }
}
