//! Lets a computation report to the stage's context, and be stopped by it.

use headstart_lm::Watch;
use headstart_protocol::{Context, Progress};

/// Passes progress, counters and cancellation between a context and a backend. `offset` rows were
/// done before the call that is watched; `total` are to be done in all.
pub struct ContextWatch<'a> {
    /// The stage's context.
    pub ctx: &'a dyn Context,
    /// Rows done before.
    pub offset: u64,
    /// Rows in all.
    pub total: u64,
}

impl Watch for ContextWatch<'_> {
    fn progress(&self, done: u64, _total: u64, unit: &str, metrics: &[(&str, f64)]) {
        self.ctx.progress(Progress {
            done: (self.offset + done).min(self.total),
            total: Some(self.total),
            unit: unit.to_owned(),
            metrics: metrics.iter().map(|(k, v)| ((*k).to_owned(), *v)).collect(),
        });
    }

    fn count(&self, counter: &'static str, n: u64) {
        self.ctx.count(counter, n);
    }

    fn cancelled(&self) -> bool {
        self.ctx.cancelled()
    }
}
