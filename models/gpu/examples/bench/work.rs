//! The measurements.

use std::error::Error;
use std::io::{BufRead, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use headstart_gpu::{DeviceBackend, DeviceGradients, Gpu};
use headstart_kernels::team::Team;
use headstart_kernels::{Matrix, Storage, mat, profile};
use headstart_lm::encoder::load_encoder;
use headstart_lm::{
    Adapter, Example, LoraSpec, Model, Net, Passes, Sampling, Unwatched, generate as answers, pack,
};
use headstart_train::{AdamW, AdamWSpec, CpuGradients, GradientBackend, Keep, Pass, TrainableParams};
use serde_json::{Value, json};

use crate::Settings;

type Done = Result<(), Box<dyn Error>>;

/// Where the time since the last call went, by parts.
fn profiled() -> Value {
    let parts = profile::seconds().map(|(part, s)| (part.name().to_owned(), json!(s)));
    Value::Object(parts.into_iter().collect())
}

/// Does a round for each line of the input and prints what it gives.
fn rounds(settings: &Settings, mut round: impl FnMut() -> Result<Value, Box<dyn Error>>) -> Done {
    let profile = settings.number("profile", 0)? == 1;
    println!("{}", json!({"ready": true}));
    for line in std::io::stdin().lock().lines() {
        line?;
        if profile {
            profile::start();
        }
        let start = Instant::now();
        let mut found = round()?;
        found["seconds"] = json!(start.elapsed().as_secs_f64());
        if profile {
            found["profile"] = profiled();
        }
        println!("{found}");
        std::io::stdout().flush()?;
    }
    Ok(())
}

fn threads(settings: &Settings) -> Done {
    let n = settings.number("threads", 2)?;
    Ok(rayon::ThreadPoolBuilder::new().num_threads(n).build_global()?)
}

/// The GPU, with `gpu=1`.
fn gpu(settings: &Settings) -> Result<Option<candle_core::Device>, Box<dyn Error>> {
    if settings.number("gpu", 0)? == 0 {
        return Ok(None);
    }
    let gpu = Gpu::built().ok_or("built without a GPU; see docs/gpu.md")?;
    Ok(Some(gpu.open()?))
}

/// The tokens of row `row`: the same in every program of the benchmark.
fn tokens(row: usize, count: usize, vocab: usize) -> Vec<u32> {
    (0..count).map(|t| ((row * 7919 + t * 104_729 + 17) % (vocab - 3) + 3) as u32).collect()
}

/// One step of AdamW a round over `rows` rows of `tokens` tokens: LoRA of rank `rank` on q and v.
/// `checkpoint=1` runs blocks again in the backward pass, `stream=1` reads weights as they are needed,
/// `gpu=1` computes losses and gradients on the GPU.
pub fn lora(dir: &Path, settings: &Settings) -> Done {
    threads(settings)?;
    let (rows, length) = (settings.number("rows", 1)?, settings.number("tokens", 256)?);
    let keep = if settings.number("checkpoint", 0)? == 1 { Keep::Input } else { Keep::Activations };
    let model = Arc::new(Model::load(dir)?);
    model.stream(settings.number("stream", 0)? == 1);
    let spec = LoraSpec {
        rank: settings.number("rank", 8)?,
        alpha: 16.0,
        rslora: false,
        targets: vec!["q_proj".into(), "v_proj".into()],
    };
    let adapter = Adapter::fresh(&spec, &model.config, 1)?;
    let backend: Box<dyn GradientBackend> = match gpu(settings)? {
        Some(device) => Box::new(DeviceGradients::new(&model, Some(&adapter), &device)?),
        None => Box::new(CpuGradients::new(model.clone(), Some(&adapter))),
    };
    let mut params = TrainableParams::adapter(&adapter);
    let mut optimizer = AdamW::new(&params, AdamWSpec::default());
    let row = |r| one_answer(tokens(r, length, model.config.vocab));
    let data: Vec<Example> = (0..rows).map(row).collect();
    let (batch, targets) = pack(&data);
    let scale = 1.0 / targets.ids.len() as f32;
    rounds(settings, || {
        let (loss, grads) = backend.gradients(&params.values, &batch, &targets, &Pass::plain(scale, keep))?;
        optimizer.step(&mut params.values, &grads, 1e-4)?;
        Ok(json!({"loss": loss}))
    })
}

/// A row all of which counts, but for its first token.
#[expect(clippy::single_range_in_vec_init, reason = "one answer")]
fn one_answer(ids: Vec<u32>) -> Example {
    Example { answers: vec![1..ids.len()], ids, bytes: 0, cut: false }
}

/// The likelihood of `rows` rows of `tokens` tokens; `stream=1` as in [`lora`].
pub fn score(dir: &Path, settings: &Settings) -> Done {
    threads(settings)?;
    let (rows, length) = (settings.number("rows", 1)?, settings.number("tokens", 256)?);
    let model = Model::load(dir)?;
    model.stream(settings.number("stream", 0)? == 1);
    let row = |r| one_answer(tokens(r, length, model.config.vocab));
    let data: Vec<Example> = (0..rows).map(row).collect();
    let (batch, targets) = pack(&data);
    let net = Net::new(&model);
    rounds(settings, || Ok(json!({"losses": net.losses(&batch, &targets)})))
}

/// Greedy answers of `new` tokens to `prompts` prompts of about `tokens` tokens each; `gpu=1` as in
/// [`lora`].
pub fn generate(dir: &Path, settings: &Settings) -> Done {
    threads(settings)?;
    let model = Model::load(dir)?;
    let (count, length) = (settings.number("prompts", 50)?, settings.number("tokens", 32)?);
    let prompts: Vec<Vec<u32>> = (0..count).map(|r| tokens(r, length - r % 8, model.config.vocab)).collect();
    let sampling = Sampling { max_tokens: settings.number("new", 64)?, temperature: 0.0, seed: 0, eos: &[] };
    let found =
        |made: Vec<Vec<u32>>| json!({"tokens": made.iter().map(Vec::len).sum::<usize>(), "answers": made});
    if let Some(device) = gpu(settings)? {
        let passes = DeviceBackend::new(device).passes(dir, None)?;
        return rounds(settings, || Ok(found(passes.generate(&prompts, &sampling, &Unwatched)?)));
    }
    let net = Net::new(&model);
    let team = Team::new(settings.number("threads", 2)?);
    rounds(settings, || Ok(found(team.lead(|| answers(&net, &prompts, &sampling, &Unwatched))?)))
}

/// Products y = x Wᵀ of the shapes of a SmolLM-135M and a Llama-1B step, in GFLOP/s: our kernel over
/// f32 and over bf16, and faer's.
pub fn products(settings: &Settings) -> Done {
    threads(settings)?;
    let shapes = [(256, 576, 576), (256, 1536, 576), (256, 576, 1536), (50, 1536, 576), (256, 2048, 8192)];
    let numbers =
        |n: usize| -> Vec<f32> { (0..n).map(|i| (i * 7919 % 1000) as f32 / 1000.0 - 0.5).collect() };
    rounds(settings, || {
        let mut all = serde_json::Map::new();
        for (n, out, inner) in shapes {
            let (x, w) = (numbers(n * inner), numbers(out * inner));
            let halves: Vec<half::bf16> = w.iter().map(|v| half::bf16::from_f32(*v)).collect();
            let mut y = vec![0.0; n * out];
            let flops = 2.0 * (n * out * inner) as f64;
            let times = (2e9 / flops).ceil() as usize;
            let mut speed = |f: &mut dyn FnMut(&mut [f32])| {
                f(&mut y);
                let start = Instant::now();
                (0..times).for_each(|_| f(&mut y));
                flops * times as f64 / start.elapsed().as_secs_f64() / 1e9
            };
            let f32s = Matrix::new(out, inner, Storage::F32(&w));
            let bf16s = Matrix::new(out, inner, Storage::Bf16(&halves));
            let ours = speed(&mut |y| f32s.forward(y, &x, n));
            let stored = speed(&mut |y| bf16s.forward(y, &x, n));
            let theirs = speed(&mut |y| {
                let (x, w) = (mat(&x, n, inner), mat(&w, out, inner));
                let y = faer::MatMut::from_row_major_slice_mut(y, n, out);
                faer::linalg::matmul::matmul(
                    y,
                    faer::Accum::Replace,
                    x,
                    w.transpose(),
                    1.0,
                    faer::Par::rayon(2),
                );
            });
            all.insert(format!("{n}×{inner}×{out}"), json!([ours, stored, theirs]));
        }
        Ok(json!({"gflops": all}))
    })
}

/// Sentence vectors of all lines of a file.
pub fn embed(dir: &Path, texts: &Path, settings: &Settings) -> Done {
    let encoder = load_encoder(dir, settings.number("threads", 2)?)?;
    let texts: Vec<String> = std::fs::read_to_string(texts)?.lines().map(str::to_owned).collect();
    rounds(settings, || {
        let vectors = encoder.encode(&texts, &Unwatched)?;
        Ok(json!({"texts": texts.len(), "vectors": vectors}))
    })
}
