//! One attempt: downloads, the stage on its own thread, lease renewals beside it, its outcome.

use std::sync::Arc;
use std::time::Duration;

use headstart_protocol::task::{Outcome, Task};
use headstart_protocol::wire::{Commit, Renew, Renewed};
use headstart_protocol::{Failure, FailureClass};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::client::CallError;
use crate::context::Control;
use crate::device::Made;
use crate::fetch::Fetcher;
use crate::history::{Ended, Entry};
use crate::link::Link;
use crate::outbox::PendingCommit;
use crate::residency;

/// How long a stage that was told to stop may take before it is left behind.
const GRACE: Duration = Duration::from_secs(20);

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
    /// What the device remembers.
    pub(crate) entry: Entry,
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
    pub(crate) async fn run(self) -> Finished {
        let clock = Arc::clone(&self.link.env.clock);
        let started = clock.elapsed();
        let control = Arc::new(Control::default());
        let (result, stopped) = self.run_until_stopped(&control).await;
        self.finish(result, stopped, clock.elapsed().saturating_sub(started))
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
        let (client, env) = (&self.link.client, &self.link.env);
        let fetcher = Fetcher { client, store: &device.store.public, control: &control, env };
        let fetched = fetcher.everything(&self.task).await?;
        let (send, receive) = oneshot::channel();
        let task = self.task.clone();
        let thread = std::thread::Builder::new().name("stage".into()).stack_size(8 << 20).spawn(move || {
            let _ = send.send(device.work(&task, &fetched, &control));
        });
        let internal = |m: String| Failure::new(FailureClass::Internal, m);
        thread.map_err(|e| internal(format!("no thread for the stage: {e}")))?;
        receive.await.unwrap_or_else(|_| Err(internal("the stage's thread died".into())))
    }

    /// Keeps the lease at a third of its length, until the engine says to stop. An engine that is
    /// out of reach does not stop the work: the commit's fence decides whether it still counts.
    async fn renew(&self, control: &Control) -> Stop {
        let private = residency::is_private(&self.task);
        let every = (self.lease / 3).max(Duration::from_millis(20));
        loop {
            self.link.env.clock.sleep(every).await;
            // Nothing of a private stage is told, not even how far it is.
            let progress = if private { None } else { control.progress() };
            let renew = Renew { fence: self.task.fence, progress };
            match self.link.client.renew(&renew, &self.task.name).await {
                Ok(Renewed::Ok) => {}
                Ok(Renewed::Cancel) => return Stop::Cancel,
                Ok(Renewed::Superseded) => return Stop::Superseded,
                Err(CallError::Refused { status: 404, .. }) => return Stop::Superseded,
                Err(CallError::UnknownToken) => {
                    let _ = self.link.join().await;
                }
                Err(e) => tracing::debug!("renewal: {e}"),
            }
        }
    }

    fn finish(self, result: Result<Made, Failure>, stopped: Option<Stop>, took: Duration) -> Finished {
        let task = self.task;
        let private = residency::is_private(&task);
        let result = result.map_err(|f| match (f.class, stopped) {
            (FailureClass::Cancelled, Some(Stop::Timeout)) => {
                let limit = Duration::from_millis(task.timeout_ms.unwrap_or(0));
                headstart_runner::limit::exceeded(&task.name, limit)
            }
            (FailureClass::Cancelled, Some(Stop::Shutdown)) => {
                Failure::new(FailureClass::Lost, "the device was stopped while it ran")
            }
            _ => f,
        });
        let superseded = stopped == Some(Stop::Superseded);
        let mut entry = Entry {
            time: jiff::Timestamp::now(),
            run: task.run.clone(),
            name: task.name.clone(),
            kind: task.kind.clone(),
            ty: task.ty.clone(),
            private,
            ended: if superseded { Ended::Superseded } else { Ended::Failed },
            artifact: None,
            seconds: took.as_secs_f64(),
            released: Default::default(),
            failure: None,
        };
        let (outcome, manifests, uploads) = match result {
            Ok(mut made) => {
                if !superseded {
                    entry.ended = if made.absent { Ended::Skipped } else { Ended::Succeeded };
                }
                if let Outcome::Done { output, released, usage } = &mut made.outcome {
                    entry.artifact = Some(output.id);
                    entry.released = released.clone();
                    // How long a private `when` took would tell what it came to.
                    usage.seconds = if private && task.when.is_some() { 0.0 } else { took.as_secs_f64() };
                }
                (made.outcome, made.manifests, made.uploads)
            }
            Err(failure) => {
                if !superseded {
                    entry.failure = Some(failure.clone());
                }
                let told = if private {
                    residency::for_the_engine(&failure)
                } else {
                    self.link.device.without_folders(failure)
                };
                (Outcome::Failed { failure: told }, Default::default(), Vec::new())
            }
        };
        let what = summary(&task.name, &outcome, private);
        let commit = Commit { fence: task.fence, outcome, manifests };
        let pending = (!superseded).then_some(PendingCommit { commit, uploads, what });
        Finished { pending, entry }
    }
}

/// What a commit says, for the owner of the device.
fn summary(name: &str, outcome: &Outcome, private: bool) -> String {
    match outcome {
        Outcome::Skipped => format!("{name}: skipped"),
        Outcome::Failed { failure } => format!("{name}: failed ({})", failure.message),
        Outcome::Done { .. } if !private => {
            format!("{name}: succeeded; made from public data alone and sent whole")
        }
        Outcome::Done { released, .. } if released.is_empty() => {
            format!("{name}: delivered; the result stays here, the engine gets an opaque handle")
        }
        Outcome::Done { released, .. } => {
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
