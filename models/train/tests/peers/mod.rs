//! What every backend is held against: the numbers of the reference libraries and, for the others, the
//! CPU backend.

#![allow(clippy::unwrap_used, reason = "clippy counts the helpers of a test as no test")]

#[path = "../tiny_llama/mod.rs"]
mod tiny_llama;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use headstart_lm::{
    Adapter, Backend, CpuBackend, Example, GenerateOptions, Model, Passes, Sampling, Unwatched, pack,
};
use headstart_protocol::rows::Row;
use headstart_train::{
    AdamW, AdamWSpec, GradientBackend, Keep, MakeGradients, Pass, TrainSpec, TrainableParams, TrainingBackend,
};

use crate::fixtures::Case;

/// A row of which everything from `first` on is predicted.
#[expect(clippy::single_range_in_vec_init, reason = "one answer")]
pub fn example(ids: Vec<u32>, first: usize) -> Example {
    Example { answers: vec![first..ids.len()], ids, bytes: 0, cut: false }
}

/// Logits and hidden states of a case's model, without its adapter and with it.
pub fn parity_of_states(case: &Case, plain: &impl Passes, adapted: &impl Passes) {
    let rows = case.rows("input_ids");
    let rows: Vec<&[u32]> = rows.iter().map(Vec::as_slice).collect();
    let whole: Vec<_> = rows.iter().map(|r| 0..r.len()).collect();
    let states = plain.states(&rows, &whole).unwrap().concat();
    case.close("last_hidden", &states, &case.floats("last_hidden"));
    case.close("logits", &plain.logits(&states).unwrap(), &case.floats("logits"));
    let states = adapted.states(&rows, &whole).unwrap().concat();
    case.close("adapter_logits", &adapted.logits(&states).unwrap(), &case.floats("adapter_logits"));
}

/// Greedy tokens, alone and among others of like and of other lengths.
pub fn parity_of_greedy_tokens(case: &Case, passes: &impl Passes) {
    let expected = case.rows("greedy").remove(0);
    let prompt = case.rows("input_ids")[0][..5].to_vec();
    let sampling = Sampling { max_tokens: 12, temperature: 0.0, seed: 0, eos: &[] };
    let others = vec![vec![3; 6], prompt.clone(), vec![7, 8], vec![9; 5]];
    for prompts in [vec![prompt.clone()], others] {
        let answers = passes.generate(&prompts, &sampling, &Unwatched).unwrap();
        let at = prompts.iter().position(|p| *p == prompt).unwrap();
        assert_eq!([prompt.clone(), answers[at].clone()].concat(), expected, "{}", case.name);
    }
}

/// A case's model and adapter, and what computes the adapter's gradients.
fn start(case: &Case, make: MakeGradients) -> (TrainableParams, Box<dyn GradientBackend>) {
    let model = Arc::new(Model::load(&case.folder.join("model")).unwrap());
    let adapter = Adapter::load(&case.folder.join("adapter"), &model.config).unwrap();
    (TrainableParams::adapter(&adapter), make(&model, Some(&adapter)).unwrap())
}

/// Loss, every LoRA gradient and the trace of AdamW, of a case's adapter.
pub fn parity_of_training(case: &Case, make: MakeGradients, keep: Keep) {
    let (mut params, backend) = start(case, make);
    // labels = input_ids, the first 6 of each row ignored.
    let examples: Vec<Example> = case.rows("input_ids").into_iter().map(|ids| example(ids, 6)).collect();
    let (batch, targets) = pack(&examples);
    let n = targets.ids.len() as f32;
    let losses = backend.losses(&params.values, &batch, &targets).unwrap();
    case.close("loss", &[losses.iter().sum::<f32>() / n], &case.floats("loss"));
    let pass = |values: &[Vec<f32>]| {
        backend.gradients(values, &batch, &targets, &Pass::plain(1.0 / n, keep)).unwrap()
    };
    let (loss, grads) = pass(&params.values);
    case.close("loss", &[loss], &case.floats("loss"));
    for (param, grad) in params.params.iter().zip(&grads) {
        for (name, _, range) in param.tensors() {
            let name = format!("grad.{name}");
            case.close(&name, &grad[range], &case.floats(&name));
        }
    }
    let mut optimizer = AdamW::new(&params, AdamWSpec { decay: 0.01, clip: None, ..AdamWSpec::default() });
    let mut trace = Vec::new();
    for _ in 0..10 {
        let (loss, grads) = pass(&params.values);
        optimizer.step(&mut params.values, &grads, 1e-2).unwrap();
        trace.push(loss);
    }
    case.close("adamw_loss_trace", &trace, &case.floats("adamw_loss_trace"));
}

