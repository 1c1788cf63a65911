//! How each event changes the state.

use std::sync::Arc;

use headstart_protocol::Progress;
use headstart_protocol::task::Usage;
use headstart_protocol::text::counted;
use headstart_protocol::{ArtifactRef, Digest, Failure, FailureClass};

use super::{ApplyError, Attempt, Changes, Done, Node, Phase, RunState, Status};
use crate::event::{Event, EventKind, LossCause, ReleasedParts, RunOutcome};

impl RunState {
    /// Folds an event in. O(instances that change). On an error, nothing has changed.
    ///
    /// # Errors
    /// [`ApplyError`] for an event that cannot follow the ones before it.
    pub fn apply(&mut self, event: &Event) -> Result<Changes, ApplyError> {
        match (&self.phase, &event.kind) {
            (Phase::New, EventKind::RunStarted { .. }) => {}
            (Phase::New, _) | (_, EventKind::RunStarted { .. }) => return Err(ApplyError::NotStarted),
            (Phase::Finished(outcome), kind) if !reopens(*outcome, kind) => return Err(ApplyError::Finished),
            _ => {}
        }
        if let Some(i) = event.kind.instance()
            && i as usize >= self.nodes.len()
        {
            return Err(ApplyError::NoInstance(i));
        }
        let now = event.at_ms;
        match &event.kind {
            EventKind::RunStarted { run, instances, .. } => self.start(run, *instances, now),
            EventKind::RunResumed {} => {
                self.phase = Phase::Live;
                Ok(Changes::default())
            }
            EventKind::DeviceJoined { .. } => Ok(Changes::default()),
            EventKind::CancelRequested {} => Ok(self.cancel()),
            EventKind::RunFinished { outcome } => self.finish(*outcome),
            EventKind::CacheHit { instance, key, output, released, saved_seconds } => {
                self.hit(*instance, *key, output, released, *saved_seconds, now)
            }
            EventKind::AttemptStarted { instance, attempt, fence, runner, key, .. } => {
                self.attempt(*instance, *attempt, *fence, runner, *key, now)
            }
            EventKind::Progress { instance, fence, progress } => self.progress(*instance, *fence, progress),
            EventKind::LeaseExpired { instance, fence, cause } => self.expire(*instance, *fence, *cause, now),
            EventKind::Checkpointed { instance, fence } => {
                self.expect_open(*instance, *fence)?;
                self.node(*instance).stage_losses = 0;
                Ok(Changes::default())
            }
            EventKind::RetryRequested { instance } => self.retry(*instance, now),
            EventKind::Committed { instance, fence, output, released, usage } => {
                self.commit(*instance, *fence, output, released, usage, now)
            }
            EventKind::Superseded { instance, fence } if self.accepts(*instance, *fence) => {
                Err(self.wrong(*instance, "superseded"))
            }
            EventKind::Superseded { .. } => Ok(Changes::default()),
            EventKind::Skipped { instance, fence } => {
                self.expect_attempt(*instance, *fence, "skipped")?;
                Ok(self.settle(*instance, Status::Skipped, now))
            }
            EventKind::Failed { instance, fence, failure, retry_at_ms } => {
                self.expect_attempt(*instance, *fence, "failed")?;
                let again = fence.is_some() && retry_at_ms.is_some();
                let node = self.node(*instance);
                match failure.class {
                    FailureClass::Lost if again => {
                        node.lost += 1;
                        node.stage_losses += 1;
                    }
                    // Somebody stopped it, or the machine does not give what it needs.
                    class if again && (class == FailureClass::Cancelled || class.is_environment()) => {
                        node.lost += 1;
                    }
                    _ => node.failures += 1,
                }
                node.open_fence = None;
                Ok(match retry_at_ms {
                    Some(at) => self.rearm(*instance, now, *at),
                    None => self.fail(*instance, failure.clone()),
                })
            }
            EventKind::Quarantined { instance, lost } => {
                self.expect_ready(*instance, "quarantined")?;
                let times = counted(*lost, "time");
                let message = format!("quarantined: its process was lost {times}; it is not tried again");
                let name = &self.instance(*instance).name;
                let help = format!("`headstart runs {} --retry '{name}'` has it tried again", self.run);
                Ok(self.fail(*instance, Failure::new(FailureClass::Lost, message).help(help)))
            }
            EventKind::Blocked { instance, .. } => match self.nodes[*instance as usize].status {
                Status::Blocked { .. } => Ok(Changes::default()),
                _ => Err(self.wrong(*instance, "blocked")),
            },
            EventKind::Invalidated { instance } => self.invalidate(*instance, now),
        }
    }

