//! What may leave a device, type by type. All of it is in this file, in the tables of `release/numbers.rs`,
//! which say for each stage kind which numbers may, and in those of `release/behind.rs`, which say what bounds
//! the rows behind them.
//!
//! A pipeline names what it releases; the checker allows that by [`class_of`] and [`released_metric`],
//! the owner of the device by [`Class`]. What then leaves is a [`Projection`] of the value: of each type
//! only the fields that the schema below lists, so that a field that is added to a type stays on the device
//! until it is listed here. The rules:
//!
//! - Numbers leave: finite ones, under names that the schema or the stage kind declares beforehand, with its
//!   bounds, rounded to two significant digits unless it says otherwise. Counts, and what else is a detail,
//!   leave only if the owner allows details.
//! - A name leaves only if it is public already, because it is in the public catalog that the stage read.
//! - Text never leaves.
//! - Files leave only as part of a pLLM, if the owner allows that, and only those that a pLLM consists of.
//!
//! How many numbers left is counted by [`count`]: each of them, and each name that was chosen.

mod behind;
mod numbers;

use serde_json::{Map, Value as Json};

pub use behind::{
    ANSWERED_ROWS, CHOOSING_ROWS, EMBEDDED_ROWS, HELD_BACK_ROWS, RowBound, RowFacts, SCORED_ROWS,
    TRAINED_ROWS, VERIFYING_ROWS, reads_numbers, rows_of_kind,
};
pub use numbers::{Number, of_kind};

use crate::artifacts::{Artifact, ArtifactError, BASE, Metrics, Pllm, Selection};
use crate::types::Type;

/// A group of things that the owner of a device allows to leave, or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// Named numbers.
    Metrics,
    /// A choice: names of public pLLMs, coefficients, confidence.
    Selection,
    /// Weights over pLLMs.
    Mix,
    /// The weights of a model that was trained on private data.
    Pllm,
}

impl Class {
    /// All classes.
    pub const ALL: [Self; 4] = [Self::Metrics, Self::Selection, Self::Mix, Self::Pllm];

    /// As an owner writes it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Metrics => "metrics",
            Self::Selection => "selection",
            Self::Mix => "mix",
            Self::Pllm => "pllm",
        }
    }

    fn of(ty: &Type) -> Option<Self> {
        Some(match ty {
            Type::Metrics => Self::Metrics,
            Type::Selection => Self::Selection,
            Type::Mix => Self::Mix,
            Type::Pllm => Self::Pllm,
            _ => return None,
        })
    }
}

impl Type {
    /// Whether a private value of this type may leave its device through `release`.
    /// Texts and per-prompt vectors never may; numbers, choices and (loudly) weights may.
    pub fn releasable(&self) -> bool {
        match self {
            Self::Pllm | Self::Selection | Self::Mix | Self::Metrics => true,
            Self::Int | Self::Float | Self::Bool => true,
            Self::List(t) | Self::Optional(t) => t.releasable(),
            _ => false,
        }
    }
}

/// The class and type of what `path` names in a value of type `ty`; none where it can never leave.
pub fn class_of(ty: &Type, path: &[String]) -> Option<(Class, Type)> {
    let mut ty = ty.present().clone();
    let mut class = Class::of(&ty);
    for name in path {
        let field = ty.field(name)?.present().clone();
        class = match (&ty, &field) {
            // A choice stays a choice, whichever of its fields is named; only the mix has a class of
            // its own.
            (Type::Selection, Type::Mix) => Some(Class::Mix),
            (Type::Selection, _) => Some(Class::Selection),
            (_, Type::Metrics) if class != Some(Class::Selection) => Some(Class::Metrics),
            _ => class,
        };
        ty = field;
    }
    let class = class?;
    ty.releasable().then_some((class, ty))
}

/// The metric that `path` names in the output of a stage of type `ty`: the `loss` of a metrics' `loss` or
/// of a pLLM's `metrics.loss`. None where the path names no single metric of the stage.
pub fn released_metric<'p>(ty: &Type, path: &'p [String]) -> Option<&'p str> {
    match (ty.present(), path) {
        (Type::Metrics, [name]) => Some(name),
        (Type::Pllm, [metrics, name]) if metrics == "metrics" => Some(name),
        _ => None,
    }
}

