//! Sources of models: a folder, the hub's local cache, new random weights.

use std::path::{Path, PathBuf};

use headstart_kit::read_rows;
use headstart_lm::{Weights, init_model};
use headstart_protocol::{Args, ArtifactRef, Context, Failure, Output, Stage, Value};

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
        model.into_model()
    }
}

/// `hf`: a model of the Hugging Face hub, from the hub's local cache. Nothing is downloaded.
pub struct Hub;

impl Stage for Hub {
    fn kind(&self) -> &'static str {
        "hf"
    }

    fn run(&self, args: &Args, _ctx: &dyn Context) -> Result<Output, Failure> {
        let folder = snapshot(&hub(), args.text("repo")?, args.text("revision")?)?;
        let model = ModelFolder::read(&folder)?;
        Weights::open_model(&folder)?.check_finite()?;
        model.into_model()
    }
}

/// The folder in which the hub's tools keep models on this machine.
pub fn hub() -> PathBuf {
    hub_cache(|name| std::env::var_os(name).map(PathBuf::from))
}

/// Where the hub's tools keep models: `HF_HUB_CACHE`, else `HF_HOME/hub`, else below the home folder.
fn hub_cache(variable: impl Fn(&str) -> Option<PathBuf>) -> PathBuf {
    let home = || variable("HOME").unwrap_or_default().join(".cache").join("huggingface");
    variable("HF_HUB_CACHE").unwrap_or_else(|| variable("HF_HOME").unwrap_or_else(home).join("hub"))
}

/// The folder of a model at a commit in a cache of the hub's layout.
///
/// # Errors
/// [`FailureClass::Input`](headstart_protocol::FailureClass::Input) for a name that is no model, a revision
/// that is no commit, and a model that is not in the cache.
pub fn snapshot(cache: &Path, repo: &str, revision: &str) -> Result<PathBuf, Failure> {
    let plain = |part: &str| {
        let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        !part.is_empty() && !part.starts_with('.') && part.chars().all(allowed)
    };
    let owner_and_name = repo.split_once('/').filter(|(owner, name)| plain(owner) && plain(name));
    let Some((owner, name)) = owner_and_name else {
        return Err(Failure::input(format!("`{repo}` is no model of the hub: expected owner/name")));
    };
    if revision.len() != 40 || !revision.chars().all(|c| c.is_ascii_hexdigit()) {
        return Err(Failure::input(format!(
            "revision `{revision}` of {repo} is not a commit: a branch or tag could change later"
        ))
        .help("give the commit's 40 hexadecimal digits, as the model's page on the hub shows them"));
    }
    let folder = cache.join(format!("models--{owner}--{name}")).join("snapshots").join(revision);
    if !folder.is_dir() {
        return Err(Failure::input(format!(
            "{repo} at {revision} is not in the hub's local cache ({})",
            cache.display()
        ))
        .help(format!(
            "Headstart does not download models itself yet; fetch it once with: \
             hf download {repo} --revision {revision}"
        )));
    }
    Ok(folder)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cache_lies_where_the_hubs_tools_keep_it() {
        let with = |set: &'static [(&str, &str)]| {
            hub_cache(move |name| set.iter().find(|(n, _)| *n == name).map(|(_, v)| PathBuf::from(v)))
        };
        assert_eq!(with(&[("HOME", "/h")]), Path::new("/h/.cache/huggingface/hub"));
        assert_eq!(with(&[("HOME", "/h"), ("HF_HOME", "/d")]), Path::new("/d/hub"));
        assert_eq!(with(&[("HF_HUB_CACHE", "/c"), ("HF_HOME", "/d")]), Path::new("/c"));
    }
}