/// Rows of different lengths, which are padded, have the losses and gradients that they have alone.
pub fn padding_changes_nothing(case: &Case, make: MakeGradients) {
    let (params, backend) = start(case, make);
    let rows = case.rows("input_ids");
    let row = |i: usize, n: usize| example(rows[i][..n].to_vec(), n.min(2));
    let all = [row(0, 17), row(1, 15), row(0, 6), row(1, 13), row(0, 1)];
    let gradient = |examples: &[Example]| {
        let (batch, targets) = pack(examples);
        let pass = Pass::plain(1.0, Keep::Activations);
        let (_, grads) = backend.gradients(&params.values, &batch, &targets, &pass).unwrap();
        (backend.losses(&params.values, &batch, &targets).unwrap(), grads.concat())
    };
    let (losses, together) = gradient(&all);
    let alone: Vec<_> = all[..4].iter().map(|e| gradient(std::slice::from_ref(e))).collect();
    case.close("losses", &losses, &alone.iter().flat_map(|(l, _)| l.clone()).collect::<Vec<_>>());
    let sum: Vec<f32> = (0..together.len()).map(|i| alone.iter().map(|(_, g)| g[i]).sum()).collect();
    case.close("gradients", &together, &sum);
}

/// How answers end: with different lengths.
const ENDS: [&str; 3] = ["!", "! Truly, my friend.", "! It is so, and it was so before."];

/// Rows of different lengths whose answers can be learned.
pub fn rows(n: usize, from: usize) -> Vec<Row> {
    tiny_llama::rows(n, from, &ENDS)
}

/// A small new model.
pub fn base(dir: &Path) -> PathBuf {
    tiny_llama::base(dir, &ENDS)
}

/// A short fine-tune of an adapter.
pub fn spec(base: &Path, out: PathBuf) -> TrainSpec {
    tiny_llama::spec(base, tiny_llama::lora(), &ENDS, out)
}

pub fn close(what: &str, found: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let largest = expected.iter().fold(0f32, |m, v| m.max(v.abs()));
    let worst = found.iter().zip(expected).map(|(f, e)| (f - e).abs()).fold(0.0, f32::max);
    assert!(worst <= tolerance * largest, "{what}: {worst} of {largest}");
}

/// Scores, pooled states and next tokens are those of the CPU kernels.
pub fn scores_and_states_are_the_cpus(other: &dyn Backend) {
    let dir = tempfile::tempdir().unwrap();
    let base = base(dir.path());
    let cpu = CpuBackend::new(2).decoder(&base, None).unwrap();
    let other = other.decoder(&base, None).unwrap();
    assert_eq!(cpu.info(), other.info());
    let rows = rows(13, 0);
    let scores = [&cpu, &other].map(|d| d.score(&rows, 64, &Unwatched).unwrap());
    for (a, b) in scores[0].iter().zip(&scores[1]) {
        assert_eq!((a.tokens, a.bytes), (b.tokens, b.bytes));
        assert!((a.nll - b.nll).abs() < 1e-4 * a.nll, "{} and {}", a.nll, b.nll);
    }
    // The last one is longer than the context: read in windows.
    let mut texts: Vec<String> = rows.iter().map(|r| r.response.clone()).collect();
    texts.push(texts.concat());
    let pooled = [&cpu, &other].map(|d| d.pooled(&texts, &Unwatched).unwrap());
    for (i, (a, b)) in pooled[0].iter().zip(&pooled[1]).enumerate() {
        close(&format!("pooled {i}"), b, a, 1e-4);
    }
    let next = [&cpu, &other].map(|d| d.next(&texts[..5], 3, &Unwatched).unwrap());
    for (a, b) in next[0].iter().zip(&next[1]) {
        close("next", &b.hidden, &a.hidden, 1e-4);
        let [p, q] = [a, b].map(|n| n.top.iter().map(|t| t.1).collect::<Vec<_>>());
        close("probabilities", &q, &p, 1e-4);
    }
}

