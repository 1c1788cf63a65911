//! Downloads of public artifacts: by digest, checked, resumed where they were cut.

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::time::Duration;

use headstart_disk::Open;
use headstart_env::backoff::{Backoff, ExponentialBackoff};
use headstart_inspect::Part;
use headstart_protocol::contract::is_part;
use headstart_protocol::task::Task;
use headstart_protocol::{
    ArtifactRef, ArtifactType, Digest, Failure, FailureClass, FileRef, Manifest, canonical_json,
};

use crate::answer::longest_transfer;
use crate::client::CallError;
use crate::context::Control;
use crate::gate::{Gate, LARGEST_TEXT, Later, Models};
use crate::link::Link;
use crate::residency::stated;
use crate::statement::{MOST_ARTIFACTS, too_many};
use crate::store::{Public, Room};

/// Pauses between tries that bring nothing, and how many there are before a download is given up.
const RETRY: Backoff = Backoff {
    first: Duration::from_millis(100),
    factor: 2.0,
    longest: Duration::from_millis(6400),
    tries: Some(8),
};
/// A download that brings nothing for this long is begun again where it is.
const STALLED: Duration = Duration::from_secs(60);

/// Downloads what a task may need.
pub struct Fetcher<'a> {
    /// The engine.
    pub(crate) link: &'a Link,
    /// Where downloads are kept.
    pub store: &'a Public,
    /// The attempt, which may be stopped.
    pub control: &'a Control,
}

