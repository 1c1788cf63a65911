//! Numbers held against the reference libraries (transformers, PEFT, PyTorch) on small random
//! models.

#![allow(clippy::unwrap_used, reason = "clippy counts the helpers of a test as no test")]

mod fixtures;

use std::sync::Arc;

use fixtures::{Case, cases};
use headstart_lm::api::Unwatched;
use headstart_lm::block::Batch;
use headstart_lm::generate::{Sampling, generate};
use headstart_lm::lora::{Adapter, tensor_name};
use headstart_lm::model::Model;
use headstart_lm::net::{Net, Overlay};
use headstart_lm::ops::block::Keep;
use headstart_lm::ops::loss::Targets;
use headstart_lm::optim::{AdamW, AdamWSpec};

/// A case as this backend takes it.
trait Parts {
    fn model(&self) -> Arc<Model>;
    fn adapted(&self) -> (Net, Adapter);
    fn batch(&self) -> Arc<Batch>;
    fn targets(&self) -> Arc<Targets>;
}

impl Parts for Case {
    fn model(&self) -> Arc<Model> {
        Arc::new(Model::load(&self.folder.join("model")).unwrap())
    }

    fn adapted(&self) -> (Net, Adapter) {
        let model = self.model();
        let adapter = Adapter::load(&self.folder.join("adapter"), &model.config).unwrap();
        let overlay = adapter.overlay(&candle_core::Device::Cpu).unwrap();
        (Net::new(model, overlay), adapter)
    }

    fn batch(&self) -> Arc<Batch> {
        Arc::new(Batch::pack(self.rows("input_ids").iter().map(Vec::as_slice)))
    }

    /// labels = input_ids, the first 6 of each row ignored.
    fn targets(&self) -> Arc<Targets> {
        let batch = self.batch();
        let rows: Vec<usize> = batch.sequences.iter().flat_map(|s| s.start + 5..s.end - 1).collect();
        let ids = rows.iter().map(|r| batch.ids[r + 1]).collect();
        Arc::new(Targets { rows, ids })
    }
}

fn all_rows(batch: &Batch) -> Vec<usize> {
    (0..batch.tokens()).collect()
}

#[test]
fn parity_of_logits_and_hidden_states() {
    for case in cases() {
        let (net, batch) = (Net::new(case.model(), Overlay::None), case.batch());
        let normed = net.normed(&net.hidden(&batch, |_, _| {}).unwrap(), &all_rows(&batch)).unwrap();
        case.close("last_hidden", &normed, &case.floats("last_hidden"));
        case.close("logits", &net.logits(&normed).unwrap(), &case.floats("logits"));
        let (net, _) = case.adapted();
        let normed = net.normed(&net.hidden(&batch, |_, _| {}).unwrap(), &all_rows(&batch)).unwrap();
        case.close("adapter_logits", &net.logits(&normed).unwrap(), &case.floats("adapter_logits"));
    }
}

#[test]
fn parity_of_greedy_tokens() {
    for case in cases() {
        let net = Net::new(case.model(), Overlay::None);
        let expected = case.rows("greedy").remove(0);
        let prompt = case.rows("input_ids")[0][..5].to_vec();
        let sampling = Sampling { max_tokens: 12, temperature: 0.0, seed: 0, eos: &[] };
        // Once alone and once among others: the same tokens.
        let others = [vec![3; 9], prompt.clone(), vec![7, 8]];
        for prompts in [vec![prompt.clone()], others.to_vec()] {
            let answers = generate(&net, &prompts, &sampling, &Unwatched).unwrap();
            let at = prompts.iter().position(|p| *p == prompt).unwrap();
            assert_eq!([prompt.clone(), answers[at].clone()].concat(), expected, "{}", case.name);
        }
    }
}

#[test]
fn parity_of_loss_gradients_and_training() {
    for case in cases() {
        for keep in [Keep::Activations, Keep::Input] {
            let (net, _) = case.adapted();
            let (batch, targets) = (case.batch(), case.targets());
            let scale = 1.0 / targets.ids.len() as f32;
            let loss = net.loss(&batch, &targets, scale, keep).unwrap();
            case.close("loss", &[loss.to_scalar().unwrap()], &case.floats("loss"));
            let grads = loss.backward().unwrap();
            for (block, layout, var) in net.parameters() {
                let grad = grads.get(&var).expect("every adapter gets a gradient");
                let grad: Vec<f32> = grad.to_vec1().unwrap();
                for s in &layout.unwrap().segments {
                    let name = format!("grad.{}", tensor_name(block, s.slot));
                    case.close(&name, &grad[s.range.clone()], &case.floats(&name));
                }
            }
            let spec = AdamWSpec { decay: 0.01, clip: None, ..AdamWSpec::default() };
            let mut optimizer = AdamW::new(&net, spec);
            let trace: Vec<f32> = (0..10)
                .map(|_| {
                    let loss = net.loss(&batch, &targets, scale, keep).unwrap();
                    optimizer.step(&loss.backward().unwrap(), 1e-2).unwrap();
                    loss.to_scalar().unwrap()
                })
                .collect();
            case.close("adamw_loss_trace", &trace, &case.floats("adamw_loss_trace"));
        }
    }
}

/// The passes without a graph give the bits of those with one.
#[test]
fn gradients_without_a_graph_are_the_same() {
    let cpu = candle_core::Device::Cpu;
    for case in cases() {
        let (batch, targets, model) = (case.batch(), case.targets(), case.model());
        let adapter = Adapter::load(&case.folder.join("adapter"), &model.config).unwrap();
        let mut partial = adapter.clone();
        (partial.layouts[0], partial.values[0]) = Default::default();
        let overlays = [&adapter, &partial].map(|a| a.overlay(&cpu).unwrap()).into_iter();
        for overlay in overlays.chain([Net::full_overlay(&model, &cpu).unwrap()]) {
            let net = Net::new(model.clone(), overlay);
            for keep in [Keep::Activations, Keep::Input] {
                let loss = net.loss(&batch, &targets, 0.05, keep).unwrap();
                let (with, (value, without)) =
                    (loss.backward().unwrap(), net.gradients(&batch, &targets, 0.05, keep).unwrap());
                assert_eq!(value, loss.to_scalar::<f32>().unwrap());
                for (.., var) in net.parameters() {
                    let [a, b] = [&with, &without]
                        .map(|g| g.get(&var).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap());
                    assert_eq!(a, b, "{}", case.name);
                }
            }
        }
    }
}

/// The same bits on one thread and on several.
#[test]
fn threads_do_not_change_a_bit() {
    for case in cases() {
        let run = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let (net, _) = case.adapted();
                let mut optimizer = AdamW::new(&net, AdamWSpec::default());
                for _ in 0..3 {
                    let loss = net.loss(&case.batch(), &case.targets(), 0.05, Keep::Activations).unwrap();
                    optimizer.step(&loss.backward().unwrap(), 1e-2).unwrap();
                }
                net.parameters()[0].2.to_vec1::<f32>().unwrap()
            })
        };
        assert_eq!(run(1), run(3), "{}", case.name);
    }
}
