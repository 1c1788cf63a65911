//! Over how many private rows a result was computed, and from which files of the owner it was made.
//!
//! Counted on the device from the private datasets themselves, and followed from handle to handle: numbers of
//! a result have behind them at most the rows behind whatever private value it was made from, be it an
//! artifact, a number of one that became an argument, or one that decided in a `when`. What else bounds them
//! is declared by the stage kind ([`headstart_protocol::release::RowBound`]). What nobody can count is one row.

mod behind;
mod reads;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::Path;

use headstart_disk::read::{Lines, ROW, ROWS};
use headstart_protocol::rows::{ROWS_FILE, Row};
use headstart_protocol::task::Task;
use headstart_protocol::{Args, Digest, Manifest, Type};

use crate::device::Device;
use crate::store::{CURVE, Gathered, Held, Lineage, fewest};

/// Rows beyond which nobody counts.
const ENOUGH: u64 = 1_000_000;

/// What a task was made with, beside the task.
pub(crate) struct Attempted<'a> {
    /// Its arguments as they were resolved; none where it was not run.
    pub args: Option<&'a Args>,
    /// What it made.
    pub made: Option<&'a Gathered>,
    /// What the stage counted.
    pub counters: &'a BTreeMap<String, u64>,
}

impl Attempted<'_> {
    /// It was not run, or made nothing.
    pub const NOTHING: Attempted<'static> = Attempted { args: None, made: None, counters: &BTreeMap::new() };
}

impl Device {
    /// What is known of a task's result beside the result itself.
    pub(crate) fn held(&self, task: &Task, attempted: &Attempted<'_>) -> Held {
        Held { lineage: Some(self.lineage(task, attempted)), ..Held::nothing(task) }
    }

    /// What is known of a result that was made before, where a task with the same arguments gives it.
    pub(crate) fn read_under(&self, task: &Task, made: Lineage) -> Lineage {
        let read = self.rows_read(task);
        let numbers =
            made.numbers.into_iter().map(|(name, rows)| (name, fewest(Some(rows), read).unwrap_or(rows)));
        Lineage {
            rows: fewest(made.rows, read),
            answered: made.answered,
            numbers: numbers.collect(),
            sources: made.sources.into_iter().chain(self.sources(task)).collect(),
        }
    }

    /// With which tasks one may share rows and progress: those that read the same files of the owner.
    pub(crate) fn shared_rows(&self, task: &Task) -> Digest {
        Digest::of_json(&(&self.data, self.sources(task)))
    }

    fn sources(&self, task: &Task) -> BTreeSet<String> {
        let mut out = BTreeSet::new();
        if task.kind == "hf" {
            out.insert("the model cache".to_owned());
        }
        for e in task.args.values().chain(&task.when) {
            e.each_value(&mut |v| {
                if let headstart_protocol::Value::Path(p) = v {
                    out.insert(format!("file {}", plain(p)));
                }
            });
            e.each_artifact(&mut |a| {
                if a.private_to.is_some() {
                    let known = self.store.private.get(&a.id).and_then(|held| held.lineage);
                    // Of what an earlier version kept, nothing is known: it is a source of its own.
                    out.extend(known.map_or_else(|| [format!("result {}", a.id)].into(), |l| l.sources));
                }
            });
        }
        out
    }
}

/// A path without what makes one file have several.
fn plain(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|p| *p != "..") => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// Rows of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Counted {
    /// Different lines that hold something.
    all: u64,
    /// Those of them that are rows with a response.
    answered: u64,
}

/// Counts different lines of a plain file that hold something; none where there is no such file. A row that
/// comes twice says no more than once.
fn count(at: &Path) -> Counted {
    let mut out = Counted { all: 0, answered: 0 };
    let Ok(mut lines) = Lines::open(at, ROW, ROWS) else { return out };
    let mut seen = HashSet::new();
    while let Ok(Some(line)) = lines.next_line() {
        let line = line.trim_ascii();
        if !line.is_empty() && seen.insert(Digest::of(line)) {
            out.all += 1;
            let row: Result<Row, _> = serde_json::from_slice(line);
            out.answered += u64::from(row.is_ok_and(|r| !r.response.trim().is_empty()));
            if out.all == ENOUGH {
                break;
            }
        }
    }
    out
}

fn carries_rows(ty: &Type) -> bool {
    matches!(ty.present(), Type::Dataset | Type::Responses)
}

/// Where the rows of what was made lie, if it is made of rows.
fn rows_file(made: &Gathered) -> Option<&Path> {
    let file = made.files.iter().find(|(name, _)| name == ROWS_FILE)?;
    carries_rows(&made.manifest.ty).then_some(file.1.as_path())
}

/// The number of a manifest's value that a path names; none where it names no single one of its stage's.
fn number_at<'p>(manifest: &Manifest, path: &[&'p str]) -> Option<&'p str> {
    match (manifest.ty.present(), path) {
        (Type::Metrics, [name]) | (Type::Pllm, ["metrics", name]) => Some(name),
        (Type::Pllm, ["curve", ..]) => Some(CURVE),
        _ => None,
    }
}

/// Whether a manifest's value holds a number of this name.
fn has_number(manifest: &Manifest, name: &str) -> bool {
    let numbers = match manifest.ty.present() {
        Type::Metrics => Some(&manifest.value),
        Type::Pllm => manifest.value.get("metrics"),
        _ => None,
    };
    numbers.is_some_and(|numbers| numbers.get(name).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_file_has_one_name() {
        for p in ["me.jsonl", "./me.jsonl", "sub/../me.jsonl", ".//me.jsonl", "a/b/../../me.jsonl"] {
            assert_eq!(plain(p), "me.jsonl", "{p}");
        }
        assert_eq!(plain("../me.jsonl"), "../me.jsonl");
    }

    #[test]
    fn different_rows_are_counted_and_those_that_have_a_response() {
        let dir = tempfile::tempdir().expect("tempdir");
        let at = dir.path().join("rows.jsonl");
        assert_eq!(count(&at), Counted { all: 0, answered: 0 });
        let row = |p: &str, r: &str| format!("{{\"prompt\":\"{p}\",\"response\":\"{r}\"}}\n");
        let text = [row("a", "b"), row("a", "b"), "\n".into(), row("c", " "), row("d", ""), row("e", "f")];
        std::fs::write(&at, text.concat() + "no row\n").expect("writes");
        assert_eq!(count(&at), Counted { all: 5, answered: 2 });
    }
}