    fn cancel(&mut self) -> Changes {
        self.phase = Phase::Cancelling;
        self.was_cancelled = true;
        Changes::default()
    }

    fn hit(
        &mut self,
        instance: u32,
        key: Digest,
        output: &ArtifactRef,
        released: &ReleasedParts,
        saved_seconds: f64,
        now: u64,
    ) -> Result<Changes, ApplyError> {
        self.expect_ready(instance, "taken from the cache")?;
        self.node(instance).key = Some(key);
        let (output, released) = (output.clone(), released.clone());
        let done = Done { output, released, fence: None, usage: Usage::default(), saved_seconds };
        Ok(self.settle(instance, Status::Done(Box::new(done)), now))
    }

    fn progress(&mut self, instance: u32, fence: u64, progress: &Progress) -> Result<Changes, ApplyError> {
        match &mut self.node(instance).status {
            Status::Running(a) if a.fence == fence => a.progress = Some(progress.clone()),
            _ => return Err(ApplyError::Superseded { instance, fence }),
        }
        Ok(Changes::default())
    }

    fn expire(
        &mut self,
        instance: u32,
        fence: u64,
        cause: Option<LossCause>,
        now: u64,
    ) -> Result<Changes, ApplyError> {
        self.expect_running(instance, fence)?;
        let node = self.node(instance);
        node.lost += 1;
        // Earlier versions did not say who lost it: nobody is blamed.
        node.stage_losses += u32::from(cause == Some(LossCause::Stage));
        node.open_fence = Some(fence);
        Ok(self.rearm(instance, now, 0))
    }

    fn commit(
        &mut self,
        instance: u32,
        fence: u64,
        output: &ArtifactRef,
        released: &ReleasedParts,
        usage: &Usage,
        now: u64,
    ) -> Result<Changes, ApplyError> {
        self.expect_open(instance, fence)?;
        let (output, released) = (output.clone(), released.clone());
        let done = Done { output, released, fence: Some(fence), usage: usage.clone(), saved_seconds: 0.0 };
        Ok(self.settle(instance, Status::Done(Box::new(done)), now))
    }

    fn start(&mut self, run: &str, instances: u32, now: u64) -> Result<Changes, ApplyError> {
        let expected = self.nodes.len() as u32;
        if instances != expected {
            return Err(ApplyError::OtherPlan { expected, found: instances });
        }
        self.phase = Phase::Live;
        self.run = run.to_owned();
        self.started_ms = now;
        let ready: Vec<u32> = (0..expected).filter(|i| self.nodes[*i as usize].pending == 0).collect();
        for i in &ready {
            self.set(*i, Status::Ready { since_ms: now, not_before_ms: 0 });
        }
        Ok(Changes { ready, blocked: Vec::new() })
    }

    fn finish(&mut self, outcome: RunOutcome) -> Result<Changes, ApplyError> {
        let c = self.counts;
        let unsettled = c.waiting + c.ready + c.running;
        let legal = match outcome {
            RunOutcome::Succeeded => unsettled == 0 && c.failed == 0,
            RunOutcome::Failed => c.running == 0 && c.failed > 0,
            RunOutcome::Cancelled => c.running == 0 && self.was_cancelled,
        };
        if !legal {
            return Err(ApplyError::NotOver { outcome, unsettled, failed: c.failed });
        }
        self.phase = Phase::Finished(outcome);
        Ok(Changes::default())
    }

