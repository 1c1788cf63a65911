//! The state of a run: the fold of its events.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use headstart_dsl::plan::{Instance, Plan};
use headstart_protocol::expr::{Expr, Value};
use headstart_protocol::stage::Progress;
use headstart_protocol::task::Usage;
use headstart_protocol::{ArtifactRef, Digest, Failure, FailureClass};

use crate::event::{Event, EventKind, ReleasedParts, RunOutcome};
use crate::graph::Graph;

/// Where an instance stands.
#[derive(Clone, Debug, PartialEq)]
pub enum Status {
    /// An input has no output yet.
    Waiting,
    /// All inputs have outputs; it may be attempted.
    Ready {
        /// Since when, in milliseconds since 1970.
        since_ms: u64,
        /// Not before then: the pause before a retry. 0 for at once.
        not_before_ms: u64,
    },
    /// An attempt holds a lease.
    Running(Attempt),
    /// Its output counts.
    Done(Box<Done>),
    /// `when` was false; its output is absent.
    Skipped,
    /// It failed for good.
    Failed(Box<Failure>),
    /// Something that it needs failed for good.
    Blocked {
        /// The instance that failed.
        because: u32,
    },
}

/// A running attempt.
#[derive(Clone, Debug, PartialEq)]
pub struct Attempt {
    /// 1 for the first.
    pub number: u32,
    /// Its fence.
    pub fence: u64,
    /// `local`, or the device's name.
    pub runner: String,
    /// When it began, in milliseconds since 1970.
    pub since_ms: u64,
    /// The latest progress.
    pub progress: Option<Progress>,
}

/// What counts as an instance's output, and how it came about.
#[derive(Clone, Debug, PartialEq)]
pub struct Done {
    /// The output.
    pub output: ArtifactRef,
    /// Released parts of a private output.
    pub released: ReleasedParts,
    /// The fence it was committed under; absent for one from the cache.
    pub fence: Option<u64>,
    /// What the attempt used; for one from the cache, nothing.
    pub usage: Usage,
    /// Seconds that the cache saved.
    pub saved_seconds: f64,
}

/// How many instances stand where.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Waiting for inputs.
    pub waiting: u32,
    /// Waiting for a runner, or for a retry.
    pub ready: u32,
    /// Running.
    pub running: u32,
    /// Executed and committed.
    pub ran: u32,
    /// Found in the cache.
    pub cached: u32,
    /// Skipped by `when`.
    pub skipped: u32,
    /// Failed for good.
    pub failed: u32,
    /// Blocked by a failure.
    pub blocked: u32,
}

/// What an event changed beyond the instance that it is about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Instances that became ready, in plan order.
    pub ready: Vec<u32>,
    /// Instances that became blocked, in plan order.
    pub blocked: Vec<u32>,
}

/// Why an event cannot happen in a state. The state is unchanged.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// The log does not begin with `run_started`, or has another.
    #[error("a log begins with run_started, and has no other")]
    NotStarted,
    /// The run has ended.
    #[error("the run has ended")]
    Finished,
    /// The run is being cancelled; nothing new starts.
    #[error("the run is being cancelled")]
    Cancelling,
    /// The plan is another.
    #[error("the log is of a plan with {found} instances, this plan has {expected}")]
    OtherPlan {
        /// Instances of the plan at hand.
        expected: u32,
        /// Instances the log speaks of.
        found: u32,
    },
    /// The plan has no such instance.
    #[error("the plan has no instance {0}")]
    NoInstance(u32),
    /// The attempt is not the current one, or nothing is open any more.
    #[error("attempt with fence {fence} of instance {instance} is superseded")]
    Superseded {
        /// The instance.
        instance: u32,
        /// The late fence.
        fence: u64,
    },
    /// Fences only rise.
    #[error("fence {fence} is not above {last}")]
    OldFence {
        /// The new fence.
        fence: u64,
        /// The highest so far.
        last: u64,
    },
    /// The instance stands elsewhere.
    #[error("instance {instance} is {status}, so it cannot be {event}")]
    WrongStatus {
        /// The instance.
        instance: u32,
        /// Where it stands.
        status: &'static str,
        /// What was to happen.
        event: &'static str,
    },
    /// The run cannot have ended so.
    #[error("the run cannot end as {outcome:?} with {unsettled} instances unsettled and {failed} failed")]
    NotOver {
        /// The claimed outcome.
        outcome: RunOutcome,
        /// Instances that are neither done, skipped, failed nor blocked.
        unsettled: u32,
        /// Instances that failed.
        failed: u32,
    },
}

