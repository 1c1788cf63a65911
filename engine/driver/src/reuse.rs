//! Whether what the cache remembers serves an instance.

use std::collections::BTreeSet;

use headstart_core::RunState;
use headstart_protocol::task::Released;
use headstart_store::CacheEntry;

use crate::shelf::Shelf;

/// The entry, cut to what this pipeline releases; `None` if it does not serve here.
pub(crate) fn usable(
    shelf: &Shelf,
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
        Released::Artifact(a) => shelf.has(&a.id),
        Released::Json(_) => true,
    };
    if !entry.released.values().all(here) {
        return None;
    }
    // What another stage reads heals itself when it is found gone; what nobody reads would be
    // missed only by whoever wants the run's output.
    let is_last = state.graph().dependents(instance).is_empty();
    if is_last && entry.output.private_to.is_none() && !shelf.has(&entry.output.id) {
        return None;
    }
    Some(entry)
}