/// A field that may leave, by its path: `*` is any key of a map, which must be a public name, and `[]` any
/// element of a list.
struct Field {
    path: &'static [&'static str],
    what: What,
    /// Whether it leaves only if the owner allows details.
    detail: bool,
}

/// What a field holds.
#[derive(Clone, Copy)]
enum What {
    /// A public name.
    Name,
    /// A truth value.
    Flag,
    /// A number within these bounds.
    Number(f64, f64),
}

const fn main(path: &'static [&'static str], what: What) -> Field {
    Field { path, what, detail: false }
}

const fn detail(path: &'static [&'static str], what: What) -> Field {
    Field { path, what, detail: true }
}

const SHARE: What = What::Number(0.0, 1.0);
const COUNT: What = What::Number(0.0, 1e12);
const LOSS: What = What::Number(0.0, 100.0);
const STYLE: What = What::Number(-100.0, 100.0);

/// What may leave of a selection. Not the strategy, the sentence for the user, the reason of a forecast that
/// is not known, and the number of texts.
const SELECTION: &[Field] = &[
    main(&["pllm_name"], What::Name),
    main(&["style"], What::Name),
    main(&["is_mix"], What::Flag),
    main(&["abstained"], What::Flag),
    main(&["confidence"], SHARE),
    main(&["strength"], SHARE),
    main(&["mix", "*"], What::Number(-10.0, 10.0)),
    main(&["user", "explained"], SHARE),
    main(&["user", "words", "[]", "word"], What::Name),
    main(&["user", "words", "[]", "coefficient"], STYLE),
    main(&["user", "words", "[]", "low"], STYLE),
    main(&["user", "words", "[]", "high"], STYLE),
    main(&["forecast", "share_saved"], SHARE),
    main(&["forecast", "share_saved_low"], SHARE),
    main(&["forecast", "share_saved_high"], SHARE),
    main(&["forecast", "steps_scratch"], COUNT),
    main(&["forecast", "steps_saved"], COUNT),
    detail(&["forecast", "left"], SHARE),
    detail(&["forecast", "left_low"], SHARE),
    detail(&["forecast", "left_high"], SHARE),
    detail(&["forecast", "steps_scratch_low"], COUNT),
    detail(&["forecast", "steps_scratch_high"], COUNT),
    detail(&["forecast", "steps_saved_low"], COUNT),
    detail(&["forecast", "steps_saved_high"], COUNT),
    detail(&["forecast", "seconds_saved"], COUNT),
    detail(&["forecast", "seconds_saved_low"], COUNT),
    detail(&["forecast", "seconds_saved_high"], COUNT),
    detail(&["forecast", "learning_rate"], COUNT),
    detail(&["forecast", "rows_a_step"], COUNT),
    detail(&["forecast", "bytes"], COUNT),
    detail(&["forecast", "break_even_bytes_per_second"], COUNT),
    detail(&["distances", "*"], COUNT),
    detail(&["verified", "loss", "*"], LOSS),
    detail(&["verified", "share", "*"], SHARE),
    detail(&["verified", "base_loss"], LOSS),
    detail(&["verified", "mix_loss"], LOSS),
    detail(&["verified", "mix_share"], SHARE),
    detail(&["verified", "rows"], COUNT),
    detail(&["verified", "held_back"], What::Flag),
    detail(&["cost", "forward_passes"], COUNT),
    detail(&["cost", "bytes"], COUNT),
    detail(&["cost", "catalog_bytes"], COUNT),
    detail(&["cost", "seconds"], COUNT),
];

/// Elements of a list that leave without details.
const LONGEST: usize = 3;

/// The numbers of metrics that may leave.
#[derive(Clone, Copy)]
pub enum Numbers<'a> {
    /// Those that the stage declares.
    Declared(&'a [Number]),
    /// All: the metrics are public, and only which of them were chosen is not.
    Public,
}

