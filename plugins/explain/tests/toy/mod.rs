//! A backend for tests: its models answer in a style that a file in their folder names. Everything
//! it computes depends on texts alone.
#![allow(dead_code, reason = "each test file uses its part")]

use std::fs;
use std::path::Path;
use std::sync::Arc;

use headstart_explain::stylometry::features;
use headstart_lm::{
    Backend, ComputeFacts, Decoder, Encoder, GenerateOptions, LmError, ModelInfo, NextToken, RowScore, Watch,
};
use headstart_protocol::rows::{Row, text_digest};
use headstart_protocol::{ArtifactRef, Output, Stage, Type, Value};
use headstart_testkit::MemoryContext;

pub struct Toy;

const DIM: usize = 24;

/// How a text differs from its words in another order or style, as a vector: hashed words.
fn hashed(text: &str) -> Vec<f32> {
    let mut v = [0f32; DIM];
    for word in text.split_whitespace() {
        let d = text_digest(&word.to_lowercase());
        v[d.0[0] as usize % DIM] += if d.0[1].is_multiple_of(2) { 1.0 } else { -1.0 };
    }
    let norm = v.iter().map(|x| x * x).sum::<f32>().sqrt().max(1e-6);
    v.iter().map(|x| x / norm).collect()
}

/// The answer to a prompt in a style.
pub fn answer(prompt: &str, style: &str) -> String {
    let seed = text_digest(prompt).0;
    let fillers = ["water", "time", "place", "people", "thing", "way", "part", "house"];
    let plain: Vec<&str> =
        (0..18 + seed[0] as usize % 8).map(|i| fillers[seed[i % 32] as usize % 8]).collect();
    let plain = format!("{} is about {}.", prompt.trim_end_matches('?'), plain.join(" "));
    match style {
        "brief" => plain.split_whitespace().take(6).collect::<Vec<_>>().join(" "),
        "excited" => {
            format!("Wow! Yes! {} I love it! It's amazing!", plain.replace(' ', "! ").replace("!!", "!"))
        }
        "formal" => format!(
            "Furthermore, it is therefore advisable to consider that {plain} Moreover, the consideration of \
             the circumstances is of importance."
        ),
        "long" => format!("{plain} {plain} Then there is more to say. {plain} {plain}"),
        _ => plain,
    }
}

struct ToyDecoder {
    style: String,
    info: ModelInfo,
}

impl Backend for Toy {
    fn name(&self) -> String {
        "toy".into()
    }
    fn compute(&self) -> ComputeFacts {
        let [backend, precision, instruction_set] = ["toy", "f32", "baseline"].map(String::from);
        ComputeFacts { backend, precision, instruction_set }
    }

    fn decoder(&self, model: &Path, adapter: Option<&Path>) -> Result<Box<dyn Decoder>, LmError> {
        let file = adapter.unwrap_or(model).join("style.txt");
        let style = fs::read_to_string(&file).map_err(|e| LmError::io(file, e))?;
        let info = ModelInfo {
            model_type: "toy".into(),
            parameters: 1,
            hidden: DIM,
            layers: 1,
            vocab: 1,
            context: 256,
        };
        Ok(Box::new(ToyDecoder { style, info }))
    }

    fn encoder(&self, _: &Path) -> Result<Box<dyn Encoder>, LmError> {
        Ok(Box::new(ToyEncoder))
    }
}

impl Decoder for ToyDecoder {
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    fn generate(
        &self,
        prompts: &[String],
        options: &GenerateOptions,
        watch: &dyn Watch,
    ) -> Result<Vec<String>, LmError> {
        watch.count("forward_passes", prompts.len() as u64);
        let sampled =
            if options.temperature > 0.0 { format!(" {}", options.seed % 97) } else { String::new() };
        Ok(prompts.iter().map(|p| answer(p, &self.style) + &sampled).collect())
    }

    fn score(&self, rows: &[Row], _: usize, watch: &dyn Watch) -> Result<Vec<RowScore>, LmError> {
        watch.count("forward_passes", rows.len() as u64);
        let score = |r: &Row| {
            let (a, b) = (features(&r.response), features(&answer(&r.prompt, &self.style)));
            let far: f32 = a.iter().zip(&b).map(|(a, b)| (a - b).abs()).sum();
            let tokens = r.response.split_whitespace().count().max(1);
            RowScore { nll: tokens as f64 * (1.0 + f64::from(far)), tokens, bytes: r.response.len() }
        };
        Ok(rows.iter().map(score).collect())
    }

