//! Mixes, with real models: the demonstration's base and some of its adapters.

#![allow(clippy::unwrap_used, reason = "clippy counts the helpers of a test as no test")]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use headstart_lm::CpuBackend;
use headstart_protocol::artifacts::{Artifact, BASE, Selection};
use headstart_protocol::rows::Row;
use headstart_protocol::{ArtifactRef, Output, Stage, Type, Value};
use headstart_testkit::MemoryContext;
use serde_json::json;

const STYLES: [&str; 4] = [
    "elementary-concise-sassy",
    "elementary-informative-poetic",
    "expert-concise-neutral",
    "expert-informative-persuasive",
];

fn value(artifact: &ArtifactRef) -> Value {
    Value::Artifact(artifact.clone())
}

fn stage(kind: &str) -> Box<dyn Stage> {
    let backend = Arc::new(CpuBackend::new(2));
    let mut all = headstart_explain::stages(backend.clone());
    all.extend(headstart_select::stages(backend));
    all.into_iter().find(|s| s.kind() == kind).unwrap()
}

struct Place {
    ctx: MemoryContext,
    base: ArtifactRef,
    space: ArtifactRef,
    pllms: Vec<ArtifactRef>,
    catalog: ArtifactRef,
    questions: Vec<String>,
}

fn folder(output: Output, at: &Path) -> Output {
    let files = fs::read_dir(at).unwrap().map(|f| f.unwrap().path());
    files.fold(output, |out, f| out.file(f.file_name().unwrap().to_str().unwrap(), f.clone()))
}

impl Place {
    /// A catalog made of half of the demonstration's questions.
    fn new() -> Self {
        let examples = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../examples");
        let ctx = MemoryContext::new();
        let base = ctx.put(folder(Output::new(Type::Model, json!({})), &examples.join("models/tiny")));
        let space = Output::new(Type::Space, json!({ "kind": "pooled" })).uses("model", base.clone());
        let lora = || Output::new(Type::Pllm, json!({ "format": "lora" })).uses("base", base.clone());
        let put = |style: &str| ctx.put(folder(lora(), &examples.join("catalog").join(style)));
        let pllms = STYLES.iter().map(|s| put(s)).collect();
        let text = fs::read_to_string(examples.join("first-light/probes.jsonl")).unwrap();
        let prompt = |line: &str| serde_json::from_str::<Row>(line).unwrap().prompt;
        let questions = text.lines().map(prompt).collect();
        let space = ctx.put(space);
        let mut place = Self { catalog: base.clone(), ctx, base, space, pllms, questions };
        let plain = place.answers(&place.base, 0..14);
        let drift = |(name, p): (&&str, &ArtifactRef)| {
            let args = [
                ("responses", value(&place.answers(p, 0..14))),
                ("against", value(&plain)),
                ("space", value(&place.space)),
            ];
            ((*name).to_owned(), value(&place.ctx.run(&*stage("embed"), args).unwrap()))
        };
        let all = STYLES.iter().zip(&place.pllms).map(drift).collect();
        place.catalog = place.ctx.run(&*stage("decompose"), [("divergences", Value::List(all))]).unwrap();
        place
    }

    fn answers(&self, model: &ArtifactRef, which: std::ops::Range<usize>) -> ArtifactRef {
        let rows: Vec<Row> = self.questions[which].iter().map(|q| Row::new(q.clone(), "")).collect();
        let prompts = self.ctx.put_rows(Type::Dataset, &rows);
        self.ctx.run(&*stage("probe"), [("model", value(model)), ("prompts", value(&prompts))]).unwrap()
    }

    /// What was chosen for a user who answers the other questions as each of these models does.
    fn chosen(&self, models: &[&ArtifactRef]) -> Selection {
        self.selected(models, true, &[])
    }

