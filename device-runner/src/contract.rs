//! What the device's owner approved, and what waits for approval.
//!
//! ```text
//! contract.json     by engine key: stages, programs, released fields and models that may be used over private data
//! proposals.json    by engine key: what was refused because nobody had approved it yet
//! ```
//!
//! A file that is damaged approves nothing, and is never taken for one that is not there.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use headstart_content::read_bounded;
use headstart_disk::Disk;
use headstart_inspect::Part;
use headstart_protocol::contract::Proposal;
use headstart_protocol::{Digest, FileRef, Manifest};
use headstart_transport::PublicKey;
use serde::{Deserialize, Serialize};

use crate::error::DeviceError;
use crate::state::{State, hold, write_durably};

/// Bytes of either file at most.
const LARGEST: u64 = 64 << 20;
/// Proposals of an engine that are kept; the oldest go first.
pub(crate) const MOST_PENDING: usize = 8;
/// Files of a model that are kept for its owner to see.
const MOST_FILES: usize = 64;

/// What may be used over private data.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Contract {
    /// Stages, programs, released fields and models.
    pub approved: Proposal,
    /// Chat templates and tokenizers that may treat texts differently by what they say, and were approved all
    /// the same.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub conditional: BTreeSet<Digest>,
}

/// Who approves what an engine proposes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Approval {
    /// The owner, before anything private runs.
    #[default]
    Ask,
    /// The first proposal of an engine is approved as it comes, but for templates and tokenizers that look at
    /// content; everything later waits for the owner.
    First,
    /// This and nothing else is approved.
    Fixed(Box<Contract>),
}

/// A model, as its owner is shown it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelInfo {
    /// Its type.
    pub ty: String,
    /// Its files.
    pub files: BTreeMap<String, FileRef>,
    /// What of it handles text; none where it was not looked into.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parts: Option<Vec<Part>>,
}

impl ModelInfo {
    /// A model of this manifest, whose parts are these.
    pub(crate) fn new(manifest: &Manifest, parts: Option<Vec<Part>>) -> Self {
        let files = manifest.files.iter().take(MOST_FILES).map(|(name, f)| (name.clone(), f.clone()));
        Self { ty: manifest.ty.to_string(), files: files.collect(), parts }
    }
}

/// A proposal that waits for approval.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pending {
    /// All of it.
    pub proposal: Proposal,
    /// Its models, as far as they were looked at.
    pub models: BTreeMap<Digest, ModelInfo>,
    /// The run.
    pub run: String,
    /// The first stage that was refused.
    pub stage: String,
    /// When it was refused last, in UTC.
    pub time: jiff::Timestamp,
}

impl Pending {
    /// By which it is approved.
    pub fn digest(&self) -> Digest {
        self.proposal.digest()
    }

    /// Templates and tokenizers that only the owner can approve, by digest, and that are not approved.
    pub(crate) fn conditional<'p>(&'p self, contract: &'p Contract) -> impl Iterator<Item = &'p Part> {
        let parts = self.models.values().flat_map(|m| m.parts.iter().flatten());
        parts.filter(|p| p.conditional.is_some() && !contract.conditional.contains(&p.digest))
    }

    /// Whether nothing of it is left to approve.
    fn is_covered(&self, contract: &Contract) -> bool {
        self.proposal.without(&contract.approved).is_empty() && self.conditional(contract).next().is_none()
    }
}

/// What was approved of an engine's proposals.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Approved {
    /// What may be used.
    pub contract: Contract,
    /// Its models, for the owner to see.
    #[serde(default)]
    pub models: BTreeMap<Digest, ModelInfo>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ContractFile {
    /// How often the owner approved something or took it back.
    approvals: u64,
    engines: BTreeMap<String, Approved>,
}

type PendingFile = BTreeMap<String, Vec<Pending>>;

/// The contracts of a device, in files that its owner's commands may change while it runs.
pub struct Contracts {
    at: PathBuf,
    pending: PathBuf,
    lock: PathBuf,
    disk: Arc<dyn Disk>,
}

impl Contracts {
    /// Those in a state folder.
    pub fn new(state: &State) -> Self {
        Self {
            at: state.at("contract.json"),
            pending: state.at("proposals.json"),
            lock: state.at("contract.lock"),
            disk: Arc::clone(state.disk()),
        }
    }

    /// How often something was approved or taken back.
    ///
    /// # Errors
    /// As [`Self::of`].
    pub fn approvals(&self) -> Result<u64, DeviceError> {
        Ok(self.read()?.approvals)
    }

    /// What was approved of an engine's proposals; none if nothing ever was.
    ///
    /// # Errors
    /// [`DeviceError::Input`] where the file is damaged, [`DeviceError::State`] where it cannot be read.
    pub fn of(&self, engine: &PublicKey) -> Result<Option<Approved>, DeviceError> {
        Ok(self.read()?.engines.remove(&engine.to_string()))
    }

