//! The stages, on a backend whose numbers are known.

use std::path::Path;
use std::sync::Arc;

use headstart_evaluate::{Accuracy, Evaluate, SAMPLES_FILE};
use headstart_lm::{
    Backend, ComputeFacts, Decoder, Encoder, GenerateOptions, LmError, ModelInfo, NextToken, RowScore, Watch,
};
use headstart_protocol::release::{ANSWERED_ROWS, SCORED_ROWS};
use headstart_protocol::rows::Row;
use headstart_protocol::{ArtifactRef, Failure, FailureClass, Output, Type, Value};
use headstart_testkit::MemoryContext;
use serde_json::json;

/// A backend that gives every byte of a response `nats`, and answers each prompt with itself.
struct Parrot {
    nats: f64,
}

struct ParrotModel {
    nats: f64,
    info: ModelInfo,
}

impl Backend for Parrot {
    fn name(&self) -> String {
        "parrot".into()
    }
    fn compute(&self) -> ComputeFacts {
        let [backend, precision, instruction_set] = ["parrot", "f32", "baseline"].map(String::from);
        ComputeFacts { backend, precision, instruction_set }
    }

    fn decoder(&self, model: &Path, adapter: Option<&Path>) -> Result<Box<dyn Decoder>, LmError> {
        assert!(model.is_dir() && adapter.is_none());
        let info = ModelInfo {
            model_type: "parrot".into(),
            parameters: 0,
            hidden: 1,
            layers: 0,
            vocab: 256,
            context: 64,
        };
        Ok(Box::new(ParrotModel { nats: self.nats, info }))
    }

    fn encoder(&self, _: &Path) -> Result<Box<dyn Encoder>, LmError> {
        Err(LmError::Unsupported("a parrot does not encode".into()))
    }
}

impl Decoder for ParrotModel {
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    fn generate(
        &self,
        prompts: &[String],
        o: &GenerateOptions,
        w: &dyn Watch,
    ) -> Result<Vec<String>, LmError> {
        w.count("forward_passes", prompts.len() as u64);
        Ok(prompts.iter().map(|p| p.chars().take(o.max_tokens).collect()).collect())
    }

    fn score(&self, rows: &[Row], max_tokens: usize, w: &dyn Watch) -> Result<Vec<RowScore>, LmError> {
        assert_eq!(max_tokens, 64, "a row is measured as far as the model reads");
        w.progress(rows.len() as u64, rows.len() as u64, "rows", &[]);
        let score = |r: &Row| {
            let n = r.response.len();
            RowScore { nll: self.nats * n as f64, tokens: n, bytes: n }
        };
        Ok(rows.iter().map(score).collect())
    }

    fn pooled(&self, _: &[String], _: &dyn Watch) -> Result<Vec<Vec<f32>>, LmError> {
        Err(LmError::Unsupported("not asked for".into()))
    }

    fn next(&self, _: &[String], _: usize, _: &dyn Watch) -> Result<Vec<NextToken>, LmError> {
        Err(LmError::Unsupported("not asked for".into()))
    }
}

fn evaluate(nats: f64, rows: &[(&str, &str)], answers: i64) -> (MemoryContext, Result<ArtifactRef, Failure>) {
    evaluate_in(MemoryContext::new(), nats, rows, answers)
}

fn evaluate_in(
    ctx: MemoryContext,
    nats: f64,
    rows: &[(&str, &str)],
    answers: i64,
) -> (MemoryContext, Result<ArtifactRef, Failure>) {
    let model = ctx.put(Output::new(Type::Model, json!({})));
    let data = ctx.dataset(rows);
    let given = [
        ("model", Value::Artifact(model)),
        ("data", Value::Artifact(data)),
        ("answers", Value::Int(answers)),
    ];
    let result = ctx.run(&Evaluate::new(Arc::new(Parrot { nats })), given);
    (ctx, result)
}

#[test]
fn likelihood_in_every_unit() {
    let rows = [("a", "four"), ("b", "sixsix"), ("bare prompt", "")];
    let (ctx, metrics) = evaluate(2f64.ln(), &rows, 0);
    let value = ctx.value_of(&metrics.expect("metrics"));
    let number = |key: &str| value[key].as_f64().expect(key);
    for (key, expected) in [
        ("loss", 2f64.ln()),
        ("loss_low", 2f64.ln()),
        ("loss_high", 2f64.ln()),
        ("perplexity", 2.0),
        ("bits_per_byte", 1.0),
        ("rows", 2.0),
        ("tokens", 10.0),
    ] {
        assert!((number(key) - expected).abs() < 1e-12, "{key}: {value}");
    }
    assert!(value.get("bleu").is_none(), "nothing was answered: {value}");
}

