//! What a stage makes.
//!
//! An artifact is a manifest: named files by digest, a small JSON value, and named references to
//! other artifacts. Its identity is the digest of the manifest's canonical JSON. An artifact that
//! is private to a device is known elsewhere only by a handle: a digest keyed with a secret of the
//! device, so that nobody else can confirm a guess of its content.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::types::Type;

/// A file's content, by digest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileRef {
    /// BLAKE3 of the content.
    pub digest: Digest,
    /// Size in bytes.
    pub size: u64,
}

/// What an artifact consists of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// The artifact's type.
    pub ty: Type,
    /// Its files, by name; a name may contain `/` but never `..`.
    #[serde(default)]
    pub files: BTreeMap<String, FileRef>,
    /// A small value: metrics, a selection, facts about the files.
    #[serde(default)]
    pub value: serde_json::Value,
    /// Other artifacts that this one is about, such as a pLLM's `base`.
    #[serde(default)]
    pub uses: BTreeMap<String, ArtifactRef>,
}

impl Manifest {
    /// The artifact's identity.
    pub fn id(&self) -> Digest {
        Digest::of_json(self)
    }

    /// The name of a reference to an artifact that is private to a device, if there is one. No public
    /// artifact has any: its references can be read by everybody who has it, and lead a device into what
    /// it keeps to itself.
    pub fn private_reference(&self) -> Option<&str> {
        self.uses.iter().find(|(_, used)| used.private_to.is_some()).map(|(name, _)| name.as_str())
    }

    /// Bytes of all its files; as many as can be said, where somebody states more.
    pub fn size(&self) -> u64 {
        self.files.values().fold(0, |sum, f| sum.saturating_add(f.size))
    }
}

/// A reference to an artifact.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ArtifactRef {
    /// Identity, or the opaque handle of a private artifact.
    pub id: Digest,
    /// Its type.
    pub ty: ArtifactType,
    /// The device that alone holds it, where it is private.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub private_to: Option<String>,
}

/// The types that artifacts can have, as stored in references (flat, ordered, hashable).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[expect(missing_docs, reason = "named like the variants of Type, documented there")]
pub enum ArtifactType {
    Model,
    Pllm,
    Dataset,
    Responses,
    Divergence,
    Space,
    Catalog,
    Selection,
    Metrics,
    /// A private value that turned out absent (a `when` that was false on the device).
    Absent,
}

impl ArtifactType {
    /// The artifact type of a language type.
    pub fn of(ty: &Type) -> Option<Self> {
        Some(match ty {
            Type::Model => Self::Model,
            Type::Pllm => Self::Pllm,
            Type::Dataset => Self::Dataset,
            Type::Responses => Self::Responses,
            Type::Divergence => Self::Divergence,
            Type::Space => Self::Space,
            Type::Catalog => Self::Catalog,
            Type::Selection => Self::Selection,
            Type::Metrics => Self::Metrics,
            Type::Optional(t) => return Self::of(t),
            _ => return None,
        })
    }
}

impl ArtifactRef {
    /// Reference to a public artifact.
    pub fn public(manifest: &Manifest) -> Self {
        let ty = ArtifactType::of(&manifest.ty).expect("manifests have artifact types");
        Self { id: manifest.id(), ty, private_to: None }
    }
}