    /// What waits for approval, oldest first.
    ///
    /// # Errors
    /// As [`Self::of`].
    pub fn pending(&self, engine: &PublicKey) -> Result<Vec<Pending>, DeviceError> {
        let contract = self.of(engine)?.unwrap_or_default().contract;
        let waiting = self.read_pending()?.remove(&engine.to_string()).unwrap_or_default();
        Ok(waiting.into_iter().filter(|p| !p.is_covered(&contract)).collect())
    }

    /// Keeps a proposal for the owner. It takes the place of one that it contains.
    ///
    /// # Errors
    /// As [`Self::of`].
    pub fn wait(&self, engine: &PublicKey, new: Pending) -> Result<(), DeviceError> {
        let _held = hold(&*self.disk, &self.lock)?;
        let contract = self.read()?.engines.remove(&engine.to_string()).unwrap_or_default().contract;
        let mut all = self.read_pending()?;
        let waiting = all.entry(engine.to_string()).or_default();
        waiting.retain(|p| !p.is_covered(&contract) && !p.proposal.without(&new.proposal).is_empty());
        waiting.push(new);
        let over = waiting.len().saturating_sub(MOST_PENDING);
        waiting.drain(..over);
        write_durably(&*self.disk, &self.pending, &json(&all)?)
    }

    /// Approves a proposal, and of its templates and tokenizers that look at content those that are named.
    ///
    /// # Errors
    /// As [`Self::of`].
    pub fn approve(
        &self,
        engine: &PublicKey,
        proposal: &Proposal,
        models: &BTreeMap<Digest, ModelInfo>,
        conditional: &BTreeSet<Digest>,
    ) -> Result<Approved, DeviceError> {
        let _held = hold(&*self.disk, &self.lock)?;
        let mut file = self.read()?;
        let approved = file.engines.entry(engine.to_string()).or_default();
        approved.contract.approved.add(proposal);
        approved.contract.conditional.extend(conditional);
        let known = models.iter().filter(|(id, _)| proposal.models.contains(id));
        approved.models.extend(known.map(|(id, info)| (*id, info.clone())));
        let approved = approved.clone();
        file.approvals += 1;
        write_durably(&*self.disk, &self.at, &json(&file)?)?;
        Ok(approved)
    }

    /// Takes back all that was approved of any engine's proposals. The next proposal is an engine's first
    /// again.
    ///
    /// # Errors
    /// [`DeviceError::State`].
    pub fn reset(&self) -> Result<(), DeviceError> {
        let _held = hold(&*self.disk, &self.lock)?;
        // A damaged file is replaced too. The engine asks again for what was refused once the count changes.
        let lost = || u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap_or(1);
        let approvals = self.read().map_or_else(|_| lost(), |file| file.approvals + 1);
        let file = ContractFile { approvals, ..ContractFile::default() };
        write_durably(&*self.disk, &self.at, &json(&file)?)?;
        write_durably(&*self.disk, &self.pending, b"{}")
    }

    /// Notes that the owner changed something else that tasks were refused for.
    ///
    /// # Errors
    /// As [`Self::of`].
    pub fn changed(&self) -> Result<(), DeviceError> {
        let _held = hold(&*self.disk, &self.lock)?;
        let mut file = self.read()?;
        file.approvals += 1;
        write_durably(&*self.disk, &self.at, &json(&file)?)
    }

    fn read(&self) -> Result<ContractFile, DeviceError> {
        read(&self.at, "so nothing is approved")
    }

    fn read_pending(&self) -> Result<PendingFile, DeviceError> {
        read(&self.pending, "so what waits for approval is not known")
    }
}

fn read<T: Default + serde::de::DeserializeOwned>(at: &Path, so: &str) -> Result<T, DeviceError> {
    let Some(bytes) = read_bounded(at, LARGEST)? else { return Ok(T::default()) };
    serde_json::from_slice(&bytes).map_err(|e| {
        DeviceError::Input(format!(
            "{} is damaged, {so}: {e}; `headstart-device contract --reset` begins anew, with nothing approved",
            at.display()
        ))
    })
}

fn json<T: Serialize>(value: &T) -> Result<Vec<u8>, DeviceError> {
    serde_json::to_vec_pretty(value).map_err(|e| DeviceError::Internal(e.to_string()))
}

#[cfg(test)]
mod tests {
    use headstart_inspect::PartKind;
    use headstart_protocol::Type;
    use headstart_transport::Identity;

    use super::*;

    fn proposal(kinds: &[&str]) -> Proposal {
        let mut p = Proposal::default();
        kinds.iter().for_each(|kind| p.add_stage(kind, 1, None, &Type::Metrics, &[]));
        p
    }

