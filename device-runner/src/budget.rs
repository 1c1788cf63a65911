//! How many numbers may leave the device, ever, and which did.
//!
//! The budget is that of a data folder: each number that leaves says a little about what is in it, whoever
//! asked for it. A number is charged once it is on its way: its charge is part of the pending commit in the
//! outbox, so that both are on disk or neither is, and the ledger takes it over before anything is sent.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use headstart_content::read_bounded;
use headstart_disk::Disk;
use headstart_protocol::Digest;
use serde::{Deserialize, Serialize};

use crate::contract::Contracts;
use crate::error::DeviceError;
use crate::state::{State, hold, write_durably};

/// Rows below which nothing leaves that was computed over them, unless the owner says otherwise.
const MIN_ROWS: u64 = 20;
/// Numbers that may leave a data folder, unless its owner says otherwise.
const BUDGET: u64 = 50;
/// Bytes of the ledger at most.
const LARGEST: u64 = 256 << 20;

/// How much may leave a device, whatever may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReleaseLimits {
    /// A number that was computed over fewer private rows stays.
    pub min_rows: u64,
    /// Numbers that may leave a data folder in all.
    pub budget: u64,
}

impl Default for ReleaseLimits {
    fn default() -> Self {
        Self { min_rows: MIN_ROWS, budget: BUDGET }
    }
}

/// A number that left.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Charge {
    /// The handle of the result that it is part of.
    pub handle: Digest,
    /// Which number of it, as a path.
    pub number: String,
    /// The stage, as in the pipeline.
    pub name: String,
    /// The run.
    pub run: String,
}

impl Charge {
    /// Whether it is the same number of the same result.
    fn is(&self, other: &Self) -> bool {
        (self.handle, &self.number) == (other.handle, &other.number)
    }
}

/// What was spent of a data folder's budget.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Spent {
    /// The budget under which the device ran last.
    pub budget: u64,
    /// Every number that left since the owner set it back last.
    pub charges: Vec<Charge>,
}

/// What left, by data folder.
pub struct Ledger {
    at: PathBuf,
    lock: PathBuf,
    disk: Arc<dyn Disk>,
}

impl Ledger {
    /// The ledger in a state folder.
    pub fn new(state: &State) -> Self {
        let disk = Arc::clone(state.disk());
        Self { at: state.at("budget.json"), lock: state.at("budget.lock"), disk }
    }

    /// Everything, by data folder.
    ///
    /// # Errors
    /// [`DeviceError::State`] where the ledger cannot be read or is damaged: then nothing leaves.
    pub fn all(&self) -> Result<BTreeMap<PathBuf, Spent>, DeviceError> {
        let Some(bytes) = read_bounded(&self.at, LARGEST)? else { return Ok(BTreeMap::new()) };
        let damaged = |e| std::io::Error::new(std::io::ErrorKind::InvalidData, e);
        serde_json::from_slice(&bytes).map_err(|e| DeviceError::state(&self.at, damaged(e)))
    }

    /// The charges that were not made before, if the budget suffices for all of them.
    ///
    /// # Errors
    /// [`DeviceError::State`].
    pub fn affords(
        &self,
        data: &Path,
        budget: u64,
        taken: &[Charge],
        charges: Vec<Charge>,
    ) -> Result<Option<Vec<Charge>>, DeviceError> {
        let spent = self.all()?.remove(data).unwrap_or_default().charges;
        let known = |c: &Charge| spent.iter().chain(taken).any(|old| old.is(c));
        let new: Vec<Charge> = charges.into_iter().filter(|c| !known(c)).collect();
        let fits = (spent.len() + taken.len() + new.len()) as u64 <= budget;
        Ok((new.is_empty() || fits).then_some(new))
    }

