//! The keys of PEFT's adapter_config.json (PEFT 0.21), and which modules they mean.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use fancy_regex::{Regex, RegexBuilder};
use headstart_disk::read;
use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Value, json};

use crate::api::LoraSpec;
use crate::config::Keys;
use crate::error::LmError;
use crate::proj::Proj;

/// Name of the file.
pub const FILE: &str = "adapter_config.json";

/// Which modules are changed.
#[derive(Clone, Debug, PartialEq)]
pub enum Targets {
    /// Names, or ends of names, of modules.
    Names(Vec<String>),
    /// A regular expression over whole names.
    Pattern(String),
}

/// What an adapter_config.json says.
#[derive(Clone, Debug, PartialEq)]
pub struct AdapterConfig {
    /// Where it lies, for messages.
    pub path: PathBuf,
    /// Rank, where no pattern says otherwise.
    pub rank: usize,
    /// Alpha, where no pattern says otherwise.
    pub alpha: f64,
    /// Whether the scale is alpha / √rank rather than alpha / rank.
    pub rslora: bool,
    /// `lora_dropout`: what it was trained with; no matter when it is used.
    pub dropout: f64,
    /// Ranks of modules whose names end in these expressions.
    pub rank_pattern: Vec<(String, usize)>,
    /// Alphas of modules whose names end in these expressions.
    pub alpha_pattern: Vec<(String, f64)>,
    /// Modules that are changed.
    pub targets: Targets,
    /// Of those, modules that are not.
    pub exclude: Option<Targets>,
    /// Only these blocks, where given.
    pub layers: Option<Vec<usize>>,
    /// Its expressions, compiled when they are first needed.
    pub(crate) compiled: Compiled,
}

/// Compiled expressions by their text: each is matched against every linear layer.
#[derive(Default)]
pub(crate) struct Compiled(Mutex<HashMap<String, Regex>>);

impl Clone for Compiled {
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl PartialEq for Compiled {
    /// What is compiled follows from the texts.
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl fmt::Debug for Compiled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Compiled")
    }
}