#[test]
fn answers_are_compared_and_kept() {
    let rows = [
        ("the cat sat on the mat", "the cat sat on the mat"),
        ("one two three four", "five six seven eight"),
        ("third", "third"),
    ];
    let (ctx, metrics) = evaluate(1.0, &rows, 2);
    let metrics = metrics.expect("metrics");
    let value = ctx.value_of(&metrics);
    assert!(value.as_object().expect("flat").values().all(serde_json::Value::is_number), "{value}");
    assert_eq!(value["answers"], 2);
    assert_eq!((&value["rouge1"], &value["rougeL"]), (&json!(0.5), &json!(0.5)));
    assert!(value["bleu"].as_f64().expect("a number") > 30.0, "{value}");
    assert_eq!(ctx.counter("forward_passes"), 2);
    let samples = ctx.read(&metrics, SAMPLES_FILE);
    let lines: Vec<serde_json::Value> =
        samples.lines().map(|l| serde_json::from_str(l).expect("JSON")).collect();
    assert_eq!(lines.len(), 2);
    assert_eq!(
        lines[1],
        json!({
            "prompt": "one two three four",
            "reference": "five six seven eight",
            "answer": "one two three four",
        })
    );
}

/// A row that comes twice is one; only a place that keeps rows to itself asks.
#[test]
fn different_rows_are_counted_where_they_are_private() {
    let rows = [("a", "x"), ("a", "x"), ("b", "y"), ("bare prompt", ""), ("a", "x")];
    for (ctx, scored, answered) in [(MemoryContext::new().with_private(), 2, 1), (MemoryContext::new(), 0, 0)]
    {
        let (ctx, metrics) = evaluate_in(ctx, 1.0, &rows, 2);
        assert_eq!(ctx.value_of(&metrics.expect("metrics"))["rows"], 4);
        assert_eq!((ctx.counter(SCORED_ROWS), ctx.counter(ANSWERED_ROWS)), (scored, answered));
    }
}

#[test]
fn data_that_cannot_be_measured_is_refused() {
    for (rows, said) in [(&[][..], "no row"), (&[("p", " ")][..], "none of the data's 1 rows")] {
        let failure = evaluate(1.0, rows, 0).1.expect_err("refused");
        assert_eq!(failure.class, FailureClass::Input);
        assert!(failure.message.contains(said), "{failure}");
    }
    let broken = evaluate(f64::NAN, &[("p", "r")], 0).1.expect_err("refused");
    assert!(broken.message.contains("NaN"), "{broken}");
}

fn accuracy(selections: &[(&str, serde_json::Value)]) -> Result<serde_json::Value, Failure> {
    let ctx = MemoryContext::new();
    let put = |(key, known): &(&str, serde_json::Value)| {
        let mut value = json!({ "is_mix": false, "confidence": 1.0 });
        known.as_object().expect("fields").iter().for_each(|(k, v)| value[k.as_str()] = v.clone());
        ((*key).to_owned(), Value::Artifact(ctx.put(Output::new(Type::Selection, value))))
    };
    let list = Value::List(selections.iter().map(put).collect());
    ctx.run(&Accuracy, [("selections", list)]).map(|m| ctx.value_of(&m))
}

#[test]
fn accuracy_in_all_and_by_group() {
    let picked = |name: &str, a: f64, b: f64, c: f64| json!({"pllm_name": name, "abstained": false, "distances": {"a": a, "b": b, "c": c}});
    let value = accuracy(&[
        ("a,0.3", picked("a", 1.0, 2.0, 3.0)),
        ("b,0.3", picked("a", 1.0, 2.0, 3.0)),
        ("c,0.3", picked("a", 1.0, 2.0, 3.0)),
        ("a, 0.9", picked("a", 1.0, 2.0, 3.0)),
        ("a,0.9", json!({"pllm_name": "a", "abstained": true})),
    ])
    .expect("metrics");
    assert!(value.as_object().expect("flat").values().all(serde_json::Value::is_number), "{value}");
    assert_eq!((&value["n"], &value["accuracy"], &value["abstained"]), (&json!(5), &json!(0.4), &json!(1)));
    assert_eq!(value["top2"], 0.75, "of the four with distances");
    assert_eq!(
        (&value["n/0.3"], &value["n/0.9"], &value["accuracy/0.9"]),
        (&json!(3), &json!(2), &json!(0.5))
    );
    assert!((value["accuracy/0.3"].as_f64().expect("a number") - 1.0 / 3.0).abs() < 1e-12);
    let (low, high) = (value["low"].as_f64().expect("low"), value["high"].as_f64().expect("high"));
    assert!((low - 0.1176).abs() < 1e-3 && (high - 0.7693).abs() < 1e-3, "({low}, {high})");
}

#[test]
fn what_selections_cost_is_averaged_and_starting_from_the_base_can_be_right() {
    let cost = |passes: u64| json!({"forward_passes": passes, "bytes": 2 * passes, "seconds": 0.5});
    let value = accuracy(&[
        ("a", json!({"pllm_name": "a", "abstained": false, "cost": cost(10)})),
        ("base", json!({"pllm_name": "base", "abstained": true, "cost": cost(30)})),
    ])
    .expect("metrics");
    assert_eq!((&value["accuracy"], &value["abstained"]), (&json!(1.0), &json!(1)));
    assert_eq!(
        (&value["forward_passes"], &value["bytes"], &value["seconds"]),
        (&json!(20.0), &json!(40.0), &json!(0.5))
    );
}

#[test]
fn no_selection_is_no_accuracy() {
    assert!(accuracy(&[]).expect_err("refused").message.contains("no selection"));
}