    /// Writes charges down; those that are there already are not charged again.
    ///
    /// # Errors
    /// [`DeviceError::State`]; then what they are for must not be sent.
    pub fn charge(&self, data: &Path, budget: u64, charges: &[Charge]) -> Result<(), DeviceError> {
        let _held = hold(&*self.disk, &self.lock)?;
        let mut all = self.all()?;
        let spent = all.entry(data.to_owned()).or_default();
        let before = spent.clone();
        spent.budget = budget;
        for charge in charges {
            if !spent.charges.iter().any(|old| old.is(charge)) {
                spent.charges.push(charge.clone());
            }
        }
        if *spent == before { Ok(()) } else { self.write(&all) }
    }

    /// Writes charges down if the budget suffices for all that are new.
    ///
    /// # Errors
    /// [`DeviceError::State`]; then what they are for must not happen.
    pub fn spend(&self, data: &Path, budget: u64, charges: Vec<Charge>) -> Result<bool, DeviceError> {
        let Some(new) = self.affords(data, budget, &[], charges)? else { return Ok(false) };
        self.charge(data, budget, &new).map(|()| true)
    }

    /// Forgets what was spent: the whole budget may be spent again.
    ///
    /// # Errors
    /// [`DeviceError::State`].
    pub fn reset(&self) -> Result<(), DeviceError> {
        let _held = hold(&*self.disk, &self.lock)?;
        let mut all = self.all()?;
        all.values_mut().for_each(|spent| spent.charges.clear());
        self.write(&all)
    }

    fn write(&self, all: &BTreeMap<PathBuf, Spent>) -> Result<(), DeviceError> {
        let json = serde_json::to_vec_pretty(all).map_err(|e| DeviceError::Internal(e.to_string()))?;
        write_durably(&*self.disk, &self.at, &json)
    }
}

/// Forgets what was spent on the device of a state folder.
///
/// # Errors
/// [`DeviceError::Input`] where `state` is not a device's folder, [`DeviceError::State`].
pub fn reset(state: &Path) -> Result<(), DeviceError> {
    let state = State::look(state)?;
    Ledger::new(&state).reset()?;
    // The engine offers again what was refused.
    Contracts::new(&state).changed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_charged_once_and_the_budget_lasts() {
        let dir = tempfile::tempdir().expect("tempdir");
        let state = State::open(dir.path(), Arc::new(headstart_disk::SystemDisk)).expect("opens");
        let (ledger, data) = (Ledger::new(&state), Path::new("/data"));
        let charge = |result: &str, number: &str| Charge {
            handle: Digest::of(result.as_bytes()),
            number: number.to_owned(),
            name: "scores".into(),
            run: "r".into(),
        };
        let fits = |charges: &[Charge]| {
            let new = ledger.affords(data, 3, &[], charges.to_vec()).expect("reads");
            new.map(|new| {
                ledger.charge(data, 3, &new).expect("writes");
                new.len()
            })
        };
        assert_eq!(fits(&[charge("a", "loss"), charge("a", "bleu")]), Some(2));
        assert_eq!(fits(&[charge("a", "loss"), charge("b", "loss")]), Some(1), "one of them is known");
        assert_eq!(fits(&[charge("c", "loss")]), None);
        assert_eq!(fits(&[charge("a", "bleu")]), Some(0), "what left may leave again");
        // The next start knows it, and another folder has a budget of its own.
        let again = Ledger::new(&state);
        assert_eq!(again.all().expect("reads")[data].charges.len(), 3);
        assert!(again.affords(Path::new("/other"), 1, &[], vec![charge("c", "x")]).expect("reads").is_some());
        assert!(
            again.affords(data, 9, &[charge("d", "x")], vec![charge("d", "x")]).expect("reads").is_some()
        );
        again.reset().expect("writes");
        assert_eq!(fits(&[charge("c", "loss")]), Some(1));
        std::fs::write(dir.path().join("budget.json"), "{").expect("writes");
        assert!(ledger.affords(data, 3, &[], vec![charge("a", "loss")]).is_err(), "damaged is not empty");
    }
}
