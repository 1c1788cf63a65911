//! The stage: from arguments to a training, from its report to a pLLM.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use headstart_kit::{ContextWatch, ModelFolders, count_rows, open_model};
use headstart_lm::LoraSpec;
use headstart_lm::lora::{AdapterConfig, Targets};
use headstart_protocol::artifacts::{Artifact, Format, Metrics, Pllm};
use headstart_protocol::expr::Condition;
use headstart_protocol::release::{HELD_BACK_ROWS, TRAINED_ROWS};
use headstart_protocol::{
    Args, ArtifactRef, ArtifactType, Context, Failure, FailureClass, Output, Stage, Type,
};
use headstart_train::{Method, Resume, TrainReport, TrainSpec, TrainingBackend};
use serde_json::Value;

use crate::split::{answered, hold_back};

/// Every linear projection of a block, under its published name.
pub const PROJECTIONS: [&str; 7] =
    ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];

/// Name of the file that says how a pLLM was trained.
pub const TRAINING_FILE: &str = "training.json";

/// Seconds between a training's checkpoints at least. Devices write to flash, which wears.
const CHECKPOINT_SECONDS: f64 = 15.0;

fn checkpoint_seconds() -> f64 {
    let set = std::env::var("HEADSTART_CHECKPOINT_SECONDS").ok().and_then(|s| s.parse::<f64>().ok());
    set.filter(|s| *s >= 0.0 && s.is_finite()).unwrap_or(CHECKPOINT_SECONDS)
}

/// The rank of a new adapter where none is given, as in [`headstart_protocol::kinds`].
const DEFAULT_RANK: usize = 8;

/// What `until` can be about.
const WATCHED: [&str; 3] = ["loss", "train_loss", "step"];

/// `finetune`: trains an adapter, or all weights, on rows, with the loss on responses only.
///
/// The pLLM uses its `base`. What the training reported and its learning curve are also in the file
/// [`TRAINING_FILE`], so that they come along where the folder is copied and ingested elsewhere.
pub struct Finetune {
    /// What trains.
    pub backend: Arc<dyn TrainingBackend>,
}

impl Stage for Finetune {
    fn kind(&self) -> &'static str {
        "finetune"
    }

    fn run(&self, args: &Args, ctx: &dyn Context) -> Result<Output, Failure> {
        let from = args.artifact("from")?;
        let folders = open_model(ctx, from)?;
        let method = method(args, &folders)?;
        let base = base(ctx, from, &folders, &method)?;
        let spec = self.spec(args, ctx, folders, method)?;
        let report = self.backend.train(&spec, &ContextWatch::new(ctx))?;
        count_rows(ctx, TRAINED_ROWS, || report.rows as u64);
        count_rows(ctx, HELD_BACK_ROWS, || report.eval_rows as u64);
        let format = if spec.method == Method::Full { Format::Full } else { Format::Lora };
        let curve = report.curve.iter().map(|&(step, loss)| (step as f64, loss)).collect();
        let facts = Pllm { metrics: metrics(&report, &spec)?, curve, ..Pllm::new(format) };
        let at = spec.out.join(TRAINING_FILE);
        let training = training(&facts)?;
        headstart_disk::files::write(ctx.disk(), &at, format!("{training}\n").as_bytes())?;
        let output = Output::of(Type::Pllm, &facts)?.uses("base", base);
        Ok(files(&spec.out)?.into_iter().fold(output, |output, (name, at)| output.file(name, at)))
    }
}

