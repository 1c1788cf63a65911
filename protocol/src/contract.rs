//! What the owner of a device approves: which stages may run over private data, what they release, and which
//! models they are given.
//!
//! An engine sends the [`Proposal`] of a run with each task, so that one approval covers the run. The device
//! finds out by itself what a task needs, in the same form, and runs it only if all of that was approved.

mod arguments;
mod conditions;

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::artifact::{ArtifactRef, ArtifactType, Manifest};
use crate::digest::Digest;
use crate::kinds;
use crate::text::folded_name;
use crate::types::Type;

pub use arguments::StageArguments;
use conditions::LONGEST_CONDITION;
pub use conditions::{PlannedSources, Source, Sources, StageCondition, asked_conditions, planned_conditions};

/// A task cannot be judged: what a part of it comes to follows from public values, and its engine has not said it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{at}` has a part that follows from public values alone, which the engine resolves before it sends a task"
)]
pub struct Unresolved {
    /// The argument, or `when`.
    pub at: String,
}

/// What an engine is told where the owner has not approved what a task needs; of class
/// [`crate::FailureClass::Denied`].
pub const NOT_APPROVED: &str = "the device's owner has not approved what the task needs";

/// Entries of each kind in a proposal, and bytes of a name, at most.
const MOST: usize = 1024;
/// Bytes of a name at most.
const LONGEST: usize = 200;

/// The files of an adapter over a base. One with other files is judged like a whole model.
const ADAPTER_FILES: [&str; 2] = ["adapter_config.json", "adapter_model.safetensors"];
/// Files that make whatever holds them a model, also where their names are spelled in other cases.
const MODEL_FILES: [&str; 5] =
    ["config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "chat_template.json"];

/// What is to be approved, or was.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Proposal {
    /// Built-in stages.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub stages: BTreeSet<StageKind>,
    /// Custom stages.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub programs: BTreeSet<ProgramStage>,
    /// What stages release.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub releases: BTreeSet<ReleasedField>,
    /// The arguments of stages: paths, which rows and how many, prompts, seeds, and which of them are given.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub arguments: BTreeSet<StageArguments>,
    /// What decides over private values whether, on what, or for how long a stage works.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub conditions: BTreeSet<StageCondition>,
    /// Models and spaces, whose manifests these are the digests of.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub models: BTreeSet<Digest>,
}

/// A built-in stage of a version.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StageKind {
    /// Its kind.
    pub kind: String,
    /// Its version.
    pub version: u32,
}

/// A stage of a program.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProgramStage {
    /// The program's digest.
    pub program: Digest,
    /// The stage.
    pub stage: String,
}

/// A field of a stage's output that leaves.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReleasedField {
    /// The stage's kind; of a custom stage `stage@digest`.
    pub of: String,
    /// The output's type.
    pub ty: String,
    /// The field's path, joined with `.`; empty for the whole output.
    pub path: String,
}

impl Proposal {
    /// Its identity, by which it is approved.
    pub fn digest(&self) -> Digest {
        Digest::of_json(self)
    }

    /// Adds a stage, and what it releases.
    pub fn add_stage(
        &mut self,
        kind: &str,
        version: u32,
        program: Option<&Digest>,
        ty: &Type,
        release: &[Vec<String>],
    ) {
        let of = stage_name(kind, program);
        match program {
            None => {
                self.stages.insert(StageKind { kind: kind.to_owned(), version });
            }
            Some(program) => {
                self.programs.insert(ProgramStage { program: *program, stage: last_part(kind).to_owned() });
            }
        }
        let ty = ty.present().to_string();
        let field =
            |path: &Vec<String>| ReleasedField { of: of.clone(), ty: ty.clone(), path: path.join(".") };
        self.releases.extend(release.iter().map(field));
    }

