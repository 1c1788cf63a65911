//! One attempt at a task that was claimed: downloads, the work, lease renewals beside it, its outcome.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use headstart_protocol::task::{Outcome, Task};
use headstart_protocol::wire::{Commit, Renew, Renewed};
use headstart_protocol::{Failure, FailureClass};
use tokio_util::sync::CancellationToken;

use crate::client::CallError;
use crate::context::{Control, Phase};
use crate::device::Made;
use crate::fetch::{Fetcher, Need};
use crate::history::{Ended, Entry};
use crate::link::Link;
use crate::outbox::PendingCommit;
use crate::residency;
use crate::work::Work;

/// How long a stage that was told to stop may take before it is left behind.
pub(crate) const GRACE: Duration = Duration::from_secs(20);

/// An attempt about to run.
pub(crate) struct Attempt {
    pub(crate) link: Arc<Link>,
    pub(crate) task: Task,
    pub(crate) lease: Duration,
    pub(crate) stop: CancellationToken,
}

/// An attempt that ended.
pub(crate) struct Finished {
    /// What the engine is told, unless another attempt took over.
    pub(crate) pending: Option<PendingCommit>,
    /// What the device remembers; nothing yet of a task that was taken over.
    pub(crate) entry: Option<Entry>,
    /// Whether private values were looked at, so that the engine must not see how it ended.
    pub(crate) hidden: bool,
}

/// Why an attempt was told to stop.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stop {
    Cancel,
    Superseded,
    Timeout,
    Shutdown,
}

impl Attempt {
    /// Runs to the end. Never fails: a failure is an outcome.
    pub(crate) async fn run(mut self) -> Finished {
        named_once(&mut self.task);
        let clock = Arc::clone(&self.link.env.clock);
        let started = clock.elapsed();
        let device = Arc::clone(&self.link.device);
        let _waited_for = device.public_work();
        let control = Arc::new(Control::default());
        let (result, stopped) = self.run_until_stopped(&control).await;
        self.finish(result, stopped, clock.elapsed().saturating_sub(started), &control)
    }

    async fn run_until_stopped(&self, control: &Arc<Control>) -> (Result<Made, Failure>, Option<Stop>) {
        let work = self.work(control.clone());
        let renewals = self.renew(control);
        let limit = self.task.timeout_ms.map_or(Duration::MAX, Duration::from_millis);
        // A sleep cannot be endless; a century is.
        let timeout = self.link.env.clock.sleep(limit.min(Duration::from_secs(3_000_000_000)));
        tokio::pin!(work, renewals, timeout);
        let why = tokio::select! {
            result = &mut work => return (result, None),
            why = &mut renewals => why,
            () = &mut timeout => Stop::Timeout,
            () = self.stop.cancelled() => Stop::Shutdown,
        };
        control.cancel();
        // A stage that ends well in spite of it has done its work.
        match headstart_env::timeout(&*self.link.env.clock, GRACE, work).await {
            Some(result) => (result, Some(why)),
            None => {
                let m = "the stage did not stop when told to, and is left behind";
                (Err(Failure::new(FailureClass::Cancelled, m)), Some(why))
            }
        }
    }

    async fn work(&self, control: Arc<Control>) -> Result<Made, Failure> {
        let device = self.link.device.clone();
        device.check(&self.task)?;
        let (link, env) = (&*self.link, &self.link.env);
        let fetcher = Fetcher { link, store: &device.store.public, control: &control };
        let mut taken_over = None;
        if residency::stated(&self.task).is_private()
            && let Some(gate) = &device.gate
        {
            let named = fetcher.named(&self.task).await?;
            let files = named.values().filter(|(need, _)| *need == Need::Files).map(|(_, manifest)| manifest);
            let decisions = device.decisions(&self.task)?;
            let needs = gate.needs(&self.task, &decisions, files)?;
            control.admit(gate.admit(&device.state, &self.task, &needs, &fetcher).await?);
            if device.takes_over(&self.task) {
                taken_over = Some(needs);
            } else {
                device.charge_decisions(&self.task, &decisions)?;
            }
        }
        let fetched = fetcher.everything(&self.task).await?;
        if let Some(needs) = taken_over {
            let made = device.take_over(&self.task, &needs)?;
            control.enter(Phase::TakenOver);
            return Ok(made);
        }
        if residency::stated(&self.task).is_private() {
            device.store.private_room.keep_reserve()?;
        }
        Work { device: &device, env, task: &self.task, fetched: &fetched, control: &control }.done().await
    }

