//! Stage kind `probe`: the same prompts to every model.

use std::collections::BTreeMap;
use std::sync::Arc;

use headstart_disk::files;
use headstart_kit::{ContextWatch, open_model, read_questions};
use headstart_lm::{Backend, GenerateOptions};
use headstart_protocol::artifacts::Rows;
use headstart_protocol::rows::{ROWS_FILE, Row, text_digest, to_jsonl};
use headstart_protocol::{
    Args, ArtifactRef, ArtifactType, Context, Digest, Failure, FailureClass, Output, Stage, Type, kinds,
};
use serde_json::json;

use headstart_stats::derived_seed;

/// Prompts that are answered before their answers go to the cache: little is lost by a crash.
const CHUNK: usize = 32;

/// Puts a dataset's prompts to a model.
pub struct Probe {
    pub(crate) backend: Arc<dyn Backend>,
}

impl Stage for Probe {
    fn kind(&self) -> &'static str {
        "probe"
    }

    fn run(&self, args: &Args, ctx: &dyn Context) -> Result<Output, Failure> {
        let model = args.artifact("model")?;
        let prompts: Vec<String> = read_questions(ctx, args.artifact("prompts")?, "prompts")?
            .into_iter()
            .map(|r| r.prompt)
            .collect();
        if prompts.is_empty() {
            return Err(
                Failure::input("the dataset `prompts` has no rows").help("give it at least one prompt")
            );
        }
        let options = GenerateOptions {
            max_tokens: args.positive("max_tokens")?,
            temperature: args.float("temperature")?,
            seed: args.int("seed")?.cast_unsigned(),
        };
        let answers = answers(ctx, &*self.backend, model, &prompts, &options)?;
        let rows: Vec<Row> =
            prompts.into_iter().zip(answers).map(|(prompt, response)| Row::new(prompt, response)).collect();
        let at = ctx.scratch().join(ROWS_FILE);
        files::write(ctx.disk(), &at, to_jsonl(&rows).as_bytes())?;
        let facts = Rows {
            rows: rows.len(),
            max_tokens: Some(options.max_tokens),
            temperature: Some(options.temperature),
            seed: Some(options.seed),
        };
        let mut output =
            Output::of(Type::Responses, &facts)?.file(ROWS_FILE, at).uses("model", model.clone());
        if let Some(base) = base_of(ctx, model)? {
            output = output.uses("base", base);
        }
        Ok(output)
    }
}

/// The model that a pLLM personalizes, where its manifest says so.
pub(crate) fn base_of(ctx: &dyn Context, model: &ArtifactRef) -> Result<Option<ArtifactRef>, Failure> {
    match model.ty {
        ArtifactType::Pllm => Ok(ctx.manifest(model)?.uses.get("base").cloned()),
        _ => Ok(None),
    }
}

/// What a model answers to prompts, in order. Answers come from the row cache where it has them;
/// the model is loaded only if one is missing.
///
/// With a temperature, each prompt is sampled from its own stream, derived from the seed and
/// the prompt: so an answer depends neither on the prompt's position nor on what was cached.
pub(crate) fn answers(
    ctx: &dyn Context,
    backend: &dyn Backend,
    model: &ArtifactRef,
    prompts: &[String],
    options: &GenerateOptions,
) -> Result<Vec<String>, Failure> {
    if options.max_tokens == 0 {
        return Err(Failure::input("`max_tokens` is 0, so every answer would be empty"));
    }
    if !(options.temperature >= 0.0 && options.temperature.is_finite()) {
        return Err(Failure::input(format!(
            "`temperature` is {}, but must be 0 or more",
            options.temperature
        )));
    }
    let greedy = options.temperature == 0.0;
    let version = kinds::find("probe").map_or(0, |k| k.version);
    let seed = if greedy { 0 } else { options.seed };
    let settings = Digest::of_json(&json!({
        "kind": "probe", "version": version,
        "max_tokens": options.max_tokens, "temperature": options.temperature, "seed": seed,
    }));
    let digests: Vec<Digest> = prompts.iter().map(|p| text_digest(p)).collect();
    let cached = ctx.rows().responses(&model.id, &settings, &digests);
    let mut known: BTreeMap<Digest, String> =
        digests.iter().zip(cached).filter_map(|(d, a)| Some((*d, a?))).collect();
    ctx.count("rows_cached", digests.iter().filter(|d| known.contains_key(d)).count() as u64);

    // Each missing prompt once, in order of first appearance.
    let mut missing: Vec<(Digest, String)> = Vec::new();
    let mut seen = std::collections::BTreeSet::new();
    for (d, p) in digests.iter().zip(prompts) {
        if !known.contains_key(d) && seen.insert(*d) {
            missing.push((*d, p.clone()));
        }
    }
    if !missing.is_empty() {
        let folders = open_model(ctx, model)?;
        let decoder = backend.decoder_within(&folders.model, folders.adapter.as_deref(), ctx.memory())?;
        let total = missing.len() as u64;
        for (i, chunk) in missing.chunks(if greedy { CHUNK } else { 1 }).enumerate() {
            if ctx.cancelled() {
                return Err(Failure::new(FailureClass::Cancelled, "stopped on request"));
            }
            let offset = if greedy { i * CHUNK } else { i } as u64;
            let watch = ContextWatch::part(ctx, offset, total);
            let texts: Vec<String> = chunk.iter().map(|(_, p)| p.clone()).collect();
            let seed = if greedy { 0 } else { derived_seed(options.seed, &texts[0]) };
            let answers = decoder.generate(&texts, &GenerateOptions { seed, ..options.clone() }, &watch)?;
            let rows: Vec<(Digest, String)> = chunk.iter().map(|(d, _)| *d).zip(answers).collect();
            ctx.rows().put_responses(&model.id, &settings, &rows);
            ctx.count("rows_computed", rows.len() as u64);
            known.extend(rows);
        }
    }
    Ok(digests.iter().map(|d| known[d].clone()).collect())
}
