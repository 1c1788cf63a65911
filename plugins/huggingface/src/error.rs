//! What can go wrong with the hub.

use std::path::PathBuf;

use headstart_disk::DiskError;
use headstart_protocol::text::bytes;

/// Why a model of the hub is not here.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HubError {
    /// A name that no repository can have.
    #[error("`{text}` is no model of the hub: expected owner/name")]
    NoRepo {
        /// What was given.
        text: String,
    },
    /// A revision that no branch, tag or commit can have.
    #[error("`{text}` is no revision of a model: expected a branch, a tag, or a commit's 40 digits")]
    NoRevision {
        /// What was given.
        text: String,
    },
    /// A setting of the environment that cannot be used.
    #[error("{name}: {why}")]
    Setting {
        /// The variable.
        name: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// The hub knows no such repository, or does not say so to whoever has no access.
    #[error("the hub ({endpoint}) has no model {repo} that this {who} may read")]
    Unknown {
        /// The hub.
        endpoint: String,
        /// The repository.
        repo: String,
        /// `token`, or `machine` without one.
        who: &'static str,
    },
    /// The repository has no such revision.
    #[error("{repo} has no revision `{revision}`")]
    UnknownRevision {
        /// The repository.
        repo: String,
        /// What was asked for.
        revision: String,
    },
    /// Its authors let in whom they choose.
    #[error("{repo} is gated: its authors give access to whom they approve")]
    Gated {
        /// The hub.
        endpoint: String,
        /// The repository.
        repo: String,
    },
    /// The network is off by `HF_HUB_OFFLINE` or `--offline`, and the cache does not have it.
    #[error("{repo} at {revision} is not in the hub's local cache ({}), and nothing is downloaded offline", cache.display())]
    Offline {
        /// The repository.
        repo: String,
        /// What was asked for.
        revision: String,
        /// The cache.
        cache: PathBuf,
    },
    /// The hub could not be reached, or gave up.
    #[error("the hub ({endpoint}): {why}")]
    Unreachable {
        /// The hub.
        endpoint: String,
        /// What happened.
        why: String,
    },
    /// The hub answered something that cannot be.
    #[error("the hub ({endpoint}) says of {repo}: {why}")]
    Answer {
        /// The hub.
        endpoint: String,
        /// The repository.
        repo: String,
        /// What.
        why: String,
    },
    /// The repository holds nothing that is read here.
    #[error("{repo} holds no model that is read here: {why}")]
    NoModel {
        /// The repository.
        repo: String,
        /// What it lacks, or holds instead.
        why: String,
    },
    /// A file has another content than the hub states.
    #[error("{file} of {repo} was downloaded, and its digest is {found} where the hub states {stated}")]
    Digest {
        /// The repository.
        repo: String,
        /// The file.
        file: String,
        /// Of the bytes that came.
        found: String,
        /// What the hub states.
        stated: String,
    },
    /// The disk has no room for it.
    #[error("{repo} needs downloads of {}, but {} are free on the disk, of which 1.1 GB stay free", bytes(*wanted), bytes(*free))]
    NoRoom {
        /// The repository.
        repo: String,
        /// Bytes to be downloaded.
        wanted: u64,
        /// Bytes that are free.
        free: u64,
    },
    /// The cache cannot be written.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// A defect here.
    #[error("{0}")]
    Internal(String),
}

impl HubError {
    /// What to do about it.
    pub fn help(&self) -> Option<String> {
        Some(match self {
            Self::NoRepo { .. } => {
                "write `hf(\"owner/name\")`, as the model's page on the hub shows it".into()
            }
            Self::Unknown { who: "token", .. } => {
                "check the spelling; if the model is private, a token of somebody who may read it is needed \
                 (HF_TOKEN, or `hf auth login`)"
                    .into()
            }
            Self::Unknown { .. } => {
                "check the spelling; if the model is private, log in with `hf auth login` or set HF_TOKEN"
                    .into()
            }
            Self::Gated { endpoint, repo } => {
                format!(
                    "ask for access at {endpoint}/{repo}, then log in with `hf auth login` or set HF_TOKEN"
                )
            }
            Self::Offline { repo, revision, .. } => {
                format!(
                    "run once with the network, or on a machine that has it: hf download {repo} --revision {revision}"
                )
            }
            Self::Unreachable { .. } => {
                "try again: what was downloaded is kept. HF_ENDPOINT names another address of the hub".into()
            }
            Self::Digest { .. } => {
                "the file was removed; try again, and tell the model's authors if it stays".into()
            }
            Self::NoModel { .. } => {
                "name a repository with safetensors files, or download it and use `local`".into()
            }
            Self::NoRoom { .. } => headstart_disk::FULL_HELP.into(),
            Self::Disk(e) if headstart_disk::is_full(&e.source) => headstart_disk::FULL_HELP.into(),
            Self::Disk(e) if headstart_disk::is_refused(&e.source) => headstart_disk::REFUSED_HELP.into(),
            Self::Disk(_)
            | Self::NoRevision { .. }
            | Self::UnknownRevision { .. }
            | Self::Setting { .. }
            | Self::Answer { .. }
            | Self::Internal(_) => return None,
        })
    }
}