impl Fetcher<'_> {
    /// Downloads every public artifact that a task names, in its arguments or to be fetched
    /// beforehand, and what those cannot be used without. Returns all that are here then.
    ///
    /// Everything is downloaded before anything private is looked at, whether it will be used or
    /// not: otherwise the engine could tell from the downloads which pLLM the device chose. For the
    /// same reason nothing is ever downloaded later, while a stage runs, and the pLLMs of a catalog
    /// are not followed: the engine lists those that a task may choose from, all of them.
    ///
    /// # Errors
    /// [`FailureClass::Lost`] where the engine is out of reach, [`FailureClass::Transient`] where it refuses, [`FailureClass::Input`] where
    /// what it sends is not what was asked for.
    pub async fn everything(&self, task: &Task) -> Result<Vec<ArtifactRef>, Failure> {
        let named = self.named(task).await?;
        let whole = named.values().filter(|(need, _)| *need == Need::Files).map(|(_, manifest)| manifest);
        let files = whole.flat_map(|manifest| manifest.files.values());
        self.files(files).await?;
        Ok(named.into_keys().collect())
    }

    /// Downloads files that are not here. What is too much is refused before the first byte of it.
    async fn files(&self, wanted: impl IntoIterator<Item = &FileRef>) -> Result<(), Failure> {
        let mut files: BTreeMap<Digest, FileRef> = BTreeMap::new();
        for file in wanted.into_iter().filter(|f| self.store.blob(&f.digest).is_none()) {
            // Of two sizes of one content, at least one is wrong: the download will say so.
            let known = files.entry(file.digest).or_insert_with(|| file.clone());
            known.size = known.size.max(file.size);
        }
        if !files.is_empty() {
            self.store.room().take_all(files.values().map(|file| self.store.missing_of(file)))?;
        }
        for file in files.values() {
            self.file(file).await?;
        }
        Ok(())
    }

    /// Every public artifact that [`Fetcher::everything`] downloads, with how much of it is needed. Only
    /// manifests are downloaded.
    ///
    /// # Errors
    /// As [`Fetcher::everything`].
    pub async fn named(&self, task: &Task) -> Result<BTreeMap<ArtifactRef, (Need, Manifest)>, Failure> {
        let private = stated(task).is_private();
        let mut named: VecDeque<ArtifactRef> = task.prefetch.iter().cloned().collect();
        for expr in task.args.values().chain(&task.when) {
            expr.each_artifact(&mut |a| named.push_back(a.clone()));
        }
        let mut todo: VecDeque<(ArtifactRef, Need)> = named.into_iter().map(|a| (a, Need::Files)).collect();
        let mut here: BTreeMap<ArtifactRef, (Need, Manifest)> = BTreeMap::new();
        // Counted once, and only where there is something to download.
        let mut room = None;
        while let Some((artifact, need)) = todo.pop_front() {
            if artifact.private_to.is_some() || here.get(&artifact).is_some_and(|(had, _)| *had >= need) {
                continue;
            }
            let manifest = match self.manifest(&artifact, &mut room).await {
                Ok(manifest) => manifest,
                // Mentioned, but not for this device; few stages ask.
                Err(f) if need == Need::Manifest && f.class == FailureClass::MissingArtifact => continue,
                Err(f) => return Err(f),
            };
            if here.len() >= MOST_ARTIFACTS {
                return Err(too_many());
            }
            let follow = |(name, used): (&String, &ArtifactRef)| {
                Some((used.clone(), Need::of(artifact.ty, need, name, used.ty, private)?))
            };
            todo.extend(manifest.uses.iter().filter_map(follow));
            here.insert(artifact, (need, manifest));
        }
        Ok(here)
    }

    async fn manifest(&self, artifact: &ArtifactRef, room: &mut Option<Room>) -> Result<Manifest, Failure> {
        let manifest = self.manifest_of(&artifact.id, room).await?;
        if ArtifactType::of(&manifest.ty) != Some(artifact.ty) {
            let m = format!("artifact {} is a {}", artifact.id.short(), manifest.ty);
            return Err(Failure::input(format!("{m}, but the task calls it a {:?}", artifact.ty)));
        }
        Ok(manifest)
    }

    async fn manifest_of(&self, id: &Digest, room: &mut Option<Room>) -> Result<Manifest, Failure> {
        if let Some(here) = self.store.manifest(id) {
            return Ok(here);
        }
        let mut retries = Retries::new(self);
        loop {
            match self.link.client.manifest(id).await {
                Ok(manifest) => {
                    if let Some(name) = manifest.private_reference() {
                        return Err(Failure::input(format!(
                            "the public artifact {} refers to a private one as `{name}`",
                            id.short()
                        )));
                    }
                    let size = canonical_json(&manifest).len() as u64;
                    room.get_or_insert_with(|| self.store.room()).take(size)?;
                    self.store.put_manifest(id, &manifest)?;
                    return Ok(manifest);
                }
                Err(e) => retries.after(&e).await?,
            }
        }
    }

    /// Downloads a file, from where an earlier download was cut.
    async fn file(&self, file: &FileRef) -> Result<(), Failure> {
        if self.store.blob(&file.digest).is_some() {
            return Ok(());
        }
        let partial = self.store.partial(&file.digest)?;
        let mut retries = Retries::new(self);
        let mut damaged = false;
        loop {
            let before = length(&partial);
            if partial.is_file() && before >= file.size {
                if self.store.take_download(file, &partial)? {
                    return Ok(());
                }
                if damaged {
                    let m =
                        format!("the engine sends other bytes than those of file {}", file.digest.short());
                    return Err(Failure::input(m));
                }
                damaged = true;
            }
            match self.some_of(file, &partial).await {
                Ok(()) => {}
                Err(Cut::Disk(failure)) => return Err(failure),
                Err(Cut::Call(e)) => {
                    if length(&partial) > before {
                        retries = Retries::new(self);
                    }
                    retries.after(&e).await?;
                }
            }
        }
    }

    /// Appends what the engine sends to a partial download, until it is complete or cut.
    async fn some_of(&self, file: &FileRef, partial: &Path) -> Result<(), Cut> {
        let disk = |e: std::io::Error| Cut::Disk(Failure::io(partial, &e));
        let from = length(partial);
        let asked = self.link.client.blob(&file.digest, from);
        let answered = headstart_env::timeout(&*self.link.env.clock, STALLED, asked).await;
        let silent = || Cut::Call(CallError::Unreachable("the download does not begin".into()));
        let mut answer = answered.ok_or_else(silent)?.map_err(Cut::Call)?;
        let resumed = answer.status() == reqwest::StatusCode::PARTIAL_CONTENT;
        // Written where it is read: a chunk goes into the system's memory in microseconds.
        let how = if resumed { Open::Append } else { Open::Create };
        let mut out = self.store.disk().open(partial, how).map_err(disk)?;
        let mut at = if resumed { from } else { 0 };
        let (begun, longest) =
            (self.link.env.clock.elapsed(), longest_transfer(file.size.saturating_sub(at)));
        loop {
            if self.link.env.clock.elapsed().saturating_sub(begun) > longest {
                return Err(Cut::Call(CallError::Unreachable("the download is too slow".into())));
            }
            if self.control.cancelled() {
                return Err(Cut::Disk(stopped()));
            }
            let chunk = match headstart_env::timeout(&*self.link.env.clock, STALLED, answer.chunk()).await {
                Some(Ok(Some(chunk))) => chunk,
                Some(Ok(None)) => break,
                Some(Err(e)) => {
                    out.flush().map_err(disk)?;
                    return Err(Cut::Call(CallError::Unreachable(e.to_string())));
                }
                None => return Err(Cut::Call(CallError::Unreachable("the download stalled".into()))),
            };
            at += chunk.len() as u64;
            if at > file.size {
                let m = format!(
                    "the engine sends more than the {} bytes of file {}",
                    file.size,
                    file.digest.short()
                );
                return Err(Cut::Disk(Failure::input(m)));
            }
            out.write_all(&chunk).map_err(disk)?;
        }
        out.flush().map_err(disk)?;
        if at < file.size {
            return Err(Cut::Call(CallError::Unreachable("the download was cut".into())));
        }
        Ok(())
    }
}

