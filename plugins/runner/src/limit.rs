//! Time limits of attempts.

use std::time::Duration;

use headstart_protocol::{Failure, FailureClass};

/// When an attempt has to end.
#[derive(Clone, Copy, Debug, Default)]
pub struct TimeLimit {
    limit: Option<Duration>,
    until: Option<Duration>,
}

impl TimeLimit {
    /// A limit that counts from `begun`, a time of the runner's clock; none, if `limit` is `None` or
    /// too far away to be reached.
    pub fn new(begun: Duration, limit: Option<Duration>) -> Self {
        Self { limit, until: limit.and_then(|limit| begun.checked_add(limit)) }
    }

    /// Whether the limit has passed at `now`.
    pub fn passed(&self, now: Duration) -> bool {
        self.until.is_some_and(|until| now >= until)
    }

    /// A stage that is stopped because of its time limit reports a cancellation: this turns it into
    /// what it is. `asked` says that somebody cancelled the stage beside the limit.
    pub fn explain(&self, name: &str, failure: Failure, asked: bool, now: Duration) -> Failure {
        match self.limit {
            Some(limit) if failure.class == FailureClass::Cancelled && !asked && self.passed(now) => {
                exceeded(name, limit)
            }
            _ => failure,
        }
    }
}

/// The failure of a stage that ran past its time limit.
pub fn exceeded(name: &str, limit: Duration) -> Failure {
    let message = format!("`{name}` ran past its time limit of {limit:?}");
    Failure::new(FailureClass::Timeout, message).help("raise `timeout:` in its settings block")
}