#[derive(Clone, Debug, PartialEq)]
struct Node {
    status: Status,
    /// Inputs without output.
    pending: u32,
    attempts: u32,
    failures: u32,
    lost: u32,
    invalidated: u32,
    /// Fence of a lease that expired and that no later attempt has replaced.
    open_fence: Option<u64>,
    key: Option<Digest>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    New,
    Live,
    Cancelling,
    Finished(RunOutcome),
}

/// The state of a run.
#[derive(Clone, Debug, PartialEq)]
pub struct RunState {
    plan: Arc<Plan>,
    graph: Arc<Graph>,
    nodes: Vec<Node>,
    ready: BTreeSet<u32>,
    running: BTreeMap<u64, u32>,
    last_fence: u64,
    phase: Phase,
    counts: Counts,
    run: String,
    started_ms: u64,
}

impl RunState {
    /// A run of `plan` before its first event.
    pub fn new(plan: Arc<Plan>) -> Self {
        let graph = Arc::new(Graph::of(&plan));
        let node = |i: usize| Node {
            status: Status::Waiting,
            pending: graph.inputs(i as u32).len() as u32,
            attempts: 0,
            failures: 0,
            lost: 0,
            invalidated: 0,
            open_fence: None,
            key: None,
        };
        let nodes: Vec<Node> = (0..plan.instances.len()).map(node).collect();
        let counts = Counts { waiting: nodes.len() as u32, ..Counts::default() };
        Self {
            plan,
            graph,
            nodes,
            ready: BTreeSet::new(),
            running: BTreeMap::new(),
            last_fence: 0,
            phase: Phase::New,
            counts,
            run: String::new(),
            started_ms: 0,
        }
    }