/// Keys that change the result in ways that are not supported, with the values that do not.
const NEUTRAL: [(&str, &[&str]); 21] = [
    ("bias", &["none"]),
    ("use_dora", &["false"]),
    ("use_qalora", &["false"]),
    ("use_bdlora", &["false"]),
    ("lora_bias", &["false"]),
    ("fan_in_fan_out", &["false"]),
    ("modules_to_save", &["[]"]),
    ("target_parameters", &["[]"]),
    ("trainable_token_indices", &["[]", "{}"]),
    ("layer_replication", &["[]"]),
    ("loftq_config", &["{}"]),
    ("corda_config", &["{}"]),
    ("kasa_config", &["{}"]),
    ("velora_config", &["{}"]),
    ("lora_ga_config", &["{}"]),
    ("monteclora_config", &["{}"]),
    ("arrow_config", &["{}"]),
    ("alora_invocation_tokens", &["[]"]),
    ("ensure_weight_tying", &["false"]),
    ("layers_pattern", &["layers", "[]", r#"["layers"]"#, ""]),
    // Other ways to start change the base as well, or only matter while training.
    ("init_lora_weights", &["true", "false", "gaussian", "orthogonal", "eva", "kaiming"]),
];

/// Adapters have ranks up to some hundreds; a number above this is a mistake, or an attack.
const LARGEST_RANK: usize = 65_536;
/// Expressions of one key at most: one for each linear layer of a large model are a thousand.
const MOST_PATTERNS: usize = 4_096;

impl AdapterConfig {
    /// Reads the file in an adapter's folder.
    ///
    /// # Errors
    /// [`LmError::Io`], and those of [`Self::from_json`].
    pub fn load(folder: &Path) -> Result<Self, LmError> {
        let path = folder.join(FILE);
        let text = read::text(&path, read::SETTINGS).map_err(|e| LmError::io(&path, e))?;
        Self::from_text(&path, &text)
    }

    /// Reads its content; `path` is only named in errors. Patterns keep the order of the file: PEFT
    /// takes the first that matches.
    ///
    /// # Errors
    /// [`LmError::File`] with the key that is missing, wrong or not supported.
    pub fn from_text(path: &Path, text: &str) -> Result<Self, LmError> {
        let wrong = |e: serde_json::Error| LmError::file(path, format!("is not JSON: {e}"));
        let mut config = Self::from_json(path, &serde_json::from_str(text).map_err(wrong)?)?;
        let order: PatternOrder = serde_json::from_str(text).map_err(wrong)?;
        order.rank_pattern.unwrap_or_default().sort(&mut config.rank_pattern);
        order.alpha_pattern.unwrap_or_default().sort(&mut config.alpha_pattern);
        Ok(config)
    }

    /// As [`Self::from_text`], with patterns in the order of their texts.
    fn from_json(path: &Path, json: &Value) -> Result<Self, LmError> {
        let keys = Keys { path, json };
        match keys.get("peft_type").and_then(Value::as_str) {
            Some("LORA" | "lora") => {}
            other => {
                let found = other.unwrap_or("nothing");
                return Err(keys.wrong("peft_type", format_args!("expected LORA, found {found}")));
            }
        }
        for (key, neutral) in NEUTRAL {
            let Some(value) = keys.get(key) else { continue };
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            if !neutral.contains(&text.as_str()) {
                return Err(keys.wrong(key, format_args!("{value} is not supported")));
            }
        }
        let targets = targets(&keys, "target_modules")?;
        let layers = layers(&keys)?;
        if layers.is_some() && matches!(targets, Some(Targets::Pattern(_))) {
            return Err(keys.wrong(
                "layers_to_transform",
                "PEFT does not take it beside an expression in `target_modules`",
            ));
        }
        Ok(Self {
            path: path.into(),
            rank: keys.need("r")?,
            alpha: keys.number("lora_alpha")?.unwrap_or(8.0),
            rslora: keys.flag("use_rslora")?.unwrap_or(false),
            dropout: keys.number("lora_dropout")?.unwrap_or(0.0),
            rank_pattern: pattern(&keys, "rank_pattern", |v| {
                v.as_u64().filter(|n| *n > 0).map(|n| n as usize)
            })?,
            alpha_pattern: pattern(&keys, "alpha_pattern", Value::as_f64)?,
            targets: targets.ok_or_else(|| keys.wrong("target_modules", "missing"))?,
            exclude: targets_or_none(&keys)?,
            layers,
            compiled: Compiled::default(),
        })
    }

    /// That of a new adapter.
    ///
    /// # Errors
    /// [`LmError::Input`] for a rank of 0, no target, or an unknown projection.
    pub fn fresh(spec: &LoraSpec) -> Result<Self, LmError> {
        if spec.rank == 0 {
            return Err(LmError::Input("a LoRA adapter needs a rank of at least 1".into()));
        }
        let known: Vec<&str> = Proj::ALL.iter().map(|p| p.name()).collect();
        if let Some(odd) = spec.targets.iter().find(|t| !known.contains(&t.as_str())) {
            let known = known.join(", ");
            return Err(LmError::Input(format!("{odd:?} is not a projection; there are {known}")));
        }
        let mut names = spec.targets.clone();
        names.sort();
        names.dedup();
        if names.is_empty() {
            return Err(LmError::Input("a LoRA adapter needs at least one target projection".into()));
        }
        Ok(Self {
            path: FILE.into(),
            rank: spec.rank,
            alpha: spec.alpha,
            rslora: spec.rslora,
            dropout: 0.0,
            rank_pattern: Vec::new(),
            alpha_pattern: Vec::new(),
            targets: Targets::Names(names),
            exclude: None,
            layers: None,
            compiled: Compiled::default(),
        })
    }

    /// An error about a key.
    pub fn wrong(&self, key: &str, why: &str) -> LmError {
        LmError::file(&self.path, format!("key `{key}`: {why}"))
    }

    /// Rank and scale of a projection's pair, or none where it is not changed.
    ///
    /// # Errors
    /// [`LmError::File`] with the key whose pattern is not a supported expression.
    pub fn module(&self, block: usize, p: Proj) -> Result<Option<(usize, f32)>, LmError> {
        let name = format!("model.layers.{block}.{}", p.path());
        let excluded = match &self.exclude {
            Some(e) => self.hits(e, &name, "exclude_modules")?,
            None => false,
        };
        // A module that is named in full is changed in any block.
        let in_full = matches!(&self.targets, Targets::Names(names) if names.contains(&name));
        let in_layers = in_full || self.layers.as_ref().is_none_or(|l| l.contains(&block));
        if excluded || !in_layers || !self.hits(&self.targets, &name, "target_modules")? {
            return Ok(None);
        }
        let rank = self.by_pattern(&self.rank_pattern, &name, "rank_pattern")?.unwrap_or(self.rank);
        let alpha = self.by_pattern(&self.alpha_pattern, &name, "alpha_pattern")?.unwrap_or(self.alpha);
        if !(1..=LARGEST_RANK).contains(&rank) {
            return Err(self.wrong("r", &format!("{rank} is not a rank between 1 and {LARGEST_RANK}")));
        }
        let below = if self.rslora { (rank as f64).sqrt() } else { rank as f64 };
        let scale = (alpha / below) as f32;
        if !scale.is_finite() {
            return Err(self.wrong("lora_alpha", &format!("{alpha} by a rank of {rank} is no finite scale")));
        }
        Ok(Some((rank, scale)))
    }

    fn hits(&self, targets: &Targets, name: &str, key: &str) -> Result<bool, LmError> {
        match targets {
            Targets::Pattern(all) if all == "all-linear" => Ok(true),
            Targets::Pattern(p) => self.is_match(&format!("^(?:{p})$"), name, key),
            Targets::Names(names) => {
                Ok(names.iter().any(|n| name == n || name.strip_suffix(n).is_some_and(|r| r.ends_with('.'))))
            }
        }
    }

    /// PEFT takes the first expression that the end of the name matches.
    fn by_pattern<T: Copy>(&self, all: &[(String, T)], name: &str, key: &str) -> Result<Option<T>, LmError> {
        for (p, value) in all {
            // The groups are PEFT's own, so that back references mean the same.
            if self.is_match(&format!(r"^(.*\.)?({p})$"), name, key)? {
                return Ok(Some(*value));
            }
        }
        Ok(None)
    }

    /// As Python's expressions do, these may look ahead.
    fn is_match(&self, pattern: &str, name: &str, key: &str) -> Result<bool, LmError> {
        let mut compiled = self.compiled.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = match compiled.get(pattern) {
            Some(known) => known.is_match(name),
            None => compile(pattern).and_then(|new| {
                let found = new.is_match(name);
                compiled.insert(pattern.to_owned(), new);
                found
            }),
        };
        found.map_err(|e| self.wrong(key, &format!("is not a supported expression: {e}")))
    }

    /// As PEFT writes it, the patterns aside.
    fn to_json(&self) -> Value {
        let of = |t: &Targets| match t {
            Targets::Names(n) => json!(n),
            Targets::Pattern(p) => json!(p),
        };
        json!({
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": null,
            "r": self.rank,
            "lora_alpha": self.alpha,
            "lora_dropout": self.dropout,
            "use_rslora": self.rslora,
            "rank_pattern": null,
            "alpha_pattern": null,
            "target_modules": of(&self.targets),
            "exclude_modules": self.exclude.as_ref().map(of),
            "layers_to_transform": self.layers,
            "bias": "none",
            "fan_in_fan_out": false,
            "inference_mode": true,
            "init_lora_weights": true,
            "modules_to_save": null,
            "use_dora": false,
        })
    }
}

/// As PEFT writes it, patterns in their order.
impl Serialize for AdapterConfig {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let json = self.to_json();
        let keys = json.as_object().into_iter().flatten();
        let mut map = serializer.serialize_map(None)?;
        for (key, value) in keys {
            match key.as_str() {
                "rank_pattern" => map.serialize_entry(key, &InOrder(&self.rank_pattern))?,
                "alpha_pattern" => map.serialize_entry(key, &InOrder(&self.alpha_pattern))?,
                _ => map.serialize_entry(key, value)?,
            }
        }
        map.end()
    }
}

/// An object whose keys are written in this order.
struct InOrder<'a, T>(&'a [(String, T)]);

