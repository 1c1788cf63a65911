//! The settings of sentence-transformers: modules.json and the files that it names, prompts, letters.

use std::path::{Component, Path};

use serde_json::Value;

use crate::error::LmError;
use crate::text::read_json;

/// Tokens of a window at least: one, between those that open and close it.
pub(super) const SHORTEST_WINDOW: usize = 3;

/// How the hidden states of a text's tokens become its vector.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pooling {
    /// Their mean.
    #[default]
    Mean,
    /// That of the first token.
    Cls,
    /// The largest of each dimension.
    Max,
    /// Their sum by the square root of their number.
    MeanSqrtLength,
    /// Their mean, the n-th counted n times.
    WeightedMean,
    /// That of the last token.
    LastToken,
}

impl Pooling {
    /// The pooling of a name of sentence-transformers.
    fn named(name: &str) -> Option<Self> {
        Some(match name {
            "mean" | "mean_tokens" => Self::Mean,
            "cls" | "cls_token" => Self::Cls,
            "max" | "max_tokens" => Self::Max,
            "mean_sqrt_len_tokens" => Self::MeanSqrtLength,
            "weightedmean" | "weightedmean_tokens" => Self::WeightedMean,
            "lasttoken" => Self::LastToken,
            _ => return None,
        })
    }

    /// The vector of a text's hidden states, rows of `width` numbers.
    pub(super) fn pool(self, states: &[f32], width: usize) -> Vec<f32> {
        let rows = states.chunks_exact(width);
        let tokens = rows.len().max(1) as f32;
        let sum = |weight: fn(usize) -> f32| {
            let mut sum = vec![0f64; width];
            for (i, row) in rows.clone().enumerate() {
                let weight = f64::from(weight(i));
                sum.iter_mut().zip(row).for_each(|(s, x)| *s += weight * f64::from(*x));
            }
            sum
        };
        let divided = |sum: Vec<f64>, by: f32| sum.iter().map(|s| (s / f64::from(by)) as f32).collect();
        match self {
            Self::Mean => divided(sum(|_| 1.0), tokens),
            Self::MeanSqrtLength => divided(sum(|_| 1.0), tokens.sqrt()),
            Self::WeightedMean => divided(sum(|i| (i + 1) as f32), tokens * (tokens + 1.0) / 2.0),
            Self::Cls => rows.clone().next().map(<[f32]>::to_vec).unwrap_or_default(),
            Self::LastToken => rows.clone().next_back().map(<[f32]>::to_vec).unwrap_or_default(),
            Self::Max => {
                let mut largest = vec![f32::NEG_INFINITY; width];
                for row in rows.clone() {
                    largest.iter_mut().zip(row).for_each(|(m, x)| *m = m.max(*x));
                }
                largest
            }
        }
    }
}

/// What a folder says beside the model itself.
#[derive(Clone, Debug, PartialEq)]
pub struct Sentence {
    /// How vectors are made of hidden states.
    pub pooling: Pooling,
    /// Whether vectors get length 1. They do where no modules.json says what is done.
    pub normalize: bool,
    /// What is put before every text.
    pub prompt: String,
    /// Whether texts are put in lower case.
    pub lower: bool,
    /// `max_seq_length`.
    pub(super) window: Option<usize>,
}

