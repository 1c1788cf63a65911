//! The state of a run: the fold of its events.

mod fold;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use headstart_dsl::plan::{Instance, Plan};
use headstart_protocol::Progress;
use headstart_protocol::expr::{Expr, Value};
use headstart_protocol::task::Usage;
use headstart_protocol::{ArtifactRef, Digest, Failure};

use crate::event::{Event, ReleasedParts, RunOutcome};
use crate::graph::Graph;

/// The status of an instance.
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

impl Done {
    /// Whether the output was known already: it is from the cache, or an input that did not change.
    pub fn is_cached(&self) -> bool {
        self.fence.is_none() || self.usage.unchanged
    }

    /// Whether only a device knows the output, and whether there is one at all: it hands in a handle also
    /// where the stage failed.
    pub fn is_private(&self) -> bool {
        self.output.private_to.is_some()
    }
}

/// How many instances are in each state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Waiting for inputs.
    pub waiting: u32,
    /// Waiting for a runner, or for a retry.
    pub ready: u32,
    /// Running.
    pub running: u32,
    /// Executed and committed.
    pub succeeded: u32,
    /// Handed in by a device that alone knows what came of it.
    pub delivered: u32,
    /// Found in the cache, or inputs that did not change.
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
    /// The instance has another status.
    #[error("instance {instance} is {status}, so it cannot be {event}")]
    WrongStatus {
        /// The instance.
        instance: u32,
        /// Its status.
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
    /// Losses that the stage can have caused, since its latest checkpoint.
    stage_losses: u32,
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
    /// A cancelled run may have been resumed since: then it is live.
    was_cancelled: bool,
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
            stage_losses: 0,
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
            was_cancelled: false,
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

    /// The status of an instance.
    pub fn status(&self, instance: u32) -> &Status {
        &self.nodes[instance as usize].status
    }

    /// The status of every instance, in plan order.
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

    /// Attempts that were lost, by whatever cause.
    pub fn lost(&self, instance: u32) -> u32 {
        self.nodes[instance as usize].lost
    }

    /// Attempts that were lost by what the stage can have done, since it last saved progress.
    pub fn stage_losses(&self, instance: u32) -> u32 {
        self.nodes[instance as usize].stage_losses
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

    /// How many instances have each status.
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
            Self::Done(d) if d.is_cached() => "cached",
            Self::Done(d) if d.is_private() => "delivered",
            Self::Done(_) => "succeeded",
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
            Status::Done(d) if d.is_cached() => &mut self.cached,
            Status::Done(d) if d.is_private() => &mut self.delivered,
            Status::Done(_) => &mut self.succeeded,
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
            + self.succeeded
            + self.delivered
            + self.cached
            + self.skipped
            + self.failed
            + self.blocked
    }
}
