//! Releases parts of a private output, and nothing else of it.
//!
//! What of each type may leave is in [`headstart_protocol::release`]. Here it is applied: the output is
//! reduced to its [`Projection`], of which the parts that the task names are taken.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use headstart_disk::read;
use headstart_protocol::artifacts::{Artifact, Metrics};
use headstart_protocol::release::{Class, Number, Numbers, Projection, is_model_file, released_metric};
use headstart_protocol::task::{Released, Task};
use headstart_protocol::text::counted;
use headstart_protocol::{ArtifactRef, ArtifactType, Digest, Failure, FailureClass, Manifest, Type};
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use crate::residency::{Allowed, allow, described};
use crate::store::{CURVE, Lineage, Store};

/// Longest public name that a release may mention, in bytes.
const LONGEST_NAME: usize = 64;

/// A file to be uploaded before a commit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Upload {
    /// Digest of its content.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// Where it lies.
    pub at: PathBuf,
    /// What it is, for the journal.
    pub what: String,
}

/// What leaves the device with an outcome.
#[derive(Default)]
pub struct Leaving {
    /// The released parts, by field path joined with `.`.
    pub released: BTreeMap<String, Released>,
    /// Manifests of the artifacts among them, by id.
    pub manifests: BTreeMap<String, Manifest>,
    /// Their files.
    pub uploads: Vec<Upload>,
    /// Parts that do not leave, with the reasons.
    pub withheld: BTreeMap<String, String>,
    /// Numbers of released parts that do not leave because too few rows are behind them, by part.
    pub few: BTreeMap<String, Vec<String>>,
}

/// Takes the released parts of a private output.
pub struct Releaser<'a> {
    /// The device's artifacts.
    pub store: &'a Store,
    /// What the owner allows to leave.
    pub allowed: Allowed,
    /// Names and words of the public artifacts that the task names; see [`known_names`].
    pub known: &'a BTreeSet<String>,
    /// The numbers that the stage declares.
    pub numbers: &'a [Number],
    /// How many private rows are behind the output and its numbers.
    pub lineage: &'a Lineage,
    /// Rows below which nothing but weights leaves.
    pub min_rows: u64,
}

