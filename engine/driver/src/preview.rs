//! What a run would do, and why: the decisions of a run without its attempts.
//!
//! Sources are read, because everything depends on what is in them; nothing else is run, and
//! nothing is recorded.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::channel;

use headstart_core::prepare::{Decision, Prepared, prepare};
use headstart_core::{Event, EventKind, ReleasedParts, RunState, Status};
use headstart_dsl::plan::{Place, Plan};
use headstart_protocol::expr::{Manifests, ResolveError};
use headstart_protocol::{ArtifactRef, Digest, Failure, FailureClass, Manifest, kinds};
use headstart_store::{StoreError, Workspace};

use crate::error::EngineError;
use crate::local::local_task;
use crate::manifest_cache::ManifestCache;
use crate::message::Message;
use crate::reuse;
use crate::shared::Shared;

/// What would become of an instance.
#[derive(Clone, Debug, PartialEq)]
pub enum Preview {
    /// A source: it was read just now, and is in every run.
    Read {
        /// Size of what it gave, in bytes.
        bytes: u64,
    },
    /// Its output is known.
    Cached {
        /// Seconds that making it took.
        seconds: f64,
    },
    /// It would run: no output is known for its inputs.
    Run,
    /// Whether it runs depends on what these make, which is not known yet.
    After(Vec<u32>),
    /// Its `when` is false.
    Skip,
    /// Only this device can tell: it reads what is there.
    OnDevice(String),
    /// It cannot work.
    Fails(Failure),
}

/// Works out what a run of `plan` would do, with the results that `known` has.
pub(crate) fn look(
    engine: &Shared,
    plan: Plan,
    source_dir: &Path,
    known: Workspace,
) -> Result<Vec<Preview>, EngineError> {
    let instances = u32::try_from(plan.instances.len()).unwrap_or(u32::MAX);
    let results = ManifestCache::new(known.clone());
    let mut look = Look { engine, known, results, source_dir, state: RunState::new(Arc::new(plan)) };
    let (run, pipeline, plan) = ("preview".to_owned(), String::new(), Digest([0; 32]));
    look.fold(EventKind::RunStarted { run, pipeline, plan, instances })?;
    // Instances refer only to earlier ones.
    (0..instances).map(|i| look.at(i)).collect()
}

struct Look<'a> {
    engine: &'a Shared,
    /// Where results are looked up.
    known: Workspace,
    results: ManifestCache,
    source_dir: &'a Path,
    state: RunState,
}

/// Manifests of sources that were just read, and of results.
struct Both<'a>(&'a ManifestCache, &'a ManifestCache);

impl Manifests for Both<'_> {
    fn manifest(&self, artifact: &ArtifactRef) -> Result<Manifest, ResolveError> {
        self.0.manifest(artifact).or_else(|_| self.1.manifest(artifact))
    }
}

impl Look<'_> {
    fn fold(&mut self, kind: EventKind) -> Result<(), EngineError> {
        let folded = self.state.apply(&Event::new(0, kind));
        folded.map(drop).map_err(|source| EngineError::Log { run: "preview".to_owned(), source })
    }

    fn known(
        &mut self,
        instance: u32,
        output: ArtifactRef,
        released: ReleasedParts,
    ) -> Result<(), EngineError> {
        let key = Digest([0; 32]);
        self.fold(EventKind::CacheHit { instance, key, output, released, saved_seconds: 0.0 })
    }

    fn at(&mut self, i: u32) -> Result<Preview, EngineError> {
        if !matches!(self.state.status(i), Status::Ready { .. }) {
            let open = |j: &u32| self.state.output(*j).is_none();
            return Ok(Preview::After(self.state.graph().inputs(i).iter().copied().filter(open).collect()));
        }
        let prepared = match prepare(&self.state, i, &Both(&self.engine.manifests, &self.results)) {
            Ok(Decision::Run(prepared)) => prepared,
            Ok(Decision::Skip) => {
                self.fold(EventKind::Skipped { instance: i, fence: None })?;
                return Ok(Preview::Skip);
            }
            Err(e) => return Ok(Preview::Fails(Failure::input(e.to_string()))),
        };
        let facts = self.engine.place_facts(&self.state, i);
        if let Some(preimage) = prepared.preimage(&self.state, i, &facts) {
            let entry = self.known.cache().stage_get(&preimage.key().0);
            let Some(e) = entry.and_then(|e| reuse::usable(&self.results, &self.state, i, e)) else {
                return Ok(Preview::Run);
            };
            self.known(i, e.output, e.released)?;
            return Ok(Preview::Cached { seconds: e.seconds });
        }
        let inst = self.state.instance(i);
        if let Place::Device(device) = &inst.place {
            return Ok(Preview::OnDevice(device.clone()));
        }
        if kinds::find(&inst.kind).is_none() {
            return Ok(Preview::Run);
        }
        match read_source(self.engine, &self.state, i, &prepared, self.source_dir) {
            Ok(output) => {
                let bytes =
                    self.engine.manifests.get(&output.id).map_err(StoreError::from)?.map_or(0, |m| m.size());
                self.known(i, output, ReleasedParts::new())?;
                Ok(Preview::Read { bytes })
            }
            // It reads a result that only a run may open.
            Err(failure) if failure.class == FailureClass::MissingArtifact => Ok(Preview::Run),
            Err(failure) => Ok(Preview::Fails(failure)),
        }
    }
}

/// Reads a source, as a run does.
///
/// # Errors
/// Why it cannot be read.
pub(crate) fn read_source(
    engine: &Shared,
    state: &RunState,
    instance: u32,
    prepared: &Prepared,
    source_dir: &Path,
) -> Result<ArtifactRef, Failure> {
    let task =
        local_task(state, instance, 0, prepared, engine.need(state, instance).threads, source_dir.to_owned());
    let (tx, rx) = channel();
    engine.pool.executor().run(task, &tx);
    drop(tx);
    let ended = rx.into_iter().find_map(|m| match m {
        Message::Finished { result, .. } => Some(result.map(|(output, _)| output)),
        _ => None,
    });
    ended.unwrap_or_else(|| Err(Failure::new(FailureClass::Internal, "the source gave no result")))
}
