//! What each stage kind takes, returns and where it may run.
//!
//! One registry serves the checker, the editor, the language reference and the runners. Sources
//! (`local`, `jsonl`, `sentence` …) are kinds too: they run as stages like any other.

mod sources;
mod stages;
mod studies;

use crate::types::Type;

/// What may be written with a kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// `model NAME = kind(…)`
    Model,
    /// `dataset NAME = kind(…)`
    Dataset,
    /// `space NAME = kind(…)`
    Space,
    /// `stage NAME: T = kind(…)`
    Stage,
}

/// A stage kind.
#[derive(Debug)]
pub struct Kind {
    /// Its name.
    pub name: &'static str,
    /// Raised when its results change for the same arguments; part of every cache key.
    pub version: u32,
    /// What may be written with it.
    pub role: Role,
    /// One sentence, then details.
    pub doc: &'static str,
    /// Its arguments, in order. The first may be given without its name.
    pub args: &'static [Arg],
    /// Type of its output.
    pub returns: Type,
    /// Whether it may run on a device as well as on a server.
    pub on_device: bool,
    /// Whether its output depends on its arguments alone. What reads a path does not.
    pub cacheable: bool,
    /// An example call.
    pub example: &'static str,
}

/// An argument of a kind.
#[derive(Debug)]
pub struct Arg {
    /// Its name.
    pub name: &'static str,
    /// What it accepts: any of these.
    pub accepts: &'static [Accepts],
    /// Whether and how it may be left out.
    pub default: Default,
    /// What it means, with its unit.
    pub doc: &'static str,
}

/// A form of argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "named like the variants of Type, documented there")]
pub enum Accepts {
    Model,
    Pllm,
    Dataset,
    Responses,
    Divergence,
    Space,
    Catalog,
    Selection,
    Mix,
    Metrics,
    Path,
    Text,
    Int,
    Float,
    Bool,
    Duration,
    Bytes,
    /// A comparison over a metric: `loss < 1.9`.
    Condition,
    /// One of a few words, written bare.
    Word(&'static [&'static str]),
    /// A list of divergences.
    Divergences,
    /// A list of selections.
    Selections,
    /// A list of datasets.
    Datasets,
    /// A list of pLLMs.
    Pllms,
    /// A list of metrics.
    AllMetrics,
    /// A list of texts.
    Texts,
    /// A list of whole numbers.
    Ints,
    /// A list of numbers.
    Floats,
    /// A list of paths.
    Paths,
}

/// Whether an argument may be left out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Default {
    /// It must be given.
    Required,
    /// It may be left out, and is then absent.
    Absent,
    /// It may be left out and then has this value.
    Int(i64),
    /// Likewise.
    Float(f64),
    /// Likewise.
    Bool(bool),
    /// Likewise; also for words.
    Text(&'static str),
}

impl Accepts {
    /// The type it stands for; a word is a text.
    pub fn ty(self) -> Type {
        match self {
            Self::Model => Type::Model,
            Self::Pllm => Type::Pllm,
            Self::Dataset => Type::Dataset,
            Self::Responses => Type::Responses,
            Self::Divergence => Type::Divergence,
            Self::Space => Type::Space,
            Self::Catalog => Type::Catalog,
            Self::Selection => Type::Selection,
            Self::Mix => Type::Mix,
            Self::Metrics => Type::Metrics,
            Self::Path => Type::Path,
            Self::Text | Self::Word(_) => Type::Text,
            Self::Int => Type::Int,
            Self::Float => Type::Float,
            Self::Bool => Type::Bool,
            Self::Duration => Type::Duration,
            Self::Bytes => Type::Bytes,
            Self::Condition => Type::Condition,
            Self::Divergences => Type::Divergence.list(),
            Self::Selections => Type::Selection.list(),
            Self::Datasets => Type::Dataset.list(),
            Self::Pllms => Type::Pllm.list(),
            Self::AllMetrics => Type::Metrics.list(),
            Self::Texts => Type::Text.list(),
            Self::Ints => Type::Int.list(),
            Self::Floats => Type::Float.list(),
            Self::Paths => Type::Path.list(),
        }
    }
}

/// Every kind, sources first.
pub fn all() -> impl Iterator<Item = &'static Kind> {
    sources::SOURCES.iter().chain(stages::STAGES).chain(studies::STUDIES)
}

/// The kind of this name.
pub fn find(name: &str) -> Option<&'static Kind> {
    all().find(|k| k.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_everything_is_documented() {
        let mut names: Vec<_> = all().map(|k| k.name).collect();
        names.sort_unstable();
        assert!(names.windows(2).all(|w| w[0] != w[1]), "{names:?}");
        for kind in all() {
            assert!(!kind.doc.is_empty() && kind.example.starts_with(kind.name), "{}", kind.name);
            for arg in kind.args {
                assert!(!arg.doc.is_empty() && !arg.accepts.is_empty(), "{}.{}", kind.name, arg.name);
            }
        }
    }
}
