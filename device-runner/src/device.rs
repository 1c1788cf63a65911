//! The device itself, and how it does one task.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use headstart_disk::files;
use headstart_protocol::contract::Unresolved;
use headstart_protocol::declared::{CustomStages, ProgramRef};
use headstart_protocol::expr::{self, Expr, ResolveError, Resolved, Value};
use headstart_protocol::release::{Number, released_metric};
use headstart_protocol::task::{Outcome, Task, Usage};
use headstart_protocol::wire::program_kind;
use headstart_protocol::{
    Args, ArtifactRef, Digest, Failure, FailureClass, Manifest, NumericRows, Numerics, Output, Stage,
};
use headstart_runner::{Call, Found, StageRegistry};

use crate::budget::{Charge, ReleaseLimits};
use crate::context::{Control, DeviceContext, LocalManifests, Phase, foreign};
use crate::error::DeviceError;
use crate::gate::{Gate, not_approved, unresolved};
use crate::quarantine::Quarantine;
use crate::queue::Queue;
use crate::release::{Upload, undeclared};
use crate::residency::{self, Allowed};
use crate::rows::{RowView, Rows};
use crate::state::State;
use crate::statement::check_statement;
use crate::store::{Parts, PrivateRoom, Store, gather, missing};

/// A device: its stages, its data, its store, its owner's permissions.
pub struct Device {
    /// Its name, as in `device("phone")`.
    pub name: String,
    /// Its state folder.
    pub state: State,
    /// Its artifacts.
    pub store: Store,
    /// Private tasks that wait.
    pub(crate) queue: Queue,
    pub(crate) data: PathBuf,
    stages: StageRegistry,
    pub(crate) allowed: Allowed,
    pub(crate) limits: ReleaseLimits,
    /// What guards private data; none where the owner runs a task by hand.
    pub(crate) gate: Option<Gate>,
    threads: usize,
    memory: Option<u64>,
    public_rows: Rows,
    private_rows: Rows,
    /// Attempts that the engine waits for. What was taken over waits for them.
    public_work: AtomicUsize,
}

/// While it is there, an attempt runs that the engine waits for.
pub(crate) struct PublicWork<'a>(&'a AtomicUsize);

impl Drop for PublicWork<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// What a task made, before it is put into words for the engine.
#[derive(Debug)]
pub struct Made {
    /// The outcome that the engine will be told.
    pub outcome: Outcome,
    /// Manifests that the engine may know.
    pub manifests: BTreeMap<String, Manifest>,
    /// Files that the engine may have.
    pub uploads: Vec<Upload>,
    /// Whether a private value turned out absent; only this device knows.
    pub absent: bool,
    /// Why a private task failed; only this device knows that it did.
    pub failure: Option<Failure>,
    /// Parts that the task releases and that do not leave, with the reasons, for the owner.
    pub withheld: BTreeMap<String, String>,
    /// Numbers that leave, and count against the budget.
    pub charges: Vec<Charge>,
}

impl Device {
    /// A device with these stages.
    ///
    /// # Errors
    /// [`DeviceError::Input`] where the data folder is not a folder.
    pub fn new(
        name: &str,
        data: &Path,
        state: State,
        stages: Vec<Box<dyn Stage>>,
        allowed: Allowed,
        limits: (usize, Option<u64>),
    ) -> Result<Self, DeviceError> {
        let data = data.canonicalize().ok().filter(|d| d.is_dir()).ok_or_else(|| {
            let m = "is not a folder; name the folder with this device's own data with --data";
            DeviceError::Input(format!("{}: {m}", data.display()))
        })?;
        let rows = |name: &str| Rows::new(state.at("rows").join(name), Arc::clone(state.disk()));
        // Private rows of an earlier version, which every private stage found.
        let shared_by_all = state.at("rows").join("private");
        if shared_by_all.exists() {
            state.disk().remove_dir_all(&shared_by_all).map_err(|e| DeviceError::state(&shared_by_all, e))?;
        }
        Ok(Self {
            name: name.to_owned(),
            public_rows: rows("public"),
            private_rows: rows("by-source"),
            public_work: AtomicUsize::new(0),
            store: Store::open(&state)?,
            queue: Queue::new(&state),
            state,
            data,
            stages: StageRegistry::new(stages),
            allowed,
            limits: ReleaseLimits::default(),
            gate: None,
            threads: limits.0,
            memory: limits.1,
        })
    }