    /// Keeps the lease at a third of its length, until the engine says to stop. An engine that is
    /// out of reach does not stop the work: the commit's fence decides whether it still counts.
    async fn renew(&self, control: &Control) -> Stop {
        let every = (self.lease / 3).max(Duration::from_millis(20));
        loop {
            self.link.env.clock.sleep(every).await;
            // Nothing of a private stage is told, not even how far it is.
            let renew = Renew { fence: self.task.fence, progress: control.public_progress() };
            match self.link.client.renew(&renew, &self.task.name).await {
                Ok(Renewed::Ok) => {}
                Ok(Renewed::Cancel) => return Stop::Cancel,
                Ok(Renewed::Superseded) => return Stop::Superseded,
                Err(CallError::Refused { status: 404, .. }) => return Stop::Superseded,
                Err(CallError::UnknownSession) => {
                    let _ = self.link.join().await;
                }
                Err(e) => tracing::debug!("renewal: {e}"),
            }
        }
    }

    fn finish(
        self,
        result: Result<Made, Failure>,
        stopped: Option<Stop>,
        took: Duration,
        control: &Control,
    ) -> Finished {
        let (task, device) = (&self.task, &self.link.device);
        let private = match control.phase() {
            Phase::Checking => residency::stated(task).is_private(),
            _ => !control.is_public(),
        };
        let result = result.map_err(|f| explained(task, f, stopped));
        // What the device has no room for says nothing about a public stage. What a private one needs depends on
        // private values, so it failed like any other.
        let hidden = private && control.phase() != Phase::Checking;
        let full = !hidden && matches!(&result, Err(f) if f.class == FailureClass::DiskFull);
        if hidden && matches!(&result, Err(f) if f.class == FailureClass::DiskFull) {
            device.store.private_room.spend_reserve();
        }
        let asked = matches!(stopped, Some(stop) if stop.is_asked());
        if private && !full && control.phase() == Phase::Running && !asked {
            device.note(task, result.as_ref().err());
        }
        let result = match result {
            // Whether it failed may depend on private values, so it is delivered like any other.
            Err(f) if private && !full && self.is_hidden(&f, stopped, control) => {
                device.failed(task, f, None)
            }
            other => other,
        };
        let superseded = stopped == Some(Stop::Superseded);
        let mut entry = Entry::new(task, private, took);
        if superseded {
            entry.ended = Ended::Superseded;
        }
        let mut charges = Vec::new();
        let (outcome, manifests, uploads) = match result {
            Ok(mut made) => {
                if !superseded {
                    entry.ended = ended(&made, control.phase());
                    entry.failure = made.failure;
                    entry.withheld = made.withheld;
                }
                charges = made.charges;
                if let Outcome::Succeeded { output, released, usage } = &mut made.outcome {
                    entry.artifact = Some(output.id);
                    entry.released = released.clone();
                    // How long a private `when` took would tell what it came to.
                    let hidden = task.when.is_some() || control.phase() == Phase::TakenOver;
                    usage.seconds = if private && hidden { 0.0 } else { took.as_secs_f64() };
                }
                (made.outcome, made.manifests, made.uploads)
            }
            Err(failure) => {
                if !superseded {
                    entry.failure = Some(failure.clone());
                }
                let whole = !private && device.allowed.failures;
                let told = if whole {
                    device.without_folders(failure)
                } else {
                    residency::for_the_engine(&failure, control.phase())
                };
                (Outcome::Failed { failure: told }, Default::default(), Vec::new())
            }
        };
        let what = summary(&task.name, &outcome, private);
        let commit = Commit { fence: task.fence, outcome, manifests };
        let pending = (!superseded).then_some(PendingCommit { commit, uploads, what, charges });
        let entry = (control.phase() != Phase::TakenOver).then_some(entry);
        Finished { pending, entry, hidden }
    }

