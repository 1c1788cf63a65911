//! The same numbers of the reference libraries that the backend on candle is held against
//! (plugins/lm/tests/parity.rs), through MLX.
#![cfg(feature = "mlx")]

#[path = "../../lm/tests/fixtures/mod.rs"]
mod fixtures;

use std::sync::Arc;

use fixtures::{Case, cases};
use headstart_lm::api::Unwatched;
use headstart_lm::decoder::Passes;
use headstart_lm::generate::Sampling;
use headstart_lm::lora::{Adapter, tensor_name};
use headstart_lm::model::Model;
use headstart_lm::net::Net;
use headstart_lm::ops::block::Keep;
use headstart_lm::optim::{AdamW, AdamWSpec};
use headstart_lm::rows::{Example, pack};
use headstart_mlx::MlxPasses;
use headstart_mlx::train::Trainer;

fn passes(case: &Case, adapted: bool) -> MlxPasses {
    let adapter = case.folder.join("adapter");
    MlxPasses::load(&case.folder.join("model"), adapted.then_some(adapter.as_path())).unwrap()
}

/// A row of which everything from `first` on is predicted.
#[expect(clippy::single_range_in_vec_init, reason = "one answer")]
fn example(ids: Vec<u32>, first: usize) -> Example {
    Example { answers: vec![first..ids.len()], ids, cut: false }
}

/// labels = input_ids, the first 6 of each row ignored.
fn examples(case: &Case) -> Vec<Example> {
    case.rows("input_ids").into_iter().map(|ids| example(ids, 6)).collect()
}

/// The adapter over a net whose losses and gradients MLX computes, as in a training.
fn net(case: &Case) -> Net {
    let model = Arc::new(Model::load(&case.folder.join("model")).unwrap());
    let adapter = Adapter::load(&case.folder.join("adapter"), &model.config).unwrap();
    let mut net = Net::new(model, adapter.overlay(&candle_core::Device::Cpu).unwrap());
    net.foreign = Some(Box::new(Trainer::new(&net.model, &adapter).unwrap()));
    net
}

#[test]
fn parity_of_logits_and_hidden_states() {
    for case in cases() {
        let rows = case.rows("input_ids");
        let rows: Vec<&[u32]> = rows.iter().map(Vec::as_slice).collect();
        let whole: Vec<_> = rows.iter().map(|r| 0..r.len()).collect();
        let passes = [passes(&case, false), passes(&case, true)];
        let [plain, adapted] = passes.each_ref().map(|p| p.states(&rows, &whole).unwrap().concat());
        case.close("last_hidden", &plain, &case.floats("last_hidden"));
        case.close("logits", &passes[0].logits(&plain).unwrap(), &case.floats("logits"));
        case.close("adapter_logits", &passes[1].logits(&adapted).unwrap(), &case.floats("adapter_logits"));
    }
}

#[test]
fn parity_of_greedy_tokens() {
    for case in cases() {
        let expected = case.rows("greedy").remove(0);
        let prompt = case.rows("input_ids")[0][..5].to_vec();
        let sampling = Sampling { max_tokens: 12, temperature: 0.0, seed: 0, eos: &[] };
        let passes = passes(&case, false);
        // Once alone, and once among others of like and of other lengths: the same tokens.
        let others = vec![vec![3; 6], prompt.clone(), vec![7, 8], vec![9; 5]];
        for prompts in [vec![prompt.clone()], others] {
            let answers = passes.generate(&prompts, &sampling, &Unwatched).unwrap();
            let at = prompts.iter().position(|p| *p == prompt).unwrap();
            assert_eq!([prompt.clone(), answers[at].clone()].concat(), expected, "{}", case.name);
        }
    }
}

#[test]
fn parity_of_loss_gradients_and_training() {
    for case in cases() {
        let (net, examples) = (net(&case), examples(&case));
        let (batch, targets) = pack(&examples);
        let n = targets.ids.len() as f32;
        let losses = net.losses(&batch, &targets).unwrap();
        case.close("loss", &[losses.iter().sum::<f32>() / n], &case.floats("loss"));
        let loss = || net.loss(&batch, &targets, 1.0 / n, Keep::Activations).unwrap();
        case.close("loss", &[loss().to_scalar().unwrap()], &case.floats("loss"));
        let grads = loss().backward().unwrap();
        for (block, layout, var) in net.parameters() {
            let grad: Vec<f32> = grads.get(&var).expect("every adapter gets a gradient").to_vec1().unwrap();
            for s in &layout.unwrap().segments {
                let name = format!("grad.{}", tensor_name(block, s.slot));
                case.close(&name, &grad[s.range.clone()], &case.floats(&name));
            }
        }
        let mut optimizer = AdamW::new(&net, AdamWSpec { decay: 0.01, clip: None, ..AdamWSpec::default() });
        let mut trace = Vec::new();
        for _ in 0..10 {
            let loss = loss();
            optimizer.step(&loss.backward().unwrap(), 1e-2).unwrap();
            trace.push(loss.to_scalar().unwrap());
        }
        case.close("adamw_loss_trace", &trace, &case.floats("adamw_loss_trace"));
    }
}

/// Rows of different lengths, which are padded, have the losses and gradients that they have alone.
#[test]
fn padding_changes_nothing() {
    for case in cases() {
        let (net, rows) = (net(&case), case.rows("input_ids"));
        let row = |i: usize, n: usize| example(rows[i][..n].to_vec(), n.min(2));
        let all = [row(0, 17), row(1, 15), row(0, 6), row(1, 13), row(0, 1)];
        let gradient = |examples: &[Example]| {
            let (batch, targets) = pack(examples);
            let grads = net.loss(&batch, &targets, 1.0, Keep::Activations).unwrap().backward().unwrap();
            let flat = net
                .parameters()
                .into_iter()
                .flat_map(|(.., v)| grads.get(&v).unwrap().to_vec1::<f32>().unwrap());
            (net.losses(&batch, &targets).unwrap(), flat.collect::<Vec<f32>>())
        };
        let (losses, together) = gradient(&all);
        let alone: Vec<_> = all[..4].iter().map(|e| gradient(std::slice::from_ref(e))).collect();
        case.close("losses", &losses, &alone.iter().flat_map(|(l, _)| l.clone()).collect::<Vec<_>>());
        let sum: Vec<f32> = (0..together.len()).map(|i| alone.iter().map(|(_, g)| g[i]).sum()).collect();
        case.close("gradients", &together, &sum);
    }
}
