//! Taking a private task over: the engine is told at once, and the device works on it when it comes to it.
//!
//! Only where nothing may leave. There what the engine learns of a private task is a handle and that it was
//! delivered, so both can follow from the task alone, and so can the moment: no time tells how long private
//! work took, or whether there was any.

use headstart_protocol::kinds;
use headstart_protocol::task::{Outcome, Task, Usage};
use headstart_protocol::{ArtifactRef, ArtifactType, Digest, Failure, FailureClass};

use crate::device::{Device, Made};
use crate::error::DeviceError;
use crate::gate::Needs;
use crate::history;
use crate::queue::{MOST_WAITING, Queued};
use crate::residency::{self, reads_paths};
use crate::store::Held;

impl Device {
    /// Whether a task is taken over.
    pub(crate) fn takes_over(&self, task: &Task) -> bool {
        self.gate.is_some() && self.allowed.lets_nothing_out() && residency::stated(task).is_private()
    }

    /// The handle of whatever comes of a task. What reads files has another one each time, since they may have
    /// changed: what was made from the old ones is not to be taken for what is made from the new ones.
    fn promised(&self, task: &Task) -> Digest {
        let reads = reads_paths(task)
            || task.program.is_some()
            || kinds::find(&task.kind).is_none_or(|kind| !kind.cacheable);
        match reads {
            true => self.handle(task, &format!("taken over {}", task.fence)),
            false => self.handle(task, "taken over"),
        }
    }

    /// Takes a task over whose public inputs are here. When this returns, it is on disk that its result will be
    /// found under the handle.
    ///
    /// # Errors
    /// What keeps the device from writing that down; [`FailureClass::Internal`] for a task whose output can be
    /// no artifact. Neither depends on private values.
    pub(crate) fn take_over(&self, task: &Task, needs: &Needs) -> Result<Made, Failure> {
        let handle = self.promised(task);
        let outcome = self.delivered_as(task, handle)?;
        // Private work that runs beside this may have filled the disk, and must not show here.
        let (private, room) = (&self.store.private, &self.store.private_room);
        let full = |f: &Failure| f.class == FailureClass::DiskFull;
        if private.get(&handle).is_none() {
            // How many there are follows from the tasks alone, so that a task may be refused for it.
            let most = room.most_handles();
            if private.holds(most) {
                let m = format!("results of {most} private tasks are kept on this device");
                return Err(
                    Failure::input(m).help("remove old ones from the folder `private` of its state folder")
                );
            }
            let held = Held { waits: true, ..Held::nothing(task) };
            room.with_reserve(full, || private.keep(&handle, &held, None, self.state.root()))?;
        }
        let queued = Queued {
            task: Task { proposal: None, ..task.clone() },
            handle,
            since: jiff::Timestamp::now(),
            models: needs.models().collect(),
            dropped: false,
        };
        room.with_reserve(full, || self.queue.put(&queued).map_err(not_kept))?;
        Ok(Made::of(outcome))
    }

    /// A task for which the queue had no room: it is not run, which only this device knows.
    pub(crate) fn too_many(&self, queued: &Queued) {
        let m = format!("not run: {MOST_WAITING} tasks were waiting, or as many as there is room for");
        let failure = Failure::new(FailureClass::Transient, m)
            .help("`headstart-device retry` has the engine ask for it again");
        let task = &queued.task;
        if matches!(self.made_before(task, queued.handle), Ok(Some(_))) {
            // The same task as one that was run.
            return;
        }
        let made = self.failed(task, failure.clone(), Some(queued.handle));
        if let Err(e) = made {
            tracing::error!("{}: {e}", task.name);
        }
        tracing::error!("{}: {}", task.name, failure.message);
        let mut entry = history::Entry::new(task, true, std::time::Duration::ZERO);
        (entry.failure, entry.artifact) = (Some(failure), Some(queued.handle));
        self.remember(&entry);
    }

    /// What came of a task when it was worked on before under the same handle, so that nothing is left to do.
    ///
    /// # Errors
    /// [`FailureClass::Internal`] for a task whose output can be no artifact.
    pub(crate) fn made_before(&self, task: &Task, promised: Digest) -> Result<Option<Made>, Failure> {
        let made = self.store.private.get(&promised).is_some_and(|held| held.manifest.is_some());
        Ok(if made { Some(Made::of(self.delivered_as(task, promised)?)) } else { None })
    }

    /// A handle, as the engine is told.
    pub(crate) fn delivered_as(&self, task: &Task, handle: Digest) -> Result<Outcome, Failure> {
        let ty = ArtifactType::of(&task.ty).ok_or_else(|| {
            Failure::new(FailureClass::Internal, format!("a {} cannot be a stage's output", task.ty))
        })?;
        let output = ArtifactRef { id: handle, ty, private_to: Some(self.name.clone()) };
        Ok(Outcome::Succeeded { output, released: Default::default(), usage: Usage::default() })
    }

    /// Adds to the history. A history that cannot be written stops no work.
    pub(crate) fn remember(&self, entry: &history::Entry) {
        let at = self.state.at("history.jsonl");
        if let Err(e) = history::append(self.state.disk(), &at, entry) {
            tracing::error!("{}: {e}", entry.name);
        }
    }
}

/// Why a task could not be taken over.
fn not_kept(e: DeviceError) -> Failure {
    match e {
        DeviceError::State(e) => e.into(),
        other => Failure::new(FailureClass::Internal, other.to_string()),
    }
}
