//! Small stages of the real kinds, with a closure each. Those that see the user's rows put them
//! wherever they can, so that a leak would be found.
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use headstart_protocol::rows::{ROWS_FILE, from_jsonl};
use headstart_protocol::{Args, ArtifactRef, Context, Digest, Failure, FailureClass, Output, Stage, Type};
use serde_json::json;

type Run = Box<dyn Fn(&Args, &dyn Context) -> Result<Output, Failure> + Send + Sync>;

/// A stage made of a closure.
pub struct Fake(&'static str, Run);

impl Stage for Fake {
    fn kind(&self) -> &'static str {
        self.0
    }

    fn run(&self, args: &Args, ctx: &dyn Context) -> Result<Output, Failure> {
        (self.1)(args, ctx)
    }
}

pub fn fake(
    kind: &'static str,
    run: impl Fn(&Args, &dyn Context) -> Result<Output, Failure> + Send + Sync + 'static,
) -> Box<dyn Stage> {
    Box::new(Fake(kind, Box::new(run)))
}

fn write(ctx: &dyn Context, name: &str, content: impl AsRef<[u8]>) -> Result<std::path::PathBuf, Failure> {
    let at = ctx.scratch().join(name);
    headstart_disk::files::write(ctx.disk(), &at, content.as_ref())?;
    Ok(at)
}

/// `jsonl`: the rows of a file of the data folder.
pub fn jsonl() -> Box<dyn Stage> {
    fake("jsonl", |args, ctx| {
        let at = ctx.path(args.text("path")?);
        let text = std::fs::read_to_string(&at).map_err(|e| Failure::io(&at, &e))?;
        let rows = from_jsonl(&text).map_err(|e| Failure::input(format!("{}: {e}", at.display())))?;
        let value = json!({ "rows": rows.len() });
        Ok(Output::new(Type::Dataset, value).file(ROWS_FILE, write(ctx, "rows", text)?))
    })
}

fn rows_text(args: &Args, ctx: &dyn Context, name: &str) -> Result<String, Failure> {
    let at = ctx.open(args.artifact(name)?)?.join(ROWS_FILE);
    std::fs::read_to_string(&at).map_err(|e| Failure::io(&at, &e))
}

/// `evaluate`: numbers over rows, with texts beside them that must not leave.
pub fn evaluate() -> Box<dyn Stage> {
    fake("evaluate", |args, ctx| {
        let text = rows_text(args, ctx, "data")?;
        ctx.progress(headstart_protocol::Progress { done: 1, unit: text.clone(), ..Default::default() });
        ctx.count("tokens", text.len() as u64);
        let first = text.lines().next().unwrap_or_default().to_owned();
        // Names can carry text too.
        let value = json!({ "loss": 1.25, "perplexity": 3.5, first: 1, "Ottilie": true });
        Ok(Output::new(Type::Metrics, value).file("answers.jsonl", write(ctx, "answers", &text)?))
    })
}

/// `select`: chooses the first pLLM of the catalog, and carries texts that must not leave.
pub fn select() -> Box<dyn Stage> {
    fake("select", |args, ctx| {
        let text = rows_text(args, ctx, "user")?;
        let catalog = ctx.manifest(args.artifact("catalog")?)?;
        let pllms: Vec<_> = catalog.uses.iter().filter(|(k, _)| k.starts_with("pllm:")).collect();
        let (key, chosen) = pllms[0];
        let name = key.trim_start_matches("pllm:");
        let first = text.lines().next().unwrap_or_default();
        let value = json!({
            "pllm_name": name, "style": first, "strategy": first, "confidence": 0.75, "is_mix": false, "abstained": false,
            "mix": { name: 0.9, first: 0.1 },
            "distances": { name: 1.5, first: 2.5 }, "n": 2,
            "user": { "explained": 0.5, "words": [
                { "word": "friendly", "coefficient": 0.5, "low": 0.25, "high": 0.75 },
                { "word": first, "coefficient": 0.1, "low": 0.0, "high": 0.2 },
            ] },
            "sentence": format!("because of {text}"),
        });
        let output = Output::new(Type::Selection, value).uses("pllm", chosen.clone());
        Ok(pllms.iter().fold(output, |o, (k, a)| o.uses((*k).clone(), (*a).clone())))
    })
}

/// All bytes of an artifact's files, in the order of their names.
fn bytes_of(ctx: &dyn Context, artifact: &ArtifactRef) -> Result<Vec<u8>, Failure> {
    let folder = ctx.open(artifact)?;
    let mut out = Vec::new();
    for name in ctx.manifest(artifact)?.files.keys() {
        out.extend(std::fs::read(folder.join(name)).map_err(|e| Failure::io(&folder.join(name), &e))?);
    }
    Ok(out)
}

/// The base of a model or pLLM.
fn base_of(ctx: &dyn Context, artifact: &ArtifactRef) -> Result<ArtifactRef, Failure> {
    Ok(ctx.manifest(artifact)?.uses.get("base").unwrap_or(artifact).clone())
}

/// `finetune`: an adapter whose bytes depend on the rows.
pub fn finetune() -> Box<dyn Stage> {
    fake("finetune", |args, ctx| {
        let from = args.artifact("from")?;
        let base = base_of(ctx, from)?;
        bytes_of(ctx, &base)?;
        let text = rows_text(args, ctx, "data")?;
        let weights = [bytes_of(ctx, from)?, blake3::hash(text.as_bytes()).as_bytes().to_vec()].concat();
        let value = json!({ "format": "lora", "metrics": { "loss": 1.5, "steps": 40, "Ottilie": 1 }, "about": { "sample": text } });
        Ok(Output::new(Type::Pllm, value)
            .file("adapter_model.safetensors", write(ctx, "weights", weights)?)
            .file("adapter_config.json", write(ctx, "config", "{\"r\":8}")?)
            .file("training-rows.jsonl", write(ctx, "rows", &text)?)
            .file("Ottilie.safetensors", write(ctx, "more", text)?)
            .uses("Ottilie", base.clone())
            .uses("base", base))
    })
}