    fn pooled(&self, texts: &[String], watch: &dyn Watch) -> Result<Vec<Vec<f32>>, LmError> {
        watch.count("forward_passes", texts.len() as u64);
        Ok(texts.iter().map(|t| hashed(t)).collect())
    }

    /// Sees how much longer the first response is, and a constant bias for the first place.
    fn next(&self, prompts: &[String], _: usize, watch: &dyn Watch) -> Result<Vec<NextToken>, LmError> {
        watch.count("forward_passes", prompts.len() as u64);
        let one = |p: &String| {
            let parts: Vec<&str> = p.split("\nResponse ").collect();
            let longer = parts[1].len() as f32 - parts[2].len() as f32;
            let mut hidden = vec![5.0; DIM];
            hidden[0] += longer / 100.0;
            let word = if longer > 0.0 { " wordy" } else { " concise" };
            NextToken { hidden, top: vec![(word.into(), 0.5), ("ing".into(), 0.2)] }
        };
        Ok(prompts.iter().map(one).collect())
    }
}

struct ToyEncoder;

impl Encoder for ToyEncoder {
    fn dim(&self) -> usize {
        DIM
    }

    fn encode(&self, texts: &[String], watch: &dyn Watch) -> Result<Vec<Vec<f32>>, LmError> {
        watch.count("forward_passes", texts.len() as u64);
        Ok(texts.iter().map(|t| hashed(t)).collect())
    }
}

pub fn value(artifact: &ArtifactRef) -> Value {
    Value::Artifact(artifact.clone())
}

fn artifact(ctx: &MemoryContext, ty: Type, style: &str, value: serde_json::Value) -> Output {
    let at = ctx.write(&format!("{ty}-{style}.txt"), style);
    Output::new(ty, value).file("style.txt", at)
}

/// A model that answers in a style.
pub fn model(ctx: &MemoryContext, style: &str) -> ArtifactRef {
    ctx.put(artifact(ctx, Type::Model, style, ().into()))
}

/// A pLLM over `base` that answers in a style.
pub fn pllm(ctx: &MemoryContext, base: &ArtifactRef, style: &str) -> ArtifactRef {
    let value = serde_json::json!({ "format": "full", "about": { "style": style } });
    ctx.put(artifact(ctx, Type::Pllm, style, value).uses("base", base.clone()))
}

/// A space of a kind over a model.
pub fn space(ctx: &MemoryContext, kind: &str, model: &ArtifactRef) -> ArtifactRef {
    ctx.put(Output::new(Type::Space, serde_json::json!({ "kind": kind })).uses("model", model.clone()))
}

/// Prompts `from..to`, without answers.
pub fn prompts(ctx: &MemoryContext, from: usize, to: usize) -> ArtifactRef {
    let rows: Vec<Row> = (from..to).map(|i| Row::new(format!("What is topic {i}?"), "")).collect();
    ctx.put_rows(Type::Dataset, &rows)
}

/// What a person writes in a style on the prompts `from..to`; only the first `styled` of them.
pub fn person(ctx: &MemoryContext, style: &str, styled: usize, from: usize, to: usize) -> ArtifactRef {
    let row = |i: usize| {
        let prompt = format!("What is topic {i}?");
        let style = if i - from < styled { style } else { "plain" };
        Row::new(prompt.clone(), answer(&prompt, style))
    };
    ctx.put_rows(Type::Dataset, &(from..to).map(row).collect::<Vec<_>>())
}

/// The explain stage of this kind.
pub fn stage(kind: &str) -> Box<dyn Stage> {
    let found = headstart_explain::stages(Arc::new(Toy)).into_iter().find(|s| s.kind() == kind);
    found.expect("a stage of this kind")
}

pub const STYLES: [&str; 4] = ["brief", "excited", "formal", "long"];

/// A base, a space, and the divergences of pLLMs in [`STYLES`] on twenty prompts.
pub fn divergences(ctx: &MemoryContext, kind: &str) -> (ArtifactRef, ArtifactRef, Vec<(String, Value)>) {
    let base = model(ctx, "plain");
    let space = space(ctx, kind, &base);
    let questions = prompts(ctx, 0, 20);
    let probe = stage("probe");
    let ask = |m: &ArtifactRef| {
        ctx.run(&*probe, [("model", value(m)), ("prompts", value(&questions))]).expect("answers")
    };
    let plain = ask(&base);
    let drift = |style: &str| {
        let said = ask(&pllm(ctx, &base, style));
        let args = [("responses", value(&said)), ("against", value(&plain)), ("space", value(&space))];
        (style.to_owned(), value(&ctx.run(&*stage("embed"), args).expect("a divergence")))
    };
    let all = STYLES.iter().map(|s| drift(s)).collect();
    (base, space, all)
}
