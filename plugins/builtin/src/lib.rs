//! The explicit list of built-in stages: nothing registers itself.
//!
//! # Layout
//! - [`stages`]: every implementation, in the order of the flow.
//! - [`Registry`]: finds them by kind.
//! - [`backend`]: what they compute with.

pub mod backend;

use std::collections::BTreeMap;
use std::sync::Arc;

use headstart_lm::Backend;
use headstart_protocol::{Failure, FailureClass, Stage};

/// Every built-in stage, over one backend.
pub fn stages(backend: Arc<dyn Backend>) -> Vec<Box<dyn Stage>> {
    let groups = [
        headstart_ingest::stages,
        headstart_explain::stages,
        headstart_select::stages,
        headstart_merge::stages,
        headstart_finetune::stages,
        headstart_evaluate::stages,
        headstart_study::stages,
    ];
    groups.into_iter().flat_map(|stages| stages(Arc::clone(&backend))).collect()
}

/// Stages by kind.
pub struct Registry(BTreeMap<String, Box<dyn Stage>>);

impl Registry {
    /// All built-in stages over a backend.
    pub fn new(backend: Arc<dyn Backend>) -> Self {
        Self(stages(backend).into_iter().map(|stage| (stage.kind().to_owned(), stage)).collect())
    }

    /// The implementation of a kind.
    pub fn find(&self, kind: &str) -> Option<&dyn Stage> {
        self.0.get(kind).map(AsRef::as_ref)
    }

    /// The implementation of a kind, or a failure that names those there are.
    pub fn get(&self, kind: &str) -> Result<&dyn Stage, Failure> {
        self.find(kind).ok_or_else(|| {
            let known: Vec<&str> = self.kinds().collect();
            let message = format!("this runner has no stage kind `{kind}`; it has {}", known.join(", "));
            Failure::new(FailureClass::Internal, message)
        })
    }

    /// The kinds there are, sorted.
    pub fn kinds(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }
}
