//! Outcomes that the engine has not acknowledged yet. An outcome is on disk before it is sent, and
//! stays until the engine has answered, so that a kill at any moment loses nothing but the attempt
//! that is running.

use std::path::PathBuf;

use headstart_protocol::wire::Commit;
use serde::{Deserialize, Serialize};

use crate::budget::Charge;
use crate::by_fence::ByFence;
use crate::error::DeviceError;
use crate::release::Upload;
use crate::state::State;

/// An outcome on its way.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PendingCommit {
    /// The message.
    pub commit: Commit,
    /// Files that it refers to, sent first.
    pub uploads: Vec<Upload>,
    /// What it says, for the journal.
    pub what: String,
    /// The numbers in it that count against the budget.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub charges: Vec<Charge>,
}

/// Outcomes on their way at most. A device that has so many does no other work until its engine took some.
pub(crate) const MOST_PENDING: usize = 1000;
/// Outcomes that the engine refused and that are kept at most: the newest.
const MOST_REFUSED: usize = 1000;
/// What the file of such a one ends in.
const REFUSED: &str = "refused";

/// The outbox of a device.
pub struct Outbox(ByFence<PendingCommit>);

impl Outbox {
    /// The outbox inside a state folder.
    pub fn new(state: &State) -> Self {
        Self(ByFence::new(state, "outbox"))
    }

    /// Puts an outcome in; it is on disk when this returns.
    ///
    /// # Errors
    /// [`DeviceError::State`].
    pub fn put(&self, pending: &PendingCommit) -> Result<(), DeviceError> {
        self.0.put(pending.commit.fence, pending)
    }

    /// All outcomes in the outbox, oldest first. One that cannot be read is set aside.
    ///
    /// # Errors
    /// [`DeviceError::State`].
    pub fn pending(&self) -> Result<Vec<PendingCommit>, DeviceError> {
        let found = self.0.fences()?.into_iter().map(|fence| self.0.get_or_set_aside(fence));
        found.filter_map(Result::transpose).collect()
    }

    /// The fences of all outcomes in the outbox.
    ///
    /// # Errors
    /// [`DeviceError::State`].
    pub fn fences(&self) -> Result<Vec<u64>, DeviceError> {
        self.0.fences()
    }

    /// Takes an outcome out that the engine has answered.
    ///
    /// # Errors
    /// [`DeviceError::State`].
    pub fn done(&self, fence: u64) -> Result<(), DeviceError> {
        self.0.remove(fence)
    }

    /// Sets an outcome aside that the engine will not take, ever.
    ///
    /// # Errors
    /// [`DeviceError::State`].
    pub fn set_aside(&self, fence: u64) -> Result<PathBuf, DeviceError> {
        let aside = self.0.set_aside(fence, REFUSED)?;
        self.0.keep_newest(REFUSED, MOST_REFUSED)?;
        Ok(aside)
    }
}
