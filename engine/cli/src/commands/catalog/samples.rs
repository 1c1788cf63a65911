//! Answers in which a pLLM shows its style, beside its base's.

use headstart_explain::divergence::Divergence;
use headstart_kit::read_rows;
use headstart_protocol::expr::Value;
use headstart_report::Sample;
use headstart_store::Workspace;

use super::ephemeral::EphemeralContext;
use super::found::Found;
use crate::exit::CommandError;

/// What the pLLM at a place of the catalog answered to the prompts at which it differs most from its
/// base in its own way; the base's answer is the reference. None where the answers are not in this
/// workspace.
///
/// # Errors
/// If the divergence cannot be read.
pub fn samples(
    ws: &Workspace,
    found: &Found<'_>,
    place: usize,
    count: usize,
) -> Result<Vec<Sample>, CommandError> {
    let Some(embedded) = found.made(&found.about(place).divergence) else { return Ok(Vec::new()) };
    let context = EphemeralContext::new(ws, None)?;
    let read = |argument: &str| {
        let artifact = found.artifact_arg(ws, embedded, argument)?;
        read_rows(&context, &artifact, argument).ok()
    };
    let (Some(said), Some(plain)) = (read("responses"), read("against")) else { return Ok(Vec::new()) };
    let Some(Value::Artifact(divergence)) = found.run.state.output(embedded) else { return Ok(Vec::new()) };
    let divergence = Divergence::open(&context, &divergence, "the pLLM's divergence")?;
    let sample = |i: usize| {
        let row = said.get(i)?;
        let base = plain.iter().find(|p| p.prompt == row.prompt)?;
        Some(Sample {
            prompt: row.prompt.clone(),
            answer: row.response.clone(),
            reference: base.response.clone(),
        })
    };
    Ok(found
        .catalog
        .most_typical(place, &divergence.rows)
        .into_iter()
        .filter_map(sample)
        .take(count)
        .collect())
}