impl Finetune {
    fn spec(
        &self,
        args: &Args,
        ctx: &dyn Context,
        folders: ModelFolders,
        method: Method,
    ) -> Result<TrainSpec, Failure> {
        let seed = args.int("seed")? as u64;
        let data = answered(ctx, args.artifact("data")?, "data")?;
        let (data, eval) = match args.artifact_opt("eval") {
            Some(eval) => (data, answered(ctx, eval, "eval")?),
            None => hold_back(data, seed)?,
        };
        let learning_rate = args.float("learning_rate")?;
        if !(learning_rate.is_finite() && learning_rate > 0.0) {
            return Err(Failure::input(format!(
                "argument `learning_rate` is {learning_rate}, but must be above 0"
            )));
        }
        Ok(TrainSpec {
            model: folders.model,
            adapter: folders.adapter,
            method,
            data,
            eval,
            until: until(args)?,
            patience: args.positive_opt("patience")?,
            learning_rate,
            weight_decay: args
                .float_opt("weight_decay")
                .map(|x| share(x, "weight_decay", f64::MAX))
                .transpose()?,
            clip: Some(share(args.float("clip")?, "clip", f64::MAX)?).filter(|clip| *clip > 0.0),
            dropout: share(args.float("dropout")?, "dropout", 1.0)?,
            batch: args.positive("batch")?,
            max_steps: args.positive("max_steps")?,
            warmup: args.count("warmup")?,
            cosine: match args.text("schedule")? {
                "cosine" => true,
                "constant" => false,
                other => return Err(unknown("schedule", other, &["cosine", "constant"])),
            },
            eval_every: args.positive("eval_every")?,
            max_tokens: args.positive("max_tokens")?,
            seed,
            memory: ctx.memory(),
            resume: ctx.resume_dir().map(|folder| Resume { folder, every: checkpoint_seconds() }),
            out: ctx.scratch().join("trained"),
            disk: ctx.disk().shared(),
        })
    }
}

/// A number from 0 up to, and without, `end`.
fn share(x: f64, name: &str, end: f64) -> Result<f64, Failure> {
    if (0.0..end).contains(&x) {
        return Ok(x);
    }
    let below = if end == f64::MAX { String::new() } else { format!(" and below {end}") };
    Err(Failure::input(format!("argument `{name}` is {x}, but must be at least 0{below}")))
}

fn unknown(name: &str, found: &str, known: &[&str]) -> Failure {
    Failure::input(format!("argument `{name}`: `{found}` is not one of {}", known.join(", ")))
}

fn until(args: &Args) -> Result<Option<Condition>, Failure> {
    let until = args.condition("until");
    match until.filter(|c| !WATCHED.contains(&c.metric.as_str())) {
        Some(wrong) => Err(unknown("until", &wrong.metric, &WATCHED)),
        None => Ok(until.cloned()),
    }
}

fn method(args: &Args, folders: &ModelFolders) -> Result<Method, Failure> {
    match args.text("method")? {
        "lora" => {}
        "full" if folders.adapter.is_none() => return Ok(Method::Full),
        "full" => {
            return Err(Failure::input("method `full` trains all weights, but `from` is an adapter")
                .help("start from a whole model, or continue training the adapter with method `lora`"));
        }
        other => return Err(unknown("method", other, &["lora", "full"])),
    }
    let rank = args.positive("rank")?;
    let alpha = args.float_opt("alpha").unwrap_or(2.0 * rank as f64);
    if !(alpha.is_finite() && alpha > 0.0) {
        return Err(Failure::input(format!("argument `alpha` is {alpha}, but must be above 0")));
    }
    let targets = match args.texts("targets") {
        none if none.is_empty() => PROJECTIONS.to_vec(),
        some => some,
    };
    if let Some(wrong) = targets.iter().find(|t| !PROJECTIONS.contains(t)) {
        return Err(unknown("targets", wrong, &PROJECTIONS));
    }
    let targets: Vec<String> = targets.into_iter().map(str::to_owned).collect();
    let spec = LoraSpec { rank, alpha, rslora: args.bool("rslora")?, targets };
    if let Some(adapter) = &folders.adapter {
        fixed_by(args, &spec, adapter)?;
    }
    Ok(Method::Lora(spec))
}

