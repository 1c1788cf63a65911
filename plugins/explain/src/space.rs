//! Spaces: how the difference between two answers to a prompt becomes a vector.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use headstart_kit::{ContextWatch, open_model};
use headstart_lm::{Backend, Decoder, Encoder, NextToken};
use headstart_protocol::artifacts::{Artifact, Candidate, Orders, SpaceFacts, SpaceKind};
use headstart_protocol::rows::text_digest;
use headstart_protocol::{ArtifactRef, Context, Digest, Failure, FailureClass};
use serde_json::json;

use crate::contrast::Contrast;
use crate::summarizer;

/// Texts that are embedded before their vectors go to the cache.
const CHUNK: usize = 64;

/// Next-token candidates that are kept of each question to a summarizer.
const TOP: usize = 24;

/// Vectors of contrasts, and candidate words where the space gives them.
pub struct Embedded {
    /// A vector a contrast, in order.
    pub vectors: Vec<Vec<f32>>,
    /// Words by falling probability; only from a summarizer.
    pub candidates: Vec<Candidate>,
}

enum Loaded {
    Encoder(Box<dyn Encoder>),
    Decoder(Box<dyn Decoder>),
}

/// A space, opened; its model is loaded when the first vector has to be computed.
pub struct Space<'a> {
    /// Which artifact it is.
    pub artifact: ArtifactRef,
    /// Its kind.
    pub kind: SpaceKind,
    ctx: &'a dyn Context,
    backend: &'a dyn Backend,
    model: PathBuf,
    adapter: Option<PathBuf>,
    loaded: Option<Loaded>,
    /// Whether a summarizer is asked in one order only.
    forth_only: bool,
    /// Different texts that went through the model, those whose vectors a cache remembered included.
    passes: u64,
}

impl<'a> Space<'a> {
    /// Opens a `Space` artifact: its value names its `kind`, and `uses.model` the model, unless the
    /// artifact holds the model's files itself.
    ///
    /// # Errors
    /// If the kind is missing or unknown, or the model is not there.
    pub fn open(
        ctx: &'a dyn Context,
        backend: &'a dyn Backend,
        artifact: &ArtifactRef,
    ) -> Result<Self, Failure> {
        let manifest = ctx.manifest(artifact)?;
        let SpaceFacts { kind, orders } = SpaceFacts::of(&manifest)?;
        let (model, adapter) = match manifest.uses.get("model") {
            Some(model) => {
                let folders = open_model(ctx, model)?;
                (folders.model, folders.adapter)
            }
            None => (ctx.open(artifact)?, None),
        };
        let forth_only = orders == Orders::Forth;
        let artifact = artifact.clone();
        Ok(Self { artifact, kind, ctx, backend, model, adapter, loaded: None, forth_only, passes: 0 })
    }

    /// Forward passes that the vectors so far take where nothing is remembered: one a different text.
    pub fn passes(&self) -> u64 {
        self.passes
    }

