//! The catalog of a run, and what in that run it was made from.

use headstart_console::color::{Ink, paint};
use headstart_console::{errln, suggest};
use headstart_core::prepare::output_value;
use headstart_core::{Event, EventKind, Status};
use headstart_explain::catalog::{Catalog, PllmAbout};
use headstart_protocol::expr::Value;
use headstart_protocol::{ArtifactRef, ArtifactType, Digest, Manifest};
use headstart_store::Workspace;

use crate::exit::CommandError;
use crate::manifests::Store;
use crate::recorded::{self, Recorded};

/// A catalog and the run that it is from.
pub struct Found<'r> {
    /// The run.
    pub run: &'r Recorded,
    /// The stage instance that made it.
    pub instance: u32,
    /// Its manifest.
    pub manifest: Manifest,
    /// What it says.
    pub catalog: Catalog,
    /// What it says of its pLLMs.
    pub pllms: Vec<PllmAbout>,
}

/// The given run, or the latest one with a public catalog that can be read.
///
/// # Errors
/// If there is none.
pub fn run_with_catalog(ws: &Workspace, prefix: Option<&str>) -> Result<Recorded, CommandError> {
    if let Some(prefix) = prefix {
        let run = recorded::read(ws, &recorded::find(ws, Some(prefix))?.id)?;
        return match catalog_of(&run) {
            Some(_) => Ok(run),
            None => Err(CommandError::input(format!("run {} has no catalog on the server", run.id))),
        };
    }
    let mut first = None;
    for run in recorded::readable(ws, ws.runs().into_iter().rev()).filter(|r| catalog_of(r).is_some()) {
        let why = match Found::of(ws, &run) {
            Ok(Some(_)) => return Ok(run),
            Ok(None) => gone(&run),
            Err(e) => e,
        };
        errln!("{}: the catalog of run {}: {}", paint(Ink::Warning, "warning"), run.id, why.message());
        first.get_or_insert(why);
    }
    let none = || {
        CommandError::input("no run of this workspace has a catalog")
            .help("run a pipeline with a `decompose` stage: `headstart run FILE`")
    };
    Err(first.unwrap_or_else(none))
}

/// The error where the catalog of a run is no longer in the workspace.
pub fn gone(run: &Recorded) -> CommandError {
    CommandError::input(format!("the catalog of run {} is no longer in the workspace", run.id))
        .help("run the pipeline again")
}

impl<'r> Found<'r> {
    /// The first public catalog of a run.
    ///
    /// # Errors
    /// If the catalog cannot be read.
    pub fn of(ws: &Workspace, run: &'r Recorded) -> Result<Option<Self>, CommandError> {
        let Some((instance, artifact)) = catalog_of(run) else { return Ok(None) };
        let Some(manifest) = ws.artifacts().manifest(&artifact.id)? else { return Ok(None) };
        let catalog = Catalog::read(&ws.artifacts().materialize(&artifact.id)?)?;
        let pllms = catalog.pllms.all()?;
        Ok(Some(Self { run, instance, manifest, catalog, pllms }))
    }

    /// A pLLM's place in the catalog, by name.
    pub fn place(&self, name: &str) -> Option<usize> {
        self.pllms.iter().position(|p| p.name == name)
    }

    /// The error where there is no pLLM of a name.
    pub fn unknown(&self, name: &str) -> CommandError {
        let names = self.pllms.iter().map(|p| p.name.as_str());
        CommandError::input(format!("the catalog has no pLLM `{name}`"))
            .help(suggest::help(name, "it has", names))
    }

    /// The instance that made a public artifact in this run.
    pub fn made(&self, id: &Digest) -> Option<u32> {
        let is = |status: &Status| matches!(status, Status::Done(d) if d.output.id == *id && d.output.private_to.is_none());
        self.run.state.statuses().find(|(_, status)| is(status)).map(|(i, _)| i)
    }

    /// The name of the instance that made an artifact in this run.
    pub fn name(&self, id: &Digest) -> Option<&'r str> {
        self.made(id).map(|i| self.run.plan.instances[i as usize].name.as_str())
    }

    /// An argument of an instance, where it is public and known.
    pub fn arg(&self, ws: &Workspace, instance: u32, name: &str) -> Option<Value> {
        let expr = self.run.plan.instances[instance as usize].args.get(name)?;
        output_value(&self.run.state, expr, &Store(ws)).ok().flatten()
    }

    /// An argument that is an artifact.
    pub fn artifact_arg(&self, ws: &Workspace, instance: u32, name: &str) -> Option<ArtifactRef> {
        match self.arg(ws, instance, name)? {
            Value::Artifact(a) => Some(a),
            _ => None,
        }
    }

    /// When an instance's output was committed in this run, in milliseconds of Unix time; `None`
    /// where it was taken from the cache.
    pub fn committed(&self, instance: u32) -> Option<u64> {
        let is = |e: &&Event| matches!(e.kind, EventKind::Committed { instance: i, .. } if i == instance);
        self.run.events.iter().find(is).map(|e| e.at_ms)
    }

    /// Facts of a pLLM.
    pub fn about(&self, place: usize) -> &PllmAbout {
        &self.pllms[place]
    }
}

fn catalog_of(run: &Recorded) -> Option<(u32, ArtifactRef)> {
    run.state.statuses().find_map(|(i, status)| match status {
        Status::Done(d) if d.output.ty == ArtifactType::Catalog && d.output.private_to.is_none() => {
            Some((i, d.output.clone()))
        }
        _ => None,
    })
}
