//! The stage `select`, end to end, over a toy backend whose models have known styles.

#![allow(clippy::unwrap_used, reason = "clippy counts the helpers of a test as no test")]

#[path = "../../explain/tests/toy/mod.rs"]
mod toy;

use std::sync::Arc;

use headstart_protocol::expr::{Expr, Manifests, ResolveError, resolve};
use headstart_protocol::release::{CHOOSING_ROWS, VERIFYING_ROWS};
use headstart_protocol::{ArtifactRef, Manifest, Value};
use headstart_testkit::MemoryContext;
use toy::{Toy, divergences, person, stage, value};

struct Place {
    ctx: MemoryContext,
    base: ArtifactRef,
    space: ArtifactRef,
    catalog: ArtifactRef,
}

impl Manifests for Place {
    fn manifest(&self, artifact: &ArtifactRef) -> Result<Manifest, ResolveError> {
        Ok(self.ctx.manifest_of(artifact))
    }
}

impl Place {
    fn new() -> Self {
        Self::within(MemoryContext::new())
    }

    fn within(ctx: MemoryContext) -> Self {
        let (base, space, all) = divergences(&ctx, "sentence");
        let catalog = ctx.run(&*stage("decompose"), [("divergences", Value::List(all))]).unwrap();
        Self { ctx, base, space, catalog }
    }

    fn embed(&self, texts: &ArtifactRef) -> ArtifactRef {
        self.embed_some(texts, 1000)
    }

    fn embed_some(&self, texts: &ArtifactRef, rows: i64) -> ArtifactRef {
        let args = [
            ("responses", value(texts)),
            ("against", value(&self.base)),
            ("space", value(&self.space)),
            ("rows", Value::Int(rows)),
        ];
        self.ctx.run(&*stage("embed"), args).unwrap()
    }

