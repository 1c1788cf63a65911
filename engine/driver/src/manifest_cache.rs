//! Manifests of the workspace, kept in memory once read: they never change.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use headstart_protocol::expr::{Expr, Manifests, ResolveError};
use headstart_protocol::{ArtifactRef, Digest, Manifest};
use headstart_store::{ContentError, Workspace};

/// Manifests that are kept; beyond this, all are dropped and read again.
const KEPT: usize = 20_000;

/// Public manifests. Clones share what was read.
#[derive(Clone)]
pub(crate) struct ManifestCache {
    ws: Workspace,
    read: Arc<Mutex<BTreeMap<Digest, Arc<Manifest>>>>,
}

impl ManifestCache {
    pub(crate) fn new(ws: Workspace) -> Self {
        Self { ws, read: Arc::default() }
    }

    /// The manifest of this id, if it is here. One that is damaged counts as missing: the stage that made
    /// it writes it again.
    pub(crate) fn get(&self, id: &Digest) -> Result<Option<Arc<Manifest>>, ContentError> {
        let lock = || self.read.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(m) = lock().get(id) {
            return Ok(Some(Arc::clone(m)));
        }
        let m = match self.ws.artifacts().manifest(id) {
            Err(ContentError::Damaged { path, why }) => {
                tracing::warn!("{}: {why}", path.display());
                None
            }
            read => read?.map(Arc::new),
        };
        let Some(m) = m else { return Ok(None) };
        let mut read = lock();
        if read.len() >= KEPT {
            read.clear();
        }
        read.insert(*id, Arc::clone(&m));
        Ok(Some(m))
    }

    /// Whether the artifact is here with all its files, as long as they should be. Looks at the disk, not
    /// at the memory.
    pub(crate) fn has(&self, id: &Digest) -> bool {
        let has = self.ws.artifacts().has(id);
        self.forget_unless(has, id)
    }

    /// Whether the artifact is here and intact: reads what this process has not read yet. What cannot be
    /// read is not.
    pub(crate) fn is_intact(&self, id: &Digest) -> bool {
        let intact = self.ws.artifacts().is_intact(id).unwrap_or_else(|why| {
            tracing::warn!("{why}");
            false
        });
        self.forget_unless(intact, id)
    }

    fn forget_unless(&self, here: bool, id: &Digest) -> bool {
        if !here {
            self.read.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
        }
        here
    }

    /// All public artifacts that can be reached from `from` through `uses`, themselves among them,
    /// with the manifests of those that are here. In the order of their ids.
    pub(crate) fn reach(
        &self,
        from: impl IntoIterator<Item = ArtifactRef>,
    ) -> Result<BTreeMap<ArtifactRef, Option<Arc<Manifest>>>, ContentError> {
        let mut found = BTreeMap::new();
        let mut stack: Vec<ArtifactRef> = from.into_iter().collect();
        while let Some(a) = stack.pop() {
            if a.private_to.is_some() || found.contains_key(&a) {
                continue;
            }
            let manifest = self.get(&a.id)?;
            if let Some(m) = &manifest {
                stack.extend(m.uses.values().cloned());
            }
            found.insert(a, manifest);
        }
        Ok(found)
    }
}

impl Manifests for ManifestCache {
    fn manifest(&self, artifact: &ArtifactRef) -> Result<Manifest, ResolveError> {
        if let Some(device) = &artifact.private_to {
            return Err(ResolveError::Manifest(format!(
                "artifact {} is private to device `{device}`",
                artifact.id.short()
            )));
        }
        match self.get(&artifact.id) {
            Ok(Some(m)) => Ok((*m).clone()),
            Ok(None) => Err(ResolveError::Manifest(ContentError::MissingArtifact(artifact.id).to_string())),
            Err(e) => Err(ResolveError::Manifest(e.to_string())),
        }
    }
}

/// The artifacts that expressions name.
pub(crate) fn artifacts_in<'a>(exprs: impl IntoIterator<Item = &'a Expr>) -> BTreeSet<ArtifactRef> {
    let mut out = BTreeSet::new();
    for e in exprs {
        e.each_artifact(&mut |a| {
            out.insert(a.clone());
        });
    }
    out
}
