//! `ingest`: takes personalized models into the catalog, after checking that they fit their base.

use std::fs;
use std::path::{Path, PathBuf};

use headstart_lm::lora::{WEIGHTS_FILE, is_mlx, mlx_to_peft};
use headstart_lm::{Adapter, DecoderConfig, Weights};
use headstart_protocol::artifacts::{Artifact, Format, Metrics, Pllm};
use headstart_protocol::{Args, ArtifactRef, ArtifactType, Context, Failure, Output, Stage, Type};
use serde_json::Value;

use crate::folder::{ModelFolder, read_json};

const ADAPTER_CONFIG: &str = "adapter_config.json";
/// What people say about a pLLM: `{"name": …, "about": …}`.
const ABOUT: &str = "headstart.json";

/// How it was trained.
const TRAINING: &str = "training.json";

/// `ingest`: a LoRA adapter in PEFT's format or in mlx-lm's, which is converted, or a full model.
///
/// The pLLM uses its `base`. `about` is what the folder's `headstart.json` says, if there is one. Metrics
/// and learning curve are those of the folder's `training.json`, which `finetune` writes; without it
/// they are not known.
pub struct Ingest;

impl Stage for Ingest {
    fn kind(&self) -> &'static str {
        "ingest"
    }

    fn run(&self, args: &Args, ctx: &dyn Context) -> Result<Output, Failure> {
        let base = args.artifact("base")?;
        let source = ctx.path(args.text("source")?);
        if !source.is_dir() {
            return Err(Failure::input(format!("{}: there is no such folder", source.display()))
                .help("name a folder with an adapter in PEFT's format, or with a full model"));
        }
        let base_folder = base_folder(ctx, base)?;
        let (format, files) = if is_mlx(&source) {
            let converted = ctx.scratch().join("peft");
            mlx_to_peft(ctx.disk(), &source, &converted)?;
            (Format::Lora, adapter(&converted, &base_folder)?)
        } else if source.join(ADAPTER_CONFIG).is_file() {
            (Format::Lora, adapter(&source, &base_folder)?)
        } else {
            (Format::Full, full(&source, &base_folder)?)
        };
        let mut facts = Pllm { about: read_json(&source.join(ABOUT))?, ..Pllm::new(format) };
        if let Some(training) = read_json(&source.join(TRAINING))? {
            facts.metrics = numbers(&training["metrics"]);
            facts.curve = curve(&training["curve"]);
        }
        let output = Output::of(Type::Pllm, &facts)?.uses("base", base.clone());
        Ok(files.into_iter().fold(output, |output, (name, at)| output.file(name, at)))
    }
}

/// The numbers of a record; what else somebody wrote there is left out.
fn numbers(record: &Value) -> Metrics {
    let number = |(name, x): (&String, &Value)| match x {
        Value::Number(x) => Some((name.clone(), x.clone())),
        _ => None,
    };
    let numbers = record.as_object().into_iter().flatten().filter_map(number).collect();
    Metrics { numbers, ..Metrics::default() }
}

/// The points of a learning curve, (step, loss).
fn curve(points: &Value) -> Vec<(f64, f64)> {
    let point = |p: &Value| serde_json::from_value(p.clone()).ok();
    points.as_array().into_iter().flatten().filter_map(point).collect()
}

/// The base's folder: a whole model.
fn base_folder(ctx: &dyn Context, base: &ArtifactRef) -> Result<PathBuf, Failure> {
    if base.ty == ArtifactType::Pllm && Pllm::of(&ctx.manifest(base)?)?.format == Format::Lora {
        return Err(Failure::input("the base is itself an adapter, and an adapter fits a whole model only")
            .help("give the adapter's own base, or merge the base's adapter into a full model first"));
    }
    ctx.open(base)
}

/// Checks an adapter against its base and returns its files.
fn adapter(folder: &Path, base: &Path) -> Result<Vec<(String, PathBuf)>, Failure> {
    let weights = folder.join(WEIGHTS_FILE);
    if !weights.is_file() {
        let failure = Failure::input(format!("{}: there is no {WEIGHTS_FILE}", folder.display()));
        let pickled = folder.join("adapter_model.bin").is_file();
        return Err(if pickled {
            failure.help("convert adapter_model.bin: load it with PEFT and save it with safe_serialization")
        } else {
            failure
        });
    }
    Adapter::load(folder, &DecoderConfig::load(base)?)?;
    Ok(vec![(ADAPTER_CONFIG.into(), folder.join(ADAPTER_CONFIG)), (WEIGHTS_FILE.into(), weights)])
}

/// Checks a full model against the base's shapes and returns its files.
fn full(folder: &Path, base: &Path) -> Result<Vec<(String, PathBuf)>, Failure> {
    let has_config = fs::exists(folder.join("config.json")).unwrap_or(false);
    if !has_config {
        return Err(Failure::input(format!(
            "{}: neither {ADAPTER_CONFIG} nor config.json is in it",
            folder.display()
        ))
        .help("a pLLM is a LoRA adapter in PEFT's format or a full model folder"));
    }
    let (model, base) = (ModelFolder::read(folder)?, ModelFolder::read(base)?.shapes);
    // A tied output layer may or may not be written out.
    let counts = |name: &&String| name.as_str() != "lm_head.weight";
    for name in base.keys().chain(model.shapes.keys()).filter(counts) {
        let (here, there) = (model.shapes.get(name), base.get(name));
        if here != there {
            let shape = |s: Option<&Vec<usize>>| s.map_or("missing".to_owned(), |s| format!("{s:?}"));
            return Err(Failure::input(format!(
                "{}: tensor `{name}` is {} here and {} in the base",
                folder.display(),
                shape(here),
                shape(there)
            ))
            .help("the model was not fine-tuned from this base"));
        }
    }
    Weights::open_model(folder)?.check_finite()?;
    Ok(model.files)
}