impl Sentence {
    /// Reads `modules.json` and the folders that it names, `sentence_bert_config.json` and
    /// `config_sentence_transformers.json`, as far as they are there.
    ///
    /// # Errors
    /// [`LmError::File`] and [`LmError::Unsupported`] with the key or the module that is wrong or not supported.
    pub fn read(folder: &Path) -> Result<Self, LmError> {
        let (pooling, include_prompt, normalize) = modules(folder)?;
        let path = folder.join("sentence_bert_config.json");
        let settings = read_json(&path)?.unwrap_or(Value::Null);
        let lower = settings.get("do_lower_case").and_then(Value::as_bool).unwrap_or(false);
        let window = match settings.get("max_seq_length").filter(|v| !v.is_null()) {
            None => None,
            Some(v) => match v.as_u64() {
                Some(n) if n >= SHORTEST_WINDOW as u64 => Some(n as usize),
                _ => {
                    let why = format!("`max_seq_length` {v} is not a number of tokens from 3 up");
                    return Err(LmError::file(path, why));
                }
            },
        };
        let prompt = default_prompt(folder)?;
        if !include_prompt && !prompt.is_empty() {
            return Err(unsupported(
                &folder.join("modules.json"),
                "the pooling has `include_prompt` false beside a default prompt".into(),
            ));
        }
        Ok(Self { pooling, normalize, prompt, lower, window })
    }
}

/// The files of a folder that modules.json names, relative to it.
///
/// # Errors
/// As [`Sentence::read`], as far as modules.json goes.
pub fn module_files(folder: &Path) -> Result<Vec<String>, LmError> {
    let mut files = Vec::new();
    for module in list(folder)?.unwrap_or_default() {
        let file = format!("{}/config.json", module.path);
        if !module.path.is_empty() && folder.join(&file).is_file() {
            files.push(file);
        }
    }
    Ok(files)
}

/// A module of modules.json.
struct Module {
    /// Its type without the name of the package.
    name: String,
    /// Its folder.
    path: String,
}

fn list(folder: &Path) -> Result<Option<Vec<Module>>, LmError> {
    let path = folder.join("modules.json");
    let Some(json) = read_json(&path)? else { return Ok(None) };
    let all = json.as_array().ok_or_else(|| LmError::file(&path, "is not a list of modules"))?;
    let module = |module: &Value| {
        let kind = module["type"].as_str().unwrap_or_default();
        let name = kind.rsplit('.').next().unwrap_or_default();
        let known = kind.starts_with("sentence_transformers.");
        if !known || !["Transformer", "Pooling", "Normalize"].contains(&name) {
            return Err(unsupported(&path, format!("a module of type {kind}")));
        }
        let place = module["path"].as_str().unwrap_or_default();
        let within = Path::new(place).components().all(|c| matches!(c, Component::Normal(_)));
        if !within || (name == "Transformer" && !place.is_empty()) {
            return Err(unsupported(&path, format!("the module {name} in the folder `{place}`")));
        }
        Ok(Module { name: name.to_owned(), path: place.to_owned() })
    };
    all.iter().map(module).collect::<Result<Vec<_>, _>>().map(Some)
}

/// Pooling, whether it takes the prompt in, and whether vectors are normalized.
fn modules(folder: &Path) -> Result<(Pooling, bool, bool), LmError> {
    let Some(all) = list(folder)? else {
        let path = folder.join("1_Pooling").join("config.json");
        let (pooling, include) = match read_json(&path)? {
            Some(json) => pooling(&path, &json)?,
            None => (Pooling::Mean, true),
        };
        return Ok((pooling, include, true));
    };
    let names: Vec<&str> = all.iter().map(|m| m.name.as_str()).collect();
    let normalize = match names.as_slice() {
        ["Transformer", "Pooling"] => false,
        ["Transformer", "Pooling", rest @ ..] if rest.iter().all(|n| *n == "Normalize") => true,
        _ => {
            let why =
                format!("the modules {}; there are Transformer, Pooling and Normalize", names.join(", "));
            return Err(unsupported(&folder.join("modules.json"), why));
        }
    };
    let path = folder.join(&all[1].path).join("config.json");
    let json = read_json(&path)?.ok_or_else(|| LmError::File {
        path: path.clone(),
        why: "there is no such file, but modules.json names it".into(),
        help: Some("copy or download the folder of the pooling as well".into()),
    })?;
    let (pooling, include) = pooling(&path, &json)?;
    Ok((pooling, include, normalize))
}

