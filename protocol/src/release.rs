//! What may leave a device, type by type. All of it is in this file.
//!
//! A pipeline names what it releases; the checker allows that by [`class_of`] and [`released_metric`],
//! the owner of the device by [`Class`]. What then leaves is a [`Projection`] of the value: each type
//! below is taken apart field by field, so that a field that is added to a type must be decided on here
//! before it compiles. The rules:
//!
//! - Numbers leave: finite ones, under names that the type or the stage kind declares beforehand.
//! - A name leaves only if it is public already, because it is in the public catalog that the stage read.
//! - Text never leaves.
//! - Files leave only as part of a pLLM, if the owner allows that, and only those that a pLLM consists of.

use serde_json::Value as Json;

use crate::artifacts::{
    Artifact, ArtifactError, BASE, Cost, Expected, Explanation, Forecast, Metrics, Pllm, Selection, Verified,
};
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

/// How values are reduced to what may leave.
pub struct Projection<'a> {
    /// Whether a name is public: that of a pLLM or of a word of the public catalog.
    pub known: &'a dyn Fn(&str) -> bool,
    /// Names of metrics that the stage declares.
    pub metrics: &'a dyn Fn(&str) -> bool,
    /// Whether weights over pLLMs may leave as well.
    pub mix: bool,
}

impl Projection<'_> {
    /// What may leave of a value of type `ty`.
    ///
    /// # Errors
    /// [`ArtifactError`] where the value is not one of that type. Of a type that cannot be released,
    /// nothing is left.
    pub fn of(&self, ty: &Type, value: &Json) -> Result<Json, ArtifactError> {
        match ty.present() {
            Type::Metrics => self.metrics(Metrics::read(value)?).json(),
            Type::Selection => self.selection(Selection::read(value)?).json(),
            Type::Pllm => self.pllm(Pllm::read(value)?).json(),
            _ => Ok(Json::Null),
        }
    }

    /// Declared numbers leave; a table does not.
    pub fn metrics(&self, m: Metrics) -> Metrics {
        let Metrics { mut numbers, table: _, not_finite: _ } = m;
        numbers.retain(|name, _| (self.metrics)(name));
        Metrics { numbers, ..Metrics::default() }
    }

    /// What was chosen, how sure that is, the user's coefficients, distances and losses of the candidates,
    /// what choosing took and what it should save. Not the sentence for the user, and not how many texts
    /// there are.
    pub fn selection(&self, s: Selection) -> Selection {
        let Selection {
            pllm_name,
            style,
            is_mix,
            abstained,
            confidence,
            strength,
            strategy: _,
            mut mix,
            mut distances,
            user,
            sentence: _,
            forecast,
            n: _,
            verified,
            cost,
        } = s;
        mix.retain(|name, _| self.mix && (self.known)(name));
        distances.retain(|name, _| (self.known)(name));
        Selection {
            pllm_name: pllm_name.filter(|name| name == BASE || (self.known)(name)),
            style: style.filter(|name| (self.known)(name)),
            is_mix,
            abstained,
            confidence,
            strength,
            strategy: None,
            mix,
            distances,
            user: self.style(user),
            sentence: None,
            forecast: forecast_of(forecast),
            n: 0,
            verified: verified.map(|v| self.verified(v)),
            cost: numbers::<Cost>(cost),
        }
    }

    /// Words of the public lexicon leave with their coefficients.
    fn style(&self, style: Explanation) -> Explanation {
        let Explanation { mut words, explained } = style;
        words.retain(|w| (self.known)(&w.word));
        Explanation { words, explained }
    }

    fn verified(&self, v: Verified) -> Verified {
        let Verified { mut loss, mut share, base_loss, mix_loss, mix_share, rows, held_back } = v;
        loss.retain(|name, _| (self.known)(name));
        share.retain(|name, _| (self.known)(name));
        Verified { loss, share, base_loss, mix_loss, mix_share, rows, held_back }
    }

    /// What training reported, and the learning curve. Of a merge: public parents with their weights.
    /// Not what people say about it.
    pub fn pllm(&self, p: Pllm) -> Pllm {
        let Pllm { format, metrics, curve, about: _, modules: _, mut lineage } = p;
        lineage.retain(|parent| (self.known)(&parent.name));
        Pllm {
            format,
            metrics: self.metrics(metrics),
            curve,
            about: None,
            modules: Default::default(),
            lineage,
        }
    }

    /// Whether a pLLM's reference to another artifact may leave under this name.
    pub fn reference(&self, name: &str) -> bool {
        name == BASE || name.strip_prefix("parent:").is_some_and(|parent| (self.known)(parent))
    }
}

/// A type that is `Copy` owns no text: this does not compile if such a field is added to one.
fn numbers<T: Copy>(x: T) -> T {
    x
}

