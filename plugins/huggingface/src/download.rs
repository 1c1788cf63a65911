//! Brings the files of a model into the cache.

use std::io::{ErrorKind, Read, SeekFrom};
use std::path::Path;
use std::time::Duration;

use fs4::fs_std::FileExt;
use headstart_disk::{DiskError, Mode, Open, files};
use headstart_env::backoff::Backoff;
use reqwest::StatusCode;
use sha1::Sha1;
use sha2::{Digest as _, Sha256};

use crate::error::HubError;
use crate::hub::{Hub, longest};
use crate::listing::{FileDigest, ModelFile};
use crate::names::{Commit, Repo};
use crate::{Downloaded, Snapshot};

/// Bytes of the disk that stay free.
const RESERVE: u64 = 1 << 30;
/// Pauses between tries of a file that breaks off.
const RETRY: Backoff =
    Backoff { first: Duration::from_secs(1), factor: 2.0, longest: Duration::from_secs(30), tries: Some(5) };
/// How often it is looked again whether somebody else has downloaded a file.
const LOCKED: Duration = Duration::from_millis(200);

impl Hub {
    /// A model at the commit that a revision stands for, with all files that make it: those that the cache
    /// lacks are downloaded. `told` hears how far that is. A revision that is no commit is noted with its
    /// commit, as the hub's tools do.
    ///
    /// # Errors
    /// As [`Hub::resolve`]; [`HubError::NoModel`], [`HubError::Digest`], [`HubError::NoRoom`],
    /// [`HubError::Disk`].
    pub async fn download(
        &self,
        repo: &Repo,
        revision: &str,
        told: &(dyn Fn(Downloaded) + Sync),
    ) -> Result<Snapshot, HubError> {
        if let Some(commit) = Commit::parse(revision)
            && let Some(folder) = self.cache.whole(repo, &commit)
        {
            return Ok(Snapshot { commit, folder });
        }
        if self.offline() {
            let commit = self.resolve(repo, revision).await?;
            let folder = self.cache.snapshot(repo, &commit);
            return match folder.is_dir() {
                true => Ok(Snapshot { commit, folder }),
                false => Err(self.is_offline(repo, revision)),
            };
        }
        let listing = self.listing(repo, revision).await?;
        let (commit, disk) = (&listing.commit, &*self.env.disk);
        if Commit::parse(revision).is_some_and(|asked| asked != *commit) {
            return Err(self.wrong(repo, format!("that commit {revision} is {commit}")));
        }
        let missing: Vec<&ModelFile> =
            listing.files.iter().filter(|f| !self.cache.has(repo, commit, f)).collect();
        let of = missing.iter().fold(0u64, |sum, f| sum.saturating_add(f.size));
        self.has_room(repo, of)?;
        let mut bytes = 0;
        for file in missing {
            let progress = |here: u64| told(Downloaded { repo: repo.to_string(), bytes: bytes + here, of });
            self.blob(repo, commit, file, &progress).await?;
            self.cache.link(disk, repo, commit, file)?;
            bytes += file.size;
        }
        if Commit::parse(revision).is_none() {
            self.cache.note(disk, repo, revision, commit)?;
        }
        let folder = self.cache.snapshot(repo, commit);
        Ok(Snapshot { commit: listing.commit, folder })
    }

    fn has_room(&self, repo: &Repo, wanted: u64) -> Result<(), HubError> {
        let mut at = self.cache.root();
        while !at.exists() {
            let Some(above) = at.parent() else { return Ok(()) };
            at = above;
        }
        match self.env.disk.free_space(at) {
            Ok(free) if wanted.saturating_add(RESERVE) > free && wanted > 0 => {
                Err(HubError::NoRoom { repo: repo.to_string(), wanted, free })
            }
            _ => Ok(()),
        }
    }

