//! The stage between its arguments and a backend. The backend here writes down what it is asked;
//! that trainings really learn is shown where the real one is put together with all stages.

#![allow(clippy::unwrap_used, reason = "clippy counts the helpers of a test as no test")]

use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};

use headstart_finetune::{Finetune, PROJECTIONS};
use headstart_lm::{Backend, ComputeFacts, Decoder, Encoder, LmError, Watch};
use headstart_protocol::expr::{CompareOp, Condition};
use headstart_protocol::{ArtifactRef, Failure, FailureClass, Output, Type, Value};
use headstart_testkit::MemoryContext;
use headstart_train::{Method, TrainReport, TrainSpec, TrainingBackend};
use serde_json::json;

/// Records the training and reports a fixed result.
#[derive(Default)]
struct Recorder {
    asked: Mutex<Vec<TrainSpec>>,
    loss: Option<f64>,
}

impl Backend for Recorder {
    fn name(&self) -> String {
        "recorder".into()
    }
    fn compute(&self) -> ComputeFacts {
        let [backend, precision, instruction_set] = ["recorder", "f32", "baseline"].map(String::from);
        ComputeFacts { backend, precision, instruction_set }
    }
    fn decoder(&self, _: &Path, _: Option<&Path>) -> Result<Box<dyn Decoder>, LmError> {
        panic!("a fine-tuning does not generate")
    }
    fn encoder(&self, _: &Path) -> Result<Box<dyn Encoder>, LmError> {
        panic!("a fine-tuning does not embed")
    }
}

impl TrainingBackend for Recorder {
    fn train(&self, spec: &TrainSpec, watch: &dyn Watch) -> Result<TrainReport, LmError> {
        if watch.cancelled() {
            return Err(LmError::Cancelled);
        }
        watch.progress(3, 5, "steps", &[("loss", 1.5)]);
        watch.count("tokens", 42);
        fs::create_dir(&spec.out).unwrap();
        fs::write(spec.out.join("weights"), "trained").unwrap();
        self.asked.lock().unwrap().push(spec.clone());
        Ok(TrainReport {
            steps: 3,
            start_loss: 2.5,
            loss: self.loss.unwrap_or(1.5),
            train_loss: 1.25,
            tokens: 42,
            seconds: 0.5,
            reached: true,
            curve: vec![(0, 2.5), (3, 1.5)],
            trainable: 7,
            rows: 18,
            eval_rows: 2,
        })
    }
}

struct Bench {
    ctx: MemoryContext,
    backend: Arc<Recorder>,
    base: ArtifactRef,
    data: ArtifactRef,
}

impl Bench {
    fn new(backend: Recorder) -> Self {
        let ctx = MemoryContext::new().with_memory(1 << 30);
        let rows: Vec<(String, String)> = (0..20).map(|i| (format!("q{i}"), format!("a{i}"))).collect();
        let mut rows: Vec<(&str, &str)> = rows.iter().map(|(p, r)| (p.as_str(), r.as_str())).collect();
        rows.push(("bare", ""));
        let data = ctx.dataset(&rows);
        let base = ctx.put(Output::new(Type::Model, json!({ "model_type": "llama" })));
        Self { ctx, backend: Arc::new(backend), base, data }
    }

    fn run(&self, from: &ArtifactRef, more: Vec<(&str, Value)>) -> Result<ArtifactRef, Failure> {
        let stage = Finetune { backend: self.backend.clone() };
        let data = [("from", Value::Artifact(from.clone())), ("data", Value::Artifact(self.data.clone()))];
        let data = data.into_iter().filter(|(name, _)| !more.iter().any(|(n, _)| n == name));
        self.ctx.run(&stage, data.chain(more.clone()))
    }

    fn last(&self) -> TrainSpec {
        self.backend.asked.lock().unwrap().last().unwrap().clone()
    }

    fn pllm(&self, format: &str) -> ArtifactRef {
        let value = json!({ "format": format, "metrics": {} });
        self.ctx.put(Output::new(Type::Pllm, value).uses("base", self.base.clone()))
    }
}