    /// An attempt begins that the engine waits for.
    pub(crate) fn public_work(&self) -> PublicWork<'_> {
        self.public_work.fetch_add(1, Ordering::AcqRel);
        PublicWork(&self.public_work)
    }

    /// Whether an attempt runs that the engine waits for.
    pub(crate) fn has_public_work(&self) -> bool {
        self.public_work.load(Ordering::Acquire) > 0
    }

    /// The same device, which also runs the custom stages that its owner allows.
    pub fn with_custom_stages(self, custom: Arc<dyn CustomStages>) -> Self {
        self.stages.set_custom(custom);
        self
    }

    /// The same device, under other limits of what may leave.
    pub fn with_release_limits(self, limits: ReleaseLimits) -> Self {
        Self { limits, ..self }
    }

    /// The same device, whose disk is divided so between what the engine waits for and private work.
    pub fn with_parts(mut self, parts: Parts) -> Self {
        self.store.public.set_parts(parts);
        self.store.private_room = PrivateRoom::new(&self.state, parts);
        self
    }

    /// The same device, which runs private tasks of an engine only as far as they were approved.
    pub(crate) fn with_gate(self, gate: Gate) -> Self {
        Self { gate: Some(gate), ..self }
    }

    /// Kinds of stages that it can run, sorted; then the programs that it may run.
    pub fn kinds(&self) -> Vec<String> {
        let programs = self.stages.allowed_programs();
        self.stages.kinds().map(str::to_owned).chain(programs.iter().map(program_kind)).collect()
    }

    /// What its stages compute numbers with.
    pub fn numerics(&self) -> Option<Numerics> {
        self.stages.any_numerics()
    }

    /// The stage that a task asks for.
    pub(crate) fn stage(&self, task: &Task) -> Result<Found<'_>, Failure> {
        self.stages.find(&task.kind, task.program.as_ref().map(ProgramRef::Digest))
    }

    /// Checks a task before anything is downloaded, and before anything private is looked at.
    ///
    /// From here on a task is what it says: everything public in it is a value, so that what is approved, charged,
    /// kept under a handle and run is read from the same expressions. One that leaves a public part open is refused
    /// instead of being resolved here: there is then one form of it, on both sides.
    ///
    /// # Errors
    /// [`FailureClass::Input`] for a kind or version that is not known here, for a task that leaves open what
    /// follows from public values, and for what is private to another device, [`FailureClass::Denied`] for a
    /// release that is not allowed, [`FailureClass::MissingArtifact`] for a handle that is not here.
    pub fn check(&self, task: &Task) -> Result<(), Failure> {
        check_statement(task)?;
        resolved_form(task)?;
        let found = self.stage(task)?;
        if let Some(version) = found.version()
            && version != task.version
        {
            let m = format!(
                "the engine asks for version {} of `{}`, but this device has version {}",
                task.version, task.kind, version
            );
            return Err(Failure::input(m).help("run the same version of Headstart on both"));
        }
        residency::check_release(task, self.allowed)?;
        let numbers = found.stage().metrics();
        declared(task, &numbers)?;
        residency::check_details(task, &numbers, self.allowed)?;
        let mut here = Ok(());
        for e in task.args.values().chain(&task.when) {
            e.each_artifact(&mut |a| {
                if here.is_ok() {
                    here = self.is_here(a);
                }
            });
        }
        here
    }

    /// That a private artifact which a task names is on this device, whatever it stands for.
    fn is_here(&self, artifact: &ArtifactRef) -> Result<(), Failure> {
        match &artifact.private_to {
            None => Ok(()),
            Some(owner) if *owner != self.name => Err(foreign(owner)),
            Some(_) if self.store.private.get(&artifact.id).is_none() => Err(missing(artifact)),
            Some(_) => Ok(()),
        }
    }

    /// Why a task is not run any more: it failed too often.
    ///
    /// # Errors
    /// That failure; [`FailureClass::Transient`] where what failed before cannot be read.
    pub fn check_quarantine(&self, task: &Task) -> Result<(), Failure> {
        let all = Quarantine::new(&self.state).all();
        let all = all.map_err(|e| Failure::new(FailureClass::Transient, e.to_string()))?;
        match all.get(&self.handle(task, "task")).filter(|f| f.is_quarantined()) {
            None => Ok(()),
            Some(failing) => {
                let m =
                    format!("quarantined after {} failed attempts: {}", failing.attempts, failing.failure);
                let help = format!("`headstart-device retry {}` has it run again", task.name);
                Err(Failure::new(failing.failure.class, m).help(help))
            }
        }
    }

    /// Remembers that a private task failed or succeeded.
    pub(crate) fn note(&self, task: &Task, failure: Option<&Failure>) {
        let (quarantine, key) = (Quarantine::new(&self.state), self.handle(task, "task"));
        let noted = match failure {
            None => quarantine.succeeded(&key),
            Some(f) => quarantine.failed(key, &task.name, &task.run, f).map(|failing| {
                if failing.is_quarantined() {
                    let n = failing.attempts;
                    tracing::warn!("{}: quarantined: it failed {n} times and is not run again", task.name);
                }
            }),
        };
        if let Err(e) = noted {
            tracing::error!("{}: {e}", task.name);
        }
    }

    /// Does a task that was checked and whose public inputs, `fetched`, are here. Blocking.
    ///
    /// # Errors
    /// Why it failed, with all details; `control` says how far it came, see [`residency::for_the_engine`].
    pub fn work(&self, task: &Task, fetched: &[ArtifactRef], control: &Control) -> Result<Made, Failure> {
        control.enter(Phase::Resolving);
        let Inputs { args, when, private } = self.resolve(task, control)?;
        if private && self.gate.is_some() && control.admitted().is_none() {
            return Err(not_approved("the task does not say that it is private"));
        }
        if !private {
            control.proven_public();
        } else if !task.private {
            tracing::warn!(
                "{}: the engine calls this public, but it reads what is private: it stays here",
                task.name
            );
        }
        if !when {
            return if private {
                self.absent(task, control.promised())
            } else {
                Ok(Made::of(Outcome::Skipped))
            };
        }
        let again = control.promised().and_then(|promised| Some((self.content_key(task, &args)?, promised)));
        if let Some((key, promised)) = &again
            && self.reuse(task, key, promised)
        {
            return self.delivered_as(task, *promised).map(Made::of);
        }
        control.enter(Phase::Running);
        // What public stages write is public work's share of the disk, whatever private ones write beside it.
        let (scratch, progress) =
            if private { ("scratch", "resume") } else { ("scratch-public", "resume-public") };
        let scratch = self.state.at(scratch).join(task.fence.to_string());
        files::create_dir(&**self.state.disk(), &scratch)?;
        // Resolved arguments name what is private by handles that only this device knows, and the
        // folder never leaves it.
        let numerics = self.stages.numerics(&task.kind);
        // Progress of a private attempt is found only by one that reads the same data.
        let shared = private.then(|| self.shared_rows(task));
        let key = Digest::of_json(&(&task.kind, task.version, &args.0, shared, numerics));
        let resume = self.state.at(progress).join(key.to_string());
        let done = self.run(task, &args, private, (&scratch, &resume), control);
        let done = done.and_then(|(output, counters)| {
            if private {
                self.keep(task, &args, (output, counters), fetched, &scratch, control.promised())
            } else {
                self.publish(output, counters, &scratch)
            }
        });
        if let (Some((key, promised)), Ok(_)) = (&again, &done) {
            self.note_made(key, promised);
        }
        let over = [Some(&scratch), done.is_ok().then_some(&resume)];
        for folder in over.into_iter().flatten().filter(|f| f.exists()) {
            if let Err(e) = self.state.disk().remove_dir_all(folder) {
                tracing::debug!("{}: {e}", folder.display());
            }
        }
        done
    }

    fn run(
        &self,
        task: &Task,
        args: &Args,
        private: bool,
        (scratch, resume): (&Path, &Path),
        control: &Control,
    ) -> Result<(Output, BTreeMap<String, u64>), Failure> {
        let found = self.stage(task)?;
        let shared = private.then(|| (&self.private_rows, self.shared_rows(task)));
        let rows = RowView { public: &self.public_rows, private: shared };
        let ctx = DeviceContext {
            store: &self.store,
            data: &self.data,
            state: self.state.root(),
            private,
            gate: self.gate.as_ref(),
            scratch: scratch.to_owned(),
            resume: resume.to_owned(),
            rows: NumericRows::new(&rows, found.stage().numerics()),
            control,
            threads: self.threads,
            least_rows: if private { usize::try_from(self.limits.min_rows).unwrap_or(usize::MAX) } else { 0 },
            memory: match (task.memory, self.memory) {
                (Some(a), Some(b)) => Some(a.min(b)),
                (a, b) => a.or(b),
            },
            counters: Mutex::default(),
            refused: Mutex::default(),
            public_work: &self.public_work,
        };
        let call = Call { kind: &task.kind, ty: &task.ty, args };
        let result = headstart_runner::run(found.stage(), call, &ctx);
        if let Some(refused) = ctx.refused.into_inner().unwrap_or_else(PoisonError::into_inner) {
            return Err(refused);
        }
        Ok((result?, ctx.counters.into_inner().unwrap_or_else(PoisonError::into_inner)))
    }

    fn publish(
        &self,
        output: Output,
        counters: BTreeMap<String, u64>,
        scratch: &Path,
    ) -> Result<Made, Failure> {
        if let Some((name, _)) = output.uses.iter().find(|(_, u)| u.private_to.is_some()) {
            let m = format!("the output is public, but its `{name}` is private to this device");
            return Err(Failure::new(FailureClass::Internal, m));
        }
        let public = self.store.public.root();
        let gathered = gather(output, &[scratch, public])?;
        self.store.public.add(&gathered, scratch)?;
        let manifest = gathered.manifest;
        let upload = |(name, f): (&String, &headstart_protocol::FileRef)| {
            let gone = || {
                let m = format!("file {name} of the output is gone from the device's store");
                Failure::new(FailureClass::Transient, m)
            };
            let at = self.store.public.blob(&f.digest).ok_or_else(gone)?;
            let what = format!("{name} of a public {}", manifest.ty);
            Ok(Upload { digest: f.digest, size: f.size, at, what })
        };
        let uploads = manifest.files.iter().map(upload).collect::<Result<_, Failure>>()?;
        let output = ArtifactRef::public(&manifest);
        let usage = Usage { counters, ..Usage::default() };
        let mut made =
            Made::of(Outcome::Succeeded { output: output.clone(), released: BTreeMap::new(), usage });
        made.uploads = uploads;
        made.manifests.insert(output.id.to_string(), manifest);
        Ok(made)
    }

    /// A failure of a public stage as the engine may know it: without the names of this device's
    /// folders.
    pub fn without_folders(&self, failure: Failure) -> Failure {
        let hide = |text: String| {
            let hidden = text.replace(&*self.state.root().to_string_lossy(), "STATE");
            hidden.replace(&*self.data.to_string_lossy(), "DATA")
        };
        Failure { message: hide(failure.message), help: failure.help.map(hide), ..failure }
    }

    /// What a task's expressions come to.
    fn resolve(&self, task: &Task, control: &Control) -> Result<Inputs, Failure> {
        let source = LocalManifests { store: &self.store, device: &self.name };
        let resolve = |e: &Expr| {
            expr::resolve(e, &source).map_err(|e| match e {
                ResolveError::InputFailed(failure) => {
                    control.enter(Phase::Blocked);
                    failure
                }
                ResolveError::Failed(failure) => failure,
                other => Failure::input(other.to_string()),
            })
        };
        let resolved = || -> Result<_, Failure> {
            let when = task.when.as_ref().map(resolve).transpose()?;
            let holds = when.as_ref().map_or(Ok(true), |w| truth(&w.value))?;
            // What is not run needs no arguments.
            let needed = task.args.iter().filter(|_| holds);
            let args: BTreeMap<&String, Resolved> =
                needed.map(|(k, e)| Ok((k, resolve(e)?))).collect::<Result<_, Failure>>()?;
            Ok((when, holds, args))
        };
        let (when, holds, args) = resolved().inspect_err(|_| {
            // All that it names is public, and no public artifact leads to a private one.
            if !residency::stated(task).is_private() {
                control.proven_public();
            }
        })?;
        let private = residency::proven(task, args.values().chain(&when)).is_private();
        let args = Args(args.into_iter().map(|(k, r)| (k.clone(), r.value)).collect());
        Ok(Inputs { args, when: holds, private })
    }
}

