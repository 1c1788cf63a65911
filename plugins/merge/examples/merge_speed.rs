//! Measures merges: `cargo run --release -p headstart-merge --example merge_speed [FOLDER]`.
//!
//! Writes a base and four models of SmolLM-135M's shapes with random bf16 weights, and four rank-16
//! adapters, below FOLDER (a temporary folder by default; about 1.7 GB), merges them with every
//! method, and prints seconds, bytes read once and written per second, and the process's peak memory.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use headstart_disk::SystemDisk;
use headstart_disk::files::OutFolder;
use headstart_lm::Unwatched;
use headstart_merge::adapter::{AdapterTerm, CONFIG_FILE, WEIGHTS_FILE, merge_adapters};
use headstart_merge::full::{FullTerm, Method, merge_full};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::json;

type Problem = Box<dyn std::error::Error>;

const WEIGHTS: [f64; 4] = [0.4, 0.3, 0.2, 0.1];

fn main() -> Result<(), Problem> {
    let temporary = tempfile::tempdir()?;
    let root = std::env::args().nth(1).map_or(temporary.path().to_owned(), PathBuf::from);
    println!("{} threads, below {}", rayon::current_num_threads(), root.display());
    let names = ["base", "m0", "m1", "m2", "m3"];
    for (seed, name) in names.iter().enumerate() {
        if !root.join(name).exists() {
            write_model(&root.join(name), seed as u64)?;
        }
    }
    let term = |(i, weight): (usize, &f64)| FullTerm {
        name: names[i + 1].into(),
        weight: *weight,
        folder: root.join(names[i + 1]),
        stream: i as u64,
    };
    let terms: Vec<_> = WEIGHTS.iter().enumerate().map(term).collect();
    let out = root.join("out");
    std::fs::create_dir_all(&out)?;
    let methods = [
        ("task_arithmetic", Method::TaskArithmetic),
        ("linear", Method::Linear),
        ("dare", Method::Dare { density: 0.5, seed: 1 }),
        ("ties", Method::Ties { density: 0.5 }),
    ];
    for (name, method) in methods {
        let mut best = f64::INFINITY;
        let mut bytes = 0;
        for _ in 0..3 {
            let start = Instant::now();
            bytes = merge_full(
                &root.join("base"),
                0.0,
                &terms,
                method,
                None,
                OutFolder { disk: &SystemDisk, path: &out },
                &Unwatched,
            )?
            .bytes;
            best = best.min(start.elapsed().as_secs_f64());
        }
        let speed = bytes as f64 / best / 1e9;
        println!("{name:<16} {best:>7.3} s  {speed:>6.2} GB/s  peak {} MB", peak_memory());
    }
    adapters(&root)
}

fn adapters(root: &Path) -> Result<(), Problem> {
    let mut terms = Vec::new();
    let mut bytes = 0;
    for (i, weight) in WEIGHTS.iter().enumerate() {
        let folder = root.join(format!("adapter{i}"));
        write_adapter(&folder, 16, 100 + i as u64)?;
        bytes += std::fs::metadata(folder.join(WEIGHTS_FILE))?.len();
        terms.push(AdapterTerm { name: format!("a{i}"), weight: *weight, folder });
    }
    let out = root.join("out-adapter");
    std::fs::create_dir_all(&out)?;
    for (name, rank) in [("exact", None), ("to rank 16", Some(16))] {
        let start = Instant::now();
        let report =
            merge_adapters(&terms, rank, None, OutFolder { disk: &SystemDisk, path: &out }, &Unwatched)?;
        let seconds = start.elapsed().as_secs_f64();
        println!(
            "adapters {name:<11} {seconds:>5.3} s  {:>6.2} GB/s  error {:.3}  peak {} MB",
            bytes as f64 / seconds / 1e9,
            report.error,
            peak_memory()
        );
    }
    Ok(())
}

