//! What a collection removes. Nothing here reads or writes anything.

use std::collections::{BTreeMap, BTreeSet};

use headstart_content::Inventory;
use headstart_protocol::Digest;

/// Artifacts that something names: a run, a pin, or what is always kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Named {
    /// The run; empty for what no run stands for.
    pub run: String,
    /// When it was last written, in milliseconds since 1970: of what may go, the oldest goes first.
    pub at_ms: u64,
    /// Whether they stay, with everything that they refer to.
    pub keep: bool,
    /// The artifacts.
    pub artifacts: BTreeSet<Digest>,
}

/// What a collection removes, and what stays.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Collection {
    /// Artifacts that go.
    pub artifacts: BTreeSet<Digest>,
    /// Contents that go.
    pub blobs: BTreeSet<Digest>,
    /// Bytes of both.
    pub freed: u64,
    /// Bytes that stay.
    pub left: u64,
    /// Runs that lose results.
    pub runs: BTreeSet<String>,
    /// Of the artifacts that go, those that a run names.
    pub(crate) named: BTreeSet<Digest>,
    /// Artifacts that are not here and that no run names any more.
    pub(crate) forgotten: BTreeSet<Digest>,
}

/// By when something is needed last: `None` by nobody, then by runs that may lose it, from the oldest on, then what
/// stays.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Need<'a> {
    /// By this run last.
    Run(u64, &'a str),
    Kept,
}

/// What goes together.
#[derive(Default)]
struct Group {
    artifacts: BTreeSet<Digest>,
    blobs: BTreeSet<Digest>,
    bytes: u64,
}

/// Chooses what goes: what nobody names, and what only runs name that need not keep it. With `at_most`, of the latter
/// only as much as brings everything down to that many bytes, from the oldest run on.
///
/// What is kept is complete: everything that it refers to stays too, and every content of it.
pub fn choose(
    stored: &Inventory,
    named: &[Named],
    collected: &BTreeSet<Digest>,
    at_most: Option<u64>,
) -> Collection {
    let mut needs: BTreeMap<Digest, Need<'_>> = BTreeMap::new();
    for by in named {
        let need = if by.keep { Need::Kept } else { Need::Run(by.at_ms, &by.run) };
        for id in stored.reach(by.artifacts.iter().copied()) {
            let known = needs.entry(id).or_insert_with(|| need.clone());
            if *known < need {
                *known = need.clone();
            }
        }
    }
    let mut contents: BTreeMap<Digest, &Need<'_>> = BTreeMap::new();
    for (id, need) in &needs {
        for file in stored.artifacts.get(id).into_iter().flat_map(|a| &a.files) {
            let known = contents.entry(*file).or_insert(need);
            *known = (*known).max(need);
        }
    }
    // All that goes with the same run, so that nothing that stays refers to what goes.
    let mut groups: BTreeMap<Option<&Need<'_>>, Group> = BTreeMap::new();
    for (id, artifact) in &stored.artifacts {
        let group = groups.entry(needs.get(id)).or_default();
        group.artifacts.insert(*id);
        group.bytes += artifact.bytes;
    }
    for (digest, bytes) in &stored.blobs {
        let group = groups.entry(contents.get(digest).copied()).or_default();
        group.blobs.insert(*digest);
        group.bytes += bytes;
    }
    let mut out = Collection { left: stored.bytes(), ..Collection::default() };
    for (need, Group { artifacts, blobs, bytes }) in groups {
        let goes = match need {
            None => true,
            Some(Need::Run(..)) => at_most.is_none_or(|most| out.left > most),
            Some(Need::Kept) => false,
        };
        if !goes {
            break;
        }
        out.artifacts.extend(artifacts);
        out.blobs.extend(blobs);
        out.freed += bytes;
        out.left -= bytes;
    }
    for by in named.iter().filter(|by| !by.run.is_empty()) {
        let lost: Vec<Digest> = by.artifacts.intersection(&out.artifacts).copied().collect();
        if !lost.is_empty() {
            out.runs.insert(by.run.clone());
            out.named.extend(lost);
        }
    }
    let all: BTreeSet<&Digest> = named.iter().flat_map(|by| &by.artifacts).collect();
    out.forgotten = collected.iter().filter(|id| !all.contains(id)).copied().collect();
    out
}
