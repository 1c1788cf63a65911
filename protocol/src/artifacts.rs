//! The values of artifacts, as types.
//!
//! An artifact's [`Manifest`] holds a small JSON value. What that value may hold is
//! defined here, once for each type of artifact, and every writer and reader goes through these types.
//! Fields that version 0.1 did not write have a default, so its artifacts stay readable; a field that
//! is not known is refused by name.
//!
//! # Layout
//! - [`style`]: styles in words, shared by catalogs and selections.
//! - [`selection`]: what `select` chose, and [`forecast`]: what that should save.
//! - [`catalog`]: the summary of a catalog.
//! - [`metrics`]: named numbers; [`accuracy`]: those of the stage `accuracy`; [`table`]: tables.
//! - [`pllm`]: facts of a pLLM: how it was trained or merged.
//! - [`source`]: models, rows and spaces; [`divergence`]: divergences.

mod accuracy;
mod catalog;
mod divergence;
mod forecast;
mod metrics;
mod pllm;
mod selection;
mod source;
mod style;
mod table;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value as Json;

pub use accuracy::{Accuracy, MeanCost, Share};
pub use catalog::Catalog;
pub use divergence::{Candidate, Divergence};
pub use forecast::{Expected, Forecast};
pub use metrics::{IntoNumber, Metrics};
pub use pllm::{Format, MergedModule, Parent, Pllm, Training};
pub use selection::{Cost, Selection, Verified};
pub use source::{ModelFacts, Orders, Rows, SpaceFacts, SpaceKind};
pub use style::{Coefficient, Explanation};
pub use table::{Cell, Table};

use crate::artifact::Manifest;
use crate::failure::Failure;

/// The name of the base among the names of pLLMs: what `pllm_name` is where a selection starts from the
/// base.
pub const BASE: &str = "base";

/// A value of an artifact.
pub trait Artifact: Serialize + DeserializeOwned {
    /// What it is, for errors: `a selection`.
    const WHAT: &'static str;

    /// Fields in which `null` stands for something else than a number that JSON lacks.
    const NULLABLE: &'static [&'static str] = &[];

    /// Reads a manifest's value.
    ///
    /// # Errors
    /// [`ArtifactError::Unreadable`], naming the field.
    fn read(value: &Json) -> Result<Self, ArtifactError> {
        serde_path_to_error::deserialize(value).map_err(|e| {
            let at = e.path().to_string();
            let at = if at == "." { String::new() } else { format!("`{at}`: ") };
            ArtifactError::Unreadable { what: Self::WHAT, why: format!("{at}{}", e.into_inner()) }
        })
    }

    /// Reads the value of a manifest.
    ///
    /// # Errors
    /// As [`Artifact::read`].
    fn of(manifest: &Manifest) -> Result<Self, ArtifactError> {
        Self::read(&manifest.value)
    }

    /// The value for a manifest.
    ///
    /// # Errors
    /// [`ArtifactError::NotFinite`], naming the field, where a number is NaN or infinite: JSON has
    /// neither.
    fn json(&self) -> Result<Json, ArtifactError> {
        let value = serde_json::to_value(self)
            .map_err(|e| ArtifactError::Unreadable { what: Self::WHAT, why: e.to_string() })?;
        let strict = value
            .as_object()
            .into_iter()
            .flatten()
            .filter(|(name, _)| !Self::NULLABLE.contains(&name.as_str()));
        let null = strict.filter_map(|(name, v)| {
            let inner = null_in(v)?;
            Some(if inner.is_empty() { name.clone() } else { format!("{name}.{inner}") })
        });
        match null.min() {
            None => Ok(value),
            Some(field) => Err(ArtifactError::NotFinite { what: Self::WHAT, field }),
        }
    }
}

/// Where a value is null. Absent fields are left out when values are written, so that only a number
/// that JSON lacks becomes one.
fn null_in(value: &Json) -> Option<String> {
    let below = |name: String, v: &Json| {
        let inner = null_in(v)?;
        Some(if inner.is_empty() { name } else { format!("{name}.{inner}") })
    };
    match value {
        Json::Null => Some(String::new()),
        Json::Array(items) => items.iter().enumerate().find_map(|(i, v)| below(i.to_string(), v)),
        Json::Object(fields) => fields.iter().find_map(|(k, v)| below(k.clone(), v)),
        _ => None,
    }
}

/// Why a value could not be read or written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ArtifactError {
    /// It is not what its type says.
    #[error("cannot read the value of {what}: {why}")]
    Unreadable {
        /// What it should be.
        what: &'static str,
        /// The field and what is wrong with it.
        why: String,
    },
    /// A number is NaN or infinite.
    #[error("cannot write the value of {what}: `{field}` is not a finite number")]
    NotFinite {
        /// What was written.
        what: &'static str,
        /// Path of the field.
        field: String,
    },
}

impl From<ArtifactError> for Failure {
    fn from(e: ArtifactError) -> Self {
        let failure = Self::input(e.to_string());
        match e {
            ArtifactError::Unreadable { .. } => {
                failure.help("make it again with this version, or read it with the version that made it")
            }
            ArtifactError::NotFinite { .. } => failure,
        }
    }
}

/// Rounds to four decimals, as numbers for people are stored.
pub fn rounded(x: f64) -> f64 {
    (x * 1e4).round() / 1e4
}
