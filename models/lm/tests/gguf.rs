//! Quantized weights: written, read back, run, and trained over.

#![allow(clippy::unwrap_used, reason = "clippy counts the helpers of a test as no test")]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::Device;
use candle_core::quantized::gguf_file::Content;
use headstart_lm::api::{LoraSpec, Unwatched};
use headstart_lm::block::Batch;
use headstart_lm::generate::{Sampling, generate};
use headstart_lm::gguf::{Gguf, find, quantize};
use headstart_lm::kernels::quant::Packing;
use headstart_lm::lora::Adapter;
use headstart_lm::model::Model;
use headstart_lm::net::{Net, Overlay};
use headstart_lm::ops::block::Keep;
use headstart_lm::ops::loss::Targets;
use headstart_lm::weights::{Stored, Weights};
use safetensors::{Dtype, tensor::TensorView};

fn fixtures() -> Vec<PathBuf> {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/parity");
    let mut all: Vec<PathBuf> =
        std::fs::read_dir(own).unwrap().map(|e| e.unwrap().path().join("model")).collect();
    all.sort();
    all
}

/// Numbers in ±0.1 from their place.
fn noise(n: usize, seed: u32) -> Vec<f32> {
    let mut s = seed.wrapping_mul(2_654_435_761).wrapping_add(99);
    let step = |_| {
        s = s.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        ((s >> 8) as f32 / (1 << 23) as f32 - 1.0) * 0.1
    };
    (0..n).map(step).collect()
}

/// A model wide enough for blocks of 256 numbers.
fn wide_model(folder: &Path) {
    let (h, ffn, kv, vocab) = (256, 512, 64, 90);
    let config = serde_json::json!({"model_type": "llama", "hidden_size": h, "intermediate_size": ffn,
        "num_hidden_layers": 2, "num_attention_heads": 8, "num_key_value_heads": 2, "vocab_size": vocab,
        "tie_word_embeddings": true, "eos_token_id": 2});
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
    let mut shapes = vec![("model.embed_tokens".to_owned(), vec![vocab, h]), ("model.norm".into(), vec![h])];
    for i in 0..2 {
        let parts: [(&str, Vec<usize>); 9] = [
            ("input_layernorm", vec![h]),
            ("post_attention_layernorm", vec![h]),
            ("self_attn.q_proj", vec![h, h]),
            ("self_attn.k_proj", vec![kv, h]),
            ("self_attn.v_proj", vec![kv, h]),
            ("self_attn.o_proj", vec![h, h]),
            ("mlp.gate_proj", vec![ffn, h]),
            ("mlp.up_proj", vec![ffn, h]),
            ("mlp.down_proj", vec![h, ffn]),
        ];
        shapes.extend(parts.map(|(name, shape)| (format!("model.layers.{i}.{name}"), shape)));
    }
    write(
        folder,
        shapes.iter().enumerate().map(|(seed, (name, shape))| {
            let n = shape.iter().product();
            let numbers = if shape.len() == 1 { vec![1.0; n] } else { noise(n, seed as u32) };
            (format!("{name}.weight"), shape.clone(), numbers)
        }),
    );
}

fn write(folder: &Path, tensors: impl Iterator<Item = (String, Vec<usize>, Vec<f32>)>) {
    let all: Vec<(String, Vec<usize>, Vec<u8>)> = tensors
        .map(|(name, shape, numbers)| (name, shape, numbers.iter().flat_map(|v| v.to_le_bytes()).collect()))
        .collect();
    let views = all.iter().map(|(n, s, b)| (n, TensorView::new(Dtype::F32, s.clone(), b).unwrap()));
    safetensors::serialize_to_file(views, None, &folder.join("model.safetensors")).unwrap();
}

/// The model of a folder quantized, and the same model with the quantized weights as f32.
struct Pair {
    _folders: tempfile::TempDir,
    packed: Arc<Model>,
    plain: Arc<Model>,
    file: PathBuf,
}

fn pair(model: &Path, to: Packing) -> Pair {
    let folders = tempfile::tempdir().unwrap();
    let (out, plain) = (folders.path().join("packed"), folders.path().join("plain"));
    quantize(model, &out, to).unwrap();
    std::fs::create_dir(&plain).unwrap();
    std::fs::copy(out.join("config.json"), plain.join("config.json")).unwrap();
    let file = find(&out).unwrap().unwrap();
    let weights = Weights::open_model(&out).unwrap();
    write(&plain, weights.iter().map(|(name, w)| (name.to_owned(), w.shape.clone(), w.to_vec())));
    let load = |p: &Path| Arc::new(Model::load(p).unwrap());
    Pair { packed: load(&out), plain: load(&plain), file, _folders: folders }
}