/// How much of an artifact is downloaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Need {
    /// What it is.
    Manifest,
    /// All of it.
    Files,
}

impl Need {
    /// How much is needed of what an artifact refers to under `name`.
    fn of(whose: ArtifactType, need: Self, name: &str, used: ArtifactType, private: bool) -> Option<Self> {
        use ArtifactType::{Catalog, Pllm, Selection};
        match (whose, used) {
            _ if is_part(whose, name) => Some(need),
            (Catalog | Selection, Pllm) if private => None,
            // Nothing is to be hidden, so what may be needed is simply downloaded.
            _ if !private && !name.starts_with("parent") => Some(need),
            _ => Some(Self::Manifest),
        }
    }
}

impl Models for Fetcher<'_> {
    fn manifest<'a>(&'a self, id: &'a Digest) -> Later<'a, Manifest> {
        Box::pin(async move { self.manifest_of(id, &mut None).await })
    }

    fn parts<'a>(&'a self, gate: &'a Gate, manifest: &'a Manifest) -> Later<'a, Vec<Part>> {
        Box::pin(async move {
            let files = headstart_inspect::FILES.iter().filter_map(|name| manifest.files.get(*name));
            self.files(files.filter(|f| f.size <= LARGEST_TEXT)).await?;
            gate.parts(self.store, manifest)
        })
    }
}

enum Cut {
    /// The engine or the network; the download may go on.
    Call(CallError),
    /// Nothing that another try could repair.
    Disk(Failure),
}

fn length(at: &Path) -> u64 {
    std::fs::metadata(at).map_or(0, |m| m.len())
}

fn stopped() -> Failure {
    Failure::new(FailureClass::Cancelled, "stopped while downloading")
}

/// Pauses between tries, and the end of trying.
struct Retries<'a> {
    link: &'a Link,
    control: &'a Control,
    pauses: ExponentialBackoff,
}

impl<'a> Retries<'a> {
    fn new(fetcher: &Fetcher<'a>) -> Self {
        let Fetcher { link, control, .. } = fetcher;
        Self { link, control, pauses: RETRY.pauses(&*link.env.random) }
    }

    async fn after(&mut self, e: &CallError) -> Result<(), Failure> {
        let pause = match e {
            CallError::Unreachable(_) => self.pauses.next(),
            // An engine that was started again offers the same; whether this attempt still counts, it says to the
            // next renewal.
            CallError::UnknownSession => {
                let _ = self.link.join().await;
                self.pauses.next()
            }
            CallError::Refused { status: 404, .. } => {
                let m = "the engine lists an artifact for download that it does not give out";
                return Err(Failure::new(FailureClass::MissingArtifact, m));
            }
            _ => return Err(Failure::new(FailureClass::Transient, format!("download: {e}"))),
        };
        // The stage has done nothing wrong, so this is none of its failures.
        let Some(pause) = pause else {
            return Err(Failure::new(FailureClass::Lost, format!("download: {e}")));
        };
        self.control.pause(&*self.link.env.clock, pause).await;
        if self.control.cancelled() { Err(stopped()) } else { Ok(()) }
    }
}
