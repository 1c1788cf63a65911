//! Whether a private task may run at all: what it needs, found out here, against what the owner approved.
//!
//! All of this happens before any private value is looked at, and depends on the task, on public artifacts and on
//! what was approved alone: that a task is refused says nothing about data. Whatever public artifact a stage opens
//! later is judged once more, since which one that is may follow from private values.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use headstart_content::read_bounded;
use headstart_inspect::{Part, PartKind, inspect};
use headstart_protocol::contract::{
    NOT_APPROVED, Proposal, Role, StageArguments, StageCondition, Unresolved, stage_name,
};
use headstart_protocol::task::Task;
use headstart_protocol::{ArtifactRef, Digest, Failure, FailureClass, FileRef, Manifest};
use headstart_transport::PublicKey;

use crate::contract::{Approval, Contract, Contracts, ModelInfo, Pending};
use crate::error::DeviceError;
use crate::state::State;
use crate::store::Public;

/// Bytes of a tokenizer or template at most.
pub(crate) const LARGEST_TEXT: u64 = 64 << 20;
/// Models of a proposal that are looked into before it is shown to the owner.
const MOST_LOOKED_INTO: usize = 32;
/// Models of a proposal whose files are shown to the owner.
const MOST_DESCRIBED: usize = 64;
/// Models whose parts are remembered.
const REMEMBERED: usize = 1024;

/// What guards private data: whose proposals count, and who approves them.
pub(crate) struct Gate {
    pub(crate) engine: PublicKey,
    pub(crate) approval: Approval,
    /// Whether an adapter has to be approved too.
    pub(crate) pin_adapters: bool,
    parts: Mutex<BTreeMap<Digest, Vec<Part>>>,
}

/// A private task that may run, with what was approved at that moment.
pub(crate) struct Admitted {
    contract: Contract,
}

/// What a task needs.
pub(crate) struct Needs {
    proposal: Proposal,
    /// The models among it, with their manifests.
    models: Vec<Manifest>,
}

impl Needs {
    /// The models among it.
    pub(crate) fn models(&self) -> impl Iterator<Item = Digest> {
        self.models.iter().map(Manifest::id)
    }
}

impl Gate {
    pub(crate) fn new(engine: PublicKey, approval: Approval, pin_adapters: bool) -> Self {
        Self { engine, approval, pin_adapters, parts: Mutex::default() }
    }

