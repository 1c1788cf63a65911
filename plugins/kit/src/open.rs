//! From artifacts to what a computation takes: the folders that a backend loads, and rows.

use std::path::PathBuf;

use headstart_disk::read::{Lines, ROW, ROWS};
use headstart_protocol::artifacts::{Artifact, Format, Pllm};
use headstart_protocol::rows::{ROWS_FILE, Row, from_lines};
use headstart_protocol::{ArtifactRef, ArtifactType, Context, Failure};

/// The folders of a model and, for a pLLM that is an adapter, of the adapter.
#[derive(Clone, Debug)]
pub struct ModelFolders {
    /// Config, tokenizer and weights.
    pub model: PathBuf,
    /// The adapter on top.
    pub adapter: Option<PathBuf>,
    /// The artifact that `model` was opened from: the base of an adapter.
    pub base: ArtifactRef,
}

/// Opens a `Model` or `Pllm`. A pLLM is an adapter over the `base` that it uses, or a whole model.
///
/// # Errors
/// Those of the context, and [`Failure::input`] for an adapter without a base.
pub fn open_model(ctx: &dyn Context, artifact: &ArtifactRef) -> Result<ModelFolders, Failure> {
    let manifest = ctx.manifest(artifact)?;
    let is_adapter = artifact.ty == ArtifactType::Pllm && Pllm::of(&manifest)?.format == Format::Lora;
    if !is_adapter {
        return Ok(ModelFolders { model: ctx.open(artifact)?, adapter: None, base: artifact.clone() });
    }
    let base = manifest.uses.get("base").ok_or_else(|| {
        Failure::input(format!("pLLM {} is an adapter without a base", artifact.id.short()))
    })?;
    Ok(ModelFolders { model: ctx.open(base)?, adapter: Some(ctx.open(artifact)?), base: base.clone() })
}

/// The rows of a `Dataset` or of `Responses`. `argument` is the name of the argument that gave it.
///
/// # Errors
/// If the file is missing or a line is no row; says which.
pub fn read_rows(ctx: &dyn Context, artifact: &ArtifactRef, argument: &str) -> Result<Vec<Row>, Failure> {
    let path = ctx.open(artifact)?.join(ROWS_FILE);
    let lines = Lines::open(&path, ROW, ROWS).map_err(|e| Failure::io(&path, &e))?;
    from_lines(lines).map_err(|e| Failure::input(format!("`{argument}`, {}: {e}", path.display())))
}

/// [`read_rows`], where only single questions and their answers make sense.
///
/// # Errors
/// The same, and where a row is a conversation.
pub fn read_questions(
    ctx: &dyn Context,
    artifact: &ArtifactRef,
    argument: &str,
) -> Result<Vec<Row>, Failure> {
    let rows = read_rows(ctx, artifact, argument)?;
    match rows.iter().position(|r| !r.history.is_empty()) {
        None => Ok(rows),
        Some(i) => Err(Failure::input(format!(
            "row {} of `{argument}` is a conversation, but only single questions and answers can be compared",
            i + 1
        ))
        .help(
            "read the file with `turns: first`, which takes each conversation's first question and answer",
        )),
    }
}
