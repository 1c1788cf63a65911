//! Measures training and answering: seconds a step and tokens a second, on random weights and rows.
//!
//! `cargo run --release -p headstart-lm --example speed -- [tiny|smollm] [full|lora|generate] [rows] [tokens] [steps] [MiB]`

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use headstart_lm::api::{LoraSpec, Method, TrainSpec, Unwatched, Watch};
use headstart_lm::generate::{Sampling, generate};
use headstart_lm::model::Model;
use headstart_lm::net::{Net, Overlay};
use headstart_lm::rows::Example;
use headstart_lm::train::memory;
use headstart_lm::train::target::Target;
use headstart_lm::train::train_examples;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use safetensors::{Dtype, tensor::TensorView};

/// Prints each step's time.
struct Clock {
    start: Instant,
    times: std::sync::Mutex<Vec<(f64, f64)>>,
}

/// Seconds of all processors that this process has used: on a busy machine the better measure.
fn processor_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<f64> = stat.split(' ').skip(13).take(2).filter_map(|f| f.parse().ok()).collect();
    fields.iter().sum::<f64>() / 100.0
}

impl Watch for Clock {
    fn count(&self, counter: &'static str, _: u64) {
        if counter == "steps" {
            self.times
                .lock()
                .expect("no panic")
                .push((self.start.elapsed().as_secs_f64(), processor_seconds()));
        }
    }
}

fn write_model(folder: &Path, smollm: bool) {
    let (hidden, ffn, layers, heads, kv, vocab) =
        if smollm { (576, 1536, 30, 9, 3, 49152) } else { (256, 704, 6, 8, 4, 4096) };
    let config = serde_json::json!({"model_type": "llama", "hidden_size": hidden, "intermediate_size": ffn,
        "num_hidden_layers": layers, "num_attention_heads": heads, "num_key_value_heads": kv,
        "vocab_size": vocab, "rms_norm_eps": 1e-5, "tie_word_embeddings": true, "max_position_embeddings": 2048});
    std::fs::write(folder.join("config.json"), config.to_string()).expect("a writable folder");
    let d = hidden / heads;
    let mut shapes = vec![("model.embed_tokens.weight".to_owned(), vec![vocab, hidden])];
    shapes.push(("model.norm.weight".into(), vec![hidden]));
    for i in 0..layers {
        let mut add = |name: &str, shape: &[usize]| {
            shapes.push((format!("model.layers.{i}.{name}.weight"), shape.to_vec()));
        };
        add("input_layernorm", &[hidden]);
        add("post_attention_layernorm", &[hidden]);
        add("self_attn.q_proj", &[heads * d, hidden]);
        add("self_attn.k_proj", &[kv * d, hidden]);
        add("self_attn.v_proj", &[kv * d, hidden]);
        add("self_attn.o_proj", &[hidden, heads * d]);
        add("mlp.gate_proj", &[ffn, hidden]);
        add("mlp.up_proj", &[ffn, hidden]);
        add("mlp.down_proj", &[hidden, ffn]);
    }
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let data: Vec<Vec<u8>> = shapes
        .iter()
        .map(|(_, shape)| {
            let n: usize = shape.iter().product();
            let mut number = |_| if shape.len() == 1 { 1.0 } else { rng.random_range(-0.035f32..0.035) };
            (0..n).flat_map(|i| half::bf16::from_f32(number(i)).to_le_bytes()).collect()
        })
        .collect();
    let views = shapes.iter().zip(&data).map(|((name, shape), data)| {
        (name, TensorView::new(Dtype::BF16, shape.clone(), data).expect("sizes fit"))
    });
    safetensors::serialize_to_file(views, None, &folder.join("model.safetensors"))
        .expect("a writable folder");
}

