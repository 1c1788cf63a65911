//! The device itself, and how it does one task.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use headstart_protocol::declared::{CustomStages, ProgramRef};
use headstart_protocol::expr::{self, Expr, Value};
use headstart_protocol::task::{Outcome, Released, Task, Usage};
use headstart_protocol::wire::program_kind;
use headstart_protocol::{
    Args, ArtifactRef, ArtifactType, Digest, Failure, FailureClass, Manifest, NumericRows, Numerics, Output,
    Stage, canonical_json,
};
use headstart_runner::{Call, Found, StageRegistry};

use crate::context::{Control, DeviceContext, LocalManifests};
use crate::error::DeviceError;
use crate::release::{Leaving, Releaser, Upload, known_names};
use crate::residency::{self, Allowed};
use crate::rows::{RowView, Rows};
use crate::state::State;
use crate::store::{Held, Store, gather, missing};

/// A device: its stages, its data, its store, its owner's permissions.
pub struct Device {
    /// Its name, as in `device("phone")`.
    pub name: String,
    /// Its state folder.
    pub state: State,
    /// Its artifacts.
    pub store: Store,
    data: PathBuf,
    stages: StageRegistry,
    allowed: Allowed,
    threads: usize,
    memory: Option<u64>,
    public_rows: Rows,
    private_rows: Rows,
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
        let rows = |name: &str| Rows::new(state.at("rows").join(name));
        Ok(Self {
            name: name.to_owned(),
            public_rows: rows("public"),
            private_rows: rows("private"),
            store: Store::open(&state)?,
            state,
            data,
            stages: StageRegistry::new(stages),
            allowed,
            threads: limits.0,
            memory: limits.1,
        })
    }

    /// The same device, which also runs the custom stages that its owner allows.
    pub fn with_custom_stages(self, custom: Arc<dyn CustomStages>) -> Self {
        self.stages.set_custom(custom);
        self
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
    fn stage(&self, task: &Task) -> Result<Found<'_>, Failure> {
        self.stages.find(&task.kind, task.program.as_ref().map(ProgramRef::Digest))
    }

    /// Checks a task before anything is downloaded or run.
    ///
    /// # Errors
    /// [`FailureClass::Input`] for a kind or version that is not known here, and for a release
    /// that is not allowed.
    pub fn check(&self, task: &Task) -> Result<(), Failure> {
        if let Some(version) = self.stage(task)?.version()
            && version != task.version
        {
            let m = format!(
                "the engine asks for version {} of `{}`, but this device has version {}",
                task.version, task.kind, version
            );
            return Err(Failure::input(m).help("run the same version of Headstart on both"));
        }
        residency::check_release(task, self.allowed)
    }

    /// Does a task whose public inputs, `fetched`, are here. Blocking.
    ///
    /// # Errors
    /// Why it failed, with all details; see [`residency::for_the_engine`].
    pub fn work(&self, task: &Task, fetched: &[ArtifactRef], control: &Control) -> Result<Made, Failure> {
        let private = residency::is_private(task);
        if private && !task.private {
            tracing::warn!(
                "{}: the engine calls this public, but it reads what is private: it stays here",
                task.name
            );
        }
        if let Some(when) = &task.when
            && !truth(&self.resolve(when)?)?
        {
            return if private { self.absent(task) } else { Ok(Made::public(Outcome::Skipped)) };
        }
        let args = task.args.iter().map(|(k, e)| Ok((k.clone(), self.resolve(e)?)));
        let args = Args(args.collect::<Result<_, Failure>>()?);
        let scratch = self.state.at("scratch").join(task.fence.to_string());
        std::fs::create_dir_all(&scratch).map_err(|e| Failure::io(&scratch, &e))?;
        // Resolved arguments name what is private by handles that only this device knows, and the
        // folder never leaves it.
        let numerics = self.stages.numerics(&task.kind);
        let key = Digest::of_json(&(&task.kind, task.version, &args.0, private, numerics));
        let resume = self.state.at("resume").join(key.to_string());
        let done = self.run(task, &args, private, (&scratch, &resume), control);
        let done = done.and_then(|(output, counters)| {
            if private {
                self.keep(task, output, fetched, &scratch)
            } else {
                self.publish(output, counters, &scratch)
            }
        });
        let over = [Some(&scratch), done.is_ok().then_some(&resume)];
        for folder in over.into_iter().flatten().filter(|f| f.exists()) {
            if let Err(e) = std::fs::remove_dir_all(folder) {
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
        let rows = RowView { public: &self.public_rows, private: private.then_some(&self.private_rows) };
        let ctx = DeviceContext {
            store: &self.store,
            data: &self.data,
            state: self.state.root(),
            private,
            scratch: scratch.to_owned(),
            resume: resume.to_owned(),
            rows: NumericRows::new(&rows, found.stage().numerics()),
            control,
            threads: self.threads,
            memory: match (task.memory, self.memory) {
                (Some(a), Some(b)) => Some(a.min(b)),
                (a, b) => a.or(b),
            },
            counters: Mutex::default(),
            refused: Mutex::default(),
        };
        let call = Call { kind: &task.kind, ty: &task.ty, args };
        let result = headstart_runner::run(found.stage(), call, &ctx);
        if let Some(refused) = ctx.refused.into_inner().unwrap_or_else(PoisonError::into_inner) {
            return Err(refused);
        }
        Ok((result?, ctx.counters.into_inner().unwrap_or_else(PoisonError::into_inner)))
    }

    fn keep(
        &self,
        task: &Task,
        output: Output,
        fetched: &[ArtifactRef],
        scratch: &Path,
    ) -> Result<Made, Failure> {
        let gathered = gather(output, None)?;
        let manifest = gathered.manifest.clone();
        let handle = self.handle(task, &manifest.id().to_string());
        let held = Held { name: task.name.clone(), run: task.run.clone(), manifest: Some(manifest) };
        self.store.private.keep(&handle, &held, Some(&gathered), scratch)?;
        let local = ArtifactRef { id: handle, ty: held.ty(), private_to: Some(self.name.clone()) };
        let leaving = if task.release.is_empty() {
            Leaving::default()
        } else {
            let known = known_names(&self.store, fetched)?;
            let metrics = self.stage(task)?.stage().metrics();
            Releaser { store: &self.store, allowed: self.allowed, known: &known, metrics: &metrics }
                .take(task, &local)?
        };
        self.private_outcome(task, handle, leaving, false)
    }

    fn absent(&self, task: &Task) -> Result<Made, Failure> {
        let handle = self.handle(task, "absent");
        let held = Held { name: task.name.clone(), run: task.run.clone(), manifest: None };
        self.store.private.keep(&handle, &held, None, Path::new(""))?;
        let mut leaving = Leaving::default();
        for path in &task.release {
            leaving.released.insert(path.join("."), Released::Json(serde_json::Value::Null));
        }
        self.private_outcome(task, handle, leaving, true)
    }

    /// A handle for the outcome of a task. The same task with the same outcome has the same handle,
    /// so that results can be reused; equal outcomes of different tasks have different ones, so
    /// that the engine learns nothing by comparing them.
    fn handle(&self, task: &Task, outcome: &str) -> Digest {
        let kind = match &task.program {
            Some(program) => format!("{}@{program}", task.kind.rsplit('.').next().unwrap_or_default()),
            None => task.kind.clone(),
        };
        let what = (&kind, task.version, &task.ty, &task.args, &task.when, outcome);
        self.state.handle(canonical_json(&what).as_bytes())
    }

    /// The outcome as the engine sees it: a handle whose type is the declared one even where the
    /// value is absent.
    fn private_outcome(
        &self,
        task: &Task,
        handle: Digest,
        leaving: Leaving,
        absent: bool,
    ) -> Result<Made, Failure> {
        let ty = ArtifactType::of(&task.ty).ok_or_else(|| {
            Failure::new(FailureClass::Internal, format!("a {} cannot be a stage's output", task.ty))
        })?;
        let output = ArtifactRef { id: handle, ty, private_to: Some(self.name.clone()) };
        let outcome = Outcome::Done { output, released: leaving.released, usage: Usage::default() };
        Ok(Made { outcome, manifests: leaving.manifests, uploads: leaving.uploads, absent })
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
        let gathered = gather(output, Some(&[scratch, public]))?;
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
            Made::public(Outcome::Done { output: output.clone(), released: BTreeMap::new(), usage });
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

    fn resolve(&self, expr: &Expr) -> Result<Value, Failure> {
        let local = expr.try_map_artifacts(&mut |a| self.local(a))?;
        expr::resolve(&local, &LocalManifests(&self.store)).map_err(|e| Failure::input(e.to_string()))
    }

    /// A reference as it is known here: with the real type of a private artifact.
    fn local(&self, artifact: &ArtifactRef) -> Result<ArtifactRef, Failure> {
        let Some(owner) = &artifact.private_to else { return Ok(artifact.clone()) };
        if *owner != self.name {
            return Err(Failure::input(format!("the task reads what is private to device {owner:?}")));
        }
        let held = self.store.private.get(&artifact.id).ok_or_else(|| missing(artifact))?;
        Ok(ArtifactRef { ty: held.ty(), ..artifact.clone() })
    }
}

impl Made {
    fn public(outcome: Outcome) -> Self {
        Self { outcome, manifests: BTreeMap::new(), uploads: Vec::new(), absent: false }
    }
}

fn truth(value: &Value) -> Result<bool, Failure> {
    match value {
        Value::Bool(b) | Value::Json(serde_json::Value::Bool(b)) => Ok(*b),
        v if v.is_absent() => Ok(false),
        other => Err(Failure::input(format!("`when` is {}, not true or false", other.describe()))),
    }
}