/// What a task's expressions came to.
struct Inputs {
    args: Args,
    when: bool,
    private: bool,
}

/// That everything public in a task is a value, and that its `when` asks for something private.
fn resolved_form(task: &Task) -> Result<(), Failure> {
    let open = |at: &str| Err(unresolved(&Unresolved { at: at.to_owned() }));
    if let Some((name, _)) = task.args.iter().find(|(_, e)| expr::unresolved(e).is_some()) {
        return open(name);
    }
    match &task.when {
        Some(when) if !when.is_private() || expr::unresolved(when).is_some() => open("when"),
        _ => Ok(()),
    }
}

/// Metrics that a task releases are among those that its stage declares, with bounds.
fn declared(task: &Task, numbers: &[Number]) -> Result<(), Failure> {
    let mut released = task.release.iter().filter_map(|path| released_metric(&task.ty, path));
    let declared = |name: &str| numbers.iter().any(|n| n.name == name && n.bounds.is_some());
    match released.find(|name| !declared(name)) {
        None => Ok(()),
        Some(name) => Err(undeclared(task, name, numbers)),
    }
}

impl Made {
    pub(crate) fn of(outcome: Outcome) -> Self {
        Self {
            outcome,
            manifests: BTreeMap::new(),
            uploads: Vec::new(),
            absent: false,
            failure: None,
            withheld: BTreeMap::new(),
            charges: Vec::new(),
        }
    }
}

fn truth(value: &Value) -> Result<bool, Failure> {
    match value {
        Value::Bool(b) | Value::Json(serde_json::Value::Bool(b)) => Ok(*b),
        v if v.is_absent() => Ok(false),
        other => Err(Failure::input(format!("`when` is {}, not true or false", other.describe()))),
    }
}
