//! A run that is read on as it grows, and when each of its stages waited and ran.

use std::sync::Arc;

use headstart_core::{Event, EventKind, RunState, Status};
use headstart_driver::RunHeader;
use headstart_dsl::plan::{Place, Plan};
use headstart_report::StageState;
use headstart_store::{LogTail, Workspace};

use crate::recorded::{HistoryError, Recorded};

/// When a stage instance waited and ran, in milliseconds since 1970.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Span {
    /// When its last input was there.
    pub ready_ms: Option<u64>,
    /// When its last attempt began.
    pub started_ms: Option<u64>,
    /// When it was over.
    pub ended_ms: Option<u64>,
    /// Seconds that a device took to compute, where it says so. What is left of the time between start and end went
    /// into downloads, uploads and waiting for the next contact.
    pub computed_seconds: Option<f64>,
}

/// A run that is read on as it grows.
pub struct Followed {
    ws: Workspace,
    /// The run as far as it was read.
    pub run: Recorded,
    spans: Vec<Span>,
    /// For each instance, how many events had been read when it changed last.
    changed: Vec<u64>,
    tail: LogTail,
}

impl Followed {
    /// Reads a run as far as it is.
    ///
    /// # Errors
    /// If its plan or its log cannot be read.
    pub fn open(ws: &Workspace, id: &str) -> Result<Self, HistoryError> {
        let RunHeader { pipeline, source_dir, plan, .. } = headstart_driver::read_header(ws, id)?;
        let plan: Arc<Plan> = Arc::new(plan);
        let state = RunState::new(Arc::clone(&plan));
        let count = plan.instances.len();
        let run = Recorded {
            id: id.to_owned(),
            pipeline,
            source_dir,
            plan,
            events: Vec::new(),
            state,
            live: ws.is_live(id),
        };
        let tail = ws.follow_run(id)?;
        let (spans, changed) = (vec![Span::default(); count], vec![0; count]);
        let mut followed = Self { ws: ws.clone(), run, spans, changed, tail };
        followed.refresh()?;
        Ok(followed)
    }

    /// Reads on. Gives whether anything is new.
    ///
    /// # Errors
    /// If the log cannot be read.
    pub fn refresh(&mut self) -> Result<bool, HistoryError> {
        // First whether it is live: what its engine writes at the end is then read too.
        let live = self.ws.is_live(&self.run.id);
        let events: Vec<Event> = self.tail.read()?;
        let is_new = !events.is_empty() || live != self.run.live;
        self.run.live = live;
        for event in events {
            self.apply(event)?;
        }
        Ok(is_new)
    }

    /// How many events were read.
    pub fn events(&self) -> u64 {
        self.run.events.len() as u64
    }

    /// When an instance waited and ran.
    pub fn span(&self, instance: u32) -> Span {
        self.spans[instance as usize]
    }

    /// The instances that changed since so many events had been read.
    pub fn changed_since(&self, events: u64) -> impl Iterator<Item = u32> + '_ {
        let changed = self.changed.iter().zip(0u32..);
        changed.filter(move |(at, _)| **at > events).map(|(_, instance)| instance)
    }

    /// Where an instance is.
    pub fn stage_state(&self, instance: u32) -> StageState {
        self.run.stage_state(instance, self.run.state.status(instance))
    }

    /// When the last event happened, in milliseconds since 1970.
    pub fn last_ms(&self) -> u64 {
        self.run.events.last().map_or(0, |e| e.at_ms)
    }

    fn apply(&mut self, event: Event) -> Result<(), HistoryError> {
        let changes = self
            .run
            .state
            .apply(&event)
            .map_err(|source| HistoryError::Contradicts { run: self.run.id.clone(), source })?;
        let at = event.at_ms;
        let number = self.run.events.len() as u64 + 1;
        for i in &changes.ready {
            self.spans[*i as usize] = Span { ready_ms: Some(at), ..Span::default() };
        }
        let touched = changes.ready.iter().chain(&changes.blocked).copied().chain(event.kind.instance());
        touched.for_each(|i| self.changed[i as usize] = number);
        if let Some(i) = event.kind.instance() {
            self.mark(i, at, &event.kind);
        }
        if matches!(event.kind, EventKind::RunFinished { .. } | EventKind::RunResumed {}) {
            // What the run never came to is shown otherwise from now on.
            let open = self.run.state.statuses().filter(|(_, s)| is_open(s)).map(|(i, _)| i as usize);
            for i in open.collect::<Vec<_>>() {
                self.changed[i] = number;
            }
        }
        self.run.events.push(event);
        Ok(())
    }

    fn mark(&mut self, instance: u32, at: u64, kind: &EventKind) {
        let on_device = matches!(self.run.state.instance(instance).place, Place::Device(_));
        let span = &mut self.spans[instance as usize];
        match kind {
            EventKind::AttemptStarted { .. } => {
                (span.started_ms, span.ended_ms) = (Some(at), None);
            }
            EventKind::Committed { usage, .. } => {
                span.ended_ms = Some(at);
                span.computed_seconds = (on_device && usage.seconds > 0.0).then_some(usage.seconds);
            }
            EventKind::CacheHit { .. } | EventKind::Skipped { .. } | EventKind::Failed { .. } => {
                span.ended_ms = Some(at);
            }
            _ => {}
        }
    }
}

fn is_open(status: &Status) -> bool {
    matches!(status, Status::Waiting | Status::Ready { .. } | Status::Running(_))
}
