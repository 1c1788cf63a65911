//! A training that is killed resumes where it was, and ends with the same bytes.

#![allow(clippy::unwrap_used, reason = "clippy counts the helpers of a test as no test")]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use headstart_lm::{CpuBackend, LmError, LoraSpec, Unwatched, Watch, init_model};
use headstart_protocol::rows::Row;
use headstart_train::{CHECKPOINT_FILE, Method, Resume, TrainSpec, TrainingBackend};

fn rows(from: usize, n: usize) -> Vec<Row> {
    let words = ["red", "green", "blue", "small", "large", "round", "old"];
    let row = |i: usize| {
        let (a, b) = (words[i * 5 % 7], words[i * 3 % 7]);
        Row::new(format!("Say {a} and {b}."), format!("It is {b} and {a}, friend number {i}!"))
    };
    (from..from + n).map(row).collect()
}

fn make_base(dir: &Path) -> PathBuf {
    let config = dir.join("config.json");
    let json = serde_json::json!({"model_type": "llama", "hidden_size": 32, "intermediate_size": 64,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "rms_norm_eps": 1e-5,
        "max_position_embeddings": 64, "tie_word_embeddings": true});
    std::fs::write(&config, json.to_string()).unwrap();
    let corpus: Vec<String> = rows(0, 40).into_iter().flat_map(|r| [r.prompt, r.response]).collect();
    let base = dir.join("base");
    std::fs::create_dir(&base).unwrap();
    init_model(&config, &corpus, 300, 1, &headstart_disk::SystemDisk, &base).unwrap();
    base
}

fn lora() -> Method {
    let targets = ["q_proj", "k_proj", "down_proj"].map(String::from).to_vec();
    Method::Lora(LoraSpec { rank: 4, alpha: 8.0, rslora: true, targets })
}

/// A training with everything in it that has a state: dropout, several epochs, decay, clipping,
/// evaluations of which one is the best, patience.
fn spec(base: &Path, method: Method, out: PathBuf, resume: Option<PathBuf>) -> TrainSpec {
    TrainSpec {
        model: base.into(),
        adapter: None,
        dropout: if method == Method::Full { 0.0 } else { 0.2 },
        method,
        data: rows(0, 11),
        eval: rows(20, 4),
        until: None,
        patience: Some(30),
        learning_rate: 2e-2,
        weight_decay: Some(0.01),
        clip: Some(0.5),
        batch: 3,
        max_steps: 24,
        warmup: 4,
        cosine: true,
        eval_every: 5,
        max_tokens: 64,
        seed: 3,
        memory: None,
        resume: resume.map(|folder| Resume { folder, every: 0.0 }),
        out,
        disk: std::sync::Arc::new(headstart_disk::SystemDisk),
    }
}

fn bytes(out: &Path, method: &Method) -> Vec<u8> {
    let name = if *method == Method::Full { "model.safetensors" } else { "adapter_model.safetensors" };
    std::fs::read(out.join(name)).unwrap()
}

/// Waits at a step until it is killed.
struct Wait {
    at: u64,
    steps: AtomicU64,
    reached: PathBuf,
}

impl Watch for Wait {
    fn count(&self, counter: &'static str, n: u64) {
        if counter == "steps" && self.steps.fetch_add(n, Ordering::Relaxed) + n == self.at {
            std::fs::write(&self.reached, "").unwrap();
            std::thread::sleep(Duration::from_secs(600));
        }
    }
}

/// Not a test by itself: the process that the test below starts and kills.
#[test]
fn child() {
    let Some(dir) = std::env::var_os("TEST_RESUME").map(PathBuf::from) else { return };
    let method = if std::env::var_os("TEST_FULL").is_some() { Method::Full } else { lora() };
    let spec = spec(&dir.join("base"), method, dir.join("out"), Some(dir.join("resume")));
    let watch = Wait { at: 8, steps: AtomicU64::new(0), reached: dir.join("reached") };
    CpuBackend::new(1).train(&spec, &watch).unwrap();
}