    fn attempt(
        &mut self,
        instance: u32,
        number: u32,
        fence: u64,
        runner: &str,
        key: Option<Digest>,
        now: u64,
    ) -> Result<Changes, ApplyError> {
        if self.phase == Phase::Cancelling {
            return Err(ApplyError::Cancelling);
        }
        self.expect_ready(instance, "started")?;
        if fence <= self.last_fence {
            return Err(ApplyError::OldFence { fence, last: self.last_fence });
        }
        if number != self.nodes[instance as usize].attempts + 1 {
            return Err(self.wrong(instance, "started under that attempt's number"));
        }
        self.last_fence = fence;
        let node = self.node(instance);
        node.attempts = number;
        node.open_fence = None;
        node.key = key;
        let runner = runner.to_owned();
        self.set(instance, Status::Running(Attempt { number, fence, runner, since_ms: now, progress: None }));
        Ok(Changes::default())
    }

    /// Gives an instance its final status and tells those that wait for it.
    fn settle(&mut self, instance: u32, status: Status, now: u64) -> Changes {
        self.node(instance).open_fence = None;
        self.set(instance, status);
        let mut ready = Vec::new();
        let graph = Arc::clone(&self.graph);
        for d in graph.dependents(instance) {
            let node = self.node(*d);
            node.pending -= 1;
            if node.pending == 0 && node.status == Status::Waiting {
                self.set(*d, Status::Ready { since_ms: now, not_before_ms: 0 });
                ready.push(*d);
            }
        }
        Changes { ready, blocked: Vec::new() }
    }

    /// Back to ready; or to waiting or blocked, where an input was invalidated meanwhile.
    fn rearm(&mut self, instance: u32, now: u64, not_before_ms: u64) -> Changes {
        if self.nodes[instance as usize].pending == 0 {
            self.set(instance, Status::Ready { since_ms: now, not_before_ms });
            return Changes { ready: vec![instance], blocked: Vec::new() };
        }
        self.set(instance, Status::Waiting);
        match self.lost_input(instance) {
            Some(because) => {
                self.set(instance, Status::Blocked { because });
                let mut blocked = vec![instance];
                self.block_dependents(instance, because, &mut blocked);
                blocked.sort_unstable();
                Changes { ready: Vec::new(), blocked }
            }
            None => Changes::default(),
        }
    }

    fn fail(&mut self, instance: u32, failure: Failure) -> Changes {
        self.set(instance, Status::Failed(Box::new(failure)));
        let mut blocked = Vec::new();
        self.block_dependents(instance, instance, &mut blocked);
        blocked.sort_unstable();
        Changes { ready: Vec::new(), blocked }
    }

    /// A person has an instance tried again: nothing of what it did before counts against it.
    fn retry(&mut self, instance: u32, now: u64) -> Result<Changes, ApplyError> {
        if !matches!(self.status(instance), Status::Failed(_)) {
            return Err(self.wrong(instance, "tried again"));
        }
        if matches!(self.phase, Phase::Finished(_)) {
            self.phase = Phase::Live;
        }
        let node = self.node(instance);
        (node.failures, node.stage_losses) = (0, 0);
        let freed = |n: &Node| matches!(n.status, Status::Blocked { because } if because == instance);
        let freed: Vec<u32> =
            (0..self.nodes.len()).filter(|i| freed(&self.nodes[*i])).map(|i| i as u32).collect();
        freed.iter().for_each(|i| self.set(*i, Status::Waiting));
        let mut changes = self.rearm(instance, now, 0);
        self.block_again(freed, &mut changes.blocked);
        changes.blocked.sort_unstable();
        Ok(changes)
    }

    /// What failed, directly or not, so that an instance does not get an input.
    fn lost_input(&self, instance: u32) -> Option<u32> {
        self.graph.inputs(instance).iter().find_map(|i| match &self.nodes[*i as usize].status {
            Status::Failed(_) => Some(*i),
            Status::Blocked { because } => Some(*because),
            _ => None,
        })
    }

