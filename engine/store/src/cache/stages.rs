//! Results of stages by cache key.

use headstart_protocol::Digest;

use super::segment::entry::{self, Entry};
use super::segment::frame::Kind;
use super::state::Entries;
use super::{Cache, CacheEntry};

impl Cache {
    /// What a stage of this key made, if it is remembered. The key's output may still be gone from
    /// the workspace; [`crate::Artifacts::has`] tells.
    pub fn stage_get(&self, key: &Digest) -> Option<CacheEntry> {
        self.stage_get_many(std::slice::from_ref(key)).pop().flatten()
    }

    /// Like [`Cache::stage_get`] for many keys, in their order.
    pub fn stage_get_many(&self, keys: &[Digest]) -> Vec<Option<CacheEntry>> {
        let mut entries = self.shared().entries();
        let mut buffer = Vec::new();
        entries.refresh_if_old();
        let mut found: Vec<_> = keys.iter().map(|key| remembered(&mut entries, key, &mut buffer)).collect();
        if found.contains(&None) {
            entries.refresh();
            for (key, found) in keys.iter().zip(&mut found).filter(|(_, found)| found.is_none()) {
                *found = remembered(&mut entries, key, &mut buffer);
            }
        }
        found
    }

    /// Remembers what a stage made. `preimage_json` is what `key` is the digest of. Other processes see it at
    /// once; it is on disk before the next record of an event log is.
    pub fn stage_put(&self, key: &Digest, preimage_json: &str, entry: &CacheEntry) {
        let Ok(json) = serde_json::to_string(entry) else { return };
        let mut entries = self.shared().entries();
        let added = entries.time_for(key);
        let body = entry::stage(key, added, &json, preimage_json);
        entries.put_stage(key, Kind::Stage, body);
    }

    /// Forgets what a stage made, for instance because its output is gone.
    pub fn stage_forget(&self, key: &Digest) {
        let mut entries = self.shared().entries();
        let added = entries.time_for(key);
        entries.put_stage(key, Kind::Forget, entry::forget(key, added));
    }

    /// What a key is the digest of, if it is remembered.
    pub fn preimage(&self, key: &Digest) -> Option<String> {
        let mut entries = self.shared().entries();
        let mut buffer = Vec::new();
        for _ in 0..2 {
            if let Some((kind, body)) = entries.stage(key, &mut buffer)
                && let Some(Entry::Stage { preimage, .. }) = Entry::parse(kind, &body)
            {
                return Some(preimage.to_owned());
            }
            entries.refresh();
        }
        None
    }
}

fn remembered(entries: &mut Entries, key: &Digest, buffer: &mut Vec<u8>) -> Option<CacheEntry> {
    let (kind, body) = entries.stage(key, buffer)?;
    match Entry::parse(kind, &body)? {
        Entry::Stage { json, .. } => serde_json::from_str(json).ok(),
        _ => None,
    }
}