/// Refuses what is asked of a new adapter where `from` is one already and says otherwise: it keeps its own
/// rank, scale and targets.
fn fixed_by(args: &Args, asked: &LoraSpec, adapter: &Path) -> Result<(), Failure> {
    let given = [
        ("rank", asked.rank != DEFAULT_RANK),
        ("alpha", args.float_opt("alpha").is_some()),
        ("targets", !args.texts("targets").is_empty()),
        ("rslora", asked.rslora),
    ];
    if given.iter().all(|(_, given)| !given) {
        return Ok(());
    }
    let has = AdapterConfig::load(adapter)?;
    let sorted = |names: &[String]| names.iter().cloned().collect::<BTreeSet<_>>();
    for (name, _) in given.into_iter().filter(|(_, given)| *given) {
        let (equal, asked, has) = match name {
            "rank" => (
                has.rank == asked.rank && has.rank_pattern.is_empty(),
                asked.rank.to_string(),
                has.rank.to_string(),
            ),
            "alpha" => (
                has.alpha == asked.alpha && has.alpha_pattern.is_empty(),
                asked.alpha.to_string(),
                has.alpha.to_string(),
            ),
            "rslora" => (has.rslora == asked.rslora, asked.rslora.to_string(), has.rslora.to_string()),
            _ => {
                let (equal, own) = match &has.targets {
                    Targets::Names(names) => (sorted(names) == sorted(&asked.targets), names.join(", ")),
                    Targets::Pattern(pattern) => (false, pattern.clone()),
                };
                (equal, asked.targets.join(", "), own)
            }
        };
        if !equal {
            return Err(Failure::input(format!(
                "argument `{name}` is {asked}, but `from` is an adapter whose own is {has}, and is trained as it is"
            ))
            .help(format!("leave `{name}` out, or start from a model without an adapter")));
        }
    }
    Ok(())
}

/// The base of what is trained: an adapter fits the whole model that it was trained on; full
/// weights stay a version of what they first came from.
fn base(
    ctx: &dyn Context,
    from: &ArtifactRef,
    folders: &ModelFolders,
    method: &Method,
) -> Result<ArtifactRef, Failure> {
    if *method == Method::Full
        && from.ty == ArtifactType::Pllm
        && let Some(base) = ctx.manifest(from)?.uses.get("base")
    {
        return Ok(base.clone());
    }
    Ok(folders.base.clone())
}

/// What training reports, as numbers.
fn metrics(report: &TrainReport, spec: &TrainSpec) -> Result<Metrics, Failure> {
    if !(report.loss.is_finite() && report.train_loss.is_finite() && report.start_loss.is_finite()) {
        let message = format!("the loss was no longer a number after {} steps", report.steps);
        return Err(Failure::new(FailureClass::Input, message).help("try a lower learning_rate"));
    }
    let mut m = Metrics::default()
        .with("loss", report.loss)
        .with("start_loss", report.start_loss)
        .with("train_loss", report.train_loss)
        .with("steps", report.steps)
        .with("seconds", report.seconds)
        .with("tokens", report.tokens)
        .with("trainable", report.trainable)
        .with("learning_rate", spec.learning_rate)
        .with("batch", spec.batch)
        .with("rows", spec.data.len())
        .with("eval_rows", spec.eval.len());
    // Without a target, none was reached and none was missed.
    if spec.until.is_some() {
        m.put("reached", report.reached);
    }
    Ok(m)
}

/// Metrics and curve of a pLLM, without the seconds: the same training has the same files.
fn training(facts: &Pllm) -> Result<Value, Failure> {
    let mut timeless =
        Pllm { metrics: facts.metrics.clone(), curve: facts.curve.clone(), ..Pllm::new(facts.format) };
    timeless.metrics.numbers.remove("seconds");
    let mut value = timeless.json()?;
    if let Some(fields) = value.as_object_mut() {
        fields.remove("format");
    }
    Ok(value)
}

/// Every file of the trained folder, by name, sorted.
fn files(folder: &Path) -> Result<Vec<(String, PathBuf)>, Failure> {
    let mut out = Vec::new();
    let io = |e: std::io::Error| Failure::io(folder, &e);
    for entry in fs::read_dir(folder).map_err(io)? {
        let entry = entry.map_err(io)?;
        if entry.file_type().map_err(io)?.is_file() {
            out.push((entry.file_name().to_string_lossy().into_owned(), entry.path()));
        }
    }
    out.sort();
    Ok(out)
}
