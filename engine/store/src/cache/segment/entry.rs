//! What a frame holds. Numbers are little endian.
//!
//! | kind | body |
//! | --- | --- |
//! | stage | key (32 bytes), time (8), length of the entry (4), the entry as JSON, the pre-image as JSON |
//! | forget | key (32), time (8): the stage is not known any more |
//! | embedding | space (32), text (32), numbers of 4 bytes |
//! | response | model (32), settings (32), prompt (32), the answer |
//!
//! A time is in microseconds since 1970. Of two frames about a stage, the later counts.

use headstart_protocol::Digest;

use super::frame::{Kind, u32_at};

/// By which an entry is found: the beginning of a digest of its kind and key.
pub(crate) type Hash = [u8; 16];

/// What a frame holds.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Entry<'a> {
    Stage { key: Digest, added: i64, json: &'a str, preimage: &'a str },
    Forget { key: Digest, added: i64 },
    Embedding { space: Digest, text: Digest, vector: Vec<f32> },
    Response { model: Digest, settings: Digest, prompt: Digest, answer: &'a str },
}

impl<'a> Entry<'a> {
    /// What a body holds; `None` if it is none of this kind.
    pub(crate) fn parse(kind: Kind, body: &'a [u8]) -> Option<Self> {
        let mut rest = body;
        let mut digest = || -> Option<Digest> {
            let (head, tail) = rest.split_first_chunk::<32>()?;
            rest = tail;
            Some(Digest(*head))
        };
        match kind {
            Kind::Stage | Kind::Forget => {
                let key = digest()?;
                let (added, rest) = rest.split_first_chunk::<8>()?;
                let added = i64::from_le_bytes(*added);
                if kind == Kind::Forget {
                    return rest.is_empty().then_some(Self::Forget { key, added });
                }
                let (length, rest) = rest.split_first_chunk::<4>()?;
                let (json, preimage) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
                let text = |bytes| std::str::from_utf8(bytes).ok();
                Some(Self::Stage { key, added, json: text(json)?, preimage: text(preimage)? })
            }
            Kind::Embedding => {
                let (space, text) = (digest()?, digest()?);
                let numbers = rest.chunks_exact(4);
                let whole = numbers.remainder().is_empty();
                let vector = numbers.map(|n| f32::from_bits(u32_at(n, 0))).collect();
                whole.then_some(Self::Embedding { space, text, vector })
            }
            Kind::Response => {
                let (model, settings, prompt) = (digest()?, digest()?, digest()?);
                Some(Self::Response { model, settings, prompt, answer: std::str::from_utf8(rest).ok()? })
            }
        }
    }
}

/// The hash of the entry in a frame, from its body alone.
pub(crate) fn hash_of(kind: Kind, body: &[u8]) -> Option<Hash> {
    let key = match kind {
        Kind::Stage | Kind::Forget => 32,
        Kind::Embedding => 64,
        Kind::Response => 96,
    };
    body.get(..key).map(|key| hash(kind, key))
}

/// When an entry about a stage was added.
pub(crate) fn added_of(kind: Kind, body: &[u8]) -> Option<i64> {
    let is_stage = matches!(kind, Kind::Stage | Kind::Forget);
    let bytes = body.get(32..40).filter(|_| is_stage)?;
    Some(i64::from_le_bytes(bytes.try_into().expect("eight bytes")))
}

fn hash(kind: Kind, key: &[u8]) -> Hash {
    // What a stage made and that it is forgotten are found by the same hash.
    let table = if kind == Kind::Forget { Kind::Stage } else { kind };
    let mut bytes = Vec::with_capacity(97);
    bytes.push(table as u8);
    bytes.extend_from_slice(key);
    let digest = Digest::of(&bytes).0;
    *digest.first_chunk().expect("32 bytes are more than 16")
}

/// The hash of a stage.
pub(crate) fn stage_hash(key: &Digest) -> Hash {
    hash(Kind::Stage, &key.0)
}

/// The hash of a vector.
pub(crate) fn embedding_hash(space: &Digest, text: &Digest) -> Hash {
    hash(Kind::Embedding, &[space.0, text.0].concat())
}

/// The hash of an answer.
pub(crate) fn response_hash(model: &Digest, settings: &Digest, prompt: &Digest) -> Hash {
    hash(Kind::Response, &[model.0, settings.0, prompt.0].concat())
}

/// The body of a stage's frame.
pub(crate) fn stage(key: &Digest, added: i64, json: &str, preimage: &str) -> Vec<u8> {
    let mut body = Vec::with_capacity(44 + json.len() + preimage.len());
    body.extend_from_slice(&key.0);
    body.extend_from_slice(&added.to_le_bytes());
    let length = u32::try_from(json.len()).expect("an entry is a few lines");
    body.extend_from_slice(&length.to_le_bytes());
    body.extend_from_slice(json.as_bytes());
    body.extend_from_slice(preimage.as_bytes());
    body
}

/// The body of a frame that forgets a stage.
pub(crate) fn forget(key: &Digest, added: i64) -> Vec<u8> {
    [&key.0[..], &added.to_le_bytes()].concat()
}

/// The body of a vector's frame.
pub(crate) fn embedding(space: &Digest, text: &Digest, vector: &[f32]) -> Vec<u8> {
    let mut body = Vec::with_capacity(64 + 4 * vector.len());
    body.extend_from_slice(&space.0);
    body.extend_from_slice(&text.0);
    vector.iter().for_each(|n| body.extend_from_slice(&n.to_bits().to_le_bytes()));
    body
}

/// The body of an answer's frame.
pub(crate) fn response(model: &Digest, settings: &Digest, prompt: &Digest, answer: &str) -> Vec<u8> {
    [&model.0[..], &settings.0, &prompt.0, answer.as_bytes()].concat()
}
