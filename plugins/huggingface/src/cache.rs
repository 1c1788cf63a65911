//! The folder in which the hub's tools keep what they downloaded, in their layout: contents by digest in
//! `blobs`, the files of a commit as links to them in `snapshots/COMMIT`, and the commit of a branch or tag in
//! `refs/NAME`.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use headstart_disk::{Disk, DiskError, Mode, files, read};

use crate::listing::{ModelFile, choose};
use crate::names::{Commit, Repo};

/// Bytes of a file that names a commit, at most.
const REF: u64 = 200;

/// A cache.
#[derive(Clone, Debug)]
pub struct Cache {
    root: PathBuf,
}

impl Cache {
    /// The cache in a folder.
    pub fn new(root: PathBuf) -> Self {
        Self { root }
    }

    /// The folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    fn of(&self, repo: &Repo) -> PathBuf {
        self.root.join(repo.folder())
    }

    /// The folder of a model's files at a commit, whether or not it is there. Another tool may have fetched
    /// some of them.
    pub fn snapshot(&self, repo: &Repo, commit: &Commit) -> PathBuf {
        self.of(repo).join("snapshots").join(commit.as_str())
    }

    /// The folder of a model's files at a commit, if all of them are here as far as that can be told without
    /// the hub: weights, which are downloaded last, and where an index names several files of weights, each of
    /// them.
    pub fn whole(&self, repo: &Repo, commit: &Commit) -> Option<PathBuf> {
        let folder = self.snapshot(repo, commit);
        let names = std::fs::read_dir(&folder).ok()?.flatten().filter(|e| e.path().is_file());
        let names: Vec<String> = names.filter_map(|e| e.file_name().into_string().ok()).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        choose(&names).ok()?;
        let index = folder.join("model.safetensors.index.json");
        let shards = if index.exists() {
            let index: serde_json::Value =
                serde_json::from_slice(&read::whole(&index, read::FACTS).ok()?).ok()?;
            let map = index.get("weight_map")?.as_object()?.clone();
            map.into_iter().filter_map(|(_, file)| file.as_str().map(str::to_owned)).collect()
        } else {
            Vec::new()
        };
        shards.iter().all(|shard| names.contains(&shard.as_str())).then_some(folder)
    }

    /// The commit that a branch or tag stood for when it was asked for last.
    pub fn known(&self, repo: &Repo, revision: &str) -> Option<Commit> {
        let text = read::text(&self.of(repo).join("refs").join(revision), REF).ok()?;
        Commit::parse(text.trim())
    }

    /// Notes the commit that a branch or tag stands for.
    ///
    /// # Errors
    /// If the cache cannot be written.
    pub(crate) fn note(
        &self,
        disk: &dyn Disk,
        repo: &Repo,
        revision: &str,
        commit: &Commit,
    ) -> Result<(), DiskError> {
        let at = self.of(repo).join("refs").join(revision);
        files::create_dir(disk, files::folder_of(&at))?;
        files::write_atomic(disk, &at, commit.as_str().as_bytes(), Mode::Normal)
    }

    /// Where a content lies.
    pub(crate) fn blob(&self, repo: &Repo, file: &ModelFile) -> PathBuf {
        self.of(repo).join("blobs").join(file.digest.digits())
    }

    /// The file whose lock whoever downloads a content holds.
    pub(crate) fn lock(&self, repo: &Repo, file: &ModelFile) -> PathBuf {
        let name = format!("{}.lock", file.digest.digits());
        self.root.join(".locks").join(repo.folder()).join(name)
    }

    /// Whether a file of a commit is here, whole.
    pub(crate) fn has(&self, repo: &Repo, commit: &Commit, file: &ModelFile) -> bool {
        let at = self.snapshot(repo, commit).join(&file.name);
        let Ok(meta) = std::fs::metadata(&at) else { return false };
        meta.is_file() && meta.len() == file.size
    }

    /// Makes a content that is here a file of a commit.
    ///
    /// # Errors
    /// If the cache cannot be written.
    pub(crate) fn link(
        &self,
        disk: &dyn Disk,
        repo: &Repo,
        commit: &Commit,
        file: &ModelFile,
    ) -> Result<(), DiskError> {
        let at = self.snapshot(repo, commit).join(&file.name);
        let folder = files::folder_of(&at);
        files::create_dir(disk, folder)?;
        // From the file's folder up to the one of the repository.
        let up = file.name.split('/').count() + 1;
        let to: PathBuf = std::iter::repeat_n("..", up).collect();
        let to = to.join("blobs").join(file.digest.digits());
        match disk.symlink(&to, &at) {
            // Somebody else was faster, or it leads to a content that was removed.
            Err(e) if e.kind() == ErrorKind::AlreadyExists => {
                if self.has(repo, commit, file) {
                    return Ok(());
                }
                disk.remove_file(&at).map_err(DiskError::at("remove", &at))?;
                disk.symlink(&to, &at).map_err(DiskError::at("create", &at))
            }
            done => done.map_err(DiskError::at("create", &at)),
        }
    }
}
