//! Models, spaces and pLLMs: what is taken in, and what is refused with which words.

#![allow(clippy::unwrap_used, reason = "clippy counts the helpers of a test as no test")]

use std::fs;
use std::path::{Path, PathBuf};

use headstart_ingest::{Ingest, Init, Local, Pooled, Sentence, Summarizer, snapshot};
use headstart_protocol::rows::Row;
use headstart_protocol::{ArtifactRef, Failure, FailureClass, Stage, Value};
use headstart_testkit::MemoryContext;
use safetensors::tensor::{Dtype, TensorView, serialize_to_file};
use serde_json::{Value as Json, json};

fn path(p: &Path) -> Value {
    Value::Path(p.display().to_string())
}

fn artifact(a: &ArtifactRef) -> Value {
    Value::Artifact(a.clone())
}

/// Runs `init` on a small corpus.
fn base(ctx: &MemoryContext) -> ArtifactRef {
    let config = json!({
        "model_type": "llama", "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 64,
        "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": true,
    });
    let config = ctx.write("tiny.json", config.to_string());
    let corpus = ctx.dataset(&[("What is rain?", "Falling water."), ("What is snow?", "Frozen rain.")]);
    let args = [("config", path(&config)), ("corpus", artifact(&corpus)), ("vocab", Value::Int(270))];
    ctx.run(&Init, args).unwrap()
}

/// A file as llama.cpp has it, nothing beside it.
#[test]
fn a_gguf_file_alone_is_taken_in_with_its_own_config_and_tokenizer() {
    use headstart_lm::gguf::{QuantType, quantize};
    use headstart_lm::{DecoderConfig, TextCodec};
    use headstart_protocol::Context;
    let ctx = MemoryContext::new();
    let whole = ctx.open(&base(&ctx)).unwrap();
    let (packed, alone) = (ctx.files().join("packed"), ctx.files().join("alone"));
    quantize(&headstart_disk::SystemDisk, &whole, &packed, QuantType::Q8_0).unwrap();
    fs::create_dir(&alone).unwrap();
    fs::copy(packed.join("model.gguf"), alone.join("a-model.Q8_0.gguf")).unwrap();
    let taken = ctx.open(&ctx.run(&Local, [("path", path(&alone))]).unwrap()).unwrap();
    let (a, b) = (DecoderConfig::load(&whole).unwrap(), DecoderConfig::load(&taken).unwrap());
    assert_eq!(format!("{a:?}"), format!("{b:?}"));
    let (a, b) = (TextCodec::load(&whole).unwrap(), TextCodec::load(&taken).unwrap());
    for text in ["What is snow?", "It's 25 °C,\n\nand  raining – <|end|> 日本", ""] {
        assert_eq!(a.text_ids(text).unwrap(), b.text_ids(text).unwrap(), "{text}");
        let row = Row::new(text, "Rain.");
        assert_eq!(a.row_ids(&row).unwrap(), b.row_ids(&row).unwrap(), "{text}");
    }
    assert_eq!(a.eos(), b.eos());
    headstart_lm::Model::load(&taken).unwrap();
}

/// A folder with the files of an artifact, to be changed by a test.
fn folder(ctx: &MemoryContext, model: &ArtifactRef, name: &str) -> PathBuf {
    use headstart_protocol::Context;
    let to = ctx.files().join(name);
    fs::create_dir(&to).unwrap();
    let from = ctx.open(model).unwrap();
    for name in ctx.manifest_of(model).files.keys() {
        fs::copy(from.join(name), to.join(name)).unwrap();
    }
    to
}

fn edit(path: &Path, change: impl FnOnce(&mut Json)) {
    let mut json: Json = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    change(&mut json);
    fs::write(path, json.to_string()).unwrap();
}

fn tensors(path: &Path, tensors: &[(&str, [usize; 2])]) {
    let zeros = vec![0u8; 1 << 16];
    let views = tensors.iter().map(|(name, shape)| {
        let bytes = &zeros[..shape[0] * shape[1] * 4];
        ((*name).to_owned(), TensorView::new(Dtype::F32, shape.to_vec(), bytes).unwrap())
    });
    serialize_to_file(views, None, path).unwrap();
}

/// PEFT's name of half of the adapter of a block's q_proj.
fn half(block: usize, half: &str) -> String {
    format!("base_model.model.model.layers.{block}.self_attn.q_proj.lora_{half}.weight")
}

/// Writes the pairs of the given blocks.
fn pairs(at: &Path, blocks: &[usize], inner: usize) {
    let names: Vec<(String, [usize; 2])> =
        blocks.iter().flat_map(|b| [(half(*b, "A"), [2, inner]), (half(*b, "B"), [16, 2])]).collect();
    let named: Vec<(&str, [usize; 2])> = names.iter().map(|(n, s)| (n.as_str(), *s)).collect();
    tensors(&at.join("adapter_model.safetensors"), &named);
}

