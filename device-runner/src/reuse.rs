//! Results of tasks that were taken over, used again where the same work would be done again.
//!
//! Handles of such tasks say nothing about content, so the engine asks for everything again in each run. Only
//! the device knows that a private dataset is the one of yesterday.

use headstart_disk::read;
use headstart_protocol::expr::Value;
use headstart_protocol::task::Task;
use headstart_protocol::{Args, ArtifactRef, Digest, kinds};

use crate::device::Device;
use crate::state::write_durably;
use crate::store::Held;

/// Bytes of an entry at most.
const LARGEST: u64 = 256;

impl Device {
    /// What decides the result of a task: its stage, and its arguments by content. None for what reads more than
    /// its arguments, such as files.
    pub(crate) fn content_key(&self, task: &Task, args: &Args) -> Option<Digest> {
        let cacheable = task.program.is_none() && kinds::find(&task.kind).is_some_and(|k| k.cacheable);
        let mut paths = false;
        args.0.values().for_each(|v| v.visit(&mut |v| paths |= matches!(v, Value::Path(_))));
        if !cacheable || paths {
            return None;
        }
        let content = |a: &ArtifactRef| -> Result<ArtifactRef, ()> {
            if a.private_to.is_none() {
                return Ok(a.clone());
            }
            let held = self.store.private.get(&a.id).ok_or(())?;
            // What is known of where it comes from is part of what is kept of the result.
            let id = Digest::of_json(&(held.manifest.map(|m| m.id()), &held.lineage));
            Ok(ArtifactRef { id, ..a.clone() })
        };
        let args = args.0.iter().map(|(name, v)| Ok((name, v.try_map_artifacts(&mut |a| content(a))?)));
        let args: Vec<_> = args.collect::<Result<_, ()>>().ok()?;
        let numerics = self.stage(task).ok()?.stage().numerics();
        // A condition over private files is as good as having read them.
        let key = (&task.kind, task.version, &task.ty, args, numerics, self.shared_rows(task));
        Some(self.state.handle(headstart_protocol::canonical_json(&key).as_bytes()))
    }

    /// Keeps under a promised handle what the same work made before; false where nothing is known of any.
    pub(crate) fn reuse(&self, task: &Task, key: &Digest, promised: &Digest) -> bool {
        let at = self.state.at("made").join(key.to_string());
        let known = read::text(&at, LARGEST).ok().and_then(|text| text.trim().parse::<Digest>().ok());
        let Some((from, held)) = known.and_then(|from| Some((from, self.store.private.get(&from)?))) else {
            return false;
        };
        if held.manifest.is_none() {
            return false;
        }
        let Held { name, run, .. } = Held::nothing(task);
        // What it is read under now, such as a `when`, is behind it too.
        let lineage = held.lineage.clone().map(|lineage| self.read_under(task, lineage));
        let held = Held { name, run, lineage, ..held };
        let kept = self.store.private.keep_as(promised, &held, &from);
        kept.inspect_err(|e| tracing::debug!("{}: made again: {e}", task.name)).is_ok()
    }

    /// Remembers what a task made.
    pub(crate) fn note_made(&self, key: &Digest, handle: &Digest) {
        let at = self.state.at("made").join(key.to_string());
        if let Err(e) = write_durably(&**self.state.disk(), &at, handle.to_string().as_bytes()) {
            tracing::debug!("{e}");
        }
    }
}