fn batch(vocab: usize) -> Arc<Batch> {
    let rows: Vec<Vec<u32>> =
        [9, 14, 1].iter().map(|n| (0..*n).map(|i| ((i * 31 + n) % vocab) as u32).collect()).collect();
    Arc::new(Batch::pack(rows.iter().map(Vec::as_slice)))
}

fn logits(net: &Net, batch: &Arc<Batch>) -> Vec<f32> {
    let all: Vec<usize> = (0..batch.tokens()).collect();
    net.logits(&net.normed(&net.hidden(batch, |_, _| {}).unwrap(), &all).unwrap()).unwrap()
}

fn close(what: &str, found: &[f32], expected: &[f32], share: f32) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let largest = expected.iter().fold(1e-6f32, |m, v| m.max(v.abs()));
    for (i, (f, e)) in found.iter().zip(expected).enumerate() {
        assert!((f - e).abs() <= share * largest, "{what}[{i}]: {f}, expected {e}, largest {largest}");
    }
}

fn models() -> (tempfile::TempDir, Vec<(PathBuf, Packing)>) {
    let own = tempfile::tempdir().unwrap();
    wide_model(own.path());
    let mut all: Vec<_> = fixtures().into_iter().map(|m| (m, Packing::Q8_0)).collect();
    all.extend([Packing::Q8_0, Packing::Q4K].map(|to| (own.path().to_owned(), to)));
    (own, all)
}

#[test]
fn logits_are_those_of_the_dequantized_weights_and_near_the_originals() {
    let (_own, all) = models();
    for (model, to) in all {
        let what = format!("{} in {}", model.display(), to.name());
        let pair = pair(&model, to);
        let batch = batch(pair.packed.config.vocab);
        let packed = logits(&Net::new(pair.packed.clone(), Overlay::None), &batch);
        close(&what, &packed, &logits(&Net::new(pair.plain.clone(), Overlay::None), &batch), 1e-5);
        let original = Arc::new(Model::load(&model).unwrap());
        let share = if to == Packing::Q8_0 { 0.03 } else { 0.3 };
        close(&what, &packed, &logits(&Net::new(original, Overlay::None), &batch), share);
    }
}

/// candle's own reading of the file says where each row lies: llama.cpp's order of queries and keys
/// for type llama, the published one for all else.
#[test]
fn rows_lie_where_llama_cpp_has_them() {
    for model in fixtures() {
        let pair = pair(&model, Packing::Q8_0);
        let c = &pair.packed.config;
        let mut file = std::fs::File::open(&pair.file).unwrap();
        let content = Content::read(&mut file).unwrap();
        let original = Weights::open_model(&model).unwrap();
        for (ours, published, turned) in [
            ("blk.1.attn_q.weight", "model.layers.1.self_attn.q_proj.weight", true),
            ("blk.0.attn_k.weight", "model.layers.0.self_attn.k_proj.weight", true),
            ("blk.0.attn_v.weight", "model.layers.0.self_attn.v_proj.weight", false),
        ] {
            let stored = content.tensor(&mut file, ours, &Device::Cpu).unwrap();
            let stored = stored.dequantize(&Device::Cpu).unwrap().to_vec2::<f32>().unwrap();
            let cols = stored[0].len();
            let (_, weight) = original.iter().find(|(n, _)| *n == published).unwrap();
            let numbers = weight.to_vec();
            for (at, row) in stored.iter().enumerate() {
                // reshape(heads, 2, d / 2, …).swapaxes(1, 2): place 2 j + t of a head is row t d / 2 + j.
                let (head, within) = (at / c.head_dim, at % c.head_dim);
                let from = match turned && c.model_type == "llama" {
                    true => head * c.head_dim + within % 2 * c.head_dim / 2 + within / 2,
                    false => at,
                };
                close(ours, row, &numbers[from * cols..(from + 1) * cols], 0.01);
            }
        }
    }
}

