//! A phone whose owner is asked, and models for it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use headstart_device::{Approval, Contracts, State, history};
use headstart_disk::SystemDisk;
use headstart_protocol::contract::NOT_APPROVED;
use headstart_protocol::expr::Value;
use headstart_protocol::task::{Outcome, Task};
use headstart_protocol::{ArtifactRef, Digest, FailureClass, Output, Stage, Type};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::common::{Engine, Place, stages, task};
use crate::phone::DIARY;

const TEMPLATE: &str = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}";

/// A phone whose owner is asked, and an engine.
pub struct Owner {
    pub engine: Engine,
    pub place: Place,
    pub approval: Approval,
    pub pin_adapters: bool,
    fence: u64,
    /// How often a stage ran.
    ran: Arc<AtomicUsize>,
}

impl Owner {
    pub async fn new(approval: Approval) -> Self {
        let (engine, place) = (Engine::start().await, Place::new());
        place.write("me.jsonl", DIARY);
        Self { engine, place, approval, pin_adapters: false, fence: 0, ran: Arc::default() }
    }

    /// A model of these files, over honest ones.
    pub fn model(&self, files: &[(&str, &str)]) -> ArtifactRef {
        let tokenizer = json!({ "normalizer": null, "pre_tokenizer": { "type": "ByteLevel", "add_prefix_space": false,
            "trim_offsets": true, "use_regex": true }, "model": { "type": "BPE" } });
        let config = json!({ "chat_template": TEMPLATE });
        let (tokenizer, config) = (tokenizer.to_string(), config.to_string());
        let mut all: Vec<(&str, &str)> = vec![
            ("config.json", "{}"),
            ("model.safetensors", "weights"),
            ("tokenizer.json", &tokenizer),
            ("tokenizer_config.json", &config),
        ];
        for (name, content) in files {
            all.retain(|(known, _)| known != name);
            all.push((name, content));
        }
        let all: Vec<(&str, &[u8])> = all.into_iter().map(|(name, text)| (name, text.as_bytes())).collect();
        self.engine.publish(Type::Model, &all, json!({}))
    }

    pub fn adapter(&self, base: &ArtifactRef, files: &[(&str, &str)]) -> ArtifactRef {
        let files: Vec<(&str, &[u8])> = files.iter().map(|(name, text)| (*name, text.as_bytes())).collect();
        self.engine.publish_using(Type::Pllm, &files, json!({ "format": "lora" }), &[("base", base)])
    }

    pub fn task(&mut self, kind: &str, ty: Type, args: &[(&str, Value)]) -> Task {
        self.fence += 1;
        Task { private: true, ..task(self.fence, kind, ty, args) }
    }

    /// A training on the diary, which opens its model.
    pub fn tuned(&mut self, from: &ArtifactRef) -> Task {
        let path = Value::Path("me.jsonl".into());
        self.task("finetune", Type::Pllm, &[("from", Value::Artifact(from.clone())), ("data", path)])
    }

    pub async fn run(&self, t: Task) -> Outcome {
        self.run_with(t, self.stages()).await
    }

    pub async fn run_with(&self, t: Task, stages: Vec<Box<dyn Stage>>) -> Outcome {
        self.engine.offer(t);
        let mut options = self.place.options(&self.engine);
        (options.approval, options.pin_adapters) = (self.approval.clone(), self.pin_adapters);
        headstart_device::run(options, stages, CancellationToken::new()).await.expect("runs");
        self.engine.commits().pop().expect("a commit").outcome
    }

    /// A training that opens its model and its base, and counts that it ran.
    pub fn stages(&self) -> Vec<Box<dyn Stage>> {
        let ran = Arc::clone(&self.ran);
        let finetune = stages::fake("finetune", move |args, ctx| {
            ran.fetch_add(1, Ordering::SeqCst);
            let from = args.artifact("from")?;
            ctx.open(from)?;
            if let Some(base) = ctx.manifest(from)?.uses.get("base") {
                ctx.open(base)?;
            }
            Ok(Output::new(Type::Pllm, json!({ "format": "lora" })))
        });
        vec![finetune, stages::jsonl(), stages::evaluate(), stages::select()]
    }

    pub fn ran(&self) -> usize {
        self.ran.load(Ordering::SeqCst)
    }

    pub fn contracts(&self) -> Contracts {
        // Beside no live runner: a device that was run has stopped.
        Contracts::new(&State::open(&self.place.state(), Arc::new(SystemDisk)).expect("opens"))
    }

    pub fn pending(&self) -> Vec<headstart_device::Pending> {
        self.contracts().pending(&self.engine.key()).expect("reads")
    }

    /// Approves what waits, with what looks at content.
    pub fn approve(&self, conditional: BTreeSet<Digest>) {
        for p in self.pending() {
            let approved = self.contracts().approve(&self.engine.key(), &p.proposal, &p.models, &conditional);
            approved.expect("writes");
        }
    }

    pub fn told(&self) -> history::Entry {
        history::read(&self.place.state().join("history.jsonl")).expect("a history").pop().expect("an entry")
    }
}

/// That a task was refused for what was not approved, with the fixed sentence.
pub fn refused(outcome: &Outcome) -> bool {
    match outcome {
        Outcome::Failed { failure } => {
            failure.class == FailureClass::Denied && failure.message == NOT_APPROVED
        }
        _ => false,
    }
}

pub fn delivered(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Succeeded { .. })
}
