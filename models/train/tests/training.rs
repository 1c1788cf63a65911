//! Training and answering through [`Backend`], on a small model made here.

#![allow(clippy::unwrap_used, reason = "clippy counts the helpers of a test as no test")]

mod tiny_llama;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use headstart_lm::{Backend, CpuBackend, GenerateOptions, LmError, LoraSpec, Unwatched, Watch};
use headstart_protocol::expr::{CompareOp, Condition};
use headstart_protocol::rows::Row;
use headstart_train::{Method, TrainReport, TrainSpec, TrainingBackend};
use tiny_llama::lora;

/// How answers end.
const ENDS: [&str; 1] = [", friend!"];

fn rows(n: usize, from: usize) -> Vec<Row> {
    tiny_llama::rows(n, from, &ENDS)
}

struct Fixture {
    dir: tempfile::TempDir,
    backend: CpuBackend,
}

impl Fixture {
    fn new(threads: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        tiny_llama::base(dir.path(), &ENDS);
        Self { dir, backend: CpuBackend::new(threads) }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn spec(&self, method: Method, out: &str) -> TrainSpec {
        tiny_llama::spec(&self.path("base"), method, &ENDS, self.path(out))
    }

    fn train(&self, spec: &TrainSpec) -> TrainReport {
        self.backend.train(spec, &Unwatched).unwrap()
    }

    fn loss(&self, model: &Path, adapter: Option<&Path>, rows: &[Row]) -> f64 {
        let scores = self.backend.decoder(model, adapter).unwrap().score(rows, 64, &Unwatched).unwrap();
        let tokens: usize = scores.iter().map(|s| s.tokens).sum();
        scores.iter().map(|s| s.nll).sum::<f64>() / tokens as f64
    }
}

#[test]
fn an_adapter_is_trained_written_and_continued() {
    let f = Fixture::new(2);
    let spec = f.spec(lora(), "adapter");
    let report = f.train(&spec);
    assert!(report.loss < report.start_loss - 0.05, "{report:?}");
    assert_eq!((report.steps, report.reached), (12, true));
    assert_eq!(report.curve.iter().map(|(s, _)| *s).collect::<Vec<_>>(), [0, 4, 8, 12]);
    let written = f.loss(&spec.model, Some(&spec.out), &spec.eval);
    assert!((written - report.loss).abs() < 1e-5, "the files hold what was reported");
    // Continued from there, it starts where it ended.
    let mut more = f.spec(lora(), "more");
    more.adapter = Some(spec.out.clone());
    assert!((f.train(&more).start_loss - report.loss).abs() < 1e-5);
}

/// A row that comes twice says no more than once, and one that no step came to says nothing.
#[test]
fn different_rows_of_a_training_are_counted() {
    let f = Fixture::new(2);
    let mut spec = f.spec(lora(), "all");
    let twice = |rows: &[Row]| [rows, rows].concat();
    let (data, eval) = (spec.data.len(), spec.eval.len());
    (spec.data, spec.eval) = (twice(&spec.data), twice(&spec.eval));
    (spec.batch, spec.max_steps) = (spec.data.len(), 1);
    let report = f.train(&spec);
    assert_eq!((report.rows, report.eval_rows), (data, eval));
    (spec.batch, spec.max_steps, spec.out) = (1, 1, f.path("one"));
    assert_eq!(f.train(&spec).rows, 1);
}

#[test]
fn all_weights_are_trained_and_written_as_a_whole_model() {
    let f = Fixture::new(2);
    let mut spec = f.spec(Method::Full, "model");
    spec.until = Some(Condition { metric: "loss".into(), op: CompareOp::Lt, bound: 3.0 });
    spec.max_steps = 60;
    let report = f.train(&spec);
    assert!(report.reached && report.steps < 60 && report.loss < 3.0, "{report:?}");
    let written = f.loss(&spec.out, None, &spec.eval);
    assert!((written - report.loss).abs() < 0.02, "bf16 rounds: {written} and {}", report.loss);
    let decoder = f.backend.decoder(&spec.out, None).unwrap();
    assert_eq!(decoder.info().parameters, report.trainable);
    let config = std::fs::read_to_string(spec.out.join("config.json")).unwrap();
    assert!(config.contains("bfloat16") && spec.out.join("tokenizer.json").exists());
}

/// One thread and three: the same adapter, byte for byte. Another seed: another one.
#[test]
fn the_seed_alone_decides() {
    let bytes = |threads: usize, seed: u64| {
        let f = Fixture::new(threads);
        let mut spec = f.spec(lora(), "adapter");
        spec.seed = seed;
        f.train(&spec);
        std::fs::read(spec.out.join("adapter_model.safetensors")).unwrap()
    };
    let first = bytes(1, 5);
    assert!(first == bytes(3, 5) && first != bytes(1, 6));
}

/// A tighter memory limit cuts steps into micro-batches: the same training, to rounding.
#[test]
fn micro_batches_do_not_change_the_training() {
    let f = Fixture::new(2);
    let mut spec = f.spec(Method::Full, "a");
    let free = f.train(&spec);
    let least = |spec: &TrainSpec| match f.backend.train(spec, &Unwatched) {
        Err(LmError::Memory(why)) => {
            let words: Vec<&str> = why.split(' ').collect();
            let at = words.iter().position(|w| *w == "least").unwrap();
            words[at + 1].parse::<u64>().unwrap() << 20
        }
        other => panic!("expected a refusal, found {other:?}"),
    };
    spec.memory = Some(1 << 20);
    spec.out = f.path("b");
    spec.memory = Some(least(&spec));
    assert!(!spec.out.exists(), "a refusal writes nothing");
    let tight = f.train(&spec);
    assert!((free.loss - tight.loss).abs() < 1e-4, "{} and {}", free.loss, tight.loss);
}

struct StopAfter(u64, AtomicU64, AtomicBool);

impl Watch for StopAfter {
    fn count(&self, counter: &'static str, n: u64) {
        if counter == "steps" && self.1.fetch_add(n, Ordering::Relaxed) + n >= self.0 {
            self.2.store(true, Ordering::Relaxed);
        }
    }
    fn cancelled(&self) -> bool {
        self.2.load(Ordering::Relaxed)
    }
}

#[test]
fn a_stopped_training_leaves_nothing() {
    let f = Fixture::new(2);
    let spec = f.spec(lora(), "adapter");
    let watch = StopAfter(3, AtomicU64::new(0), AtomicBool::new(false));
    assert!(matches!(f.backend.train(&spec, &watch), Err(LmError::Cancelled)));
    let left: Vec<_> = std::fs::read_dir(f.dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left.len(), 2, "only the base and its configuration: {left:?}");
}

#[test]
fn the_best_checkpoint_is_kept() {
    let f = Fixture::new(2);
    let mut spec = f.spec(lora(), "adapter");
    (spec.learning_rate, spec.eval_every, spec.max_steps) = (0.3, 1, 2); // the second step goes too far
    let report = f.train(&spec);
    let best = report.curve.iter().map(|(_, l)| *l).fold(f64::INFINITY, f64::min);
    let last = report.curve.last().unwrap().1;
    assert!(last > best, "the rate is meant to overshoot: {:?}", report.curve);
    assert_eq!(report.loss, best);
    assert!((f.loss(&spec.model, Some(&spec.out), &spec.eval) - best).abs() < 1e-4);
}

/// Without anything left to learn, patience ends it: no evaluation is better than the best.
#[test]
fn patience_ends_a_training_on_a_plateau() {
    let f = Fixture::new(2);
    let mut spec = f.spec(lora(), "adapter");
    (spec.learning_rate, spec.eval_every, spec.max_steps, spec.patience) = (1e-20, 1, 50, Some(3));
    let report = f.train(&spec);
    let losses: Vec<f64> = report.curve.iter().map(|(_, l)| *l).collect();
    let best = losses.iter().position(|l| *l == report.loss).unwrap();
    assert_eq!((losses.len() - 1 - best, report.steps < 50), (3, true), "{losses:?}");
}

#[test]
fn clipping_dropout_and_decay_change_the_training_and_only_it() {
    let f = Fixture::new(2);
    let run = |name: &str, change: &dyn Fn(&mut TrainSpec)| {
        let mut spec = f.spec(lora(), name);
        change(&mut spec);
        let report = f.train(&spec);
        (report.start_loss, std::fs::read(spec.out.join("adapter_model.safetensors")).unwrap())
    };
    let (start, free) = run("free", &|s| s.clip = None);
    assert!(run("wide", &|s| s.clip = Some(1e9)).1 == free, "a bound that is never reached changes nothing");
    for (name, change) in [
        ("clip", &(|s: &mut TrainSpec| s.clip = Some(1e-3)) as &dyn Fn(&mut TrainSpec)),
        ("dropout", &|s| (s.clip, s.dropout) = (None, 0.2)),
        ("decay", &|s| (s.clip, s.weight_decay) = (None, Some(0.1))),
    ] {
        let (begins, other) = run(name, change);
        assert!(other != free, "{name}");
        assert_eq!(begins, start, "an evaluation knows no {name}");
    }
    let config = std::fs::read_to_string(f.path("dropout").join("adapter_config.json")).unwrap();
    assert!(config.contains("\"lora_dropout\": 0.2"), "{config}");
}

#[test]
fn dropout_depends_on_the_seed_alone() {
    let bytes = |threads: usize| {
        let f = Fixture::new(threads);
        let mut spec = f.spec(lora(), "adapter");
        spec.dropout = 0.3;
        f.train(&spec);
        std::fs::read(spec.out.join("adapter_model.safetensors")).unwrap()
    };
    assert!(bytes(1) == bytes(3));
}

#[test]
fn answers_do_not_depend_on_company() {
    let f = Fixture::new(2);
    let decoder = f.backend.decoder(&f.path("base"), None).unwrap();
    let prompts: Vec<String> = rows(7, 3).into_iter().map(|r| r.prompt).collect();
    for temperature in [0.0, 1.0] {
        let options = GenerateOptions { max_tokens: 12, temperature, seed: 3 };
        let together = decoder.generate(&prompts, &options, &Unwatched).unwrap();
        let first_two = decoder.generate(&prompts[..2], &options, &Unwatched).unwrap();
        assert_eq!(together[..2], first_two);
        assert_eq!(together, decoder.generate(&prompts, &options, &Unwatched).unwrap());
    }
}

#[test]
fn scores_and_states_do_not_depend_on_company() {
    let f = Fixture::new(2);
    let decoder = f.backend.decoder(&f.path("base"), None).unwrap();
    let rows = rows(9, 0);
    let all = decoder.score(&rows, 64, &Unwatched).unwrap();
    assert_eq!(all[4], decoder.score(&rows[4..5], 64, &Unwatched).unwrap()[0]);
    assert_eq!(all[0].bytes, rows[0].response.len());
    let cut = decoder.score(&rows[..1], all[0].tokens, &Unwatched).unwrap()[0];
    assert!(
        cut.tokens < all[0].tokens && cut.bytes < all[0].bytes,
        "a cut row counts its remaining tokens only"
    );
    let texts: Vec<String> = rows.iter().map(|r| r.response.clone()).collect();
    let pooled = decoder.pooled(&texts, &Unwatched).unwrap();
    assert_eq!(pooled[5], decoder.pooled(&texts[5..6], &Unwatched).unwrap()[0]);
    let next = decoder.next(&texts, 300, &Unwatched).unwrap();
    let sum: f32 = next[2].top.iter().map(|t| t.1).sum();
    assert!((sum - 1.0).abs() < 1e-4 && next[2].top.is_sorted_by(|a, b| a.1 >= b.1));
    assert_eq!(next[2].hidden.len(), 48);
}

#[test]
fn bad_input_is_named() {
    let f = Fixture::new(1);
    let message = |spec: &TrainSpec| f.backend.train(spec, &Unwatched).unwrap_err().to_string();
    let mut spec = f.spec(lora(), "adapter");
    spec.data.clear();
    assert!(message(&spec).contains("no rows"));
    let mut spec = f.spec(lora(), "adapter");
    spec.until = Some(Condition { metric: "accuracy".into(), op: CompareOp::Gt, bound: 0.5 });
    assert!(message(&spec).contains("accuracy"));
    let mut spec = f.spec(lora(), "adapter");
    spec.learning_rate = 1e9;
    spec.warmup = 0;
    assert!(message(&spec).contains("diverged"), "{}", message(&spec));
    // A scale of 0 lets no gradient through: the self-test before the first step says so.
    let dead = LoraSpec { rank: 4, alpha: 0.0, rslora: false, targets: vec!["v_proj".into()] };
    let why = message(&f.spec(Method::Lora(dead), "adapter"));
    assert!(why.contains("no gradient reaches") && why.contains("layers.0.self_attn.v_proj.lora_A"), "{why}");
    let mut spec = f.spec(lora(), "adapter");
    spec.dropout = 1.0;
    assert!(message(&spec).contains("dropout must be in [0, 1)"));
    let mut spec = f.spec(Method::Full, "model");
    spec.dropout = 0.1;
    assert!(message(&spec).contains("dropout is of an adapter"));
    let odd = LoraSpec { rank: 4, alpha: 8.0, rslora: false, targets: vec!["query".into()] };
    assert!(message(&f.spec(Method::Lora(odd), "adapter")).contains("query"));
    let weights = f.path("base").join("model.safetensors");
    let whole = std::fs::read(&weights).unwrap();
    std::fs::write(&weights, &whole[..whole.len() / 2]).unwrap();
    let e = f.backend.decoder(&f.path("base"), None).err().unwrap().to_string();
    assert!(e.contains("model.safetensors") && e.contains("cut short"), "{e}");
    std::fs::remove_file(&weights).unwrap();
    let e = f.backend.decoder(&f.path("base"), None).err().unwrap().to_string();
    assert!(e.contains("model.safetensors"), "{e}");
}
