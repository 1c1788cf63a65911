//! Models of the Hugging Face hub: downloads into the cache folder that the hub's own tools use.
//!
//! A model is named by its repository and a revision. [`Hub::resolve`] finds the commit that a branch or tag
//! stands for, so that what a pipeline computes with can be told from what the same branch holds later;
//! [`Hub::download`] brings the files of a commit into the cache, each checked against the digest that the hub
//! states for it; [`Cache::snapshot`] is the folder that they lie in, without any network.
//!
//! What comes from the hub counts as hostile: names lead nowhere, digests are digits, answers end, a file is
//! no longer than the hub says, and it is in its place only once its digest was found to be right.
//!
//! # Layout
//! - [`Repo`], [`Commit`]: names that are safe in a path and in an address.
//! - [`Cache`]: the folder, in the layout that is documented for the hub's tools.
//! - [`Hub`]: the network. `listing`: what a repository holds, and which files of it make a model.

mod cache;
mod download;
mod error;
mod hub;
mod listing;
mod names;

pub use cache::Cache;
pub use error::HubError;
pub use hub::{Hub, Settings};
pub use listing::{FileDigest, ModelFile};
pub use names::{Commit, Repo};

/// How far a download is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Downloaded {
    /// The repository.
    pub repo: String,
    /// Bytes that are here.
    pub bytes: u64,
    /// Bytes in all.
    pub of: u64,
}

/// A model in the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Its commit.
    pub commit: Commit,
    /// The folder of its files.
    pub folder: std::path::PathBuf,
}