/// Numbers leave; a reason, which is text, does not.
fn forecast_of(forecast: Forecast) -> Forecast {
    match forecast {
        Forecast::NotKnown(_) => Forecast::NotKnown("it was not released".into()),
        Forecast::Known(expected) => Forecast::Known(numbers::<Expected>(expected)),
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
mod tests {
    use serde_json::json;

    use super::*;

    fn path(s: &str) -> Vec<String> {
        s.split('.').filter(|p| !p.is_empty()).map(str::to_owned).collect()
    }

    const PROJECTION: Projection<'static> =
        Projection { known: &|n| ["kind", "warm"].contains(&n), metrics: &|n| n == "loss", mix: true };

    /// Whether a text is anywhere in a value, in keys too.
    fn holds(value: &Json, text: &str) -> bool {
        value.to_string().contains(text)
    }

    #[test]
    fn only_declared_metrics_leave() {
        let m = json!({ "loss": 1.5, "my_name_is_Ann": 1, "reached": true });
        assert_eq!(PROJECTION.of(&Type::Metrics, &m), Ok(json!({ "loss": 1.5 })));
        let with_text = json!({ "loss": 1.5, "who": "Ann" });
        assert!(PROJECTION.of(&Type::Metrics, &with_text).is_err(), "not metrics at all");
        let p = json!({ "format": "lora", "metrics": m, "curve": [[0, 2.0]], "about": { "name": "Ann" },
            "modules": { "Ann": { "rank": 1, "error": 0.0 } } });
        let left = PROJECTION.of(&Type::Pllm, &p).expect("a pLLM");
        assert_eq!(left, json!({ "format": "lora", "metrics": { "loss": 1.5 }, "curve": [[0, 2.0]] }));
    }

    #[test]
    fn a_selection_leaves_without_texts_and_unknown_names() {
        let word = |w: &str| json!({ "word": w, "coefficient": 0.5, "low": 0.1, "high": 0.9 });
        let s = json!({
            "pllm_name": "kind", "style": "Ann", "is_mix": true, "abstained": false, "confidence": 0.75, "strength": 0.5,
            "strategy": "Ann", "mix": { "kind": 0.5, "Ann": 0.5 }, "distances": { "Ann": 1.0, "kind": 0.5 },
            "user": { "explained": 0.5, "words": [word("warm"), word("Ann")] }, "sentence": "Ann",
            "forecast": { "not_known": "Ann" }, "n": 12,
            "verified": { "loss": { "Ann": 1.0, "kind": 2.0 }, "share": { "Ann": 0.5 }, "base_loss": 3.0, "rows": 6 },
        });
        let left = PROJECTION.of(&Type::Selection, &s).expect("a selection");
        assert!(!holds(&left, "Ann"), "{left}");
        let read = Selection::read(&left).expect("still a selection");
        assert_eq!((read.pllm_name.as_deref(), read.mix["kind"], read.n), (Some("kind"), 0.5, 0));
        assert_eq!((read.user.words.len(), read.verified.map(|v| v.loss["kind"])), (1, Some(2.0)));
        let without = Projection { mix: false, ..PROJECTION }.of(&Type::Selection, &s).expect("a selection");
        assert_eq!(without["mix"], json!({}));
        let unknown = Projection { known: &|_| false, ..PROJECTION };
        let left = unknown.of(&Type::Selection, &s).expect("a selection");
        assert_eq!(left.get("pllm_name"), None);
    }

    #[test]
    fn nothing_of_other_types_leaves() {
        for ty in [Type::Dataset, Type::Responses, Type::Divergence, Type::Catalog, Type::Space, Type::Model]
        {
            assert_eq!(PROJECTION.of(&ty, &json!({ "loss": 1.0, "rows": 3 })), Ok(Json::Null), "{ty}");
            assert_eq!(class_of(&ty, &[]), None);
        }
        assert_eq!(class_of(&Type::Pllm, &path("base")), None);
        assert_eq!(class_of(&Type::Selection, &path("pllm.base")), None);
        assert_eq!(class_of(&Type::Text, &[]), None);
    }

    #[test]
    fn files_leave_under_published_names_only() {
        for name in ["adapter_model.safetensors", "model-00001-of-00002.safetensors", "config.json"] {
            assert!(is_model_file(name), "{name}");
        }
        for name in ["Ann.safetensors", "model-Ann-of-00002.safetensors", "rows.jsonl", "a/config.json", ""] {
            assert!(!is_model_file(name), "{name}");
        }
        assert!(PROJECTION.reference("base") && PROJECTION.reference("parent:kind"));
        assert!(!PROJECTION.reference("parent:Ann") && !PROJECTION.reference("Ann"));
    }

    #[test]
    fn paths_name_metrics_of_the_stage() {
        assert_eq!(released_metric(&Type::Metrics, &path("loss")), Some("loss"));
        assert_eq!(released_metric(&Type::Pllm.optional(), &path("metrics.loss")), Some("loss"));
        assert_eq!(released_metric(&Type::Selection, &path("forecast.share_saved")), None);
        assert_eq!(released_metric(&Type::Metrics, &[]), None);
    }
}
