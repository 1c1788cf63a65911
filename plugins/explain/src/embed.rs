//! Stage kind `embed`: how answers differ from the base's answers to the same prompts.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use headstart_kit::{count_rows, different, read_questions};
use headstart_lm::{Backend, GenerateOptions};
use headstart_protocol::release::EMBEDDED_ROWS;
use headstart_protocol::rows::Row;
use headstart_protocol::{Args, ArtifactRef, ArtifactType, Context, Failure, Output, Stage, Type};

use crate::contrast::{Contrast, feature_difference};
use crate::divergence::{self, About, VECTORS_FILE};
use crate::probe;
use crate::space::Space;
use crate::stylometry::FEATURES;

/// Embeds answers against the base's.
pub struct Embed {
    pub(crate) backend: Arc<dyn Backend>,
}

impl Stage for Embed {
    fn kind(&self) -> &'static str {
        "embed"
    }

    fn run(&self, args: &Args, ctx: &dyn Context) -> Result<Output, Failure> {
        let responses = args.artifact("responses")?;
        let mut said = read_questions(ctx, responses, "responses")?;
        check(&said, responses.ty == ArtifactType::Dataset)?;
        let picked = args.positive_opt("rows")?.filter(|n| *n < said.len()).map(|n| spread(n, said.len()));
        if let Some(places) = &picked {
            said = places.iter().map(|&i| said[i].clone()).collect();
        }
        count_rows(ctx, EMBEDDED_ROWS, || different(&said));
        let (plain, base) = self.plain(args, ctx, &said)?;
        // A base that was asked by an earlier stage was asked for this.
        let prompts: BTreeSet<&str> = said.iter().map(|r| r.prompt.as_str()).collect();
        let asked = if base.is_some() { prompts.len() as u64 } else { 0 };
        let mut space = Space::open(ctx, &*self.backend, args.artifact("space")?)?;
        let words = args.positive_opt("words")?;
        let cut = |text: &'_ str| -> usize { words.map_or(text.len(), |n| first_words(text, n)) };
        let pairs: Vec<Contrast<'_>> = said
            .iter()
            .zip(&plain)
            .map(|(row, plain)| Contrast {
                prompt: &row.prompt,
                answer: &row.response[..cut(&row.response)],
                plain: &plain[..cut(plain)],
            })
            .collect();
        let embedded = space.contrasts(&pairs)?;
        let features: Vec<Vec<f32>> = pairs.iter().map(feature_difference).collect();
        let at = ctx.scratch().join(VECTORS_FILE);
        divergence::write(ctx.disk(), &at, &embedded.vectors, &features)?;
        let about = About {
            n: pairs.len(),
            d: embedded.vectors[0].len(),
            k: FEATURES.len(),
            space: space.artifact.id,
            kind: space.kind,
            features: FEATURES.iter().map(|f| f.name.to_owned()).collect(),
            source: Some(responses.id),
            picked,
            forward_passes: asked + space.passes(),
            candidates: embedded.candidates,
        };
        let mut output = Output::of(Type::Divergence, &about)?
            .file(VECTORS_FILE, at)
            .uses("space", space.artifact.clone());
        if let Some(base) = base {
            output = output.uses("base", base);
        }
        // Whose answers they are: a model's, if they are responses.
        match ctx.manifest(responses)?.uses.get("model") {
            Some(model) => Ok(output.uses("model", model.clone())),
            None => Ok(output),
        }
    }
}

impl Embed {
    /// The base's answer to each row's prompt, and which model the base is, where known.
    fn plain(
        &self,
        args: &Args,
        ctx: &dyn Context,
        said: &[Row],
    ) -> Result<(Vec<String>, Option<ArtifactRef>), Failure> {
        let against = args.artifact("against")?;
        if matches!(against.ty, ArtifactType::Model | ArtifactType::Pllm) {
            let prompts: Vec<String> = said.iter().map(|r| r.prompt.clone()).collect();
            let max_tokens = args.positive("max_tokens")?;
            let options = GenerateOptions { max_tokens, temperature: 0.0, seed: 0 };
            let answers = probe::answers(ctx, &*self.backend, against, &prompts, &options)?;
            return Ok((answers, Some(against.clone())));
        }
        let rows = read_questions(ctx, against, "against")?;
        let mut answer: HashMap<&str, &str> = HashMap::new();
        for row in &rows {
            answer.entry(&row.prompt).or_insert(&row.response);
        }
        let missing: Vec<&str> =
            said.iter().map(|r| r.prompt.as_str()).filter(|p| !answer.contains_key(p)).collect();
        if let Some(first) = missing.first() {
            return Err(Failure::input(format!(
                "`against` has no answer to {} of {} prompts; the first is {:?}",
                missing.len(),
                said.len(),
                shorten(first)
            ))
            .help("give `against` the base model itself, or its answers to the same prompts"));
        }
        let base = ctx.manifest(against)?.uses.get("model").cloned();
        Ok((said.iter().map(|r| answer[r.prompt.as_str()].to_owned()).collect(), base))
    }
}

/// `n` places, spread evenly over all.
fn spread(n: usize, all: usize) -> Vec<usize> {
    (0..n).map(|i| i * all / n).collect()
}

fn check(said: &[Row], is_dataset: bool) -> Result<(), Failure> {
    if said.is_empty() {
        return Err(Failure::input("`responses` has no rows"));
    }
    // A model may have nothing to say; a dataset row without a response is a bare prompt.
    match said.iter().position(|r| is_dataset && r.response.trim().is_empty()) {
        Some(i) => Err(Failure::input(format!(
            "row {} of `responses` has no response; its prompt is {:?}",
            i + 1,
            shorten(&said[i].prompt)
        ))
        .help("embed rows that have responses, or probe a model with these prompts first")),
        None => Ok(()),
    }
}

/// Where the first `n` words of a text end.
fn first_words(text: &str, n: usize) -> usize {
    let mut end = 0;
    for word in text.split_whitespace().take(n) {
        // The words of a text lie in it, in order.
        end += text[end..].find(word).unwrap_or(0) + word.len();
    }
    if text.split_whitespace().nth(n).is_none() { text.len() } else { end }
}

fn shorten(text: &str) -> String {
    let short: String = text.chars().take(60).collect();
    if short.len() < text.len() { format!("{short}…") } else { short }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_cut_behind_a_word() {
        let text = " One  twö\nthree. ";
        let cut = |n: usize| &text[..first_words(text, n)];
        assert_eq!((cut(1), cut(2)), (" One", " One  twö"));
        assert_eq!((cut(3), cut(9)), (text, text), "a short text stays as it is");
        assert_eq!(first_words("a a a", 2), 3);
    }
}