#[test]
fn defaults_become_a_lora_training_with_a_tenth_held_back() {
    let bench = Bench::new(Recorder::default());
    let pllm = bench.run(&bench.base, vec![]).unwrap();
    let spec = bench.last();
    let Method::Lora(lora) = &spec.method else { panic!("{:?}", spec.method) };
    assert_eq!((lora.rank, lora.alpha), (8, 16.0));
    assert_eq!(lora.targets, PROJECTIONS);
    // The row without a response is left out.
    assert_eq!((spec.data.len(), spec.eval.len()), (18, 2));
    assert!(spec.data.iter().all(|row| !spec.eval.contains(row)));
    assert_eq!((spec.batch, spec.max_steps, spec.cosine, spec.memory), (8, 400, true, Some(1 << 30)));
    assert!(spec.until.is_none() && spec.adapter.is_none());
    assert_eq!((spec.dropout, spec.clip, spec.weight_decay, spec.patience), (0.0, Some(1.0), None, None));
    assert!(spec.resume.is_none(), "this context keeps nothing");

    let manifest = bench.ctx.manifest_of(&pllm);
    assert_eq!(manifest.uses["base"], bench.base);
    assert_eq!(manifest.files.keys().collect::<Vec<_>>(), ["training.json", "weights"]);
    let training: serde_json::Value = serde_json::from_str(&bench.ctx.read(&pllm, "training.json")).unwrap();
    assert_eq!(training["curve"], manifest.value["curve"], "it comes along with the folder");
    assert_eq!(manifest.value["format"], "lora");
    assert_eq!(manifest.value["curve"], json!([[0, 2.5], [3, 1.5]]));
    let metrics = manifest.value["metrics"].as_object().unwrap();
    assert!(metrics.values().all(|m| m.is_number()), "{metrics:?}");
    for (name, value) in [("loss", json!(1.5)), ("start_loss", json!(2.5)), ("steps", json!(3))] {
        assert_eq!(metrics[name], value);
    }
    assert!(!metrics.contains_key("reached"), "without a target there is nothing to reach");
    assert_eq!(bench.ctx.counter("tokens"), 42);
    assert_eq!(bench.ctx.reports()[0].metrics["loss"], 1.5);
}

#[test]
fn arguments_reach_the_training() {
    let bench = Bench::new(Recorder::default());
    let eval = bench.ctx.dataset(&[("e", "f")]);
    let until = Condition { metric: "loss".into(), op: CompareOp::Lt, bound: 1.9 };
    let targets = Value::List(vec![("0".into(), Value::Text("q_proj".into()))]);
    let more = vec![
        ("eval", Value::Artifact(eval)),
        ("until", Value::Condition(until.clone())),
        ("rank", Value::Int(4)),
        ("alpha", Value::Int(4)),
        ("targets", targets),
        ("schedule", Value::Text("constant".into())),
        ("seed", Value::Int(9)),
        ("rslora", Value::Bool(true)),
        ("dropout", Value::Float(0.1)),
        ("clip", Value::Int(0)),
        ("weight_decay", Value::Float(0.01)),
        ("patience", Value::Int(4)),
    ];
    bench.run(&bench.base, more).unwrap();
    let spec = bench.last();
    assert_eq!((spec.data.len(), spec.eval.len(), spec.seed, spec.cosine), (20, 1, 9, false));
    assert_eq!(spec.until, Some(until));
    assert_eq!((spec.dropout, spec.clip, spec.weight_decay), (0.1, None, Some(0.01)));
    assert_eq!(spec.patience, Some(4));
    let Method::Lora(lora) = spec.method else { panic!() };
    assert!(lora.rslora);
    assert_eq!((lora.rank, lora.alpha, lora.targets), (4, 4.0, vec!["q_proj".to_owned()]));
}

#[test]
fn an_adapter_goes_on_over_its_own_base() {
    let bench = Bench::new(Recorder::default());
    let adapter = bench.pllm("lora");
    let tuned = bench.run(&adapter, vec![]).unwrap();
    assert!(bench.last().adapter.is_some());
    assert_eq!(bench.ctx.manifest_of(&tuned).uses["base"], bench.base);
    let failure = bench.run(&adapter, vec![("method", Value::Text("full".into()))]).unwrap_err();
    assert!(failure.message.contains("`from` is an adapter"), "{failure}");
}

