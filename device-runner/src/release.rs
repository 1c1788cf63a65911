//! Takes out of a private output what may leave, and nothing else.
//!
//! Numbers and truth values pass. A name or word passes only if it stands in the public catalog
//! that the stage read, so that no text of the user can. Files pass only as part of a pLLM that
//! the owner lets out, and only those that a pLLM needs.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use headstart_protocol::artifact::ArtifactType;
use headstart_protocol::expr::{self, Expr, Value};
use headstart_protocol::task::{Released, Task};
use headstart_protocol::{ArtifactRef, Digest, Failure, FailureClass, Manifest, Type};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json};

use crate::context::LocalManifests;
use crate::residency::{Allowed, allow, described};
use crate::store::Store;

/// Fields of a selection that may leave: what was chosen, how sure it is, the user's coefficients,
/// distances and losses of the candidates, what choosing cost and should save. Its sentence for the user does not.
const SELECTION_FIELDS: &[&str] = &[
    "pllm_name",
    "mix",
    "is_mix",
    "abstained",
    "confidence",
    "strength",
    "user",
    "distances",
    "verified",
    "forecast",
    "cost",
];

/// Names of our own inside those fields.
const SELECTION_WORDS: &[&str] = &[
    "base",
    "words",
    "word",
    "coefficient",
    "low",
    "high",
    "explained",
    "loss",
    "base_loss",
    "share",
    "mix_loss",
    "mix_share",
    "rows",
    "held_back",
    "forward_passes",
    "bytes",
    "catalog_bytes",
    "seconds",
    "left",
    "left_low",
    "left_high",
    "share_saved",
    "share_saved_low",
    "share_saved_high",
    "learning_rate",
    "rows_a_step",
    "steps_scratch",
    "steps_scratch_low",
    "steps_scratch_high",
    "steps_saved",
    "steps_saved_low",
    "steps_saved_high",
    "seconds_saved",
    "seconds_saved_low",
    "seconds_saved_high",
    "break_even_bytes_per_second",
];

/// Words of our own that stand in the value of a pLLM.
const PLLM_WORDS: &[&str] =
    &["lora", "full", "delta", "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];

/// Longest name that may leave, in bytes.
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
}

/// Takes the released parts of a private output.
pub struct Releaser<'a> {
    /// The device's artifacts.
    pub store: &'a Store,
    /// What the owner lets out.
    pub allowed: Allowed,
    /// Names and words of the public artifacts that the task names; see [`known_names`].
    pub known: &'a BTreeSet<String>,
}