/// SmolLM-135M: 30 layers of width 576, 9 heads, 3 for keys and values, embedding shared.
fn shapes() -> Vec<(String, Vec<usize>)> {
    let mut all = vec![("model.embed_tokens.weight".to_owned(), vec![49152, 576])];
    for l in 0..30 {
        for (name, rows, cols) in linears() {
            all.push((format!("model.layers.{l}.{name}.weight"), vec![rows, cols]));
        }
        for norm in ["input_layernorm", "post_attention_layernorm"] {
            all.push((format!("model.layers.{l}.{norm}.weight"), vec![576]));
        }
    }
    all.push(("model.norm.weight".to_owned(), vec![576]));
    all
}

fn linears() -> [(&'static str, usize, usize); 7] {
    [
        ("self_attn.q_proj", 576, 576),
        ("self_attn.k_proj", 192, 576),
        ("self_attn.v_proj", 192, 576),
        ("self_attn.o_proj", 576, 576),
        ("mlp.gate_proj", 1536, 576),
        ("mlp.up_proj", 1536, 576),
        ("mlp.down_proj", 576, 1536),
    ]
}

fn write_model(folder: &Path, seed: u64) -> Result<(), Problem> {
    std::fs::create_dir_all(folder)?;
    std::fs::write(folder.join("config.json"), json!({"tie_word_embeddings": true}).to_string())?;
    let entries: Vec<_> = shapes().into_iter().map(|(n, s)| (n, "BF16", s)).collect();
    // The base's numbers, and small steps away from them for the models.
    let (mut base, mut step) = (ChaCha8Rng::seed_from_u64(0), ChaCha8Rng::seed_from_u64(seed));
    let number = move || {
        let b = base.random_range(-0.05f32..0.05);
        let x = if seed == 0 { b } else { b + step.random_range(-0.005f32..0.005) };
        ((x.to_bits() + 0x8000) >> 16) as u16
    };
    let mut number = number;
    write_safetensors(&folder.join("model.safetensors"), &entries, || number().to_le_bytes().to_vec())
}

fn write_adapter(folder: &Path, rank: usize, seed: u64) -> Result<(), Problem> {
    std::fs::create_dir_all(folder)?;
    let names: Vec<_> = linears().iter().map(|(n, ..)| n.rsplit('.').next()).collect();
    let config = json!({"peft_type": "LORA", "r": rank, "lora_alpha": 32, "target_modules": names});
    std::fs::write(folder.join(CONFIG_FILE), config.to_string())?;
    let mut entries = Vec::new();
    for l in 0..30 {
        for (name, rows, cols) in linears() {
            let module = format!("base_model.model.model.layers.{l}.{name}");
            entries.push((format!("{module}.lora_A.weight"), "F32", vec![rank, cols]));
            entries.push((format!("{module}.lora_B.weight"), "F32", vec![rows, rank]));
        }
    }
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut number = move || rng.random_range(-0.05f32..0.05).to_le_bytes().to_vec();
    write_safetensors(&folder.join(WEIGHTS_FILE), &entries, &mut number)
}

/// Writes number after number, so that making the input does not show in the peak memory.
fn write_safetensors(
    path: &Path,
    entries: &[(String, &str, Vec<usize>)],
    mut number: impl FnMut() -> Vec<u8>,
) -> Result<(), Problem> {
    let mut header = serde_json::Map::new();
    let (mut at, mut total) = (0, 0);
    for (name, dtype, shape) in entries {
        let numel: usize = shape.iter().product();
        let end = at + numel * if *dtype == "BF16" { 2 } else { 4 };
        header.insert(name.clone(), json!({"dtype": dtype, "shape": shape, "data_offsets": [at, end]}));
        (at, total) = (end, total + numel);
    }
    let header = serde_json::to_string(&header)?;
    let mut file = BufWriter::with_capacity(1 << 20, File::create(path)?);
    file.write_all(&(header.len() as u64).to_le_bytes())?;
    file.write_all(header.as_bytes())?;
    for _ in 0..total {
        file.write_all(&number())?;
    }
    Ok(file.flush()?)
}

/// Peak resident memory of this process in MB, where the system tells.
fn peak_memory() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"));
    let kb = line.and_then(|l| l.trim().split(' ').next()?.parse::<u64>().ok());
    kb.map_or_else(|| "unknown".into(), |kb| (kb / 1000).to_string())
}
