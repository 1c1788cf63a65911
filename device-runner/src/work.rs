//! The work of one attempt: the stage on a thread of its own, and again where its failure may pass.

use std::sync::Arc;
use std::time::Duration;

use headstart_env::Env;
use headstart_env::backoff::Backoff;
use headstart_protocol::task::Task;
use headstart_protocol::{ArtifactRef, Failure, FailureClass};
use tokio::sync::oneshot;

use crate::context::{Control, Phase};
use crate::device::{Device, Made};
use crate::store::Room;

/// Pauses before a private stage is tried again after a failure that may pass, and how often it is.
const RETRY: Backoff =
    Backoff { first: Duration::from_secs(1), factor: 4.0, longest: Duration::from_secs(60), tries: Some(2) };

/// How often the room is checked that a running stage takes up on the disk.
const ROOM_CHECK: Duration = Duration::from_millis(200);

/// A task whose public inputs are here.
pub(crate) struct Work<'a> {
    pub(crate) device: &'a Arc<Device>,
    pub(crate) env: &'a Env,
    pub(crate) task: &'a Task,
    /// Public artifacts that were downloaded for it.
    pub(crate) fetched: &'a [ArtifactRef],
    pub(crate) control: &'a Arc<Control>,
}

impl Work<'_> {
    /// Does it.
    ///
    /// # Errors
    /// Why it failed last.
    pub(crate) async fn done(&self) -> Result<Made, Failure> {
        let Self { task, control, .. } = self;
        if crate::residency::stated(task).is_private()
            && let Err(failure) = self.device.check_quarantine(task)
        {
            control.enter(Phase::Quarantined);
            return Err(failure);
        }
        let mut pauses = RETRY.pauses(&*self.env.random);
        loop {
            let result = self.once().await;
            // The engine cannot see that a private task failed, so it cannot try again.
            let may_pass = |class| matches!(class, FailureClass::Transient | FailureClass::Lost);
            let again = matches!(&result, Err(f) if may_pass(f.class))
                && control.phase() == Phase::Running
                && !control.is_public()
                && !control.cancelled();
            let Some(pause) = pauses.next().filter(|_| again) else { return result };
            if let Err(failure) = &result {
                tracing::warn!("{}: {failure}; trying again in {:.0} s", task.name, pause.as_secs_f64());
            }
            control.pause(&*self.env.clock, pause).await;
            if control.cancelled() {
                return Err(Failure::new(FailureClass::Cancelled, "stopped before it was tried again"));
            }
        }
    }

    /// Runs the stage once, on a thread of its own.
    async fn once(&self) -> Result<Made, Failure> {
        let (send, receive) = oneshot::channel();
        let (device, task) = (Arc::clone(self.device), self.task.clone());
        let (fetched, control) = (self.fetched.to_vec(), Arc::clone(self.control));
        let thread = std::thread::Builder::new().name("stage".into()).stack_size(8 << 20).spawn(move || {
            let _ = send.send(device.work(&task, &fetched, &control));
        });
        let internal = |m: String| Failure::new(FailureClass::Internal, m);
        thread.map_err(|e| internal(format!("no thread for the stage: {e}")))?;
        tokio::pin!(receive);
        let mut over = None;
        let mut share = None;
        let ended = loop {
            tokio::select! {
                ended = &mut receive => break ended,
                () = self.env.clock.sleep(ROOM_CHECK), if over.is_none() => over = self.too_much(&mut share),
            }
        };
        let result = ended.unwrap_or_else(|_| Err(internal("the stage's thread died".into())));
        match over {
            Some(over) => result.map_err(|_| over),
            None => result,
        }
    }

    /// Stops a stage that takes up more of the disk than there is for its kind of work.
    fn too_much(&self, share: &mut Option<Share>) -> Option<Failure> {
        if self.control.phase() != Phase::Running {
            return None;
        }
        let store = &self.device.store;
        let share = share.get_or_insert_with(|| match self.control.is_public() {
            true => Share::Public(store.public.room()),
            false => Share::Private { settled: store.private_room.settled() },
        });
        let checked = match share {
            Share::Public(room) => room.check(),
            Share::Private { settled } => store.private_room.check_running(*settled, 0),
        };
        let over = checked.err()?;
        self.control.cancel();
        Some(over)
    }
}

/// The part of the disk that a running stage uses, and what else was in it when it began.
enum Share {
    Public(Room),
    Private { settled: u64 },
}