impl Releaser<'_> {
    /// Everything that the task releases of `output`, a local reference.
    ///
    /// # Errors
    /// [`FailureClass::Input`] where something may not leave: then nothing does.
    pub fn take(&self, task: &Task, output: &ArtifactRef) -> Result<Leaving, Failure> {
        let mut out = Leaving::default();
        for path in &task.release {
            allow(&task.ty, path, self.allowed)?;
            let start = Expr::value(Value::Artifact(output.clone()));
            let expr =
                path.iter().fold(start, |of, name| Expr::Field { of: Box::new(of), name: name.clone() });
            let value = expr::resolve(&expr, &LocalManifests(self.store)).map_err(|e| {
                Failure::input(format!("{} cannot be released: {e}", described(&task.ty, path)))
            })?;
            let part = self.part(value, &described(&task.ty, path), &mut out)?;
            out.released.insert(path.join("."), part);
        }
        Ok(out)
    }

    fn part(&self, value: Value, what: &str, out: &mut Leaving) -> Result<Released, Failure> {
        let refuse = |why: &str| Err(Failure::input(format!("{what} cannot be released: {why}")));
        Ok(Released::Json(match value {
            v if v.is_absent() => Json::Null,
            Value::Bool(b) => b.into(),
            Value::Int(i) => i.into(),
            Value::Float(x) => x.into(),
            Value::Mix(terms) => {
                let known = terms.into_iter().filter(|t| self.knows(&t.name));
                Json::Object(known.map(|t| (t.name, t.weight.into())).collect())
            }
            Value::Json(Json::Object(record)) => numbers(&record),
            Value::Artifact(a) => match a.ty {
                ArtifactType::Metrics => match self.store.manifest(&a)?.value {
                    Json::Object(record) => numbers(&record),
                    _ => return refuse("it is not a record of numbers"),
                },
                ArtifactType::Selection => self.selection(&self.store.manifest(&a)?),
                // The name of a public artifact: which one was chosen.
                ArtifactType::Pllm | ArtifactType::Model if a.private_to.is_none() => {
                    return Ok(Released::Artifact(a));
                }
                ArtifactType::Pllm if self.allowed.pllm => {
                    return self.pllm(&a, what, out).map(Released::Artifact);
                }
                _ => return refuse("it is not made of numbers"),
            },
            _ => return refuse("it is not a number, a choice or a model"),
        }))
    }

    /// Whether a name or word may leave: one of our own, or one of the public catalog.
    fn knows(&self, name: &str) -> bool {
        SELECTION_WORDS.contains(&name) || self.known.contains(name)
    }

    fn selection(&self, manifest: &Manifest) -> Json {
        let fields = SELECTION_FIELDS.iter().filter(|f| **f != "mix" || self.allowed.mix);
        let kept = fields.filter_map(|f| {
            let value = self.scrub(manifest.value.get(f)?, &|key| self.knows(key))?;
            Some(((*f).to_owned(), value))
        });
        Json::Object(kept.collect())
    }

    /// A value with everything taken out that is not a number, a truth value or a known name.
    fn scrub(&self, value: &Json, key: &dyn Fn(&str) -> bool) -> Option<Json> {
        match value {
            Json::Null | Json::Bool(_) | Json::Number(_) => Some(value.clone()),
            Json::String(s) => self.knows(s).then(|| value.clone()),
            Json::Array(items) => {
                Some(Json::Array(items.iter().filter_map(|v| self.scrub(v, key)).collect()))
            }
            Json::Object(fields) => {
                let kept = fields.iter().filter(|(k, _)| key(k));
                Some(Json::Object(kept.filter_map(|(k, v)| Some((k.clone(), self.scrub(v, key)?))).collect()))
            }
        }
    }

    /// A private pLLM as a public artifact: its weights and configuration, its numbers, its base.
    fn pllm(&self, a: &ArtifactRef, what: &str, out: &mut Leaving) -> Result<ArtifactRef, Failure> {
        let private = self.store.manifest(a)?;
        let mut uses = private.uses;
        if uses.get("base").is_some_and(|b| b.private_to.is_some()) {
            let m = format!("{what} cannot be released: its base is private to this device itself");
            return Err(Failure::input(m));
        }
        // What else it was made from may be private; it works without.
        uses.retain(|_, u| u.private_to.is_none());
        let folder = self.store.materialize(a)?;
        let files = private.files.into_iter().filter(|(name, _)| is_model_file(name));
        let words = |s: &Json| matches!(s, Json::String(w) if PLLM_WORDS.contains(&w.as_str()));
        let value = match &private.value {
            Json::Object(fields) => {
                let kept = fields.iter().filter(|(k, _)| is_plain_key(k)).filter_map(|(k, v)| {
                    let whole = match v {
                        Json::Array(items) => items.iter().all(&words),
                        other => words(other),
                    };
                    let v = if whole { v.clone() } else { self.scrub(v, &is_plain_key)? };
                    Some((k.clone(), v))
                });
                Json::Object(kept.collect())
            }
            _ => Json::Null,
        };
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

/// The numbers and truth values of a record, by name; everything else is left out.
fn numbers(record: &Map<String, Json>) -> Json {
    let kept = record.iter().filter(|(k, v)| is_plain_key(k) && (v.is_number() || v.is_boolean()));
    Json::Object(kept.map(|(k, v)| (k.clone(), v.clone())).collect())
}

/// Whether a key looks like the name of a metric rather than like text.
fn is_plain_key(key: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    !key.is_empty() && key.len() <= LONGEST_NAME && key.chars().all(plain)
}

/// Whether a file belongs to a model in its published format.
fn is_model_file(name: &str) -> bool {
    const NAMES: &[&str] = &[
        "adapter_config.json",
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "model.safetensors.index.json",
    ];
    NAMES.contains(&name) || (name.ends_with(".safetensors") && !name.contains('/'))
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
                let text = std::fs::read(&at).map_err(|e| Failure::io(&at, &e))?;
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