    /// The same, with `verify` or without, and further arguments.
    fn selected(&self, models: &[&ArtifactRef], verify: bool, more: &[(&'static str, Value)]) -> Selection {
        let of = |model: &&ArtifactRef| self.ctx.rows_of(&self.answers(model, 14..28));
        let rows: Vec<Row> = models.iter().flat_map(of).collect();
        let mine = self.ctx.put_rows(Type::Dataset, &rows);
        let args =
            [("responses", value(&mine)), ("against", value(&self.base)), ("space", value(&self.space))];
        let user = self.ctx.run(&*stage("embed"), args).unwrap();
        let mut args = vec![("catalog", value(&self.catalog)), ("user", value(&user))];
        args.extend(verify.then(|| ("verify", value(&mine))));
        args.extend(more.iter().cloned());
        let manifest = self.ctx.manifest_of(&self.ctx.run(&*stage("select"), args).unwrap());
        let said = Selection::of(&manifest).unwrap();
        let named = match said.pllm_name.as_deref() {
            Some(BASE) => &self.base,
            Some(name) => &self.pllms[STYLES.iter().position(|s| *s == name).unwrap()],
            None => panic!("no name"),
        };
        assert_eq!(&manifest.uses["pllm"], named, "`pllm` is what `pllm_name` says: {said:?}");
        assert_start(&said);
        said
    }
}

/// The single pLLM is the best single start, and the mix the start only where it is better than that.
fn assert_start(said: &Selection) {
    assert_eq!(said.is_mix, said.mix.len() > 1 || said.mix.values().any(|w| *w != 1.0), "{said:?}");
    assert_eq!(said.abstained, said.mix.is_empty(), "{said:?}");
    let name = said.pllm_name.as_deref().unwrap();
    if !said.is_mix && !said.abstained {
        assert_eq!(said.mix.keys().collect::<Vec<_>>(), [name], "{said:?}");
    }
    let Some(verified) = &said.verified else { return };
    let losses = || verified.loss.values().chain(&verified.base_loss).copied();
    let best = losses().fold(f64::INFINITY, f64::min);
    let own = if name == BASE { verified.base_loss.unwrap() } else { verified.loss[name] };
    assert!(own <= best + 1e-4, "{said:?}");
    if said.is_mix {
        assert!(verified.mix_loss.unwrap() <= own + 1e-4, "{said:?}");
    }
}

/// A mix's heaviest member need not be a good start by itself: the single pLLM is chosen on its own.
#[test]
fn whatever_is_mixed_the_single_pllm_is_the_best_single_start() {
    let place = Place::new();
    let pllm = |i: usize| &place.pllms[i];
    for models in [
        vec![pllm(0), pllm(2)],
        vec![pllm(1), pllm(3), &place.base],
        vec![pllm(2), &place.base, &place.base],
        vec![&place.base],
    ] {
        for strategy in ["nearest", "exhaustive", "bayesian", "hyperband"] {
            place.selected(&models, true, &[("strategy", Value::Text(strategy.into()))]);
        }
        for max_mix in [1, 2] {
            let said = place.selected(&models, true, &[("max_mix", Value::Int(max_mix))]);
            assert!(max_mix > 1 || !said.is_mix, "{said:?}");
        }
    }
}

/// Without `verify`, the nearest is the single pLLM, in a mix too.
#[test]
fn by_distance_the_single_pllm_is_the_nearest() {
    let place = Place::new();
    let said = place.selected(&[&place.pllms[0], &place.pllms[3]], false, &[]);
    let nearest = said.nearest_first()[0].0;
    assert!(said.is_mix && said.pllm_name.as_deref() == Some(nearest), "{said:?}");
}

#[test]
fn a_mix_is_asked_for_its_likelihood_like_any_pllm() {
    let place = Place::new();
    let pllm = |i: usize| &place.pllms[i];
    let both = place.chosen(&[pllm(0), pllm(3)]);
    let names: Vec<&str> = both.mix.keys().map(String::as_str).collect();
    assert_eq!((both.is_mix, names), (true, vec![STYLES[0], STYLES[3]]), "{both:?}");
    let verified = both.verified.as_ref().unwrap();
    let mix = verified.mix_loss.unwrap();
    assert!(Some(mix) < verified.base_loss, "{both:?}");
    // Those that are left are less likely to have written these rows.
    assert!(verified.loss.values().all(|l| *l > mix), "{both:?}");
    let one = place.chosen(&[pllm(1)]);
    assert_eq!((one.is_mix, one.pllm_name.as_deref()), (false, Some(STYLES[1])), "{one:?}");
}

/// A user who writes in a style only now and then starts better from a part of it than from all or none.
#[test]
fn a_style_shown_now_and_then_is_started_from_in_part() {
    let place = Place::new();
    let (styled, base) = (&place.pllms[1], &place.base);
    let said = place.chosen(&[styled, base, base, base]);
    assert_eq!((said.style.as_deref(), said.is_mix), (Some(STYLES[1]), true), "{said:?}");
    let weight = said.mix[STYLES[1]];
    assert!(weight == 0.5 || weight == 0.25, "{said:?}");
    let verified = said.verified.as_ref().unwrap();
    let (part, all) = (verified.mix_loss.unwrap(), verified.loss[STYLES[1]]);
    assert!(part < all && Some(part) < verified.base_loss, "{said:?}");
}