#[test]
fn gradients_over_a_quantized_base_are_those_over_its_dequantized_weights() {
    let (_own, all) = models();
    for (model, to) in all {
        let pair = pair(&model, to);
        let targets = ["q_proj", "v_proj", "down_proj"].map(str::to_owned).to_vec();
        let spec = LoraSpec { rank: 4, alpha: 8.0, rslora: false, targets };
        let mut adapter = Adapter::fresh(&spec, &pair.packed.config, 3).unwrap();
        adapter.values.iter_mut().enumerate().for_each(|(i, v)| *v = noise(v.len(), i as u32));
        let batch = batch(pair.packed.config.vocab);
        let rows: Vec<usize> = (0..8).chain(9..22).collect();
        let ids = rows.iter().map(|r| batch.ids[r + 1]).collect();
        let targets = Arc::new(Targets { rows, ids });
        let run = |model: &Arc<Model>| {
            let net = Net::new(model.clone(), adapter.overlay(&Device::Cpu).unwrap());
            let loss = net.loss(&batch, &targets, 0.05, Keep::Input).unwrap();
            let grads = loss.backward().unwrap();
            let all =
                net.parameters().into_iter().map(|(.., var)| grads.get(&var).unwrap().to_vec1().unwrap());
            all.collect::<Vec<Vec<f32>>>()
        };
        for (packed, plain) in run(&pair.packed).iter().zip(&run(&pair.plain)) {
            assert!(plain.iter().any(|v| *v != 0.0));
            close("gradient", packed, plain, 1e-4);
        }
    }
}

/// Generation multiplies quantized weights in 8 bits: near the exact logits, and an answer does not
/// depend on its company.
#[test]
fn answers_in_eight_bits_are_near_the_exact_ones_and_do_not_depend_on_their_company() {
    let (_own, all) = models();
    for (model, to) in all {
        let pair = pair(&model, to);
        let net = Net::new(pair.packed.clone(), Overlay::None);
        let batch = batch(pair.packed.config.vocab);
        let hidden = net.hidden_rounded(&batch, |_, _| {}).unwrap();
        let normed = net.normed(&hidden, &(0..batch.tokens()).collect::<Vec<_>>()).unwrap();
        let mut rounded = vec![0.0; batch.tokens() * pair.packed.config.vocab];
        net.logits_into(&mut rounded, &normed, true).unwrap();
        close("rounded logits", &rounded, &logits(&net, &batch), 0.05);
        let prompts: Vec<Vec<u32>> = batch.sequences.iter().map(|s| batch.ids[s.clone()].to_vec()).collect();
        let sampling = Sampling { max_tokens: 10, temperature: 0.0, seed: 0, eos: &[] };
        let together = generate(&net, &prompts, &sampling, &Unwatched).unwrap();
        for (prompt, answer) in prompts.iter().zip(&together) {
            let alone = generate(&net, std::slice::from_ref(prompt), &sampling, &Unwatched).unwrap();
            assert_eq!(alone[0], *answer);
        }
    }
}

#[test]
fn sizes_are_those_of_the_blocks() {
    let own = tempfile::tempdir().unwrap();
    wide_model(own.path());
    let pair = pair(own.path(), Packing::Q4K);
    assert_eq!(pair.packed.embed.stored(), Stored::Packed(Packing::Q6K));
    let stored: Vec<Stored> = pair.packed.blocks[0].linear.iter().map(|l| l.weight.stored()).collect();
    assert_eq!(stored, [Stored::Packed(Packing::Q4K); 7]);
    let numbers = 2 * (256 * (256 * 2 + 64 * 2) + 3 * 256 * 512) as u64;
    assert_eq!(pair.packed.footprint(), numbers / 256 * 144 + 90 * 210);
}

#[test]
fn broken_files_say_what_is_wrong() {
    let own = tempfile::tempdir().unwrap();
    wide_model(own.path());
    let pair = pair(own.path(), Packing::Q8_0);
    let whole = std::fs::read(&pair.file).unwrap();
    let path = own.path().join("model.gguf");
    for (bytes, expected) in
        [(&whole[..whole.len() / 2], "cut short"), (b"not this" as &[u8], "cannot be read as GGUF")]
    {
        std::fs::write(&path, bytes).unwrap();
        let e = Gguf::open(&path).and_then(|g| g.weights()).err().unwrap().to_string();
        assert!(e.contains(expected) && e.contains("model.gguf"), "{e}");
    }
    std::fs::remove_file(own.path().join("model.safetensors")).unwrap();
    std::fs::write(own.path().join("other.gguf"), &whole).unwrap();
    assert!(find(own.path()).unwrap_err().to_string().contains("several GGUF files"));
}
