//! Sources of models: a folder, the hub's local cache, new random weights.

use std::path::PathBuf;

use headstart_huggingface::{Cache, Commit, HubError, Repo, Settings};
use headstart_kit::read_rows;
use headstart_lm::{DATE_FILE, Weights, files, init_model};
use headstart_protocol::{Args, ArtifactRef, Context, Failure, Output, Stage, Value};
use serde_json::json;

use crate::folder::ModelFolder;

/// `local`: a model folder in the published format, or with a GGUF file.
pub struct Local;

impl Stage for Local {
    fn kind(&self) -> &'static str {
        "local"
    }

    fn run(&self, args: &Args, ctx: &dyn Context) -> Result<Output, Failure> {
        let folder = ctx.path(args.text("path")?);
        let model = ModelFolder::take_in(&folder, ctx.disk(), ctx.scratch())?;
        Weights::open_model(&folder)?.check_finite()?;
        dated(model.into_model()?, args, ctx)
    }
}

/// Adds the day that the model's chat template is told, where one is given.
fn dated(output: Output, args: &Args, ctx: &dyn Context) -> Result<Output, Failure> {
    let Some(date) = args.text_opt("date") else { return Ok(output) };
    if date.parse::<jiff::civil::Date>().is_err() {
        return Err(Failure::input(format!("argument `date`: `{date}` is not a day such as 2026-01-31")));
    }
    let path = ctx.scratch().join(DATE_FILE);
    files::write_json(ctx.disk(), &path, &json!({ "date": date }))?;
    Ok(output.file(DATE_FILE, path))
}

/// `hf`: a model of the Hugging Face hub, from the hub's local cache. Nothing is downloaded here: the process of a
/// stage has no network.
pub struct Hub;

impl Stage for Hub {
    fn kind(&self) -> &'static str {
        "hf"
    }

    fn run(&self, args: &Args, ctx: &dyn Context) -> Result<Output, Failure> {
        let folder = snapshot(&hub_cache(), args.text("repo")?, args.text("revision")?)?;
        let model = ModelFolder::read(&folder)?;
        Weights::open_model(&folder)?.check_finite()?;
        dated(model.into_model()?, args, ctx)
    }
}

/// Where the hub's tools keep models on this machine.
pub fn hub_cache() -> Cache {
    Cache::new(Settings::cache_of(|name| std::env::var(name).ok()))
}

/// The folder of a model at a commit in a cache of the hub's layout.
///
/// # Errors
/// [`FailureClass::Input`](headstart_protocol::FailureClass::Input) for a name that is no model, a revision
/// that is no commit, and a model that is not in the cache.
pub fn snapshot(cache: &Cache, repo: &str, revision: &str) -> Result<PathBuf, Failure> {
    let repo: Repo = repo.parse().map_err(|e: HubError| {
        let failure = Failure::input(e.to_string());
        e.help().into_iter().fold(failure, Failure::help)
    })?;
    let Some(commit) = Commit::parse(revision) else {
        // The engine replaces branches and tags by commits before a run begins.
        return Err(Failure::input(format!(
            "revision `{revision}` of {repo} is not a commit: a branch or tag could change later"
        ))
        .help("give the commit's 40 hexadecimal digits, as the model's page on the hub shows them"));
    };
    let folder = cache.snapshot(&repo, &commit);
    if folder.is_dir() {
        return Ok(folder);
    }
    let m = format!("{repo} at {commit} is not in the hub's local cache ({})", cache.root().display());
    Err(Failure::input(m).help(format!(
        "`headstart run` downloads it to the engine's machine before a run begins; elsewhere: \
         hf download {repo} --revision {commit}"
    )))
}

/// `init`: a new model with random weights and a tokenizer trained on a dataset.
pub struct Init;

impl Stage for Init {
    fn kind(&self) -> &'static str {
        "init"
    }

    fn run(&self, args: &Args, ctx: &dyn Context) -> Result<Output, Failure> {
        let config = ctx.path(args.text("config")?);
        let datasets: Vec<&ArtifactRef> = match args.get("corpus") {
            Some(Value::List(_)) => args.artifacts("corpus")?.into_iter().map(|(_, a)| a).collect(),
            _ => vec![args.artifact("corpus")?],
        };
        let mut corpus = Vec::new();
        for dataset in datasets {
            corpus.extend(
                read_rows(ctx, dataset, "corpus")?.into_iter().flat_map(|row| [row.prompt, row.response]),
            );
        }
        let seed = args.count("seed")? as u64;
        init_model(&config, &corpus, args.count("vocab")?, seed, ctx.disk(), ctx.scratch())?;
        ModelFolder::read(ctx.scratch())?.into_model()
    }
}
