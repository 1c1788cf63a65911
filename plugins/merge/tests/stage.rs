//! The stage: what a mix may consist of, and what its output says.

mod common;

use std::path::Path;

use common::{AdapterSpec, Param, numbers, rng, write_model};
use headstart_merge::Merge;
use headstart_merge::adapter::Adapter;
use headstart_protocol::{ArtifactRef, Context, Failure, FailureClass, MixTerm, Output, Type, Value};
use headstart_testkit::MemoryContext;
use safetensors::Dtype;
use serde_json::json;

const Q: &str = "model.layers.0.self_attn.q_proj";

/// Stores a folder's files as an artifact.
fn put(
    ctx: &MemoryContext,
    ty: Type,
    folder: &Path,
    value: serde_json::Value,
    base: Option<&ArtifactRef>,
) -> ArtifactRef {
    let mut output = Output::new(ty, value);
    for entry in std::fs::read_dir(folder).expect("folder") {
        let path = entry.expect("entry").path();
        output = output.file(path.file_name().expect("name").to_string_lossy().into_owned(), path);
    }
    ctx.put(match base {
        Some(base) => output.uses("base", base.clone()),
        None => output,
    })
}

fn model(ctx: &MemoryContext, seed: u64, base: Option<&ArtifactRef>) -> ArtifactRef {
    let folder = tempfile::tempdir().expect("folder");
    let params = [Param::new("w", Dtype::BF16, &[20, 20], numbers(&mut rng(seed), 400))];
    write_model(folder.path(), true, &params, &[]);
    let ty = if base.is_some() { Type::Pllm } else { Type::Model };
    put(ctx, ty, folder.path(), json!({"format": "full"}), base)
}

fn adapter(ctx: &MemoryContext, seed: u64, base: &ArtifactRef) -> ArtifactRef {
    let folder = tempfile::tempdir().expect("folder");
    AdapterSpec::new(&[(Q, 20, 20, 2)], 4.0, seed).write(folder.path());
    put(ctx, Type::Pllm, folder.path(), json!({"format": "lora"}), Some(base))
}

