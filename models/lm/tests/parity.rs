//! Numbers held against the reference libraries (transformers, PEFT) on small random
//! models.

#![allow(clippy::unwrap_used, reason = "clippy counts the helpers of a test as no test")]

mod fixtures;

use fixtures::{Case, cases};
use headstart_lm::{Adapter, Batch, Model, Net, Sampling, Unwatched, generate};

fn model(case: &Case) -> Model {
    Model::load(&case.folder.join("model")).unwrap()
}

fn batch(case: &Case) -> Batch {
    Batch::pack(case.rows("input_ids").iter().map(Vec::as_slice))
}

fn all_rows(batch: &Batch) -> Vec<usize> {
    (0..batch.tokens()).collect()
}

#[test]
fn parity_of_logits_and_hidden_states() {
    for case in cases() {
        let (model, batch) = (model(&case), batch(&case));
        let net = Net::new(&model);
        let normed = net.normed(&net.hidden(&batch, |_, _| {}), &all_rows(&batch));
        case.close("last_hidden", &normed, &case.floats("last_hidden"));
        case.close("logits", &net.logits(&normed), &case.floats("logits"));
        let adapter = Adapter::load(&case.folder.join("adapter"), &model.config).unwrap();
        let net = Net::adapted(&model, &adapter);
        let normed = net.normed(&net.hidden(&batch, |_, _| {}), &all_rows(&batch));
        case.close("adapter_logits", &net.logits(&normed), &case.floats("adapter_logits"));
    }
}

#[test]
fn parity_of_greedy_tokens() {
    for case in cases() {
        let model = model(&case);
        let net = Net::new(&model);
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