/// How values are reduced to what may leave.
pub struct Projection<'a> {
    /// Whether a name is public: that of a pLLM or of a word of the public catalog.
    pub known: &'a dyn Fn(&str) -> bool,
    /// The numbers of metrics among it.
    pub numbers: Numbers<'a>,
    /// Whether weights over pLLMs may leave as well.
    pub mix: bool,
    /// Whether details may leave as well.
    pub details: bool,
}

impl Projection<'_> {
    /// What may leave of a value of type `ty`.
    ///
    /// # Errors
    /// [`ArtifactError`] where the value is not one of that type. Of a type that cannot be released,
    /// nothing is left.
    pub fn of(&self, ty: &Type, value: &Json) -> Result<Json, ArtifactError> {
        match ty.present() {
            Type::Metrics => self.metrics(&Metrics::read(value)?).json(),
            Type::Selection => {
                let whole = Selection::read(value)?.json()?;
                Ok(self.listed(SELECTION, &mut Vec::new(), &whole).unwrap_or(Json::Null))
            }
            Type::Pllm => self.pllm(Pllm::read(value)?).json(),
            _ => Ok(Json::Null),
        }
    }

    /// Declared numbers leave, within their bounds and rounded; a table does not.
    fn metrics(&self, m: &Metrics) -> Metrics {
        let mut out = Metrics::default();
        for (name, x) in m.all() {
            let left = match self.numbers {
                Numbers::Public => Some(numbers::rounded(x, numbers::DIGITS)),
                Numbers::Declared(all) => {
                    let number = all.iter().find(|n| n.name == name);
                    number.filter(|n| self.details || !n.detail).and_then(|n| n.leaving(x))
                }
            };
            if let Some(x) = left {
                put(&mut out, name, x);
            }
        }
        out
    }

    /// What training reported, and the learning curve. Of a merge: public parents with their weights.
    /// Not what people say about it.
    fn pllm(&self, p: Pllm) -> Pllm {
        let Pllm { format, metrics, curve, about: _, modules: _, mut lineage } = p;
        lineage.retain(|parent| (self.known)(&parent.name));
        let metrics = self.metrics(&metrics);
        Pllm { format, metrics, curve, about: None, modules: Default::default(), lineage }
    }

    /// The fields of a value that the schema lists and that leave here; `None` where none does.
    fn listed(&self, fields: &[Field], at: &mut Vec<String>, value: &Json) -> Option<Json> {
        let below = |at: &[String]| fields.iter().filter(|f| f.matches(at)).collect::<Vec<_>>();
        match value {
            Json::Object(map) => {
                let mut out = Map::new();
                for (key, value) in map {
                    at.push(key.clone());
                    let here = below(at);
                    let is_name = here.iter().any(|f| f.path[at.len() - 1] == "*");
                    if !here.is_empty()
                        && (!is_name || (self.known)(key))
                        && let Some(left) = self.listed(fields, at, value)
                    {
                        out.insert(key.clone(), left);
                    }
                    at.pop();
                }
                (!out.is_empty()).then_some(Json::Object(out))
            }
            Json::Array(items) => {
                at.push("[]".to_owned());
                let names: Vec<&str> = below(at)
                    .into_iter()
                    .filter(|f| matches!(f.what, What::Name) && f.path.len() == at.len() + 1)
                    .map(|f| f.path[at.len()])
                    .collect();
                let left = items.iter().filter_map(|item| self.listed(fields, at, item));
                // Numbers of an element whose name stays say nothing.
                let named = left.filter(|item| names.iter().all(|n| item.get(n).is_some()));
                let most = if self.details { usize::MAX } else { LONGEST };
                let out = named.take(most).collect();
                at.pop();
                Some(Json::Array(out))
            }
            leaf => {
                let field = fields.iter().find(|f| f.path.len() == at.len() && f.matches(at))?;
                if (field.detail && !self.details) || (field.path[0] == "mix" && !self.mix) {
                    return None;
                }
                match field.what {
                    What::Flag => leaf.is_boolean().then(|| leaf.clone()),
                    What::Name => {
                        let base = field.path == ["pllm_name"] && leaf == BASE;
                        leaf.as_str().is_some_and(|name| base || (self.known)(name)).then(|| leaf.clone())
                    }
                    What::Number(low, high) => {
                        let x = Number::new("", low, high).leaving(leaf.as_f64()?)?;
                        Some(if leaf.is_f64() { x.into() } else { whole(x) })
                    }
                }
            }
        }
    }

    /// Whether a pLLM's reference to another artifact may leave under this name.
    pub fn reference(&self, name: &str) -> bool {
        name == BASE || name.strip_prefix("parent:").is_some_and(|parent| (self.known)(parent))
    }
}