impl Releaser<'_> {
    /// Everything that the task releases of `output`, a local reference. A part that does not leave is
    /// null, and withheld for a reason that its owner is shown.
    pub fn take(&self, task: &Task, output: &ArtifactRef) -> Leaving {
        let mut out = Leaving::default();
        for path in &task.release {
            let name = path.join(".");
            let part = allow(&task.ty, path, self.allowed)
                .and_then(|_| self.part(output, path, &described(&task.ty, path), &mut out));
            let part = part.unwrap_or_else(|why| {
                out.withheld.insert(name.clone(), why.message);
                Released::Json(Json::Null)
            });
            out.released.insert(name, part);
        }
        out
    }

    /// The part of an artifact that a path names: through the artifacts that it uses, then through what
    /// is left of the last one's value.
    fn part(
        &self,
        output: &ArtifactRef,
        path: &[String],
        what: &str,
        out: &mut Leaving,
    ) -> Result<Released, Failure> {
        let (mut at, mut rest) = (output.clone(), path);
        let mut manifest = self.manifest(&at)?;
        while let Some((first, more)) = rest.split_first()
            && let Some(used) = manifest.as_ref().and_then(|m| m.uses.get(first)).cloned()
        {
            (at, rest) = (used, more);
            manifest = self.manifest(&at)?;
        }
        let Some(manifest) = manifest else { return Ok(Released::Json(Json::Null)) };
        // Choices and what else is no number of its own, and everything that was found through a choice.
        let whole = at != *output || !matches!(at.ty, ArtifactType::Metrics | ArtifactType::Pllm);
        let weights = rest.is_empty() && at.ty == ArtifactType::Pllm && at.private_to.is_some();
        if whole && !weights {
            self.enough(self.lineage.all(), what)?;
        }
        if rest.is_empty() {
            match at.ty {
                // The name of a public artifact: which one was chosen.
                ArtifactType::Pllm | ArtifactType::Model if at.private_to.is_none() => {
                    return Ok(Released::Artifact(at));
                }
                ArtifactType::Pllm if self.allowed.pllm => {
                    return self.pllm(&at, path, manifest, what, out).map(Released::Artifact);
                }
                ArtifactType::Metrics | ArtifactType::Selection => {}
                _ => return Err(refused(what, "it is not made of numbers")),
            }
        }
        let known = |name: &str| self.known.contains(name);
        let part = |left: &Json| {
            let part = rest.iter().try_fold(left, |value, name| value.get(name)).cloned();
            part.ok_or_else(|| refused(what, "there is no such number in it"))
        };
        // What is public is no secret; of other private artifacts, no number was declared.
        let numbers = match (at.private_to.is_none(), at == *output) {
            (true, _) => Numbers::Public,
            (_, true) => Numbers::Declared(self.numbers),
            _ => Numbers::Declared(&[]),
        };
        let all = self.projection(numbers, &known).of(&manifest.ty, &manifest.value)?;
        if whole {
            return part(&all).map(Released::Json);
        }
        // Which of them would leave if enough rows were behind all.
        let named = Metrics::read(&part(&all)?).unwrap_or_default();
        let single = released_metric(&manifest.ty, rest);
        let leaving: Vec<&str> = single.into_iter().chain(named.all().map(|(name, _)| name)).collect();
        let few: Vec<&str> = leaving.iter().copied().filter(|name| self.is_few(name)).collect();
        if few.len() == leaving.len() {
            let fewest = leaving.iter().filter_map(|name| self.lineage.number(name)).min();
            self.enough(fewest, what)?;
        }
        self.note_few(path, &few, out);
        let (numbers, _) = self.numbers();
        let left = self.projection(Numbers::Declared(&numbers), &known).of(&manifest.ty, &manifest.value)?;
        part(&left).map(Released::Json)
    }

    /// That enough rows are behind something.
    fn enough(&self, rows: Option<u64>, what: &str) -> Result<(), Failure> {
        match rows.filter(|rows| *rows < self.min_rows) {
            None => Ok(()),
            Some(rows) => Err(refused(what, &too_few(rows))),
        }
    }

    fn is_few(&self, number: &str) -> bool {
        self.lineage.number(number).is_some_and(|rows| rows < self.min_rows)
    }

    /// Declared numbers with enough rows behind them, and the others.
    fn numbers(&self) -> (Vec<Number>, Vec<Number>) {
        self.numbers.iter().cloned().partition(|n| !self.is_few(&n.name))
    }

    /// Notes numbers of a part that stay while the others leave.
    fn note_few(&self, path: &[String], few: &[&str], out: &mut Leaving) {
        let part = path.join(".");
        for name in few {
            let at = if part.is_empty() { (*name).to_owned() } else { format!("{part}.{name}") };
            let rows = self.lineage.number(name).unwrap_or(0);
            out.withheld.insert(at.clone(), format!("`{name}` cannot be released: {}", too_few(rows)));
            out.few.entry(part.clone()).or_default().push(at);
        }
    }

    fn projection<'p>(&self, numbers: Numbers<'p>, known: &'p dyn Fn(&str) -> bool) -> Projection<'p> {
        Projection { known, numbers, mix: self.allowed.has(Class::Mix), details: self.allowed.details }
    }

    /// The manifest of an artifact; none where it is absent.
    fn manifest(&self, artifact: &ArtifactRef) -> Result<Option<Manifest>, Failure> {
        if artifact.ty == ArtifactType::Absent {
            return Ok(None);
        }
        self.store.manifest(artifact).map(Some)
    }

    /// A private pLLM as a public artifact: its weights and configuration, its numbers, its base.
    fn pllm(
        &self,
        a: &ArtifactRef,
        path: &[String],
        private: Manifest,
        what: &str,
        out: &mut Leaving,
    ) -> Result<ArtifactRef, Failure> {
        let known = |name: &str| self.known.contains(name);
        let (numbers, few) = self.numbers();
        let projection = self.projection(Numbers::Declared(&numbers), &known);
        let mut uses = private.uses;
        if uses.get("base").is_some_and(|b| b.private_to.is_some()) {
            return Err(refused(what, "its base is private to this device itself"));
        }
        // What else it was made from may be private; it works without.
        uses.retain(|name, u| u.private_to.is_none() && projection.reference(name));
        let mut value = projection.of(&Type::Pllm, &private.value)?;
        // Weights leave whatever they were made of, because the owner says so; numbers beside them do not.
        let has = |name: &str| private.value.pointer(&format!("/metrics/{name}")).is_some();
        let few: Vec<&str> = few.iter().map(|n| n.name.as_str()).filter(|name| has(name)).collect();
        self.note_few(path, &few, out);
        if self.is_few(CURVE)
            && let Some(facts) = value.as_object_mut()
        {
            facts.remove("curve");
        }
        let folder = self.store.materialize(a)?;
        let files = private.files.into_iter().filter(|(name, _)| is_model_file(name));
        let public = Manifest { ty: Type::Pllm, files: files.collect(), value, uses };
        for (name, file) in &public.files {
            let what = format!("released {name} of {what}");
            out.uploads.push(Upload { digest: file.digest, size: file.size, at: folder.join(name), what });
        }
        let reference = ArtifactRef::public(&public);
        out.manifests.insert(reference.id.to_string(), public);
        Ok(reference)
    }
}

