//! Phones: real devices, and a pipeline that personalizes a model on one.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::{Place, device_binary, root};

/// A process that is ended with the test.
pub struct Running(pub Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A port on which nobody listens.
pub fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("bound").port()
}

/// A phone with this data and state of a place, joined to the engine at `url`.
pub fn phone(place: &Place, url: &str, data: &Path, args: &[&str]) -> Running {
    let child = Command::new(device_binary())
        .arg("--state")
        .arg(place.path("state"))
        .args(place.join("phone", url))
        .args(args)
        .arg("--data")
        .arg(data)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    Running(child.expect("the device starts"))
}

/// All of personalization, from pLLMs to one that was tuned on the phone. Nothing private is released.
const PIPELINE: &str = r#"
model base = local("BASE")
space style = pooled(base)
dataset questions = jsonl("probes.jsonl")
private dataset mine = jsonl("me.jsonl") on device("phone")

stage pllm: Pllm = ingest(base: base, source: a) for a in glob("CATALOG/*-concise-*")
stage plain: Responses = probe(base, prompts: questions)
stage said: Responses = probe(p, prompts: questions) for p in pllm
stage drift: Divergence = embed(r, against: plain, space: style) for r in said
stage catalog: Catalog = decompose(drift)

stage me: Divergence = embed(mine, against: base, space: style) { on: device("phone") }
stage pick: Selection = select(catalog, user: me, verify: mine) { on: device("phone") }
stage start: Pllm = merge(pick.mix) when pick.is_mix { on: device("phone") }
stage tuned: Pllm = finetune(start or pick.pllm, data: mine, max_steps: STEPS, eval_every: EVERY) { on: device("phone") }
stage after: Metrics = evaluate(tuned, data: mine, answers: 2) { on: device("phone") }

output catalog = catalog
"#;

/// The pipeline that personalizes, with this many steps of training, evaluated half-way; it asks the first `probes`
/// questions of the demonstration.
pub fn personalization(place: &Place, steps: usize, probes: usize) -> String {
    let examples = root().join("examples");
    let path = |name: &str| examples.join(name).display().to_string();
    let questions = std::fs::read_to_string(examples.join("first-light/probes.jsonl")).expect("readable");
    let questions: String = questions.lines().take(probes).map(|l| format!("{l}\n")).collect();
    place.write("probes.jsonl", &questions);
    let text = PIPELINE.replace("BASE", &path("models/tiny")).replace("CATALOG", &path("catalog"));
    text.replace("STEPS", &steps.to_string()).replace("EVERY", &(steps / 2).to_string())
}

/// The first rows of what the owner of the demonstration's phone wrote.
pub fn written(rows: usize) -> String {
    let at = root().join("examples/first-light/phone/me.jsonl");
    let text = std::fs::read_to_string(at).expect("readable");
    text.lines().take(rows).map(|l| format!("{l}\n")).collect()
}