    /// Brings a content into the cache; one process does at a time.
    async fn blob(
        &self,
        repo: &Repo,
        commit: &Commit,
        file: &ModelFile,
        told: &(dyn Fn(u64) + Sync),
    ) -> Result<(), HubError> {
        let disk = &*self.env.disk;
        let (at, lock) = (self.cache.blob(repo, file), self.cache.lock(repo, file));
        for needed in [&at, &lock] {
            files::create_dir(disk, files::folder_of(needed))?;
        }
        let lock_file = disk.open(&lock, Open::Update).map_err(DiskError::at("create", &lock))?;
        while !lock_file.system().try_lock_exclusive().map_err(DiskError::at("lock", &lock))? {
            self.env.clock.sleep(LOCKED).await;
        }
        if std::fs::metadata(&at).is_ok_and(|m| m.is_file() && m.len() == file.size) {
            return Ok(());
        }
        let partial = at.with_extension("incomplete");
        let mut pauses = RETRY.pauses(&*self.env.random);
        loop {
            match self.rest(repo, commit, file, &partial, told).await {
                Err(HubError::Unreachable { endpoint, why }) => {
                    let Some(pause) = pauses.next() else {
                        return Err(HubError::Unreachable { endpoint, why });
                    };
                    tracing::info!("{}: {why}; tried again in {:.0} s", file.name, pause.as_secs_f64());
                    self.env.clock.sleep(pause).await;
                }
                done => break done?,
            }
        }
        let (from, size, digest) = (partial.clone(), file.size, file.digest.clone());
        let found = tokio::task::spawn_blocking(move || digest_of(&from, size, &digest)).await;
        let found = found.map_err(|e| HubError::Internal(e.to_string()))?;
        let found = found.map_err(DiskError::at("read", &partial))?;
        if found != file.digest {
            disk.remove_file(&partial).map_err(DiskError::at("remove", &partial))?;
            return Err(HubError::Digest {
                repo: repo.to_string(),
                file: file.name.clone(),
                found: found.digits().to_owned(),
                stated: file.digest.digits().to_owned(),
            });
        }
        files::sync_file(disk, &partial)?;
        disk.rename(&partial, &at).map_err(DiskError::at("write", &at))?;
        Ok(files::sync_dir(disk, files::folder_of(&at))?)
    }

    /// Downloads what a file lacks.
    async fn rest(
        &self,
        repo: &Repo,
        commit: &Commit,
        file: &ModelFile,
        partial: &Path,
        told: &(dyn Fn(u64) + Sync),
    ) -> Result<(), HubError> {
        let write = |e| HubError::Disk(DiskError::at("write", partial)(e));
        // In a cache that several people share, one of them may have put a link there.
        if partial.is_symlink() {
            self.env.disk.remove_file(partial).map_err(write)?;
        }
        let mut out = self.env.disk.open(partial, Open::Update).map_err(write)?;
        out.set_mode(Mode::Normal).map_err(write)?;
        let mut here = out.system().metadata().map_err(write)?.len();
        if here > file.size {
            // Left by another tool for another content, or damaged.
            out.set_len(0).map_err(write)?;
            here = 0;
        }
        told(here);
        if here == file.size && here > 0 {
            return Ok(());
        }
        let mut answer = self.file(repo, commit, &file.name, here).await?;
        if here > 0 && answer.status() != StatusCode::PARTIAL_CONTENT {
            // The server does not resume: from the start.
            out.set_len(0).map_err(write)?;
            here = 0;
        }
        out.seek(SeekFrom::Start(here)).map_err(write)?;
        let by = self.env.clock.elapsed() + longest(file.size.saturating_sub(here));
        while let Some(chunk) = answer.chunk().await.map_err(|e| self.unreachable(&e))? {
            here += chunk.len() as u64;
            if here > file.size {
                out.set_len(0).map_err(write)?;
                return Err(
                    self.wrong(repo, format!("that {} has {} bytes, and sends more", file.name, file.size))
                );
            }
            std::io::Write::write_all(&mut out, &chunk).map_err(write)?;
            told(here);
            if self.env.clock.elapsed() > by {
                return Err(self.too_slow());
            }
        }
        if here < file.size {
            return Err(HubError::Unreachable {
                endpoint: repo.to_string(),
                why: format!("{} broke off after {here} of {} bytes", file.name, file.size),
            });
        }
        Ok(())
    }
}

/// The digest of a file's content, of the kind of `like`.
fn digest_of(at: &Path, size: u64, like: &FileDigest) -> std::io::Result<FileDigest> {
    let mut from = headstart_disk::read::open(at)?;
    let mut buffer = vec![0; 1 << 20];
    let mut each = |take: &mut dyn FnMut(&[u8])| loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(n) => take(&buffer[..n]),
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    };
    Ok(match like {
        FileDigest::Sha256(_) => {
            let mut hash = Sha256::new();
            each(&mut |bytes| hash.update(bytes))?;
            FileDigest::Sha256(hex(&hash.finalize()))
        }
        FileDigest::GitSha1(_) => {
            let mut hash = Sha1::new();
            hash.update(format!("blob {size}\0"));
            each(&mut |bytes| hash.update(bytes))?;
            FileDigest::GitSha1(hex(&hash.finalize()))
        }
    })
}

fn hex(bytes: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(bytes)
}
