//! The types of the pipeline language.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A type of the pipeline language.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Type {
    /// A base language model or an encoder, as a folder in its published format.
    Model,
    /// A personalized language model: a base plus a LoRA adapter, or full weights.
    Pllm,
    /// Rows of prompt and response.
    Dataset,
    /// What a model answered to a dataset's prompts.
    Responses,
    /// How answers differ from the base's, one vector a prompt.
    Divergence,
    /// How text becomes a vector.
    Space,
    /// Lexicon, metric and every pLLM's coefficients.
    Catalog,
    /// The outcome of `select`.
    Selection,
    /// Weights over pLLMs.
    Mix,
    /// Named numbers.
    Metrics,
    /// A file or folder.
    Path,
    /// Text.
    Text,
    /// A 64-bit signed integer.
    Int,
    /// A 64-bit float.
    Float,
    /// true or false.
    Bool,
    /// A length of time, in milliseconds.
    Duration,
    /// An amount of memory or storage, in bytes.
    Bytes,
    /// A comparison over metrics, such as `loss < 1.9`.
    Condition,
    /// A keyed list.
    List(Box<Type>),
    /// A value that may be absent.
    Optional(Box<Type>),
}

impl Type {
    /// `List<self>`.
    pub fn list(self) -> Self {
        Self::List(Box::new(self))
    }

    /// `self?`; an optional stays as it is.
    pub fn optional(self) -> Self {
        match self {
            Self::Optional(_) => self,
            other => Self::Optional(Box::new(other)),
        }
    }

    /// The type of what is there: without its `?`.
    pub fn present(&self) -> &Self {
        match self {
            Self::Optional(t) => t.present(),
            other => other,
        }
    }

    /// The type of this name, for the plain ones.
    pub fn from_name(name: &str) -> Option<Self> {
        PLAIN.iter().find(|(n, _)| *n == name).map(|(_, t)| t.clone())
    }

    /// Names of all plain types, in the order in which the reference lists them.
    pub fn names() -> impl Iterator<Item = &'static str> {
        PLAIN.iter().map(|(n, _)| *n)
    }

    /// Whether values of this type are stored as artifacts rather than written inline.
    pub fn is_artifact(&self) -> bool {
        matches!(
            self,
            Self::Model
                | Self::Pllm
                | Self::Dataset
                | Self::Responses
                | Self::Divergence
                | Self::Space
                | Self::Catalog
                | Self::Selection
                | Self::Metrics
        )
    }

    /// The fields that `value.field` can name, with their types and meaning.
    /// `Metrics` has any field; each is a `Float`.
    pub fn fields(&self) -> &'static [(&'static str, Type, &'static str)] {
        match self {
            Self::Selection => SELECTION_FIELDS,
            Self::Pllm => PLLM_FIELDS,
            _ => &[],
        }
    }

    /// Type of `self.field`, if there is one.
    pub fn field(&self, name: &str) -> Option<Type> {
        match self {
            Self::Metrics => Some(Type::Float),
            _ => self.fields().iter().find(|(n, ..)| *n == name).map(|(_, t, _)| t.clone()),
        }
    }
}

const SELECTION_FIELDS: &[(&str, Type, &str)] = &[
    ("pllm", Type::Pllm, "the best single start that was compared: a pLLM, or the base where none is better"),
    ("mix", Type::Mix, "weights of the best start over pLLMs"),
    (
        "is_mix",
        Type::Bool,
        "whether the best start is a mix, of several pLLMs or of one and the base; then it is better than `pllm`",
    ),
    ("abstained", Type::Bool, "whether the best start is the base"),
    ("confidence", Type::Float, "bootstrap share in which the choice stays the same, 0 to 1"),
    (
        "forecast",
        Type::Metrics,
        "what is expected of the best start: share_saved, steps_scratch, steps_saved, seconds_saved, bytes",
    ),
    ("cost", Type::Metrics, "what choosing took: forward_passes, bytes, seconds"),
];

const PLLM_FIELDS: &[(&str, Type, &str)] = &[
    ("base", Type::Model, "the model that it personalizes"),
    ("metrics", Type::Metrics, "what training reported: loss, steps, seconds, tokens"),
];

const PLAIN: &[(&str, Type)] = &[
    ("Model", Type::Model),
    ("Pllm", Type::Pllm),
    ("Dataset", Type::Dataset),
    ("Responses", Type::Responses),
    ("Divergence", Type::Divergence),
    ("Space", Type::Space),
    ("Catalog", Type::Catalog),
    ("Selection", Type::Selection),
    ("Mix", Type::Mix),
    ("Metrics", Type::Metrics),
    ("Path", Type::Path),
    ("Text", Type::Text),
    ("Int", Type::Int),
    ("Float", Type::Float),
    ("Bool", Type::Bool),
    ("Duration", Type::Duration),
    ("Bytes", Type::Bytes),
];

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::List(t) => write!(f, "List<{t}>"),
            Self::Optional(t) => write!(f, "{t}?"),
            Self::Condition => f.write_str("condition"),
            plain => {
                let name = PLAIN.iter().find(|(_, t)| t == plain).map(|(n, _)| *n);
                f.write_str(name.expect("every plain type is in the table"))
            }
        }
    }
}
