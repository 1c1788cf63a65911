//! The rows behind what a task made: those of what it read, as far as the stage's declaration bounds them.

use headstart_protocol::expr::Value;
use headstart_protocol::release::{Number, RowBound, RowFacts};
use headstart_protocol::task::Task;
use headstart_protocol::{Args, Stage};

use super::reads::Reads;
use super::{Attempted, Counted, count, has_number, rows_file};
use crate::device::Device;
use crate::store::{Lineage, fewest};

/// What bounds are computed from on a device.
struct Facts<'a> {
    device: &'a Device,
    task: &'a Task,
    args: &'a Args,
    attempted: &'a Attempted<'a>,
}

impl RowFacts for Facts<'_> {
    fn args(&self) -> &Args {
        self.args
    }

    fn answered(&self, arg: &str) -> Option<u64> {
        self.device.answered_rows(self.args.artifact_opt(arg)?)
    }

    fn rows(&self, arg: &str) -> Option<u64> {
        let mut rows = self.device.of_value(self.args.get(arg)?, Reads::All);
        self.args.get(arg)?.visit(&mut |v| {
            if let Value::Path(p) = v {
                rows = fewest(rows, self.device.of_path(self.task, p));
            }
        });
        rows
    }

    fn counted(&self, counter: &str) -> Option<u64> {
        self.attempted.counters.get(counter).copied()
    }
}

impl Device {
    /// What is known of where a task's result comes from.
    pub(super) fn lineage(&self, task: &Task, attempted: &Attempted<'_>) -> Lineage {
        let counted = attempted.made.and_then(rows_file).map(count);
        let read = fewest(self.rows_read(task), counted.map(|c| c.all));
        // A program can read whatever its owner can: of one that is given no rows, none are known.
        let read = if task.program.is_some() { read.or(Some(0)) } else { read };
        let mut lineage = Lineage { rows: read, sources: self.sources(task), ..Lineage::default() };
        lineage.answered = counted.map(|Counted { answered, .. }| answered);
        // What was made of no rows, such as a model of the hub's cache, has none behind it whatever bounds them.
        if read.is_none() {
            return lineage;
        }
        let (Some(args), Ok(stage)) = (attempted.args, self.stage(task)) else { return lineage };
        let facts = Facts { device: self, task, args, attempted };
        let within = |bounds: &[RowBound]| bounds.iter().map(|bound| bound.rows(&facts)).fold(read, fewest);
        let stage: &dyn Stage = stage.stage();
        lineage.rows = within(&stage.rows());
        let made = attempted.made.map(|m| &m.manifest);
        let there = |n: &&Number| made.is_some_and(|m| has_number(m, &n.name));
        let bounded = |n: &Number| Some((n.name.clone(), within(&n.rows)?));
        lineage.numbers = stage.metrics().iter().filter(there).filter_map(bounded).collect();
        lineage
    }
}
