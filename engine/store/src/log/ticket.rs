//! Waiting for events to be durable, by blocking or as a future.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use crate::error::StoreError;

#[derive(Default)]
struct State {
    /// `Err` says why the log is broken.
    result: Option<Result<(), String>>,
    waker: Option<Waker>,
}

#[derive(Default)]
pub(crate) struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    pub(crate) fn settle(&self, result: Result<(), String>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.result.is_some() {
            return;
        }
        state.result = Some(result);
        self.changed.notify_all();
        if let Some(waker) = state.waker.take() {
            drop(state);
            waker.wake();
        }
    }
}

/// The writer's end of a ticket. Dropped unsettled, it says that the writer is gone, so that nobody
/// waits for ever.
pub(crate) struct Settle(pub(crate) Arc<Shared>);

impl Drop for Settle {
    fn drop(&mut self) {
        self.0.settle(Err("its writer has stopped".to_owned()));
    }
}

/// The promise that some events will be durable. Wait for it with [`Ticket::wait`], or `.await` it;
/// dropping it does not take the events back.
#[must_use = "the events are not durable until the ticket says so"]
pub struct Ticket {
    pub(crate) run: Arc<str>,
    pub(crate) shared: Arc<Shared>,
}

impl Ticket {
    fn done(&self, result: &Result<(), String>) -> Result<(), StoreError> {
        result.clone().map_err(|why| StoreError::LogBroken { id: self.run.to_string(), why })
    }

    /// Blocks until the events are durable, or cannot be.
    ///
    /// # Errors
    /// [`StoreError::LogBroken`] where they cannot be written.
    pub fn wait(self) -> Result<(), StoreError> {
        let mut state = self.shared.state.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(result) = &state.result {
                return self.done(result);
            }
            state = self.shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Future for Ticket {
    type Output = Result<(), StoreError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.shared.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(result) = &state.result {
            return Poll::Ready(self.done(result));
        }
        state.waker = Some(cx.waker().clone());
        Poll::Pending
    }
}