fn too_few(rows: u64) -> String {
    let rows = counted(rows, "row");
    format!("it has at most {rows} of private data behind it, too few for `--min-rows`")
}

fn refused(what: &str, why: &str) -> Failure {
    Failure::input(format!("{what} cannot be released: {why}"))
}

pub(crate) fn undeclared(task: &Task, metric: &str, declared: &[Number]) -> Failure {
    let why = format!(
        "`{metric}` cannot be released: `{}` does not declare a metric of this name with bounds",
        task.kind
    );
    let bounded: Vec<&str> =
        declared.iter().filter(|n| n.bounds.is_some()).map(|n| n.name.as_str()).collect();
    Failure::input(why).help(match bounded.as_slice() {
        [] => "add `metrics=[…]` to the stage's declaration".to_owned(),
        some => format!("it declares {}", some.join(", ")),
    })
}

/// The names that a release may mention: every key and every short string in the public artifacts
/// that a task names, and in the JSON files of catalogs among them.
///
/// # Errors
/// [`FailureClass::MissingArtifact`] where one of them is not here.
pub fn known_names(store: &Store, public: &[ArtifactRef]) -> Result<BTreeSet<String>, Failure> {
    let mut out = BTreeSet::new();
    for artifact in public {
        let Some(manifest) = store.public.manifest(&artifact.id) else { continue };
        collect(&manifest.value, &mut out);
        for name in manifest.uses.keys() {
            add(name.split_once(':').map_or(name.as_str(), |(_, n)| n), &mut out);
        }
        if artifact.ty == ArtifactType::Catalog {
            let folder = store.public.materialize(&artifact.id)?;
            for name in manifest.files.keys().filter(|n| n.ends_with(".json")) {
                let at = folder.join(name);
                let text = read::whole(&at, read::FACTS).map_err(|e| Failure::io(&at, &e))?;
                let json: Json = serde_json::from_slice(&text).map_err(|e| {
                    Failure::new(FailureClass::Input, format!("{name} of the catalog is not JSON: {e}"))
                })?;
                collect(&json, &mut out);
            }
        }
    }
    Ok(out)
}

fn add(name: &str, out: &mut BTreeSet<String>) {
    if !name.is_empty() && name.len() <= LONGEST_NAME && !name.contains('\n') {
        out.insert(name.to_owned());
    }
}

fn collect(value: &Json, out: &mut BTreeSet<String>) {
    match value {
        Json::String(s) => add(s, out),
        Json::Array(items) => items.iter().for_each(|v| collect(v, out)),
        Json::Object(fields) => fields.iter().for_each(|(k, v)| {
            add(k, out);
            collect(v, out);
        }),
        _ => {}
    }
}