fn adapter(ctx: &MemoryContext, name: &str) -> PathBuf {
    let at = ctx.files().join(name);
    fs::create_dir(&at).unwrap();
    let config = json!({
        "peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"], "bias": "none",
        "use_dora": false, "modules_to_save": null, "init_lora_weights": true, "future_option": 3,
    });
    fs::write(at.join("adapter_config.json"), config.to_string()).unwrap();
    pairs(&at, &[0, 1], 16);
    at
}

#[track_caller]
fn refused(result: Result<ArtifactRef, Failure>, parts: &[&str]) {
    let failure = result.expect_err("should be refused");
    assert_eq!(failure.class, FailureClass::Input, "{failure}");
    for part in parts {
        let all = format!("{} {}", failure.message, failure.help.clone().unwrap_or_default());
        assert!(all.contains(part), "`{part}` in: {all}");
    }
}

#[test]
fn a_new_model_read_back_from_its_folder_is_the_same_artifact() {
    let ctx = MemoryContext::new();
    let model = base(&ctx);
    let manifest = ctx.manifest_of(&model);
    assert_eq!(manifest.value["model_type"], "llama");
    // 265 or so × 16 embeddings, 2 blocks, a norm.
    let vocab =
        manifest.value["parameters"].as_u64().unwrap() - 16 - 2 * (2 * 16 + 16 * 16 * 3 + 3 * 16 * 32);
    assert_eq!(vocab % 16, 0);
    assert!((259 * 16..=270 * 16).contains(&vocab));
    let again = folder(&ctx, &model, "copy");
    fs::write(again.join("README.md"), "not part of the model").unwrap();
    assert_eq!(ctx.run(&Local, [("path", path(&again))]).unwrap(), model);
    assert_eq!(base(&ctx), model);
}

#[test]
fn broken_model_folders_are_refused_by_name() {
    let ctx = MemoryContext::new();
    let model = base(&ctx);
    let local = |at: &Path| ctx.run(&Local, [("path", path(at))]);
    refused(local(&ctx.files().join("none")), &["none", "no such folder"]);
    fs::create_dir(ctx.files().join("empty")).unwrap();
    refused(local(&ctx.files().join("empty")), &["empty", "no config.json"]);

    let at = folder(&ctx, &model, "model");
    let weights = at.join("model.safetensors");
    let whole = fs::read(&weights).unwrap();
    for (cut, why) in [(whole.len() - 1, "cut short"), (20, "cut short"), (3, "3 bytes"), (0, "0 bytes")] {
        fs::write(&weights, &whole[..cut]).unwrap();
        refused(local(&at), &["model.safetensors", why]);
    }
    // The file ends with a number of its last tensor, in bf16 or f32: all bits set is a NaN in both.
    let odd = [&whole[..whole.len() - 4], &[0xff; 4]].concat();
    fs::write(&weights, odd).unwrap();
    refused(local(&at), &["model.safetensors: tensor model.", "not finite"]);
    fs::write(&weights, b"<!DOCTYPE html><html>").unwrap();
    refused(local(&at), &["model.safetensors", "not a safetensors file"]);
    fs::remove_file(&weights).unwrap();
    refused(local(&at), &["no safetensors weights"]);
    fs::write(at.join("pytorch_model.bin"), "").unwrap();
    refused(local(&at), &["no safetensors weights", "convert"]);
    fs::write(&weights, &whole).unwrap();

    let config = at.join("config.json");
    edit(&config, |c| c["hidden_size"] = json!(24));
    refused(local(&at), &["model.embed_tokens.weight", "24]"]);
    edit(&config, |c| (c["hidden_size"], c["num_hidden_layers"]) = (json!(16), json!(3)));
    refused(local(&at), &["3 blocks", "`model.layers.2.mlp.down_proj.weight`"]);
    edit(&config, |c| c["model_type"] = json!("mamba"));
    refused(local(&at), &["config.json", "mamba", "llama, qwen2, bert"]);
    edit(&config, |c| (c["model_type"], c["num_hidden_layers"]) = (json!("llama"), json!(2)));
    edit(&at.join("tokenizer_config.json"), |c| c["eos_token"] = json!("</s>"));
    refused(local(&at), &["tokenizer_config.json", "`</s>`"]);
    fs::remove_file(at.join("tokenizer.json")).unwrap();
    refused(local(&at), &["no tokenizer.json"]);
}