/// Greedy and drawn with the same seed: the answers of the CPU kernels, alone and among others.
pub fn answers_are_the_cpus_in_any_company(other: &dyn Backend) {
    let dir = tempfile::tempdir().unwrap();
    let base = base(dir.path());
    let cpu = CpuBackend::new(2).decoder(&base, None).unwrap();
    let other = other.decoder(&base, None).unwrap();
    let prompts: Vec<String> =
        rows(9, 3).into_iter().map(|r| r.prompt + &" so".repeat(r.response.len() % 5)).collect();
    for temperature in [0.0, 1.0] {
        let options = GenerateOptions { max_tokens: 14, temperature, seed: 3 };
        let expected = cpu.generate(&prompts, &options, &Unwatched).unwrap();
        assert_eq!(other.generate(&prompts, &options, &Unwatched).unwrap(), expected);
        assert_eq!(other.generate(&prompts[..2], &options, &Unwatched).unwrap(), expected[..2]);
    }
}

/// The tensors of a written adapter, by name.
pub fn adapter(folder: &Path) -> Vec<(String, Vec<f32>)> {
    let bytes = std::fs::read(folder.join("adapter_model.safetensors")).unwrap();
    let all = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let number = |b: &[u8]| f32::from_le_bytes(b.try_into().unwrap());
    let numbers = |data: &[u8]| data.chunks_exact(4).map(number).collect();
    let mut all: Vec<_> = all.iter().map(|(name, t)| (name.to_owned(), numbers(t.data()))).collect();
    all.sort_by(|a, b| a.0.cmp(&b.0));
    all
}

/// One fine-tune on each, of what `change` makes of [`spec`]: the same curve, and the same adapter to
/// rounding. Each backend's adapter has the same loss on the other.
pub fn a_fine_tune_ends_with_the_cpus_adapter(other: &dyn TrainingBackend, change: impl Fn(&mut TrainSpec)) {
    let dir = tempfile::tempdir().unwrap();
    let base = base(dir.path());
    let cpu = CpuBackend::new(2);
    let backends = [&cpu as &dyn TrainingBackend, other];
    let specs = ["cpu", "other"].map(|name| {
        let mut spec = spec(&base, dir.path().join(name));
        change(&mut spec);
        spec
    });
    let reports = [0, 1].map(|i| backends[i].train(&specs[i], &Unwatched).unwrap());
    assert!(reports[0].loss < reports[0].start_loss - 0.05, "it learns: {:?}", reports[0].curve);
    for (a, b) in reports[0].curve.iter().zip(&reports[1].curve) {
        assert!(a.0 == b.0 && (a.1 - b.1).abs() < 2e-4 * a.1, "{a:?} and {b:?}");
    }
    assert_eq!((reports[0].steps, reports[0].tokens), (reports[1].steps, reports[1].tokens));
    let adapters = specs.each_ref().map(|s| adapter(&s.out));
    for ((name, a), (other, b)) in adapters[0].iter().zip(&adapters[1]) {
        assert_eq!(name, other);
        close(name, b, a, 5e-3);
    }
    for spec in &specs {
        let [a, b] = backends.map(|backend| {
            let decoder = backend.decoder(&base, Some(&spec.out)).unwrap();
            let scores = decoder.score(&spec.eval, 64, &Unwatched).unwrap();
            let tokens: usize = scores.iter().map(|s| s.tokens).sum();
            scores.iter().map(|s| s.nll).sum::<f64>() / tokens as f64
        });
        assert!((a - reports[0].loss).abs() < 5e-4 && (a - b).abs() < 1e-4, "{a} and {b}");
    }
}
