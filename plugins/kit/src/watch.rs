//! Lets a computation report to the stage's context, and be stopped by it.

use headstart_lm::Watch;
use headstart_protocol::{Context, Progress};

/// Passes progress, counters and cancellation between a context and a backend.
pub struct ContextWatch<'a> {
    ctx: &'a dyn Context,
    part: Option<(u64, u64)>,
}

impl<'a> ContextWatch<'a> {
    /// Over a call that is all that the stage does: its progress is the stage's.
    pub fn new(ctx: &'a dyn Context) -> Self {
        Self { ctx, part: None }
    }

    /// Over one call of several: `offset` units were done before it, `total` are to be done in all.
    pub fn part(ctx: &'a dyn Context, offset: u64, total: u64) -> Self {
        Self { ctx, part: Some((offset, total)) }
    }
}

impl Watch for ContextWatch<'_> {
    fn progress(&self, done: u64, total: u64, unit: &str, metrics: &[(&str, f64)]) {
        let (done, total) = match self.part {
            Some((offset, total)) => ((offset + done).min(total), total),
            None => (done, total),
        };
        let metrics = metrics.iter().map(|(name, x)| ((*name).to_owned(), *x)).collect();
        self.ctx.progress(Progress { done, total: Some(total), unit: unit.to_owned(), metrics });
    }

    fn count(&self, counter: &'static str, n: u64) {
        self.ctx.count(counter, n);
    }

    fn cancelled(&self) -> bool {
        self.ctx.cancelled()
    }
}
