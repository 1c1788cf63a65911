//! Whether what the cache remembers serves an instance.

use std::collections::BTreeSet;

use headstart_core::RunState;
use headstart_protocol::task::Released;
use headstart_store::CacheEntry;

use crate::manifest_cache::ManifestCache;

/// The entry, cut to what this pipeline releases; `None` if it does not serve here.
pub(crate) fn usable(
    manifests: &ManifestCache,
    state: &RunState,
    instance: u32,
    mut entry: CacheEntry,
) -> Option<CacheEntry> {
    let inst = state.instance(instance);
    if entry.output.private_to != inst.private_to {
        return None;
    }
    let wanted: BTreeSet<String> = inst.release.iter().map(|path| path.join(".")).collect();
    entry.released.retain(|path, _| wanted.contains(path));
    if entry.released.len() != wanted.len() {
        return None;
    }
    let here = |r: &Released| match r {
        Released::Artifact(a) => manifests.has(&a.id),
        Released::Json(_) => true,
    };
    if !entry.released.values().all(here) {
        return None;
    }
    // What another stage reads heals itself when it is found gone; what nobody reads would be
    // missed only by readers of the run's output.
    let is_last = state.graph().dependents(instance).is_empty();
    if is_last && entry.output.private_to.is_none() && !manifests.has(&entry.output.id) {
        return None;
    }
    Some(entry)
}