    /// What a task needs, given its decisions over private values and the public artifacts that are downloaded
    /// for it.
    ///
    /// # Errors
    /// [`FailureClass::Input`] for a task that cannot be judged: its engine has left a public part open.
    pub(crate) fn needs<'m>(
        &self,
        task: &Task,
        decisions: &[StageCondition],
        named: impl IntoIterator<Item = &'m Manifest>,
    ) -> Result<Needs, Failure> {
        let mut proposal = Proposal::default();
        proposal.add_stage(&task.kind, task.version, task.program.as_ref(), &task.ty, &task.release);
        let of = stage_name(&task.kind, task.program.as_ref());
        proposal.arguments.insert(StageArguments::asked(&of, &task.args).map_err(|e| unresolved(&e))?);
        proposal.conditions.extend(decisions.iter().cloned());
        let mut models = Vec::new();
        for manifest in named {
            let counts = match Role::of(manifest) {
                Role::Data => false,
                Role::Adapter { .. } => self.pin_adapters,
                Role::Model => true,
            };
            if counts {
                proposal.models.insert(manifest.id());
                models.push(manifest.clone());
            }
        }
        Ok(Needs { proposal, models })
    }

    /// Lets a task through, or says why not. `look` gives what of a model's files handles text, downloading
    /// them where needed.
    ///
    /// # Errors
    /// [`FailureClass::Denied`] where something was not approved: that is kept for the owner. Those of `look`.
    pub(crate) async fn admit(
        &self,
        state: &State,
        task: &Task,
        needs: &Needs,
        models: &dyn Models,
    ) -> Result<Admitted, Failure> {
        let contracts = Contracts::new(state);
        let mut parts = Vec::new();
        for manifest in &needs.models {
            let found = models.parts(self, manifest).await?;
            parts.extend(found.into_iter().filter(|p| p.conditional.is_some()).map(|p| p.digest));
        }
        let missing = |contract: &Contract| {
            !needs.proposal.without(&contract.approved).is_empty()
                || parts.iter().any(|digest| !contract.conditional.contains(digest))
        };
        let kept = match &self.approval {
            Approval::Fixed(contract) => Some((**contract).clone()),
            _ => contracts.of(&self.engine).map_err(|e| unreadable(&e))?.map(|approved| approved.contract),
        };
        let first = kept.is_none() && self.approval == Approval::First;
        let contract = kept.unwrap_or_default();
        if !missing(&contract) && !first {
            return Ok(Admitted { contract });
        }
        let mut wanted = task.proposal.clone().unwrap_or_default();
        wanted.add(&needs.proposal);
        if !wanted.is_bounded() {
            wanted = needs.proposal.clone();
        }
        if !wanted.is_bounded() {
            return Err(not_approved("the task needs more than a proposal can hold"));
        }
        let infos = self.describe(&wanted, &needs.models, models).await;
        if first {
            let none = BTreeSet::new();
            let approved =
                contracts.approve(&self.engine, &wanted, &infos, &none).map_err(|e| unreadable(&e))?;
            tracing::warn!("approved the engine's first proposal, {} (--approve first)", wanted.digest());
            if !missing(&approved.contract) {
                return Ok(Admitted { contract: approved.contract });
            }
        }
        let digest = wanted.digest();
        let waits = Pending {
            proposal: wanted,
            models: infos,
            run: cut(&task.run),
            stage: cut(&task.name),
            time: jiff::Timestamp::now(),
        };
        contracts.wait(&self.engine, waits).map_err(|e| unreadable(&e))?;
        let help = format!(
            "`headstart-device contract` shows what it needs; `headstart-device approve {digest}` approves it"
        );
        Err(not_approved(&help))
    }

    /// What can be said of a proposal's models.
    async fn describe(
        &self,
        wanted: &Proposal,
        needed: &[Manifest],
        models: &dyn Models,
    ) -> BTreeMap<Digest, ModelInfo> {
        let mut infos = BTreeMap::new();
        let mut looked_into = 0;
        for id in &wanted.models {
            let known = needed.iter().find(|m| m.id() == *id).cloned();
            let manifest = match known {
                Some(manifest) => Some(manifest),
                // One that the engine does not give out cannot be used either.
                None if infos.len() < MOST_DESCRIBED => models.manifest(id).await.ok(),
                None => None,
            };
            let Some(manifest) = manifest else { continue };
            looked_into += 1;
            let parts = match looked_into <= MOST_LOOKED_INTO {
                true => models.parts(self, &manifest).await.ok(),
                false => None,
            };
            infos.insert(*id, ModelInfo::new(&manifest, parts));
        }
        infos
    }

    /// What of a model handles text, from its files in the store.
    ///
    /// # Errors
    /// Those of reading them.
    pub(crate) fn parts(&self, store: &Public, manifest: &Manifest) -> Result<Vec<Part>, Failure> {
        self.parts_of(manifest, |name, file| {
            let missing =
                || Failure::new(FailureClass::MissingArtifact, format!("`{name}` was not downloaded"));
            store.blob(&file.digest).ok_or_else(missing)
        })
    }

    /// What of a model handles text, from its files, which lie where `find` says.
    fn parts_of(
        &self,
        manifest: &Manifest,
        find: impl Fn(&str, &FileRef) -> Result<PathBuf, Failure>,
    ) -> Result<Vec<Part>, Failure> {
        let id = manifest.id();
        let remembered = || self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(parts) = remembered().get(&id) {
            return Ok(parts.clone());
        }
        let mut unread = Vec::new();
        let names = manifest.files.keys().map(String::as_str);
        let parts = inspect(names, |name| -> Result<Option<Vec<u8>>, Failure> {
            let Some(file) = manifest.files.get(name) else { return Ok(None) };
            if file.size > LARGEST_TEXT {
                return Err(Failure::input(format!("`{name}` is too large to be checked")));
            }
            let at = find(name, file)?;
            read_bounded(&at, LARGEST_TEXT).map_err(crate::store::content_failure)
        });
        let mut parts = match parts {
            Ok(parts) => parts,
            Err(f) if f.class == FailureClass::Input => {
                unread.push(f.message);
                Vec::new()
            }
            Err(f) => return Err(f),
        };
        parts.extend(unread.into_iter().map(|why| Part {
            kind: PartKind::Tokenizer,
            digest: id,
            conditional: Some(why),
        }));
        let mut known = remembered();
        if known.len() >= REMEMBERED {
            known.clear();
        }
        known.insert(id, parts.clone());
        Ok(parts)
    }

    /// Whether a stage over private data may open a public artifact.
    ///
    /// # Errors
    /// [`FailureClass::Denied`] where it or what it is part of was not approved.
    pub(crate) fn opens(
        &self,
        admitted: &Admitted,
        store: &Public,
        artifact: &ArtifactRef,
        manifest: &Manifest,
    ) -> Result<(), Failure> {
        let approved = |id: &Digest| admitted.contract.approved.models.contains(id);
        let refused = || {
            let m =
                format!("opened {:?} {}, which the owner has not approved", artifact.ty, artifact.id.short());
            Err(Failure::new(FailureClass::Denied, m))
        };
        match Role::of(manifest) {
            Role::Data => Ok(()),
            Role::Adapter { base } if base.private_to.is_none() => {
                let allowed = !self.pin_adapters || approved(&artifact.id);
                if allowed && approved(&base.id) { Ok(()) } else { refused() }
            }
            Role::Model if approved(&artifact.id) => {
                let parts = self.parts(store, manifest)?;
                let fine =
                    |p: &Part| p.conditional.is_none() || admitted.contract.conditional.contains(&p.digest);
                if parts.iter().all(fine) { Ok(()) } else { refused() }
            }
            Role::Adapter { .. } | Role::Model => refused(),
        }
    }
}

