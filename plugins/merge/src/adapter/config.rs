//! `adapter_config.json`: the keys that matter for a merge, and those that are refused.

use std::fmt;
use std::path::Path;

use headstart_disk::read;

use regex::Regex;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::CONFIG_FILE;
use crate::error::MergeError;

/// Options under which an adapter's effect is not the plain sum of products, so that a merge of
/// its matrices would be wrong. Each is refused where it is set.
const REFUSED: &[(&str, &str)] = &[
    ("use_dora", "DoRA rescales the merged weight"),
    ("use_qalora", "QA-LoRA pools the input"),
    ("use_bdlora", "BD-LoRA has block-diagonal factors"),
    ("lora_bias", "a bias beside B is not part of the product"),
    ("modules_to_save", "modules trained in full are not adapters"),
    ("layer_replication", "replicated layers make another model"),
    ("alora_invocation_tokens", "activated LoRA depends on the prompt"),
    ("trainable_token_indices", "trained token embeddings are not part of the product"),
    ("target_parameters", "adapted parameters outside of linear modules are not supported"),
    ("kasa_config", "KaSA is not a plain product"),
    ("velora_config", "VeLoRA is not a plain product"),
    ("arrow_config", "Arrow routes between adapters"),
    ("fan_in_fan_out", "transposed weights are not supported"),
];

/// Initialisations that also change the base's weights, so that the adapter alone is not the change.
const REFUSED_INITS: &[&str] = &["pissa", "olora", "corda", "loftq", "lora_ga"];

/// The modules that an adapter was made for, as its configuration names them.
#[derive(Clone, Debug, PartialEq)]
pub enum Targets {
    /// Names or ends of module paths, such as `q_proj`, in all layers.
    Names(Vec<String>),
    /// A pattern, or names restricted to some layers: only the tensors tell.
    Pattern,
}

/// What of an adapter's configuration matters for a merge.
#[derive(Clone, Debug)]
pub struct Config {
    /// Rank where no pattern says otherwise.
    pub r: usize,
    /// Alpha where no pattern says otherwise.
    pub alpha: f64,
    /// Whether products are scaled by `alpha / √rank` instead of `alpha / rank`.
    pub rslora: bool,
    /// The modules it was made for.
    pub targets: Targets,
    /// `base_model_name_or_path`, kept for people.
    pub base_name: Option<String>,
    /// `task_type`, kept for PEFT.
    pub task_type: Option<String>,
    rank_pattern: Patterns,
    alpha_pattern: Patterns,
}

impl Config {
    /// Reads the configuration in an adapter's folder.
    ///
    /// # Errors
    /// [`MergeError`] where it cannot be read or has an option that is not supported.
    pub fn read(folder: &Path) -> Result<Self, MergeError> {
        let path = folder.join(CONFIG_FILE);
        let text = read::text(&path, read::SETTINGS).map_err(|e| MergeError::io(&path, e))?;
        Self::parse(&text).map_err(|why| MergeError::file(&path, why))
    }

    fn parse(text: &str) -> Result<Self, String> {
        let all: Value = serde_json::from_str(text).map_err(|e| format!("not JSON: {e}"))?;
        refuse_unsupported(&all)?;
        let raw: Raw =
            serde_json::from_str(text).map_err(|e| format!("not an adapter's configuration: {e}"))?;
        if raw.r == 0 {
            return Err("`r` is 0, but a rank is at least 1".into());
        }
        let restricted = |key: &str| all.get(key).is_some_and(is_set);
        let targets = match raw.target_modules {
            Some(Value::Array(names))
                if !restricted("layers_to_transform") && !restricted("exclude_modules") =>
            {
                let names = names.iter().map(|n| n.as_str().map(str::to_owned));
                Targets::Names(names.collect::<Option<_>>().ok_or("`target_modules` holds more than names")?)
            }
            _ => Targets::Pattern,
        };
        Ok(Self {
            r: raw.r,
            alpha: raw.lora_alpha,
            rslora: raw.use_rslora,
            targets,
            base_name: raw.base_model_name_or_path,
            task_type: raw.task_type,
            rank_pattern: raw.rank_pattern.compile("rank_pattern")?,
            alpha_pattern: raw.alpha_pattern.compile("alpha_pattern")?,
        })
    }

    /// The rank that the configuration gives to a module.
    pub fn rank_of(&self, module: &str) -> usize {
        self.rank_pattern.find(module).map_or(self.r, |x| x as usize)
    }

    /// The factor of a module's product, given its rank.
    pub fn scaling_of(&self, module: &str, rank: usize) -> f64 {
        let alpha = self.alpha_pattern.find(module).unwrap_or(self.alpha);
        if self.rslora { alpha / (rank as f64).sqrt() } else { alpha / rank as f64 }
    }
}

fn is_set(v: &Value) -> bool {
    match v {
        Value::Null | Value::Bool(false) => false,
        Value::Array(a) => !a.is_empty(),
        Value::Object(o) => !o.is_empty(),
        _ => true,
    }
}

