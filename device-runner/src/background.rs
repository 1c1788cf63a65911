//! Works on the tasks that were taken over, one after the other, beside whatever the engine asks for.
//!
//! Nothing here talks to the engine, and nothing that happens here ends the device or shows in its messages.

use std::sync::Arc;
use std::time::Duration;

use headstart_env::Env;
use headstart_inspect::Part;
use headstart_protocol::{Digest, Failure, FailureClass, Manifest};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::attempt::{GRACE, ended};
use crate::context::{Control, Phase};
use crate::device::{Device, Made};
use crate::error::DeviceError;
use crate::gate::{Gate, Later, Models};
use crate::history::Entry;
use crate::queue::Queued;
use crate::store::{Public, missing_public};
use crate::work::Work;

/// How soon it is noticed that public work is over.
const NOTICE: Duration = Duration::from_millis(50);

/// How soon it is looked again whether the disk has room.
const ROOM: Duration = Duration::from_secs(30);

/// What works the queue off.
pub(crate) struct Background {
    pub(crate) device: Arc<Device>,
    pub(crate) env: Env,
    /// Stop at once; what is not done stays in the queue.
    pub(crate) stop: CancellationToken,
    /// Stop once the queue is empty.
    pub(crate) leave: CancellationToken,
    /// Something came into the queue.
    pub(crate) wake: Arc<Notify>,
}

/// What came of the tasks that were worked on.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Worked {
    pub(crate) done: usize,
    pub(crate) failed: usize,
}

impl Background {
    /// Works until it is told to stop.
    ///
    /// # Errors
    /// [`DeviceError::State`] where the queue cannot be read: the rest stays in it.
    pub(crate) async fn live(self) -> Result<Worked, DeviceError> {
        let queue = &self.device.queue;
        let mut worked = Worked::default();
        while !self.stop.is_cancelled() {
            let Some(queued) = queue.first()? else {
                if self.leave.is_cancelled() {
                    break;
                }
                tokio::select! {
                    () = self.wake.notified() => {}
                    () = self.leave.cancelled() => {}
                    () = self.stop.cancelled() => {}
                }
                continue;
            };
            if let Err(e) = self.device.store.private_room.keep_reserve() {
                if self.leave.is_cancelled() {
                    return Err(e.into());
                }
                tracing::error!("what was delivered waits: {e}; {}", headstart_disk::FULL_HELP);
                self.pause(ROOM).await;
                continue;
            }
            // Public work goes first: how long it takes is not to depend on what else there is to do.
            if self.device.has_public_work() {
                self.env.clock.sleep(NOTICE).await;
                continue;
            }
            if queued.dropped {
                worked.failed += 1;
                self.device.too_many(&queued);
                queue.done(queued.task.fence)?;
                continue;
            }
            let Some(entry) = self.work(&queued).await else { break };
            let help = |f: &Failure| f.help.as_ref().map(|h| format!(" ({h})")).unwrap_or_default();
            match &entry.failure {
                Some(f) => {
                    worked.failed += 1;
                    tracing::error!("{}: failed: {}{}", entry.name, f.message, help(f));
                }
                None => {
                    worked.done += 1;
                    tracing::info!("{}: worked on for {:.1} s", entry.name, entry.seconds);
                }
            }
            self.device.remember(&entry);
            queue.done(queued.task.fence)?;
        }
        Ok(worked)
    }

    async fn pause(&self, pause: Duration) {
        tokio::select! {
            () = self.env.clock.sleep(pause) => {}
            () = self.leave.cancelled() => {}
            () = self.stop.cancelled() => {}
        }
    }

    /// Works on a task; nothing where it was told to stop before it came to an end.
    async fn work(&self, queued: &Queued) -> Option<Entry> {
        let (device, task) = (&self.device, &queued.task);
        tracing::info!("{}: started ({}), already delivered", task.name, task.kind);
        let control = Arc::new(Control::taken_over(queued.handle));
        let started = self.env.clock.elapsed();
        let result = self.until_stopped(queued, &control).await;
        let took = self.env.clock.elapsed().saturating_sub(started);
        let stopped = |f: &Failure| matches!(f.class, FailureClass::Cancelled | FailureClass::Lost);
        if self.stop.is_cancelled() && result.as_ref().is_err_and(stopped) {
            return None;
        }
        if control.phase() == Phase::Running {
            device.note(task, result.as_ref().err());
        }
        let mut entry = Entry::new(task, true, took);
        entry.artifact = Some(queued.handle);
        let made = result.or_else(|failure| {
            if failure.class == FailureClass::DiskFull {
                device.store.private_room.spend_reserve();
            }
            entry.failure = Some(failure.clone());
            device.failed(task, failure, Some(queued.handle))
        });
        match made {
            Ok(made) => {
                entry.ended = ended(&made, control.phase());
                entry.failure = made.failure;
            }
            Err(failure) => entry.failure = Some(failure),
        }
        Some(entry)
    }

    async fn until_stopped(&self, queued: &Queued, control: &Arc<Control>) -> Result<Made, Failure> {
        let work = self.once(queued, control);
        tokio::pin!(work);
        let late = tokio::select! {
            result = &mut work => return result,
            () = self.timeout(queued) => true,
            () = self.stop.cancelled() => false,
        };
        control.cancel();
        let result = headstart_env::timeout(&*self.env.clock, GRACE, work).await.unwrap_or_else(|| {
            let m = "the stage did not stop when told to, and is left behind";
            Err(Failure::new(FailureClass::Cancelled, m))
        });
        let limit = Duration::from_millis(queued.task.timeout_ms.unwrap_or(0));
        match result {
            Err(f) if f.class == FailureClass::Cancelled && late => {
                Err(headstart_runner::limit::exceeded(&queued.task.name, limit))
            }
            other => other,
        }
    }

    /// Waits until the task had all the time that it may have. While public work pauses it, none passes.
    async fn timeout(&self, queued: &Queued) {
        let Some(limit) = queued.task.timeout_ms else { return std::future::pending().await };
        let mut left = Duration::from_millis(limit);
        while !left.is_zero() {
            let step = left.min(NOTICE);
            self.env.clock.sleep(step).await;
            if !self.device.has_public_work() {
                left -= step;
            }
        }
    }

    async fn once(&self, queued: &Queued, control: &Arc<Control>) -> Result<Made, Failure> {
        let (device, task) = (&self.device, &queued.task);
        if let Some(made) = device.made_before(task, queued.handle)? {
            return Ok(made);
        }
        if let Some(gate) = &device.gate {
            let store = &device.store.public;
            let manifest = |id: &Digest| store.manifest(id).ok_or_else(|| missing_public(id));
            let models = queued.models.iter().map(manifest).collect::<Result<Vec<_>, _>>()?;
            let needs = gate.needs(task, &device.decisions(task)?, &models)?;
            // Its owner may have taken something back since.
            control.admit(gate.admit(&device.state, task, &needs, &Here(store)).await?);
        }
        Work { device, env: &self.env, task, fetched: &[], control }.done().await
    }
}

/// Public artifacts that are on the device.
struct Here<'a>(&'a Public);

impl Models for Here<'_> {
    fn manifest<'a>(&'a self, id: &'a Digest) -> Later<'a, Manifest> {
        Box::pin(async move { self.0.manifest(id).ok_or_else(|| missing_public(id)) })
    }

    fn parts<'a>(&'a self, gate: &'a Gate, manifest: &'a Manifest) -> Later<'a, Vec<Part>> {
        Box::pin(async move { gate.parts(self.0, manifest) })
    }
}
