//! Mixes, merged, so that they can be asked for their likelihood like a pLLM.

use std::path::Path;

use headstart_disk::files::{OutFolder, create_dir};
use headstart_kit::{ContextWatch, ModelFolders, open_model};
use headstart_merge::MergeError;
use headstart_merge::adapter::{AdapterTerm, merge_adapters};
use headstart_protocol::{ArtifactRef, Context, Digest, Failure};
use serde_json::json;

use crate::place::Place;

/// A mix of adapters as one adapter, in the stage's scratch.
#[derive(Clone)]
pub(crate) struct Merged {
    /// Made of the members and their weights.
    pub id: Digest,
    pub folders: ModelFolders,
    /// The pLLMs in it.
    pub members: Vec<ArtifactRef>,
}

impl Merged {
    /// Merges pLLMs, places in the catalog with their weights, into `folder`. None where they are whole
    /// models, as merging these costs more than it tells, or where memory does not suffice.
    ///
    /// # Errors
    /// If an adapter cannot be read, or the merged one cannot be written.
    pub fn of(
        place: &Place<'_>,
        weights: &[(usize, f64)],
        folder: &Path,
        ctx: &dyn Context,
    ) -> Result<Option<Self>, Failure> {
        let (mut terms, mut members, mut base) = (Vec::new(), Vec::new(), None);
        for &(index, weight) in weights {
            let pllm = place.pllm(index)?;
            let ModelFolders { model, adapter: Some(folder), base: of } = open_model(ctx, pllm)? else {
                return Ok(None);
            };
            terms.push(AdapterTerm { name: place.name(index)?, weight, folder });
            members.push(pllm.clone());
            base = Some((model, of));
        }
        let out = OutFolder { disk: ctx.disk(), path: folder };
        create_dir(out.disk, folder)?;
        match merge_adapters(&terms, None, ctx.memory(), out, &ContextWatch::new(ctx)) {
            Ok(_) => {}
            Err(MergeError::Memory(_)) => return Ok(None),
            Err(e) => return Err(e.into()),
        }
        let named: Vec<_> = members.iter().zip(weights).map(|(m, (_, w))| json!([m.id, w])).collect();
        Ok(base.map(|(model, base)| Self {
            id: Digest::of_json(&json!(named)),
            folders: ModelFolders { model, adapter: Some(folder.to_owned()), base },
            members,
        }))
    }
}
