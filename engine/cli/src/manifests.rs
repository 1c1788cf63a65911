//! Manifests of a workspace, for expressions over them.

use headstart_protocol::expr::{Manifests, ResolveError};
use headstart_protocol::{ArtifactRef, Manifest};
use headstart_store::Workspace;

/// Manifests of a workspace.
pub struct Store<'a>(pub &'a Workspace);

impl Manifests for Store<'_> {
    fn manifest(&self, artifact: &ArtifactRef) -> Result<Manifest, ResolveError> {
        let found = self.0.artifacts().manifest(&artifact.id);
        let found = found.map_err(|e| ResolveError::Manifest(e.to_string()))?;
        found.ok_or_else(|| ResolveError::Manifest(format!("artifact {} is not here", artifact.id.short())))
    }
}