    /// Adds all of another.
    pub fn add(&mut self, other: &Self) {
        self.stages.extend(other.stages.iter().cloned());
        self.programs.extend(other.programs.iter().cloned());
        self.releases.extend(other.releases.iter().cloned());
        self.arguments.extend(other.arguments.iter().cloned());
        self.conditions.extend(other.conditions.iter().cloned());
        self.models.extend(other.models.iter().copied());
    }

    /// What of it is not in another.
    pub fn without(&self, other: &Self) -> Self {
        Self {
            stages: self.stages.difference(&other.stages).cloned().collect(),
            programs: self.programs.difference(&other.programs).cloned().collect(),
            releases: self.releases.difference(&other.releases).cloned().collect(),
            arguments: self.arguments.difference(&other.arguments).cloned().collect(),
            conditions: self.conditions.difference(&other.conditions).cloned().collect(),
            models: self.models.difference(&other.models).copied().collect(),
        }
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether it is small enough to be kept and read.
    pub fn is_bounded(&self) -> bool {
        let counts = [
            self.stages.len(),
            self.programs.len(),
            self.releases.len(),
            self.arguments.len(),
            self.conditions.len(),
            self.models.len(),
        ];
        let names = self.stages.iter().map(|s| &s.kind).chain(self.programs.iter().map(|p| &p.stage));
        let fields = self.releases.iter().flat_map(|r| [&r.of, &r.ty, &r.path]);
        let places = self.conditions.iter().flat_map(|c| [&c.of, &c.at]);
        counts.into_iter().all(|n| n <= MOST)
            && names.chain(fields).chain(places).all(|name| name.len() <= LONGEST)
            && self.conditions.iter().all(|c| c.rule.len() <= LONGEST_CONDITION)
            && self.arguments.iter().all(|a| a.of.len() <= LONGEST && a.is_bounded(LONGEST))
    }
}

/// How contracts name a stage: its kind, and for a custom stage `stage@digest`, whatever a pipeline calls its
/// program.
pub fn stage_name(kind: &str, program: Option<&Digest>) -> String {
    match program {
        None => kind.to_owned(),
        Some(program) => format!("{}@{program}", last_part(kind)),
    }
}

fn last_part(kind: &str) -> &str {
    kind.rsplit('.').next().unwrap_or_default()
}

/// What an artifact is to a stage that is given it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Role {
    /// It decides what is computed: weights, tokenizer, template, or a space.
    Model,
    /// An adapter: it may be replaced by another over the same base.
    Adapter {
        /// The model that it is for.
        base: ArtifactRef,
    },
    /// Rows, vectors, numbers, a catalog.
    Data,
}

impl Role {
    /// What an artifact of this manifest is, whatever its type says where its files say more.
    pub fn of(manifest: &Manifest) -> Self {
        let ty = ArtifactType::of(&manifest.ty);
        let adapts = !manifest.files.is_empty()
            && manifest.files.keys().all(|name| ADAPTER_FILES.contains(&name.as_str()));
        if ty == Some(ArtifactType::Pllm)
            && adapts
            && let Some(base) = manifest.uses.get("base")
        {
            return Self::Adapter { base: base.clone() };
        }
        let is_model =
            matches!(ty, Some(ArtifactType::Model | ArtifactType::Pllm | ArtifactType::Space) | None)
                || manifest.files.keys().any(|name| MODEL_FILES.contains(&folded_name(name).as_str()));
        if is_model { Self::Model } else { Self::Data }
    }
}

/// Whether an artifact cannot be used without what it refers to under a name: an adapter needs its base, a
/// space its model.
pub fn is_part(whose: ArtifactType, name: &str) -> bool {
    whose == ArtifactType::Space || (whose == ArtifactType::Pllm && name == "base")
}

