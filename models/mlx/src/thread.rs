//! The one thread that MLX runs on. MLX is not thread-safe, and its streams belong to threads.

use std::sync::{Mutex, OnceLock, PoisonError};

use headstart_lm::LmError;
use rayon::{ThreadPool, ThreadPoolBuilder};

fn pool() -> &'static ThreadPool {
    static POOL: OnceLock<ThreadPool> = OnceLock::new();
    POOL.get_or_init(|| {
        let one = ThreadPoolBuilder::new().num_threads(1).thread_name(|_| "mlx".into());
        one.build().expect("the system can start a thread")
    })
}

/// Runs this on MLX's thread and waits for it.
pub(crate) fn on_mlx<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    pool().install(work)
}

/// What MLX says, as an error of ours.
pub(crate) fn fault(e: mlx_rs::error::Exception) -> LmError {
    LmError::Internal(format!("MLX: {e}"))
}

/// A value that is made, used and dropped on MLX's thread alone.
pub(crate) struct Pinned<T: Send>(Option<Mutex<T>>);

impl<T: Send> Pinned<T> {
    /// Makes it.
    pub(crate) fn new(make: impl FnOnce() -> Result<T, LmError> + Send) -> Result<Self, LmError> {
        Ok(Self(Some(Mutex::new(on_mlx(make)?))))
    }

    /// Uses it.
    pub(crate) fn with<R: Send>(&self, work: impl FnOnce(&mut T) -> R + Send) -> R {
        let value = self.0.as_ref().expect("only drop takes it out");
        on_mlx(|| work(&mut value.lock().unwrap_or_else(PoisonError::into_inner)))
    }
}

impl<T: Send> Drop for Pinned<T> {
    fn drop(&mut self) {
        let value = self.0.take();
        on_mlx(|| {
            drop(value);
            // What MLX keeps for reuse is given back with the model that needed it.
            let _ = mlx_rs::memory::clear_cache();
        });
    }
}