    /// Embeds how each answer differs from its plain counterpart. Vectors come from the row cache
    /// where it has them.
    ///
    /// # Errors
    /// If the model cannot be loaded or run, or the stage was told to stop.
    pub fn contrasts(&mut self, pairs: &[Contrast<'_>]) -> Result<Embedded, Failure> {
        if self.kind == SpaceKind::Summarizer {
            return self.asked(pairs);
        }
        let sides: Vec<&str> = pairs.iter().flat_map(|p| [p.answer, p.plain]).collect();
        let vectors = self.texts(&sides)?;
        let difference = |ab: &[Vec<f32>]| ab[0].iter().zip(&ab[1]).map(|(a, b)| a - b).collect();
        Ok(Embedded { vectors: vectors.chunks_exact(2).map(difference).collect(), candidates: Vec::new() })
    }

    /// Vectors of texts, in order. A text without any content has the zero vector.
    fn texts(&mut self, texts: &[&str]) -> Result<Vec<Vec<f32>>, Failure> {
        let filled: Vec<&str> = texts.iter().copied().filter(|t| !t.trim().is_empty()).collect();
        let known = self.cached(&filled, &BTreeSet::new(), |space, chunk, watch| {
            let chunk: Vec<String> = chunk.iter().map(|t| (*t).to_owned()).collect();
            Ok(match space.load()? {
                Loaded::Encoder(e) => e.encode(&chunk, watch)?,
                Loaded::Decoder(d) => d.pooled(&chunk, watch)?,
            })
        })?;
        let dim = match known.values().next() {
            Some(v) => v.len(),
            None => self.dim()?,
        };
        let vector = |t: &&str| known.get(&text_digest(t)).cloned().unwrap_or_else(|| vec![0.0; dim]);
        Ok(texts.iter().map(vector).collect())
    }

    /// The summarizer's vectors: (h(A,B) − h(B,A)) / 2, so that what does not depend on the order
    /// of the two answers cancels; or h(A,B) alone, where the space says so. Long answers are read in
    /// windows side by side.
    fn asked(&mut self, pairs: &[Contrast<'_>]) -> Result<Embedded, Failure> {
        let context = match self.load()? {
            Loaded::Decoder(d) => d.info().context,
            Loaded::Encoder(_) => return Err(self.wrong_model()),
        };
        let windows: Vec<Vec<summarizer::Window>> =
            pairs.iter().map(|p| summarizer::windows(p, context)).collect();
        let orders = if self.forth_only { 1 } else { 2 };
        let asked: Vec<&str> =
            windows.iter().flatten().flat_map(|w| [&*w.forth, &*w.back].into_iter().take(orders)).collect();
        // A cache may remember a vector and forget the words: then both are computed again, so that
        // the result does not depend on what was remembered.
        let settings = Digest::of_json(&json!({ "kind": "next_token", "top": TOP }));
        let digests: Vec<Digest> = asked.iter().map(|t| text_digest(t)).collect();
        let remembered = self.ctx.rows().responses(&self.artifact.id, &settings, &digests);
        let mut tops: BTreeMap<Digest, String> =
            digests.iter().zip(remembered).filter_map(|(d, t)| Some((*d, t?))).collect();
        let stale: BTreeSet<Digest> = digests.iter().copied().filter(|d| !tops.contains_key(d)).collect();
        let mut new: Vec<(Digest, String)> = Vec::new();
        let known = self.cached(&asked, &stale, |space, chunk, watch| {
            let Loaded::Decoder(decoder) = space.load()? else { return Err(space.wrong_model()) };
            let questions: Vec<String> = chunk.iter().map(|t| (*t).to_owned()).collect();
            let next = decoder.next(&questions, TOP, watch)?;
            let words = |(q, n): (&String, &NextToken)| (text_digest(q), json!(n.top).to_string());
            new.extend(questions.iter().zip(&next).map(words));
            Ok(next.into_iter().map(|n| n.hidden).collect())
        })?;
        self.ctx.rows().put_responses(&self.artifact.id, &settings, &new);
        tops.extend(new);
        let mut vectors = Vec::with_capacity(pairs.len());
        for windows in &windows {
            let share = 1.0 / windows.len() as f64;
            let mut vector: Vec<f32> = Vec::new();
            for w in windows {
                let forth = &known[&text_digest(&w.forth)];
                vector.resize(forth.len(), 0.0);
                let mut add = |weight: f64, h: &[f32]| {
                    vector.iter_mut().zip(h).for_each(|(v, h)| *v += weight as f32 * h);
                };
                if self.forth_only {
                    add(share, forth);
                } else {
                    add(share / 2.0, forth);
                    add(-share / 2.0, &known[&text_digest(&w.back)]);
                }
            }
            vectors.push(vector);
        }
        let forth = windows.iter().flatten().filter_map(|w| tops.get(&text_digest(&w.forth)));
        Ok(Embedded { vectors, candidates: summarizer::candidates(forth) })
    }

    /// Vectors by text digest: from the cache, unless `stale` names them, else computed chunk by
    /// chunk and remembered.
    fn cached(
        &mut self,
        texts: &[&str],
        stale: &BTreeSet<Digest>,
        mut compute: impl FnMut(&mut Self, &[&str], &ContextWatch<'_>) -> Result<Vec<Vec<f32>>, Failure>,
    ) -> Result<BTreeMap<Digest, Vec<f32>>, Failure> {
        let ctx = self.ctx;
        let mut seen = BTreeSet::new();
        let all: Vec<(Digest, &str)> =
            texts.iter().map(|t| (text_digest(t), *t)).filter(|(d, _)| seen.insert(*d)).collect();
        self.passes += all.len() as u64;
        let digests: Vec<Digest> = all.iter().map(|(d, _)| *d).collect();
        let cached = ctx.rows().embeddings(&self.artifact.id, &digests);
        let mut known: BTreeMap<Digest, Vec<f32>> =
            digests.iter().zip(cached).filter_map(|(d, v)| Some((*d, v?))).collect();
        known.retain(|d, _| !stale.contains(d));
        let missing: Vec<(Digest, &str)> = all.into_iter().filter(|(d, _)| !known.contains_key(d)).collect();
        ctx.count("rows_cached", known.len() as u64);
        ctx.count("rows_computed", missing.len() as u64);
        for (i, chunk) in missing.chunks(CHUNK).enumerate() {
            if ctx.cancelled() {
                return Err(Failure::new(FailureClass::Cancelled, "stopped on request"));
            }
            let watch = ContextWatch::part(ctx, (i * CHUNK) as u64, missing.len() as u64);
            let texts: Vec<&str> = chunk.iter().map(|(_, t)| *t).collect();
            let vectors = compute(self, &texts, &watch)?;
            let rows: Vec<(Digest, Vec<f32>)> = chunk.iter().map(|(d, _)| *d).zip(vectors).collect();
            if let Some((_, bad)) = rows.iter().find(|(_, v)| v.iter().any(|x| !x.is_finite())) {
                let at = bad.iter().position(|x| !x.is_finite()).unwrap_or(0);
                return Err(Failure::input(format!(
                    "space {}: component {at} of a vector is not a number",
                    self.artifact.id.short()
                ))
                .help("the model's weights may be damaged"));
            }
            ctx.rows().put_embeddings(&self.artifact.id, &rows);
            known.extend(rows);
        }
        Ok(known)
    }

    fn dim(&mut self) -> Result<usize, Failure> {
        Ok(match self.load()? {
            Loaded::Encoder(e) => e.dim(),
            Loaded::Decoder(d) => d.info().hidden,
        })
    }

    fn load(&mut self) -> Result<&Loaded, Failure> {
        if self.loaded.is_none() {
            self.loaded = Some(match self.kind {
                SpaceKind::Sentence => Loaded::Encoder(self.backend.encoder(&self.model)?),
                SpaceKind::Pooled | SpaceKind::Summarizer => Loaded::Decoder(self.backend.decoder_within(
                    &self.model,
                    self.adapter.as_deref(),
                    self.ctx.memory(),
                )?),
            });
        }
        Ok(self.loaded.as_ref().expect("just loaded"))
    }

    fn wrong_model(&self) -> Failure {
        Failure::new(
            FailureClass::Internal,
            format!("space {} needs a causal language model", self.artifact.id.short()),
        )
    }
}