    fn select(&self, texts: &ArtifactRef, more: &[(&'static str, Value)]) -> ArtifactRef {
        let select = headstart_select::stages(Arc::new(Toy)).remove(0);
        let mut args = vec![("catalog", value(&self.catalog)), ("user", value(&self.embed(texts)))];
        args.extend(more.iter().cloned());
        self.ctx.run(&*select, args).unwrap()
    }

    /// `selection.field`, as a pipeline reads it.
    fn field(&self, selection: &ArtifactRef, name: &str) -> Value {
        let of = Box::new(Expr::value(value(selection)));
        resolve(&Expr::Field { of, name: name.into() }, self).unwrap().value
    }
}

#[test]
fn users_find_the_model_that_writes_like_them() {
    let place = Place::new();
    for style in toy::STYLES {
        for metric in ["whitened", "cosine", "l1"] {
            let mine = person(&place.ctx, style, 8, 40, 50);
            let pick = place.select(&mine, &[("metric", Value::Text(metric.into()))]);
            let said = place.ctx.value_of(&pick);
            // The paper's L1 punishes that only a part of the texts is styled; whitened must not.
            if metric == "whitened" {
                assert_eq!(said["pllm_name"], style, "{metric}: {said}");
                assert!(said["confidence"].as_f64().unwrap() > 0.8, "{said}");
                assert_eq!(said["abstained"], false);
            }
            assert!(said["distances"].as_object().unwrap().len() == 4, "{said}");
        }
    }
}

#[test]
fn a_pipeline_reads_the_selections_fields() {
    let place = Place::new();
    let pick = place.select(&person(&place.ctx, "excited", 9, 40, 50), &[]);
    let catalog = place.ctx.manifest_of(&place.catalog);
    assert_eq!(place.field(&pick, "pllm"), value(&catalog.uses["pllm:excited"]));
    assert_eq!(place.field(&pick, "is_mix"), Value::Bool(false));
    let Value::Mix(mix) = place.field(&pick, "mix") else { panic!("a mix") };
    assert_eq!((mix[0].name.as_str(), mix[0].weight), ("excited", 1.0));
    let sentence = place.ctx.value_of(&pick)["sentence"].as_str().unwrap().to_owned();
    assert!(sentence.starts_with("Chosen because you write "), "{sentence}");
    let cost = &place.ctx.value_of(&pick)["cost"];
    // Ten prompts to the base, and the texts of both sides, one of which both have.
    assert_eq!(cost["forward_passes"], 29, "what it took to put the user into the space");
    assert!(cost["bytes"].as_u64() > cost["catalog_bytes"].as_u64(), "{cost}");
}

#[test]
fn whoever_writes_like_the_base_starts_from_the_base() {
    let place = Place::new();
    let plain = person(&place.ctx, "plain", 0, 40, 50);
    let pick = place.select(&plain, &[]);
    assert_eq!(place.field(&pick, "abstained"), Value::Bool(true));
    assert_eq!(place.field(&pick, "pllm"), value(&place.base));
    let verified = place.select(&plain, &[("verify", value(&plain))]);
    assert_eq!(place.field(&verified, "pllm"), value(&place.base));
}

#[test]
fn likelihood_on_the_users_rows_decides_among_the_shortlist() {
    let place = Place::new();
    // By distance the texts are formal; the rows that verify are brief.
    let formal = person(&place.ctx, "formal", 10, 40, 50);
    let brief = person(&place.ctx, "brief", 10, 40, 50);
    let before = place.ctx.counter("forward_passes");
    let args = [("verify", value(&brief)), ("shortlist", Value::Int(4))];
    let pick = place.select(&formal, &args);
    let said = place.ctx.value_of(&pick);
    assert_eq!(said["pllm_name"], "brief", "{said}");
    let loss = &said["verified"]["loss"];
    assert!(loss["brief"].as_f64() < loss["formal"].as_f64(), "{said}");
    let looked = place.ctx.value_of(&place.embed(&formal))["forward_passes"].as_u64().unwrap();
    let asked = said["cost"]["forward_passes"].as_u64().unwrap() - looked;
    assert_eq!(asked, 30, "four pLLMs and the base; six of ten rows leave no doubt");
    assert_eq!((&said["verified"]["rows"], &said["verified"]["held_back"]), (&6.into(), &false.into()));
    assert!(place.ctx.counter("forward_passes") >= before + asked);
}

/// Six rows may decide; where numbers over fewer than eight stay, eight are asked, by the searches too.
#[test]
fn as_many_rows_are_asked_as_a_number_needs_to_leave() {
    for (strategy, least, rows) in [("nearest", 0, 6), ("nearest", 8, 8), ("hyperband", 8, 10)] {
        let place = Place::within(MemoryContext::new().with_private().with_least_rows(least));
        let formal = person(&place.ctx, "formal", 10, 40, 50);
        let brief = person(&place.ctx, "brief", 10, 40, 50);
        let args = [
            ("verify", value(&brief)),
            ("shortlist", Value::Int(4)),
            ("strategy", Value::Text(strategy.into())),
        ];
        let said = place.ctx.value_of(&place.select(&formal, &args));
        assert_eq!((&said["pllm_name"], &said["verified"]["rows"]), (&"brief".into(), &rows.into()));
        assert_eq!((place.ctx.counter(CHOOSING_ROWS), place.ctx.counter(VERIFYING_ROWS)), (10, rows));
    }
    // Texts that are all the same place nobody, and verify nothing.
    let place = Place::within(MemoryContext::new().with_private());
    let rows = vec![("q", "Hello there!"); 12];
    let same = place.ctx.dataset(&rows);
    place.select(&same, &[("verify", value(&same))]);
    assert_eq!((place.ctx.counter(CHOOSING_ROWS), place.ctx.counter(VERIFYING_ROWS)), (1, 1));
}

#[test]
fn the_same_seed_gives_the_same_selection_for_any_number_of_rows() {
    let place = Place::new();
    for n in [1, 2, 7] {
        let mine = person(&place.ctx, "long", n, 40, 40 + n);
        let without_time = || {
            let mut said = place.ctx.value_of(&place.select(&mine, &[]));
            said["cost"]["seconds"] = 0.into();
            said
        };
        let (a, b) = (without_time(), without_time());
        assert_eq!(a, b);
        assert_eq!(a["pllm_name"], "long", "{n} rows");
    }
}

#[test]
fn every_strategy_finds_the_model_and_says_what_it_cost() {
    let place = Place::new();
    let mine = person(&place.ctx, "formal", 9, 40, 50);
    let mut passes = Vec::new();
    for strategy in ["nearest", "exhaustive", "bayesian", "hyperband"] {
        // One candidate is enough for the nearest; the others decide by likelihood alone.
        let args = [
            ("verify", value(&mine)),
            ("strategy", Value::Text(strategy.into())),
            ("shortlist", Value::Int(1)),
        ];
        let said = place.ctx.value_of(&place.select(&mine, &args));
        assert_eq!((&said["pllm_name"], &said["strategy"]), (&"formal".into(), &strategy.into()), "{said}");
        let cost = &said["cost"];
        assert!(
            cost["seconds"].as_f64() > Some(0.0) && cost["bytes"].as_u64() > cost["catalog_bytes"].as_u64()
        );
        passes.push(cost["forward_passes"].as_u64().unwrap());
        assert_eq!(said["verified"]["rows"], 5, "half of the ten rows: the other half chose");
        assert_eq!(said["verified"]["held_back"], true);
    }
    // One pLLM and the base, and the way into the space; four and the base, which needs no space; no
    // more than that for the searches.
    assert_eq!(passes[..2], [29 + 10, 25]);
    assert!(passes[2..].iter().all(|p| (10..=25).contains(p)), "{passes:?}");
}

#[test]
fn rows_that_were_not_embedded_verify() {
    let place = Place::new();
    let mine = person(&place.ctx, "formal", 15, 40, 60);
    let user = place.embed_some(&mine, 5);
    let about = place.ctx.value_of(&user);
    assert_eq!((&about["n"], &about["picked"]), (&5.into(), &serde_json::json!([0, 4, 8, 12, 16])));
    let select = headstart_select::stages(Arc::new(Toy)).remove(0);
    let args = [("catalog", value(&place.catalog)), ("user", value(&user)), ("verify", value(&mine))];
    let said = place.ctx.value_of(&place.ctx.run(&*select, args).unwrap());
    assert_eq!((&said["pllm_name"], &said["n"]), (&"formal".into(), &5.into()), "{said}");
    assert_eq!(said["verified"]["held_back"], true, "others verify than chose");
    assert!(said["verified"]["rows"].as_u64() <= Some(15), "{said}");
}

#[test]
fn a_search_by_likelihood_needs_rows() {
    let place = Place::new();
    let mine = person(&place.ctx, "formal", 9, 40, 50);
    let select = headstart_select::stages(Arc::new(Toy)).remove(0);
    let args = [
        ("catalog", value(&place.catalog)),
        ("user", value(&place.embed(&mine))),
        ("strategy", Value::Text("hyperband".into())),
    ];
    let why = place.ctx.run(&*select, args).unwrap_err();
    assert!(why.message.contains("`verify`") && why.help.is_some(), "{why:?}");
}

#[test]
fn nothing_is_no_count() {
    let place = Place::new();
    let user = place.embed(&person(&place.ctx, "long", 2, 40, 44));
    let select = headstart_select::stages(Arc::new(Toy)).remove(0);
    for name in ["max_mix", "shortlist", "budget"] {
        let args = [("catalog", value(&place.catalog)), ("user", value(&user)), (name, Value::Int(0))];
        let e = place.ctx.run(&*select, args).unwrap_err();
        assert_eq!(e.message, format!("argument `{name}` is 0, but must be at least 1"));
    }
}

#[test]
fn what_cannot_be_forecast_is_said() {
    let place = Place::new();
    let said = place.ctx.value_of(&place.select(&person(&place.ctx, "excited", 9, 40, 50), &[]));
    let why = said["forecast"]["not_known"].as_str().unwrap();
    assert!(why.contains("how its pLLMs were trained"), "{said}");
}