impl<T: Serialize> Serialize for InOrder<'_, T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(key, value)| (key, value)))
    }
}

/// The order of the patterns in a file.
#[derive(Deserialize)]
struct PatternOrder {
    rank_pattern: Option<KeyOrder>,
    alpha_pattern: Option<KeyOrder>,
}

/// An object's keys in the order of the file; as in Python, one that is there twice stands where it
/// was first.
#[derive(Default)]
struct KeyOrder(Vec<String>);

impl KeyOrder {
    fn sort<T>(&self, patterns: &mut [(String, T)]) {
        let places: HashMap<&str, usize> =
            self.0.iter().rev().map(String::as_str).zip((0..self.0.len()).rev()).collect();
        patterns.sort_by_key(|(key, _)| places.get(key.as_str()).copied().unwrap_or(usize::MAX));
    }
}

impl<'de> Deserialize<'de> for KeyOrder {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Keys;
        impl<'de> Visitor<'de> for Keys {
            type Value = KeyOrder;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<KeyOrder, A::Error> {
                let mut keys = Vec::new();
                while let Some((key, IgnoredAny)) = map.next_entry::<String, IgnoredAny>()? {
                    keys.push(key);
                }
                Ok(KeyOrder(keys))
            }
        }
        deserializer.deserialize_map(Keys)
    }
}

