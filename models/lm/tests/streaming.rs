//! A memory limit that is kept: weights larger than it are streamed from their file.

#![allow(clippy::unwrap_used, reason = "clippy counts the helpers of a test as no test")]

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use headstart_kernels::STREAMED;
use headstart_lm::{Batch, Limits, Model, Net, Targets};
use safetensors::{Dtype, tensor::TensorView};

/// A model whose weights take 134 MB in bf16.
fn write_model(folder: &Path) -> u64 {
    let (h, ffn, layers, vocab) = (1024, 4096, 4, 1000);
    let config = serde_json::json!({"model_type": "llama", "hidden_size": h, "intermediate_size": ffn,
        "num_hidden_layers": layers, "num_attention_heads": 16, "vocab_size": vocab,
        "tie_word_embeddings": true, "eos_token_id": 2});
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
    let mut shapes = vec![("model.embed_tokens".to_owned(), vec![vocab, h]), ("model.norm".into(), vec![h])];
    for i in 0..layers {
        let names = ["q", "k", "v", "o"].map(|p| (format!("self_attn.{p}_proj"), vec![h, h]));
        let wide = ["gate", "up"].map(|p| (format!("mlp.{p}_proj"), vec![ffn, h]));
        let rest = [("mlp.down_proj".to_owned(), vec![h, ffn])];
        let norms = ["input_layernorm", "post_attention_layernorm"].map(|n| (n.to_owned(), vec![h]));
        let all = names.into_iter().chain(wide).chain(rest).chain(norms);
        shapes.extend(all.map(|(name, shape)| (format!("model.layers.{i}.{name}"), shape)));
    }
    let bytes = |n: usize, matrix: bool| -> Vec<u8> {
        let number = |i: usize| if matrix { (i % 61) as f32 / 1000.0 - 0.03 } else { 1.0 };
        (0..n).flat_map(|i| half::bf16::from_f32(number(i)).to_le_bytes()).collect()
    };
    let all: Vec<_> = shapes
        .into_iter()
        .map(|(name, shape)| {
            let data = bytes(shape.iter().product(), shape.len() > 1);
            (format!("{name}.weight"), shape, data)
        })
        .collect();
    let views = all.iter().map(|(n, s, d)| (n, TensorView::new(Dtype::BF16, s.clone(), d).unwrap()));
    let path = folder.join("model.safetensors");
    safetensors::serialize_to_file(views, None, &path).unwrap();
    std::fs::metadata(path).unwrap().len()
}

/// Bytes of mapped files that this process has in memory.
#[cfg(target_os = "linux")]
fn mapped() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|l| l.starts_with("RssFile:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

/// The most that is mapped while `work` runs, beyond what was before.
#[cfg(target_os = "linux")]
fn most_mapped<T>(work: impl FnOnce() -> T) -> (u64, T) {
    let (before, done) = (mapped(), AtomicBool::new(false));
    std::thread::scope(|s| {
        let watch = s.spawn(|| {
            let mut most = 0;
            while !done.load(Ordering::Relaxed) {
                most = most.max(mapped());
                std::thread::sleep(std::time::Duration::from_micros(300));
            }
            most
        });
        let result = work();
        done.store(true, Ordering::Relaxed);
        (watch.join().unwrap().saturating_sub(before), result)
    })
}

#[test]
#[cfg(target_os = "linux")]
fn a_pass_over_a_model_larger_than_the_limit_keeps_it() {
    let folder = tempfile::tempdir().unwrap();
    let size = write_model(folder.path());
    let batch = Batch::pack([(0..40).collect::<Vec<u32>>().as_slice()]);
    let targets = Targets { rows: (0..39).collect(), ids: (1..40).collect() };
    let run = |limit: Option<u64>| {
        let model = Model::load(folder.path()).unwrap();
        Limits::fit(&model, limit).unwrap();
        most_mapped(|| Net::new(&model).losses(&batch, &targets))
    };
    let limit = 120 << 20;
    assert!(size > limit);
    let (streamed, losses) = run(Some(limit));
    assert!(streamed <= 2 * STREAMED as u64, "{streamed} bytes of the file were in memory at once");
    let (whole, expected) = run(None);
    assert!(whole > size / 10 * 9, "without a limit the file stays in memory: {whole} of {size}");
    assert_eq!(losses, expected, "the same results");
    let model = Model::load(folder.path()).unwrap();
    let e = Limits::fit(&model, Some(50 << 20)).unwrap_err().to_string();
    assert!(e.contains("MiB; the limit is 50 MiB"), "{e}");
}
