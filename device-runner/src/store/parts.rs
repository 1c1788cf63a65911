//! How the disk is divided: a part for what the engine waits for, a part for private work.
//!
//! Decided when the device starts, before any private work runs, and kept. What is free later depends on how much
//! private work wrote, and an engine that fills its part to the last byte would read that off.

use headstart_content::read_bounded;
use headstart_disk::files;
use headstart_protocol::text::bytes;
use serde::{Deserialize, Serialize};

use crate::error::DeviceError;
use crate::state::{State, write_durably};

/// Bytes that public work may take up, where the owner says nothing else.
pub const DEFAULT_DISK_QUOTA: u64 = 20 << 30;
/// Bytes that private work may take up, where the owner says nothing else.
pub const DEFAULT_PRIVATE_QUOTA: u64 = 10 << 30;
/// Bytes of the disk beside both parts: for records (the queue, journals, what is quarantined), and for whoever
/// else uses the disk.
pub(super) const RESERVE: u64 = 1 << 30;
/// What a file takes beside its content: a block, its name.
pub(super) const FILE: u64 = 4 << 10;
/// Bytes of the file at most.
const SMALL: u64 = 4096;

/// Bytes of the disk for each kind of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parts {
    /// For downloads, what public stages make and write while they run, and messages on their way.
    pub public: u64,
    /// For what private stages make, their progress, and their files while they run.
    pub private: u64,
}

/// What was decided, and from what.
#[derive(Debug, Serialize, Deserialize)]
struct Decided {
    parts: Parts,
    /// What the owner allows.
    quotas: Parts,
    /// Bytes that the disk had for both; none where the system did not say.
    there: Option<u64>,
}

impl Parts {
    /// The owner's quotas as they are, wherever the disk ends.
    pub fn new(public: u64, private: u64) -> Self {
        Self { public, private }
    }

    /// Those of a disk that has so many bytes for both.
    fn within(self, there: Option<u64>) -> Self {
        let Some(there) = there else { return self };
        let private = self.private.min(there / 2);
        Self { public: self.public.min(there - private), private }
    }

    /// The parts under these quotas: as they were decided before, unless the owner changed the quotas, or other
    /// programs took or freed more of the disk than private work could.
    ///
    /// # Errors
    /// [`DeviceError::State`] where the decision cannot be read or kept.
    pub fn settle(state: &State, quotas: Self) -> Result<Self, DeviceError> {
        let at = state.at("parts.json");
        let there = state
            .disk()
            .free_space(state.root())
            .ok()
            .map(|free| free.saturating_add(files::taken_up(state.root(), FILE)).saturating_sub(RESERVE));
        let before: Option<Decided> = read_bounded(&at, SMALL)?.and_then(|text| {
            let read = serde_json::from_slice(&text);
            read.inspect_err(|e| tracing::warn!("{}: {e}: the disk is divided again", at.display())).ok()
        });
        if let Some(before) = before.filter(|b| b.quotas == quotas && !b.is_over(there)) {
            return Ok(before.parts);
        }
        let parts = quotas.within(there);
        if parts != quotas {
            tracing::warn!(
                "the disk has {} for this device: {} for public work, {} for private work; free some space and \
                 start the device again for more",
                bytes(there.unwrap_or(0)),
                bytes(parts.public),
                bytes(parts.private)
            );
        }
        let decided = Decided { parts, quotas, there };
        let json = serde_json::to_vec(&decided).map_err(|e| DeviceError::Internal(e.to_string()))?;
        write_durably(&**state.disk(), &at, &json)?;
        Ok(parts)
    }
}

impl Decided {
    /// Whether the disk is another one now. What private work wrote may be counted a little differently than it
    /// takes up, but never by more than there is for it and for records.
    fn is_over(&self, there: Option<u64>) -> bool {
        let (Some(then), Some(now)) = (self.there, there) else {
            return self.there.is_none() && there.is_some();
        };
        let others = then.abs_diff(now) > self.parts.private.saturating_add(RESERVE);
        others && self.quotas.within(there) != self.parts
    }
}

#[cfg(test)]
mod tests {
    use headstart_disk::Disk;
    use headstart_disk::simulated::SimulatedDisk;

    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn both_parts_and_the_reserve_fit_onto_the_disk() {
        let quotas = Parts::new(DEFAULT_DISK_QUOTA, DEFAULT_PRIVATE_QUOTA);
        assert_eq!(quotas.within(None), quotas);
        assert_eq!(quotas.within(Some(1 << 40)), quotas);
        assert_eq!(quotas.within(Some(2 << 30)), Parts::new(1 << 30, 1 << 30));
        assert_eq!(quotas.within(Some(25 << 30)), Parts::new(15 << 30, 10 << 30));
        assert_eq!(quotas.within(Some(0)), Parts::new(0, 0));
    }

    #[test]
    fn the_parts_stay_as_they_were_whatever_private_work_wrote() {
        let dir = tempfile::tempdir().expect("tempdir");
        let disk = SimulatedDisk::new();
        disk.set_free(RESERVE + 100 * MIB);
        let state = State::open(dir.path(), disk.shared()).expect("opens");
        let quotas = Parts::new(1 << 40, 1 << 40);
        let first = Parts::settle(&state, quotas).expect("writes");
        assert!(first.public.abs_diff(50 * MIB) < MIB && first.private.abs_diff(50 * MIB) < MIB, "{first:?}");
        // What is written is not free any more, and is not counted: the worst that accounting could do.
        disk.set_free(RESERVE + 55 * MIB);
        assert_eq!(Parts::settle(&state, quotas).expect("reads"), first);
        // Other quotas, and a disk that others filled or emptied, are other parts.
        let lower = Parts::settle(&state, Parts::new(10 * MIB, 10 * MIB)).expect("writes");
        assert_eq!(lower, Parts::new(10 * MIB, 10 * MIB));
        disk.set_free(MIB);
        assert!(Parts::settle(&state, quotas).expect("writes").public < MIB);
        disk.set_free(1 << 42);
        assert_eq!(Parts::settle(&state, quotas).expect("writes"), quotas);
        std::fs::write(state.at("parts.json"), "{").expect("writes");
        assert_eq!(Parts::settle(&state, quotas).expect("decides again"), quotas);
    }
}
