//! Products in bf16: near those in f32, the same in any company, and only where asked for.

#![allow(clippy::unwrap_used, reason = "clippy counts the helpers of a test as no test")]

mod quantized;

use half::bf16;
use headstart_kernels::isa;
use headstart_lm::{Batch, Model, Net, Precision, Sampling, Unwatched, Weights, generate};
use quantized::{batch, close, fixtures};
use safetensors::{Dtype, tensor::TensorView};

/// A model with its weights as bf16.
fn halved(model: &std::path::Path) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(model.join("config.json"), folder.path().join("config.json")).unwrap();
    let weights = Weights::open_model(model).unwrap();
    let bytes =
        |v: Vec<f32>| v.into_iter().flat_map(|v| bf16::from_f32(v).to_le_bytes()).collect::<Vec<u8>>();
    let all: Vec<_> = weights.iter().map(|(name, w)| (name, w.shape.clone(), bytes(w.to_vec()))).collect();
    let views = all.iter().map(|(n, s, b)| (*n, TensorView::new(Dtype::BF16, s.clone(), b).unwrap()));
    safetensors::serialize_to_file(views, None, &folder.path().join("model.safetensors")).unwrap();
    folder
}

fn logits(net: &Net, batch: &Batch) -> Vec<f32> {
    let all: Vec<usize> = (0..batch.tokens()).collect();
    net.logits(&net.normed(&net.hidden(batch, |_, _| {}), &all))
}

#[test]
fn logits_in_bf16_are_near_those_in_f32() {
    for model in fixtures() {
        let folder = halved(&model);
        let exact = Model::load(folder.path()).unwrap();
        let model = Model::load_in(folder.path(), Precision::Bf16).unwrap();
        let batch = batch(model.config.vocab);
        let (exact, found) = (logits(&Net::new(&exact), &batch), logits(&Net::new(&model), &batch));
        close("logits", &found, &exact, 0.02);
        assert_eq!(found != exact, isa::bf16(), "in bf16 where the processor has it");
        let first = Batch::pack([&batch.ids[batch.sequences[0].clone()]]);
        let alone = logits(&Net::new(&model), &first);
        assert_eq!(alone, found[..alone.len()], "a sequence alone has the same bits");
    }
}

#[test]
fn an_answer_in_bf16_does_not_depend_on_its_company() {
    for model in fixtures() {
        let folder = halved(&model);
        let model = Model::load_in(folder.path(), Precision::Bf16).unwrap();
        let net = Net::new(&model);
        let sampling = Sampling { max_tokens: 12, temperature: 0.7, seed: 5, eos: &[] };
        let prompts = [vec![3; 9], vec![7], vec![7, 8]];
        let all = generate(&net, &prompts, &sampling, &Unwatched).unwrap();
        let first = generate(&net, &prompts[..1], &sampling, &Unwatched).unwrap();
        assert_eq!(first[0], all[0]);
    }
}