    /// Whether the engine is not to learn that a private task failed: from the moment on at which private
    /// values were looked at, unless the device's owner allows it. That the engine or the owner stopped it
    /// depends on neither.
    fn is_hidden(&self, failure: &Failure, stopped: Option<Stop>, control: &Control) -> bool {
        let asked = matches!(failure.class, FailureClass::Cancelled | FailureClass::Lost)
            && matches!(stopped, Some(stop) if stop.is_asked());
        control.phase() != Phase::Checking && !self.link.device.allowed.failures && !asked
    }
}

impl Stop {
    /// Whether the engine or the owner asked for it.
    fn is_asked(self) -> bool {
        self != Self::Timeout
    }
}

/// Leaves out what the list of downloads names again.
fn named_once(task: &mut Task) {
    let mut seen = BTreeSet::new();
    task.prefetch.retain(|artifact| seen.insert(artifact.clone()));
}

/// A stage that is stopped reports a cancellation: what it is.
fn explained(task: &Task, failure: Failure, stopped: Option<Stop>) -> Failure {
    match (failure.class, stopped) {
        (FailureClass::Cancelled, Some(Stop::Timeout)) => {
            let limit = Duration::from_millis(task.timeout_ms.unwrap_or(0));
            headstart_runner::limit::exceeded(&task.name, limit)
        }
        (FailureClass::Cancelled, Some(Stop::Shutdown)) => {
            // Not the stage's doing: the engine offers it again, and counts nothing against it.
            Failure::new(FailureClass::Cancelled, "the device was stopped while it ran")
        }
        _ => failure,
    }
}

/// What became of a task, as its owner is told.
pub(crate) fn ended(made: &Made, phase: Phase) -> Ended {
    match (phase, &made.failure) {
        (Phase::Blocked, Some(_)) => Ended::Blocked,
        (Phase::Quarantined, Some(_)) => Ended::Quarantined,
        (_, Some(_)) => Ended::Failed,
        (_, None) if made.absent => Ended::Skipped,
        (_, None) => Ended::Succeeded,
    }
}

/// What a commit says, for the owner of the device.
fn summary(name: &str, outcome: &Outcome, private: bool) -> String {
    match outcome {
        Outcome::Skipped => format!("{name}: skipped"),
        Outcome::Failed { failure } => format!("{name}: failed ({})", failure.message),
        Outcome::Succeeded { .. } if !private => {
            format!("{name}: succeeded; made from public data alone and sent whole")
        }
        Outcome::Succeeded { released, .. } if released.is_empty() => {
            format!("{name}: delivered; the result stays here, the engine gets an opaque handle")
        }
        Outcome::Succeeded { released, .. } => {
            let parts = released.iter().map(|(path, part)| {
                let whole = if path.is_empty() { "all of it" } else { path };
                match part {
                    headstart_protocol::task::Released::Json(v) => format!("{whole} = {v}"),
                    headstart_protocol::task::Released::Artifact(a) if a.private_to.is_none() => {
                        format!("{whole} = {:?} {}", a.ty, a.id.short())
                    }
                    headstart_protocol::task::Released::Artifact(a) => format!("{whole} = {:?}", a.ty),
                }
            });
            format!("{name}: delivered; released {}", parts.collect::<Vec<_>>().join(", "))
        }
    }
}