    fn pending(kinds: &[&str]) -> Pending {
        Pending {
            proposal: proposal(kinds),
            models: BTreeMap::new(),
            run: "r".into(),
            stage: "s".into(),
            time: jiff::Timestamp::UNIX_EPOCH,
        }
    }

    fn with_contracts(test: impl FnOnce(&Contracts, &Path, PublicKey)) {
        let dir = tempfile::tempdir().expect("tempdir");
        let state = State::open(dir.path(), Arc::new(headstart_disk::SystemDisk)).expect("opens");
        test(&Contracts::new(&state), dir.path(), Identity::from_secret(&[7; 32]).public());
    }

    #[test]
    fn approvals_add_up_last_and_are_one_engines() {
        with_contracts(|contracts, _, engine| {
            assert_eq!(contracts.of(&engine).expect("reads"), None);
            for kinds in [["probe"], ["embed"]] {
                let none = BTreeMap::new();
                contracts.approve(&engine, &proposal(&kinds), &none, &BTreeSet::new()).expect("writes");
            }
            let approved = contracts.of(&engine).expect("reads").expect("approved").contract.approved;
            assert_eq!(approved, proposal(&["embed", "probe"]));
            assert_eq!(contracts.approvals().expect("reads"), 2);
            let other = Identity::from_secret(&[8; 32]).public();
            assert_eq!(contracts.of(&other).expect("reads"), None);
            contracts.reset().expect("writes");
            assert_eq!(contracts.of(&engine).expect("reads"), None);
            assert_eq!(contracts.approvals().expect("reads"), 3, "the engine sees that something changed");
        });
    }

    #[test]
    fn a_proposal_replaces_those_it_contains_and_few_are_kept() {
        with_contracts(|contracts, _, engine| {
            let waiting = || -> Vec<Proposal> {
                contracts.pending(&engine).expect("reads").into_iter().map(|p| p.proposal).collect()
            };
            contracts.wait(&engine, pending(&["probe"])).expect("writes");
            contracts.wait(&engine, pending(&["probe", "embed"])).expect("writes");
            assert_eq!(waiting(), [proposal(&["probe", "embed"])]);
            let none = BTreeMap::new();
            contracts
                .approve(&engine, &proposal(&["probe", "embed"]), &none, &BTreeSet::new())
                .expect("writes");
            assert_eq!(waiting(), [], "approved");
            for i in 0..1000 {
                contracts.wait(&engine, pending(&[&format!("flood-{i}")])).expect("writes");
            }
            assert_eq!(waiting().len(), MOST_PENDING);
            assert_eq!(waiting().last(), Some(&proposal(&["flood-999"])));
        });
    }

    #[test]
    fn what_looks_at_content_is_approved_by_its_own_digest() {
        with_contracts(|contracts, _, engine| {
            let template = Digest::of(b"template");
            let part = |conditional: Option<&str>| Part {
                kind: PartKind::Template,
                digest: template,
                conditional: conditional.map(str::to_owned),
            };
            let info =
                ModelInfo { ty: "Model".into(), files: BTreeMap::new(), parts: Some(vec![part(Some("x"))]) };
            let model = Digest::of(b"model");
            let mut waiting = pending(&["probe"]);
            waiting.proposal.models.insert(model);
            waiting.models.insert(model, info);
            contracts.wait(&engine, waiting.clone()).expect("writes");
            let approve = |conditional| {
                contracts.approve(&engine, &waiting.proposal, &waiting.models, &conditional).expect("writes");
                contracts.pending(&engine).expect("reads").len()
            };
            assert_eq!(approve(BTreeSet::new()), 1, "the template still waits");
            assert_eq!(approve([Digest::of(b"another")].into()), 1);
            assert_eq!(approve([template].into()), 0);
        });
    }

    #[test]
    fn a_damaged_file_approves_nothing_until_it_is_reset() {
        with_contracts(|contracts, dir, engine| {
            let none = BTreeMap::new();
            contracts.approve(&engine, &proposal(&["probe"]), &none, &BTreeSet::new()).expect("writes");
            for damage in ["", "{", "[]", "{\"approvals\":1,\"engines\":{},\"more\":1}"] {
                std::fs::write(dir.join("contract.json"), damage).expect("writes");
                let error = contracts.of(&engine).expect_err("damaged").to_string();
                assert!(error.contains("contract.json") && error.contains("--reset"), "{error}");
                assert!(contracts.approve(&engine, &proposal(&["x"]), &none, &BTreeSet::new()).is_err());
            }
            contracts.reset().expect("writes");
            assert_eq!(contracts.of(&engine).expect("reads"), None);
        });
    }
}
