//! What a run would do, without doing it: sources are read (their content decides everything),
//! nothing else is executed and nothing is recorded.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::channel;

use headstart_core::event::{Event, EventKind};
use headstart_core::prepare::{Decision, prepare};
use headstart_core::state::{RunState, Status};
use headstart_dsl::plan::{Place, Plan};
use headstart_protocol::expr::Expr;
use headstart_protocol::task::Usage;
use headstart_protocol::{Args, ArtifactRef, Failure, FailureClass, kinds};

use crate::engine::Engine;
use crate::error::EngineError;
use crate::local::Executor;
use crate::message::{LocalTask, Message};

/// What would become of an instance.
#[derive(Clone, Debug, PartialEq)]
pub enum Preview {
    /// A source: it was read, as every run does.
    Read {
        /// Bytes of its files.
        bytes: u64,
    },
    /// Its output is known.
    Cached {
        /// Seconds that this saves.
        seconds: f64,
    },
    /// It would run: all its inputs are known, and this combination is new.
    Run,
    /// It would run after these, whose outputs are not known yet; or turn out cached.
    After(Vec<u32>),
    /// Its `when` is false.
    Skip,
    /// Only its device can tell: it reads data that is there.
    OnDevice(String),
    /// Its input is wrong.
    Fails(Failure),
}

impl Engine {
    /// Looks ahead. The answer has an entry for each instance of the plan.
    ///
    /// # Errors
    /// If the workspace cannot be read, or the plan contradicts itself.
    pub fn preview(&self, plan: &Plan, source_dir: &Path) -> Result<Vec<Preview>, EngineError> {
        let mut look = Look { engine: self, source_dir, state: RunState::new(Arc::new(plan.clone())) };
        look.apply(EventKind::RunStarted {
            run: "preview".into(),
            pipeline: String::new(),
            plan: headstart_protocol::Digest::of(b"preview"),
            instances: u32::try_from(plan.instances.len()).unwrap_or(u32::MAX),
        })?;
        (0..plan.instances.len() as u32).map(|i| look.at(i)).collect()
    }
}

struct Look<'a> {
    engine: &'a Engine,
    source_dir: &'a Path,
    state: RunState,
}

impl Look<'_> {
    fn apply(&mut self, kind: EventKind) -> Result<(), EngineError> {
        let applied = self.state.apply(&Event::new(0, kind));
        applied.map(drop).map_err(|source| EngineError::Log { run: "preview".into(), source })
    }

    fn at(&mut self, i: u32) -> Result<Preview, EngineError> {
        if !matches!(self.state.status(i), Status::Ready { .. }) {
            let known = |input: &u32| self.state.output(*input).is_some();
            let open = self.state.graph().inputs(i).iter().copied().filter(|x| !known(x)).collect();
            return Ok(Preview::After(open));
        }
        let prepared = match prepare(&self.state, i, &self.engine.shared.shelf) {
            Ok(Decision::Run(prepared)) => prepared,
            Ok(Decision::Skip) => {
                self.apply(EventKind::Skipped { instance: i, fence: None })?;
                return Ok(Preview::Skip);
            }
            Err(e) => return Ok(Preview::Fails(Failure::input(e.to_string()))),
        };
        let inst = self.state.instance(i).clone();
        if let Some((key, _)) = prepared.preimage(&self.state, i).map(|p| p.key()) {
            let entry = self.engine.shared.ws.cache().stage_get(&key);
            return Ok(match entry.filter(|e| e.output.private_to == inst.private_to) {
                Some(e) => {
                    let seconds = e.seconds;
                    self.known(i, key, e.output)?;
                    Preview::Cached { seconds }
                }
                None => Preview::Run,
            });
        }
        let reads = kinds::find(&inst.kind).is_some_and(|k| !k.cacheable);
        match &inst.place {
            Place::Device(device) => Ok(Preview::OnDevice(device.clone())),
            Place::Server if reads => {
                let value = |(k, e): (String, Expr)| match e {
                    Expr::Value { value } => Some((k, value)),
                    _ => None,
                };
                let args = Args(prepared.args.into_iter().filter_map(value).collect());
                match self.read(i, args) {
                    Ok(output) => {
                        let manifest = self.engine.shared.shelf.get(&output.id)?;
                        self.known(i, output.id, output)?;
                        Ok(Preview::Read { bytes: manifest.map_or(0, |m| m.size()) })
                    }
                    Err(failure) => Ok(Preview::Fails(failure)),
                }
            }
            Place::Server => Ok(Preview::Run),
        }
    }

    fn known(
        &mut self,
        instance: u32,
        key: headstart_protocol::Digest,
        output: ArtifactRef,
    ) -> Result<(), EngineError> {
        let released = Default::default();
        self.apply(EventKind::CacheHit { instance, key, output, released, saved_seconds: 0.0 })
    }

    /// Reads a source, as a run does.
    fn read(&self, i: u32, args: Args) -> Result<ArtifactRef, Failure> {
        let shared = &self.engine.shared;
        let inst = self.state.instance(i);
        let executor = Executor {
            ws: shared.ws.clone(),
            shelf: shared.shelf.clone(),
            stages: Arc::clone(&shared.stages),
            threads: shared.options.threads.unwrap_or(1),
        };
        let task = LocalTask {
            instance: i,
            fence: 0,
            name: inst.name.clone(),
            kind: inst.kind.clone(),
            ty: self.state.plan().items[inst.item as usize].ty.clone(),
            args,
            memory: inst.policy.memory,
            timeout: None,
            source_dir: self.source_dir.to_owned(),
            control: Arc::default(),
        };
        let (say, hear) = channel();
        executor.run(task, &say);
        drop(say);
        let end = hear.into_iter().find_map(|m| match m {
            Message::Finished { result, usage: Usage { .. }, .. } => Some(result),
            _ => None,
        });
        end.unwrap_or_else(|| Err(Failure::new(FailureClass::Internal, "the source gave no result")))
    }
}
