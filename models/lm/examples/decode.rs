//! How fast a model of a published shape with random weights answers, on the CPU.
//!
//! `cargo run -p headstart-lm --example decode SHAPE TYPE DIR [NAME=NUMBER]…` with the settings
//! `sequences` (1), `tokens` of a prompt (32), `new` tokens (64), `temperature` (0), `bf16` products (0),
//! `threads` (2) and `rounds` (5) prints the best round: seconds, tokens a second, and where the time went. SHAPE is
//! `smollm-135m`, `smollm-360m`, `llama-1b` or `tiny`; TYPE is `bf16` or a type of quantized weights
//! such as `q8_0`. The model is written to DIR where it is not there.

#[path = "../../gpu/examples/bench/shapes.rs"]
mod shapes;

use std::error::Error;
use std::path::{Path, PathBuf};
use std::time::Instant;

use headstart_disk::SystemDisk;
use headstart_kernels::team::Team;
use headstart_kernels::{QuantType, isa, profile};
use headstart_lm::{Model, Net, Precision, Sampling, Unwatched, generate, gguf};

type Done<T> = Result<T, Box<dyn Error>>;

/// The value of a setting.
fn setting<T: std::str::FromStr>(settings: &[String], name: &str, default: T) -> Done<T>
where
    T::Err: Error + 'static,
{
    let found = settings.iter().find_map(|s| s.strip_prefix(name)?.strip_prefix('='));
    Ok(found.map_or(Ok(default), str::parse)?)
}

fn main() -> Done<()> {
    isa::check()?;
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [shape, to, dir, settings @ ..] = args.as_slice() else {
        return Err("decode SHAPE TYPE DIR [NAME=NUMBER]…".into());
    };
    let precision = if setting(settings, "bf16", 0)? == 1 { Precision::Bf16 } else { Precision::F32 };
    let model = Model::load_in(&written(shape, to, Path::new(dir))?, precision)?;
    let (count, length) = (setting(settings, "sequences", 1)?, setting(settings, "tokens", 32)?);
    let vocab = model.config.vocab;
    let token = |row: usize, t: usize| ((row * 7919 + t * 104_729 + 17) % (vocab - 3) + 3) as u32;
    let prompts: Vec<Vec<u32>> = (0..count).map(|row| (0..length).map(|t| token(row, t)).collect()).collect();
    let sampling = Sampling {
        max_tokens: setting(settings, "new", 64)?,
        temperature: setting(settings, "temperature", 0.0)?,
        seed: 0,
        eos: &[],
    };
    let threads = setting(settings, "threads", 2)?;
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build()?;
    let (team, net) = (Team::new(threads), Net::new(&model));
    let mut best = (f64::INFINITY, Vec::new(), Vec::new());
    for _ in 0..setting(settings, "rounds", 5)? {
        profile::start();
        let start = Instant::now();
        let answers = pool.install(|| team.lead(|| generate(&net, &prompts, &sampling, &Unwatched)))?;
        let seconds = start.elapsed().as_secs_f64();
        if seconds < best.0 {
            best = (seconds, profile::seconds().to_vec(), answers);
        }
    }
    let made: usize = best.2.iter().map(Vec::len).sum();
    println!(
        "{:.3} s, {made} tokens, {:.1} tokens/s, {}",
        best.0,
        made as f64 / best.0,
        isa::in_use().name()
    );
    for (part, seconds) in best.1 {
        println!("  {:18} {seconds:.3} s", part.name());
    }
    let digest = best.2.iter().flatten().fold(0u64, |d, t| d.wrapping_mul(1_000_003) ^ u64::from(*t));
    println!("  answers {digest:016x}");
    Ok(())
}

/// The folder of the model, written where it is not there.
fn written(shape: &str, to: &str, dir: &Path) -> Done<PathBuf> {
    let plain = dir.join(shape);
    if !plain.join("model.safetensors").exists() {
        shapes::write(shape, &plain)?;
    }
    if to == "bf16" {
        return Ok(plain);
    }
    let packed = dir.join(format!("{shape}-{to}"));
    if !packed.join("model.gguf").exists() {
        let to = QuantType::ALL.into_iter().find(|q| q.name() == to).ok_or("no such type of weights")?;
        gguf::quantize(&SystemDisk, &plain, &packed, to)?;
    }
    Ok(packed)
}
