//! Quantized weights: written, read back and run.

#![allow(clippy::unwrap_used, reason = "clippy counts the helpers of a test as no test")]

mod quantized;

use candle_core::quantized::gguf_file::Content;
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};
use headstart_kernels::QuantizedBlocks;
use headstart_lm::gguf::{Gguf, QuantType, find};
use headstart_lm::{Batch, Model, Net, Sampling, StoredType, Unwatched, Weights, generate};
use quantized::{batch, close, fixtures, models, noise, pair, wide_model};

fn logits(net: &Net, batch: &Batch) -> Vec<f32> {
    let all: Vec<usize> = (0..batch.tokens()).collect();
    net.logits(&net.normed(&net.hidden(batch, |_, _| {}), &all))
}

/// candle's own reading of the same blocks is the reference.
#[test]
fn blocks_are_read_as_candle_reads_them() {
    let numbers = noise(4 * 512, 8);
    let plain = Tensor::from_slice(&numbers, (4, 512), &Device::Cpu).unwrap();
    for (quant, dtype) in [
        (QuantType::Q8_0, GgmlDType::Q8_0),
        (QuantType::Q4_0, GgmlDType::Q4_0),
        (QuantType::Q4_1, GgmlDType::Q4_1),
        (QuantType::Q5_0, GgmlDType::Q5_0),
        (QuantType::Q5_1, GgmlDType::Q5_1),
        (QuantType::Q4K, GgmlDType::Q4K),
        (QuantType::Q5K, GgmlDType::Q5K),
        (QuantType::Q6K, GgmlDType::Q6K),
    ] {
        let quantized = QTensor::quantize(&plain, dtype).unwrap();
        let blocks = quantized.data().unwrap();
        assert_eq!(blocks.len(), numbers.len() / quant.block() * quant.bytes());
        let expected = quantized.dequantize(&Device::Cpu).unwrap().flatten_all().unwrap();
        let mut found = vec![0.0; numbers.len()];
        QuantizedBlocks { quant, blocks: &blocks }.decode(0, &mut found);
        for (i, (f, e)) in found.iter().zip(expected.to_vec1::<f32>().unwrap()).enumerate() {
            assert!((f - e).abs() < 1e-6, "{}, number {i}: {f}, expected {e}", quant.name());
        }
    }
}

#[test]
fn logits_are_those_of_the_dequantized_weights_and_near_the_originals() {
    let (_own, all) = models();
    for (model, to) in all {
        let what = format!("{} in {}", model.display(), to.name());
        let pair = pair(&model, to);
        let batch = batch(pair.packed.config.vocab);
        let packed = logits(&Net::new(&pair.packed), &batch);
        close(&what, &packed, &logits(&Net::new(&pair.plain), &batch), 1e-5);
        let original = Model::load(&model).unwrap();
        let share = if to == QuantType::Q8_0 { 0.03 } else { 0.3 };
        close(&what, &packed, &logits(&Net::new(&original), &batch), share);
    }
}

/// candle's own reading of the file says where each row lies: llama.cpp's order of queries and keys
/// for type llama, the published one for all else.
#[test]
fn rows_lie_where_llama_cpp_has_them() {
    for model in fixtures() {
        let pair = pair(&model, QuantType::Q8_0);
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

/// Generation multiplies quantized weights in 8 bits: near the exact logits, and an answer does not
/// depend on its company.
#[test]
fn answers_in_eight_bits_are_near_the_exact_ones_and_do_not_depend_on_their_company() {
    let (_own, all) = models();
    for (model, to) in all {
        let pair = pair(&model, to);
        let net = Net::new(&pair.packed);
        let batch = batch(pair.packed.config.vocab);
        let hidden = net.hidden_rounded(&batch, |_, _| {});
        let normed = net.normed(&hidden, &(0..batch.tokens()).collect::<Vec<_>>());
        let mut rounded = vec![0.0; batch.tokens() * pair.packed.config.vocab];
        net.logits_into(&mut rounded, &normed, true);
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
    let pair = pair(own.path(), QuantType::Q4K);
    assert_eq!(pair.packed.embed.stored(), StoredType::Quantized(QuantType::Q6K));
    let stored: Vec<StoredType> = pair.packed.blocks[0].linear.iter().map(|l| l.weight.stored()).collect();
    assert_eq!(stored, [StoredType::Quantized(QuantType::Q4K); 7]);
    let numbers = 2 * (256 * (256 * 2 + 64 * 2) + 3 * 256 * 512) as u64;
    assert_eq!(pair.packed.footprint(), numbers / 256 * 144 + 90 * 210);
}

#[test]
fn broken_files_say_what_is_wrong() {
    let own = tempfile::tempdir().unwrap();
    wide_model(own.path());
    let pair = pair(own.path(), QuantType::Q8_0);
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

/// Numbers in the file that lead out of it, or over the end of what a number can be.
#[test]
fn a_tensor_that_does_not_lie_in_the_file_is_refused() {
    let own = tempfile::tempdir().unwrap();
    wide_model(own.path());
    let pair = pair(own.path(), QuantType::Q8_0);
    let whole = std::fs::read(&pair.file).unwrap();
    let name = b"token_embd.weight";
    let at = whole.windows(name.len()).position(|w| w == name).unwrap() + name.len();
    // Behind a name: how many dimensions (2), each of them, the type, the offset.
    let (rows, offset) = (at + 4 + 8, at + 4 + 16 + 4);
    for (place, number) in
        [(offset, u64::MAX), (offset, u64::MAX - 64), (rows, 1 << 60), (rows, u64::MAX / 2)]
    {
        let mut bytes = whole.clone();
        bytes[place..place + 8].copy_from_slice(&number.to_le_bytes());
        let path = own.path().join("damaged.gguf");
        std::fs::write(&path, bytes).unwrap();
        let e = Gguf::open(&path).and_then(|g| g.weights()).err().unwrap().to_string();
        assert!(e.contains("damaged.gguf"), "{number}: {e}");
    }
}