/// `local`: a model's folder.
pub fn local() -> Box<dyn Stage> {
    fake("local", |args, ctx| {
        let at = ctx.path(args.text("path")?).join("model.safetensors");
        Ok(Output::new(Type::Model, json!({})).file("model.safetensors", at))
    })
}

/// `ingest`: an adapter's folder.
pub fn ingest() -> Box<dyn Stage> {
    fake("ingest", |args, ctx| {
        let at = ctx.path(args.text("source")?).join("adapter_model.safetensors");
        let output =
            Output::new(Type::Pllm, json!({ "format": "lora" })).file("adapter_model.safetensors", at);
        Ok(output.uses("base", args.artifact("base")?.clone()))
    })
}

/// `pooled`: a space.
pub fn pooled() -> Box<dyn Stage> {
    fake("pooled", |args, _| {
        Ok(Output::new(Type::Space, json!({ "kind": "pooled" }))
            .uses("model", args.artifact("model")?.clone()))
    })
}

/// `embed`: "vectors" that are the rows themselves.
pub fn embed() -> Box<dyn Stage> {
    fake("embed", |args, ctx| {
        let text = rows_text(args, ctx, "responses")?;
        ctx.rows().put_embeddings(&Digest::of(b"space"), &[(Digest::of(text.as_bytes()), vec![1.0])]);
        let space = ctx.manifest(args.artifact("space")?)?;
        bytes_of(ctx, &space.uses["model"])?;
        let responses = ctx.manifest(args.artifact("responses")?)?;
        let value = json!({ "n": 2, "first": text.lines().next() });
        let output = Output::new(Type::Divergence, value).file(ROWS_FILE, write(ctx, "vectors", text)?);
        Ok(responses.uses.get("model").into_iter().fold(output, |o, m| o.uses("model", m.clone())))
    })
}

/// `decompose`: a catalog with the word "friendly".
pub fn decompose() -> Box<dyn Stage> {
    fake("decompose", |args, ctx| {
        let catalog = write(ctx, "catalog", "{\"words\": [\"friendly\"]}")?;
        let mut output = Output::new(Type::Catalog, json!({})).file("catalog.json", catalog);
        for (name, divergence) in args.artifacts("divergences")? {
            let pllm = ctx.manifest(divergence)?.uses["model"].clone();
            output = output.uses(format!("pllm:{name}"), pllm);
        }
        Ok(output)
    })
}

/// `merge`: the first pLLM of a mix, under another name.
pub fn merge() -> Box<dyn Stage> {
    fake("merge", |args, ctx| {
        let first = &args.mix("mix")?[0].pllm;
        let at = ctx.open(first)?.join("adapter_model.safetensors");
        let output =
            Output::new(Type::Pllm, json!({ "format": "lora" })).file("adapter_model.safetensors", at);
        Ok(output.uses("base", base_of(ctx, first)?))
    })
}

/// `probe`: a public output of public inputs, counting how often it ran.
pub fn probe(ran: Arc<AtomicUsize>) -> Box<dyn Stage> {
    fake("probe", move |args, ctx| {
        ran.fetch_add(1, Ordering::SeqCst);
        let model = args.artifact("model")?;
        let weights = bytes_of(ctx, model)?;
        let rows = rows_text(args, ctx, "prompts")?;
        ctx.count("forward_passes", 3);
        let answer = format!("{} bytes of weights\n{rows}", weights.len());
        let at = write(ctx, "out", answer)?;
        Ok(Output::new(Type::Responses, json!({ "rows": 1 }))
            .file(ROWS_FILE, at)
            .uses("model", model.clone()))
    })
}

/// `slow`: works until it is told to stop.
pub fn slow() -> Box<dyn Stage> {
    fake("slow", |_, ctx| {
        for done in 0.. {
            if ctx.cancelled() {
                return Err(Failure::new(FailureClass::Cancelled, "told to stop"));
            }
            ctx.progress(headstart_protocol::Progress { done, unit: "naps".into(), ..Default::default() });
            std::thread::sleep(Duration::from_millis(5));
        }
        unreachable!("naps forever")
    })
}

/// `steady`: keeps its progress and works until it is told to stop; finds it at the next attempt, and
/// is done.
pub fn steady() -> Box<dyn Stage> {
    fake("steady", |_, ctx| {
        let folder = ctx.resume_dir().expect("a place for progress");
        if folder.join("progress").exists() {
            return Ok(Output::new(Type::Metrics, json!({ "went_on": 1 })));
        }
        std::fs::create_dir_all(&folder).expect("writable");
        std::fs::write(folder.join("progress"), "half").expect("writable");
        while !ctx.cancelled() {
            std::thread::sleep(Duration::from_millis(5));
        }
        Err(Failure::new(FailureClass::Cancelled, "told to stop"))
    })
}

/// All of them, for a whole pipeline.
pub fn all() -> Vec<Box<dyn Stage>> {
    let mut out = private_stages();
    out.extend([local(), ingest(), pooled(), embed(), decompose(), merge(), probe(Arc::default())]);
    out
}

/// Those of the private path.
pub fn private_stages() -> Vec<Box<dyn Stage>> {
    vec![jsonl(), evaluate(), select(), finetune()]
}