/// The pooling of its config.json: one key for each way that is true or false, or `pooling_mode`.
fn pooling(path: &Path, json: &Value) -> Result<(Pooling, bool), LmError> {
    let mut modes = Vec::new();
    let mut include = true;
    for (key, value) in json.as_object().into_iter().flatten() {
        match (key.as_str(), value) {
            ("word_embedding_dimension" | "embedding_dimension", _) | (_, Value::Null) => {}
            ("include_prompt", Value::Bool(flag)) => include = *flag,
            ("pooling_mode", Value::String(mode)) => modes.push(mode.as_str()),
            ("pooling_mode", Value::Array(list)) => modes.extend(list.iter().filter_map(Value::as_str)),
            (key, Value::Bool(on)) if key.starts_with("pooling_mode_") => {
                if *on {
                    modes.push(&key["pooling_mode_".len()..]);
                }
            }
            _ => return Err(unsupported(path, format!("`{key}` {value}"))),
        }
    }
    match modes.as_slice() {
        // That of sentence-transformers where nothing is said.
        [] => Ok((Pooling::Mean, include)),
        [mode] => match Pooling::named(mode) {
            Some(pooling) => Ok((pooling, include)),
            None => Err(unsupported(path, format!("the pooling `{mode}`"))),
        },
        several => Err(unsupported(path, format!("several poolings at once: {}", several.join(", ")))),
    }
}

/// The prompt that is put before every text.
fn default_prompt(folder: &Path) -> Result<String, LmError> {
    let path = folder.join("config_sentence_transformers.json");
    let Some(json) = read_json(&path)? else { return Ok(String::new()) };
    if let Some(kind) = json["model_type"].as_str().filter(|k| *k != "SentenceTransformer") {
        return Err(unsupported(&path, format!("`model_type` {kind}")));
    }
    if !json["truncate_dim"].is_null() {
        return Err(unsupported(&path, format!("`truncate_dim` {}", json["truncate_dim"])));
    }
    match &json["default_prompt_name"] {
        Value::Null => Ok(String::new()),
        Value::String(name) => match json["prompts"][name].as_str() {
            Some(prompt) => Ok(prompt.to_owned()),
            None => {
                Err(LmError::file(path, format!("`default_prompt_name` {name:?} is not among `prompts`")))
            }
        },
        other => Err(LmError::file(path, format!("`default_prompt_name` {other} is not a name"))),
    }
}