#[test]
fn sharded_weights_must_be_whole() {
    let ctx = MemoryContext::new();
    let model = base(&ctx);
    let at = folder(&ctx, &model, "sharded");
    fs::rename(at.join("model.safetensors"), at.join("model-00001-of-00001.safetensors")).unwrap();
    let index = at.join("model.safetensors.index.json");
    let map = |name: &str, shard: &str| json!({ "weight_map": { name: shard } }).to_string();
    let local = || ctx.run(&Local, [("path", path(&at))]);
    fs::write(&index, map("model.norm.weight", "model-00002-of-00002.safetensors")).unwrap();
    refused(local(), &["index.json", "`model-00002-of-00002.safetensors`"]);
    fs::write(&index, map("model.gone.weight", "model-00001-of-00001.safetensors")).unwrap();
    refused(local(), &["model.gone.weight", "in none of the shards"]);
    fs::write(&index, map("model.norm.weight", "../secret.safetensors")).unwrap();
    fs::copy(at.join("model-00001-of-00001.safetensors"), ctx.files().join("secret.safetensors")).unwrap();
    refused(local(), &["../secret.safetensors", "not a plain file name"]);
    fs::write(&index, map("model.norm.weight", "model-00001-of-00001.safetensors")).unwrap();
    let files = ctx.manifest_of(&local().unwrap()).files;
    assert!(
        files.contains_key("model-00001-of-00001.safetensors") && !files.contains_key("model.safetensors")
    );
}

#[test]
fn the_hubs_cache_is_read_at_a_commit() {
    let dir = tempfile::tempdir().unwrap();
    let cache = headstart_huggingface::Cache::new(dir.path().to_owned());
    let commit = "91d2aff3f957f99e4c74c962f2f408dcc88a18d8";
    let message = |repo: &str, revision: &str| snapshot(&cache, repo, revision).unwrap_err();
    assert!(message("Qwen/Qwen2-0.5B", "main").message.contains("not a commit"));
    assert!(message("../etc", commit).message.contains("no model of the hub"));
    let missing = message("Qwen/Qwen2-0.5B", commit);
    let help = missing.help.unwrap();
    assert!(
        help.contains("`headstart run` downloads it") && help.contains("hf download Qwen/Qwen2-0.5B"),
        "{help}"
    );
    let at = dir.path().join("models--Qwen--Qwen2-0.5B/snapshots").join(commit);
    fs::create_dir_all(&at).unwrap();
    assert_eq!(snapshot(&cache, "Qwen/Qwen2-0.5B", commit).unwrap(), at);
}

