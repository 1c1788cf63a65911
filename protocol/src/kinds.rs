//! What each stage kind takes, returns and where it may run.
//!
//! One registry, [`Kinds`], serves the checker, the editor, the language reference and the runners:
//! the built-in kinds, and the custom ones that programs declare. Sources (`local`, `jsonl`,
//! `sentence` …) are kinds too: they run as stages like any other.

mod sources;
mod stages;
mod studies;
mod values;

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use crate::release::Number;
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
#[derive(Clone, Debug, PartialEq)]
pub struct Kind {
    /// Its name; that of a program's stage is `program.stage`.
    pub name: String,
    /// Raised when its results change for the same arguments; part of every cache key.
    pub version: u32,
    /// What may be written with it.
    pub role: Role,
    /// One sentence, then details.
    pub doc: String,
    /// Its arguments, in order. The first may be given without its name.
    pub args: Vec<Arg>,
    /// Type of its output.
    pub returns: Type,
    /// The numbers that its output may hold, where that is metrics or a pLLM: nothing else of them can be
    /// released from a device. Those whose names depend on the input are not among them.
    pub metrics: Vec<Number>,
    /// Where it may run.
    pub places: Places,
    /// Whether its output depends on its arguments alone. What reads a path does not.
    pub cacheable: bool,
    /// Whether it computes numbers by way of a backend or of vector instructions, so that what it
    /// makes depends on [`crate::Numerics`] in its last bits. Sums and counts in plain scalar
    /// arithmetic, which IEEE 754 fixes, do not.
    pub numeric: bool,
    /// An example call.
    pub example: String,
}

/// Where a kind may run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Places {
    /// On a server and on devices.
    Anywhere,
    /// On a server only.
    Server,
    /// On devices only.
    Device,
}

/// An argument of a kind.
#[derive(Clone, Debug, PartialEq)]
pub struct Arg {
    /// Its name.
    pub name: String,
    /// What it accepts: any of these.
    pub accepts: Vec<Accepts>,
    /// Whether and how it may be left out.
    pub default: DefaultValue,
    /// What it means, with its unit.
    pub doc: String,
    /// Where it has an effect: all of these must hold. An argument that is given where it has none is
    /// refused.
    pub needs: Vec<Need>,
}

/// What another argument must be, so that an argument has an effect.
#[derive(Clone, Debug, PartialEq)]
pub enum Need {
    /// One of these words.
    Word(&'static str, &'static [&'static str]),
    /// Given.
    Given(&'static str),
    /// A number above 0.
    AboveZero(&'static str),
    /// Of one of these types.
    Of(&'static str, &'static [Type]),
}

impl Need {
    /// The other argument.
    pub fn arg(&self) -> &'static str {
        match self {
            Self::Word(arg, _) | Self::Given(arg) | Self::AboveZero(arg) | Self::Of(arg, _) => arg,
        }
    }

    /// In words, as the end of "it has an effect only where": `` `temperature` is above 0 ``.
    pub fn describe(&self) -> String {
        let or = |words: Vec<String>| words.join(" or ");
        let arg = self.arg();
        match self {
            Self::Word(_, words) => {
                format!("`{arg}` is {}", or(words.iter().map(|w| format!("`{w}`")).collect()))
            }
            Self::Given(_) => format!("`{arg}` is given"),
            Self::AboveZero(_) => format!("`{arg}` is above 0"),
            Self::Of(_, types) => {
                format!("`{arg}` is of type {}", or(types.iter().map(Type::to_string).collect()))
            }
        }
    }
}

/// A form of argument.
#[derive(Clone, Debug, PartialEq, Eq)]
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
    /// A whole number of at least 1.
    Count,
    Float,
    Bool,
    Duration,
    Bytes,
    /// A comparison over a metric: `loss < 1.9`.
    Condition,
    /// One of a few words, written bare.
    Word(Vec<String>),
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
    /// A list of another type.
    Listed(Type),
}

/// Whether an argument may be left out.
#[derive(Clone, Debug, PartialEq)]
pub enum DefaultValue {
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
    Text(String),
}

impl Accepts {
    /// The type it stands for; a word is a text.
    pub fn ty(&self) -> Type {
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
            Self::Int | Self::Count => Type::Int,
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
            Self::Listed(t) => t.clone().list(),
        }
    }
}

impl Places {
    /// Whether a device may run it.
    pub fn on_device(self) -> bool {
        self != Self::Server
    }