/// Greedy answers of `steps` tokens to `rows` prompts of `tokens` tokens.
fn answer(net: &Net, rows: usize, tokens: usize, steps: usize) {
    let vocab = net.model.config.vocab;
    let prompts: Vec<Vec<u32>> =
        (0..rows).map(|r| (0..tokens).map(|t| ((r * 31 + t * 17) % vocab) as u32).collect()).collect();
    let sampling = Sampling { max_tokens: steps, temperature: 0.0, seed: 0, eos: &[] };
    for _ in 0..3 {
        let (start, busy) = (Instant::now(), processor_seconds());
        let answers = generate(net, &prompts, &sampling, &Unwatched).expect("it answers");
        let (made, s) = (answers.iter().map(Vec::len).sum::<usize>(), start.elapsed().as_secs_f64());
        let busy = processor_seconds() - busy;
        println!("{made} tokens in {s:.3} s, {busy:.2} processor seconds: {:.0} tokens/s", made as f64 / s);
    }
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let word = |i: usize, default: &str| args.get(i).map_or(default, String::as_str).to_owned();
    let number = |i: usize, default: usize| args.get(i).map_or(default, |a| a.parse().expect("a number"));
    let (smollm, full) = (word(0, "tiny") == "smollm", word(1, "full") == "full");
    let (rows, tokens, steps) = (number(2, 16), number(3, 96), number(4, 10));
    let folder = tempfile::tempdir().expect("a temporary folder");
    write_model(folder.path(), smollm);
    let model = Arc::new(Model::load(folder.path()).expect("the model just written"));
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    let vocab = model.config.vocab as u32;
    let mut example = || {
        let ids = (0..tokens).map(|_| rng.random_range(0..vocab)).collect();
        Example { ids, answers: std::iter::once(1..tokens).collect(), cut: false }
    };
    if word(1, "full") == "generate" {
        return answer(&Net::new(model, Overlay::None), rows, tokens, steps);
    }
    let data: Vec<Example> = (0..rows * 4).map(|_| example()).collect();
    let targets = vec!["q_proj".to_owned(), "v_proj".to_owned()];
    let spec = TrainSpec {
        model: folder.path().into(),
        adapter: None,
        method: if full {
            Method::Full
        } else {
            Method::Lora(LoraSpec { rank: 8, alpha: 16.0, rslora: false, targets })
        },
        data: Vec::new(),
        eval: Vec::new(),
        until: None,
        patience: None,
        learning_rate: 1e-3,
        weight_decay: None,
        clip: Some(1.0),
        dropout: 0.0,
        batch: rows,
        max_steps: steps,
        warmup: 2,
        cosine: true,
        eval_every: steps,
        max_tokens: tokens,
        seed: 1,
        memory: args.get(5).map(|a| a.parse::<u64>().expect("a number") << 20),
        resume: None,
        out: folder.path().join("out"),
    };
    let target = Target::new(&spec, model.clone(), None).expect("the model just written");
    let plan = memory::plan(&spec, &target, &data, &data[..1]).expect("enough memory");
    println!("planned: {} MiB, micro-batches of {} tokens", plan.bytes >> 20, plan.tokens);
    drop(target);
    let watch = Clock { start: Instant::now(), times: std::sync::Mutex::default() };
    let report = train_examples(&spec, model, &data, &data[..1], &watch).expect("it trains");
    let times = watch.times.into_inner().expect("no panic");
    let mut each: Vec<f64> = times.windows(2).map(|w| w[1].0 - w[0].0).collect();
    each.sort_by(f64::total_cmp);
    let (first, last) = (times[0], times[times.len() - 1]);
    let processor = (last.1 - first.1) / (times.len() - 1) as f64;
    let median = each[each.len() / 2];
    let peak = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = peak.lines().find(|l| l.starts_with("VmHWM")).unwrap_or("").to_owned();
    println!(
        "{} rows x {tokens}: median {median:.4} s a step, best {:.4}, {processor:.3} processor seconds, {:.0} tokens/s, loss {:.4} to {:.4}, {peak}",
        rows,
        each[0],
        (rows * tokens) as f64 / median,
        report.start_loss,
        report.train_loss
    );
}