/// Whether results of a kind are there before the run computes anything, so that a proposal can wait for them:
/// models and spaces that are declared, and what only reads a folder.
pub fn is_source(kind: &str) -> bool {
    kinds::find(kind).is_some_and(|k| k.role != kinds::Role::Stage || !k.cacheable)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::artifact::FileRef;

    #[test]
    fn a_proposal_is_known_by_its_content() {
        let stage = |version, path: &str| {
            let mut p = Proposal::default();
            p.add_stage("evaluate", version, None, &Type::Metrics.optional(), &[vec![path.to_owned()]]);
            p
        };
        let (one, other) = (stage(1, "loss"), stage(1, "bleu"));
        assert_eq!(one.digest(), stage(1, "loss").digest());
        assert_ne!(one.digest(), other.digest());
        assert_ne!(one.digest(), stage(2, "loss").digest());
        let mut both = one.clone();
        both.add(&other);
        let new = both.without(&one);
        assert!(new.stages.is_empty());
        assert_eq!(new.releases.iter().map(|r| r.path.as_str()).collect::<Vec<_>>(), ["bleu"]);
        assert!(one.without(&both).is_empty());
        let json = serde_json::to_string(&both).expect("JSON");
        assert_eq!(serde_json::from_str::<Proposal>(&json).expect("itself"), both);
    }

    #[test]
    fn a_custom_stage_is_known_by_its_program_whatever_the_pipeline_calls_it() {
        let stage = |kind: &str, program: &[u8]| {
            let mut p = Proposal::default();
            p.add_stage(kind, 1, Some(&Digest::of(program)), &Type::Metrics, &[vec!["x".into()]]);
            p.digest()
        };
        assert_eq!(stage("words.count", b"a"), stage("other.count", b"a"));
        assert_ne!(stage("words.count", b"a"), stage("words.count", b"b"));
    }

    #[test]
    fn a_flood_is_not_kept() {
        let mut p = Proposal::default();
        for i in 0..MOST {
            p.models.insert(Digest::of(&i.to_le_bytes()));
        }
        assert!(p.is_bounded());
        p.models.insert(Digest::of(b"one more"));
        assert!(!p.is_bounded());
        let mut p = Proposal::default();
        p.add_stage(&"x".repeat(LONGEST + 1), 1, None, &Type::Metrics, &[]);
        assert!(!p.is_bounded());
        let condition = |rule: String| StageCondition { of: "merge".into(), at: "when".into(), rule };
        let conditions = |n: usize, rule: &str| Proposal {
            conditions: (0..n).map(|i| condition(format!("{rule}{i}"))).collect(),
            ..Proposal::default()
        };
        assert!(conditions(MOST, "x").is_bounded());
        assert!(!conditions(MOST + 1, "x").is_bounded());
        assert!(!conditions(1, &"x".repeat(LONGEST_CONDITION)).is_bounded());
    }

    #[test]
    fn what_an_artifact_is_follows_from_its_files() {
        let base = ArtifactRef { id: Digest::of(b"base"), ty: ArtifactType::Model, private_to: None };
        let role = |ty: Type, files: &[&str], uses: bool| {
            let file = |name: &&str| ((*name).to_owned(), FileRef { digest: Digest::of(b"x"), size: 1 });
            let uses = if uses { [("base".to_owned(), base.clone())].into() } else { [].into() };
            Role::of(&Manifest { ty, files: files.iter().map(file).collect(), value: json!({}), uses })
        };
        let adapter = ["adapter_config.json", "adapter_model.safetensors"];
        assert_eq!(role(Type::Pllm, &adapter, true), Role::Adapter { base: base.clone() });
        assert_eq!(role(Type::Pllm, &adapter, false), Role::Model, "over nothing");
        let smuggled = ["adapter_config.json", "adapter_model.safetensors", "tokenizer.json"];
        assert_eq!(role(Type::Pllm, &smuggled, true), Role::Model, "with a tokenizer");
        assert_eq!(role(Type::Pllm, &[], true), Role::Model);
        assert_eq!(role(Type::Space, &[], false), Role::Model);
        assert_eq!(role(Type::Dataset, &["rows.jsonl"], false), Role::Data);
        assert_eq!(
            role(Type::Dataset, &["config.json", "model.safetensors"], false),
            Role::Model,
            "in disguise"
        );
    }
}