impl Gate {
    /// Whether a stage may open a model that was made or found on this device. Its owner need not approve it,
    /// but an engine may have chosen it for its template.
    ///
    /// # Errors
    /// [`FailureClass::Denied`] where its template or tokenizer looks at content and was not approved.
    pub(crate) fn opens_own(
        &self,
        admitted: &Admitted,
        folder: &Path,
        manifest: &Manifest,
    ) -> Result<(), Failure> {
        if Role::of(manifest) != Role::Model {
            return Ok(());
        }
        let parts = self.parts_of(manifest, |name, _| Ok(folder.join(name)))?;
        let looks = |p: &&Part| p.conditional.is_some() && !admitted.contract.conditional.contains(&p.digest);
        let Some(part) = parts.iter().find(looks) else { return Ok(()) };
        let (name, why) = (part.kind.name(), part.conditional.as_deref().unwrap_or_default());
        let m = format!("the {name} of a model on this device may look at content: {why}");
        let help = format!("`headstart-device approve --conditional {}` approves it", part.digest);
        Err(Failure::new(FailureClass::Denied, m).help(help))
    }
}

/// Gives public artifacts to the gate.
pub(crate) trait Models: Sync {
    /// The manifest of a public artifact.
    fn manifest<'a>(&'a self, id: &'a Digest) -> Later<'a, Manifest>;
    /// What of a model handles text; its files for that are downloaded.
    fn parts<'a>(&'a self, gate: &'a Gate, manifest: &'a Manifest) -> Later<'a, Vec<Part>>;
}

/// A result that takes a download.
pub(crate) type Later<'a, T> =
    std::pin::Pin<Box<dyn std::future::Future<Output = Result<T, Failure>> + Send + 'a>>;

/// A refusal; `why` is for the owner.
pub(crate) fn not_approved(why: &str) -> Failure {
    Failure::new(FailureClass::Denied, NOT_APPROVED).help(why)
}

/// A task that leaves open what follows from public values: an honest engine sends none.
pub(crate) fn unresolved(e: &Unresolved) -> Failure {
    Failure::input(format!("the task cannot be judged: {e}"))
        .help("run the same version of Headstart on the engine and on the device")
}

fn unreadable(e: &DeviceError) -> Failure {
    tracing::error!("{e}");
    not_approved(&e.to_string())
}

/// A name as it is kept.
fn cut(name: &str) -> String {
    name.chars().take(200).collect()
}