/// With limits on the memory of an expression and on the steps of a match.
fn compile(pattern: &str) -> Result<Regex, fancy_regex::Error> {
    RegexBuilder::new(pattern).backtrack_limit(100_000).delegate_size_limit(1 << 20).build()
}

fn targets(keys: &Keys, key: &str) -> Result<Option<Targets>, LmError> {
    match keys.get(key) {
        None => Ok(None),
        Some(Value::String(s)) => Ok(Some(Targets::Pattern(s.clone()))),
        Some(Value::Array(a)) => {
            let names: Option<Vec<String>> = a.iter().map(|v| v.as_str().map(str::to_owned)).collect();
            let mut names = names.ok_or_else(|| keys.wrong(key, "expected names"))?;
            names.sort();
            Ok(Some(Targets::Names(names)))
        }
        Some(v) => Err(keys.wrong(key, format_args!("expected names or an expression, found {v}"))),
    }
}

fn targets_or_none(keys: &Keys) -> Result<Option<Targets>, LmError> {
    Ok(targets(keys, "exclude_modules")?.filter(|t| *t != Targets::Names(Vec::new())))
}

fn pattern<T>(
    keys: &Keys,
    key: &str,
    read: impl Fn(&Value) -> Option<T>,
) -> Result<Vec<(String, T)>, LmError> {
    let Some(value) = keys.get(key) else { return Ok(Vec::new()) };
    let map = value.as_object().ok_or_else(|| keys.wrong(key, "expected an object"))?;
    if map.len() > MOST_PATTERNS {
        return Err(
            keys.wrong(key, format_args!("{} expressions; at most {MOST_PATTERNS} are read", map.len()))
        );
    }
    let read = |(k, v): (&String, &Value)| {
        let v = read(v).ok_or_else(|| keys.wrong(&format!("{key}.{k}"), "expected a positive number"))?;
        Ok((k.clone(), v))
    };
    map.iter().map(read).collect()
}

fn layers(keys: &Keys) -> Result<Option<Vec<usize>>, LmError> {
    let number = |v: &Value| v.as_u64().map(|n| n as usize);
    let list = match keys.get("layers_to_transform") {
        None => return Ok(None),
        Some(Value::Array(a)) if a.is_empty() => return Ok(None),
        Some(Value::Array(a)) => a.iter().map(number).collect(),
        Some(one) => number(one).map(|n| vec![n]),
    };
    list.map(Some).ok_or_else(|| keys.wrong("layers_to_transform", "expected block numbers"))
}

#[cfg(test)]
mod tests;
