//! The forms in which models are published: stored types, shards, both spellings of the rotary
//! keys, tied and untied output layers. All say the same model, so they must give the same bits.

#![allow(clippy::unwrap_used, reason = "clippy counts the helpers of a test as no test")]

use std::path::{Path, PathBuf};

use half::{bf16, f16};
use headstart_lm::{Batch, Model, Net};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::{Value, json};

const FIXTURE: &str = "llama3-rope-untied";

/// A tensor of f32: name, shape, numbers.
type Tensor = (String, Vec<usize>, Vec<f32>);

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/parity").join(name).join("model")
}

fn tensors(name: &str) -> Vec<Tensor> {
    let bytes = std::fs::read(fixture(name).join("model.safetensors")).unwrap();
    let all = SafeTensors::deserialize(&bytes).unwrap();
    let numbers = |v: &TensorView| {
        v.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
    };
    let mut all: Vec<Tensor> =
        all.iter().map(|(name, v)| (name.to_owned(), v.shape().to_vec(), numbers(&v))).collect();
    all.sort_by(|a, b| a.0.cmp(&b.0));
    all
}

fn config(name: &str) -> Value {
    serde_json::from_slice(&std::fs::read(fixture(name).join("config.json")).unwrap()).unwrap()
}

fn encode(numbers: &[f32], dtype: Dtype) -> Vec<u8> {
    let each = numbers.iter();
    match dtype {
        Dtype::F16 => each.flat_map(|v| f16::from_f32(*v).to_le_bytes()).collect(),
        Dtype::BF16 => each.flat_map(|v| bf16::from_f32(*v).to_le_bytes()).collect(),
        _ => each.flat_map(|v| v.to_le_bytes()).collect(),
    }
}

/// Rounds numbers to a stored type.
fn rounded(tensors: &[Tensor], dtype: Dtype) -> Vec<Tensor> {
    let round = |v: &f32| match dtype {
        Dtype::F16 => f16::from_f32(*v).to_f32(),
        Dtype::BF16 => bf16::from_f32(*v).to_f32(),
        _ => *v,
    };
    tensors.iter().map(|(n, s, v)| (n.clone(), s.clone(), v.iter().map(round).collect())).collect()
}

/// Writes a model in so many shards, and loads it.
fn write(dir: &Path, config: &Value, tensors: &[Tensor], dtype: Dtype, shards: usize) {
    std::fs::create_dir_all(dir).unwrap();
    std::fs::write(dir.join("config.json"), config.to_string()).unwrap();
    let mut map = serde_json::Map::new();
    let size = tensors.len().div_ceil(shards);
    for (i, part) in tensors.chunks(size).enumerate() {
        let file = match shards {
            1 => "model.safetensors".to_owned(),
            _ => format!("model-{:05}-of-{shards:05}.safetensors", i + 1),
        };
        let bytes: Vec<Vec<u8>> = part.iter().map(|(.., v)| encode(v, dtype)).collect();
        let views = part.iter().zip(&bytes).map(|((name, shape, _), bytes)| {
            map.insert(name.clone(), json!(file));
            (name.as_str(), TensorView::new(dtype, shape.clone(), bytes).unwrap())
        });
        let views: Vec<_> = views.collect();
        safetensors::serialize_to_file(views, None, &dir.join(&file)).unwrap();
    }
    if shards > 1 {
        let index = json!({"metadata": {"total_size": 0}, "weight_map": map});
        std::fs::write(dir.join("model.safetensors.index.json"), index.to_string()).unwrap();
    }
}

fn logits(dir: &Path) -> Vec<f32> {
    let model = Model::load(dir).unwrap();
    let net = Net::new(&model);
    let ids: Vec<u32> = (0..11).map(|i| (i * 37 + 3) % 160).collect();
    let batch = Batch::pack([ids.as_slice()]);
    let hidden = net.hidden(&batch, |_, _| {});
    net.logits(&net.normed(&hidden, &(0..11).collect::<Vec<_>>()))
}

#[test]
fn stored_types_and_shards_give_the_bits_of_their_numbers() {
    let dir = tempfile::tempdir().unwrap();
    let (all, config) = (tensors(FIXTURE), config(FIXTURE));
    for dtype in [Dtype::F32, Dtype::F16, Dtype::BF16] {
        let at = |what: &str| dir.path().join(format!("{dtype:?}-{what}"));
        write(&at("plain"), &config, &rounded(&all, dtype), Dtype::F32, 1);
        write(&at("stored"), &config, &all, dtype, 1);
        write(&at("sharded"), &config, &all, dtype, 3);
        let expected = logits(&at("plain"));
        assert!(logits(&at("stored")) == expected && logits(&at("sharded")) == expected, "{dtype:?}");
    }
}

#[test]
fn both_spellings_of_the_rotary_keys_give_the_same_bits() {
    let dir = tempfile::tempdir().unwrap();
    let (all, new) = (tensors(FIXTURE), config(FIXTURE));
    let mut old = new.clone();
    let mut scaling = old.as_object_mut().unwrap().remove("rope_parameters").unwrap();
    old["rope_theta"] = scaling.as_object_mut().unwrap().remove("rope_theta").unwrap();
    // As Llama 3.1 was first published.
    scaling["type"] = scaling.as_object_mut().unwrap().remove("rope_type").unwrap();
    old["rope_scaling"] = scaling;
    write(&dir.path().join("new"), &new, &all, Dtype::F32, 1);
    write(&dir.path().join("old"), &old, &all, Dtype::F32, 1);
    assert!(logits(&dir.path().join("new")) == logits(&dir.path().join("old")));
    old["rope_scaling"]["factor"] = json!(2.0);
    write(&dir.path().join("other"), &old, &all, Dtype::F32, 1);
    assert!(logits(&dir.path().join("new")) != logits(&dir.path().join("other")), "scaling matters");
}

#[test]
fn a_tied_output_layer_is_the_embedding_even_where_one_is_written_out() {
    let dir = tempfile::tempdir().unwrap();
    let (all, config) = (tensors("qwen2-tied"), config("qwen2-tied"));
    write(&dir.path().join("plain"), &config, &all, Dtype::F32, 1);
    let embed = all.iter().find(|t| t.0 == "model.embed_tokens.weight").unwrap().clone();
    let mut written = all.clone();
    written.push(("lm_head.weight".into(), embed.1, embed.2));
    write(&dir.path().join("written"), &config, &written, Dtype::F32, 1);
    assert!(logits(&dir.path().join("plain")) == logits(&dir.path().join("written")));
    let mut untied = config.clone();
    untied["tie_word_embeddings"] = json!(false);
    write(&dir.path().join("untied"), &untied, &all, Dtype::F32, 1);
    let e = Model::load(&dir.path().join("untied")).err().unwrap().to_string();
    assert!(e.contains("lm_head.weight"), "{e}");
}
