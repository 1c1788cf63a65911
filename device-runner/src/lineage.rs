//! Over how many private rows a result was computed.
//!
//! Counted on the device from the private datasets themselves, and followed from handle to handle: what a
//! stage says of itself does not count.

use std::collections::HashSet;
use std::path::Path;

use headstart_disk::read::{Lines, ROW, ROWS};
use headstart_protocol::expr::Value;
use headstart_protocol::rows::ROWS_FILE;
use headstart_protocol::task::Task;
use headstart_protocol::{ArtifactRef, Digest, Type};

use crate::context::inside;
use crate::device::Device;
use crate::store::{Gathered, Held};

/// Rows beyond which nobody counts.
const ENOUGH: u64 = 1_000_000;

impl Device {
    /// Rows of the smallest private dataset among what a task reads and what it made, `None` where it reads
    /// no rows. A program can read whatever its owner can: of one that is given no rows, none are known.
    pub(crate) fn rows_behind(&self, task: &Task, made: Option<&Gathered>) -> Option<u64> {
        let mut rows: Vec<u64> = Vec::new();
        let mut path = |p: &str| {
            if task.program.is_some() {
                rows.push(inside(&self.data, self.state.root(), p).map_or(0, |at| lines(&at)));
            }
        };
        let mut private: Vec<ArtifactRef> = Vec::new();
        for e in task.args.values().chain(&task.when) {
            e.each_artifact(&mut |a| private.extend(a.private_to.is_some().then(|| a.clone())));
            e.each_value(&mut |v| {
                if let Value::Path(p) = v {
                    path(p);
                }
            });
        }
        rows.extend(private.iter().filter_map(|a| self.rows_of(a)));
        if let Some(at) = made.and_then(rows_file) {
            rows.push(lines(at));
        }
        let known = rows.into_iter().min();
        if task.program.is_some() { known.or(Some(0)) } else { known }
    }

    fn rows_of(&self, artifact: &ArtifactRef) -> Option<u64> {
        let held = self.store.private.get(&artifact.id)?;
        held.rows.or_else(|| {
            // Kept by a version that did not count.
            let rows = held.manifest.as_ref().is_some_and(|m| carries_rows(&m.ty));
            rows.then(|| lines(&self.store.private.files(&artifact.id).join(ROWS_FILE)))
        })
    }

    /// What is known of a task's result beside the result itself.
    pub(crate) fn held(&self, task: &Task, made: Option<&Gathered>) -> Held {
        Held { rows: self.rows_behind(task, made), ..Held::nothing(task) }
    }
}

fn carries_rows(ty: &Type) -> bool {
    matches!(ty.present(), Type::Dataset | Type::Responses)
}

fn rows_file(made: &Gathered) -> Option<&Path> {
    let file = made.files.iter().find(|(name, _)| name == ROWS_FILE)?;
    carries_rows(&made.manifest.ty).then_some(file.1.as_path())
}

/// Different lines of a plain file that hold something; 0 where there is none. A row that comes twice says no
/// more than once.
fn lines(at: &Path) -> u64 {
    let Ok(mut lines) = Lines::open(at, ROW, ROWS) else { return 0 };
    let mut seen = HashSet::new();
    while let Ok(Some(line)) = lines.next_line() {
        let line = line.trim_ascii();
        if !line.is_empty() {
            seen.insert(Digest::of(line));
            if seen.len() as u64 == ENOUGH {
                break;
            }
        }
    }
    seen.len() as u64
}
