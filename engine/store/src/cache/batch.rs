//! Rows that are written to the database together.

use std::collections::{BTreeMap, HashMap};

use headstart_protocol::Digest;

use super::CacheEntry;
use super::records::Record;

/// A space and a text.
pub(crate) type EmbeddingKey = (Digest, Digest);
/// A model, settings and a prompt.
pub(crate) type ResponseKey = (Digest, Digest, Digest);

/// Rows, the last of each key.
#[derive(Default)]
pub(crate) struct Batch {
    pub(crate) embeddings: HashMap<EmbeddingKey, Vec<f32>>,
    pub(crate) responses: HashMap<ResponseKey, String>,
    /// With the microseconds since 1970 of each. Absent values are to be forgotten. Ordered, so that equal runs
    /// write equal databases.
    pub(crate) stages: BTreeMap<Digest, (i64, Option<StagePut>)>,
    pub(crate) records: Vec<Record>,
    pub(crate) bytes: usize,
}

/// An entry of the stage cache.
pub(crate) struct StagePut {
    pub(crate) entry: CacheEntry,
    pub(crate) json: String,
    pub(crate) preimage: String,
}

impl Batch {
    pub(crate) fn is_empty(&self) -> bool {
        self.embeddings.is_empty()
            && self.responses.is_empty()
            && self.stages.is_empty()
            && self.records.is_empty()
    }
}
