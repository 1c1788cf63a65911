//! The mix that distance found, merged, so that it can be asked for its likelihood like a pLLM.

use headstart_lm::ContextWatch;
use headstart_lm::open::{ModelFolders, open_model};
use headstart_merge::MergeError;
use headstart_merge::adapter::{AdapterTerm, merge_adapters};
use headstart_protocol::{ArtifactRef, Context, Digest, Failure};
use serde_json::json;

use crate::decide::Choice;
use crate::stage::Place;

/// Folder of the merged adapter in the stage's scratch.
const FOLDER: &str = "mix";

/// A mix of adapters as one adapter, in the stage's scratch.
pub(crate) struct Merged {
    /// Made of the members and their weights.
    pub id: Digest,
    pub folders: ModelFolders,
    /// The pLLMs in it.
    pub members: Vec<ArtifactRef>,
}

impl Merged {
    /// Merges what the choice mixes. None where it mixes nothing, where the pLLMs are whole models, as
    /// merging these costs more than it tells, or where memory does not suffice.
    pub fn of(place: &Place<'_>, choice: &Choice, ctx: &dyn Context) -> Result<Option<Self>, Failure> {
        if choice.mix.len() < 2 {
            return Ok(None);
        }
        let (mut terms, mut members, mut base) = (Vec::new(), Vec::new(), None);
        for &(index, weight) in &choice.mix {
            let pllm = place.pllm(index)?;
            let ModelFolders { model, adapter: Some(folder), base: of } = open_model(ctx, pllm)? else {
                return Ok(None);
            };
            terms.push(AdapterTerm { name: place.name(index)?, weight, folder });
            members.push(pllm.clone());
            base = Some((model, of));
        }
        let folder = ctx.scratch().join(FOLDER);
        std::fs::create_dir_all(&folder).map_err(|e| Failure::io(&folder, &e))?;
        match merge_adapters(&terms, None, ctx.memory(), &folder, &ContextWatch::new(ctx)) {
            Ok(_) => {}
            Err(MergeError::Memory(_)) => return Ok(None),
            Err(e) => return Err(e.into()),
        }
        let named: Vec<_> = members.iter().zip(&choice.mix).map(|(m, (_, w))| json!([m.id, w])).collect();
        Ok(base.map(|(model, base)| Self {
            id: Digest::of_json(&json!(named)),
            folders: ModelFolders { model, adapter: Some(folder), base },
            members,
        }))
    }
}