#[test]
fn an_adapter_is_taken_in_with_its_base_and_what_is_said_of_it() {
    let ctx = MemoryContext::new();
    let base = base(&ctx);
    let at = adapter(&ctx, "friendly");
    fs::write(at.join("headstart.json"), r#"{"name": "friendly", "about": "Warm."}"#).unwrap();
    let take = || ctx.run(&Ingest, [("base", artifact(&base)), ("source", path(&at))]).unwrap();
    let pllm = take();
    let manifest = ctx.manifest_of(&pllm);
    let about = json!({ "name": "friendly", "about": "Warm." });
    assert_eq!(manifest.value, json!({ "format": "lora", "metrics": {}, "about": about }));

    let training = r#"{"metrics": {"steps": 3, "note": "x"}, "curve": [[0, 2.5], [3, 1.5], "x"]}"#;
    fs::write(at.join("training.json"), training).unwrap();
    let value = ctx.value_of(&take());
    assert_eq!((&value["metrics"], &value["curve"]), (&json!({ "steps": 3 }), &json!([[0, 2.5], [3, 1.5]])));
    assert_eq!(manifest.uses["base"], base);
    let names: Vec<_> = manifest.files.keys().collect();
    assert_eq!(names, ["adapter_config.json", "adapter_model.safetensors"]);
    refused(ctx.run(&Ingest, [("base", artifact(&pllm)), ("source", path(&at))]), &["itself an adapter"]);
}

#[test]
fn adapters_that_do_not_fit_are_refused_by_tensor_or_option() {
    let ctx = MemoryContext::new();
    let base = base(&ctx);
    let at = adapter(&ctx, "bad");
    let ingest = || ctx.run(&Ingest, [("base", artifact(&base)), ("source", path(&at))]);
    let weights = at.join("adapter_model.safetensors");
    pairs(&at, &[0], 16);
    refused(ingest(), &["layers.1.self_attn.q_proj.lora_A.weight", "missing"]);
    pairs(&at, &[0, 1], 24);
    refused(ingest(), &["layers.0.self_attn.q_proj.lora_A.weight", "[2, 24]", "[2, 16]"]);
    pairs(&at, &[0, 1, 9], 16);
    refused(ingest(), &["layers.9", "no place in the base"]);
    pairs(&at, &[0, 1], 16);
    let whole = fs::read(&weights).unwrap();
    fs::write(&weights, &whole[..whole.len() - 4]).unwrap();
    refused(ingest(), &["adapter_model.safetensors", "cut short"]);
    fs::write(&weights, &whole).unwrap();
    ingest().unwrap();

    for (key, value) in [
        ("use_dora", json!(true)),
        ("bias", json!("all")),
        ("modules_to_save", json!(["lm_head"])),
        ("peft_type", json!("IA3")),
        ("init_lora_weights", json!("pissa_niter_4")),
        ("fan_in_fan_out", json!(true)),
    ] {
        let config = at.join("adapter_config.json");
        let before = fs::read(&config).unwrap();
        edit(&config, |c| c[key] = value);
        refused(ingest(), &["adapter_config.json", key]);
        fs::write(&config, before).unwrap();
    }
    fs::remove_file(&weights).unwrap();
    fs::write(at.join("adapter_model.bin"), "").unwrap();
    refused(ingest(), &["no adapter_model.safetensors", "convert"]);
}

#[test]
fn a_full_model_must_have_the_bases_shapes() {
    let ctx = MemoryContext::new();
    let base = base(&ctx);
    let at = folder(&ctx, &base, "full");
    let ingest = |at: &Path| ctx.run(&Ingest, [("base", artifact(&base)), ("source", path(at))]);
    let pllm = ingest(&at).unwrap();
    let manifest = ctx.manifest_of(&pllm);
    assert_eq!((&manifest.value["format"], &manifest.uses["base"]), (&json!("full"), &base));
    assert!(manifest.files.contains_key("tokenizer.json"));

    let config = ctx.files().join("tiny.json");
    edit(&config, |c| c["intermediate_size"] = json!(48));
    let corpus = ctx.dataset(&[("What is rain?", "Falling water."), ("What is snow?", "Frozen rain.")]);
    let args = [("config", path(&config)), ("corpus", artifact(&corpus)), ("vocab", Value::Int(270))];
    let wider = ctx.run(&Init, args).unwrap();
    let at = folder(&ctx, &wider, "wider");
    refused(ingest(&at), &["mlp.down_proj.weight", "[16, 48] here", "[16, 32] in the base"]);
    fs::create_dir(ctx.files().join("nothing")).unwrap();
    refused(ingest(&ctx.files().join("nothing")), &["neither adapter_config.json nor config.json"]);
}

/// An encoder's folder, as far as a space looks at it.
fn encoder(ctx: &MemoryContext) -> PathBuf {
    let at = ctx.files().join("encoder");
    fs::create_dir_all(at.join("1_Pooling")).unwrap();
    let config = json!({
        "model_type": "bert", "hidden_size": 4, "num_hidden_layers": 1, "vocab_size": 5,
        "num_attention_heads": 2, "intermediate_size": 8, "max_position_embeddings": 32,
    });
    fs::write(at.join("config.json"), config.to_string()).unwrap();
    fs::write(at.join("tokenizer.json"), "{}").unwrap();
    fs::write(at.join("1_Pooling/config.json"), "{}").unwrap();
    let shapes =
        [("embeddings.word_embeddings.weight", [5, 4]), ("encoder.layer.0.output.dense.weight", [4, 8])];
    tensors(&at.join("model.safetensors"), &shapes);
    at
}

#[test]
fn spaces_hold_or_name_their_model() {
    let ctx = MemoryContext::new();
    let base = base(&ctx);
    let at = encoder(&ctx);
    let held = ctx.manifest_of(&ctx.run(&Sentence, [("model", path(&at))]).unwrap());
    assert_eq!(held.value, json!({ "kind": "sentence" }));
    assert!(held.files.contains_key("model.safetensors") && held.files.contains_key("1_Pooling/config.json"));
    assert!(held.uses.is_empty());

    fs::write(at.join("1_Pooling/config.json"), r#"{"pooling_mode_attention": true}"#).unwrap();
    refused(ctx.run(&Sentence, [("model", path(&at))]), &["1_Pooling", "`attention`"]);
    fs::write(at.join("1_Pooling/config.json"), "{}").unwrap();

    let model = ctx.run(&Local, [("path", path(&at))]).unwrap();
    let named = ctx.manifest_of(&ctx.run(&Sentence, [("model", artifact(&model))]).unwrap());
    assert_eq!(named.uses["model"], model);
    assert!(named.files.is_empty());

    let causal: [(&dyn Stage, &str); 2] = [(&Pooled, "pooled"), (&Summarizer, "summarizer")];
    for (stage, name) in causal {
        let space = ctx.manifest_of(&ctx.run(stage, [("model", artifact(&base))]).unwrap());
        assert_eq!((&space.value, &space.uses["model"]), (&json!({ "kind": name }), &base));
        refused(ctx.run(stage, [("model", artifact(&model))]), &[name, "not an encoder"]);
    }
    refused(ctx.run(&Sentence, [("model", artifact(&base))]), &["type llama", "pooled(model)"]);
}