fn unsupported(path: &Path, what: String) -> LmError {
    LmError::Unsupported(format!("{}: {what} is not supported", path.display()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn folder(files: &[(&str, Value)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, json) in files {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, json.to_string()).unwrap();
        }
        dir
    }

    fn module(name: &str, path: &str) -> Value {
        json!({"path": path, "type": format!("sentence_transformers.models.{name}")})
    }

    #[test]
    fn both_spellings_of_poolings_are_read_from_the_folder_that_is_named() {
        let cases = [
            (json!({"pooling_mode": "cls", "include_prompt": true}), Pooling::Cls),
            (json!({"pooling_mode": "lasttoken"}), Pooling::LastToken),
            (json!({"pooling_mode": ["max"]}), Pooling::Max),
            (json!({"pooling_mode_cls_token": true, "pooling_mode_mean_tokens": false}), Pooling::Cls),
            (json!({"pooling_mode_mean_sqrt_len_tokens": true}), Pooling::MeanSqrtLength),
            (json!({"pooling_mode_weightedmean_tokens": true}), Pooling::WeightedMean),
            (json!({"word_embedding_dimension": 16}), Pooling::Mean),
        ];
        for (config, expected) in cases {
            let modules = json!([module("Transformer", ""), module("Pooling", "2_Pooling")]);
            let dir = folder(&[
                ("modules.json", modules),
                ("2_Pooling/config.json", config.clone()),
                ("1_Pooling/config.json", json!({"pooling_mode": "mean"})),
            ]);
            let read = Sentence::read(dir.path()).unwrap();
            assert_eq!((read.pooling, read.normalize), (expected, false), "{config}");
            assert_eq!(module_files(dir.path()).unwrap(), ["2_Pooling/config.json"]);
        }
    }

    #[test]
    fn what_changes_vectors_and_is_not_supported_is_refused_by_name() {
        let pooled = |config: Value, more: &[Value]| {
            let modules = [&[module("Transformer", ""), module("Pooling", "p")], more].concat();
            folder(&[("modules.json", json!(modules)), ("p/config.json", config)])
        };
        let mean = json!({"pooling_mode": "mean"});
        let prompts = json!({"prompts": {"query": "query: "}, "default_prompt_name": "query"});
        let with = |name: &str, json: Value, config: Value| {
            let dir = pooled(config, &[module("Normalize", "n")]);
            std::fs::write(dir.path().join(name), json.to_string()).unwrap();
            dir
        };
        let cases = [
            (pooled(mean.clone(), &[module("Dense", "2_Dense")]), "Dense"),
            (pooled(json!({"pooling_mode": ["mean", "max"]}), &[]), "mean, max"),
            (pooled(json!({"pooling_mode": "attention"}), &[]), "`attention`"),
            (pooled(json!({"pooling_mode": "mean", "gated": true}), &[]), "`gated`"),
            (
                folder(&[("modules.json", json!([module("Transformer", ""), module("Pooling", "p")]))]),
                "modules.json names",
            ),
            (folder(&[("modules.json", json!([module("Transformer", "0_T")]))]), "`0_T`"),
            (
                folder(&[("modules.json", json!([module("Transformer", ""), module("Pooling", "../p")]))]),
                "`../p`",
            ),
            (
                folder(&[("modules.json", json!([{"path": "", "type": "modeling.Pooling"}]))]),
                "modeling.Pooling",
            ),
            (
                with("config_sentence_transformers.json", json!({"truncate_dim": 8}), mean.clone()),
                "truncate_dim",
            ),
            (
                with("config_sentence_transformers.json", json!({"default_prompt_name": "x"}), mean.clone()),
                "\"x\"",
            ),
            (
                with(
                    "config_sentence_transformers.json",
                    prompts.clone(),
                    json!({"pooling_mode": "mean", "include_prompt": false}),
                ),
                "include_prompt",
            ),
        ];
        for (dir, part) in cases {
            let e = Sentence::read(dir.path()).unwrap_err().to_string();
            assert!(e.contains(part), "{part}: {e}");
        }
        let dir = with("config_sentence_transformers.json", prompts, mean.clone());
        let read = Sentence::read(dir.path()).unwrap();
        assert_eq!((read.prompt.as_str(), read.normalize, read.lower), ("query: ", true, false));
        let dir =
            with("sentence_bert_config.json", json!({"do_lower_case": true, "max_seq_length": 64}), mean);
        let read = Sentence::read(dir.path()).unwrap();
        assert_eq!((read.lower, read.window), (true, Some(64)));
    }

    #[test]
    fn poolings_are_those_of_sentence_transformers() {
        // Three tokens of two dimensions.
        let states = [1.0, -2.0, 3.0, 4.0, 5.0, -6.0];
        let cases = [
            (Pooling::Mean, [3.0, -4.0 / 3.0]),
            (Pooling::Cls, [1.0, -2.0]),
            (Pooling::Max, [5.0, 4.0]),
            (Pooling::MeanSqrtLength, [9.0 / 3f32.sqrt(), -4.0 / 3f32.sqrt()]),
            (Pooling::WeightedMean, [22.0 / 6.0, -12.0 / 6.0]),
            (Pooling::LastToken, [5.0, -6.0]),
        ];
        for (pooling, expected) in cases {
            let found = pooling.pool(&states, 2);
            let close = found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6);
            assert!(close, "{pooling:?}: {found:?}");
        }
    }
}