#[test]
fn what_an_adapter_fixes_is_refused_unless_it_is_equal() {
    let bench = Bench::new(Recorder::default());
    let config = json!({ "peft_type": "LORA", "r": 4, "lora_alpha": 12, "use_rslora": true,
        "target_modules": ["v_proj", "q_proj"] });
    let at = bench.ctx.write("adapter_config.json", config.to_string());
    let value = json!({ "format": "lora", "metrics": {} });
    let output = Output::new(Type::Pllm, value).uses("base", bench.base.clone());
    let adapter = bench.ctx.put(output.file("adapter_config.json", at));
    let texts = |all: &[&str]| {
        Value::List(all.iter().enumerate().map(|(i, t)| (i.to_string(), Value::Text((*t).into()))).collect())
    };
    let equal = vec![
        ("rank", Value::Int(4)),
        ("alpha", Value::Int(12)),
        ("rslora", Value::Bool(true)),
        ("targets", texts(&["q_proj", "v_proj"])),
    ];
    bench.run(&adapter, equal).unwrap();
    bench.run(&adapter, vec![]).unwrap();
    for (name, value, said) in [
        ("rank", Value::Int(16), "argument `rank` is 16, but `from` is an adapter whose own is 4"),
        ("alpha", Value::Int(8), "argument `alpha` is 8, but `from` is an adapter whose own is 12"),
        (
            "targets",
            texts(&["q_proj"]),
            "argument `targets` is q_proj, but `from` is an adapter whose own is",
        ),
    ] {
        let failure = bench.run(&adapter, vec![(name, value.clone())]).unwrap_err();
        assert_eq!(failure.class, FailureClass::Input);
        assert!(failure.message.starts_with(said), "{failure}");
        assert!(failure.help.unwrap().starts_with(&format!("leave `{name}` out")));
        // A new adapter is made as it is asked.
        bench.run(&bench.base, vec![(name, value)]).unwrap();
    }
}

#[test]
fn full_weights_stay_a_version_of_their_first_base() {
    let bench = Bench::new(Recorder::default());
    let full = vec![("method", Value::Text("full".into()))];
    let first = bench.run(&bench.base, full.clone()).unwrap();
    let second = bench.run(&first, full).unwrap();
    for pllm in [&first, &second] {
        let manifest = bench.ctx.manifest_of(pllm);
        assert_eq!((&manifest.value["format"], &manifest.uses["base"]), (&json!("full"), &bench.base));
    }
    // A new adapter over full weights needs exactly these weights.
    let adapter = bench.run(&first, vec![]).unwrap();
    assert_eq!(bench.ctx.manifest_of(&adapter).uses["base"], first);
}

#[test]
fn what_cannot_be_trained_is_refused_before_training() {
    let bench = Bench::new(Recorder::default());
    let data = |rows: &[(&str, &str)]| vec![("data", Value::Artifact(bench.ctx.dataset(rows)))];
    let metric = Condition { metric: "bleu".into(), op: CompareOp::Gt, bound: 0.5 };
    for (more, part) in [
        (data(&[("one", "row")]), "at least 2"),
        (data(&[("bare", ""), ("bare too", "")]), "none of the 2 rows of `data`"),
        (vec![("batch", Value::Int(0))], "`batch`"),
        (vec![("rank", Value::Int(0))], "`rank`"),
        (vec![("max_steps", Value::Int(-3))], "`max_steps`"),
        (vec![("learning_rate", Value::Float(0.0))], "`learning_rate`"),
        (vec![("dropout", Value::Float(1.0))], "`dropout` is 1, but must be at least 0 and below 1"),
        (vec![("clip", Value::Float(-1.0))], "`clip`"),
        (vec![("weight_decay", Value::Float(-0.1))], "`weight_decay`"),
        (vec![("patience", Value::Int(0))], "`patience`"),
        (vec![("targets", Value::Text("lm_head".into()))], "`lm_head`"),
        (vec![("until", Value::Condition(metric))], "`bleu`"),
    ] {
        let failure = bench.run(&bench.base, more).unwrap_err();
        assert_eq!(failure.class, FailureClass::Input);
        assert!(failure.message.contains(part), "{failure}");
    }
    assert!(bench.backend.asked.lock().unwrap().is_empty());
}

#[test]
fn a_loss_that_is_no_number_is_a_failure_and_stopping_is_passed_on() {
    let bench = Bench::new(Recorder { loss: Some(f64::NAN), ..Recorder::default() });
    let failure = bench.run(&bench.base, vec![]).unwrap_err();
    assert!(failure.message.contains("no longer a number"), "{failure}");
    assert!(failure.help.unwrap().contains("learning_rate"));
    bench.ctx.cancel();
    assert_eq!(bench.run(&bench.base, vec![]).unwrap_err().class, FailureClass::Cancelled);
}