struct Counted(Mutex<Vec<(&'static str, u64)>>);

impl Watch for Counted {
    fn count(&self, counter: &'static str, n: u64) {
        self.0.lock().unwrap().push((counter, n));
    }
}

/// kill -9 of the process in the middle of its eighth step, twice the same training in the end.
fn killed_and_resumed(method: Method) {
    let dir = tempfile::tempdir().unwrap();
    let base = make_base(dir.path());
    let backend = CpuBackend::new(2);
    let whole = spec(&base, method.clone(), dir.path().join("whole"), None);
    let expected = backend.train(&whole, &Unwatched).unwrap();

    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "child", "--nocapture"]).env("TEST_RESUME", dir.path());
    if method == Method::Full {
        command.env("TEST_FULL", "1");
    }
    let mut child = command.stdout(Stdio::null()).spawn().unwrap();
    let begun = Instant::now();
    while !dir.path().join("reached").exists() {
        assert!(
            begun.elapsed() < Duration::from_secs(120) && child.try_wait().unwrap().is_none(),
            "it never came"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(dir.path().join("resume").join(CHECKPOINT_FILE).exists() && !dir.path().join("out").exists());

    let resumed = spec(&base, method.clone(), dir.path().join("out"), Some(dir.path().join("resume")));
    let watch = Counted(Mutex::default());
    let report = backend.train(&resumed, &watch).unwrap();
    let counted =
        |what| watch.0.lock().unwrap().iter().filter(|(c, _)| *c == what).map(|(_, n)| n).sum::<u64>();
    // The checkpoint of the eighth step had not been made yet, and on a slow disk not every one is.
    let resumed_steps = counted("resumed_steps");
    assert!((1..=7).contains(&resumed_steps), "{resumed_steps}");
    assert_eq!(counted("steps"), 24 - resumed_steps);
    assert!(bytes(&resumed.out, &method) == bytes(&whole.out, &method), "the same bytes");
    assert_eq!(
        (report.steps, report.tokens, report.curve),
        (expected.steps, expected.tokens, expected.curve)
    );
    assert_eq!((report.loss, report.train_loss), (expected.loss, expected.train_loss));
}

#[test]
fn a_killed_adapter_training_ends_with_the_same_bytes() {
    killed_and_resumed(lora());
}

#[test]
fn a_killed_full_training_ends_with_the_same_bytes() {
    killed_and_resumed(Method::Full);
}

/// Stops at every step in turn, and resumes each time.
struct StopAfter(AtomicU64);

impl Watch for StopAfter {
    fn count(&self, counter: &'static str, _: u64) {
        if counter == "steps" {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
    fn cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed) >= 1
    }
}

#[test]
fn a_training_that_is_stopped_again_and_again_ends_with_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let base = make_base(dir.path());
    let backend = CpuBackend::new(1);
    let whole = spec(&base, lora(), dir.path().join("whole"), None);
    backend.train(&whole, &Unwatched).unwrap();
    // Checkpoints only where it is stopped.
    let mut piecewise = spec(&base, lora(), dir.path().join("out"), Some(dir.path().join("resume")));
    piecewise.resume.as_mut().unwrap().every = 1e9;
    let mut stops = 0;
    while let Err(e) = backend.train(&piecewise, &StopAfter(AtomicU64::new(0))) {
        assert!(matches!(e, LmError::Cancelled), "{e}");
        stops += 1;
        assert!(stops < 40, "it gets on");
    }
    assert!(stops >= 23, "{stops}");
    assert!(bytes(&piecewise.out, &lora()) == bytes(&whole.out, &lora()));
}

#[test]
fn the_progress_of_another_training_is_not_taken_up() {
    let dir = tempfile::tempdir().unwrap();
    let base = make_base(dir.path());
    let backend = CpuBackend::new(1);
    let folder = dir.path().join("resume");
    let first = spec(&base, lora(), dir.path().join("a"), Some(folder.clone()));
    assert!(backend.train(&first, &StopAfter(AtomicU64::new(0))).is_err());
    let mut other = spec(&base, lora(), dir.path().join("b"), Some(folder));
    other.seed = 4;
    let watch = Counted(Mutex::default());
    backend.train(&other, &watch).unwrap();
    assert!(watch.0.lock().unwrap().iter().all(|(what, _)| *what != "resumed_steps"));
    let mut fresh = spec(&base, lora(), dir.path().join("c"), None);
    fresh.seed = 4;
    backend.train(&fresh, &Unwatched).unwrap();
    assert!(bytes(&other.out, &lora()) == bytes(&fresh.out, &lora()));
}
