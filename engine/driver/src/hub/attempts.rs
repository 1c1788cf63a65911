//! In which run's log an attempt is that no run of this process knows.
//!
//! A device may ask as often as it likes, for any fence: of each log only what is new is read, once, and a run is
//! worked out again only where its log has grown since.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use headstart_core::{Event, EventKind};
use headstart_protocol::wire::Committed;
use headstart_store::{LogTail, StoreError, Workspace};

use super::interrupted::Attempt;

/// Attempts that are kept worked out.
const KEPT: usize = 4;

/// An attempt, as far as its log alone tells.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Located {
    pub(super) run: String,
    /// Bytes of the log, as far as it was read.
    pub(super) read: u64,
    pub(super) runner: String,
    /// The answer to its commit, where that was recorded.
    pub(super) answer: Option<Committed>,
}

/// The attempts of all logs.
#[derive(Default)]
pub(super) struct AttemptIndex {
    logs: BTreeMap<String, Log>,
    worked_out: VecDeque<(u64, u64, Arc<Attempt>)>,
}

struct Log {
    tail: LogTail,
    read: u64,
    attempts: BTreeMap<u64, (String, Option<Committed>)>,
}

impl AttemptIndex {
    /// The attempt of a fence; none where no log names it. A run whose log cannot be read cannot be resumed either.
    pub(super) fn find(&mut self, ws: &Workspace, fence: u64) -> Option<Located> {
        let runs = ws.runs();
        self.logs.retain(|id, _| runs.iter().any(|run| run.id == *id));
        for run in &runs {
            let Ok(log) = self.log(ws, &run.id) else { continue };
            if log.read != run.log_bytes {
                log.read_on(run.log_bytes);
            }
        }
        self.logs.iter().find_map(|(id, log)| {
            let (runner, answer) = log.attempts.get(&fence)?;
            Some(Located { run: id.clone(), read: log.read, runner: runner.clone(), answer: *answer })
        })
    }

    fn log(&mut self, ws: &Workspace, id: &str) -> Result<&mut Log, StoreError> {
        if !self.logs.contains_key(id) {
            let log = Log { tail: ws.follow_run(id)?, read: 0, attempts: BTreeMap::new() };
            self.logs.insert(id.to_owned(), log);
        }
        Ok(self.logs.get_mut(id).expect("it is there now"))
    }

    /// What `work_out` makes of an attempt, or made of it while its log was the same.
    pub(super) fn worked_out(
        &mut self,
        fence: u64,
        found: &Located,
        work_out: impl FnOnce() -> Option<Attempt>,
    ) -> Option<Arc<Attempt>> {
        let known = self.worked_out.iter().find(|(of, read, _)| (*of, *read) == (fence, found.read));
        if let Some((.., attempt)) = known {
            return Some(Arc::clone(attempt));
        }
        let attempt = Arc::new(work_out()?);
        self.worked_out.retain(|(of, ..)| *of != fence);
        self.worked_out.truncate(KEPT - 1);
        self.worked_out.push_front((fence, found.read, Arc::clone(&attempt)));
        Some(attempt)
    }
}

impl Log {
    /// Takes in what was appended. A log that was cut, by a crash or a repair, or that cannot be read, is looked at
    /// again when it has another length.
    fn read_on(&mut self, length: u64) {
        if length < self.read {
            self.tail.start_over();
            self.attempts.clear();
        }
        self.read = length;
        let events: Vec<Event> = match self.tail.read() {
            Ok(events) => events,
            Err(e) => return tracing::warn!("{e}"),
        };
        for event in events {
            match event.kind {
                EventKind::AttemptStarted { fence, runner, .. } => {
                    self.attempts.insert(fence, (runner, None));
                }
                EventKind::Committed { fence, .. }
                | EventKind::Skipped { fence: Some(fence), .. }
                | EventKind::Failed { fence: Some(fence), .. } => {
                    if let Some((_, answer)) = self.attempts.get_mut(&fence) {
                        *answer = Some(Committed::Accepted);
                    }
                }
                _ => {}
            }
        }
    }
}