fn refuse_unsupported(all: &Value) -> Result<(), String> {
    match all.get("peft_type").and_then(Value::as_str) {
        Some("LORA") => {}
        other => return Err(format!("`peft_type` is {}, but only LORA can be merged", or_nothing(other))),
    }
    if let Some((key, why)) = REFUSED.iter().find(|(key, _)| all.get(key).is_some_and(is_set)) {
        return Err(format!("`{key}` is set: {why}, so this adapter cannot be merged"));
    }
    match all.get("bias").and_then(Value::as_str) {
        None | Some("none") => {}
        Some(bias) => return Err(format!("`bias` is `{bias}`: trained biases cannot be merged")),
    }
    let init = all.get("init_lora_weights").and_then(Value::as_str).unwrap_or("");
    if REFUSED_INITS.iter().any(|i| init.starts_with(i)) {
        return Err(format!(
            "`init_lora_weights` is `{init}`, which changes the base's weights too; save it as plain LoRA \
             (PEFT: path_initial_model_for_weight_conversion)"
        ));
    }
    Ok(())
}

fn or_nothing(text: Option<&str>) -> String {
    text.map_or_else(|| "missing".to_owned(), |t| format!("`{t}`"))
}

#[derive(Deserialize)]
struct Raw {
    r: usize,
    lora_alpha: f64,
    #[serde(default)]
    use_rslora: bool,
    #[serde(default)]
    rank_pattern: RawPatterns,
    #[serde(default)]
    alpha_pattern: RawPatterns,
    #[serde(default)]
    target_modules: Option<Value>,
    #[serde(default)]
    base_model_name_or_path: Option<String>,
    #[serde(default)]
    task_type: Option<String>,
}

/// Patterns in the order of the file: PEFT takes the first that matches.
#[derive(Default)]
struct RawPatterns(Vec<(String, f64)>);

impl<'de> Deserialize<'de> for RawPatterns {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = RawPatterns;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of numbers by module pattern")
            }

            fn visit_unit<E>(self) -> Result<RawPatterns, E> {
                Ok(RawPatterns::default())
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawPatterns, A::Error> {
                let mut patterns = Vec::new();
                while let Some(entry) = map.next_entry::<String, f64>()? {
                    patterns.push(entry);
                }
                Ok(RawPatterns(patterns))
            }
        }
        d.deserialize_any(InOrder)
    }
}

impl RawPatterns {
    fn compile(self, key: &str) -> Result<Patterns, String> {
        let compile = |(pattern, x): (String, f64)| {
            let regex = Regex::new(&format!(r"^(?:.*\.)?(?:{pattern})$"))
                .map_err(|e| format!("`{key}`: `{pattern}` is not a pattern: {e}"))?;
            if !(x.is_finite() && x > 0.0) {
                return Err(format!("`{key}`: `{pattern}` is {x}, but must be positive"));
            }
            Ok((regex, x))
        };
        Ok(Patterns(self.0.into_iter().map(compile).collect::<Result<_, _>>()?))
    }
}

/// Numbers by module: a pattern matches a whole path or its end after a dot, as in PEFT.
#[derive(Clone, Debug)]
struct Patterns(Vec<(Regex, f64)>);

impl Patterns {
    fn find(&self, module: &str) -> Option<f64> {
        self.0.iter().find(|(regex, _)| regex.is_match(module)).map(|(_, x)| *x)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(extra: &str) -> Result<Config, String> {
        Config::parse(&format!(
            r#"{{"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"]{extra}}}"#
        ))
    }

    #[test]
    fn patterns_match_as_in_peft_and_the_first_wins() {
        let c = config(
            r#", "rank_pattern": {"layers.1.mlp.up_proj": 2, "up_proj": 3}, "alpha_pattern": {"^model.*up_proj": 5}"#,
        )
        .expect("valid");
        assert_eq!(c.rank_of("model.layers.1.mlp.up_proj"), 2);
        assert_eq!(c.rank_of("model.layers.0.mlp.up_proj"), 3);
        assert_eq!(c.rank_of("model.layers.0.mlp.wide_up_proj"), 4, "an end counts only after a dot");
        assert_eq!(c.scaling_of("model.layers.0.mlp.up_proj", 2), 2.5);
        assert_eq!(c.scaling_of("model.layers.0.self_attn.q_proj", 4), 2.0);
    }

    #[test]
    fn rslora_scales_by_the_root() {
        let c = config(r#", "use_rslora": true"#).expect("valid");
        assert_eq!(c.scaling_of("q_proj", 4), 4.0);
    }

    #[test]
    fn what_would_be_merged_wrongly_is_refused_by_name() {
        for (extra, named) in [
            (r#", "use_dora": true"#, "use_dora"),
            (r#", "modules_to_save": ["lm_head"]"#, "modules_to_save"),
            (r#", "bias": "all""#, "bias"),
            (r#", "init_lora_weights": "pissa_niter_4""#, "pissa"),
            (r#", "rank_pattern": {"(": 1}"#, "rank_pattern"),
        ] {
            let error = config(extra).expect_err(extra);
            assert!(error.contains(named), "{error}");
        }
        assert!(Config::parse(r#"{"peft_type": "IA3"}"#).expect_err("not LoRA").contains("IA3"));
        assert!(config(r#", "use_dora": false, "modules_to_save": null, "a_new_option": 7"#).is_ok());
    }

    #[test]
    fn targets_that_only_the_tensors_know_are_marked() {
        assert_eq!(config("").expect("valid").targets, Targets::Names(vec!["q_proj".into()]));
        assert_eq!(config(r#", "layers_to_transform": [0]"#).expect("valid").targets, Targets::Pattern);
    }
}