    /// The state after `events`.
    ///
    /// # Errors
    /// The first event that cannot have happened.
    pub fn replay<'a>(
        plan: Arc<Plan>,
        events: impl IntoIterator<Item = &'a Event>,
    ) -> Result<Self, ApplyError> {
        let mut state = Self::new(plan);
        for event in events {
            state.apply(event)?;
        }
        Ok(state)
    }

    /// Folds an event in. O(instances that change). On an error, nothing has changed.
    pub fn apply(&mut self, event: &Event) -> Result<Changes, ApplyError> {
        match (&self.phase, &event.kind) {
            (Phase::New, EventKind::RunStarted { .. }) => {}
            (Phase::New, _) | (_, EventKind::RunStarted { .. }) => return Err(ApplyError::NotStarted),
            (Phase::Finished(_), _) => return Err(ApplyError::Finished),
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
            EventKind::RunResumed {} | EventKind::DeviceJoined { .. } => Ok(Changes::default()),
            EventKind::CancelRequested {} => {
                self.phase = Phase::Cancelling;
                Ok(Changes::default())
            }
            EventKind::RunFinished { outcome } => self.finish(*outcome),
            EventKind::CacheHit { instance, key, output, released, saved_seconds } => {
                self.expect_ready(*instance, "taken from the cache")?;
                self.node(*instance).key = Some(*key);
                let done = Done {
                    output: output.clone(),
                    released: released.clone(),
                    fence: None,
                    usage: Usage::default(),
                    saved_seconds: *saved_seconds,
                };
                Ok(self.settle(*instance, Status::Done(Box::new(done)), now))
            }
            EventKind::AttemptStarted { instance, attempt, fence, runner, key, .. } => {
                self.attempt(*instance, *attempt, *fence, runner, *key, now)
            }
            EventKind::Progress { instance, fence, progress } => {
                match &mut self.nodes[*instance as usize].status {
                    Status::Running(a) if a.fence == *fence => a.progress = Some(progress.clone()),
                    _ => return Err(ApplyError::Superseded { instance: *instance, fence: *fence }),
                }
                Ok(Changes::default())
            }
            EventKind::LeaseExpired { instance, fence } => {
                self.expect_running(*instance, *fence)?;
                let node = self.node(*instance);
                node.lost += 1;
                node.open_fence = Some(*fence);
                Ok(self.rearm(*instance, now, 0))
            }
            EventKind::Committed { instance, fence, output, released, usage } => {
                self.expect_open(*instance, *fence)?;
                let done = Done {
                    output: output.clone(),
                    released: released.clone(),
                    fence: Some(*fence),
                    usage: usage.clone(),
                    saved_seconds: 0.0,
                };
                Ok(self.settle(*instance, Status::Done(Box::new(done)), now))
            }
            EventKind::Superseded { instance, fence } => {
                if self.accepts(*instance, *fence) {
                    let event = "superseded";
                    return Err(self.wrong(*instance, event));
                }
                Ok(Changes::default())
            }
            EventKind::Skipped { instance, fence } => {
                match fence {
                    None => self.expect_ready(*instance, "skipped")?,
                    Some(fence) => self.expect_open(*instance, *fence)?,
                }
                Ok(self.settle(*instance, Status::Skipped, now))
            }
            EventKind::Failed { instance, fence, failure, retry_at_ms } => {
                match fence {
                    None => self.expect_ready(*instance, "failed")?,
                    Some(fence) => self.expect_open(*instance, *fence)?,
                }
                let node = self.node(*instance);
                node.failures += 1;
                node.open_fence = None;
                Ok(match retry_at_ms {
                    Some(at) => self.rearm(*instance, now, *at),
                    None => self.fail(*instance, failure.clone()),
                })
            }
            EventKind::Quarantined { instance, lost } => {
                self.expect_ready(*instance, "quarantined")?;
                let message = format!("its runner was lost {lost} times; it is not tried again");
                Ok(self.fail(*instance, Failure::new(FailureClass::Lost, message)))
            }
            EventKind::Blocked { instance, .. } => match self.nodes[*instance as usize].status {
                Status::Blocked { .. } => Ok(Changes::default()),
                _ => Err(self.wrong(*instance, "blocked")),
            },
            EventKind::Invalidated { instance } => self.invalidate(*instance, now),
        }
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
            RunOutcome::Cancelled => c.running == 0 && self.phase == Phase::Cancelling,
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
        let graph = Arc::clone(&self.graph);
        let lost_input = graph.inputs(instance).iter().find_map(|i| match &self.nodes[*i as usize].status {
            Status::Failed(_) => Some(*i),
            Status::Blocked { because } => Some(*because),
            _ => None,
        });
        match lost_input {
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

/// Questions to the state.
impl RunState {
    /// Whether a commit under this fence would count now.
    pub fn accepts(&self, instance: u32, fence: u64) -> bool {
        match &self.nodes[instance as usize] {
            Node { status: Status::Running(a), .. } => a.fence == fence,
            Node { status: Status::Ready { .. } | Status::Waiting, open_fence, .. } => {
                *open_fence == Some(fence)
            }
            _ => false,
        }
    }

    /// The plan.
    pub fn plan(&self) -> &Arc<Plan> {
        &self.plan
    }

    /// The plan's edges.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// The run's identifier; empty before the first event.
    pub fn run(&self) -> &str {
        &self.run
    }

    /// When the run began, in milliseconds since 1970.
    pub fn started_ms(&self) -> u64 {
        self.started_ms
    }

    /// An instance of the plan.
    pub fn instance(&self, instance: u32) -> &Instance {
        &self.plan.instances[instance as usize]
    }

    /// Where an instance stands.
    pub fn status(&self, instance: u32) -> &Status {
        &self.nodes[instance as usize].status
    }

    /// Where all instances stand, in plan order.
    pub fn statuses(&self) -> impl Iterator<Item = (u32, &Status)> {
        self.nodes.iter().enumerate().map(|(i, n)| (i as u32, &n.status))
    }

    /// Attempts that were started.
    pub fn attempts(&self, instance: u32) -> u32 {
        self.nodes[instance as usize].attempts
    }

    /// Attempts that ended in a failure.
    pub fn failures(&self, instance: u32) -> u32 {
        self.nodes[instance as usize].failures
    }

    /// Attempts whose runner was lost.
    pub fn lost(&self, instance: u32) -> u32 {
        self.nodes[instance as usize].lost
    }

    /// How often its output was found to be gone.
    pub fn invalidated(&self, instance: u32) -> u32 {
        self.nodes[instance as usize].invalidated
    }

    /// The cache key under which it was last attempted or found.
    pub fn key(&self, instance: u32) -> Option<Digest> {
        self.nodes[instance as usize].key
    }

    /// Instances that may be attempted, in plan order, also those that pause before a retry.
    pub fn ready(&self) -> impl Iterator<Item = u32> {
        self.ready.iter().copied()
    }

    /// Live attempts: fence and instance, oldest first. Slots are counted from these, never kept.
    pub fn running(&self) -> impl Iterator<Item = (u64, u32)> {
        self.running.iter().map(|(f, i)| (*f, *i))
    }

    /// The highest fence so far.
    pub fn last_fence(&self) -> u64 {
        self.last_fence
    }

    /// How many instances stand where.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Whether the run is being cancelled.
    pub fn cancelling(&self) -> bool {
        self.phase == Phase::Cancelling
    }

    /// How the run ended, if it has.
    pub fn outcome(&self) -> Option<RunOutcome> {
        match self.phase {
            Phase::Finished(outcome) => Some(outcome),
            _ => None,
        }
    }

    /// How the run would end now; absent while something is left to do.
    pub fn conclusion(&self) -> Option<RunOutcome> {
        let c = self.counts;
        if self.phase == Phase::New || c.running > 0 {
            return None;
        }
        if self.phase == Phase::Cancelling && c.ready + c.waiting > 0 {
            return Some(RunOutcome::Cancelled);
        }
        if c.ready + c.waiting > 0 {
            return None;
        }
        Some(if c.failed > 0 { RunOutcome::Failed } else { RunOutcome::Succeeded })
    }

    /// The output of an instance as a value; `None` while it has none.
    pub fn output(&self, instance: u32) -> Option<Value> {
        match self.status(instance) {
            Status::Done(done) => Some(Value::Artifact(done.output.clone())),
            Status::Skipped => Some(Value::Absent),
            _ => None,
        }
    }

    /// An expression of the plan with outputs put in; `None` while one of them is missing.
    pub fn substitute(&self, expr: &Expr) -> Option<Expr> {
        let mut complete = true;
        expr.each_output(&mut |i| complete &= self.output(i).is_some());
        complete.then(|| expr.substitute(&|i| self.output(i).unwrap_or(Value::Absent)))
    }
}

impl Status {
    /// One word, for people and queries.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Ready { .. } => "ready",
            Self::Running(_) => "running",
            Self::Done(d) if d.fence.is_none() => "cached",
            Self::Done(_) => "done",
            Self::Skipped => "skipped",
            Self::Failed(_) => "failed",
            Self::Blocked { .. } => "blocked",
        }
    }
}

impl Counts {
    fn of(&mut self, status: &Status) -> &mut u32 {
        match status {
            Status::Waiting => &mut self.waiting,
            Status::Ready { .. } => &mut self.ready,
            Status::Running(_) => &mut self.running,
            Status::Done(d) if d.fence.is_none() => &mut self.cached,
            Status::Done(_) => &mut self.ran,
            Status::Skipped => &mut self.skipped,
            Status::Failed(_) => &mut self.failed,
            Status::Blocked { .. } => &mut self.blocked,
        }
    }

    /// Instances in all.
    pub fn total(&self) -> u32 {
        self.waiting
            + self.ready
            + self.running
            + self.ran
            + self.cached
            + self.skipped
            + self.failed
            + self.blocked
    }
}