    /// Whether a server may run it.
    pub fn on_server(self) -> bool {
        self != Self::Device
    }

    /// In words: `the server and devices`.
    pub fn describe(self) -> &'static str {
        match self {
            Self::Anywhere => "the server and devices",
            Self::Server => "the server only",
            Self::Device => "devices only",
        }
    }
}

impl Kind {
    /// The argument of this name.
    pub fn arg(&self, name: &str) -> Option<&Arg> {
        self.args.iter().find(|a| a.name == name)
    }
}

fn required(name: &str, accepts: &[Accepts], doc: &str) -> Arg {
    optional(name, accepts, DefaultValue::Required, doc)
}

fn optional(name: &str, accepts: &[Accepts], default: DefaultValue, doc: &str) -> Arg {
    let needs = Vec::new();
    Arg { name: name.to_owned(), accepts: accepts.to_vec(), default, doc: doc.to_owned(), needs }
}

impl Arg {
    /// The argument, which has an effect only where this holds of another.
    fn needs(mut self, need: Need) -> Self {
        self.needs.push(need);
        self
    }
}

fn word(words: &[&str]) -> Accepts {
    Accepts::Word(words.iter().map(|w| (*w).to_owned()).collect())
}

static BUILTIN: LazyLock<Vec<Arc<Kind>>> = LazyLock::new(|| {
    sources::sources().into_iter().chain(stages::stages()).chain(studies::studies()).map(Arc::new).collect()
});

/// Every built-in kind, sources first.
pub fn all() -> impl Iterator<Item = &'static Arc<Kind>> {
    BUILTIN.iter()
}

/// The built-in kind of this name.
pub fn find(name: &str) -> Option<&'static Arc<Kind>> {
    all().find(|k| k.name == name)
}

/// The kinds that a pipeline file can call: the built-in ones, and those of the programs it names.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Kinds {
    /// By `program.stage`.
    declared: BTreeMap<String, Arc<Kind>>,
}

impl Kinds {
    /// Adds a kind that a program declares, under the name that the file calls it by.
    pub fn declare(&mut self, name: String, kind: Kind) {
        self.declared.insert(name, Arc::new(kind));
    }

    /// The kind of this name: `probe`, or `program.stage`.
    pub fn find(&self, name: &str) -> Option<&Arc<Kind>> {
        self.declared.get(name).or_else(|| find(name))
    }

    /// Every kind with the name that it is called by: the built-in ones, then the declared ones.
    pub fn all(&self) -> impl Iterator<Item = (&str, &Arc<Kind>)> {
        all().map(|k| (k.name.as_str(), k)).chain(self.declared())
    }

    /// The kinds that programs declare, with the names that they are called by.
    pub fn declared(&self) -> impl Iterator<Item = (&str, &Arc<Kind>)> {
        self.declared.iter().map(|(name, kind)| (name.as_str(), kind))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_everything_is_documented() {
        let mut names: Vec<_> = all().map(|k| k.name.as_str()).collect();
        names.sort_unstable();
        assert!(names.windows(2).all(|w| w[0] != w[1]), "{names:?}");
        for kind in all() {
            assert!(!kind.doc.is_empty() && kind.example.starts_with(&kind.name), "{}", kind.name);
            for arg in &kind.args {
                for need in &arg.needs {
                    assert!(kind.arg(need.arg()).is_some(), "{}.{}: {need:?}", kind.name, arg.name);
                    assert_ne!(arg.default, DefaultValue::Required, "{}.{}", kind.name, arg.name);
                }
                assert!(!arg.doc.is_empty() && !arg.accepts.is_empty(), "{}.{}", kind.name, arg.name);
            }
        }
    }

    #[test]
    fn counts_are_details() {
        for kind in all() {
            for n in &kind.metrics {
                let counts = ["tokens", "rows", "n", "answers", "bytes", "forward_passes", "eval_rows"];
                assert!(n.detail || !counts.contains(&n.name.as_str()), "{}: {n:?}", kind.name);
                assert!(n.bounds.is_some_and(|(low, high)| low < high), "{}: {n:?}", kind.name);
            }
        }
    }
}