    /// Blocks those of what was freed that need something else that failed as well, directly or not.
    fn block_again(&mut self, freed: Vec<u32>, blocked: &mut Vec<u32>) {
        for i in freed {
            // One that was blocked meanwhile has blocked what waits for it.
            if let (Some(because), Status::Waiting) = (self.lost_input(i), self.status(i)) {
                self.set(i, Status::Blocked { because });
                blocked.push(i);
                self.block_dependents(i, because, blocked);
            }
        }
    }

    /// Blocks what waits, directly or not, for `from`. What runs or is done has its inputs.
    fn block_dependents(&mut self, from: u32, because: u32, blocked: &mut Vec<u32>) {
        let graph = Arc::clone(&self.graph);
        let mut stack = vec![from];
        while let Some(i) = stack.pop() {
            for d in graph.dependents(i) {
                if self.nodes[*d as usize].status == Status::Waiting {
                    self.set(*d, Status::Blocked { because });
                    blocked.push(*d);
                    stack.push(*d);
                }
            }
        }
    }

    fn invalidate(&mut self, instance: u32, now: u64) -> Result<Changes, ApplyError> {
        if !matches!(self.nodes[instance as usize].status, Status::Done(_)) {
            return Err(self.wrong(instance, "invalidated"));
        }
        let graph = Arc::clone(&self.graph);
        for d in graph.dependents(instance) {
            let node = self.node(*d);
            node.pending += 1;
            if matches!(node.status, Status::Ready { .. }) {
                self.set(*d, Status::Waiting);
            }
        }
        self.node(instance).invalidated += 1;
        Ok(self.rearm(instance, now, 0))
    }

    fn node(&mut self, instance: u32) -> &mut Node {
        &mut self.nodes[instance as usize]
    }

    fn set(&mut self, instance: u32, status: Status) {
        let old = std::mem::replace(&mut self.nodes[instance as usize].status, status);
        *self.counts.of(&old) -= 1;
        match old {
            Status::Ready { .. } => drop(self.ready.remove(&instance)),
            Status::Running(a) => drop(self.running.remove(&a.fence)),
            _ => {}
        }
        let new = &self.nodes[instance as usize].status;
        *self.counts.of(new) += 1;
        match new {
            Status::Ready { .. } => drop(self.ready.insert(instance)),
            Status::Running(a) => drop(self.running.insert(a.fence, instance)),
            _ => {}
        }
    }

    fn wrong(&self, instance: u32, event: &'static str) -> ApplyError {
        ApplyError::WrongStatus { instance, status: self.status(instance).name(), event }
    }

    fn expect_ready(&self, instance: u32, event: &'static str) -> Result<(), ApplyError> {
        match self.status(instance) {
            Status::Ready { .. } => Ok(()),
            _ => Err(self.wrong(instance, event)),
        }
    }

    /// An outcome under a fence must be of the current attempt; one without, of a ready instance.
    fn expect_attempt(
        &self,
        instance: u32,
        fence: Option<u64>,
        event: &'static str,
    ) -> Result<(), ApplyError> {
        match fence {
            None => self.expect_ready(instance, event),
            Some(fence) => self.expect_open(instance, fence),
        }
    }

    fn expect_running(&self, instance: u32, fence: u64) -> Result<(), ApplyError> {
        match self.status(instance) {
            Status::Running(a) if a.fence == fence => Ok(()),
            _ => Err(ApplyError::Superseded { instance, fence }),
        }
    }

    fn expect_open(&self, instance: u32, fence: u64) -> Result<(), ApplyError> {
        if self.accepts(instance, fence) { Ok(()) } else { Err(ApplyError::Superseded { instance, fence }) }
    }
}

/// Whether an event makes a run live again that has ended: a cancelled one is resumed, and what failed can be
/// tried again.
fn reopens(outcome: RunOutcome, kind: &EventKind) -> bool {
    match kind {
        EventKind::RunResumed {} => outcome == RunOutcome::Cancelled,
        EventKind::RetryRequested { .. } => true,
        _ => false,
    }
}