impl Field {
    /// Whether a path leads to the field, or on the way to it.
    fn matches(&self, at: &[String]) -> bool {
        at.len() <= self.path.len() && self.path.iter().zip(at).all(|(p, a)| *p == "*" || *p == a)
    }
}

/// A whole number where it is one.
fn whole(x: f64) -> Json {
    if x.fract() == 0.0 && x.abs() < 9e15 { Json::from(x as i64) } else { x.into() }
}

fn put(out: &mut Metrics, name: &str, x: f64) {
    if x.fract() == 0.0 && (0.0..9e15).contains(&x) {
        out.put(name, x as u64);
    } else {
        out.put(name, x);
    }
}

/// Whether all that `path` names in a value of type `ty` is a detail. `numbers` are those that the stage
/// declares.
pub fn is_detail(ty: &Type, path: &[String], numbers: &[Number]) -> bool {
    if let Some(name) = released_metric(ty, path) {
        return numbers.iter().any(|n| n.name == name && n.detail);
    }
    let fields: Vec<_> = SELECTION.iter().filter(|f| f.matches(path)).collect();
    *ty.present() == Type::Selection
        && !path.is_empty()
        && !fields.is_empty()
        && fields.iter().all(|f| f.detail)
}

/// The numbers that leave with a released value, by their paths: every number and truth value, and every
/// name that was chosen. That there is nothing is a number too.
pub fn count(ty: &Type, path: &[String], value: &Json) -> Vec<String> {
    let mut out = Vec::new();
    count_in(*ty.present() == Type::Selection, &mut path.to_vec(), value, &mut out);
    out
}

fn count_in(selection: bool, at: &mut Vec<String>, value: &Json, out: &mut Vec<String>) {
    let mut below = |key: String, value: &Json, out: &mut Vec<String>| {
        at.push(key);
        count_in(selection, at, value, out);
        at.pop();
    };
    match value {
        Json::Object(map) => {
            for (key, value) in map {
                below(key.clone(), value, out);
            }
            let chosen = |f: &Field| f.path.len() == at.len() + 1 && f.path[at.len()] == "*" && f.matches(at);
            if selection && SELECTION.iter().any(chosen) {
                out.extend(map.keys().map(|key| format!("{}.{key} (name)", at.join("."))));
            }
        }
        Json::Array(items) => {
            items.iter().enumerate().for_each(|(n, item)| below(n.to_string(), item, out));
        }
        Json::Null => out.push(format!("{} (none)", at.join("."))),
        _ => out.push(at.join(".")),
    }
}

/// Whether a file of a pLLM may leave with it: those of a model in its published format, under their
/// published names.
pub fn is_model_file(name: &str) -> bool {
    const NAMES: &[&str] = &[
        "adapter_config.json",
        "adapter_model.safetensors",
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "model.safetensors",
        "model.safetensors.index.json",
    ];
    NAMES.contains(&name) || is_shard(name)
}

/// `model-00001-of-00003.safetensors`.
fn is_shard(name: &str) -> bool {
    let numbers = name.strip_prefix("model-").and_then(|n| n.strip_suffix(".safetensors"));
    let is_number = |n: &str| n.len() == 5 && n.bytes().all(|b| b.is_ascii_digit());
    numbers.and_then(|n| n.split_once("-of-")).is_some_and(|(i, n)| is_number(i) && is_number(n))
}

#[cfg(test)]
mod tests;
