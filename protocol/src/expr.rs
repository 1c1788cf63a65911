//! Arguments: expressions over outputs of other instances, and their resolution to values.
//!
//! The engine substitutes public outputs and resolves what follows from public values alone; what touches a
//! private output stays an expression until the device resolves it, so the engine never learns which branch was
//! taken.

mod public;
mod resolve;
mod walk;

use serde::{Deserialize, Serialize};

pub use public::{public_value, resolve_public, unresolved};
pub use resolve::{Manifests, Residency, Resolved, resolve};

use crate::artifact::{ArtifactRef, ArtifactType};
use crate::digest::Digest;
use crate::failure::Failure;

/// A resolved argument.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "is", content = "value", rename_all = "snake_case")]
pub enum Value {
    /// An absent optional.
    Absent,
    /// true or false.
    Bool(bool),
    /// An integer.
    Int(i64),
    /// A float.
    Float(f64),
    /// Text.
    Text(String),
    /// A path, resolved by the place that runs the stage.
    Path(String),
    /// Milliseconds.
    Duration(u64),
    /// Bytes.
    Bytes(u64),
    /// A keyed list; keys are element names.
    List(Vec<(String, Value)>),
    /// An artifact.
    Artifact(ArtifactRef),
    /// Weights over pLLMs.
    Mix(Vec<MixTerm>),
    /// A comparison over a metric.
    Condition(Condition),
    /// The value of a field that is no artifact itself, such as a pLLM's metrics.
    Json(serde_json::Value),
}

/// One weighted pLLM.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MixTerm {
    /// Its weight; may be negative.
    pub weight: f64,
    /// The pLLM.
    pub pllm: ArtifactRef,
    /// Its name in the catalog or the pipeline, for people.
    pub name: String,
}

/// `metric op bound`, such as `loss < 1.9`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Condition {
    /// The metric's name.
    pub metric: String,
    /// The comparison.
    pub op: CompareOp,
    /// What it is compared with.
    pub bound: f64,
}

impl Condition {
    /// Whether `value` meets it.
    pub fn met(&self, value: f64) -> bool {
        self.op.holds(value, self.bound)
    }
}

/// A comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the six comparisons")]
pub enum CompareOp {
    Lt,
    Le,
    Gt,
    Ge,
    Eq,
    Ne,
}

impl CompareOp {
    /// As written in a pipeline file.
    pub fn symbol(self) -> &'static str {
        match self {
            Self::Lt => "<",
            Self::Le => "<=",
            Self::Gt => ">",
            Self::Ge => ">=",
            Self::Eq => "==",
            Self::Ne => "!=",
        }
    }

    /// Whether the comparison holds.
    pub fn holds(self, a: f64, b: f64) -> bool {
        match self {
            Self::Lt => a < b,
            Self::Le => a <= b,
            Self::Gt => a > b,
            Self::Ge => a >= b,
            Self::Eq => a == b,
            Self::Ne => a != b,
        }
    }
}

/// An argument before resolution.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "expr", rename_all = "snake_case")]
pub enum Expr {
    /// A known value.
    Value {
        /// The value.
        value: Value,
    },
    /// The output of the plan's instance of this number. Never appears in a task.
    Output {
        /// Index into the plan's instances.
        instance: u32,
    },
    /// `of.name`.
    Field {
        /// Whose field.
        of: Box<Expr>,
        /// Which field.
        name: String,
    },
    /// `first or second`: the first that is present.
    Or {
        /// Taken where present.
        first: Box<Expr>,
        /// Taken otherwise.
        second: Box<Expr>,
    },
    /// A keyed list.
    List {
        /// Keys and elements.
        items: Vec<(String, Expr)>,
    },
    /// `0.6 * a + 0.4 * b`.
    Mix {
        /// Weight, name for people, pLLM.
        terms: Vec<(f64, String, Expr)>,
    },
    /// `left op right`, over numbers and booleans.
    Compare {
        /// The comparison.
        op: CompareOp,
        /// Left side.
        left: Box<Expr>,
        /// Right side.
        right: Box<Expr>,
    },
    /// `not of`.
    Not {
        /// The negated condition.
        of: Box<Expr>,
    },
}

impl Expr {
    /// A known value.
    pub fn value(value: Value) -> Self {
        Self::Value { value }
    }
}

impl Value {
    /// Whether it is an absent optional.
    pub fn is_absent(&self) -> bool {
        match self {
            Self::Absent => true,
            Self::Artifact(a) => a.ty == ArtifactType::Absent,
            _ => false,
        }
    }

    /// What it is, for error messages.
    pub fn describe(&self) -> String {
        match self {
            Self::Absent => "nothing".into(),
            Self::Bool(b) => b.to_string(),
            Self::Int(i) => i.to_string(),
            Self::Float(x) => x.to_string(),
            Self::Text(t) => format!("{t:?}"),
            Self::Path(p) => format!("path {p:?}"),
            Self::Duration(ms) => format!("{ms} ms"),
            Self::Bytes(b) => format!("{b} bytes"),
            Self::List(items) => format!("a list of {}", items.len()),
            Self::Artifact(a) => format!("a {:?}", a.ty),
            Self::Mix(terms) => format!("a mix of {}", terms.len()),
            Self::Condition(c) => format!("{} {} {}", c.metric, c.op.symbol(), c.bound),
            Self::Json(_) => "a record".into(),
        }
    }

    fn number(&self) -> Option<f64> {
        match self {
            Self::Int(i) => Some(*i as f64),
            Self::Float(x) => Some(*x),
            Self::Bool(b) => Some(f64::from(u8::from(*b))),
            Self::Json(j) => j.as_f64().or_else(|| j.as_bool().map(|b| f64::from(u8::from(b)))),
            _ => None,
        }
    }
}

/// Why an expression has no value. The checker rules most of these out.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// An output was not substituted before resolution.
    #[error("instance {0} has no output yet")]
    NoOutput(u32),
    /// The manifest has no such field.
    #[error("{of} has no field `{field}`")]
    NoField {
        /// What was asked.
        of: String,
        /// For which field.
        field: String,
    },
    /// An operand is not a number or truth value.
    #[error("{0} is not a number or a truth value")]
    NotComparable(String),
    /// A mix has a term that is no pLLM.
    #[error("a mix takes pLLMs, not {0}")]
    NotPllm(String),
    /// The manifest could not be had.
    #[error("{0}")]
    Manifest(String),
    /// A public artifact refers to a private one. There is no such artifact: whoever sends one wants to
    /// read the private one by another name.
    #[error("the public artifact {} refers to a private one as `{name}`", artifact.short())]
    PrivateReference {
        /// The public artifact.
        artifact: Digest,
        /// The name of its reference.
        name: String,
    },
    /// An artifact cannot be had where it is resolved.
    #[error(transparent)]
    Failed(#[from] Failure),
    /// The stage that should have made an artifact failed there; the failure says why.
    #[error("{0}")]
    InputFailed(Failure),
}
