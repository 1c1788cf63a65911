//! Giving room back: which artifacts are kept, and removing the others.
//!
//! Whoever relies on an artifact that no event log names yet holds an [`InUse`]: from looking it up or storing it
//! until an event that names it is on disk. A collection waits until nobody does, and holds everybody up until it
//! has ended. So what it finds named in the logs is all that anybody needs.
//!
//! # Layout
//! - [`InUse`], [`Exclusive`]: the lock between those who rely on artifacts and those who remove some.
//! - `choose`: what goes; pure.
//! - `collected`: what was removed on purpose.
//! - `pins`: what a person keeps.

mod choose;
mod collected;
mod pins;

use std::collections::BTreeSet;
use std::fs;

use headstart_content::Inventory;
use headstart_protocol::Digest;

pub use crate::in_use::{Exclusive, InUse};
pub use choose::{Collection, Named, choose};
pub use pins::Pin;

use crate::error::StoreError;
use crate::workspace::Workspace;

impl Workspace {
    /// Says that artifacts are relied on that no event log names yet, as long as the returned value is. Waits for a
    /// collection that is going on.
    ///
    /// # Errors
    /// [`StoreError`] where the lock cannot be taken.
    pub fn in_use(&self) -> Result<InUse, StoreError> {
        self.users().enter()
    }

    /// Waits until nobody relies on artifacts that no event log names, and keeps it so; `wait` is called if that
    /// takes any time.
    ///
    /// # Errors
    /// [`StoreError`] where the lock cannot be taken.
    pub fn exclusive(&self, wait: impl FnOnce()) -> Result<Exclusive, StoreError> {
        self.users().exclusive(wait)
    }

    /// What is stored, artifact by artifact.
    ///
    /// # Errors
    /// [`StoreError`] where something cannot be read.
    pub fn inventory(&self) -> Result<Inventory, StoreError> {
        Ok(self.artifacts().inventory()?)
    }

    /// Removes what was chosen, and what killed processes left half written. First it is recorded which of the
    /// removed artifacts event logs name, so that nobody takes them for lost. May be called again where it was
    /// interrupted.
    ///
    /// # Errors
    /// [`StoreError`] where something cannot be written or removed.
    pub fn collect(&self, _locked: &Exclusive, what: &Collection) -> Result<(), StoreError> {
        collected::add(self, &what.named, &what.forgotten)?;
        self.artifacts().remove(&what.artifacts, &what.blobs)?;
        self.artifacts().remove_unfinished()?;
        self.remove_leftover_runs()
    }

    /// The artifacts that were removed on purpose although event logs name them. Some may have been made again
    /// since.
    ///
    /// # Errors
    /// [`StoreError`] where the list cannot be read.
    pub fn collected(&self) -> Result<BTreeSet<Digest>, StoreError> {
        collected::read(self)
    }

    /// Removes a run: its plan, its log, and what custom stages printed. Its results stay until they are collected.
    ///
    /// # Errors
    /// [`StoreError::NoRun`], [`StoreError::RunBusy`] where an engine executes it, and others where something cannot
    /// be removed.
    pub fn remove_run(&self, id: &str) -> Result<(), StoreError> {
        let dir = self.run_dir(id)?;
        let _ours = crate::log::Lock::take(&**self.disk(), &dir.join("lock"), id)?;
        // Gone at once, whenever the process ends: no run has a name that begins with a dot.
        let aside = dir.with_file_name(format!("{REMOVED}{id}"));
        self.disk().rename(&dir, &aside).map_err(StoreError::io("remove", &dir))?;
        headstart_disk::files::sync_dir(&**self.disk(), &self.dir().join("runs"))?;
        self.disk().remove_dir_all(&aside).map_err(StoreError::io("remove", &aside))?;
        self.cache().forget_run(id);
        Ok(())
    }

    /// Removes what is left of runs whose removal was interrupted.
    fn remove_leftover_runs(&self) -> Result<(), StoreError> {
        for entry in fs::read_dir(self.dir().join("runs")).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with(REMOVED) {
                let path = entry.path();
                self.disk().remove_dir_all(&path).map_err(StoreError::io("remove", &path))?;
            }
        }
        Ok(())
    }
}

/// What the folder of a run begins with while it is being removed.
const REMOVED: &str = ".removed-";
