//! The rows behind what a task reads: behind the artifacts and numbers that its expressions name.

use std::collections::BTreeSet;

use headstart_protocol::expr::{Expr, Value};
use headstart_protocol::release::reads_numbers;
use headstart_protocol::rows::ROWS_FILE;
use headstart_protocol::task::Task;
use headstart_protocol::{ArtifactRef, Digest};

use super::{carries_rows, count, number_at};
use crate::context::inside;
use crate::device::Device;
use crate::store::{Held, Lineage, fewest};

/// How much of an artifact is read.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Reads {
    /// Its files.
    Files,
    /// Its numbers too, and what it refers to.
    All,
}

impl Device {
    /// Rows behind everything that a task reads; none where nothing of it is private rows.
    pub(super) fn rows_read(&self, task: &Task) -> Option<u64> {
        let args = task.args.iter().map(|(name, e)| {
            let reads = if task.program.is_some() || reads_numbers(&task.kind, name) {
                Reads::All
            } else {
                Reads::Files
            };
            fewest(self.of_expr(e, reads), self.of_paths(task, e))
        });
        let when = task.when.iter().map(|e| self.of_expr(e, Reads::All));
        args.chain(when).fold(None, fewest)
    }

    /// Files of the data folder that an expression names. Rows of a dataset are counted when they were read,
    /// and a program's in the file; of how many rows somebody made a model in that folder, nobody knows.
    fn of_paths(&self, task: &Task, e: &Expr) -> Option<u64> {
        let mut rows = None;
        e.each_value(&mut |v| {
            if let Value::Path(p) = v {
                rows = fewest(rows, self.of_path(task, p));
            }
        });
        rows
    }

    pub(super) fn of_path(&self, task: &Task, path: &str) -> Option<u64> {
        match (&task.program, task.kind.as_str()) {
            (Some(_), _) => Some(inside(&self.data, self.state.root(), path).map_or(0, |at| count(&at).all)),
            (None, "jsonl") => None,
            (None, _) => Some(1),
        }
    }

    fn of_expr(&self, e: &Expr, reads: Reads) -> Option<u64> {
        match e {
            Expr::Value { value } => self.of_value(value, reads),
            Expr::Output { .. } => None,
            Expr::Field { .. } => {
                let (mut root, mut path) = (e, Vec::new());
                while let Expr::Field { of, name } = root {
                    path.insert(0, name.as_str());
                    root = of;
                }
                self.of_field(root, &path, reads)
            }
            Expr::Or { first: a, second: b } | Expr::Compare { left: a, right: b, .. } => {
                fewest(self.of_expr(a, reads), self.of_expr(b, reads))
            }
            Expr::List { items } => items.iter().map(|(_, e)| self.of_expr(e, reads)).fold(None, fewest),
            Expr::Mix { terms } => terms.iter().map(|(.., e)| self.of_expr(e, reads)).fold(None, fewest),
            Expr::Not { of } => self.of_expr(of, reads),
        }
    }

    pub(super) fn of_value(&self, value: &Value, reads: Reads) -> Option<u64> {
        let mut rows = None;
        value.each_artifact(&mut |a| rows = fewest(rows, self.of_artifact(a, reads)));
        rows
    }

    fn of_field(&self, root: &Expr, path: &[&str], reads: Reads) -> Option<u64> {
        match root {
            Expr::Or { first, second } => {
                fewest(self.of_field(first, path, reads), self.of_field(second, path, reads))
            }
            Expr::Value { value: Value::Artifact(a) } => self.of_part(a, path, reads),
            other => self.of_expr(other, Reads::All),
        }
    }

    /// Rows behind what a path names in an artifact: that it names another artifact is a choice, with rows of
    /// its own behind it.
    fn of_part(&self, artifact: &ArtifactRef, path: &[&str], reads: Reads) -> Option<u64> {
        let Some((first, rest)) = path.split_first() else { return self.of_artifact(artifact, reads) };
        artifact.private_to.as_ref()?;
        let Some(held) = self.store.private.get(&artifact.id) else { return Some(1) };
        let lineage = self.known(artifact, &held);
        let Some(manifest) = &held.manifest else { return lineage.all() };
        match manifest.uses.get(*first) {
            Some(used) => fewest(lineage.all(), self.of_part(used, rest, reads)),
            None => number_at(manifest, path).map_or_else(|| lineage.all(), |name| lineage.number(name)),
        }
    }

    /// Rows behind an artifact.
    fn of_artifact(&self, artifact: &ArtifactRef, reads: Reads) -> Option<u64> {
        if reads == Reads::All {
            return self.of_everything(artifact, &mut BTreeSet::new());
        }
        artifact.private_to.as_ref()?;
        match self.store.private.get(&artifact.id) {
            Some(held) => self.known(artifact, &held).rows,
            None => Some(1),
        }
    }

    /// Rows behind an artifact, its numbers, and whatever it refers to.
    fn of_everything(&self, artifact: &ArtifactRef, seen: &mut BTreeSet<Digest>) -> Option<u64> {
        if artifact.private_to.is_none() || !seen.insert(artifact.id) {
            return None;
        }
        let Some(held) = self.store.private.get(&artifact.id) else { return Some(1) };
        let used = held.manifest.iter().flat_map(|m| m.uses.values());
        let used = used.map(|a| self.of_everything(a, seen)).fold(None, fewest);
        fewest(self.known(artifact, &held).all(), used)
    }

    /// Different rows of an artifact that have a response.
    pub(super) fn answered_rows(&self, artifact: &ArtifactRef) -> Option<u64> {
        artifact.private_to.as_ref()?;
        let Some(held) = self.store.private.get(&artifact.id) else { return Some(1) };
        let lineage = self.known(artifact, &held);
        Some(fewest(lineage.answered, lineage.rows).unwrap_or(1))
    }

    /// What is known of an artifact. What an earlier version kept is counted where it is rows; of how many
    /// rows other things were made it did not say, number by number.
    fn known(&self, artifact: &ArtifactRef, held: &Held) -> Lineage {
        if let Some(lineage) = &held.lineage {
            return lineage.clone();
        }
        let rows = held.manifest.as_ref().is_some_and(|m| carries_rows(&m.ty));
        let counted = rows.then(|| count(&self.store.private.files(&artifact.id).join(ROWS_FILE)));
        Lineage {
            rows: Some(counted.map_or(1, |c| c.all)),
            answered: counted.map(|c| c.answered),
            ..Lineage::default()
        }
    }
}