fn merge(
    ctx: &MemoryContext,
    terms: &[(f64, &str, &ArtifactRef)],
    more: &[(&'static str, Value)],
) -> Result<ArtifactRef, Failure> {
    let term = |(weight, name, pllm): &(f64, &str, &ArtifactRef)| MixTerm {
        weight: *weight,
        pllm: (*pllm).clone(),
        name: (*name).to_owned(),
    };
    let mix = ("mix", Value::Mix(terms.iter().map(term).collect()));
    ctx.run(&Merge, std::iter::once(mix).chain(more.iter().cloned()))
}

#[test]
fn merged_adapters_say_what_they_come_from() {
    let ctx = MemoryContext::new();
    let base = model(&ctx, 1, None);
    let (a, b) = (adapter(&ctx, 2, &base), adapter(&ctx, 3, &base));
    let merged = merge(&ctx, &[(0.6, "friendly", &a), (-0.2, "formal", &b)], &[]).expect("merge");
    let manifest = ctx.manifest_of(&merged);
    assert_eq!(manifest.uses["base"], base);
    assert_eq!(manifest.uses["parent:formal"], b);
    assert_eq!(manifest.value["format"], "lora");
    assert_eq!(manifest.value["metrics"]["error"], 0.0);
    assert_eq!(manifest.value["metrics"]["rank"], 4);
    assert_eq!(
        manifest.value["lineage"],
        json!([
            {"name": "friendly", "weight": 0.6, "id": a.id},
            {"name": "formal", "weight": -0.2, "id": b.id},
        ])
    );
    let cut = merge(&ctx, &[(0.6, "a", &a), (0.5, "b", &b)], &[("rank", Value::Int(1))]).expect("merge");
    let value = ctx.value_of(&cut);
    let error = value["metrics"]["error"].as_f64().expect("a number");
    assert!(error > 0.0 && error < 1.0, "{value}");
    assert_eq!(value["modules"][Q]["rank"], 1);
}

#[test]
fn the_base_in_a_mix_adds_nothing_and_equal_terms_count_as_one() {
    let ctx = MemoryContext::new();
    let base = model(&ctx, 1, None);
    let a = adapter(&ctx, 2, &base);
    let read = |artifact: &ArtifactRef| Adapter::read(&ctx.open(artifact).expect("open")).expect("read");
    let plain = merge(&ctx, &[(1.0, "a", &a)], &[]).expect("merge");
    let with_base =
        merge(&ctx, &[(0.4, "a", &a), (5.0, "base", &base), (0.6, "again", &a)], &[]).expect("merge");
    assert_eq!(read(&plain).modules, read(&with_base).modules);
    let gone = read(&merge(&ctx, &[(1.0, "a", &a), (-1.0, "a", &a)], &[]).expect("merge"));
    assert!(gone.modules[Q].b.data.iter().all(|x| *x == 0.0));
    assert!(gone.modules[Q].a.data.iter().any(|x| *x != 0.0), "it can still be trained");
}

#[test]
fn a_merge_of_full_models_is_a_model_with_the_bases_other_files() {
    let ctx = MemoryContext::new();
    let base = model(&ctx, 1, None);
    let (a, b) = (model(&ctx, 2, Some(&base)), model(&ctx, 3, Some(&base)));
    for method in ["task_arithmetic", "linear", "ties", "dare"] {
        let more = [("method", Value::Text(method.into()))];
        let merged = merge(&ctx, &[(0.6, "a", &a), (0.4, "b", &b)], &more).expect(method);
        let manifest = ctx.manifest_of(&merged);
        let files: Vec<_> = manifest.files.keys().map(String::as_str).collect();
        assert_eq!(files, ["config.json", "model.safetensors", "tokenizer.json"]);
        assert_eq!(manifest.value["format"], "full");
        assert_eq!(manifest.value["metrics"]["parameters"], 400);
    }
    // As a term of a weighted average the base has its weight.
    let linear = [("method", Value::Text("linear".into()))];
    let half = merge(&ctx, &[(1.0, "a", &a), (1.0, "base", &base)], &linear).expect("merge");
    let same = merge(&ctx, &[(0.5, "a", &a)], &[]).expect("merge");
    assert_eq!(ctx.manifest_of(&half).files, ctx.manifest_of(&same).files);
}

#[test]
fn mixes_that_make_no_sense_are_refused() {
    let ctx = MemoryContext::new();
    let (base, other) = (model(&ctx, 1, None), model(&ctx, 9, None));
    let (a, b, full) = (adapter(&ctx, 2, &base), adapter(&ctx, 3, &other), model(&ctx, 4, Some(&base)));
    let refused = |terms: &[(f64, &str, &ArtifactRef)], more: &[(&'static str, Value)]| {
        let failure = merge(&ctx, terms, more).expect_err("refused");
        assert_eq!(failure.class, FailureClass::Input, "{failure}");
        failure.message
    };
    let bases = refused(&[(0.5, "friendly", &a), (0.5, "formal", &b)], &[]);
    assert!(bases.contains("friendly") && bases.contains("formal"), "{bases}");
    assert!(bases.contains(&base.id.short()) && bases.contains(&other.id.short()), "{bases}");
    let is_base = refused(&[(0.5, "friendly", &a), (0.5, "plain", &other)], &[]);
    assert!(is_base.contains("`plain` is itself base"), "{is_base}");
    let kinds = refused(&[(0.5, "friendly", &a), (0.5, "whole", &full)], &[]);
    assert!(kinds.contains("an adapter") && kinds.contains("a full model"), "{kinds}");
    assert!(refused(&[(0.5, "base", &base)], &[]).contains("no pLLM"));
    assert!(refused(&[], &[]).contains("no pLLM"));
    assert!(refused(&[(f64::NAN, "a", &a)], &[]).contains("NaN"));
    assert!(refused(&[(1.0, "a", &a)], &[("rank", Value::Int(0))]).contains("rank"));
    assert!(refused(&[(1.0, "f", &full)], &[("rank", Value::Int(4))]).contains("rank"));
    let ties = [("method", Value::Text("ties".into())), ("density", Value::Float(1.5))];
    assert!(refused(&[(1.0, "f", &full)], &ties).contains("density"));
}

#[test]
fn options_without_effect_are_refused_by_name() {
    let ctx = MemoryContext::new();
    let base = model(&ctx, 1, None);
    let (a, full) = (adapter(&ctx, 2, &base), model(&ctx, 4, Some(&base)));
    let method = |m: &str| ("method", Value::Text(m.into()));
    let refused = |of: &ArtifactRef, more: &[(&'static str, Value)], name: &str| {
        let failure = merge(&ctx, &[(1.0, "x", of)], more).expect_err("refused");
        assert_eq!(failure.class, FailureClass::Input, "{failure}");
        assert!(failure.message.contains(&format!("`{name}`")) && failure.help.is_some(), "{failure:?}");
    };
    let (density, seed) = (("density", Value::Float(0.5)), ("seed", Value::Int(1)));
    for of in [&a, &full] {
        for m in ["task_arithmetic", "linear"] {
            refused(of, &[method(m), density.clone()], "density");
            refused(of, &[method(m), seed.clone()], "seed");
        }
    }
    refused(&full, &[method("ties"), seed.clone()], "seed");
    refused(&full, &[("rank", Value::Int(2))], "rank");
    for m in ["ties", "dare"] {
        refused(&a, &[method(m)], m);
    }
    merge(&ctx, &[(1.0, "f", &full)], &[method("dare"), density, seed]).expect("both have an effect");
}

#[test]
fn a_linear_merge_of_adapters_is_their_weighted_average() {
    let ctx = MemoryContext::new();
    let base = model(&ctx, 1, None);
    let (a, b) = (adapter(&ctx, 2, &base), adapter(&ctx, 3, &base));
    let linear = [("method", Value::Text("linear".into()))];
    let dense = |artifact: &ArtifactRef| {
        let adapter = Adapter::read(&ctx.open(artifact).expect("open")).expect("read");
        common::dense_of(&adapter.modules[Q])
    };
    let same = |x: &ArtifactRef, y: &ArtifactRef| {
        let off = common::distance(&dense(x), &dense(y));
        assert!(off < 1e-6, "off by {off}");
    };
    let average = merge(&ctx, &[(1.0, "a", &a), (1.0, "b", &b)], &linear).expect("merge");
    same(&average, &merge(&ctx, &[(0.5, "a", &a), (0.5, "b", &b)], &[]).expect("merge"));
    // The base counts with its weight, as a term that changes nothing.
    let with_base = merge(&ctx, &[(1.0, "a", &a), (3.0, "base", &base)], &linear).expect("merge");
    same(&with_base, &merge(&ctx, &[(0.25, "a", &a)], &[]).expect("merge"));
    let none = merge(&ctx, &[(1.0, "a", &a), (-1.0, "b", &b)], &linear).expect_err("no average");
    assert!(none.message.contains("sum to 0"), "{none}");
}

#[test]
fn limits_and_stops_reach_the_merge() {
    let ctx = MemoryContext::new().with_memory(1000);
    let base = model(&ctx, 1, None);
    let full = model(&ctx, 4, Some(&base));
    assert_eq!(merge(&ctx, &[(1.0, "f", &full)], &[]).expect_err("memory").class, FailureClass::Memory);
    let ctx = MemoryContext::new();
    let base = model(&ctx, 1, None);
    let (a, full) = (adapter(&ctx, 2, &base), model(&ctx, 4, Some(&base)));
    ctx.cancel();
    assert_eq!(merge(&ctx, &[(1.0, "f", &full)], &[]).expect_err("stop").class, FailureClass::Cancelled);
    assert_eq!(merge(&ctx, &[(1.0, "a", &a)], &[]).expect_err("stop").class, FailureClass::Cancelled);
}
