//! Writing a merged adapter so that PEFT, and we, load it with a scaling of exactly 1.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use headstart_disk::files::{self, OutFolder};
use headstart_lm::LmError;
use headstart_lm::files::put_safetensors;
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::{Value, json};

use super::{Adapter, CONFIG_FILE, Config, Factors, Matrix, Targets, WEIGHTS_FILE};
use crate::error::MergeError;

impl Config {
    /// The configuration of a merge: targets are united, ranks come from the tensors.
    pub(super) fn of_merge(terms: &[(&str, f64, &Adapter)]) -> Self {
        let mut merged = terms[0].2.config.clone();
        let mut names = BTreeSet::new();
        for (.., adapter) in terms {
            match &adapter.config.targets {
                Targets::Names(list) => names.extend(list.iter().cloned()),
                Targets::Pattern => {
                    merged.targets = Targets::Pattern;
                    return merged;
                }
            }
        }
        merged.targets = Targets::Names(names.into_iter().collect());
        merged
    }
}

pub(super) fn write(adapter: &Adapter, out: OutFolder<'_>) -> Result<(), MergeError> {
    let config = out.path.join(CONFIG_FILE);
    let mut text = serde_json::to_string_pretty(&configuration(adapter))
        .map_err(|e| MergeError::Internal(e.to_string()))?;
    text.push('\n');
    files::write(out.disk, &config, text.as_bytes())?;

    let path = out.path.join(WEIGHTS_FILE);
    let mut views = Vec::with_capacity(2 * adapter.modules.len());
    for (module, f) in &adapter.modules {
        views.push((format!("base_model.model.{module}.lora_A.weight"), view(&f.a)?));
        views.push((format!("base_model.model.{module}.lora_B.weight"), view(&f.b)?));
    }
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    files::write_with(out.disk, &path, |file| {
        put_safetensors(file, &path, views, metadata).map_err(|e| match e {
            LmError::Disk(e) => e.into(),
            other => MergeError::Internal(other.to_string()),
        })
    })
}

fn view(m: &Matrix) -> Result<TensorView<'_>, MergeError> {
    // Memory is little-endian on every platform that is built for, as the format demands.
    const { assert!(cfg!(target_endian = "little")) };
    TensorView::new(Dtype::F32, vec![m.rows, m.cols], bytemuck::cast_slice(&m.data))
        .map_err(|e| MergeError::Internal(e.to_string()))
}

/// `alpha = rank` everywhere, so that PEFT's scaling `alpha / rank` is 1.
fn configuration(adapter: &Adapter) -> Value {
    let r = usual_rank(&adapter.modules);
    let ranks = rank_pattern(&adapter.modules, r);
    let targets: Vec<String> = match &adapter.config.targets {
        Targets::Names(names) => names.clone(),
        Targets::Pattern => adapter.modules.keys().cloned().collect(),
    };
    json!({
        "peft_type": "LORA",
        "task_type": adapter.config.task_type.as_deref().unwrap_or("CAUSAL_LM"),
        "base_model_name_or_path": adapter.config.base_name,
        "inference_mode": true,
        "r": r,
        "lora_alpha": r,
        "lora_dropout": 0.0,
        "bias": "none",
        "use_rslora": false,
        "use_dora": false,
        "fan_in_fan_out": false,
        "init_lora_weights": true,
        "modules_to_save": null,
        "target_modules": targets,
        "rank_pattern": ranks,
        "alpha_pattern": ranks,
    })
}

/// The most frequent rank; of several, the largest.
fn usual_rank(modules: &BTreeMap<String, Factors>) -> usize {
    let mut counts = BTreeMap::new();
    for f in modules.values() {
        *counts.entry(f.rank()).or_insert(0usize) += 1;
    }
    counts.into_iter().max_by_key(|(rank, n)| (*n, *rank)).map_or(1, |(rank, _)| rank)
}

/// Ranks other than `r`: by the module's own name where all of that name agree, else by its path.
fn rank_pattern(modules: &BTreeMap<String, Factors>, r: usize) -> BTreeMap<String, usize> {
    let last = |path: &str| path.rsplit('.').next().unwrap_or(path).to_owned();
    let mut by_name: BTreeMap<String, BTreeSet<usize>> = BTreeMap::new();
    for (path, f) in modules {
        by_name.entry(last(path)).or_default().insert(f.rank());
    }
    let other = modules.iter().filter(|(_, f)| f.rank() != r);
    other
        .map(|(path, f)| {
            let name = last(path);
            let key = if by_name[&name].len() == 1 { name } else { path.clone() };
            (key, f.rank())
        })
        .collect()
}
